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
"""What a guest has lost is looked for until its processes have closed it."""

import os
import types
from unittest import mock

import fixtures
from oslotest import base

from nova_isolation.hooks import withdrawn
from nova_isolation import neighbours

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
OTHER = '8887d9d3-17f8-4388-8771-fab6312518d6'
ORIGIN = '<disk> vdb'


class WithdrawnTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.directory = self.useFixture(fixtures.TempDir()).path
        self.withdrawn = withdrawn.Withdrawn()
        # {identity: processes that have it open}
        self.open = {}
        self.asked = []
        self.now = 0.0
        for name, value in (
            ('privileged.find_open', self.find_open),
            (
                'time',
                types.SimpleNamespace(
                    sleep=self.sleep, monotonic=lambda: self.now
                ),
            ),
        ):
            self.useFixture(
                fixtures.MonkeyPatch(
                    f'nova_isolation.hooks.withdrawn.{name}', value
                )
            )
        self.meanwhile = lambda: None

    def sleep(self, seconds):
        self.now += seconds
        self.meanwhile()

    def find_open(self, uuid, wanted):
        self.asked.append((uuid, wanted))
        return [
            (place, pid)
            for place, identity in enumerate(wanted)
            for pid in self.open.get(identity, ())
        ]

    def file(self, name):
        path = os.path.join(self.directory, name)
        with open(path, 'w'):
            pass
        return path

    def test_who_has_lost_nothing_is_not_asked(self):
        self.withdrawn.note(UUID, {}, [self.file('disk')])
        self.assertEqual((), self.withdrawn.wait_closed(UUID, 30))
        self.assertEqual([], self.asked)

    def test_what_is_closed_is_not_looked_for_again(self):
        path = self.file('volume')
        self.withdrawn.note(UUID, {path: ORIGIN}, [])
        self.assertEqual((), self.withdrawn.wait_closed(UUID, 30))
        self.assertEqual([(UUID, [neighbours.identify(path)])], self.asked)
        self.assertEqual(0, self.now)
        self.withdrawn.wait_closed(UUID, 30)
        self.assertEqual(1, len(self.asked))

    def test_it_is_waited_for(self):
        path = self.file('volume')
        identity = neighbours.identify(path)
        self.open[identity] = [7]

        def close():
            if self.now > 20:
                self.open.clear()

        self.meanwhile = close
        self.withdrawn.note(UUID, {path: ORIGIN}, [])
        self.assertEqual((), self.withdrawn.wait_closed(UUID, 30))
        self.assertTrue(20 < self.now < 21)

    def test_what_stays_open_is_told_at_the_end_and_every_time(self):
        path = self.file('volume')
        self.open[neighbours.identify(path)] = [7, 8]
        closed = self.file('another')
        self.withdrawn.note(UUID, {path: ORIGIN, closed: '<disk> vdc'}, [])
        told = (f'{path} ({ORIGIN}) by process 7, 8',)
        self.assertEqual(told, self.withdrawn.wait_closed(UUID, 30))
        self.assertTrue(30 <= self.now < 31)
        self.assertEqual(told, self.withdrawn.wait_closed(UUID, 30))
        # after the first look for that one alone
        self.assertEqual([2, 1], [len(w) for _, w in self.asked[:2]])

    def test_another_name_of_it_is_no_disguise(self):
        path = self.file('volume')
        self.withdrawn.note(UUID, {path: ORIGIN}, [])
        os.rename(path, f'{path}-renamed')
        self.file('volume')
        self.open[neighbours.identify(f'{path}-renamed')] = [7]
        self.assertEqual(1, len(self.withdrawn.wait_closed(UUID, 30)))

    def test_what_it_has_under_another_name_is_its_own(self):
        path = self.file('volume')
        os.link(path, f'{path}-linked')
        self.withdrawn.note(UUID, {path: ORIGIN}, [f'{path}-linked'])
        self.assertEqual((), self.withdrawn.wait_closed(UUID, 30))
        self.assertEqual([], self.asked)

    def test_what_it_gets_again_is_its_own(self):
        path = self.file('volume')
        self.withdrawn.note(UUID, {path: ORIGIN}, [])
        self.withdrawn.note(UUID, {}, [path])
        self.assertEqual((), self.withdrawn.wait_closed(UUID, 30))
        self.assertEqual([], self.asked)

    def test_what_does_not_exist_cannot_be_told(self):
        with mock.patch.object(withdrawn.LOG, 'warning') as warned:
            self.withdrawn.note(UUID, {'/nonexistent': ORIGIN}, [])
        self.assertIn('/nonexistent', warned.call_args.args)
        self.assertEqual((), self.withdrawn.wait_closed(UUID, 30))
        self.assertEqual([], self.asked)

    def test_each_guest_has_its_own(self):
        path = self.file('volume')
        self.withdrawn.note(UUID, {path: ORIGIN}, [])
        self.withdrawn.forget(OTHER)
        self.withdrawn.wait_closed(OTHER, 30)
        self.assertEqual([], self.asked)
        self.withdrawn.wait_closed(UUID, 30)
        self.assertEqual(1, len(self.asked))

    def test_what_is_forgotten_is_not_asked_for(self):
        self.withdrawn.note(UUID, {self.file('volume'): ORIGIN}, [])
        self.withdrawn.forget(UUID)
        self.withdrawn.forget(UUID)
        self.assertEqual((), self.withdrawn.wait_closed(UUID, 30))
        self.assertEqual([], self.asked)
