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


import os

import ddt
import fixtures
from oslotest import base

from nova_isolation.apparmor import proof
from nova_isolation.neighbours import Resource

FIRST = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
SECOND = '8887d9d3-17f8-4388-8771-fab6312518d6'


class Judge:
    """A kernel that allows one profile some access to some paths."""

    def __init__(self, allowed):
        self.allowed = allowed

    def file(self, profile, path):
        if profile != f'libvirt-{FIRST}':
            return ''
        return self.allowed.get(path, '')


@ddt.ddt
class ReachesTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.directory = self.useFixture(fixtures.TempDir()).path

    def file(self, name):
        path = os.path.join(self.directory, name)
        with open(path, 'w'):
            pass
        return path

    def reaches(self, allowed, mine, theirs, shared=()):
        found = list(
            proof.reaches(
                Judge(allowed), FIRST, mine, [(SECOND, theirs)], shared
            )
        )
        for reach in found:
            self.assertEqual((FIRST, SECOND), (reach.uuid, reach.owner))
        return [(reach.resource.path, reach.access) for reach in found]

    def test_what_is_another_one_s(self):
        theirs = [Resource(p, '<disk> vda', 'rw') for p in ('/i/2', '/i/3')]
        self.assertEqual(
            [('/i/2', 'r')], self.reaches({'/i/2': 'r'}, (), theirs)
        )
        self.assertEqual([], self.reaches({'/i/2': 'r'}, (), theirs, ['/i']))

    @ddt.data(('r', []), ('rw', ['rw']), ('w', ['w']), ('rx', ['rx']))
    @ddt.unpack
    def test_an_image_that_both_have_is_read(self, access, expected):
        image = Resource(self.file('base'), '<disk> vda', 'r')
        found = self.reaches({image.path: access}, [image], [image])
        self.assertEqual([(image.path, a) for a in expected], found)

    def test_an_image_that_the_other_one_has_alone_is_not_read(self):
        # of another project, perhaps
        mine, theirs = (
            Resource(self.file(name), '<disk> vda', 'r')
            for name in ('mine', 'theirs')
        )
        allowed = {mine.path: 'r', theirs.path: 'r'}
        self.assertEqual(
            [(theirs.path, 'r')], self.reaches(allowed, [mine], [theirs])
        )

    def test_a_disk_for_several_is_for_those_that_have_it(self):
        disk = Resource(self.file('disk'), '<disk> vdb', 'rw', shareable=True)
        allowed = {disk.path: 'rw'}
        self.assertEqual([], self.reaches(allowed, [disk], [disk]))
        self.assertEqual(
            [(disk.path, 'rw')], self.reaches(allowed, [], [disk])
        )

    def test_what_both_have_by_different_names(self):
        path = self.file('base')
        os.link(path, f'{path}-linked')
        mine = Resource(f'{path}-linked', '<disk> vda', 'r')
        theirs = Resource(path, '<disk> vda', 'r')
        self.assertEqual([], self.reaches({path: 'r'}, [mine], [theirs]))

    def test_what_is_below_a_directory_of_its_own(self):
        theirs = Resource('/etc/pki/spice', '<graphics>, TLS', 'r', tree=True)
        mine = Resource('/etc/pki', '<disk>, TLS', 'r', tree=True)
        for access, expected in (('r', 0), ('rw', 1)):
            allowed = {'/etc/pki/spice/x': access}
            found = self.reaches(allowed, [mine], [theirs])
            self.assertEqual(expected, len(found))

    def test_what_every_guest_reads(self):
        firmware = '/usr/share/qemu/edk2.fd'
        theirs = [Resource(firmware, '<loader>', 'r')]
        self.assertEqual([], self.reaches({firmware: 'r'}, (), theirs))
        self.assertEqual(
            [(firmware, 'rw')], self.reaches({firmware: 'rw'}, (), theirs)
        )
