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

"""What libvirt knows beyond Nova's code, and adds to a running domain."""

import ddt
from oslotest import base

from nova_isolation import domain
from nova_isolation.domain.characters import Character
from nova_isolation.domain.devices import Crypto
from nova_isolation.domain.devices import Filesystem
from nova_isolation.domain.devices import Input
from nova_isolation.domain.devices import Rng
from nova_isolation.domain.devices import Smartcard
from nova_isolation.domain.devices import Tpm
from nova_isolation.domain import disks
from nova_isolation.domain.firmware import Firmware
from nova_isolation.domain.firmware import Loader
from nova_isolation.domain.firmware import Nvram
from nova_isolation.domain import graphics
from nova_isolation.domain import hostdevs
from nova_isolation.domain import interfaces
from nova_isolation.domain import memory
from nova_isolation.domain.model import LaunchSecurity
from nova_isolation.domain.model import SecurityLabel
from nova_isolation.domain.reader import PciAddress
from nova_isolation.tests.unit.domain import xml

ADDRESS = "<address type='pci' domain='0' bus='5' slot='0' function='0'/>"
PCI = PciAddress(0, 5, 0, 0)


class LibvirtTestCase(base.BaseTestCase):
    def parse(self, **parts):
        found = domain.parse(xml.make(**parts))
        self.assertEqual((), found.unknown)
        return found


def disk(source, kind='file', attributes='', inner=''):
    return (
        f"<disk type='{kind}' {attributes}><driver name='qemu' type='raw'/>"
        f"{source}{inner}<target dev='vda' bus='virtio'/></disk>"
    )


@ddt.ddt
class DiskTest(LibvirtTestCase):
    def _disk(self, *args, **kwargs):
        [found] = self.parse(devices=disk(*args, **kwargs)).disks
        return found

    @ddt.data(
        ('block', "<source dev='/dev/sda'/>", disks.BlockSource('/dev/sda')),
        ('dir', "<source dir='/srv'/>", disks.DirectorySource('/srv')),
        (
            'volume',
            "<source pool='p' volume='v' mode='host'/>",
            disks.VolumeSource('p', 'v', 'host'),
        ),
        (
            'nvme',
            f"<source type='pci' managed='yes' namespace='1'>{ADDRESS}"
            '</source>',
            disks.NvmeSource(PCI, 1),
        ),
        (
            'vhostuser',
            "<source type='unix' path='/run/v.sock'><reconnect enabled='yes'"
            " timeout='10'/></source>",
            disks.VhostUserSource('/run/v.sock'),
        ),
        (
            'vhostvdpa',
            "<source dev='/dev/vhost-vdpa-0'/>",
            disks.VhostVdpaSource('/dev/vhost-vdpa-0'),
        ),
        (
            'network',
            "<source protocol='rbd' name='p/i'><host name='h'/>"
            "<snapshot name='s'/><config file='/etc/ceph/ceph.conf'/>"
            "<auth username='u'><secret type='ceph' uuid='x'/></auth>"
            '</source>',
            disks.NetworkSource(
                'rbd',
                'p/i',
                (disks.Host('h', ''),),
                config='/etc/ceph/ceph.conf',
                user='u',
                secret=True,
            ),
        ),
        (
            'network',
            "<source protocol='iscsi' name='iqn.2026/1'>"
            "<host name='h' port='3260'/><initiator><iqn name='i'/>"
            '</initiator></source>',
            disks.NetworkSource(
                'iscsi', 'iqn.2026/1', (disks.Host('h', '3260'),)
            ),
        ),
        (
            'network',
            "<source protocol='nbd' name='e' tls='yes'>"
            "<host transport='unix' socket='/run/nbd'/></source>",
            disks.NetworkSource(
                'nbd', 'e', (disks.Host('', '', 'unix', '/run/nbd'),), tls=True
            ),
        ),
        (
            'network',
            "<source protocol='https' name='i.iso' query='a=b'>"
            "<host name='h' port='443'/><ssl verify='no'/>"
            "<cookies><cookie name='c'>v</cookie></cookies>"
            "<readahead size='1'/><timeout seconds='1'/></source>",
            disks.NetworkSource('https', 'i.iso', (disks.Host('h', '443'),)),
        ),
        (
            'network',
            "<source protocol='gluster' name='v/i'><host name='h'"
            " transport='rdma'/></source>",
            disks.NetworkSource(
                'gluster', 'v/i', (disks.Host('h', '', 'rdma'),)
            ),
        ),
        (
            'network',
            "<source protocol='ssh' name='i'><host name='h'/>"
            "<knownHosts path='/k'/><identity username='u' keyfile='/f'"
            " agentsock='/a'/></source>",
            disks.NetworkSource(
                'ssh', 'i', (disks.Host('h', ''),), files=('/f', '/a', '/k')
            ),
        ),
        (
            'network',
            "<source protocol='sheepdog' name='i'/>",
            disks.NetworkSource('sheepdog', 'i'),
        ),
        (
            'network',
            "<source protocol='ftp' name='i'/>",
            disks.NetworkSource('ftp', 'i'),
        ),
    )
    @ddt.unpack
    def test_a_source(self, kind, source, expected):
        self.assertEqual(expected, self._disk(source, kind).top.source)

    def test_a_chain_of_several_kinds(self):
        found = self._disk(
            "<source file='/i/disk' index='1'/>",
            inner="<backingStore type='block' index='2'><format type='raw'/>"
            "<source dev='/dev/sda'/><backingStore type='network'>"
            "<format type='qcow2'><metadata_cache><max_size>1</max_size>"
            "</metadata_cache></format><source protocol='nbd' name='e'/>"
            '<backingStore/></backingStore></backingStore>',
        )
        self.assertEqual(
            (
                disks.Layer(disks.BlockSource('/dev/sda'), 'raw'),
                disks.Layer(disks.NetworkSource('nbd', 'e'), 'qcow2'),
            ),
            found.backing,
        )

    def test_a_chain_that_ends_at_once_is_not_one_that_is_not_named(self):
        source = "<source file='/d'/>"
        self.assertIsNone(self._disk(source).backing)
        self.assertEqual(
            (), self._disk(source, inner='<backingStore/>').backing
        )

    def test_an_external_data_file(self):
        found = self._disk(
            "<source file='/i/disk'><dataStore type='file'>"
            "<format type='raw'/><source file='/i/data'/></dataStore>"
            '</source>'
        )
        data = disks.Layer(disks.FileSource('/i/data'), 'raw')
        self.assertEqual(data, found.top.data)
        self.assertEqual((found.top, data), found.layers)

    def test_a_block_job_s_mirror(self):
        found = self._disk(
            "<source file='/i/disk'/>",
            inner="<mirror type='file' file='/i/copy' format='qcow2'"
            " job='copy' ready='yes'><format type='qcow2'/>"
            "<source file='/i/copy' index='5'/><backingStore/></mirror>",
        )
        copy = disks.Layer(disks.FileSource('/i/copy'), 'qcow2')
        self.assertEqual((copy,), found.mirror)
        self.assertIn(copy, found.layers)

    def test_persistent_reservations(self):
        found = self._disk(
            "<source dev='/dev/sda'><reservations managed='yes'>"
            "<source type='unix' path='/run/pr.sock' mode='client'/>"
            '</reservations></source>',
            'block',
            "device='lun' rawio='yes' sgio='unfiltered'",
        )
        self.assertTrue(found.top.reservations)
        self.assertEqual('/run/pr.sock', found.top.reservations_socket)
        self.assertEqual(('lun', True), (found.device, found.raw_io))

    def test_its_ways(self):
        found = self._disk(
            "<source file='/d'><encryption format='luks' engine='qemu'>"
            "<secret type='passphrase' uuid='x'/></encryption>"
            "<slices><slice type='storage' offset='0' size='1'/></slices>"
            "<seclabel model='dac' relabel='no'/></source>",
            inner='<shareable/><transient/>',
            attributes="snapshot='external' model='virtio-transitional'",
        )
        self.assertTrue(found.shareable)
        self.assertTrue(found.transient)
        self.assertFalse(found.readonly)
        self.assertEqual(
            disks.Encryption('luks', 'qemu'), found.top.encryption
        )

    def test_a_floppy_may_be_empty(self):
        text = "<disk type='file' device='floppy'><target dev='fda'/></disk>"
        self.assertEqual((), self.parse(devices=text).disks)


@ddt.ddt
class InterfaceTest(LibvirtTestCase):
    def _interface(self, kind, inner):
        text = (
            f"<interface type='{kind}'><mac address='m'/>{inner}"
            "<model type='virtio'/><link state='up'/><alias name='net0'/>"
            f'{ADDRESS}</interface>'
        )
        [found] = self.parse(devices=text).interfaces
        return found

    @ddt.data(
        (
            'network',
            "<source network='default' portid='x' bridge='virbr0'/>"
            "<target dev='vnet0'/>",
            interfaces.Tap('m', 'network', 'vnet0'),
        ),
        (
            'ethernet',
            "<backend tap='/dev/net/tun2' vhost='/dev/vhost2'/>",
            interfaces.Tap(
                'm', 'ethernet', '', '/dev/net/tun2', '/dev/vhost2'
            ),
        ),
        (
            'direct',
            "<source dev='eth0' mode='vepa'/><target dev='macvtap0'/>",
            interfaces.Macvtap('m', 'macvtap0', 'eth0'),
        ),
        (
            'hostdev',
            f"<source>{ADDRESS}</source><driver name='vfio' iommufd='yes'/>",
            interfaces.PciInterface('m', PCI, iommufd=True),
        ),
        (
            'vhostuser',
            "<source type='unix' path='/run/v' mode='client'>"
            "<reconnect enabled='yes'/></source>",
            interfaces.VhostUser('m', '/run/v', listens=False),
        ),
        (
            'user',
            "<backend type='passt'/>",
            interfaces.UserNetwork('m', 'passt'),
        ),
    )
    @ddt.unpack
    def test_a_link(self, kind, inner, expected):
        self.assertEqual(expected, self._interface(kind, inner).link)

    def test_a_program_and_a_rom(self):
        found = self._interface(
            'ethernet',
            "<script path='/etc/up'/><downscript path='/etc/down'/>"
            "<rom bar='on' file='/srv/rom'/>",
        )
        self.assertEqual(('/etc/up', '/etc/down'), found.scripts)
        self.assertEqual('/srv/rom', found.rom)


@ddt.ddt
class HostDeviceTest(LibvirtTestCase):
    @ddt.data(
        (
            "type='pci' managed='yes'",
            f"<driver name='vfio'/><source writeFiltering='no'>{ADDRESS}"
            "</source><rom file='/srv/rom'/>",
            hostdevs.PciDevice(PCI, rom='/srv/rom'),
        ),
        (
            "type='mdev' model='vfio-pci' display='on'",
            f"<source><address uuid='{xml.UUID.upper()}'/></source>",
            hostdevs.MediatedDevice(xml.UUID, 'vfio-pci', display=True),
        ),
        (
            "type='usb'",
            "<source startupPolicy='optional'><vendor id='0x1d6b'/>"
            "<product id='0x0002'/><address bus='1' device='10'/></source>",
            hostdevs.UsbDevice(1, 10, '', 0x1D6B, 2, optional=True),
        ),
        (
            "type='usb'",
            "<source><address bus='010' port='1.4'/></source>",
            hostdevs.UsbDevice(8, None, '1.4'),
        ),
        (
            "type='scsi' sgio='unfiltered' rawio='yes'",
            "<source><adapter name='scsi_host2'/>"
            "<address bus='0' target='3' unit='1'/></source><readonly/>",
            hostdevs.ScsiDevice(2, 0, 3, 1, readonly=True),
        ),
        (
            "type='scsi'",
            "<source protocol='iscsi' name='iqn/1'><host name='h' port='1'/>"
            "<auth username='u'/></source>",
            hostdevs.IscsiDevice('iqn/1', ('h',)),
        ),
        (
            "type='scsi_host'",
            "<source protocol='vhost' wwpn='naa.5123456789abcde0'/>",
            hostdevs.VhostScsi('naa.5123456789abcde0'),
        ),
    )
    @ddt.unpack
    def test_a_device(self, attributes, inner, expected):
        text = f"<hostdev mode='subsystem' {attributes}>{inner}</hostdev>"
        self.assertEqual((expected,), self.parse(devices=text).host_devices)


@ddt.ddt
class CharacterTest(LibvirtTestCase):
    @ddt.data(
        (
            "<parallel type='dev'><source path='/dev/parport0'/></parallel>",
            Character('parallel', 'dev', '/dev/parport0'),
        ),
        (
            "<serial type='udp'><source mode='bind' host='a' service='1'/>"
            "<source mode='connect' host='b' service='2'/></serial>",
            Character('serial', 'udp', listens=True, hosts=('a', 'b')),
        ),
        (
            "<serial type='tcp'><source mode='connect' host='a' service='1'"
            " tls='yes'/><protocol type='telnet'/></serial>",
            Character('serial', 'tcp', hosts=('a',), tls=True, ports=(1,)),
        ),
        (
            "<serial type='pipe'><source path='/run/p'/></serial>",
            Character('serial', 'pipe', '/run/p'),
        ),
        (
            "<channel type='unix'><source mode='connect' path='/run/c'>"
            "<reconnect enabled='yes'/></source><target type='virtio'"
            " name='n' state='connected'/></channel>",
            Character('channel', 'unix', '/run/c', target='n'),
        ),
        (
            "<channel type='spiceport'><source channel='c'/></channel>",
            Character('channel', 'spiceport'),
        ),
        ("<serial type='null'/>", Character('serial', 'null')),
        ("<serial type='stdio'/>", Character('serial', 'stdio')),
        (
            "<redirdev bus='usb' type='tcp'><source mode='connect' host='h'"
            " service='1'/></redirdev>",
            Character('redirdev', 'tcp', hosts=('h',), ports=(1,)),
        ),
        (
            "<smartcard mode='passthrough' type='spicevmc'/>",
            Character('smartcard', 'spicevmc'),
        ),
    )
    @ddt.unpack
    def test_a_back_end(self, text, expected):
        self.assertEqual((expected,), self.parse(devices=text).characters)


@ddt.ddt
class GraphicsTest(LibvirtTestCase):
    @ddt.data(
        ("<graphics type='vnc'/>", ('127.0.0.1',), ()),
        ("<graphics type='vnc' listen='::'/>", ('::',), ()),
        (
            "<graphics type='vnc' listen='10.0.0.1'><listen type='address'"
            " address='10.0.0.2'/></graphics>",
            ('10.0.0.1', '10.0.0.2'),
            (),
        ),
        ("<graphics type='vnc' socket='/s'/>", (), ('/s',)),
        (
            "<graphics type='spice'><listen type='socket'/></graphics>",
            (),
            ('',),
        ),
        ("<graphics type='spice'><listen type='none'/></graphics>", (), ()),
        (
            "<graphics type='vnc'><listen type='network' network='n'/>"
            '</graphics>',
            ('',),
            (),
        ),
        ("<graphics type='egl-headless'/>", (), ()),
    )
    @ddt.unpack
    def test_it_listens_where_the_domain_says(self, text, addresses, sockets):
        [found] = self.parse(devices=text).graphics
        self.assertEqual(
            (addresses, sockets), (found.addresses, found.sockets)
        )

    def test_what_draws(self):
        found = self.parse(
            devices="<graphics type='egl-headless'>"
            "<gl rendernode='/dev/dri/renderD128'/></graphics>"
            "<graphics type='dbus' p2p='yes'><gl enable='yes'/></graphics>"
            "<video><model type='virtio' heads='1' primary='yes'>"
            "<acceleration accel3d='yes'/></model></video>"
            "<video><driver name='vhostuser'/><model type='virtio'/></video>"
        )
        self.assertEqual(
            [(True, '/dev/dri/renderD128'), (True, None)],
            [(g.render, g.render_node) for g in found.graphics],
        )
        self.assertEqual(
            (
                graphics.Video('virtio', accelerated=True),
                graphics.Video('virtio', vhost_user=True),
            ),
            found.videos,
        )

    @ddt.data(
        ("<audio id='1' type='none'/>", graphics.Audio('none')),
        (
            "<audio id='1' type='file' path='/a.wav'/>",
            graphics.Audio('file', ('/a.wav',)),
        ),
        (
            "<audio id='1' type='oss'><output dev='/dev/dsp'/></audio>",
            graphics.Audio('oss', ('/dev/dsp',)),
        ),
        (
            "<audio id='1' type='pulseaudio' serverName='h'><input"
            " mixingEngine='no'><settings frequency='1'/></input></audio>",
            graphics.Audio('pulseaudio', server='h'),
        ),
    )
    @ddt.unpack
    def test_sound(self, text, expected):
        self.assertEqual((expected,), self.parse(devices=text).audios)


@ddt.ddt
class OtherDeviceTest(LibvirtTestCase):
    @ddt.data(
        (
            "<tpm model='tpm-tis'><backend type='passthrough'>"
            "<device path='/dev/tpm0'/></backend><alias name='tpm0'/></tpm>",
            'tpms',
            Tpm('passthrough', '/dev/tpm0'),
        ),
        (
            "<tpm model='tpm-crb'><backend type='external'><source"
            " type='unix' mode='connect' path='/run/t'/></backend></tpm>",
            'tpms',
            Tpm('external', '/run/t'),
        ),
        (
            "<tpm model='tpm-crb'><backend type='emulator' version='2.0'"
            " persistent_state='yes'><encryption secret='x'/><profile"
            " source='a' name='b'/><source type='dir' path='/srv/tpm'/>"
            '</backend></tpm>',
            'tpms',
            Tpm('emulator', '/srv/tpm', '2.0'),
        ),
        (
            "<filesystem type='mount'><driver type='virtiofs' queue='1'/>"
            "<source socket='/run/v'/><target dir='t'/></filesystem>",
            'filesystems',
            Filesystem('mount', 'virtiofs', 't', socket='/run/v'),
        ),
        (
            "<filesystem type='mount' accessmode='mapped'><source dir='/s'/>"
            "<binary path='/usr/libexec/virtiofsd' xattr='on'><cache"
            " mode='always'/></binary><target dir='t'/><readonly/>"
            '</filesystem>',
            'filesystems',
            Filesystem(
                'mount',
                '',
                't',
                '/s',
                binary='/usr/libexec/virtiofsd',
                readonly=True,
            ),
        ),
        (
            "<shmem name='m' role='master'><model type='ivshmem-plain'/>"
            "<size unit='M'>4</size></shmem>",
            'shared_memories',
            memory.SharedMemory('m', 'ivshmem-plain'),
        ),
        (
            "<shmem name='m'><model type='ivshmem-doorbell'/>"
            "<server path='/run/s'/><msi vectors='1'/></shmem>",
            'shared_memories',
            memory.SharedMemory('m', 'ivshmem-doorbell', '/run/s'),
        ),
        (
            "<rng model='virtio'><backend model='egd' type='unix'>"
            "<source mode='connect' path='/run/egd'/></backend></rng>",
            'rngs',
            Rng('egd', backend=Character('backend', 'unix', '/run/egd')),
        ),
        (
            "<rng model='virtio'><backend model='builtin'/></rng>",
            'rngs',
            Rng('builtin'),
        ),
        (
            "<input type='evdev'><source dev='/dev/input/event1' grab='all'/>"
            '</input>',
            'inputs',
            Input('/dev/input/event1'),
        ),
        (
            "<input type='passthrough' bus='virtio'>"
            "<source evdev='/dev/input/event1'/></input>",
            'inputs',
            Input('/dev/input/event1'),
        ),
        (
            "<crypto model='virtio' type='qemu'><backend model='lkcf'"
            " queues='1'/></crypto>",
            'cryptos',
            Crypto('lkcf'),
        ),
        (
            "<smartcard mode='host-certificates'><certificate>c"
            '</certificate><database>/etc/pki/nssdb</database></smartcard>',
            'smartcards',
            Smartcard('host-certificates', '/etc/pki/nssdb'),
        ),
        (
            "<pstore backend='acpi-erst'><path>/srv/p</path><size>1</size>"
            '</pstore>',
            'pstores',
            '/srv/p',
        ),
    )
    @ddt.unpack
    def test_a_device(self, text, family, expected):
        self.assertEqual(
            (expected,), getattr(self.parse(devices=text), family)
        )

    def test_a_socket_to_the_host(self):
        found = self.parse(
            devices="<vsock model='virtio'><cid auto='no' address='3'/>"
            '</vsock>'
        )
        self.assertEqual(1, found.vsocks)

    @ddt.data(
        (
            "<memory model='dimm' access='private'><source><pagesize"
            " unit='MiB'>2</pagesize><nodemask>0</nodemask></source><target>"
            "<size unit='KiB'>1</size><node>0</node></target></memory>",
            memory.MemoryDevice('dimm', page_size=2048, access='private'),
        ),
        (
            "<memory model='virtio-pmem'><source><path>/srv/p</path></source>"
            "<target><size>1</size><address base='0x1'/></target></memory>",
            memory.MemoryDevice('virtio-pmem', '/srv/p'),
        ),
        (
            "<memory model='nvdimm'><source><path>/dev/pmem0</path><pmem/>"
            '</source><target><size>1</size><label><size>1</size></label>'
            '<readonly/></target></memory>',
            memory.MemoryDevice('nvdimm', '/dev/pmem0', readonly=True),
        ),
        (
            "<memory model='virtio-mem'><target><size>1</size><block>1"
            '</block><requested>1</requested><current>1</current></target>'
            "<alias name='a'/></memory>",
            memory.MemoryDevice('virtio-mem'),
        ),
    )
    @ddt.unpack
    def test_memory(self, text, expected):
        self.assertEqual((expected,), self.parse(devices=text).memory.devices)


@ddt.ddt
class TopTest(LibvirtTestCase):
    @ddt.data(
        (
            "<loader type='rom'>/usr/share/seabios/bios.bin</loader>",
            Firmware(loader=Loader('/usr/share/seabios/bios.bin', 'rom')),
        ),
        (
            "<loader readonly='no' type='pflash' format='raw'>/l</loader>",
            Firmware(loader=Loader('/l', 'pflash', readonly=False)),
        ),
        (
            "<nvram type='file' template='/t' templateFormat='raw'"
            " format='qcow2'><source file='/n'/></nvram>",
            Firmware(nvram=Nvram('/n', '/t')),
        ),
        (
            "<nvram type='network'><source protocol='iscsi' name='x'/>"
            '</nvram>',
            Firmware(nvram=Nvram(None, elsewhere=True)),
        ),
        (
            '<dtb>/d</dtb><shim>/s</shim>'
            "<acpi><table type='slic'>/a</table></acpi>",
            Firmware(dtb='/d', shim='/s', tables=('/a',)),
        ),
        (
            "<firmware><feature enabled='yes' name='secure-boot'/></firmware>"
            "<bootmenu enable='no'/><bios useserial='yes'/>",
            Firmware(),
        ),
    )
    @ddt.unpack
    def test_something_to_boot_from(self, text, expected):
        self.assertEqual(expected, self.parse(os=text).firmware)

    @ddt.data(
        ('<hugepages/>', memory.Memory((0,))),
        (
            "<hugepages><page size='1' unit='G' nodeset='0'/>"
            "<page size='2048' unit='KiB'/></hugepages><nosharepages/>",
            memory.Memory((2048, 1 << 20)),
        ),
        (
            "<source type='memfd'/><access mode='shared'/>"
            "<allocation mode='ondemand' threads='1'/>",
            memory.Memory(source='memfd', access='shared'),
        ),
    )
    @ddt.unpack
    def test_memory(self, text, expected):
        found = self.parse(top=f'<memoryBacking>{text}</memoryBacking>')
        self.assertEqual(expected, found.memory)

    def test_how_memory_is_kept_from_the_host(self):
        found = self.parse(
            top="<launchSecurity type='tdx'><policy>1</policy>"
            "<quoteGenerationService path='/run/qgs'/></launchSecurity>"
        )
        self.assertEqual(
            LaunchSecurity('tdx', '/run/qgs'), found.launch_security
        )

    def test_files_in_the_firmware_s_configuration(self):
        found = self.parse(
            top="<sysinfo type='fwcfg'><entry name='a'>b</entry>"
            "<entry name='c' file='/etc/hostname'/></sysinfo>"
        )
        self.assertEqual(('/etc/hostname',), found.configuration_files)

    def test_what_goes_past_libvirt(self):
        found = self.parse(
            top="<qemu:commandline><qemu:arg value='-s'/><qemu:env name='E'"
            " value='v'/></qemu:commandline><qemu:override><qemu:device"
            " alias='a'/></qemu:override>"
            "<qemu:deprecation behavior='omit'/>"
        )
        self.assertEqual(
            ("the argument '-s'", "the variable 'E'", '<qemu:override>'),
            found.qemu,
        )

    def test_labels(self):
        found = self.parse(top="<seclabel type='none' model='apparmor'/>")
        self.assertEqual((SecurityLabel('apparmor', 'none'),), found.labels)
