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

"""What hangs is not waited for without end, and is never done twice."""

import threading

from oslotest import base

from nova_isolation.violations import broker


class ErrandsTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.errands = broker.Errands('test')
        self.gate = threading.Event()
        self.addCleanup(self.gate.set)
        self.begun = []

    def _hang(self):
        self.begun.append(threading.current_thread())
        self.gate.wait(60)
        return 'done'

    def test_what_it_returns_and_raises_comes_back(self):
        self.assertEqual(3, self.errands.do(lambda: 3, 10))
        self.assertRaises(ZeroDivisionError, self.errands.do, lambda: 1 / 0, 9)

        # not taken for its own end of patience
        def raises():
            raise TimeoutError('of a socket')

        self.assertRaises(TimeoutError, self.errands.do, raises, 10)
        self.assertEqual(4, self.errands.do(lambda: 4, 10))

    def test_what_hangs_is_not_waited_for(self):
        self.assertRaises(broker.Late, self.errands.do, self._hang, 0.05)
        # nor what would come after it
        self.assertRaises(broker.Late, self.errands.do, self._hang, 0.05)
        self.gate.set()
        # whatever was asked for before has been done then
        self.errands.do(lambda: None, 30)
        self.assertEqual(1, len(self.begun))

    def test_what_still_goes_on_is_not_begun_twice(self):
        self.assertRaises(broker.Late, self.errands.do, self._hang, 0.05, 'a')
        self.assertRaises(broker.Late, self.errands.do, self._hang, 0.05, 'a')
        self.gate.set()
        self.assertEqual('done', self.errands.do(self._hang, 10, 'a'))
        self.assertEqual(1, len(self.begun))
        # and then it is over
        self.assertEqual('done', self.errands.do(self._hang, 10, 'a'))
        self.assertEqual(2, len(self.begun))

    def test_another_one_begins_when_it_has_ended(self):
        self.assertRaises(broker.Late, self.errands.do, self._hang, 0.05, 'a')
        self.gate.set()
        self.assertEqual('other', self.errands.do(lambda: 'other', 10, 'b'))

    def test_all_is_done_in_one_thread_that_ends_with_the_process(self):
        self.gate.set()
        for _ in range(3):
            self.errands.do(self._hang, 10)
        (thread,) = set(self.begun)
        self.assertTrue(thread.daemon)
