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

import threading

import fixtures
from oslotest import base

from nova_isolation.virt import worker

# seconds that a test waits for what happens at once
PATIENCE = 30


class WorkerTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.done = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.last = threading.Event()
        self.worker = worker.Worker(self.work)

    def work(self, uuid):
        self.done.append((uuid, threading.get_ident()))
        if uuid == 'long':
            self.begun.set()
            self.go_on.wait(PATIENCE)
        if uuid == 'wrong':
            raise ZeroDivisionError('a bug')
        if uuid == 'last':
            self.last.set()

    def finish(self):
        self.worker.put('last')
        self.assertTrue(self.last.wait(PATIENCE))
        return [uuid for uuid, _ in self.done]

    def test_the_caller_does_not_wait_and_each_is_done_once(self):
        self.worker.put('long')
        self.begun.wait(PATIENCE)
        for uuid in ('a', 'b', 'a', 'a'):
            self.worker.put(uuid)
        self.go_on.set()
        self.assertEqual(['long', 'a', 'b', 'last'], self.finish())
        self.assertEqual(1, len({thread for _, thread in self.done}))
        self.assertNotIn(
            threading.get_ident(), {thread for _, thread in self.done}
        )

    def test_what_is_asked_during_the_work_is_done_after_it(self):
        self.worker.put('long')
        self.begun.wait(PATIENCE)
        self.worker.put('long')
        self.go_on.set()
        self.assertEqual(['long', 'long', 'last'], self.finish())

    def test_a_failure_is_logged_and_the_next_one_is_done(self):
        log = self.useFixture(fixtures.FakeLogger())
        self.worker.put('wrong')
        self.assertEqual(['wrong', 'last'], self.finish())
        self.assertIn('a bug', log.output)
