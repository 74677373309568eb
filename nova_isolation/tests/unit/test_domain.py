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

import ddt
from oslotest import base

from nova_isolation import domain
from nova_isolation import exceptions
from nova_isolation.tests.unit import samples

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
INSTANCES = '/var/lib/nova/instances'

#: the least domain, with a place for what a test adds
XML = """
<domain type='{kind}' {attributes}
 xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  {top}
  <os {os_attributes}><type>hvm</type>{os}</os>
  <devices>
    <emulator>{emulator}</emulator>
    {devices}
  </devices>
</domain>
"""


def xml(**parts):
    defaults = {
        'kind': 'kvm',
        'attributes': '',
        'name': 'instance-00000001',
        'uuid': UUID,
        'top': '',
        'os_attributes': '',
        'os': '',
        'emulator': '/usr/bin/qemu-system-x86_64',
        'devices': '',
    }
    return XML.format(**{**defaults, **parts}).strip()


def disk(inner="<source file='/i/disk'/>", attributes="type='file'"):
    return xml(devices=f"<disk {attributes}>{inner}<target dev='vda'/></disk>")


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
                id=None,
                type='kvm',
                # libvirt fills it in
                emulator='',
                instance=domain.Instance(
                    name='jwfzkewaqzazjlxuvcck',
                    flavor='m1.tiny',
                    image_id='155d900f-4e14-4e4c-a73d-069cbf4541e6',
                ),
                disks=(domain.Disk('vda', f'{directory}/disk', 'raw', False),),
                consoles=(
                    domain.Console('pty', None, f'{directory}/console.log'),
                ),
                taps=True,
                vnc=('127.0.0.1',),
                uncovered=(),
            ),
            found,
        )

    def _assert_libvirt(self, found, number, pty, chains=(None, None)):
        directory = f'{INSTANCES}/{UUID}'
        console = domain.Console('pty', pty, f'{directory}/console.log')
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
                disks=(
                    domain.Disk(
                        'vda', f'{directory}/disk', 'qcow2', False, chains[0]
                    ),
                    domain.Disk(
                        'hda',
                        f'{directory}/disk.config',
                        'raw',
                        True,
                        chains[1],
                    ),
                ),
                consoles=(console, console),
                taps=True,
                vnc=('127.0.0.1',),
                uncovered=(),
            ),
            found,
        )

    def test_what_libvirt_will_start(self):
        found = domain.parse(samples.domain('libvirt-11.3-defined'))
        self._assert_libvirt(found, None, None)

    def test_what_libvirt_runs(self):
        found = domain.parse(samples.domain('libvirt-11.3-running'))
        base = f'{INSTANCES}/_base/407f778cec1c0f3f6b62f8e45bc3da5a26fb89ce'
        self._assert_libvirt(found, 1, '/dev/pts/0', ((base,), ()))

    def test_what_libvirt_saved(self):
        found = domain.parse(samples.domain('libvirt-11.3-saved'))
        self.assertEqual(UUID, found.uuid)
        self.assertEqual((), found.uncovered)
        self.assertEqual(2, len(found.disks))


class BackingStoreTest(base.BaseTestCase):
    """What the XML names in place of the headers."""

    def _disk(self, store):
        return domain.parse(
            xml(
                devices="<disk type='file'><driver type='qcow2'/>"
                f"<source file='/i/disk'/><target dev='vda'/>{store}</disk>"
            )
        )

    def test_a_chain_is_read_to_its_end(self):
        found = self._disk(
            "<backingStore type='file'><format type='qcow2'/>"
            "<source file='/i/a'/><backingStore type='file'>"
            "<source file='/i/b'/><backingStore/></backingStore>"
            '</backingStore>'
        )
        self.assertEqual(('/i/a', '/i/b'), found.disks[0].backing)
        self.assertEqual((), found.uncovered)

    def test_another_source_is_named(self):
        found = self._disk(
            "<backingStore type='block'><source dev='/dev/sda'/>"
            '</backingStore>'
        )
        self.assertIn('backing store', found.uncovered[0])


@ddt.ddt
class CoveredTest(base.BaseTestCase):
    def _parse(self, *args, **kwargs):
        found = domain.parse(*args, **kwargs)
        self.assertEqual((), found.uncovered)
        return found

    def test_a_bare_domain(self):
        found = self._parse(xml())
        self.assertEqual(
            (UUID, 'instance-00000001', None, 'kvm'),
            (found.uuid, found.name, found.id, found.type),
        )
        self.assertEqual('/usr/bin/qemu-system-x86_64', found.emulator)
        self.assertEqual(domain.Instance(), found.instance)
        self.assertFalse(found.taps)
        self.assertEqual((), found.vnc)

    def test_a_running_domain_has_its_number(self):
        self.assertEqual(42, self._parse(xml(attributes="id='42'")).id)

    def test_a_uuid_in_capitals_is_the_same(self):
        self.assertEqual(UUID, self._parse(xml(uuid=UUID.upper())).uuid)

    def test_a_disk_without_a_driver_is_raw(self):
        [found] = self._parse(disk()).disks
        self.assertEqual(domain.Disk('vda', '/i/disk', 'raw', False), found)

    def test_a_disk_is_qcow2_when_its_driver_says_so(self):
        text = disk("<driver type='qcow2'/><source file='/i/disk'/>")
        self.assertEqual('qcow2', self._parse(text).disks[0].format)

    def test_a_disk_is_read_only_when_it_says_so(self):
        text = disk("<source file='/i/disk'/><readonly/>")
        self.assertTrue(self._parse(text).disks[0].readonly)

    def test_a_cdrom_is_read_only(self):
        text = disk(attributes="type='file' device='cdrom'")
        self.assertTrue(self._parse(text).disks[0].readonly)

    def test_a_cdrom_may_be_empty(self):
        text = disk('', "type='file' device='cdrom'")
        self.assertEqual((), self._parse(text).disks)

    def test_any_text_may_stand_in_a_path(self):
        text = disk('<source file="/i/a&#10;b [*] {x} &apos;ü&quot;"/>')
        self.assertEqual(
            '/i/a\nb [*] {x} \'ü"', self._parse(text).disks[0].path
        )

    def test_a_console_into_a_file(self):
        text = xml(
            devices="<serial type='file'><source path='/i/console.log'/>"
            '</serial>'
        )
        [found] = self._parse(text).consoles
        self.assertEqual(domain.Console('file', '/i/console.log', None), found)

    @ddt.data(
        ("<graphics type='vnc'/>", ('127.0.0.1',)),
        ("<graphics type='vnc' listen='::'/>", ('::',)),
        (
            "<graphics type='vnc' listen='10.0.0.1'><listen type='address'"
            " address='10.0.0.2'/></graphics>",
            ('10.0.0.1', '10.0.0.2'),
        ),
    )
    @ddt.unpack
    def test_vnc_listens_where_the_domain_says(self, text, addresses):
        self.assertEqual(addresses, self._parse(xml(devices=text)).vnc)

    @ddt.data(
        "<interface type='ethernet'><mac address='fa:16:3e:00:00:01'/>"
        "<script path=''/><target dev='tap0'/><model type='virtio'/>"
        '</interface>',
    )
    def test_a_tap_interface(self, text):
        self.assertTrue(self._parse(xml(devices=text)).taps)

    @ddt.data(
        "<rng model='virtio'><backend model='random'/></rng>",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend>"
        '</rng>',
        "<rng model='virtio'><backend model='builtin'/></rng>",
        "<input type='tablet'/>",
        "<input type='keyboard'/>",
        "<audio id='1' type='none'/>",
        "<video><model type='virtio'/></video>",
        "<controller type='usb'/>",
        "<memballoon model='virtio'/>",
    )
    def test_a_device_that_is_the_emulator_s_own(self, text):
        self._parse(xml(devices=text))

    @ddt.data(
        "<seclabel type='dynamic' model='apparmor' relabel='yes'/>",
        "<seclabel type='dynamic' model='dac' relabel='yes'/>",
        "<sysinfo type='smbios'/>",
        '<iothreads>1</iothreads>',
        '<!-- said by somebody -->',
        '<?somebody says?>',
    )
    def test_an_element_that_gives_nothing(self, text):
        self._parse(xml(top=text))


@ddt.ddt
class UncoveredTest(base.BaseTestCase):
    """What is not modelled is named, so that the guest is refused."""

    def _assert_named(self, text, name):
        self.assertEqual((name,), domain.parse(text).uncovered)

    @ddt.data(
        ("<tpm model='tpm-crb'/>", '<tpm> tpm-crb'),
        ("<hostdev type='pci'/>", '<hostdev> pci'),
        ("<filesystem type='mount'/>", '<filesystem> mount'),
        ("<channel type='unix'/>", '<channel> unix'),
        ("<parallel type='pty'/>", '<parallel> pty'),
        ("<smartcard mode='host'/>", '<smartcard>'),
        ("<redirdev type='tcp'/>", '<redirdev> tcp'),
        ("<shmem name='s'/>", '<shmem>'),
        ("<memory model='nvdimm'/>", '<memory> nvdimm'),
        ("<vsock model='virtio'/>", '<vsock> virtio'),
        ("<sound model='ich6'/>", '<sound> ich6'),
        ("<watchdog model='i6300esb'/>", '<watchdog> i6300esb'),
        ("<panic model='isa'/>", '<panic> isa'),
        ("<iommu model='intel'/>", '<iommu> intel'),
        ("<crypto type='qemu'/>", '<crypto> qemu'),
        ("<lease/>", '<lease>'),
        ("<nvram/>", '<nvram>'),
        ("<hub type='usb'/>", '<hub> usb'),
        ("<newdevice type='2030'/>", '<newdevice> 2030'),
        ("<graphics type='spice'/>", '<graphics> of type \'spice\''),
        (
            "<graphics type='vnc' socket='/s'/>",
            '<graphics> vnc on a socket',
        ),
        (
            "<graphics type='vnc'><listen type='socket'/></graphics>",
            '<graphics> vnc on a socket',
        ),
        ("<serial type='tcp'/>", "<serial> of type 'tcp'"),
        ("<console type='unix'/>", "<console> of type 'unix'"),
        ("<serial type='dev'/>", "<serial> of type 'dev'"),
        ("<input type='evdev'/>", '<input> evdev'),
        ("<input type='passthrough'/>", '<input> passthrough'),
        ("<audio type='alsa'/>", '<audio> alsa'),
        (
            "<video><driver name='vhostuser'/></video>",
            "<video> driven by 'vhostuser'",
        ),
        (
            "<video><model type='virtio'><acceleration accel3d='yes'/>"
            '</model></video>',
            '<video> with host acceleration',
        ),
        (
            "<rng><backend model='egd'/></rng>",
            "<rng> with backend 'egd' ''",
        ),
        (
            "<rng><backend model='random'>/dev/sda</backend></rng>",
            "<rng> with backend 'random' '/dev/sda'",
        ),
        (
            "<interface type='bridge'><mac address='m'/></interface>",
            "interface m of type 'bridge'",
        ),
        ("<interface type='hostdev'/>", "interface of type 'hostdev'"),
        ("<interface type='vhostuser'/>", "interface of type 'vhostuser'"),
        (
            "<interface type='ethernet'><script path='/x'/></interface>",
            'interface with <script>',
        ),
        (
            "<interface type='ethernet'><backend tap='/x'/></interface>",
            'interface with <backend>',
        ),
    )
    @ddt.unpack
    def test_a_device(self, text, name):
        self._assert_named(xml(devices=text), name)

    @ddt.data(
        ("type='network'", '', "disk vda with a source of type 'network'"),
        ("type='block'", '', "disk vda with a source of type 'block'"),
        ("type='volume'", '', "disk vda with a source of type 'volume'"),
        ("type='nvme'", '', "disk vda with a source of type 'nvme'"),
        ('', '', "disk vda with a source of type ''"),
        ("type='file'", '', 'disk vda without a source file'),
        ("type='file'", '<source/>', 'disk vda without a source file'),
        (
            "type='file' device='lun'",
            "<source file='/d'/>",
            "disk vda of kind 'lun'",
        ),
        (
            "type='file' device='floppy'",
            "<source file='/d'/>",
            "disk vda of kind 'floppy'",
        ),
        (
            "type='file'",
            "<source file='/d'><encryption/></source>",
            'disk vda with <encryption> of its source',
        ),
        (
            "type='file'",
            "<source file='/d'><dataStore/></source>",
            'disk vda with <dataStore> of its source',
        ),
        (
            "type='file'",
            "<source file='/d'/><mirror/>",
            'disk vda with <mirror>',
        ),
        (
            "type='file'",
            "<source file='/d'/><shareable/>",
            'disk vda with <shareable>',
        ),
        (
            "type='file'",
            "<driver type='vmdk'/><source file='/d'/>",
            "disk vda of format 'vmdk'",
        ),
        (
            "type='file'",
            "<driver io='io_uring'/><source file='/d'/>",
            'disk vda with io_uring',
        ),
    )
    @ddt.unpack
    def test_a_disk(self, attributes, inner, name):
        self._assert_named(disk(inner, attributes), name)

    @ddt.data(
        ('<memoryBacking/>', '<memoryBacking>'),
        ("<launchSecurity type='sev'/>", '<launchSecurity>'),
        ('<bootloader>/x</bootloader>', '<bootloader>'),
        ('<qemu:commandline/>', '<qemu:commandline>'),
        ('<qemu:override/>', '<qemu:override>'),
        ("<sysinfo type='fwcfg'/>", '<sysinfo>'),
        ('<new2030/>', '<new2030>'),
        (
            "<seclabel type='none' model='apparmor'/>",
            "<seclabel> type='none' model='apparmor'",
        ),
        (
            "<seclabel type='static' model='apparmor'/>",
            "<seclabel> type='static' model='apparmor'",
        ),
        (
            "<seclabel type='none'/>",
            "<seclabel> type='none' model=None",
        ),
        (
            "<seclabel type='dynamic' model='selinux'/>",
            "<seclabel> type='dynamic' model='selinux'",
        ),
    )
    @ddt.unpack
    def test_an_element_of_the_domain(self, text, name):
        self._assert_named(xml(top=text), name)

    @ddt.data(
        ('<loader>/x</loader>', '<loader>'),
        ('<nvram>/x</nvram>', '<nvram>'),
        ('<kernel>/x</kernel>', '<kernel>'),
        ('<initrd>/x</initrd>', '<initrd>'),
        ('<dtb>/x</dtb>', '<dtb>'),
        ("<acpi><table type='slic'>/x</table></acpi>", '<acpi>'),
    )
    @ddt.unpack
    def test_something_to_boot_from(self, text, name):
        self._assert_named(xml(os=text), name)

    def test_firmware_that_libvirt_chooses(self):
        self._assert_named(
            xml(os_attributes="firmware='efi'"), "<os> firmware='efi'"
        )

    def test_a_hypervisor_that_is_not_qemu(self):
        self._assert_named(xml(kind='lxc'), "domain type 'lxc'")

    def test_everything_is_named(self):
        found = domain.parse(
            xml(top='<memoryBacking/>', devices='<tpm/><shmem/>')
        )
        self.assertEqual(
            ('<memoryBacking>', '<tpm>', '<shmem>'), found.uncovered
        )


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
            + xml(name='x&e;' if 'e SYSTEM' in declaration else 'x'),
            'document type declaration',
        )

    def test_a_bomb(self):
        entities = ''.join(
            f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12)
        )
        self._assert_invalid(
            f'<!DOCTYPE domain [<!ENTITY l0 "x">{entities}]>'
            + xml(name='&l11;')
        )

    def test_more_than_any_guest_needs(self):
        self._assert_invalid(
            xml(top=' ' * 4 * 1024 * 1024), 'more than the 4194304'
        )

    def test_a_depth_that_no_domain_has(self):
        self._assert_invalid(xml(top='<a>' * 5000 + '</a>' * 5000))

    def test_another_element(self):
        self._assert_invalid('<network/>', 'begins with <network>')

    @ddt.data('', 'x', UUID[:-1], UUID + '0', f'{UUID}/../x', '../../../etc')
    def test_a_uuid(self, uuid):
        self._assert_invalid(xml(uuid=uuid), 'no valid <uuid>')

    @ddt.data('', 'a/b', '/', 'a\nb', 'a\x7fb', '\u202eb')
    def test_a_name(self, name):
        self._assert_invalid(xml(name=name), 'no usable <name>', UUID)

    @ddt.data('-1', '1.5', 'x', '', '1' * 10, '\u0661')
    def test_a_number(self, number):
        self._assert_invalid(xml(attributes=f"id='{number}'"), 'usable id')

    @ddt.data('disk', './disk', '/i/../j/disk', '/i/./disk', '..')
    def test_a_path_that_is_not_plain(self, path):
        for text in (
            disk(f"<source file='{path}'/>"),
            xml(emulator=path),
            xml(
                devices=f"<serial type='file'><source path='{path}'/></serial>"
            ),
            xml(
                devices=f"<serial type='pty'><source path='{path}'/></serial>"
            ),
            xml(devices=f"<serial type='pty'><log file='{path}'/></serial>"),
        ):
            self._assert_invalid(text, 'not a plain absolute path')

    def test_a_console_into_a_file_without_one(self):
        self._assert_invalid(xml(devices="<serial type='file'/>"), 'no file')


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
