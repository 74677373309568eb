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
from lxml import etree
from oslotest import base

from nova_isolation import chains
from nova_isolation import domain
from nova_isolation import exceptions
from nova_isolation import images
from nova_isolation.tests.unit import samples

_DISK = """<disk type='{type}' device='disk'>
<driver name='qemu' type='{format}'/><source {source}/><target dev='vda'/>
</disk>"""


class ChainsTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        top = os.path.realpath(self.useFixture(fixtures.TempDir()).path)
        self.instance, self.cache = f'{top}/uuid', f'{top}/_base'
        os.mkdir(self.instance)
        os.mkdir(self.cache)
        self.allowed = images.Directories(self.instance, self.cache)
        self.disk = f'{self.instance}/disk'
        self.base = f'{self.instance}/base'
        self.put('on-raw')
        with open(self.base, 'wb'):
            pass

    def put(self, name):
        with open(self.disk, 'wb') as f:
            f.write(samples.image(name))

    def domain(self, source=None, *, type='file', format='qcow2'):
        disk = _DISK.format(
            type=type, format=format, source=source or f"file='{self.disk}'"
        )
        return etree.fromstring(
            "<domain type='qemu'><name>x</name>"
            '<uuid>36a5a3c8-8489-4380-9a87-8a5b4732e00d</uuid>'
            f'<devices>{disk}</devices></domain>'
        )

    def stated(self, root):
        chains.state(root, self.allowed)
        parsed = domain.parse(etree.tostring(root, encoding='unicode'))
        backing = parsed.disks[0].backing
        return backing and tuple(layer.path for layer in backing)

    def test_the_whole_chain_is_stated_to_its_end(self):
        root = self.domain()
        self.assertEqual((self.base,), self.stated(root))
        (store,) = root.iterfind('devices/disk/backingStore')
        self.assertEqual('file', store.get('type'))
        self.assertEqual('raw', store.find('format').get('type'))
        self.assertEqual(0, len(store.find('backingStore')))
        self.assertTrue(chains.are_stated(root))

    def test_that_there_is_none_is_stated_too(self):
        self.put('plain')
        root = self.domain()
        self.assertEqual((), self.stated(root))
        (store,) = root.iterfind('devices/disk/backingStore')
        self.assertEqual({}, dict(store.attrib))

    def test_what_is_stated_stays_whatever_the_header_says_later(self):
        root = self.domain()
        before = self.stated(root)
        self.put('on-json')
        self.assertEqual(before, self.stated(root))

    def test_a_header_that_may_not_be_followed_is_not_stated(self):
        self.put('on-json')
        root = self.domain()
        self.assertRaises(
            exceptions.DeceivingImage, chains.state, root, self.allowed
        )
        self.assertFalse(chains.are_stated(root))

    def test_no_header_is_read_where_there_is_none(self):
        for more in (
            {'format': 'raw'},
            {'type': 'block', 'source': "dev='/dev/sda'"},
            {'source': "index='1'"},
        ):
            root = self.domain(**more)
            chains.state(root, self.allowed)
            self.assertIsNone(root.find('.//backingStore'))
            self.assertTrue(chains.are_stated(root))

    def test_a_disk_that_is_not_there_cannot_be_judged(self):
        os.unlink(self.disk)
        self.assertRaises(
            exceptions.MissingImage, chains.state, self.domain(), self.allowed
        )

    def test_a_record_is_what_was_stated_and_not_what_libvirt_found(self):
        root = self.domain()
        chains.state(root, self.allowed)
        self.assertEqual({self.base}, chains.recorded(root))
        (mark,) = root.find('metadata')
        root.find('metadata').remove(mark)
        self.assertEqual(frozenset(), chains.recorded(root))

    def test_what_was_stated_can_be_taken_back(self):
        root = self.domain()
        plain = etree.tostring(root)
        chains.state(root, self.allowed)
        chains.withdraw(root)
        root.remove(root.find('metadata'))
        self.assertEqual(plain, etree.tostring(root))
        # and what was not is left alone
        root.find('devices/disk').append(etree.Element('backingStore'))
        chains.withdraw(root)
        self.assertIsNotNone(root.find('devices/disk/backingStore'))
