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

"""What was not heard is known, however much it is."""

import json

import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_isolation.audit import serials

BOOT = 'b7a4a8d8-6a3c-4c0f-9b1c-0c5a3b6f7a11'
LATE = serials.PATIENCE * 3


def heard(*numbers, highest=None):
    found = serials.Serials(BOOT, highest)
    for number in numbers:
        found.see(number, 0)
    return found


class GapsTestCase(base.BaseTestCase):
    def test_nothing_is_missing_of_what_was_before_the_first(self):
        found = heard(500, 501, 501, 502)
        self.assertEqual((), found.missing)
        self.assertEqual(502, found.highest)

    def test_a_gap_is_what_was_not_heard(self):
        found = heard(1, 2, 6, 7, 9)
        self.assertEqual((range(3, 6), range(8, 9)), found.missing)

    def test_a_record_out_of_order_closes_its_gap(self):
        found = heard(1, 4, 3, 2)
        self.assertEqual((), found.missing)
        self.assertEqual(0, found.expired(LATE))

    def test_a_gap_has_a_while_to_close(self):
        found = heard(1, 4)
        self.assertEqual(0, found.expired(serials.PATIENCE))
        self.assertEqual(2, found.expired(LATE))

    def test_gaps_that_come_all_the_time_expire_too(self):
        found = serials.Serials(BOOT, 0)
        for i in range(1, 101):
            found.see(2 * i, i / 10)
        # ten seconds, five gaps each half of one
        self.assertGreater(found.expired(10), 80)
        self.assertLess(found.expired(10), 90)

    def test_what_is_given_up_is_told_once(self):
        found = heard(1, 4, 6)
        found.see(10, LATE)
        self.assertEqual(3, found.settle(LATE))
        self.assertEqual(0, found.settle(LATE))
        self.assertEqual((range(7, 10),), found.missing)
        self.assertEqual(3, found.settle(2 * LATE))

    def test_a_million_is_one_gap(self):
        found = heard(1, 1_000_001)
        self.assertEqual((range(2, 1_000_001),), found.missing)
        self.assertLess(len(json.dumps(found.state())), 200)

    def test_more_gaps_than_are_remembered_are_counted(self):
        found = heard(*range(0, 20_000, 2))
        self.assertEqual(4096, len(found.missing))
        # 9,999 gaps of one
        self.assertEqual(9_999, found.settle(LATE))

    def test_the_numbers_begin_again_after_32_bits(self):
        last = (1 << 32) - 1
        found = heard(last - 2, last, 1)
        self.assertEqual(1, found.highest)
        self.assertEqual(
            (range(last - 1, last), range(0, 1)),
            found.missing,
        )
        self.assertTrue(found.is_new(0))
        self.assertTrue(found.is_new(2))
        self.assertFalse(found.is_new(last))
        found.see(0, 0)
        self.assertEqual((range(last - 1, last),), found.missing)

    @hypothesis.given(
        strategies.lists(strategies.integers(100, 160), min_size=1)
    )
    def test_each_number_was_heard_or_is_missing(self, numbers):
        found = heard(*numbers)
        for number in range(numbers[0], max(numbers) + 1):
            self.assertEqual(number not in numbers, found.is_new(number))


class OverrunTestCase(base.BaseTestCase):
    def test_the_end_of_an_event_does_not_show_its_beginning(self):
        found = heard(1)
        found.overrun(0)
        found.see(3, 0, 1300)
        found.see(3, 0, 1327)
        self.assertTrue(found.is_new(2))
        self.assertTrue(found.is_new(3))
        found.see(4, 0, 1400)
        self.assertFalse(found.is_new(4))

    def test_it_does_when_nothing_was_dropped_lately(self):
        found = heard(1)
        found.overrun(0)
        found.see(2, LATE, 1300)
        self.assertFalse(found.is_new(2))

    def test_the_beginning_itself_does(self):
        found = heard(1)
        found.overrun(0)
        found.see(2, 0, 1400)
        found.see(2, 0, 1300)
        self.assertEqual((), found.missing)


class OtherSourcesTestCase(base.BaseTestCase):
    def test_what_they_had_is_not_missing(self):
        found = heard(1, 10)
        found.found([range(2, 5), range(7, 8)], 0)
        self.assertEqual((range(5, 7), range(8, 10)), found.missing)

    def test_they_may_be_ahead(self):
        found = heard(1)
        found.found([range(1, 4), range(6, 8)], 0)
        self.assertEqual(7, found.highest)
        self.assertEqual((range(4, 6),), found.missing)

    def test_all_is_new_to_who_heard_nothing(self):
        self.assertTrue(heard().is_new(17))


class RestartTestCase(base.BaseTestCase):
    def restored(self, state, boot=BOOT):
        return serials.Serials.restored(json.loads(json.dumps(state)), boot)

    def test_what_happened_meanwhile_is_missing(self):
        found = self.restored(heard(1, 2, 4).state())
        found.see(8, 0)
        self.assertEqual((range(3, 4), range(5, 8)), found.missing)

    def test_what_was_missing_before_is_due_at_once(self):
        self.assertEqual(1, self.restored(heard(1, 3).state()).settle(0))

    def test_what_was_counted_and_not_told_is_told(self):
        state = heard(*range(0, 20_000, 2)).state()
        self.assertEqual(9_999, self.restored(state).settle(0))

    def test_in_a_new_boot_all_of_it_is_missing(self):
        found = self.restored(heard(400, 500).state(), 'another')
        found.see(30, 0)
        self.assertEqual((range(1, 30),), found.missing)

    def test_on_a_new_host_nothing_is(self):
        found = serials.Serials.restored(None, BOOT)
        found.see(30, 0)
        self.assertEqual((), found.missing)

    def test_a_damaged_state_is_named(self):
        for state in (
            {},
            {'boot': BOOT},
            {'boot': BOOT, 'highest': '1', 'missing': [], 'given_up': 0},
            {'boot': BOOT, 'highest': 1, 'missing': [[1]], 'given_up': 0},
            {'boot': BOOT, 'highest': 1, 'missing': [[5, 9]], 'given_up': 0},
            {'boot': BOOT, 'highest': 1, 'missing': None, 'given_up': 0},
        ):
            e = self.assertRaises(
                ValueError, serials.Serials.restored, state, BOOT
            )
            self.assertIn('damaged', str(e))


class NumbersTestCase(base.BaseTestCase):
    @hypothesis.given(
        strategies.lists(
            strategies.tuples(
                strategies.booleans(),
                strategies.integers(0, 40),
                strategies.integers(0, 9),
            )
        )
    )
    def test_they_are_a_set(self, steps):
        numbers, expected = serials.Numbers(), set()
        for adds, start, size in steps:
            some = set(range(start, start + size))
            if adds:
                numbers.add(start, start + size)
                expected |= some
            else:
                self.assertEqual(
                    len(expected & some), numbers.remove(start, start + size)
                )
                expected -= some
        self.assertEqual(list(serials.ranges_of(expected)), list(numbers))
        self.assertEqual(len(expected), len(numbers))
        for number in range(51):
            self.assertEqual(number in expected, number in numbers)
