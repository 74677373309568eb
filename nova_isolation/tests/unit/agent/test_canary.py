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

"""A canary is heard, or it is said how far it came.

On a real kernel: nova_isolation.tests.system.test_canary.
"""

import os
import threading
from unittest import mock

import fixtures
from oslotest import base

from nova_isolation.agent import canary as agent_canary


class CanaryTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.tried = []
        self.fault = None
        self.lost = []
        self.now = 1000.0
        patcher = mock.patch.object(
            agent_canary, 'time', mock.Mock(monotonic=lambda: self.now)
        )
        patcher.start()
        self.addCleanup(patcher.stop)
        self.canary = self.make(3600)

    def make(self, interval):
        return agent_canary.Canary(
            'cmp1',
            interval,
            lambda *said: self.lost.append(said),
            attempt=self.attempt,
        )

    def attempt(self, token):
        self.tried.append(token)
        if self.fault:
            raise agent_canary.Unheard(self.fault)

    def arrive(self, now):
        token = self.canary.begin(now)
        event = self.canary.heard(token)
        self.canary.journaled(event.id)
        self.canary.confirmed(event.id)
        return event

    def later(self, seconds):
        self.canary.check(self.now + seconds)

    def assert_lost(self, *words):
        [(reason, since)] = self.lost
        for word in words:
            self.assertIn(word, reason)
        self.lost.clear()
        return since

    def test_one_at_the_start_and_one_every_interval(self):
        self.canary.check(0.0)
        self.assertEqual(1, len(self.tried))
        event = self.canary.heard(self.tried[0])
        self.canary.confirmed(event.id)
        self.canary.check(3599.0)
        self.assertEqual(1, len(self.tried))
        self.canary.check(3600.0)
        self.assertEqual(2, len(set(self.tried)))
        self.assertEqual([], self.lost)

    def test_none_when_it_is_off(self):
        canary = agent_canary.Canary(
            'cmp1', 0, self.fail, attempt=self.attempt
        )
        canary.check(0.0)
        self.assertEqual([], self.tried)
        self.assertEqual('off', canary.status()['result'])

    def test_the_kernel_keeps_the_whole_token(self):
        # TASK_COMM_LEN, with the zero byte
        self.assertLess(len(self.canary.begin(0.0)), 16)

    def test_one_that_arrives_is_well(self):
        event = self.arrive(0.0)
        self.assertEqual('isolation.agent.canary', event.event_type)
        self.assertEqual('cmp1', event.payload()['host'])
        self.assertEqual(self.tried[0], event.payload()['token'])
        self.canary.check(3000.0)
        self.assertEqual([], self.lost)
        status = self.canary.status()
        self.assertEqual('ok', status['result'])
        self.assertIsNotNone(status['last_ok'])
        self.assertIsInstance(status['arrived'], float)

    def test_a_record_of_another_is_not_its_own(self):
        self.canary.begin(0.0)
        old = self.tried[0]
        token = self.canary.begin(3600.0)
        self.assertIsNone(self.canary.heard(old))
        self.assertIsNone(self.canary.heard('bash'))
        self.assertIsNone(self.canary.heard(None))
        self.assertIsNotNone(self.canary.heard(token))

    def test_no_record_is_one_before_it_is_tried(self):
        self.assertIsNone(self.canary.heard(None))
        self.assertIsNone(self.canary.heard(''))

    def test_a_record_that_comes_twice_makes_one_event(self):
        token = self.canary.begin(0.0)
        self.assertIsNotNone(self.canary.heard(token))
        self.assertIsNone(self.canary.heard(token))

    def test_a_record_that_is_quicker_than_the_attempt(self):
        heard = []

        def attempt(token):
            heard.append(canary.heard(token))

        canary = agent_canary.Canary('cmp1', 60, self.fail, attempt=attempt)
        canary.begin(0.0)
        self.assertIsNotNone(heard[0])

    def test_one_that_is_not_heard(self):
        self.canary.begin(0.0)
        self.canary.check(9.9)
        self.assertEqual([], self.lost)
        self.canary.check(10.0)
        self.assert_lost('no audit record', 'audit=0', 'CAP_AUDIT_READ')
        self.assertIn('no audit record', self.canary.status()['result'])

    def test_one_that_is_not_journaled(self):
        token = self.canary.begin(self.now)
        self.canary.heard(token)
        self.later(9)
        self.assertEqual([], self.lost)
        self.later(11)
        self.assert_lost('not in the journal', 'disk is full')

    def test_one_that_is_not_confirmed(self):
        token = self.canary.begin(self.now)
        event = self.canary.heard(token)
        self.canary.journaled(event.id)
        self.canary.journaled('another')
        self.canary.confirmed('another')
        self.later(59)
        self.assertEqual([], self.lost)
        self.later(61)
        self.assert_lost('broker did not confirm')

    def test_the_same_fault_is_told_once_until_it_is_over(self):
        for now in (0.0, 3600.0):
            self.canary.begin(now)
            self.canary.check(now + 20)
        first = self.assert_lost('no audit record')
        arrived = self.arrive(7200.0)
        self.canary.begin(10800.0)
        self.canary.check(10820.0)
        since = self.assert_lost('no audit record')
        # what happened after the last good one may not have been heard
        self.assertGreater(since, first)
        self.assertGreaterEqual(since, arrived.time)

    def test_another_fault_is_told(self):
        self.canary.begin(0.0)
        self.canary.check(20.0)
        self.assert_lost('no audit record')
        self.fault = 'the profile is not loaded'
        self.canary.begin(3600.0)
        self.assert_lost('the profile is not loaded')
        # and that it is not heard is no news
        self.canary.check(3620.0)
        self.assertEqual([], self.lost)

    def test_one_that_was_allowed_is_never_well(self):
        self.fault = 'the kernel allowed it'
        token = self.canary.begin(0.0)
        self.assertIsNone(self.canary.heard(token))
        self.assert_lost('the kernel allowed it')
        self.assertIn('allowed', self.canary.status()['result'])

    def test_none_is_sent_while_one_is_under_way(self):
        canary = self.make(1)
        begun = self.now
        canary.check(begun)
        canary.check(begun + 9)
        self.assertEqual(1, len(self.tried))
        event = canary.heard(self.tried[0])
        canary.check(begun + 9.9)
        self.assertEqual(1, len(self.tried))
        canary.confirmed(event.id)
        canary.check(begun + 9.9)
        self.assertEqual(2, len(self.tried))

    def test_one_that_is_not_heard_is_told_with_a_short_interval_too(self):
        for interval in (1, 5, 10):
            canary = self.make(interval)
            for now in range(30):
                canary.check(float(now))
            self.assert_lost('no audit record')
            self.assertNotEqual('ok', canary.status()['result'])

    def test_a_broker_that_eats_all_is_told_with_a_short_interval_too(self):
        for interval in (1, 30, 60):
            canary = self.make(interval)
            self.tried.clear()
            begun = self.now
            for seconds in range(300):
                canary.check(begun + seconds)
                event = canary.heard(self.tried[-1])
                if event is not None:
                    canary.journaled(event.id)
            self.assert_lost('broker did not confirm')
            # and well again
            canary.check(begun + 600)
            event = canary.heard(self.tried[-1])
            canary.journaled(event.id)
            canary.confirmed(event.id)
            self.assertEqual('ok', canary.status()['result'])

    def test_one_that_arrives_late_is_well_after_all(self):
        token = self.canary.begin(self.now)
        event = self.canary.heard(token)
        self.canary.journaled(event.id)
        self.later(100)
        self.assertEqual(1, len(self.lost))
        self.canary.confirmed(event.id)
        self.assertEqual('ok', self.canary.status()['result'])

    def test_the_thread_sends_and_stops(self):
        beats = threading.Event()
        self.canary.start(beats.set)
        self.assertTrue(beats.wait(10))
        self.canary.stop(10)
        self.assertFalse(self.canary.thread.is_alive())
        self.assertEqual(1, len(self.tried))


class AttemptTest(base.BaseTestCase):
    def test_a_kernel_without_apparmor_is_named(self):
        if os.path.exists('/sys/kernel/security/apparmor/policy'):
            # such a kernel is tested in the lab
            return
        error = self.assertRaises(
            agent_canary.Unheard, agent_canary.attempt, 'canary-12345678'
        )
        self.assertIn('without AppArmor', str(error))

    def test_one_that_hangs_is_not_followed_by_others(self):
        held = threading.Event()
        self.addCleanup(held.set)
        self.useFixture(
            fixtures.MonkeyPatch('nova_isolation.selinux.enforcing', lambda: 1)
        )
        tried = []

        def hang(*args):
            tried.append(args)
            held.wait(60)

        with (
            mock.patch.object(agent_canary, '_write', hang),
            mock.patch.object(agent_canary, '_socket', lambda: 'let go'),
        ):
            with mock.patch.object(agent_canary, '_ATTEMPT', 0.01):
                for _ in range(3):
                    error = self.assertRaises(
                        agent_canary.Unheard, agent_canary.attempt, 'canary-1'
                    )
                    self.assertIn('hangs', str(error))
            (thread,) = (
                each for each in threading.enumerate() if each.name == 'canary'
            )
            held.set()
            thread.join(60)
            self.assertEqual(1, len(tried))
            error = self.assertRaises(
                agent_canary.Unheard, agent_canary.attempt, 'canary-1'
            )
            self.assertEqual('let go', str(error))

    def test_selinux_that_does_not_tell_its_mode_is_named(self):
        # no file that can be read
        directory = self.useFixture(fixtures.TempDir()).path
        self.useFixture(
            fixtures.MonkeyPatch('nova_isolation.selinux.ENFORCE', directory)
        )
        error = self.assertRaises(
            agent_canary.Unheard, agent_canary.attempt, 'canary-12345678'
        )
        self.assertIn(directory, str(error))
