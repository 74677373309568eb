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

"""What ``[isolation] mode`` does to guests, and what a wrong value does."""

import lablib

from nova_isolation.tests.system import base
from nova_isolation.tests.system import cloud

# Read after every other file of the lab's.
CONFIGURATION = '/lab/conf/99-mode.conf'
_LOG = '/share/log/nova-compute.log'


def _listening() -> int:
    """Count how often nova-compute has begun to hear the API."""
    return int(cloud.node(f'grep -c "Join ServiceGroup" {_LOG} || true'))


def restart(command: str) -> None:
    """Change nova-compute's configuration.

    :param command: what to do while it is down
    """
    before = _listening()
    # Killed: asked kindly it would wait a minute for its last messages.
    cloud.node(
        'kill -KILL $(lab-service status nova-compute); '
        f'{command}; lab-service restart nova-compute'
    )
    lablib.wait_for(
        'nova-compute listens again', lambda: _listening() > before, 90
    )


def configure(text: str) -> str:
    return f'printf "[isolation]\\n{text}\\n" > {CONFIGURATION}'


class ModesTest(base.PairTestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(restart, f'rm -f {CONFIGURATION}')

    def test_a_guest_follows_the_mode_at_its_next_start(self):
        guest, victim = self.first, self.second
        disk = f'{cloud.INSTANCES}/{victim}/disk'
        before = cloud.profile(guest)

        restart(configure('mode = complain'))
        self.assert_confined(guest)
        self.assertEqual(before, cloud.profile(guest))
        cloud.act(guest, {'reboot': {'type': 'HARD'}}, 'ACTIVE')
        self.assert_confined(guest, 'complain')
        with cloud.Consumer() as consumer:
            cloud.open_file(guest, disk)
            event = consumer.wait_for(
                'a denial that would have been',
                lambda e: (
                    e['event_type'] == 'isolation.violation'
                    and e['instance']['uuid'] == guest
                    and e['target']['path'] == disk
                ),
            )
        self.assertEqual('would_deny', event['decision'])

        restart(configure('mode = off'))
        self.assert_confined(guest, 'complain')
        cloud.act(guest, {'reboot': {'type': 'HARD'}}, 'ACTIVE')
        self.assertNotIn(
            f'libvirt-{guest}',
            cloud.node(
                f'grep -l "$(head -1 {cloud.PROFILES}/libvirt-{victim})" '
                f'{cloud.PROFILES}/libvirt-*'
            ),
        )
        self.assertNotIn(
            '<seclabel', cloud.node(f'virsh dumpxml --inactive {guest}')
        )
        # who was not started again stays as he was
        self.assert_confined(victim)

        restart(f'rm {CONFIGURATION}')
        cloud.act(guest, {'reboot': {'type': 'HARD'}}, 'ACTIVE')
        self.assert_confined(guest)
        self.assert_confined(victim)


class WrongValueTest(base.CloudTestCase):
    def test_nova_compute_does_not_start_and_says_why_in_a_line(self):
        self.addCleanup(cloud.node, f'rm -f {CONFIGURATION}')
        cloud.node(configure('mode = enforcing'))
        ended = lablib.guest('lab-service run nova-compute', timeout=120)
        self.assertEqual(1, ended.status, ended)
        lines = (ended.stdout + ended.stderr).splitlines()
        (line,) = [line for line in lines if ' CRITICAL nova' in line]
        for word in ('[isolation] mode', "'enforcing'", 'enforce, complain'):
            self.assertIn(word, line)
        self.assertNotIn('Traceback', '\n'.join(lines))
