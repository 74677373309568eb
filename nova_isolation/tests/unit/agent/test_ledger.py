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

"""What was lost is announced, and nothing of it is forgotten."""

import datetime
import itertools
import threading

from hypothesis import given
from hypothesis import strategies as st
from oslotest import base

from nova_isolation.agent import ledger as agent_ledger

T0 = datetime.datetime(2026, 11, 23, 8, tzinfo=datetime.UTC)


def at(seconds):
    return T0 + datetime.timedelta(seconds=seconds)


# What can happen, in any order: a loss of so many, time that passes, and
# events that get into the journal or do not.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just('lost'), st.integers(1, 9)),
        st.tuples(st.just('wait'), st.floats(0, 9)),
        st.tuples(st.just('due'), st.booleans()),
    ),
    max_size=40,
)


class LedgerTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.ledger = agent_ledger.Ledger('cmp1')

    def due(self, now, stage='queue'):
        return [e for e in self.ledger.due(now) if e.stage == stage]

    def announce(self, now):
        events = self.ledger.due(now)
        self.ledger.announced(events)
        return events

    def test_the_first_loss_is_due_at_once(self):
        self.ledger.lost('queue', 3, 'too quick', at(1), at(2))
        [event] = self.due(100.0)
        self.assertEqual('cmp1', event.host)
        self.assertEqual(3, event.count)
        self.assertEqual((at(1), at(2)), (event.first, event.last))
        self.assertEqual('too quick', event.reason)

    def test_the_next_are_summed_up_for_five_seconds(self):
        self.ledger.lost('queue', 1, 'a', at(0), at(1))
        self.announce(100.0)
        self.ledger.lost('queue', 2, 'b', at(7), at(8))
        self.ledger.lost('queue', 4, 'c', at(5), at(6))
        self.assertEqual([], self.due(104.9))
        [event] = self.due(105.0)
        self.assertEqual(6, event.count)
        self.assertEqual((at(5), at(8)), (event.first, event.last))
        self.assertEqual('b; c', event.reason)

    def test_what_has_the_same_reason_has_it_once(self):
        for _ in range(3):
            self.ledger.lost('queue', 1, 'too quick')
            self.ledger.lost('queue', 1)
        [event] = self.due(0.0)
        self.assertEqual((6, 'too quick'), (event.count, event.reason))

    def test_each_reason_is_in_the_event_or_in_the_log(self):
        reasons = [f'{n:02d} ' + 'x' * 700 for n in range(8)]
        with self.assertLogs(agent_ledger.LOG.logger, 'WARNING') as logs:
            for reason in reasons:
                self.ledger.lost('unparsable', 1, reason)
        [event] = self.due(0.0, 'unparsable')
        self.assertTrue(
            event.reason.startswith(f'{reasons[0]}; {reasons[1]} … (')
        )
        # nothing of it is cut off later
        self.assertEqual(event.reason, event.payload()['reason'])
        self.assertEqual(6, len(logs.output))
        for reason, line in zip(reasons[2:], logs.output, strict=True):
            self.assertIn(reason, line)
            self.assertIn('unparsable', line)

    def test_a_reason_that_is_too_long_is_whole_and_visible_in_the_log(self):
        reason = 'y' * 9000 + '\x1b[2J\n'
        with self.assertLogs(agent_ledger.LOG.logger, 'WARNING') as logs:
            self.ledger.lost('unparsable', 1, reason)
        [event] = self.due(0.0, 'unparsable')
        self.assertTrue(event.reason.startswith('y' * 1900))
        self.assertEqual(event.reason, event.payload()['reason'])
        [line] = logs.output
        self.assertIn('y' * 9000 + r'\x1b[2J\n', line)
        self.assertTrue(line.isprintable())

    def test_a_flood_of_reasons_does_not_fill_the_log(self):
        with self.assertLogs(agent_ledger.LOG.logger, 'WARNING') as logs:
            for n in range(1000):
                self.ledger.lost('unparsable', 1, f'{n} ' + 'x' * 900)
        self.assertEqual(11, len(logs.output))
        self.assertIn('only counted', logs.output[-1])
        [event] = self.announce(0.0)
        self.assertEqual(1000, event.count)
        # until the next event
        with self.assertLogs(agent_ledger.LOG.logger, 'WARNING') as logs:
            for n in range(4):
                self.ledger.lost('unparsable', 1, f'{n} ' + 'x' * 900)
        self.assertEqual(2, len(logs.output))

    def test_one_stage_does_not_hold_back_another(self):
        self.ledger.lost('queue')
        self.announce(100.0)
        self.ledger.lost('socket', None)
        [event] = self.announce(100.1)
        self.assertEqual('socket', event.stage)

    def test_how_many_is_unknown_when_it_is_of_one_of_them(self):
        self.ledger.lost('socket', 5)
        self.ledger.lost('socket', None)
        self.ledger.lost('socket', 5)
        [event] = self.due(0.0, 'socket')
        self.assertIsNone(event.count)

    def test_what_is_not_in_the_journal_comes_again_as_it_was(self):
        self.ledger.lost('journal', 1)
        [event] = self.due(100.0, 'journal')
        self.ledger.lost('journal', 1)
        self.assertEqual([event], self.due(100.1, 'journal'))
        self.assertEqual([event], self.due(200.0, 'journal'))
        self.ledger.announced([event])
        [later] = self.due(200.0, 'journal')
        self.assertEqual(1, later.count)
        self.assertNotEqual(event.id, later.id)

    def test_no_loss_is_none(self):
        self.ledger.lost('queue', 0)
        self.assertEqual([], self.ledger.due(0.0))

    def test_a_stage_or_count_that_nobody_knows_is_a_fault(self):
        self.assertRaises(KeyError, self.ledger.lost, 'somewhere')
        self.assertRaises(KeyError, self.ledger.count, 'something')

    def test_what_is_nowhere_is_unaccounted(self):
        self.ledger.count('in', 10)
        self.ledger.count('out', 2)
        self.ledger.count('folded', 5)
        self.ledger.lost('queue', 1)
        self.ledger.lost('unparsable', 1)
        # before it was counted as in, or after it was counted as out
        self.ledger.lost('socket', 7)
        self.ledger.lost('retention', 7)
        self.assertEqual(1, self.ledger.snapshot().unaccounted)
        self.ledger.count('folded')
        self.assertEqual(0, self.ledger.snapshot().unaccounted)

    def test_a_snapshot_does_not_change(self):
        before = self.ledger.snapshot()
        self.ledger.count('in')
        self.ledger.lost('kernel', None)
        self.assertEqual(0, before.counts['in'])
        self.assertEqual(0, before.unknown['kernel'])
        self.assertEqual(1, self.ledger.snapshot().unknown['kernel'])

    @given(STEPS)
    def test_whatever_happens_all_is_announced_once(self, steps):
        ledger = agent_ledger.Ledger('cmp1')
        now, lost, announced = 0.0, 0, {}
        times = []
        for step, value in (*steps, ('wait', 9), ('due', True)):
            if step == 'lost':
                ledger.lost('queue', value)
                lost += value
            elif step == 'wait':
                now += value
            else:
                for event in ledger.due(now):
                    if event.id not in announced:
                        times.append(now)
                    announced[event.id] = event.count
                    if value:
                        ledger.announced([event])
        # what was made meanwhile while one was on its way
        for event in ledger.due(now + 9):
            announced[event.id] = event.count
        self.assertEqual(lost, sum(announced.values()))
        for earlier, later in itertools.pairwise(times):
            self.assertGreaterEqual(later - earlier, agent_ledger.PAUSE)

    def test_from_many_threads_nothing_is_missed(self):
        def lose():
            for _ in range(500):
                self.ledger.lost('queue')
                self.ledger.count('in')

        threads = [threading.Thread(target=lose) for _ in range(4)]
        for thread in threads:
            thread.start()
        announced = 0
        while any(thread.is_alive() for thread in threads):
            announced += sum(e.count for e in self.announce(announced * 9.0))
        for thread in threads:
            thread.join()
        announced += sum(e.count for e in self.announce(1e9))
        self.assertEqual(2000, announced)
        self.assertEqual(0, self.ledger.snapshot().unaccounted)
