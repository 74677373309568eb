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

"""The reader takes all that the kernel has, and says where some is missing."""

import threading
import time

from oslotest import base

from nova_isolation.agent import reader

OVERRUN = reader.OVERRUN


class _Socket:
    """Stands for the audit socket: gives one list after the other.

    An exception is raised; an :data:`OVERRUN` in a list is what the socket
    itself would count.
    """

    def __init__(self, *reads):
        self.overruns = 0
        self.reads = list(reads)
        self.limits = []
        self.empty = 0
        self.exhausted = threading.Event()

    def read_many(self, timeout, limit):
        self.limits.append(limit)
        if not self.reads:
            self.empty += 1
            if self.empty > 1:
                # and what came of the first such reading can be taken
                self.exhausted.set()
            time.sleep(0.01)
            return []
        found = self.reads.pop(0)
        if isinstance(found, Exception):
            raise found
        self.overruns += found.count(OVERRUN)
        return [each for each in found if each != OVERRUN]


def _records(*numbers, size=1):
    return [(1400, b'%d' % number * size) for number in numbers]


class _TestCase(base.BaseTestCase):
    def _start(self, *reads, waiting=1000, beat=lambda: None):
        self.socket = _Socket(*reads)
        self.reader = reader.Reader(self.socket, waiting)
        self.addCleanup(self.reader.stop, 10)
        self.reader.start(beat)

    def _taken(self):
        """Take all that there is, until nothing can come."""
        taken = []
        while True:
            # in this order
            ended = (
                self.socket.exhausted.is_set()
                or not self.reader.thread.is_alive()
            )
            batch = self.reader.take(0.01)
            taken.extend(batch)
            if ended and not batch:
                return taken

    def _wait_for(self, count, left):
        """Wait until the socket has so many batches left, and see who waits.

        One more is in the thread's hands.
        """
        limit = time.monotonic() + 30
        while len(self.socket.reads) > left and time.monotonic() < limit:
            time.sleep(0.01)
        # and a little longer, for more than that
        time.sleep(0.1)
        self.assertEqual(left, len(self.socket.reads))
        self.assertEqual(count, len(self.reader))


class ReaderTestCase(_TestCase):
    def test_what_is_read_can_be_taken_in_its_order(self):
        self._start(_records(1, 2), _records(3), [], _records(4))
        self.assertTrue(self.socket.exhausted.wait(10))
        self.assertEqual(4, len(self.reader))
        self.assertEqual(_records(1, 2, 3, 4), self._taken())
        self.assertEqual(0, len(self.reader))

    def test_who_takes_waits_for_what_comes(self):
        self._start()
        threading.Timer(0.1, self.socket.reads.append, [_records(1)]).start()
        self.assertEqual(_records(1), list(self.reader.take(10)))

    def test_who_is_woken_goes_on_without_any(self):
        self._start()
        for first in (threading.Timer(0.1, self.reader.wake), None):
            if first is None:
                self.reader.wake()
            else:
                first.start()
            begun = time.monotonic()
            self.assertEqual((), self.reader.take(30))
            self.assertLess(time.monotonic() - begun, 20)

    def test_and_not_longer_than_it_says(self):
        self._start()
        self.assertEqual((), self.reader.take(0.01))

    def test_what_is_too_much_stays_in_the_kernel(self):
        self._start(*([each] for each in _records(*range(50))), waiting=10)
        self._wait_for(10, left=39)
        # and nothing of it is lost
        self.assertEqual(_records(*range(50)), self._taken())

    def test_who_chooses_long_names_does_not_fill_the_memory(self):
        # 9,000 bytes each
        batch = _records(*[111111111] * 1000, size=1000)
        self._start(*[batch] * 10, waiting=20000)
        self._wait_for(2000, left=7)
        self.assertEqual(10000, len(self._taken()))

    def test_it_gives_signs_of_life_also_when_nobody_takes(self):
        beats = []
        self._start(
            *([each] for each in _records(*range(50))),
            waiting=10,
            beat=lambda: beats.append(1),
        )
        self._wait_for(10, left=39)
        beats.clear()
        limit = time.monotonic() + 30
        while len(beats) < 2:
            self.assertLess(time.monotonic(), limit)
            time.sleep(0.01)

    def test_it_stops_while_nobody_takes_and_what_waits_can_be_taken(self):
        self._start(*([each] for each in _records(*range(50))), waiting=10)
        self._wait_for(10, left=39)
        self.reader.stop(10)
        self.assertFalse(self.reader.thread.is_alive())
        self.assertEqual(_records(*range(11)), self._taken())

    def test_a_fault_of_the_socket_does_not_end_it(self):
        self._start(OSError('no'), ValueError('bug'), _records(1))
        self.assertEqual(_records(1), list(self.reader.take(10)))

    def test_a_socket_that_stays_broken_gives_no_sign_of_life(self):
        beats = []
        self._start(*[OSError('no')] * 100, beat=lambda: beats.append(1))
        time.sleep(0.2)
        self.assertEqual([], beats)
        self.reader.stop(10)
        self.assertFalse(self.reader.thread.is_alive())


class OverrunTestCase(_TestCase):
    """The kernel tells at once that it drops, while the socket is full.

    What it drops comes behind all that is in the socket.
    """

    def _full(self, first):
        return _records(*range(first, first + reader._BATCH))

    def test_it_stands_where_the_socket_was_empty_again(self):
        self._start(
            _records(1),
            [*_records(2), OVERRUN],
            self._full(3),
            _records(9000),
            _records(9001),
        )
        taken = self._taken()
        self.assertLess(taken.index(*_records(9000)), len(taken) - 2)
        self.assertEqual([OVERRUN, *_records(9001)], taken[-2:])
        self.assertEqual(1, self.reader.overruns)

    def test_nothing_may_come_behind_it(self):
        self._start([OVERRUN])
        self.assertEqual(OVERRUN, self._taken()[-1])

    def test_a_second_one_meanwhile_is_no_less(self):
        self._start([OVERRUN], [*_records(1), OVERRUN], _records(2))
        self.assertEqual([*_records(2), OVERRUN], self._taken()[-2:])
        self.assertEqual(2, self.reader.overruns)

    def test_without_one_there_is_none(self):
        self._start(self._full(1), _records(9000))
        self.assertNotIn(OVERRUN, self._taken())
