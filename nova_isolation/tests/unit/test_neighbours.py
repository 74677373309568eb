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

import fixtures
from oslotest import base

from nova_isolation import domain
from nova_isolation import neighbours
from nova_isolation.tests.unit import samples

STATE = '/var/lib/libvirt/qemu'


def resource(path, access='rw', shareable=False):
    return neighbours.Resource(str(path), '<disk> vda', access, shareable)


class RegisterTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.top = self.useFixture(fixtures.TempDir()).path
        self.register = neighbours.Register()

    def file(self, name):
        path = os.path.join(self.top, name)
        with open(path, 'w'):
            pass
        return path

    def overlaps(self, *mine, shared=()):
        found = self.register.overlaps('me', mine, shared)
        return [(o.mine.path, o.uuid, o.theirs.path) for o in found]

    def test_the_same_file_by_any_name(self):
        path = self.file('disk')
        hard, soft = f'{self.top}/hard', f'{self.top}/soft'
        os.link(path, hard)
        os.symlink(path, soft)
        self.register.put('other', [resource(path)])
        for name in (path, hard, soft):
            self.assertEqual(
                [(name, 'other', path)], self.overlaps(resource(name))
            )
        self.assertEqual([], self.overlaps(resource(self.file('mine'))))

    def test_a_device_is_its_number(self):
        node = f'{self.top}/zero'
        os.symlink('/dev/zero', node)
        self.register.put('other', [resource('/dev/zero')])
        self.assertEqual(1, len(self.overlaps(resource(node))))
        self.assertEqual([], self.overlaps(resource('/dev/null')))

    def test_a_name_that_means_another_file_now(self):
        # a device's node that was recycled
        node = f'{self.top}/dm-3'
        first, second = self.file('first'), self.file('second')
        os.symlink(first, node)
        self.register.put('other', [resource(node)])
        os.unlink(node)
        os.symlink(second, node)
        self.assertEqual([], self.overlaps(resource(first)))

    def test_a_file_that_was_replaced(self):
        # a restored disk, a rotated log
        path = self.file('disk')
        self.register.put('other', [resource(path)])
        os.rename(self.file('restored'), path)
        self.assertEqual(1, len(self.overlaps(resource(path))))

    def test_what_is_not_there_is_its_name(self):
        self.register.put('other', [resource('/nonexistent/x')])
        self.assertEqual(1, len(self.overlaps(resource('/nonexistent/x'))))
        self.assertEqual([], self.overlaps(resource('/nonexistent/y')))

    def test_what_both_only_read_is_shared(self):
        base_file = self.file('base')
        self.register.put('other', [resource(base_file, 'r')])
        self.assertEqual([], self.overlaps(resource(base_file, 'r')))
        for access in ('rw', ''):
            self.assertEqual(
                1, len(self.overlaps(resource(base_file, access)))
            )

    def test_what_nobody_may_name_is_not_read_either(self):
        log = self.file('console.log')
        self.register.put('other', [resource(log, '')])
        self.assertEqual(1, len(self.overlaps(resource(log, 'r'))))

    def test_both_have_to_call_it_shareable(self):
        disk = self.file('disk')
        self.register.put('other', [resource(disk, shareable=True)])
        self.assertEqual(1, len(self.overlaps(resource(disk))))
        self.assertEqual([], self.overlaps(resource(disk, shareable=True)))

    def test_what_is_declared_shared(self):
        disk = self.file('disk')
        self.register.put('other', [resource(disk)])
        for shared, count in (
            ([disk], 0),
            ([self.top], 0),
            ([f'{self.top}/dis'], 1),
            (['/'], 1),
        ):
            found = self.overlaps(resource(disk), shared=shared)
            self.assertEqual(count, len(found), shared)

    def test_one_s_own_is_no_overlap(self):
        disk = self.file('disk')
        self.register.put('me', [resource(disk)])
        self.assertEqual([], self.overlaps(resource(disk)))

    def test_who_is_forgotten_or_changed_has_it_no_longer(self):
        disk, new = self.file('disk'), self.file('new')
        self.register.put('other', [resource(disk)])
        self.register.put('other', [resource(new), resource(new, 'r')])
        self.assertEqual([], self.overlaps(resource(disk)))
        self.assertEqual(1, len(self.overlaps(resource(new))))
        self.register.drop('other')
        self.register.drop('other')
        self.assertEqual([], self.overlaps(resource(new)))
        self.assertEqual([], self.register.others('me'))

    def test_what_is_forgotten_takes_no_memory(self):
        for n in range(100):
            self.register.put(f'guest{n}', [resource(f'/nonexistent/{n}')])
        for n in range(100):
            self.register.drop(f'guest{n}')
        for kept in vars(self.register).values():
            if isinstance(kept, dict):
                self.assertEqual({}, kept)


class ResourcesTest(base.BaseTestCase):
    def test_a_guest_that_runs(self):
        parsed = domain.parse(samples.domain('libvirt-11.3-running'))
        found = {r.path: r.access for r in neighbours.resources(parsed, STATE)}
        directory = os.path.dirname(parsed.disks[0].path)
        self.assertEqual('rw', found[f'{directory}/disk'])
        # it may be read by nobody else, whatever it is to the guest
        self.assertEqual('rw', found[f'{directory}/disk.config'])
        self.assertEqual('', found[f'{directory}/console.log'])
        self.assertEqual('rw', found['/dev/pts/0'])
        short = f'domain-{parsed.id}-{parsed.name}'
        self.assertEqual('', found[f'{STATE}/{short}/monitor.sock'])
        self.assertEqual('', found[f'{STATE}/save/{parsed.name}.save'])
        (backing,) = parsed.disks[0].backing
        self.assertEqual('r', found[backing.path])

    def test_a_backing_file_beside_the_disk_is_its_own(self):
        text = samples.domain('libvirt-11.3-running')
        parsed = domain.parse(text)
        (backing,) = parsed.disks[0].backing
        beside = f'{os.path.dirname(parsed.disks[0].path)}/base'
        parsed = domain.parse(text.replace(backing.path, beside))
        found = {r.path: r.access for r in neighbours.resources(parsed, STATE)}
        self.assertEqual('rw', found[beside])
