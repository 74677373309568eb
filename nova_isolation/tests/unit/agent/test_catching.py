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

"""What was not heard is read beside all else."""

import threading
import time
from unittest import mock

from oslotest import base

from nova_isolation.agent import catching
from nova_isolation.audit import lines


def _line(number):
    return lines.Line('file', 'boot', number, number, b'%d' % number)


class CatchingTestCase(base.BaseTestCase):
    def _all(self, caught):
        """Take until all was read."""
        taken = []
        ended = False
        limit = time.monotonic() + 30
        while not ended and time.monotonic() < limit:
            ended = caught.ended
            taken.extend(caught.take())
            time.sleep(0.001)
        return taken

    def test_all_of_it_is_taken_in_its_order(self):
        caught = catching.Catching(map(_line, range(5000)))
        self.assertEqual(list(map(_line, range(5000))), self._all(caught))

    def test_no_more_is_in_memory_than_is_taken_at_once(self):
        read = []

        def reading():
            for number in range(10000):
                read.append(number)
                yield _line(number)

        caught = catching.Catching(reading())
        time.sleep(0.2)
        self.assertLessEqual(len(read), catching._WAITING + 2)
        self.assertEqual(10000, len(self._all(caught)))

    def test_who_waits_for_it_waits_for_all_of_a_little(self):
        def reading():
            time.sleep(0.2)
            yield _line(1)

        caught = catching.Catching(reading())
        caught.join(10)
        self.assertTrue(caught.ended)
        self.assertEqual([_line(1)], caught.take())

    def test_of_much_only_for_what_can_be_taken(self):
        caught = catching.Catching(map(_line, range(5000)))
        # longer than the reading waits for somebody who takes
        caught.join(2 * catching._LONGEST)
        self.assertFalse(caught.ended)
        self.assertEqual(catching._WAITING, len(caught.take()))
        self._all(caught)

    def test_and_not_for_ever(self):
        go = threading.Event()
        self.addCleanup(go.set)

        def reading():
            go.wait(60)
            yield _line(1)

        caught = catching.Catching(reading())
        caught.join(0.2)
        self.assertFalse(caught.ended)

    def test_a_reading_that_fails_ends(self):
        def reading():
            yield _line(1)
            yield _line(2)
            raise ValueError('a bug')

        with self.assertLogs(catching.LOG.logger, 'ERROR'):
            caught = catching.Catching(reading())
            self.assertEqual([_line(1)], self._all(caught))

    def test_a_reading_that_nobody_takes_ends(self):
        with mock.patch.object(catching, '_LONGEST', 0.1):
            caught = catching.Catching(map(_line, range(5000)))
            limit = time.monotonic() + 30
            while not caught.ended and time.monotonic() < limit:
                time.sleep(0.01)
        self.assertTrue(caught.ended)
        self.assertEqual(catching._WAITING, len(caught.take()))
