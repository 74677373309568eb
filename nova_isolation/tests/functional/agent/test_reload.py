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

"""What ``systemctl reload nova-isolation-agent`` does, and what not."""

import os
import signal

from nova_isolation.tests.functional.agent import rig
from nova_isolation.tests.functional.agent import test_agent

UUID1, UUID2 = rig.uuid_of(1), rig.uuid_of(2)
DISK = f'{rig.INSTANCES}/{UUID2}/disk'


class ReloadTest(test_agent.AgentTestCase):
    def reload(self, host):
        before = host.said('Reporting denials')
        os.kill(host.agent.pid, signal.SIGHUP)
        host.wait_until(
            lambda: host.said('Reporting denials') > before,
            'another worker comes',
        )

    def test_an_option_that_can_be_changed_counts_at_once(self):
        host = self.rig(repeat_window=3600)
        consuming = host.consume()
        host.start()
        worker = host.worker
        host.configure(repeat_window=1)
        self.reload(host)
        self.assertNotEqual(worker, host.worker)
        with host.halted_worker():
            self.kernel.deny(DISK, UUID1)
            self.kernel.deny(DISK, UUID1)
        first, repeats = self.wait_for(consuming, 2)
        self.assertEqual(first['id'], repeats['repeats']['of'])
        self.assert_stops(host)

    def test_what_is_denied_meanwhile_is_reported(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        os.kill(host.agent.pid, signal.SIGHUP)
        names = {f'/srv/{number}' for number in range(20)}
        for name in names:
            self.kernel.deny(name, UUID1)
        found = self.wait_for(consuming, len(names))
        self.assertEqual(names, {v['target']['path'] for v in found})
        self.assert_stops(host)

    def test_one_that_needs_a_restart_is_named_in_the_log(self):
        host = self.rig()
        host.start()
        host.configure(notification_topics='another')
        self.reload(host)
        host.wait_until(
            lambda: host.said(
                'immutable option isolation.notification_topics'
            ),
            'it is said',
        )
        self.assert_stops(host)

    def test_what_is_wrong_is_named_and_changes_nothing(self):
        host = self.rig(repeat_window=3600)
        consuming = host.consume()
        host.start()
        host.configure(repeat_window='soon', verify_interval=1)
        self.reload(host)
        host.wait_until(lambda: host.said('is not read anew'), 'it is said')
        self.assertIn('repeat_window', host.log.read_text())
        self.kernel.deny(DISK, UUID1)
        self.wait_for(consuming, 1)
        host.configure(repeat_window=1, verify_interval=10)
        self.reload(host)
        with host.halted_worker():
            self.kernel.deny('/srv/1', UUID1)
            self.kernel.deny('/srv/1', UUID1)
        *_, first, repeats = self.wait_for(consuming, 3)
        self.assertEqual(first['id'], repeats['repeats']['of'])
        self.assert_stops(host)
