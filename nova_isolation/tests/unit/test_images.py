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

"""A backing chain is followed within two directories, or refused."""

import dataclasses
import os
import socket
import struct
from unittest import mock

import ddt
import fixtures
from oslotest import base

from nova_isolation import exceptions
from nova_isolation import images
from nova_isolation.tests.qcow2 import BACKING_FORMAT
from nova_isolation.tests.qcow2 import extension
from nova_isolation.tests.qcow2 import header
from nova_isolation.tests.unit import samples

#: what of the cache is the guest's
IMAGES = frozenset(['sha1', 'a b[1]*"ü', 'nbd:x'])


class ImagesTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        top = os.path.realpath(self.useFixture(fixtures.TempDir()).path)
        self.top = top
        self.instance = os.path.join(top, 'instances', 'uuid')
        self.cache = os.path.join(top, 'instances', '_base')
        self.foreign = os.path.join(top, 'instances', 'other')
        for directory in (self.instance, self.cache, self.foreign):
            os.makedirs(directory)
        self.allowed = images.Directories(self.instance, self.cache, IMAGES)
        self.disk = self.write(self.instance, 'disk', header())

    def write(self, directory, name, content=b''):
        path = os.path.join(directory, name)
        with open(path, 'wb') as f:
            f.write(content)
        return path

    def overlay(self, backing, backing_format=b'qcow2', **fields):
        return self.write(
            self.instance,
            'disk',
            header(os.fsencode(backing), backing_format, **fields),
        )

    def chain(self, path=None, image_format='qcow2', stated=None):
        return [
            (layer.path, layer.format)
            for layer in images.chain(
                path or self.disk, image_format, self.allowed, stated
            )
        ]

    def assert_refused(self, *words, path=None, image_format='qcow2'):
        error = self.assertRaises(
            exceptions.UntrustedImage, self.chain, path, image_format
        )
        for word in words:
            self.assertIn(word, error.message)
        return error


class ChainTest(ImagesTestCase):
    def test_a_disk_without_a_backing_file(self):
        self.assertEqual([(self.disk, 'qcow2')], self.chain())

    def test_a_raw_disk_has_no_header_whatever_it_holds(self):
        # QEMU takes the format from the XML, and so do we
        self.overlay(f'{self.foreign}/disk')
        self.assertEqual([(self.disk, 'raw')], self.chain(image_format='raw'))

    def test_an_overlay_on_the_cache(self):
        cached = self.write(self.cache, 'sha1', b'whatever')
        self.overlay(cached, b'raw')
        self.assertEqual([(self.disk, 'qcow2'), (cached, 'raw')], self.chain())

    def test_a_raw_backing_file_ends_the_chain_whatever_it_holds(self):
        cached = self.write(self.cache, 'sha1', header(b'/etc/passwd', b'raw'))
        self.overlay(cached, b'raw')
        self.assertEqual(2, len(self.chain()))

    def test_several_layers(self):
        last = self.write(self.cache, 'sha1', header())
        middle = self.write(self.instance, 'middle', header(os.fsencode(last)))
        self.overlay('middle')
        self.assertEqual(
            [(path, 'qcow2') for path in (self.disk, middle, last)],
            self.chain(),
        )

    def test_any_text_may_stand_in_a_name(self):
        name = 'a b[1]*"ü'
        self.write(self.cache, name)
        self.overlay(f'{self.cache}/{name}', b'raw')
        self.assertEqual(f'{self.cache}/{name}', self.chain()[1][0])

    def test_a_colon_after_a_slash_is_no_protocol(self):
        self.write(self.cache, 'nbd:x')
        self.overlay(f'{self.cache}/nbd:x', b'raw')
        self.assertEqual(f'{self.cache}/nbd:x', self.chain()[1][0])

    def test_a_header_of_version_2(self):
        cached = self.write(self.cache, 'sha1')
        self.overlay(cached, b'raw', version=2)
        self.assertEqual(2, len(self.chain()))

    def test_directories_above_may_be_links(self):
        link = os.path.join(self.top, 'link')
        os.symlink(os.path.join(self.top, 'instances'), link)
        self.allowed = images.Directories(
            f'{link}/uuid', f'{link}/_base', IMAGES
        )
        cached = self.write(self.cache, 'sha1')
        self.overlay(f'{link}/_base/sha1', b'raw')
        # what the kernel sees, for that is what the profile must name
        self.assertEqual(
            [(self.disk, 'qcow2'), (cached, 'raw')],
            self.chain(f'{link}/uuid/disk'),
        )

    def test_sixteen_layers_are_enough_for_anybody(self):
        self.write(self.instance, 'l15', header())
        for n in range(14, 0, -1):
            self.write(self.instance, f'l{n}', header(f'l{n + 1}'.encode()))
        self.overlay('l1')
        self.assertEqual(16, len(self.chain()))
        self.write(self.instance, 'l15', header(b'l16'))
        self.write(self.instance, 'l16', header())
        self.assert_refused('more than 16 layers')


class QemuImgTest(ImagesTestCase):
    """What qemu-img writes is read."""

    def _put(self, name):
        self.write(self.instance, 'disk', samples.image(name))
        self.write(self.instance, 'base')
        self.write(self.instance, 'plain.qcow2', samples.image('plain'))

    def test_plain(self):
        self._put('plain')
        self.assertEqual(1, len(self.chain()))

    def test_on_raw(self):
        for name in ('on-raw', 'on-raw-v2'):
            self._put(name)
            self.assertEqual(
                [(self.disk, 'qcow2'), (f'{self.instance}/base', 'raw')],
                self.chain(),
            )

    def test_on_qcow2(self):
        self._put('on-qcow2')
        self.assertEqual(
            (f'{self.instance}/plain.qcow2', 'qcow2'), self.chain()[1]
        )

    def test_on_json(self):
        self._put('on-json')
        self.assert_refused('json:', 'which is not a file')

    def test_external_data_file(self):
        self._put('external-data')
        self.assert_refused('external data file')

    def test_our_headers_are_as_qemu_img_s(self):
        # so that the other tests speak of what QEMU would read
        sample = samples.image('on-qcow2')
        ours = header(b'plain.qcow2')
        for fmt, at in (('>4sI', 0), ('>I', 16), ('>QQQII', 72)):
            self.assertEqual(
                struct.unpack_from(fmt, sample, at),
                struct.unpack_from(fmt, ours, at),
            )
        self.assertEqual(sample[112:128], ours[112:128])


class StatedTest(ImagesTestCase):
    """The headers say what the domain does, or lie."""

    def setUp(self):
        super().setUp()
        self.base = self.write(self.cache, 'sha1', header())
        self.stated = (images.Layer(self.base, 'qcow2'),)
        self.overlay(self.base)

    def assert_deceives(self, *words):
        error = self.assertRaises(
            exceptions.DeceivingImage, self.chain, stated=self.stated
        )
        for word in words:
            self.assertIn(word, error.message)

    def test_the_same(self):
        self.assertEqual(
            [(self.disk, 'qcow2'), (self.base, 'qcow2')],
            self.chain(stated=self.stated),
        )
        os.unlink(self.base)
        self.assertRaises(
            exceptions.MissingBase, self.chain, stated=self.stated
        )

    def test_a_blank_image_that_is_recorded_may_be_missing(self):
        blank = f'{self.cache}/ephemeral_9_default'
        self.stated = (images.Layer(blank, 'raw'),)
        self.overlay(blank, b'raw')
        self.assertRaises(
            exceptions.MissingBase, self.chain, stated=self.stated
        )

    def test_another_file(self):
        for name in (f'{self.instance}/sha1', f'{self.cache}/swap_9'):
            for there in (False, True):
                if there:
                    self.write(*os.path.split(name))
                self.overlay(name, b'raw')
                self.assert_deceives(name, self.base, self.disk)

    def test_another_format(self):
        self.overlay(self.base, b'raw')
        self.assert_deceives(f'{self.base} (raw)', f'{self.base} (qcow2)')

    def test_fewer_layers(self):
        self.overlay(b'')
        self.assert_deceives('no backing file', self.base)

    def test_more_layers(self):
        own = self.write(self.instance, 'own')
        self.write(self.cache, 'sha1', header(os.fsencode(own), b'raw'))
        self.assert_deceives(own, f'the header of {self.base}')


@ddt.ddt
class UntrustedTest(ImagesTestCase):
    def test_another_guest_s_disk(self):
        victim = self.write(self.foreign, 'disk')
        self.overlay(victim, b'raw')
        self.assert_refused(victim, f'the header of {self.disk}', 'is not in')

    @ddt.data(
        '/etc/passwd',
        '/dev/sda',
        '../other/disk',
        './../other/disk',
        '{cache}/../other/disk',
        '{cache}/sub/base',
        '{instance}/../_base/../other/disk',
        '{cache}//base',
        '.',
        '..',
        '{cache}/',
        '{cache}',
    )
    def test_a_chain_that_leaves_its_directories(self, name):
        self.write(self.cache, 'base')
        self.write(self.foreign, 'disk')
        os.mkdir(f'{self.cache}/sub')
        self.write(f'{self.cache}/sub', 'base')
        name = name.format(cache=self.cache, instance=self.instance)
        self.overlay(name, b'raw')
        self.assert_refused(self.disk)

    def test_another_image_of_the_cache(self):
        # another project's, perhaps
        other = self.write(self.cache, images.cache_name('not-this-one'))
        self.overlay(other, b'raw')
        error = self.assert_refused(other, 'none of the images that Nova')
        self.assertIsInstance(error, exceptions.DeceivingImage)

    def test_what_nova_makes_empty_for_all(self):
        for name in ('ephemeral_1_default', 'ephemeral_20_40d1d2c', 'swap_64'):
            self.write(self.cache, name)
            self.overlay(f'{self.cache}/{name}', b'raw')
            self.assertEqual(2, len(self.chain()))
        for name in ('ephemeral_1_default.x', 'swap_', 'xswap_1', 'swap_1x'):
            self.write(self.cache, name)
            self.overlay(f'{self.cache}/{name}', b'raw')
            self.assert_refused('none of the images')

    def test_what_only_the_guest_can_have_written_is_an_attack(self):
        for backing in (f'{self.foreign}/disk', 'json:{}', '../other/disk'):
            self.overlay(backing, b'raw')
            error = self.assert_refused()
            self.assertIsInstance(error, exceptions.DeceivingImage, backing)
        # and this is not
        os.unlink(self.disk)
        os.symlink('/etc/passwd', self.disk)
        error = self.assert_refused()
        self.assertNotIsInstance(error, exceptions.DeceivingImage)

    @ddt.data('\0', 'base\0', 'base\0x', '/etc/passwd\0')
    def test_a_name_that_ends_early(self, name):
        self.write(self.instance, 'base')
        self.overlay(name, b'raw')
        self.assert_refused(repr(name), 'not a plain path')

    @ddt.data(
        'json:{"driver":"file","filename":"/etc/passwd"}',
        'nbd:localhost:10809',
        'nbd://host/x',
        'file:/etc/passwd',
        'host_device:/dev/sda',
        'fat:rw:/etc',
        'https://host/x',
        'rbd:pool/image',
        ':x',
    )
    def test_what_qemu_takes_for_a_protocol(self, name):
        # a file of that name is there, and is not what QEMU would open
        with open(f'{self.instance}/{name.partition("/")[0]}', 'w'):
            pass
        self.overlay(name, b'raw')
        self.assert_refused(repr(name), 'which is not a file')

    def test_the_disk_itself_has_to_be_the_instance_s_own(self):
        cached = self.write(self.cache, 'sha1', header())
        self.assert_refused(
            cached, 'named by the domain', 'is not in', path=cached
        )

    def test_an_instance_directory_that_is_a_link(self):
        os.rename(self.instance, f'{self.top}/elsewhere')
        os.symlink(f'{self.top}/elsewhere', self.instance)
        self.assert_refused(self.instance, 'is a symbolic link')

    def test_a_disk_that_is_a_link(self):
        victim = self.write(self.foreign, 'disk')
        os.unlink(self.disk)
        os.symlink(victim, self.disk)
        for image_format in ('raw', 'qcow2'):
            self.assert_refused(
                self.disk, 'is a symbolic link', image_format=image_format
            )

    def test_a_backing_file_that_is_a_link(self):
        victim = self.write(self.foreign, 'disk')
        os.symlink(victim, f'{self.instance}/base')
        self.overlay('base', b'raw')
        self.assert_refused('base', 'is a symbolic link')

    def test_a_fifo_is_not_waited_for(self):
        os.unlink(self.disk)
        os.mkfifo(self.disk)
        self.assert_refused('is not a regular file', image_format='raw')

    def test_a_socket_or_a_directory(self):
        os.unlink(self.disk)
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(self.disk)
            self.assert_refused(self.disk, image_format='raw')
        os.unlink(self.disk)
        os.mkdir(self.disk)
        self.assert_refused('is not a regular file', image_format='raw')

    def test_a_device(self):
        self.allowed = images.Directories('/dev', self.cache)
        self.assert_refused(
            'is not a regular file', path='/dev/null', image_format='raw'
        )

    def test_a_loop(self):
        self.overlay(self.disk)
        self.assert_refused('is a loop', self.disk)
        self.overlay('middle')
        self.write(self.instance, 'middle', header(b'disk'))
        self.assert_refused('is a loop', f'{self.instance}/middle')

    def test_a_loop_by_another_name_of_the_file(self):
        os.link(self.disk, f'{self.instance}/twin')
        self.overlay('twin')
        self.assert_refused('is a loop')

    def test_a_missing_file_is_told_apart(self):
        # a hard reboot fetches it
        self.overlay(f'{self.cache}/sha1', b'raw')
        error = self.assertRaises(exceptions.MissingBase, self.chain)
        self.assertIn(f'{self.cache}/sha1', error.message)
        self.assertIn('does not exist', error.message)
        os.unlink(self.disk)
        error = self.assertRaises(exceptions.MissingImage, self.chain)
        self.assertNotIsInstance(error, exceptions.MissingBase)

    @ddt.data('{instance}/sha1', 'sha1', '{cache}/ephemeral_9_default')
    def test_a_missing_file_that_nova_would_make_for_somebody_else(self, name):
        name = name.format(instance=self.instance, cache=self.cache)
        self.overlay(name, b'raw')
        error = self.assertRaises(exceptions.MissingImage, self.chain)
        self.assertNotIsInstance(error, exceptions.MissingBase)

    @ddt.data(
        ({'magic': b'VMDK'}, 'does not begin with a qcow2 header'),
        ({'version': 1}, 'version 1'),
        ({'version': 4}, 'version 4'),
        ({'incompatible': 1 << 2}, 'external data file'),
        ({'backing': b'x', 'backing_format': None}, "the format ''"),
        ({'backing': b'x', 'backing_format': b'vmdk'}, "'vmdk'"),
        ({'backing': b'x', 'backing_format': b''}, "the format ''"),
        ({'backing': b'x', 'backing_format': b'\xff'}, 'decode'),
        ({'backing': b'\xff\xfe'}, 'decode'),
        ({'backing': b'x', 'length': 0}, 'has 0 bytes'),
        ({'backing': b'x', 'length': 1024}, 'has 1024 bytes'),
        ({'backing': b'x', 'length': 2**32 - 1}, 'bytes'),
        ({'backing': b'x', 'length': 9}, 'is cut off'),
        ({'backing': b'x', 'offset': 2**64 - 1}, 'is cut off'),
        ({'backing': b'x', 'offset': 2**63}, 'is cut off'),
        ({'backing': b'x', 'offset': 1 << 30}, 'is cut off'),
        ({'backing': b'x', 'size': 2**32 - 1}, "the format ''"),
    )
    @ddt.unpack
    def test_a_header_that_lies(self, fields, why):
        self.write(self.instance, 'disk', header(**fields))
        self.assert_refused(
            f'{self.disk} is not a qcow2 image that can be followed', why
        )

    def test_a_format_that_is_told_twice(self):
        # we would stop at the first, and QEMU go on with the last
        twice = b'raw'.ljust(8, b'\0') + extension(BACKING_FORMAT, b'qcow2')
        content = bytearray(header(b'base', twice))
        struct.pack_into('>I', content, 116, 3)
        self.write(self.instance, 'disk', bytes(content))
        self.write(self.instance, 'base', header(b'/etc/passwd'))
        self.assert_refused("'raw and qcow2'")

    def test_a_header_that_reads_otherwise_without_padding(self):
        # QEMU pads an extension to 8 bytes, libvirt's own reader does not:
        # what we would take for padding is an extension to libvirt
        hidden = b'raw' + struct.pack('>II', BACKING_FORMAT, 5) + b'qcow2'
        content = bytearray(header(b'base', hidden))
        struct.pack_into('>I', content, 116, 3)
        self.write(self.instance, 'disk', bytes(content))
        self.write(self.instance, 'base')
        self.assert_refused("'ambiguous'")

    def test_an_extension_that_is_longer_than_all_of_them(self):
        content = bytearray(header(b'base', b'raw'))
        struct.pack_into('>I', content, 116, 2**32 - 1)
        self.write(self.instance, 'disk', bytes(content))
        self.write(self.instance, 'base')
        self.assertRaises(exceptions.UntrustedImage, self.chain)

    def test_every_truncation_is_refused_or_whole(self):
        self.write(self.instance, 'base')
        whole = header(b'base', b'raw')
        for length in range(len(whole)):
            self.write(self.instance, 'disk', whole[:length])
            self.assert_refused(self.disk)
        self.overlay('base', b'raw')
        self.assertEqual(2, len(self.chain()))

    def test_no_descriptor_is_left_open(self):
        before = len(os.listdir('/proc/self/fd'))
        self.overlay('/etc/passwd', b'raw')
        self.assertRaises(exceptions.UntrustedImage, self.chain)
        self.overlay('base', b'raw')
        self.write(self.instance, 'base')
        self.chain()
        self.assertEqual(before, len(os.listdir('/proc/self/fd')))


class VolumeTest(ImagesTestCase):
    """Volumes in files of a share that Nova has mounted."""

    def setUp(self):
        super().setUp()
        self.mounts = os.path.join(self.top, 'mnt')
        self.share = os.path.join(self.mounts, 'd41d8cd98f00b204')
        os.makedirs(self.share)
        self.allowed = dataclasses.replace(self.allowed, volumes=self.mounts)
        self.volume = self.write(self.share, 'volume-1', header())

    def active(self, backing):
        """What Cinder makes of a volume that has a snapshot."""
        return self.write(self.share, 'volume-1.9', header(backing.encode()))

    def test_a_volume_is_where_the_domain_says(self):
        for image_format in ('raw', 'qcow2'):
            self.assertEqual(
                [(self.volume, image_format)],
                self.chain(self.volume, image_format),
            )

    def test_one_whose_share_is_not_mounted_is_told_apart(self):
        os.unlink(self.volume)
        for image_format in ('raw', 'qcow2'):
            self.assertRaises(
                exceptions.MissingVolume,
                self.chain,
                self.volume,
                image_format,
            )

    def test_a_raw_one_need_not_be_readable(self):
        with mock.patch.object(os, 'open', wraps=os.open) as opened:
            self.chain(self.volume, 'raw')
        [(_, flags)] = [call.args for call in opened.call_args_list]
        self.assertTrue(flags & os.O_PATH)

    def test_its_snapshots_are_beside_it(self):
        first = self.write(self.share, 'volume-1.8', header(b'volume-1'))
        active = self.active(first)
        self.assertEqual(
            [active, first, self.volume],
            [path for path, _ in self.chain(active)],
        )

    def test_no_other_file_is_one_of_them(self):
        other = self.write(self.share, 'volume-2', header())
        elsewhere = os.path.join(self.mounts, 'other')
        os.makedirs(elsewhere)
        same = self.write(elsewhere, 'volume-1', header())
        cached = self.write(self.cache, 'sha1', header())
        for path in (
            other,
            'volume-2',
            'volume-10',
            same,
            '../other/volume-1',
            self.disk,
            cached,
            '/etc/passwd',
        ):
            error = self.assert_refused(path=self.active(path))
            self.assertIsInstance(error, exceptions.DeceivingImage)

    def test_no_disk_of_an_instance_has_a_volume_behind_it(self):
        self.overlay(self.volume)
        error = self.assert_refused(self.volume)
        self.assertIsInstance(error, exceptions.DeceivingImage)

    def test_a_volume_is_just_below_a_share(self):
        below = os.path.join(self.share, 'sub')
        os.makedirs(below)
        for directory in (self.mounts, below, self.foreign):
            self.assert_refused(path=self.write(directory, 'volume-1'))

    def test_a_volume_that_is_a_link(self):
        path = os.path.join(self.share, 'volume-3')
        os.symlink(self.volume, path)
        for image_format in ('raw', 'qcow2'):
            self.assert_refused(
                'is a symbolic link', path=path, image_format=image_format
            )

    def test_where_nova_mounts_no_shares_there_are_none(self):
        self.allowed = dataclasses.replace(self.allowed, volumes='')
        self.assert_refused('is not in', path=self.volume)

    def test_nothing_else_of_a_guest_is_there(self):
        self.assertRaises(
            exceptions.UntrustedImage, images.place, self.volume, self.allowed
        )
