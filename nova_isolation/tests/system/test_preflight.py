# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

import json
import uuid

import lablib

from nova_isolation.apparmor import needs
from nova_isolation.apparmor import rules
from nova_isolation.tests.system import base
from nova_isolation.tests.system import cloud
from nova_isolation.tests.system import test_modes

TEMPLATE = f'{cloud.PROFILES}/TEMPLATE.qemu'
AUDIT = '/sys/module/apparmor/parameters/audit'
LOCAL = '/etc/apparmor.d/local/abstractions'


def preflight(*arguments, status, user='root'):
    """Run ``nova-isolation preflight`` on the compute node.

    :param status: the expected exit status
    :returns: its rows
    """
    ended = lablib.guest(
        [
            *('setpriv', f'--reuid={user}', f'--regid={user}'),
            *('--init-groups', 'nova-isolation', *cloud.configuration()),
            *('preflight', '-f', 'json', *arguments),
        ],
        timeout=180,
    )
    assert ended.status == status, ended
    return json.loads(ended.stdout)


def of(rows, guest, *results):
    return [
        (row['What'], row['Detail'])
        for row in rows
        if row['Guest'] == guest and row['Result'] in results
    ]


BAD = ('warning', 'lost', 'refused', 'fault')


class PreflightTest(base.CloudTestCase):
    def test_before_it_is_switched_on(self):
        plain = self.boot('plain', config_drive=True, network=True)
        odd = self.boot('odd')
        self.addCleanup(
            test_modes.restart, f'rm -f {test_modes.CONFIGURATION}'
        )
        test_modes.restart(test_modes.configure('mode = off'))
        # everything that the stock profile allows is recorded: by its own
        # flag, for which the lab's audit mode has to be the normal one
        before = cloud.node(f'cat {AUDIT}').strip()
        cloud.node(f'printf normal > {AUDIT}')
        self.addCleanup(cloud.node, f'printf {before} > {AUDIT}')
        cloud.node(f"sed -i.bak 's/flags=(/flags=(audit, /' {TEMPLATE}")
        self.addCleanup(cloud.node, f'mv {TEMPLATE}.bak {TEMPLATE}')
        for guest in (plain, odd):
            cloud.act(guest, {'reboot': {'type': 'HARD'}}, 'ACTIVE')
        self.assertIn('abstractions/libvirt-qemu', cloud.profile(plain))

        log = ('--audit-log', '/share/log/audit.log')
        rows = preflight(*log, '--profiles', '/run/profiles', status=0)
        self.assertEqual([], [r for r in rows if r['Result'] in BAD])
        self.assertEqual([], of(rows, 'host', 'unchecked'))
        self.assertIn(
            'privileged helper',
            dict(of(rows, 'host', 'ok'))['the hooks apparmor'],
        )
        ((_, starts),) = of(rows, plain, 'ok')
        self.assertIn('by libvirt', starts)
        # of all that was recorded it would be denied this, on purpose
        denied = [d for w, d in of(rows, plain, 'note') if '/status: r' in w]
        self.assertIn('quietly denied', ''.join(denied))

        # what a stock guest may and one of ours may not
        cloud.node(
            'mkdir -p /etc/pki/CA && echo > /etc/pki/CA/open && '
            'echo > /etc/pki/CA/gone'
        )
        for name in ('open', 'gone'):
            answer = cloud.qmp(
                plain,
                'blockdev-add',
                **{
                    'driver': 'file',
                    'read-only': True,
                    'node-name': name,
                    'filename': f'/etc/pki/CA/{name}',
                },
            )
            self.assertIn('"return"', answer)
        cloud.qmp(plain, 'blockdev-del', **{'node-name': 'gone'})
        # a device that is refused, and one that is another guest's
        disk = f'{cloud.INSTANCES}/{plain}/disk'
        link = f'{cloud.INSTANCES}/{odd}/disk.linked'
        cloud.node(f'ln {disk} {link}')
        theirs = (
            f'<disk type="file"><driver type="raw"/><source file="{link}"/>'
            '<target dev="vdz" bus="virtio"/></disk>'
        )
        cloud.node(
            f'virsh dumpxml --inactive {odd} | '
            "sed 's,<target dev=.vda,<transient/>&,; "
            f"s,</devices>,{theirs}&,' > /run/odd.xml && "
            'virsh define /run/odd.xml'
        )
        rules = f'{LOCAL}/libvirt-qemu'
        cloud.node(f'mkdir -p {LOCAL}; echo "/srv/own/** rw," > {rules}')
        self.addCleanup(cloud.node, f'rm -f {rules}')
        stale = f'{cloud.PROFILES}/libvirt-{uuid.uuid4()}'
        cloud.node(f'cp {TEMPLATE}.bak {stale}')
        self.addCleanup(cloud.node, f'rm -f {stale}')

        lost = dict(of(preflight(status=1), plain, 'lost'))
        self.assertEqual(['file /etc/pki/CA/open: r'], list(lost))
        self.assertIn('open now', lost['file /etc/pki/CA/open: r'])
        rows = preflight(*log, status=1)
        lost = dict(of(rows, plain, 'lost'))
        self.assertEqual(
            ['file /etc/pki/CA/gone: r', 'file /etc/pki/CA/open: r'],
            list(lost),
        )
        self.assertIn('recorded', lost['file /etc/pki/CA/gone: r'])
        refused = dict(of(rows, odd, 'refused'))
        self.assertIn('<disk> vda with transient', refused['its next start'])
        for word in (disk, plain):
            self.assertIn(word, refused['not its own'])
        warned = dict(of(rows, 'host', 'warning', 'note'))
        self.assertIn('/srv/own/** rw', warned[rules])
        self.assertIn('stale, by libvirt', warned[stale])

        # as nova-compute's user: not root's knowledge, and the real sudo
        rows = preflight(status=1, user='nova')
        self.assertIn('the hooks apparmor', dict(of(rows, 'host', 'ok')))
        self.assertTrue(of(rows, plain, 'unchecked'))
        cloud.node('mv /etc/sudoers.d/lab-nova /root/')
        self.addCleanup(
            lablib.guest, 'mv /root/lab-nova /etc/sudoers.d/ 2>/dev/null'
        )
        rows = preflight(status=2)
        ((_, fault),) = of(rows, 'host', 'fault')
        self.assertIn('the privileged helper', fault)
        cloud.node('mv /root/lab-nova /etc/sudoers.d/')

        # what was announced is what it gets
        would = cloud.node(f'cat /run/profiles/libvirt-{plain}')
        test_modes.restart(f'rm {test_modes.CONFIGURATION} {link}')
        cloud.act(plain, {'reboot': {'type': 'HARD'}}, 'ACTIVE')
        self.assert_confined(plain)
        self.assertEqual(
            self.lasting(would), self.lasting(cloud.profile(plain))
        )

    @staticmethod
    def lasting(profile):
        """The lines that do not depend on the domain's id or terminal, and
        are neither for the start alone nor for who runs.
        """
        either = [*needs.start(), *needs.modules()]
        passing = {rule.render(rules.Dialect()) for rule in either}
        passing |= {f'# {rule.origin}' for rule in either}
        known = ('abi ', '/domain-', '/dev/pts/', '# the key with')
        return [
            line
            for line in profile.replace('" rmix,', '" rm,').splitlines()
            if line.strip() not in passing
            and not any(words in line for words in known)
        ]
