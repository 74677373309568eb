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

"""A domain is understood wholly, or what is not is named."""

import dataclasses
import time

import ddt
from oslotest import base

from nova_isolation import domain
from nova_isolation.domain.characters import Character
from nova_isolation.domain.devices import Rng
from nova_isolation.domain.disks import Disk
from nova_isolation.domain.disks import FileSource
from nova_isolation.domain.disks import Layer
from nova_isolation.domain.graphics import Audio
from nova_isolation.domain.graphics import Graphics
from nova_isolation.domain.interfaces import Interface
from nova_isolation.domain.interfaces import Tap
from nova_isolation.domain.model import SecurityLabel
from nova_isolation import exceptions
from nova_isolation.tests.unit.domain import xml
from nova_isolation.tests.unit import samples

UUID = xml.UUID
INSTANCES = '/var/lib/nova/instances'


def image(path, image_format='raw'):
    return Layer(FileSource(path), image_format)


class SamplesTest(base.BaseTestCase):
    """What Nova and libvirt really write."""

    def test_what_nova_defines(self):
        found = domain.parse(samples.domain('nova-34'))
        uuid = '8887d9d3-17f8-4388-8771-fab6312518d6'
        directory = f'{INSTANCES}/{uuid}'
        self.assertEqual(
            domain.Domain(
                uuid=uuid,
                name='instance-00000001',
                type='kvm',
                # libvirt fills it in
                emulator='',
                instance=domain.Instance(
                    name='jwfzkewaqzazjlxuvcck',
                    flavor='m1.tiny',
                    image_id='155d900f-4e14-4e4c-a73d-069cbf4541e6',
                ),
                disks=(Disk('vda', 'disk', image(f'{directory}/disk')),),
                interfaces=(
                    Interface(
                        Tap('00:0c:29:0d:11:74', 'ethernet', 'tap88dae9fa-0d')
                    ),
                ),
                characters=(
                    Character('serial', 'pty', log=f'{directory}/console.log'),
                ),
                graphics=(Graphics('vnc', ('127.0.0.1',)),),
                rngs=(Rng('random', '/dev/urandom'),),
            ),
            found,
        )

    def _assert_libvirt(self, found, number, pty, chains=(None, None)):
        directory = f'{INSTANCES}/{UUID}'
        console = Character(
            'serial', 'pty', pty, log=f'{directory}/console.log'
        )
        labels = [SecurityLabel('apparmor', 'dynamic')]
        ports = ()
        if number is not None:
            labels.append(SecurityLabel('dac', 'dynamic'))
            ports = (5900,)
        self.assertEqual(
            domain.Domain(
                uuid=UUID,
                name='instance-00000001',
                id=number,
                type='qemu',
                emulator='/usr/bin/qemu-system-x86_64',
                instance=domain.Instance(
                    name='web1',
                    project_id='ad8b00a3b3fe52e5bfc6d82b08ec225b',
                    project_name='lab',
                    user_id='fc020a4bf1785ce3bd52732572c469b9',
                    user_name='admin',
                    flavor='tiny',
                    image_id='656d7074-0000-4000-8000-000000000001',
                ),
                labels=tuple(labels),
                disks=(
                    Disk(
                        'vda',
                        'disk',
                        image(f'{directory}/disk', 'qcow2'),
                        chains[0],
                    ),
                    Disk(
                        'hda',
                        'cdrom',
                        image(f'{directory}/disk.config'),
                        chains[1],
                        readonly=True,
                    ),
                ),
                interfaces=(
                    Interface(
                        Tap('fa:16:3e:13:de:21', 'ethernet', 'tap13de2101-1e')
                    ),
                ),
                characters=(
                    console,
                    dataclasses.replace(console, device='console'),
                ),
                graphics=(Graphics('vnc', ('127.0.0.1',), ports=ports),),
                audios=(Audio('none'),),
                rngs=(Rng('random', '/dev/urandom'),),
            ),
            found,
        )

    def test_what_libvirt_will_start(self):
        found = domain.parse(samples.domain('libvirt-11.3-defined'))
        self._assert_libvirt(found, None, None)

    def test_what_libvirt_runs(self):
        found = domain.parse(samples.domain('libvirt-11.3-running'))
        base = f'{INSTANCES}/_base/407f778cec1c0f3f6b62f8e45bc3da5a26fb89ce'
        self._assert_libvirt(found, 1, '/dev/pts/0', ((image(base),), ()))

    def test_what_libvirt_saved(self):
        found = domain.parse(samples.domain('libvirt-11.3-saved'))
        self.assertEqual(UUID, found.uuid)
        self.assertEqual((), found.unknown)
        self.assertEqual(2, len(found.disks))


class BackingStoreTest(base.BaseTestCase):
    """What the XML names in place of the headers."""

    def test_a_chain_is_read_to_its_end(self):
        found = domain.parse(
            xml.disk(
                "<driver type='qcow2'/><source file='/i/disk'/>"
                "<backingStore type='file'><format type='qcow2'/>"
                "<source file='/i/a'/><backingStore type='file'>"
                "<source file='/i/b'/><backingStore/></backingStore>"
                '</backingStore>'
            )
        )
        self.assertEqual(
            (image('/i/a', 'qcow2'), image('/i/b', '')), found.disks[0].backing
        )
        self.assertEqual((), found.unknown)


@ddt.ddt
class CoveredTest(base.BaseTestCase):
    def _parse(self, *args, **kwargs):
        found = domain.parse(*args, **kwargs)
        self.assertEqual((), found.unknown)
        return found

    def test_a_bare_domain(self):
        found = self._parse(xml.make())
        self.assertEqual(
            (UUID, 'instance-00000001', None, 'kvm'),
            (found.uuid, found.name, found.id, found.type),
        )
        self.assertEqual('/usr/bin/qemu-system-x86_64', found.emulator)
        self.assertEqual(domain.Instance(), found.instance)
        self.assertEqual((), found.interfaces + found.graphics)

    def test_a_running_domain_has_its_number(self):
        self.assertEqual(42, self._parse(xml.make(attributes="id='42'")).id)

    def test_a_uuid_in_capitals_is_the_same(self):
        self.assertEqual(UUID, self._parse(xml.make(uuid=UUID.upper())).uuid)

    def test_a_disk_without_a_driver_is_raw(self):
        [found] = self._parse(xml.disk()).disks
        self.assertEqual(Disk('vda', 'disk', image('/i/disk')), found)

    def test_a_disk_is_qcow2_when_its_driver_says_so(self):
        text = xml.disk("<driver type='qcow2'/><source file='/i/disk'/>")
        self.assertEqual('qcow2', self._parse(text).disks[0].top.format)

    def test_a_disk_is_read_only_when_it_says_so(self):
        text = xml.disk("<source file='/i/disk'/><readonly/>")
        self.assertTrue(self._parse(text).disks[0].readonly)

    def test_a_cdrom_is_read_only(self):
        text = xml.disk(attributes="type='file' device='cdrom'")
        self.assertTrue(self._parse(text).disks[0].readonly)

    def test_a_cdrom_may_be_empty(self):
        text = xml.disk('', "type='file' device='cdrom'")
        self.assertEqual((), self._parse(text).disks)

    def test_any_text_may_stand_in_a_path(self):
        text = xml.disk('<source file="/i/a&#10;b [*] {x} &apos;ü&quot;"/>')
        self.assertEqual(
            '/i/a\nb [*] {x} \'ü"', self._parse(text).disks[0].path
        )

    def test_a_console_into_a_file(self):
        text = xml.make(
            devices="<serial type='file'><source path='/i/console.log'/>"
            '</serial>'
        )
        [found] = self._parse(text).consoles
        self.assertEqual(Character('serial', 'file', '/i/console.log'), found)

    @ddt.data(
        "<rng model='virtio'><backend model='random'/></rng>",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend>"
        '</rng>',
        "<rng model='virtio'><backend model='builtin'/></rng>",
        "<input type='tablet'/>",
        "<input type='keyboard'/>",
        "<audio id='1' type='none'/>",
        "<video><model type='virtio'/></video>",
        "<video><model type='virtio' device='virtio-vga'/></video>",
        "<controller type='usb'/>",
        "<memballoon model='virtio'/>",
    )
    def test_a_device_that_is_the_emulator_s_own(self, text):
        self._parse(xml.make(devices=text))

    @ddt.data(
        "<seclabel type='dynamic' model='apparmor' relabel='yes'/>",
        "<seclabel type='dynamic' model='dac' relabel='yes'/>",
        "<sysinfo type='smbios'/>",
        '<iothreads>1</iothreads>',
        '<!-- said by somebody -->',
        '<?somebody says?>',
    )
    def test_an_element_that_gives_nothing(self, text):
        self._parse(xml.make(top=text))


@ddt.ddt
class UnknownTest(base.BaseTestCase):
    """What is not modelled is named, so that the guest is refused."""

    def _assert_named(self, text, name):
        self.assertEqual((name,), domain.parse(text).unknown)

    @ddt.data(
        ('<newdevice/>', '<newdevice>'),
        ("<lease type='x'><a/></lease>", '<lease>'),
        ("<hostdev type='new'/>", "<hostdev> type='new'"),
        ("<tpm new='1'/>", "<tpm> new='1'"),
        ("<rng><backend model='new'/></rng>", "<rng> <backend> model='new'"),
        ('<video><new/></video>', '<video> <new>'),
        (
            "<video><model type='virtio' device='virtio-vga-gl'/></video>",
            "<video> <model> device='virtio-vga-gl'",
        ),
        ("<shmem name='a'><size>1</size><b/></shmem>", '<shmem> a <b>'),
        ("<vsock model='virtio'>text</vsock>", "<vsock> text 'text'"),
        (
            "<graphics type='vnc'><listen type='new'/></graphics>",
            "<graphics> vnc <listen> type='new'",
        ),
        (
            "<interface type='ethernet'><mac address='m'/><new/></interface>",
            '<interface> m <new>',
        ),
        (
            "<interface type='new'><mac address='m'/></interface>",
            "<interface> m type='new'",
        ),
        ("<foreign:x xmlns:foreign='http://x'/>", '<x>'),
        ("<serial type='new'/>", "<serial> type='new'"),
    )
    @ddt.unpack
    def test_a_device(self, text, name):
        self._assert_named(xml.make(devices=text), name)

    @ddt.data(
        ("type='new'", '', "<disk> vda type='new'"),
        (
            "type='file' device='new'",
            "<source file='/d'/>",
            "<disk> vda device='new'",
        ),
        (
            "type='file'",
            "<source file='/d' fdgroup='g'/>",
            "<disk> vda <source> fdgroup='g'",
        ),
        (
            "type='file'",
            "<source file='/d'/><source file='/e'/>",
            '<disk> vda <source>',
        ),
        (
            "type='file'",
            "<driver io='new'/><source file='/d'/>",
            "<disk> vda <driver> io='new'",
        ),
        (
            "type='file'",
            "<driver type='new'/><source file='/d'/>",
            "<disk> vda <driver> type='new'",
        ),
        (
            "type='file'",
            "<source file='/d'/><backingStore type='new'/>",
            "<disk> vda <backingStore> type='new'",
        ),
        (
            "type='file'",
            "<source file='/d'/><backingStore type='file'>"
            "<source file='/b'/><backingStore type='file'>"
            "<source file='/c' new='1'/></backingStore></backingStore>",
            "<disk> vda <backingStore> <source> new='1'",
        ),
    )
    @ddt.unpack
    def test_a_disk(self, attributes, inner, name):
        self._assert_named(xml.disk(inner, attributes), name)

    @ddt.data(
        ('<bootloader>/x</bootloader>', '<bootloader>'),
        ('<new2030/>', '<new2030>'),
        ("<sysinfo type='new'/>", "<sysinfo> type='new'"),
        ('<memoryBacking><new/></memoryBacking>', '<memoryBacking> <new>'),
        ("<launchSecurity type='new'/>", "<launchSecurity> type='new'"),
        (
            '<qemu:commandline><qemu:new/></qemu:commandline>',
            '<qemu:commandline> <qemu:new>',
        ),
    )
    @ddt.unpack
    def test_an_element_of_the_domain(self, text, name):
        self._assert_named(xml.make(top=text), name)

    @ddt.data(
        ('<init>/sbin/init</init>', '<os> <init>'),
        ("<loader new='1'>/l</loader>", "<os> <loader> new='1'"),
    )
    @ddt.unpack
    def test_something_to_boot_from(self, text, name):
        self._assert_named(xml.make(os=text), name)

    def test_another_kind_of_machine(self):
        text = xml.make().replace('hvm', 'exe')
        self._assert_named(text, "<os> <type> text 'exe'")

    def test_a_second_list_of_devices(self):
        text = xml.make().replace(
            '</domain>', '<devices><disk/></devices></domain>'
        )
        self._assert_named(text, '<devices>')

    def test_everything_is_named(self):
        found = domain.parse(xml.make(top='<new1/>', devices='<new2/><new3/>'))
        self.assertEqual({'<new1>', '<new2>', '<new3>'}, set(found.unknown))

    def test_so_much_that_nobody_reads_it_is_counted(self):
        found = domain.parse(xml.make(devices='<new/>' * 10_000)).unknown
        self.assertEqual(51, len(found))
        self.assertEqual('and 9950 more', found[-1])


@ddt.ddt
class InvalidTest(base.BaseTestCase):
    def _assert_invalid(self, text, *words):
        error = self.assertRaises(exceptions.InvalidDomain, domain.parse, text)
        for word in words:
            self.assertIn(word, error.message)

    @ddt.data('', ' ', 'domain', '<domain>', '<a/><b/>', '\0', '\ud800')
    def test_what_is_no_xml(self, text):
        self._assert_invalid(text, 'cannot be parsed')

    @ddt.data(
        '<!DOCTYPE domain SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE domain [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE domain [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>',
    )
    def test_a_document_type(self, declaration):
        self._assert_invalid(
            declaration
            + xml.make(name='x&e;' if 'e SYSTEM' in declaration else 'x'),
            'document type declaration',
        )

    def test_a_bomb(self):
        entities = ''.join(
            f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12)
        )
        self._assert_invalid(
            f'<!DOCTYPE domain [<!ENTITY l0 "x">{entities}]>'
            + xml.make(name='&l11;')
        )

    def test_more_than_any_guest_needs(self):
        self._assert_invalid(
            xml.make(top=' ' * 4 * 1024 * 1024), 'more than the 4194304'
        )

    def test_a_depth_that_no_domain_has(self):
        self._assert_invalid(xml.make(top='<a>' * 5000 + '</a>' * 5000))

    def test_another_element(self):
        self._assert_invalid('<network/>', 'begins with <network>')

    @ddt.data('', 'x', UUID[:-1], UUID + '0', f'{UUID}/../x', '../../../etc')
    def test_a_uuid(self, uuid):
        self._assert_invalid(xml.make(uuid=uuid), 'no valid <uuid>')

    @ddt.data('', 'a/b', '/', 'a\nb', 'a\x7fb', '\u202eb')
    def test_a_name(self, name):
        self._assert_invalid(xml.make(name=name), 'no usable <name>', UUID)

    @ddt.data('-1', '1.5', 'x', '', '1' * 10, '\u0661')
    def test_a_number(self, number):
        self._assert_invalid(
            xml.make(attributes=f"id='{number}'"), 'usable id'
        )

    @ddt.data('disk', './disk', '/i/../j/disk', '/i/./disk', '..')
    def test_a_path_that_is_not_plain(self, path):
        for text in (
            xml.disk(f"<source file='{path}'/>"),
            xml.make(emulator=path),
            xml.make(
                devices=f"<serial type='file'><source path='{path}'/></serial>"
            ),
            xml.make(
                devices=f"<serial type='pty'><source path='{path}'/></serial>"
            ),
            xml.make(
                devices=f"<serial type='pty'><log file='{path}'/></serial>"
            ),
        ):
            self._assert_invalid(text, 'not a plain absolute path')

    @ddt.data(
        ("<serial type='file'/>", 'no path'),
        ("<serial type='dev'/>", 'no path'),
        (
            "<serial type='file'><source path='/a'/><source path='/b'/>"
            '</serial>',
            'more than one source',
        ),
        ("<disk type='file'><target dev='vda'/></disk>", '<disk> vda'),
        (
            "<disk type='file'><source file='/d'/>"
            "<backingStore type='file'/></disk>",
            'no source',
        ),
        (
            "<disk type='file'><source file='/d'><dataStore type='file'/>"
            '</source></disk>',
            'no source',
        ),
        ("<hostdev type='pci'><source/></hostdev>", 'no device'),
        (
            "<hostdev type='pci'><source><address bus='x'/></source>"
            '</hostdev>',
            'no number',
        ),
        (
            "<hostdev type='pci'><source><address bus='0x100'/></source>"
            '</hostdev>',
            'no PCI address',
        ),
        (
            "<hostdev type='mdev'><source><address uuid='../x'/></source>"
            '</hostdev>',
            'no device',
        ),
        ("<hostdev type='usb'><source/></hostdev>", 'no device'),
        (
            "<hostdev type='scsi'><source><adapter name='../x'/>"
            "<address bus='0' target='0' unit='0'/></source></hostdev>",
            'no device',
        ),
        (
            "<hostdev type='scsi_host'><source protocol='vhost' wwpn='x'/>"
            '</hostdev>',
            'no device',
        ),
        ("<interface type='hostdev'/>", 'no usable source'),
        ("<interface type='vhostuser'/>", 'no usable source'),
        ("<interface type='vdpa'/>", 'no usable source'),
        ("<memory model='nvdimm'/>", 'no path'),
        (
            "<memory model='dimm'><source><pagesize>x</pagesize></source>"
            '</memory>',
            'no number',
        ),
        ("<shmem name='../x'/>", 'no usable name'),
        ("<input type='evdev'/>", 'no device'),
        ("<tpm><backend type='passthrough'/></tpm>", 'no path'),
        (
            "<tpm><backend type='external'><source path='x'/></backend></tpm>",
            'not a plain absolute path',
        ),
    )
    @ddt.unpack
    def test_a_device_that_lacks_what_it_needs(self, text, words):
        self._assert_invalid(xml.make(devices=text), words)


class BoundedTest(base.BaseTestCase):
    """What no guest has is refused, and at once."""

    def _assert_refused(self, text, words):
        before = time.process_time()
        error = self.assertRaises(exceptions.InvalidDomain, domain.parse, text)
        # of the processor: it takes some tenths of a second
        self.assertLess(time.process_time() - before, 10)
        self.assertIn(words, error.message)

    def test_ten_thousand_disks(self):
        one = "<disk type='file'><source file='/d'/><target dev='vda'/></disk>"
        self._assert_refused(
            xml.make(devices=one * 10_000), '10000 devices, more than the 1024'
        )

    def test_a_million_elements(self):
        for text in (
            f'<domain>{"<a/>" * 1_000_000}</domain>',
            xml.make(devices='<disk/>' * 500_000),
        ):
            self._assert_refused(text, 'elements, more than the 50000')

    def _chain(self, length):
        layer = "<backingStore type='file'><source file='/b'/>"
        inner = layer * length + '</backingStore>' * length
        return xml.disk(f"<source file='/d'/>{inner}")

    def test_a_chain_of_two_hundred_layers(self):
        self._assert_refused(self._chain(200), 'more than 16 layers')

    def test_a_chain_deeper_than_any_xml(self):
        self._assert_refused(self._chain(10_000), 'cannot be parsed')


class IsUuidTest(base.BaseTestCase):
    def test_only_the_form_that_names_a_profile(self):
        self.assertTrue(domain.is_uuid(UUID))
        for other in (
            UUID.upper(),
            UUID + '\n',
            f' {UUID}',
            '',
            None,
            1,
            UUID.encode(),
            UUID.replace('-', ''),
        ):
            self.assertFalse(domain.is_uuid(other), other)
