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

"""A guest that cannot be confined does not run, and the operator reads why.

Needs the test hooks: ``--plugin nova_isolation/tests/plugin`` and
``[isolation] hooks = fault,apparmor,late_fault``.
"""

import time
from typing import Any

import lablib

from nova_isolation.tests.system import base
from nova_isolation.tests.system import cloud


class FaultOfOneGuestTest(base.CloudTestCase):
    """Faults that a hook injects by the server's name."""

    def refused(self, name, cause):
        with cloud.Consumer() as consumer:
            uuid = cloud.boot(name, status='ERROR')['id']
            self.addCleanup(cloud.delete, uuid)
            message = lablib.server(uuid)['fault']['message']
            self.assertIn('aborted', message)
            self.assertIn(cause, message)
            self.assert_no_process(uuid)
            self.assert_nothing_left(uuid)
            event = consumer.wait_for(
                f'isolation.refused of {name}',
                lambda e: (
                    e['event_type'] == 'isolation.refused'
                    and e['instance']['uuid'] == uuid
                ),
            )
        self.assertIn(cause, event['reason'])
        self.assertEqual('spawn', event['operation'])
        self.assertEqual(name, event['instance']['name'])

    def test_a_process_in_complain_mode(self):
        self.refused('fault-complain', '(complain)')

    def test_an_unconfined_process(self):
        self.refused('fault-unconfined', "'unconfined'")

    def test_another_policy_under_the_right_name_label_and_mode(self):
        self.refused('fault-stock', 'the kernel holds another policy')

    def test_a_profile_that_does_not_compile(self):
        self.refused('fault-broken', 'AppArmor profile')

    def test_a_guest_without_a_fault_starts(self):
        self.assert_confined(self.boot('faultless'))


class FaultAtAnotherStartTest(base.PairTestCase):
    """A guest that ran before, and whose next start is refused."""

    def disk(self, uuid):
        path = f'{cloud.INSTANCES}/{uuid}/disk'
        return cloud.node(f'stat -c %a {path}; sha256sum {path}')

    def break_next_start(self, uuid):
        """Let the hook of these runs do its worst at a guest's next start."""
        path = f'/run/fault-later-{uuid}'

        def mend():
            cloud.node(f'rm -f {path}')

        cloud.node(f'touch {path}')
        self.addCleanup(mend)
        return mend

    def test_a_foreign_profile_is_refused_by_name_and_kept(self):
        uuid = self.first
        cloud.act(uuid, 'os-stop', 'SHUTOFF')
        path = f'{cloud.PROFILES}/libvirt-{uuid}'
        cloud.node(f'echo "# by hand" > {path}')
        disk = self.disk(uuid)
        lablib.call('POST', f'/servers/{uuid}/action', {'os-start': None})
        self.assertIn(path, cloud.failure(uuid, 'start'))
        self.assert_no_process(uuid)
        self.assertEqual('# by hand\n', cloud.node(f'cat {path}'))
        self.assertEqual(disk, self.disk(uuid))
        cloud.node(f'rm {path}')
        cloud.act(uuid, 'os-start', 'ACTIVE')
        self.assert_confined(uuid)

    def test_a_refused_resume_keeps_the_memory(self):
        uuid = self.first
        cloud.act(uuid, 'suspend', 'SUSPENDED')
        name = cloud.node(f'virsh -q domname {uuid}').strip()
        saved = f'/var/lib/libvirt/qemu/save/{name}.save'
        path = f'{cloud.PROFILES}/libvirt-{uuid}'
        cloud.node(f'echo "# by hand" > {path}')
        before = cloud.node(f'sha256sum {saved}')
        lablib.call('POST', f'/servers/{uuid}/action', {'resume': None})
        self.assertIn(path, cloud.failure(uuid, 'resume'))
        cloud.settle(uuid, 'SUSPENDED')
        self.assertEqual(before, cloud.node(f'sha256sum {saved}'))
        self.assert_no_process(uuid)
        cloud.node(f'rm {path}')
        cloud.act(uuid, 'resume', 'ACTIVE')
        self.assert_confined(uuid)

    def test_a_resume_refused_after_the_restore_saves_the_memory_again(self):
        uuid = self.first
        # what a start anew would not know: a byte in a port's scratch register
        cloud.monitor(uuid, 'o /1 0x3ff 0x5a')
        cloud.act(uuid, 'suspend', 'SUSPENDED')
        mend = self.break_next_start(uuid)
        lablib.call('POST', f'/servers/{uuid}/action', {'resume': None})
        self.assertIn('(complain)', cloud.failure(uuid, 'resume'))
        cloud.settle(uuid, 'SUSPENDED')
        self.assert_no_process(uuid)
        self.assertIn(
            'yes', cloud.node(f'virsh -q dominfo {uuid} | grep -i managed')
        )
        mend()
        cloud.act(uuid, 'resume', 'ACTIVE')
        self.assert_confined(uuid)
        self.assertRegex(cloud.monitor(uuid, 'i /1 0x3ff'), '= 0x(ff)*5a')

    def test_a_paused_guest_that_lost_its_profile_stays_paused(self):
        uuid = self.second
        cloud.act(uuid, 'pause', 'PAUSED')
        cloud.node(
            f'printf libvirt-{uuid} > /sys/kernel/security/apparmor/.remove'
        )
        lablib.call('POST', f'/servers/{uuid}/action', {'unpause': None})
        self.assertIn("'unconfined'", cloud.failure(uuid, 'unpause'))
        self.assertIn('paused', cloud.node(f'virsh -q domstate {uuid}'))

    def test_a_refused_hard_reboot_and_rescue_keep_the_disk(self):
        uuid = self.second
        mend = self.break_next_start(uuid)
        disk = self.disk(uuid)
        bodies: tuple[dict[str, Any], ...] = (
            {'reboot': {'type': 'HARD'}},
            {'rescue': {}},
        )
        for body in bodies:
            lablib.call('POST', f'/servers/{uuid}/action', body)
            server = cloud.settle(uuid, 'ERROR')
            self.assertIn('complain', server['fault']['message'])
            self.assert_no_process(uuid)
            self.assertEqual(disk, self.disk(uuid))
            self.assertNotIn(
                'rescue', cloud.node(f'ls {cloud.INSTANCES}/{uuid}')
            )
            self.assertNotIn(
                f'libvirt-{uuid}', cloud.node(f'ls {cloud.PROFILES}')
            )
            reset = {'os-resetState': {'state': 'active'}}
            lablib.call('POST', f'/servers/{uuid}/action', reset)
        mend()
        cloud.act(uuid, {'reboot': {'type': 'HARD'}}, 'ACTIVE')
        self.assert_confined(uuid)


class HostileHeaderTest(base.PairTestCase):
    """A captured QEMU rewrites the header of its own overlay."""

    statuses = ('SHUTOFF', 'SHUTOFF')

    def setUp(self):
        super().setUp()
        self.guilty, self.victim = self.first, self.second
        self.disk = f'{cloud.INSTANCES}/{self.guilty}/disk'
        self.own = cloud.node(
            f'qemu-img info -U --output json {self.disk} | '
            'python3 -c "import json, sys; '
            "print(json.load(sys.stdin)['full-backing-filename'])\""
        ).strip()
        # what the header holds, as libvirt and Nova left it
        copy = f'/run/header-{self.guilty}'
        cloud.node(f'dd if={self.disk} of={copy} bs=64k count=1')
        self.addCleanup(
            cloud.node, f'dd if={copy} of={self.disk} conv=notrunc'
        )

    def name(self, target):
        """Let the header name another backing file."""
        cloud.node(f'qemu-img rebase -u -F raw -b {target} {self.disk}')

    def state_of(self, path):
        return cloud.node(f'stat -c "%u %g %a" {path}; sha256sum {path}')

    def assert_refused(self, cause):
        with cloud.Consumer() as consumer:
            lablib.call(
                'POST', f'/servers/{self.guilty}/action', {'os-start': None}
            )
            self.assertIn(cause, cloud.failure(self.guilty, 'start'))
            # it may have been refused before, for another cause
            event = consumer.wait_for(
                'isolation.refused',
                lambda e: (
                    e['event_type'] == 'isolation.refused'
                    and e['instance']['uuid'] == self.guilty
                    and cause in e['reason']
                ),
            )
        self.assertTrue(event['attack'])
        self.assert_no_process(self.guilty)
        cloud.settle(self.guilty, 'SHUTOFF')

    def test_a_neighbours_disk_is_not_opened(self):
        target = f'{cloud.INSTANCES}/{self.victim}/disk'
        before = self.state_of(target)
        self.name(target)
        self.assert_refused(target)
        self.assertEqual(before, self.state_of(target))
        # with the header as it was the server starts again
        self.name(self.own)
        cloud.act(self.guilty, 'os-start', 'ACTIVE')
        self.assert_confined(self.guilty)
        cloud.act(self.guilty, 'os-stop', 'SHUTOFF')

    def test_another_image_of_the_cache_is_not_opened(self):
        target = f'{cloud.INSTANCES}/_base/{"5" * 40}'
        cloud.node(f'echo secret > {target}; chmod 644 {target}')
        self.addCleanup(cloud.node, f'rm {target}')
        before = self.state_of(target)
        self.name(target)
        self.assert_refused(target)
        self.assertEqual(before, self.state_of(target))

    def test_no_image_is_made_for_another_one(self):
        # what is missing Nova fetches or creates, under the name that the
        # header gives it: this guest's image would be another one's
        for target in (
            f'{cloud.INSTANCES}/{self.guilty}/{"5" * 40}',
            f'{cloud.INSTANCES}/_base/{"5" * 40}',
            f'{cloud.INSTANCES}/_base/ephemeral_9_default',
        ):
            before = cloud.node(f'ls -A {cloud.INSTANCES}/_base')
            self.name(target)
            self.assert_refused(target)
            after = cloud.node(f'ls -A {cloud.INSTANCES}/_base')
            self.assertEqual(before, after)

    def test_a_lie_about_the_format(self):
        # by which a raw image's content would become a header
        cloud.node(f'qemu-img rebase -u -F qcow2 -b {self.own} {self.disk}')
        self.assert_refused(f'{self.own} (qcow2)')

    def test_an_external_data_file_is_not_opened(self):
        # the bit of the incompatible features that announces one
        cloud.node(
            f"printf '\\004' | dd of={self.disk} bs=1 seek=79 conv=notrunc"
        )
        self.assert_refused('external data file')

    def test_libvirt_opens_the_chain_of_the_domain_also_without_us(self):
        target = f'{cloud.INSTANCES}/{self.victim}/disk'
        before = cloud.node(f'stat -c "%u %g %a" {target}')
        self.name(target)
        # its profile names the id and the terminal of the start before, and
        # nothing that only a start needs
        cloud.node(
            "sed -i 's,/domain-[0-9]*-,/domain-*-,; s,/pts/[0-9]*,/pts/*,; "
            's,x86_64" rm,x86_64" rmix,; '
            's|^}$|capability setuid,\\ncapability setgid,\\n'
            "/var/lib/libvirt/qemu/domain-*/master-key.aes r,\\n}|' "
            f'{cloud.PROFILES}/libvirt-{self.guilty} && '
            f'virsh start {self.guilty}'
        )
        self.addCleanup(cloud.node, f'virsh destroy {self.guilty}')
        xml = cloud.domain_xml(self.guilty)
        self.assertIn(f"<source file='{self.own}'", xml)
        self.assertNotIn(target, xml)
        self.assertEqual(before, cloud.node(f'stat -c "%u %g %a" {target}'))


class SeparationTest(base.PairTestCase):
    """Nothing of one guest is another's, by any name and any profile."""

    def refused(self, uuid, other, *words):
        with cloud.Consumer() as consumer:
            lablib.call('POST', f'/servers/{uuid}/action', {'os-start': None})
            told = cloud.failure(uuid, 'start')
            event = consumer.wait_for(
                'the refusal that the fault names', lambda e: e['id'] in told
            )
        self.assertNotIn(other, told)
        for word in (uuid, other, *words):
            self.assertIn(word, event['reason'])
        self.assert_no_process(uuid)
        cloud.settle(uuid, 'SHUTOFF')

    def test_a_hard_link_to_a_neighbours_disk(self):
        guilty, victim = self.first, self.second
        disk = f'{cloud.INSTANCES}/{guilty}/disk'
        target = f'{cloud.INSTANCES}/{victim}/disk'
        cloud.act(guilty, 'os-stop', 'SHUTOFF')
        cloud.node(f'mv {disk} {disk}.own && ln {target} {disk}')
        before = cloud.node(f'stat -c "%u %g %a" {target}')
        self.refused(guilty, victim, disk, target)
        self.assertEqual(before, cloud.node(f'stat -c "%u %g %a" {target}'))
        # of a victim that is off as well
        cloud.act(victim, 'os-stop', 'SHUTOFF')
        self.refused(guilty, victim, disk, target)
        cloud.node(f'mv {disk}.own {disk}')
        cloud.act(guilty, 'os-start', 'ACTIVE')
        self.assert_confined(guilty)

    def test_a_neighbours_disk_that_is_mounted_over_its_own(self):
        guilty, victim = self.first, self.second
        disk = f'{cloud.INSTANCES}/{guilty}/disk'
        target = f'{cloud.INSTANCES}/{victim}/disk'
        cloud.act(guilty, 'os-stop', 'SHUTOFF')
        before = cloud.node(f'stat -c "%u %g %a" {target}')
        # where nova-compute sees it, too
        cloud.node(f'mount --bind {target} {disk}')
        try:
            self.refused(guilty, victim, disk, target)
        finally:
            cloud.node(f'umount {disk}')
        self.assertEqual(before, cloud.node(f'stat -c "%u %g %a" {target}'))

    def test_a_neighbour_whose_profile_reaches_this_guest(self):
        neighbour, guest = self.first, self.second
        cloud.act(guest, 'os-stop', 'SHUTOFF')
        cloud.act(neighbour, 'pause', 'PAUSED')
        self.addCleanup(cloud.act, neighbour, 'unpause', 'ACTIVE')
        # not by its file, which is as it was: in the kernel alone
        cloud.widen(neighbour, f'{cloud.INSTANCES}/*/disk rw,')
        self.refused(
            guest,
            neighbour,
            f'guest {neighbour}',
            f'{cloud.INSTANCES}/{guest}/disk',
            f'guest {guest}',
        )
        cloud.reload(neighbour)
        cloud.act(guest, 'os-start', 'ACTIVE')
        self.assert_confined(guest)


class FaultOfTheHostTest(base.CloudTestCase):
    """The compute service is disabled with the reason, and comes back."""

    def service(self):
        code, answer = lablib.call('GET', '/os-services?binary=nova-compute')
        self.assertEqual(200, code, answer)
        return answer['services'][0]

    def wait_until_enabled(self):
        """Wait until the periodic task has left the service enabled."""
        since = []

        def steadily():
            if self.service()['status'] != 'enabled':
                since.clear()
                return False
            since.append(time.monotonic())
            # longer than [DEFAULT] update_resources_interval of these runs
            return since[-1] - since[0] > 5

        lablib.wait_for('enabled again', steadily, 90, 0.5)

    def refused_late(self):
        """Let a spawn arrive although the service is disabled."""
        service = self.service()['id']
        for _ in range(5):
            # The scheduler is asked to look away, until the periodic task
            # disables the service again.
            enabled = {'status': 'enabled'}
            lablib.call('PUT', f'/os-services/{service}', enabled)
            uuid = cloud.boot('late', status='ERROR')['id']
            self.addCleanup(cloud.delete, uuid)
            message = lablib.server(uuid)['fault']['message']
            if 'No valid host' not in message:
                return uuid
        self.fail(message)

    def broken_and_mended(self, cause, break_it, mend_it):
        mended: list[Any] = []

        def mend():
            if not mended:
                mended.append(lablib.guest(mend_it, check=True))

        self.addCleanup(mend)
        lablib.guest(break_it, check=True)
        reason = lablib.wait_for(
            f'disabled because of {cause}',
            lambda: (
                (s := self.service())['status'] == 'disabled'
                and cause in (s['disabled_reason'] or '')
                and s['disabled_reason']
            ),
            90,
        )
        self.assertTrue(reason.startswith('AUTO: isolation: '), reason)
        uuid = self.refused_late()
        self.assertIn(cause, lablib.server(uuid)['fault']['message'])
        self.assert_no_process(uuid)
        self.assert_nothing_left(uuid)
        mend()
        self.wait_until_enabled()
        self.assert_confined(self.boot('after'))

    def test_libvirtd_without_its_apparmor_driver(self):
        conf = '/etc/libvirt/qemu.conf'
        self.broken_and_mended(
            'libvirtd runs without its AppArmor driver',
            f"sed -i 's/^security_driver.*/security_driver = \"none\"/' {conf}"
            ' && lab-service restart libvirtd',
            f"sed -i 's/^security_driver.*/security_driver = \"apparmor\"/' "
            f'{conf} && lab-service restart libvirtd',
        )

    def test_no_parser(self):
        parser = '/usr/sbin/apparmor_parser'
        self.broken_and_mended(
            'the AppArmor parser cannot be used',
            f'mv {parser} {parser}.away',
            f'mv {parser}.away {parser}',
        )

    def test_a_parser_that_does_not_work(self):
        parser = '/usr/sbin/apparmor_parser'
        self.broken_and_mended(
            'compiles no profile',
            f'mv {parser} {parser}.away && cp /bin/false {parser}',
            f'mv {parser}.away {parser}',
        )

    def test_no_privileged_helper(self):
        self.broken_and_mended(
            'the privileged helper',
            'mv /etc/sudoers.d/lab-nova /root/; '
            'pkill -f "[n]ova_isolation.privileged" || true',
            'mv /root/lab-nova /etc/sudoers.d/',
        )
