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

"""What we grant a device and what stock libvirt grants it, rule by rule.

Also for devices that the lab has no hardware for: virt-aa-helper and we read
the same XML, and each difference is named here.

Runs on the lab's machine: ``lab/lab run --with libvirt``.
"""

import os
import pathlib
import re
import subprocess
import tempfile
import unittest

from nova_isolation.apparmor import grants
from nova_isolation.apparmor.policy import FileGrant
from nova_isolation import domain as domain_module
from nova_isolation import hostfacts
from nova_isolation import images

UUID = '11111111-2222-4333-8444-555555555555'
NAME = 'instance-00000001'
INSTANCES = pathlib.Path('/var/lib/nova/instances')
INSTANCE = INSTANCES / UUID
STATE = '/var/lib/libvirt/qemu'

DOMAIN = """
<domain type='qemu' id='3'>
  <name>{name}</name><uuid>{uuid}</uuid>{top}<memory>65536</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type>{os}</os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}</devices>
</domain>
"""
PCI = "<address type='pci' domain='0' bus='0x65' slot='0' function='1'/>"
_RULE = re.compile('"(.*)" ([a-z]+),')


class StockTest(unittest.TestCase):
    def setUp(self):
        INSTANCE.mkdir(parents=True, exist_ok=True)
        # a host with one device of each kind
        self.sys = tempfile.TemporaryDirectory()
        self.addCleanup(self.sys.cleanup)
        bus = pathlib.Path(self.sys.name, 'bus')
        for path in (f'mdev/devices/{UUID}', 'pci/devices/0000:65:00.1'):
            (bus / path).mkdir(parents=True)
            (bus / path / 'iommu_group').symlink_to('../../groups/15')
        (bus / 'scsi/devices/2:0:3:1/scsi_generic/sg7').mkdir(parents=True)
        self.mounts = os.path.join(self.sys.name, 'mounts')
        with open(self.mounts, 'w') as f:
            f.write('hugetlbfs /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\n')

    def stock(self, xml):
        """What virt-aa-helper would write for a domain, without a guest."""
        done = subprocess.run(
            [
                '/usr/lib/libvirt/virt-aa-helper',
                '-d',
                '-r',
                '-u',
                f'libvirt-{UUID}',
            ],
            input=xml,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        self.assertEqual(0, done.returncode, done.stdout)
        return {
            found.groups()
            for line in done.stdout.splitlines()
            # lines that deny begin with the word
            if (found := _RULE.fullmatch(line.strip()))
        }

    def ours(self, xml):
        """What we grant it."""
        domain = domain_module.parse(xml)
        granting = grants.Granting(
            images.Directories(str(INSTANCE), str(INSTANCES / '_base')),
            hostfacts.HostFacts(sys=self.sys.name, mounts=self.mounts),
            grants.Places(),
            connections=True,
        )
        return {
            (
                g.path
                + ('' if g.after is None else f'3-{NAME}{g.after}')
                + ('/**' if g.tree else ''),
                g.access,
            )
            for g in granting.of(domain, unknown=True)
            if isinstance(g, FileGrant)
        }

    def compare(
        self, *, devices='', os='', top='', same=(), stock=(), ours=()
    ):
        """Compare what one device adds.

        :param same: rules that both have
        :param stock: what only stock libvirt grants
        :param ours: what only we grant
        """

        def xml(**parts):
            return DOMAIN.format(name=NAME, uuid=UUID, **parts)

        bare = self.stock(xml(devices='', os='', top=''))
        wanted = xml(devices=devices, os=os, top=top)
        theirs = self.stock(wanted) - bare
        mine = self.ours(wanted)
        self.assertEqual(set(same), theirs & mine)
        self.assertEqual(set(stock), theirs - mine)
        self.assertEqual(set(ours), mine - theirs)

    def test_a_block_device(self):
        self.compare(
            devices="<disk type='block'><source dev='/dev/ubda'/>"
            "<target dev='vda'/></disk>",
            same=[('/dev/ubda', 'rwk')],
        )

    def test_a_block_device_that_is_only_read(self):
        self.compare(
            devices="<disk type='block'><source dev='/dev/ubda'/>"
            "<target dev='vda'/><readonly/></disk>",
            same=[('/dev/ubda', 'rk')],
        )

    def test_a_vhost_user_interface(self):
        for mode in ('server', 'client'):
            self.compare(
                devices="<interface type='vhostuser'>"
                "<mac address='52:54:00:00:00:01'/><source type='unix'"
                f" path='/run/vhu1' mode='{mode}'/><model type='virtio'/>"
                '</interface>',
                same=[('/run/vhu1', 'rw')],
            )

    def test_a_pci_device_is_its_group_and_no_other(self):
        self.compare(
            devices="<hostdev mode='subsystem' type='pci' managed='yes'>"
            f'<source>{PCI}</source></hostdev>',
            same=[('/dev/vfio/vfio', 'rw')],
            stock=[('/dev/vfio/[0-9]*', 'rw')],
            ours=[('/dev/vfio/15', 'rw')],
        )

    # What follows stock libvirt grants to every guest in its abstraction, or
    # at the call that opens it; only we do it by what the XML names.

    def test_an_nvme_disk(self):
        self.compare(
            devices="<disk type='nvme'><driver name='qemu' type='raw'/>"
            f"<source type='pci' managed='yes' namespace='1'>{PCI}</source>"
            "<target dev='vda'/></disk>",
            ours=[('/dev/vfio/vfio', 'rw'), ('/dev/vfio/15', 'rw')],
        )

    def test_disks_of_a_network(self):
        disk = (
            "<disk type='network'><driver name='qemu' type='raw'/>%s"
            "<target dev='vda'/></disk>"
        )
        self.compare(
            devices=disk % "<auth username='u'><secret type='ceph'"
            f" uuid='{UUID}'/></auth><source protocol='rbd' name='p/i'>"
            "<host name='10.0.0.1'/></source>",
            ours=[('/etc/ceph/ceph.conf', 'r')],
        )
        self.compare(
            devices=disk % "<source protocol='nbd' name='x' tls='yes'>"
            "<host name='10.0.0.1'/></source>",
            ours=[('/etc/pki/qemu/**', 'r')],
        )

    def test_a_scsi_device(self):
        self.compare(
            devices="<hostdev mode='subsystem' type='scsi'><source>"
            "<adapter name='scsi_host2'/><address bus='0' target='3'"
            " unit='1'/></source></hostdev>",
            ours=[('/dev/sg7', 'rw')],
        )

    def test_memory_in_files(self):
        own = f'libvirt/qemu/3-{NAME}'
        self.compare(
            top='<memoryBacking><hugepages/></memoryBacking>',
            ours=[(f'/dev/hugepages/{own}/**', 'rw')],
        )
        self.compare(
            top="<memoryBacking><source type='file'/></memoryBacking>",
            ours=[(f'{STATE}/ram/3-{NAME}/**', 'rw')],
        )

    def test_memory_that_is_kept_from_the_host(self):
        self.compare(
            top="<launchSecurity type='sev'><policy>3</policy>"
            '<cbitpos>47</cbitpos><reducedPhysBits>1</reducedPhysBits>'
            '</launchSecurity>',
            ours=[('/dev/sev', 'rw')],
        )

    def test_a_mediated_device_is_its_group_and_no_other(self):
        self.compare(
            devices="<hostdev mode='subsystem' type='mdev' model='vfio-pci'>"
            f"<source><address uuid='{UUID}'/></source></hostdev>",
            same=[('/dev/vfio/vfio', 'rw')],
            stock=[('/dev/vfio/[0-9]*', 'rw')],
            ours=[('/dev/vfio/15', 'rw')],
        )

    def test_consoles_and_channels(self):
        log = str(INSTANCE / 'console.log')
        self.compare(
            devices=f"<serial type='file'><source path='{log}'/></serial>"
            "<channel type='unix'><source mode='bind' path='/run/a.sock'/>"
            "<target type='virtio' name='n'/></channel>",
            same=[(log, 'rw'), ('/run/a.sock', 'rw')],
        )

    def test_uefi(self):
        code = '/usr/share/OVMF/OVMF_CODE_4M.fd'
        nvram = f'{STATE}/nvram/{NAME}_VARS.fd'
        self.compare(
            os=f"<loader readonly='yes' type='pflash'>{code}</loader>"
            f"<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>{nvram}"
            '</nvram>',
            same=[(code, 'rk'), (nvram, 'rwk')],
        )

    def test_a_virtual_tpm(self):
        state = f'/var/lib/libvirt/swtpm/{UUID}/tpm2'
        log = f'/var/log/swtpm/libvirt/qemu/{NAME}-swtpm.log'
        own = f'/run/libvirt/qemu/swtpm/3-{NAME}-swtpm'
        self.compare(
            devices="<tpm model='tpm-crb'><backend type='emulator'"
            " version='2.0'/></tpm>",
            same=[
                (f'{own}.sock', 'rw'),
                (f'{own}.pid', 'rw'),
                (f'{state}/**', 'rwk'),
            ],
            stock=[(f'{state}/', 'r'), (log, 'w')],
            ours=[(log, 'rw')],
        )

    def test_what_lies_in_shared_memory_or_dev(self):
        self.compare(
            devices="<shmem name='s'><model type='ivshmem-plain'/>"
            "<size unit='M'>4</size></shmem>"
            "<input type='evdev'><source dev='/dev/null'/></input>"
            "<serial type='dev'><source path='/dev/zero'/></serial>",
            same=[
                ('/dev/shm/s', 'rw'),
                ('/dev/null', 'rw'),
                ('/dev/zero', 'rw'),
            ],
        )

    def test_a_kernel(self):
        kernel, initrd = str(INSTANCE / 'kernel'), str(INSTANCE / 'ramdisk')
        self.compare(
            os=f'<kernel>{kernel}</kernel><initrd>{initrd}</initrd>',
            same=[(kernel, 'r'), (initrd, 'r')],
        )
