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

"""Who waits for a turn: guests in a ring, each in its order, all of them."""

from hypothesis import given
from hypothesis import strategies as st
from oslotest import base

from nova_isolation.agent import waiting
from nova_isolation.audit import records
from nova_isolation.violations import model

GUESTS = [f'{n:08x}-90ad-4b5b-8d6e-0d6a1f3b7a01' for n in range(1, 5)]


def make(guest, number=1):
    text = (
        f'audit(1795424098.237:{number}): apparmor="DENIED" operation="open" '
        f'class="file" profile="libvirt-{guest}" name="/{number}" pid=1 '
        f'comm="qemu" requested_mask="r" denied_mask="r"'
    )
    record = records.parse(records.AVC, text.encode())
    denied = waiting.Denied(record, guest, id=f'{guest} {number}')
    denied.repeats = model.Repeats(1, record.time, record.time)
    return denied


def serial(key):
    return int(key.rpartition(' ')[2])


class WaitingTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.waiting = waiting.Waiting()

    def take(self, *most):
        return [
            (GUESTS.index(d.who), d.record.serial)
            for d in self.waiting.take(*most)
        ]

    def test_guests_have_their_turns_in_a_ring(self):
        for number in range(1, 4):
            self.waiting.add(make(GUESTS[0], number))
        self.waiting.add(make(GUESTS[1], 4))
        self.assertEqual([(0, 1), (1, 4)], self.take(2))
        self.waiting.add(make(GUESTS[2], 5))
        self.assertEqual([(0, 2), (2, 5), (0, 3)], self.take())
        self.assertFalse(self.waiting.is_ready)

    def test_what_is_held_waits_for_no_turn(self):
        self.waiting.hold(make(GUESTS[0], 1))
        self.waiting.add(make(GUESTS[0], 2))
        self.assertEqual(2, len(self.waiting))
        self.assertEqual([(0, 2)], self.take())
        self.assertTrue(self.waiting.is_holding)
        self.waiting.release(lambda denied: False)
        self.assertEqual([], self.take())
        self.waiting.release(lambda denied: True)
        self.assertFalse(self.waiting.is_holding)
        self.assertEqual([(0, 1)], self.take())

    def test_who_is_picked_has_no_turn_more(self):
        for number in range(1, 4):
            self.waiting.add(make(GUESTS[0], number))
        self.waiting.hold(make(GUESTS[1], 4))
        ids = {f'{GUESTS[0]} 2', f'{GUESTS[1]} 4', 'another'}
        picked = [d.id for d in self.waiting.pick(ids)]
        self.assertEqual(sorted(ids - {'another'}), sorted(picked))
        self.assertFalse(self.waiting.is_holding)
        self.assertEqual([(0, 1), (0, 3)], self.take())

    def test_a_guest_of_which_all_is_picked_has_no_turn(self):
        self.waiting.add(make(GUESTS[0]))
        self.assertEqual(1, len(self.waiting.pick({f'{GUESTS[0]} 1'})))
        self.assertFalse(self.waiting.is_ready)

    def test_a_row_has_all_of_it(self):
        denied = make(GUESTS[0], 7)
        denied.line = True
        denied.context = {'proctitle': 'x\udcff'}
        self.waiting.add(denied)
        ((key, row),) = self.waiting.changes().items()
        self.assertIn(denied.id, key)
        self.assertEqual(denied, waiting.Denied.of_row(denied.id, row))
        self.assertEqual([denied], [*self.waiting.take()])

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just('add'), st.integers(0, 3)),
                st.tuples(st.just('hold'), st.integers(0, 3)),
                st.tuples(st.just('take'), st.integers(0, 3)),
                st.sampled_from(
                    [(w, 0) for w in ('release', 'commit', 'fail', 'die')]
                ),
            )
        )
    )
    def test_what_was_kept_is_told_once_whatever_happens(self, steps):
        """An agent that dies tells again only what it had not committed."""
        kept, number = {}, 0
        told, committed = [], []
        made = waiting.Waiting()
        for what, argument in steps:
            if what in ('add', 'hold'):
                number += 1
                getattr(made, what)(make(GUESTS[argument], number))
            elif what == 'take':
                told += [d.record.serial for d in made.take(argument)]
            elif what == 'release':
                made.release(lambda denied: True)
            elif what == 'die':
                made = waiting.Waiting()
                self.assertEqual([], made.restore(kept, 0))
                told = list(committed)
                number = max([*map(serial, kept), *committed, 0])
            else:
                changes = made.changes()
                if what == 'commit':
                    made.committed()
                    for key, row in changes.items():
                        if row is None:
                            del kept[key]
                        else:
                            self.assertNotIn(key, kept)
                            kept[key] = row
                    committed = list(told)
        made.release(lambda denied: True)
        told += [denied.record.serial for denied in made.take()]
        self.assertEqual(list(range(1, number + 1)), sorted(told))
