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

"""Events leave the journal in order, and only when the broker has them."""

import contextlib
import itertools
import tempfile
import threading
import time
from unittest import mock

from oslotest import base

from nova_isolation.agent import sender
from nova_isolation import exceptions
from nova_isolation.violations import journal
from nova_isolation.violations import model


class _Notifier:
    """Stands for the broker: away for the first attempts."""

    def __init__(self, away=0, poison=None, error=None):
        self.away = away
        self.poison = poison
        self.error = error
        self.attempts = []
        self.received = []
        self.changed = threading.Condition()

    def send(self, entry):
        number = entry.payload.get('number')
        with self.changed:
            self.attempts.append(time.monotonic())
            self.changed.notify_all()
            if len(self.attempts) <= self.away:
                raise exceptions.NotSent('nobody there')
            if number is not None and number == self.poison:
                raise self.error
            self.received.append(
                entry.event_type if number is None else number
            )

    def wait(self, count):
        return self._wait(self.received, count)

    def wait_for_attempt(self):
        return self._wait(self.attempts, 1)

    def _wait(self, seen, count):
        with self.changed:
            return self.changed.wait_for(lambda: len(seen) >= count, 20)


class _Clock:
    """Stands for the sender's time of day: goes on only when it is told to."""

    def __init__(self, case):
        self.now = 1000.0
        patched = mock.patch.object(
            sender,
            'time',
            mock.Mock(time=lambda: self.now, monotonic=time.monotonic),
        )
        patched.start()
        case.addCleanup(patched.stop)


class SenderTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.journal = journal.Journal(temporary.name, 30, 16, 'cmp1')
        self.addCleanup(self.journal.close)

    def _start(self, notifier):
        self.sender = sender.Sender(self.journal, notifier)
        self.sender.start()
        self.addCleanup(self.sender.stop, 10)

    @contextlib.contextmanager
    def _paused(self, notifier):
        """Let the sender pause, as long as it takes, after a first attempt."""
        with (
            mock.patch.object(sender, '_FIRST_PAUSE', 3600),
            mock.patch.object(sender, '_LONGEST_PAUSE', 3600),
        ):
            self._start(notifier)
            self.assertTrue(notifier.wait_for_attempt())
            yield

    def _put(self, *numbers, instance=None):
        about = {} if instance is None else {'instance': {'uuid': instance}}
        self.journal.commit(
            [
                journal.Entry.made(
                    'isolation.test',
                    'warn',
                    {'id': model.new_id(), 'number': number, **about},
                    0.0,
                )
                for number in numbers
            ]
        )

    def test_in_order_and_then_marked(self):
        self._put(*range(250))
        notifier = _Notifier()
        self._start(notifier)
        self.assertTrue(notifier.wait(250))
        self.sender.stop(10)
        self.assertEqual(list(range(250)), notifier.received)
        self.assertIsNone(self.journal.next_unsent(''))
        self.assertEqual(250, self.sender.sent)

    def test_what_waits_of_one_guest_does_not_delay_another_one(self):
        noisy, other = model.new_id(), model.new_id()
        self._put(*range(300), instance=noisy)
        notifier = _Notifier()
        at = []

        def send(entry):
            notifier.send(entry)
            if entry.payload['number'] == 100:
                self._put(-1, -2, instance=other)
            elif entry.instance == other:
                at.append(len(notifier.received))

        self._start(mock.Mock(send=send))
        self.assertTrue(notifier.wait(302))
        self.assertEqual([102, 104], at)
        mine = [number for number in notifier.received if number >= 0]
        self.assertEqual(list(range(300)), mine)

    def test_who_is_new_does_not_wait_for_a_ring_of_noisy_ones(self):
        noisy = sorted(model.new_id() for _ in range(50))
        for instance in noisy:
            self._put(*range(4), instance=instance)
        other = '~'
        notifier = _Notifier()
        at = []

        def send(entry):
            notifier.send(entry)
            if len(notifier.received) == 60:
                self._put(-1, -2, instance=other)
                self.sender.wake({other, noisy[0]})
            elif entry.instance == other:
                at.append((len(notifier.received), entry.payload['number']))

        self._start(mock.Mock(send=send))
        self.assertTrue(notifier.wait(202))
        # at once; then as all others
        self.assertEqual([(61, -1), (102, -2)], at)

    def test_marks_do_not_wait_for_all_to_be_sent(self):
        self._put(*range(sender._MARKS + 2))
        _Clock(self)
        depths = []

        def send(entry):
            depths.append(self.journal.depth())

        self._start(mock.Mock(send=send))
        self.sender.stop(10)
        self.assertEqual(sender._MARKS * [sender._MARKS + 2] + 2 * [2], depths)
        self.assertEqual(0, self.journal.depth())

    def test_an_event_is_marked_with_the_time_of_its_confirm(self):
        self._put(0, 1)
        clock = _Clock(self)
        begun = clock.now
        # both are marked together
        step = sender._MARK_AFTER / 2

        def send(entry):
            clock.now += step

        self._start(mock.Mock(send=send))
        self.sender.stop(10)
        self.assertEqual(
            [begun + step, begun + 2 * step],
            [entry.sent for entry in self.journal.entries()],
        )

    def test_a_mark_does_not_wait_long_for_others(self):
        self._put(0, 1, 2)
        clock = _Clock(self)
        depths = []

        def send(entry):
            depths.append(self.journal.depth())
            clock.now += 2 * sender._MARK_AFTER

        self._start(mock.Mock(send=send))
        self.sender.stop(10)
        self.assertEqual([3, 3, 1], depths)

    def test_two_events_that_fail_are_both_given_up(self):
        self._put(0, instance=model.new_id())
        self._put(0, instance=model.new_id())
        notifier = _Notifier(poison=0, error=TypeError('a set is no JSON'))
        with mock.patch.object(sender, '_FIRST_PAUSE', 0.001):
            self._start(notifier)
            self.assertTrue(notifier.wait(2))
        self.assertEqual(2 * ['isolation.lost'], notifier.received)

    def test_an_event_that_fails_lets_the_other_guests_pass(self):
        first, second = sorted((model.new_id(), model.new_id()))
        self._put(0, 1, instance=first)
        self._put(2, 3, instance=second)
        notifier = _Notifier(poison=0, error=TypeError('a set is no JSON'))
        with mock.patch.object(sender, '_FIRST_PAUSE', 0.001):
            self._start(notifier)
            self.assertTrue(notifier.wait(4))
        self.assertEqual([2, 3], notifier.received[:2])
        self.assertEqual(
            [1, 'isolation.lost'], sorted(notifier.received[2:], key=str)
        )

    def test_what_was_not_confirmed_stays_and_is_sent_first(self):
        self._put(0, 1, 2)
        notifier = _Notifier(away=2)
        self._start(notifier)
        self.assertTrue(notifier.wait(3))
        self.assertEqual([0, 1, 2], notifier.received)
        self.assertEqual(5, len(notifier.attempts))

    def test_the_pauses_grow_up_to_a_limit(self):
        self._put(0)
        notifier = _Notifier(away=6)
        with (
            mock.patch.object(sender, '_FIRST_PAUSE', 0.02),
            mock.patch.object(sender, '_LONGEST_PAUSE', 0.1),
        ):
            self._start(notifier)
            self.assertTrue(notifier.wait(1))
        times = notifier.attempts
        pauses = [b - a for a, b in itertools.pairwise(times)]
        for pause, least in zip(
            pauses, (0.02, 0.04, 0.08, 0.1, 0.1, 0.1), strict=True
        ):
            self.assertGreaterEqual(pause, least * 0.9)

    def test_one_line_when_it_fails_and_one_when_it_is_back(self):
        self._put(0, 1)
        notifier = _Notifier(away=4)
        with (
            mock.patch.object(sender, '_FIRST_PAUSE', 0.01),
            self.assertLogs(sender.LOG.logger, 'INFO') as logs,
        ):
            self._start(notifier)
            self.assertTrue(notifier.wait(2))
            self.sender.stop(10)
        self.assertEqual(2, len(logs.output))
        self.assertIn('nobody there', logs.output[0])
        self.assertIn(self.journal.path, logs.output[0])
        self.assertIn('after 4', logs.output[1])

    def test_news_go_out_at_once(self):
        notifier = _Notifier()
        with mock.patch.object(sender, '_POLL', 3600):
            self._start(notifier)
            time.sleep(0.2)
            self._put(7)
            self.sender.wake()
            self.assertTrue(notifier.wait(1))

    def test_news_without_a_word_go_out_too(self):
        notifier = _Notifier()
        self._start(notifier)
        time.sleep(0.2)
        self._put(7)
        self.assertTrue(notifier.wait(1))

    def test_news_do_not_shorten_the_pause(self):
        self._put(0)
        notifier = _Notifier(away=2)
        with self._paused(notifier):
            for _ in range(20):
                self.sender.wake()
                time.sleep(0.01)
            self.assertEqual(1, len(notifier.attempts))
            self.sender.stop(10)

    def test_what_no_broker_takes_is_announced_and_holds_nothing_up(self):
        self._put(0, 1, 2)
        error = exceptions.CannotBeSent('too large')
        notifier = _Notifier(poison=1, error=error)
        self._start(notifier)
        self.assertTrue(notifier.wait(3))
        self.assertEqual([0, 2, 'isolation.lost'], notifier.received)
        self.assertEqual(1, self.sender.given_up)
        poison = self.journal.entries(limit=2)[1]
        self.assertEqual('too large', poison.failure)

    def test_an_error_that_nobody_knows_is_tried_again_but_not_for_ever(self):
        self._put(0, 1, 2)
        notifier = _Notifier(poison=1, error=TypeError('a set is no JSON'))
        with mock.patch.object(sender, '_FIRST_PAUSE', 0.001):
            self._start(notifier)
            self.assertTrue(notifier.wait(3))
        self.assertEqual([0, 2, 'isolation.lost'], notifier.received)
        # six of the one, and each of the others
        self.assertEqual(9, len(notifier.attempts))
        poison = self.journal.entries(limit=2)[1]
        self.assertIn('a set is no JSON', poison.failure)

    def test_a_broker_that_is_away_is_no_event_s_fault(self):
        self._put(0)
        notifier = _Notifier(away=50)
        with (
            mock.patch.object(sender, '_FIRST_PAUSE', 0.001),
            mock.patch.object(sender, '_LONGEST_PAUSE', 0.001),
        ):
            self._start(notifier)
            self.assertTrue(notifier.wait(1))
        self.assertEqual([0], notifier.received)
        self.assertEqual(0, self.sender.given_up)

    def test_a_journal_that_cannot_be_read_is_tried_again(self):
        self._put(0)
        notifier = _Notifier()
        real = self.journal.next_unsent('')
        with (
            mock.patch.object(sender, '_FIRST_PAUSE', 0.01),
            mock.patch.object(
                self.journal,
                'next_unsent',
                autospec=True,
                side_effect=[
                    exceptions.JournalUnavailable('no'),
                    ValueError('bug'),
                    real,
                    None,
                ],
            ),
        ):
            self._start(notifier)
            self.assertTrue(notifier.wait(1))
            self.sender.stop(10)
        self.assertEqual([0], notifier.received)

    def test_what_cannot_be_marked_is_not_sent_again(self):
        self._put(0, 1)
        notifier = _Notifier()
        real = self.journal.mark_sent
        marked = []

        def mark_sent(seqs):
            marked.append(list(seqs))
            if len(marked) < 3:
                raise exceptions.JournalUnavailable('the disk is full')
            real(seqs)

        with (
            mock.patch.object(sender, '_FIRST_PAUSE', 0.01),
            mock.patch.object(self.journal, 'mark_sent', mark_sent),
        ):
            self._start(notifier)
            self.assertTrue(notifier.wait(2))
            limit = time.monotonic() + 20
            while self.journal.depth() and time.monotonic() < limit:
                time.sleep(0.01)
            self.sender.stop(10)
        self.assertEqual([0, 1], notifier.received)
        self.assertEqual(0, self.journal.depth())

    def test_what_is_there_when_it_stops_is_sent(self):
        notifier = _Notifier()
        self._start(notifier)
        for number in range(20):
            self._put(number)
            self.sender.wake()
        self.sender.stop(10)
        self.assertEqual(list(range(20)), notifier.received)
        self.assertEqual(0, self.journal.depth())

    def test_it_stops_while_it_pauses(self):
        self._put(0)
        notifier = _Notifier(away=1000)
        with self._paused(notifier):
            time.sleep(0.1)
            self.sender.stop(60)
        self.assertFalse(self.sender._thread.is_alive())
        self.assertEqual(1, self.journal.depth())

    def test_a_broker_that_hangs_does_not_hold_up_the_end(self):
        self._put(0)
        sends, hang = threading.Event(), threading.Event()

        def send(entry):
            sends.set()
            hang.wait(60)

        self._start(mock.Mock(send=send))
        self.addCleanup(hang.set)
        self.assertTrue(sends.wait(30))
        self.sender.stop(0.2)
        self.assertTrue(self.sender._thread.is_alive())
