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

"""A guest's profile lets its processes at the devices that its XML names and
at none beside them, on nodes made for devices that the lab does not have.

Behind the nodes is /dev/null's driver: what is shown is the label's part.

Runs on the lab's machine: ``lab/lab run``.
"""

import os
import pathlib
import shutil
import stat
import tempfile
import unittest

from nova_isolation.apparmor import grants
from nova_isolation.apparmor import policy as policy_module
from nova_isolation import domain as domain_module
from nova_isolation import hostfacts
from nova_isolation import images
from nova_isolation.tests.system.attacks import captured
from nova_isolation.tests.system import loading

UUID = '11111111-2222-4333-8444-555555555555'
MDEV = '11111111-2222-3333-4444-555555555555'
DOMAIN = """
<domain type='qemu' id='3'>
  <name>instance-00000001</name><uuid>{uuid}</uuid>{top}
  <os><type>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}</devices>
</domain>
"""
PCI = "<address type='pci' domain='0' bus='0x65' slot='0' function='1'/>"


class MadeUpDevicesTest(unittest.TestCase):
    def setUp(self):
        self.place = tempfile.mkdtemp(dir='/srv')
        os.chmod(self.place, 0o755)
        self.addCleanup(shutil.rmtree, self.place)
        self.sys = pathlib.Path(self.place, 'sys')
        for path in ('pci/devices/0000:65:00.1', f'mdev/devices/{MDEV}'):
            device = self.sys / 'bus' / path
            device.mkdir(parents=True)
            (device / 'iommu_group').symlink_to('../../../groups/15')
        device = self.sys / 'bus/pci/devices/0000:65:00.1/vfio-dev/vfio3'
        device.mkdir(parents=True)
        for number in (5, 6):
            device = self.sys / f'bus/usb/devices/1-{number}'
            device.mkdir(parents=True)
            (device / 'busnum').write_text('1\n')
            (device / 'devnum').write_text(f'{number}\n')
        generic = 'bus/scsi/devices/2:0:3:1/scsi_generic/sg7'
        (self.sys / generic).mkdir(parents=True)
        self.mounts = pathlib.Path(self.place, 'mounts')
        self.mounts.write_text(
            f'hugetlbfs {self.place}/huge hugetlbfs rw,pagesize=2M 0 0\n'
        )

    def make(self, path, kind=stat.S_IFCHR):
        """Make a node that anybody may open, unless there is one."""
        if os.path.exists(path):
            return
        missing = path
        while not os.path.isdir(parent := os.path.dirname(missing)):
            missing = parent
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.addCleanup(
            shutil.rmtree if missing != path else os.unlink, missing
        )
        if kind == stat.S_IFREG:
            pathlib.Path(path).touch()
        else:
            like = '/dev/null' if kind == stat.S_IFCHR else '/dev/ubda'
            os.mknod(path, kind | 0o666, os.stat(like).st_rdev)
        os.chmod(path, 0o666)

    def load(self, devices, top):
        domain = domain_module.parse(
            DOMAIN.format(uuid=UUID, top=top, devices=devices)
        )
        granting = grants.Granting(
            images.Directories(self.place, self.place),
            hostfacts.HostFacts(sys=str(self.sys), mounts=str(self.mounts)),
            grants.Places(),
            connections=True,
        )
        return loading.load(
            policy_module.compute(
                domain, granting.of(domain, unknown=True), complain=False
            )
        )

    @staticmethod
    def open(path, flags, label):
        """Open a file as a captured QEMU would; '' or the kernel's refusal."""
        outcome = captured.run(
            lambda: os.open(path, flags) > 0,
            lambda got, pid: got,
            name='made-up',
            label=label,
            capabilities=(),
        )
        return '' if outcome.succeeded else outcome.error or outcome.words

    def check(
        self, devices='', *, own, other, top='', kind=stat.S_IFCHR, write=True
    ):
        """Check what a guest with a device reaches.

        :param own: the nodes that it gets
        :param other: nodes of the same kind that it does not
        :param write: whether it may write to its own
        """
        for path in (*own, *other):
            self.make(path, kind)
        label = self.load(devices, top)
        flags = os.O_RDWR if write else os.O_RDONLY
        for path in own:
            self.assertEqual('', self.open(path, flags, label), path)
            if not write:
                denied = self.open(path, os.O_WRONLY, label)
                self.assertEqual('EACCES', denied, path)
        for path in other:
            # only the label is in the way
            self.assertEqual('', self.open(path, os.O_RDONLY, None), path)
            denied = self.open(path, os.O_RDONLY, label)
            self.assertEqual('EACCES', denied, path)

    def test_a_pci_device_or_a_virtual_function(self):
        for device in (
            f"<hostdev type='pci'><source>{PCI}</source></hostdev>",
            f"<interface type='hostdev'><source>{PCI}</source></interface>",
            f"<disk type='nvme'><source type='pci' namespace='1'>{PCI}"
            "</source><target dev='vda'/></disk>",
        ):
            self.check(
                device,
                own=['/dev/vfio/vfio', '/dev/vfio/15'],
                other=['/dev/vfio/16', '/dev/vfio/1', '/dev/vfio/150'],
            )

    def test_a_pci_device_through_iommufd(self):
        self.check(
            "<hostdev type='pci'><driver iommufd='yes'/><source>"
            f'{PCI}</source></hostdev>',
            own=['/dev/iommu', '/dev/vfio/devices/vfio3'],
            other=['/dev/vfio/devices/vfio4', '/dev/vfio/vfio'],
        )

    def test_a_mediated_device(self):
        self.check(
            f"<hostdev type='mdev'><source><address uuid='{MDEV}'/></source>"
            '</hostdev>',
            own=['/dev/vfio/vfio', '/dev/vfio/15'],
            other=['/dev/vfio/16'],
        )

    def test_a_usb_device(self):
        self.check(
            "<hostdev type='usb'><source><address bus='1' device='5'/>"
            '</source></hostdev>',
            own=['/dev/bus/usb/001/005'],
            other=['/dev/bus/usb/001/006', '/dev/bus/usb/002/005'],
        )

    def test_a_scsi_device(self):
        source = (
            "<source><adapter name='scsi_host2'/><address bus='0'"
            " target='3' unit='1'/></source>"
        )
        for inner, write in (('', True), ('<readonly/>', False)):
            self.check(
                f"<hostdev type='scsi'>{source}{inner}</hostdev>",
                own=['/dev/sg7'],
                other=['/dev/sg6', '/dev/sg70'],
                write=write,
            )

    def test_a_vhost_scsi_target(self):
        self.check(
            "<hostdev type='scsi_host'><source protocol='vhost'"
            " wwpn='naa.5123456789abcde0'/></hostdev>",
            own=['/dev/vhost-scsi'],
            other=['/dev/vhost-vsock'],
        )

    def test_a_vdpa_interface(self):
        self.make('/dev/vhost-vdpa-0')
        self.check(
            "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/>"
            '</interface>',
            own=['/dev/vhost-vdpa-0'],
            other=['/dev/vhost-vdpa-1'],
        )

    def test_an_input_device(self):
        self.make('/dev/input/event0')
        self.check(
            "<input type='evdev'><source dev='/dev/input/event0'/></input>",
            own=['/dev/input/event0'],
            other=['/dev/input/event1'],
        )

    def test_memory_that_is_kept_from_the_host(self):
        self.check(
            top="<launchSecurity type='sev'/>",
            own=['/dev/sev'],
            other=['/dev/sev-guest', '/dev/sgx_enclave'],
        )

    def test_a_volume_of_a_storage_network(self):
        # multipath, iSCSI, NVMe over fabrics and Fibre Channel end so: a link
        # to a node whose name is given to another volume some day
        self.make('/dev/dm-3', stat.S_IFBLK)
        link = '/dev/disk-by-test'
        os.symlink('/dev/dm-3', link)
        self.addCleanup(os.unlink, link)
        for inner, write in (('', True), ('<readonly/>', False)):
            self.check(
                f"<disk type='block'><source dev='{link}'/>"
                f"<target dev='vda'/>{inner}</disk>",
                own=['/dev/dm-3'],
                other=['/dev/dm-4', '/dev/dm-30'],
                kind=stat.S_IFBLK,
                write=write,
            )

    def test_huge_pages(self):
        pages = f'{self.place}/huge/libvirt/qemu'
        self.check(
            top='<memoryBacking><hugepages/></memoryBacking>',
            own=[f'{pages}/3-instance-00000001/memory'],
            other=[
                f'{pages}/4-instance-00000002/memory',
                f'{pages}/3-instance-000000010/memory',
                f'{pages}/memory',
            ],
            kind=stat.S_IFREG,
        )

    def test_a_disk_in_ceph(self):
        self.check(
            "<disk type='network'><auth username='u'><secret type='ceph'"
            f" uuid='{UUID}'/></auth><source protocol='rbd' name='p/i'>"
            "<host name='10.0.0.1'/></source><target dev='vda'/></disk>",
            own=['/etc/ceph/ceph.conf'],
            other=[
                '/etc/ceph/ceph.client.admin.keyring',
                '/etc/ceph/other.conf',
                '/dev/shm/lttng-ust-wait-8',
            ],
            kind=stat.S_IFREG,
            write=False,
        )

    def test_a_vhost_user_socket(self):
        # what the label says to the name; a socket cannot be opened
        for mode in ('server', 'client'):
            self.check(
                "<interface type='vhostuser'><source type='unix'"
                f" path='{self.place}/vhu1' mode='{mode}'/></interface>",
                own=[f'{self.place}/vhu1'],
                other=[f'{self.place}/vhu2', f'{self.place}/vhu10'],
                kind=stat.S_IFREG,
            )
