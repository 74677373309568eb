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
"""tools/check-host.sh tells the truth about a compute node."""

import lablib

from nova_isolation.tests.system import base
from nova_isolation.tests.system import cloud


class CheckHostTest(base.PairTestCase):
    def check(self, *arguments):
        given = cloud.configuration()
        return lablib.guest(['/src/tools/check-host.sh', *given, *arguments])

    def test_a_sound_host_passes_and_an_attack_is_seen(self):
        done = self.check(
            '--attack',
            self.first,
            self.second,
            '--agent-log',
            '/share/log/nova-isolation-agent.log',
        )
        self.assertEqual(0, done.status, done.stdout + done.stderr)
        self.assertIn('2 guests, 0 faults', done.stdout)

    def test_a_guest_in_complain_mode_is_found(self):
        uuid = self.first
        # the periodic task would mend a guest whose vCPUs run
        cloud.act(uuid, 'pause', 'PAUSED')
        self.addCleanup(cloud.act, uuid, 'unpause', 'ACTIVE')
        self.addCleanup(cloud.reload, uuid)
        cloud.node(
            f'sed "s/ flags=(/ flags=(complain, /" '
            f'{cloud.PROFILES}/libvirt-{uuid} > /tmp/loose && '
            'apparmor_parser -rTK /tmp/loose'
        )
        done = self.check()
        self.assertEqual(1, done.status, done.stdout + done.stderr)
        self.assertIn(f"runs as 'libvirt-{uuid} (complain)'", done.stdout)
        self.assertIn('holds another policy', done.stdout)
