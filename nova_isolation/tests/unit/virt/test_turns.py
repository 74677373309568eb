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

from oslotest import base

from nova_isolation import exceptions
from nova_isolation.virt import turns

ONE, TWO = 'guest 1', 'guest 2'
# seconds that a test waits for what happens at once
PATIENCE = 30


class TurnsTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.turns = turns.Turns()

    def test_who_comes_second_waits(self):
        entered, order = threading.Event(), []

        def second():
            entered.set()
            with self.turns.take(ONE):
                order.append('second')

        other = threading.Thread(target=second)
        with self.turns.take(ONE):
            other.start()
            entered.wait(PATIENCE)
            order.append('first')
        other.join(PATIENCE)
        self.assertEqual(['first', 'second'], order)

    def test_nobody_waits_for_ever(self):
        self.turns.patience = 0.01
        with self.turns.take(ONE):
            error = self.assertRaises(
                exceptions.Refusal, self.turns.take(ONE).__enter__
            )
        self.assertIn('try again', error.message)
        with self.turns.take(ONE):
            pass

    def test_other_guests_are_not_waited_for(self):
        with self.turns.take(ONE), self.turns.take(TWO):
            pass

    def test_a_failure_ends_a_turn(self):
        def fail():
            with self.turns.take(ONE):
                raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, fail)
        with self.turns.take(ONE):
            pass

    def test_what_is_noted_is_claimed_once(self):
        self.assertFalse(self.turns.claim(ONE))
        self.turns.note(ONE)
        self.turns.note(ONE)
        self.assertTrue(self.turns.is_due(ONE))
        self.assertTrue(self.turns.claim(ONE))
        self.assertFalse(self.turns.is_due(ONE))
        self.turns.give_back(ONE)
        self.assertFalse(self.turns.claim(ONE))

    def test_what_is_noted_during_a_turn_stays_for_who_has_it(self):
        with self.turns.take(ONE):
            self.turns.note(ONE)
            self.assertFalse(self.turns.claim(ONE))
        self.assertTrue(self.turns.claim(ONE))

    def test_what_is_noted_while_it_is_seen_to_is_seen_to_again(self):
        self.turns.note(ONE)
        self.turns.claim(ONE)
        self.turns.note(ONE)
        self.assertFalse(self.turns.claim(ONE))
        self.turns.give_back(ONE)
        self.assertTrue(self.turns.claim(ONE))

    def test_nothing_is_kept_of_a_guest_that_is_gone(self):
        self.turns.note(ONE)
        self.turns.forget(ONE)
        self.turns.forget(TWO)
        self.assertFalse(self.turns.is_due(ONE))
