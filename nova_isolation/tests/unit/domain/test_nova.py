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

"""Each element that Nova 34 writes is understood wholly.

The XML comes from Nova's own code, with the settings of its driver.
"""

import types

import ddt
from nova.virt.libvirt import config
from oslotest import base

from nova_isolation import domain
from nova_isolation.domain.characters import Character
from nova_isolation.domain.devices import Filesystem
from nova_isolation.domain.devices import Rng
from nova_isolation.domain.devices import Tpm
from nova_isolation.domain import disks
from nova_isolation.domain.firmware import Loader
from nova_isolation.domain.firmware import Nvram
from nova_isolation.domain.graphics import Graphics
from nova_isolation.domain import hostdevs
from nova_isolation.domain import interfaces
from nova_isolation.domain import memory
from nova_isolation.domain.model import LaunchSecurity
from nova_isolation.domain.reader import PciAddress
from nova_isolation.tests.unit.domain import xml

MAC = 'fa:16:3e:00:00:01'
ADDRESS = PciAddress(0, 0x65, 0, 1)
GiB = 1 << 20


def fill(element, **attributes):
    """Set what Nova's driver sets."""
    for name, value in attributes.items():
        setattr(element, name, value)
    return element


class NovaTestCase(base.BaseTestCase):
    def parse(self, *devices, **parts):
        """Read a domain with some of Nova's devices."""
        found = domain.parse(
            xml.make(devices=''.join(d.to_xml() for d in devices), **parts)
        )
        self.assertEqual((), found.unknown)
        return found


class DiskTest(NovaTestCase):
    def _disk(self, **attributes):
        device = fill(
            config.LibvirtConfigGuestDisk(),
            **{
                'driver_name': 'qemu',
                'driver_cache': 'none',
                'target_dev': 'vda',
                'target_bus': 'virtio',
                **attributes,
            },
        )
        [found] = self.parse(device).disks
        return found

    def test_a_file(self):
        found = self._disk(
            source_type='file',
            source_path='/i/disk',
            driver_format='qcow2',
            driver_discard='unmap',
            driver_io='native',
            serial='s',
            boot_order='1',
            disk_read_bytes_sec=1,
            logical_block_size='512',
        )
        top = disks.Layer(disks.FileSource('/i/disk'), 'qcow2')
        self.assertEqual(disks.Disk('vda', 'disk', top), found)

    def test_a_config_drive(self):
        found = self._disk(
            source_type='file',
            source_device='cdrom',
            source_path='/i/disk.config',
            driver_format='raw',
            target_bus='sata',
            readonly=True,
        )
        self.assertEqual(('cdrom', True), (found.device, found.readonly))

    def test_a_volume_on_a_block_device(self):
        found = self._disk(
            source_type='block',
            source_path='/dev/dm-3',
            driver_format='raw',
            driver_io='io_uring',
            shareable=True,
        )
        self.assertEqual(disks.BlockSource('/dev/dm-3'), found.top.source)
        self.assertEqual('/dev/dm-3', found.path)
        self.assertEqual((True, True), (found.shareable, found.io_uring))

    def test_a_volume_that_is_a_scsi_lun(self):
        found = self._disk(
            source_type='block', source_device='lun', source_path='/dev/sdb'
        )
        self.assertEqual('lun', found.device)

    def test_a_volume_in_ceph(self):
        found = self._disk(
            source_type='network',
            source_protocol='rbd',
            source_name='volumes/volume-1',
            source_hosts=['10.0.0.1', '10.0.0.2'],
            source_ports=['6789', '6789'],
            driver_format='raw',
            auth_username='cinder',
            auth_secret_type='ceph',
            auth_secret_uuid=xml.UUID,
        )
        self.assertEqual(
            disks.NetworkSource(
                'rbd',
                'volumes/volume-1',
                (
                    disks.Host('10.0.0.1', '6789'),
                    disks.Host('10.0.0.2', '6789'),
                ),
                user='cinder',
                secret=True,
            ),
            found.top.source,
        )
        self.assertIsNone(found.path)

    def _encryption(self):
        return fill(
            config.LibvirtConfigGuestDiskEncryption(),
            format='luks',
            secret=fill(
                config.LibvirtConfigGuestDiskEncryptionSecret(),
                type='passphrase',
                uuid=xml.UUID,
            ),
        )

    def test_an_encrypted_volume(self):
        found = self._disk(
            source_type='block',
            source_path='/dev/sdb',
            volume_encryption=self._encryption(),
        )
        self.assertEqual(disks.Encryption('luks'), found.top.encryption)

    def test_an_encrypted_ephemeral_disk(self):
        found = self._disk(
            source_type='file',
            source_path='/i/disk.eph0',
            ephemeral_encryption=self._encryption(),
        )
        self.assertEqual(disks.Encryption('luks'), found.top.encryption)


@ddt.ddt
class InterfaceTest(NovaTestCase):
    def _interface(self, **attributes):
        device = fill(
            config.LibvirtConfigGuestInterface(), mac_addr=MAC, **attributes
        )
        [found] = self.parse(device).interfaces
        self.assertEqual(((), None), (found.scripts, found.rom))
        return found.link

    def test_a_tap(self):
        found = self._interface(
            net_type='ethernet',
            model='virtio',
            driver_name='vhost',
            vhost_queues=2,
            vhost_rx_queue_size=512,
            driver_packed=True,
            script='',
            mtu=1450,
            target_dev='tap1',
            managed='no',
        )
        self.assertEqual(interfaces.Tap(MAC, 'ethernet', 'tap1'), found)

    def test_a_bridge(self):
        found = self._interface(
            net_type='bridge',
            source_dev='br0',
            target_dev='tap1',
            vif_inbound_average=1,
            filtername='nova-instance-1',
            filterparams=[{'key': 'IP', 'value': '10.0.0.1'}],
            vporttype='openvswitch',
            vportparams=[{'key': 'interfaceid', 'value': 'x'}],
        )
        self.assertEqual(interfaces.Tap(MAC, 'bridge', 'tap1'), found)

    def test_a_macvtap(self):
        found = self._interface(
            net_type='direct',
            source_dev='eth1',
            source_mode='passthrough',
            vlan=3,
        )
        self.assertEqual(interfaces.Macvtap(MAC, '', 'eth1'), found)

    def test_a_virtual_function(self):
        found = self._interface(
            net_type='hostdev', source_dev='0000:65:00.1', vlan=3
        )
        self.assertEqual(interfaces.PciInterface(MAC, ADDRESS), found)

    @ddt.data(('server', True), ('client', False))
    @ddt.unpack
    def test_a_vhost_user_socket(self, mode, listens):
        found = self._interface(
            net_type='vhostuser',
            vhostuser_type='unix',
            vhostuser_mode=mode,
            vhostuser_path='/run/vhu1',
            vhost_queues=2,
            driver_name='vhost',
        )
        self.assertEqual(
            interfaces.VhostUser(MAC, '/run/vhu1', listens), found
        )

    def test_a_vdpa_device(self):
        found = self._interface(
            net_type='vdpa', source_dev='/dev/vhost-vdpa-0'
        )
        self.assertEqual(interfaces.Vdpa(MAC, '/dev/vhost-vdpa-0'), found)


class HostDeviceTest(NovaTestCase):
    def test_a_pci_device(self):
        device = fill(
            config.LibvirtConfigGuestHostdevPCI(),
            domain='0000',
            bus='65',
            slot='00',
            function='1',
        )
        self.assertEqual(
            (hostdevs.PciDevice(ADDRESS),), self.parse(device).host_devices
        )

    def test_a_mediated_device(self):
        device = fill(config.LibvirtConfigGuestHostdevMDEV(), uuid=xml.UUID)
        self.assertEqual(
            (hostdevs.MediatedDevice(xml.UUID, 'vfio-pci'),),
            self.parse(device).host_devices,
        )


class CharacterTest(NovaTestCase):
    def _parse(self, device, **attributes):
        return self.parse(fill(device, **attributes)).characters

    def _log(self):
        return fill(
            config.LibvirtConfigGuestCharDeviceLog(), file='/i/console.log'
        )

    def test_a_pseudo_terminal(self):
        self.assertEqual(
            (Character('serial', 'pty', log='/i/console.log'),),
            self._parse(
                config.LibvirtConfigGuestSerial(), type='pty', log=self._log()
            ),
        )

    def test_a_serial_console_over_tcp(self):
        self.assertEqual(
            (
                Character(
                    'serial',
                    'tcp',
                    log='/i/console.log',
                    listens=True,
                    hosts=('127.0.0.1',),
                    ports=(10000,),
                ),
            ),
            self._parse(
                config.LibvirtConfigGuestSerial(),
                type='tcp',
                listen_host='127.0.0.1',
                listen_port=10000,
                target_port=0,
                log=self._log(),
            ),
        )

    def test_a_console_into_a_file(self):
        self.assertEqual(
            (Character('console', 'file', '/i/console.log'),),
            self._parse(
                config.LibvirtConfigGuestConsole(),
                type='file',
                target_type='sclplm',
                source_path='/i/console.log',
            ),
        )

    def test_the_guest_agent_s_channel(self):
        self.assertEqual(
            (
                Character(
                    'channel',
                    'unix',
                    '/run/agent.sock',
                    listens=True,
                    target='org.qemu.guest_agent.0',
                ),
            ),
            self._parse(
                config.LibvirtConfigGuestChannel(),
                type='unix',
                target_name='org.qemu.guest_agent.0',
                source_path='/run/agent.sock',
            ),
        )

    def test_the_agents_of_spice(self):
        for kind in ('spicevmc', 'qemu-vdagent'):
            [found] = self._parse(
                config.LibvirtConfigGuestChannel(),
                type=kind,
                target_name='com.redhat.spice.0',
            )
            self.assertEqual(kind, found.kind)

    def test_a_redirected_usb_device(self):
        self.assertEqual(
            (Character('redirdev', 'spicevmc'),),
            self._parse(config.LibvirtConfigGuestUSBRedirect()),
        )


class GraphicsTest(NovaTestCase):
    def test_vnc(self):
        device = fill(
            config.LibvirtConfigGuestGraphics(), keymap='en', listen='::'
        )
        self.assertEqual(
            (Graphics('vnc', ('::',)),), self.parse(device).graphics
        )

    def test_spice(self):
        device = fill(
            config.LibvirtConfigGuestGraphics(),
            type='spice',
            listen='127.0.0.1',
            image_compression='auto_glz',
            jpeg_compression='auto',
            zlib_compression='auto',
            playback_compression=True,
            streaming_mode='filter',
        )
        self.assertEqual(
            (Graphics('spice', ('127.0.0.1',)),), self.parse(device).graphics
        )

    def test_spice_with_tls(self):
        device = fill(
            config.LibvirtConfigGuestGraphics(), type='spice', secure=True
        )
        [found] = self.parse(device).graphics
        self.assertTrue(found.tls)


class OtherDeviceTest(NovaTestCase):
    def test_a_tpm(self):
        wanted = types.SimpleNamespace(model='tpm-crb', version='2.0')
        device = config.LibvirtConfigGuestVTPM(wanted, xml.UUID)
        self.assertEqual(
            (Tpm('emulator', version='2.0'),), self.parse(device).tpms
        )

    def test_a_share(self):
        device = fill(
            config.LibvirtConfigGuestFilesys(),
            source_type='mount',
            accessmode='passthrough',
            driver_type='virtiofs',
            source_dir='/mnt/share',
            target_dir='tag',
        )
        self.assertEqual(
            (Filesystem('mount', 'virtiofs', 'tag', '/mnt/share'),),
            self.parse(device).filesystems,
        )

    def test_persistent_memory(self):
        device = fill(
            config.LibvirtConfigGuestVPMEM(),
            source_path='/dev/dax0.0',
            target_size=GiB,
            align_size=2048,
            pmem=True,
        )
        self.assertEqual(
            (memory.MemoryDevice('nvdimm', '/dev/dax0.0', access='shared'),),
            self.parse(device).memory.devices,
        )

    def test_random_numbers(self):
        device = fill(
            config.LibvirtConfigGuestRng(),
            backend='/dev/hwrng',
            rate_period=1,
            rate_bytes=1,
        )
        self.assertEqual(
            (Rng('random', '/dev/hwrng'),), self.parse(device).rngs
        )

    def test_what_exists_in_the_emulator_only(self):
        self.assertEqual(
            domain.parse(xml.make()),
            self.parse(
                fill(
                    config.LibvirtConfigGuestWatchdog(),
                    model='i6300esb',
                    action='reset',
                ),
                config.LibvirtConfigGuestInput(),
                config.LibvirtConfigGuestVideo(),
                config.LibvirtConfigMemoryBalloon(),
                config.LibvirtConfigGuestSound('ich6'),
                config.LibvirtConfigGuestIOMMU(),
                config.LibvirtConfigGuestUSBHostController(),
                config.LibvirtConfigGuestPCIeRootController(),
                config.LibvirtConfigGuestPCIeRootPortController(),
            ),
        )


class GuestTest(NovaTestCase):
    """What Nova says outside of the devices."""

    def _parse(self, **attributes):
        guest = fill(
            config.LibvirtConfigGuest(),
            uuid=xml.UUID,
            name='instance-00000001',
            virt_type='kvm',
            os_type='hvm',
            os_mach_type='q35',
            **attributes,
        )
        found = domain.parse(guest.to_xml())
        self.assertEqual((), found.unknown)
        return found

    def test_uefi(self):
        found = self._parse(
            os_loader='/usr/share/OVMF/OVMF_CODE_4M.ms.fd',
            os_loader_type='pflash',
            os_loader_readonly=True,
            os_loader_secure=True,
            os_loader_stateless=False,
            os_nvram='/var/lib/libvirt/qemu/nvram/instance-00000001_VARS.fd',
            os_nvram_template='/usr/share/OVMF/OVMF_VARS_4M.ms.fd',
        ).firmware
        self.assertEqual(
            (
                Loader('/usr/share/OVMF/OVMF_CODE_4M.ms.fd', 'pflash', True),
                Nvram(
                    '/var/lib/libvirt/qemu/nvram/instance-00000001_VARS.fd',
                    '/usr/share/OVMF/OVMF_VARS_4M.ms.fd',
                ),
            ),
            (found.loader, found.nvram),
        )

    def test_uefi_that_libvirt_chooses(self):
        found = self._parse(os_firmware='efi', os_firmware_secure=True)
        self.assertEqual('efi', found.firmware.automatic)

    def test_a_kernel(self):
        found = self._parse(
            os_kernel='/i/kernel',
            os_initrd='/i/ramdisk',
            os_cmdline='root=/dev/vda',
        ).firmware
        self.assertEqual(
            ('/i/kernel', '/i/ramdisk'), (found.kernel, found.initrd)
        )

    def test_memory(self):
        page = fill(
            config.LibvirtConfigGuestMemoryBackingPage(),
            size_kb=2048,
            nodeset=[0],
        )
        backing = fill(
            config.LibvirtConfigGuestMemoryBacking(),
            hugepages=[page],
            sharedpages=False,
            locked=True,
            filesource=True,
            sharedaccess=True,
            allocateimmediate=True,
            discard=True,
        )
        self.assertEqual(
            memory.Memory((2048,), 'file', 'shared', locked=True),
            self._parse(membacking=backing).memory,
        )

    def test_a_numa_node_with_an_access_of_its_own(self):
        cell = fill(
            config.LibvirtConfigGuestCPUNUMACell(),
            id=0,
            cpus={0},
            memory=GiB,
            memAccess='shared',
        )
        numa = fill(config.LibvirtConfigGuestCPUNUMA(), cells=[cell])
        cpu = fill(
            config.LibvirtConfigGuestCPU(), mode='host-model', numa=numa
        )
        self.assertTrue(self._parse(cpu=cpu).memory.by_node)

    def test_launch_security(self):
        for launch, expected in (
            (config.LibvirtConfigGuestSEVLaunchSecurity(), 'sev'),
            (config.LibvirtConfigGuestSEVSNPLaunchSecurity(), 'sev-snp'),
        ):
            self.assertEqual(
                LaunchSecurity(expected),
                self._parse(launch_security=launch).launch_security,
            )
        self.assertEqual(
            LaunchSecurity('tdx', ''),
            self._parse(
                launch_security=config.LibvirtConfigGuestTDXLaunchSecurity()
            ).launch_security,
        )
