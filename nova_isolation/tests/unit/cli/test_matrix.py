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

import contextlib
import dataclasses

import fixtures
from lxml import etree
from oslotest import base

from nova_isolation.cli import host
from nova_isolation.cli import matrix
from nova_isolation import domain
from nova_isolation import exceptions
from nova_isolation import neighbours
from nova_isolation import processes
from nova_isolation.tests.unit import samples

FIRST = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
SECOND = '8887d9d3-17f8-4388-8771-fab6312518d6'


class Judge:
    """A kernel that says the same of every path."""

    def __init__(self, allowed):
        self.allowed = allowed

    def file(self, profile, path):
        return self.allowed


def guest(uuid, name, *paths):
    parsed = domain.parse(samples.domain('libvirt-11.3-defined'))
    instance = dataclasses.replace(parsed.instance, name=name)
    return host.Guest(
        dataclasses.replace(parsed, uuid=uuid, instance=instance),
        tuple(neighbours.Resource(p, '<disk> vda', 'rw') for p in paths),
    )


class FindTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.guests = [guest(FIRST, 'web'), guest(SECOND, 'web')]

    def test_by_uuid_and_by_name(self):
        self.assertIs(self.guests[1], host.find(self.guests, SECOND))
        self.assertIs(self.guests[0], host.find(self.guests[:1], 'web'))

    def test_a_name_that_is_not_one_guest_s(self):
        error = self.assertRaises(
            exceptions.InvalidDomain, host.find, self.guests, 'web'
        )
        self.assertIn(FIRST, error.message)
        self.assertIn(SECOND, error.message)
        self.assertRaises(
            exceptions.InvalidDomain, host.find, self.guests, 'db'
        )


class MatrixTest(base.BaseTestCase):
    def test_guests_with_files_of_their_own(self):
        guests = [guest(FIRST, 'a', '/i/1'), guest(SECOND, 'b', '/i/2')]
        self.assertEqual([], list(matrix.by_xml(guests, [])))

    def test_each_could_reach_the_other_s(self):
        guests = [guest(FIRST, 'a', '/i/1'), guest(SECOND, 'b', '/i/1')]
        found = list(matrix.by_xml(guests, []))
        self.assertEqual(
            [(FIRST, SECOND, '/i/1', 'rw'), (SECOND, FIRST, '/i/1', 'rw')],
            [(r.uuid, r.owner, r.resource.path, r.access) for r in found],
        )
        self.assertEqual([], list(matrix.by_xml(guests, ['/i'])))

    def test_a_picture_has_a_cell_for_each_pair(self):
        guests = [
            guest(FIRST, '<script>', '/i/1'),
            guest(SECOND, 'b\x1b[2J', '/i/1'),
        ]
        found = list(matrix.by_xml(guests, []))
        root = etree.fromstring(matrix.draw(guests, found))
        cells = root.findall('{*}rect')
        self.assertEqual(4, len(cells))
        told = [c for c in cells if c.find('{*}title') is not None]
        self.assertEqual(2, len(told))
        self.assertIn('/i/1', told[0].find('{*}title').text)
        self.assertNotIn('\x1b', ''.join(root.itertext()))
        self.assertIsNone(root.find('.//{*}script'))

    def by_kernel(self, guests, labels, allowed=''):
        for name, value in (
            ('kernel.check_enabled', lambda: None),
            ('kernel.Judge', lambda: contextlib.nullcontext(Judge(allowed))),
            ('kernel.labels', lambda pid: {pid: labels[pid]}),
            (
                'processes.find',
                lambda runtime, name, uuid: processes.Process(
                    [g.uuid for g in guests].index(uuid), 0
                ),
            ),
        ):
            self.useFixture(
                fixtures.MonkeyPatch(
                    f'nova_isolation.cli.matrix.{name}', value
                )
            )
        return [
            (r.uuid, r.owner, r.access, r.resource.origin)
            for r in matrix.by_kernel(guests, [], '/run')
        ]

    def test_a_guest_that_nothing_confines_may_do_everything(self):
        guests = [guest(FIRST, 'a', '/i/1'), guest(SECOND, 'b', '/i/2')]
        confined = [f'libvirt-{g.uuid} (enforce)' for g in guests]
        running = [
            dataclasses.replace(g, domain=dataclasses.replace(g.domain, id=7))
            for g in guests
        ]
        self.assertEqual([], self.by_kernel(running, confined))
        for label in (
            'unconfined',
            f'libvirt-{FIRST} (complain)',
            f'libvirt-{SECOND} (enforce)',
        ):
            self.assertEqual(
                [(FIRST, SECOND, 'rwx', f'its process runs as {label}')],
                self.by_kernel(running, [label, confined[1]]),
            )
        # one that is off is nobody's danger
        self.assertEqual([], self.by_kernel(guests, ['unconfined'] * 2))
