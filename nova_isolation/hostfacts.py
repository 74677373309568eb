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

"""What the host tells of the devices that a domain names.

A domain names devices as Nova knows them: a PCI address, a uuid, a symbolic
link. What QEMU opens is found in sysfs and below ``/dev``. A device that is
not there, or that two could be, refuses the guest.
"""

from collections.abc import Callable, Iterable
import dataclasses
import glob
import os
import re
import stat

from nova_isolation.domain.hostdevs import ScsiDevice
from nova_isolation.domain.hostdevs import UsbDevice
from nova_isolation.domain.reader import PciAddress
from nova_isolation import exceptions

_INTERFACE = re.compile('[A-Za-z0-9_.-]{1,15}')
_PORT = re.compile('[0-9]{1,3}(\\.[0-9]{1,3}){0,6}')


def _mode(path: str) -> int:
    return os.stat(path).st_mode


@dataclasses.dataclass(frozen=True)
class HostFacts:
    """Reads facts of this host.

    :ivar sys: where sysfs is mounted
    :ivar dev: where the device nodes are
    :ivar mounts: the list of mounts, as in proc(5)
    """

    sys: str = '/sys'
    dev: str = '/dev'
    mounts: str = '/proc/self/mounts'

    def sequence(self, path: str) -> int | None:
        """Tell which one of all disks that there were a block device is.

        :param path: of its node
        :returns: the kernel's number of it, which no later one gets; None when
            there is no such device, or the kernel (before 5.15) tells none
        """
        try:
            status = os.stat(path)
            if not stat.S_ISBLK(status.st_mode):
                return None
            major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
            with open(f'{self.sys}/dev/block/{major}:{minor}/diskseq') as f:
                return int(f.read())
        except (OSError, ValueError):
            return None

    def vfio_of_pci(self, address: PciAddress) -> str:
        """Find what QEMU opens for a PCI device.

        :param address: of the device
        :returns: path of its IOMMU group's node
        :raises MissingDevice: when there is no such device or group
        """
        return self._group(
            f'{self.sys}/bus/pci/devices/{address}', f'PCI device {address}'
        )

    def vfio_of_mediated(self, uuid: str) -> str:
        """Find what QEMU opens for a mediated device.

        :param uuid: of the device
        :returns: path of its IOMMU group's node
        :raises MissingDevice: when there is no such device or group
        """
        return self._group(
            f'{self.sys}/bus/mdev/devices/{uuid}', f'mediated device {uuid}'
        )

    def _group(self, directory: str, what: str) -> str:
        try:
            group = os.path.basename(
                os.readlink(os.path.join(directory, 'iommu_group'))
            )
        except OSError as e:
            raise exceptions.MissingDevice(
                f'the {what} is not there or has no IOMMU group: {e}: check '
                'the device and that the IOMMU is on (intel_iommu=on)'
            ) from e
        if not (group.isascii() and group.isdigit()):
            raise exceptions.MissingDevice(
                f'the {what} is in the IOMMU group {group!r}, which has no '
                'number'
            )
        return f'{self.dev}/vfio/{group}'

    def vfio_device(self, address: PciAddress) -> str:
        """Find what QEMU opens for a PCI device through ``/dev/iommu``.

        :param address: of the device
        :returns: path of the device's own node
        :raises MissingDevice: when it is not bound to vfio-pci
        """
        directory = f'{self.sys}/bus/pci/devices/{address}/vfio-dev'
        return self._only(
            (os.path.basename(p) for p in glob.glob(f'{directory}/vfio*')),
            'vfio/devices/',
            f'device of VFIO for the PCI device {address}',
        )

    def usb(self, device: UsbDevice) -> str:
        """Find what QEMU opens for a USB device.

        :param device: as the domain names it
        :returns: path of its node
        :raises MissingDevice: when there is none or more than one such device
        """
        nodes = []
        for directory in glob.glob(f'{self.sys}/bus/usb/devices/*'):
            bus = self._number(directory, 'busnum', 10)
            number = self._number(directory, 'devnum', 10)
            if bus is None or number is None:
                continue
            found = (
                bus,
                number,
                self._number(directory, 'idVendor', 16),
                self._number(directory, 'idProduct', 16),
            )
            wanted = (device.bus, device.device, device.vendor, device.product)
            if device.port and _PORT.fullmatch(device.port):
                name = f'{bus}-{device.port}'
                if os.path.basename(directory) != name:
                    continue
            if all(
                w is None or w == f for w, f in zip(wanted, found, strict=True)
            ):
                nodes.append(f'{bus:03}/{number:03}')
        return self._only(nodes, 'bus/usb/', f'USB device {device}')

    def _number(self, directory: str, name: str, base: int) -> int | None:
        try:
            with open(os.path.join(directory, name), encoding='ascii') as f:
                return int(f.read(16), base)
        except (OSError, ValueError):
            return None

    def scsi_generic(self, device: ScsiDevice) -> str:
        """Find what QEMU opens for a SCSI device.

        :param device: as the domain names it
        :returns: path of its generic node
        :raises MissingDevice: when there is no such device
        """
        place = f'{device.adapter}:{device.bus}:{device.target}:{device.unit}'
        pattern = f'{self.sys}/bus/scsi/devices/{place}/scsi_generic/sg*'
        return self._only(
            (os.path.basename(path) for path in glob.glob(pattern)),
            '',
            f'generic node of the SCSI device {place}',
        )

    def _only(self, names: Iterable[str], below: str, what: str) -> str:
        found = sorted(names)
        if len(found) != 1:
            raise exceptions.MissingDevice(
                f'there is not just one {what}, but {found}'
            )
        return f'{self.dev}/{below}{found[0]}'

    def macvtap(self, interface: str) -> str:
        """Find the device of a macvtap interface.

        :param interface: its name
        :returns: path of its node
        :raises MissingDevice: when there is no such interface
        """
        number = None
        if _INTERFACE.fullmatch(interface) and interface not in ('.', '..'):
            number = self._number(
                f'{self.sys}/class/net/{interface}', 'ifindex', 10
            )
        if number is None:
            raise exceptions.MissingDevice(
                f'there is no interface {interface!r}'
            )
        return f'{self.dev}/tap{number}'

    def huge_pages(self, size: int) -> tuple[str, ...]:
        """Find where huge pages are mounted.

        :param size: of a page in KiB, 0 for the host's default
        :returns: the mounts, at least one
        :raises MissingDevice: when there is none
        """
        found = []
        with open(self.mounts, encoding='utf-8', errors='replace') as f:
            for line in f:
                fields = line.split(' ')
                if len(fields) > 3 and fields[2] == 'hugetlbfs':
                    mounted = re.search('pagesize=([0-9]+)([KMG])', fields[3])
                    shift = {'K': 0, 'M': 10, 'G': 20}
                    pages = mounted and int(mounted[1]) << shift[mounted[2]]
                    if not size or not pages or pages == size:
                        found.append(fields[1])
        if not found:
            raise exceptions.MissingDevice(
                f'no hugetlbfs with pages of {size or "any"} KiB is mounted'
            )
        return tuple(sorted(set(found)))

    def block_device(self, path: str) -> str:
        """Find the block device that a path leads to.

        :param path: e.g. a symbolic link below ``/dev/disk``
        :returns: the path of its node
        :raises MissingDevice: when it is none, or not below ``/dev``
        """
        return self._device(path, stat.S_ISBLK, 'block')

    def character_device(self, path: str) -> str:
        """Find the character device that a path leads to.

        :param path: e.g. ``/dev/hwrng``
        :returns: the path of its node
        :raises MissingDevice: when it is none, or not below ``/dev``
        """
        return self._device(path, stat.S_ISCHR, 'character')

    def _device(
        self, path: str, is_kind: Callable[[int], bool], kind: str
    ) -> str:
        real = os.path.realpath(path)
        try:
            right = is_kind(_mode(real))
        except OSError as e:
            raise exceptions.MissingDevice(
                f'the {kind} device {path} is not there: {e.strerror}'
            ) from e
        if not right or not real.startswith(f'{self.dev}/'):
            raise exceptions.MissingDevice(
                f'{path} leads to {real}, which is no {kind} device below '
                f'{self.dev}'
            )
        return real

    def file(self, path: str) -> str:
        """Find the regular file that a path of the host leads to.

        :param path: e.g. of a loader
        :returns: its path without symbolic links
        :raises MissingDevice: when it is none
        """
        real = os.path.realpath(path)
        if not os.path.isfile(real):
            raise exceptions.MissingDevice(f'{path} is not there or no file')
        return real

    def place(self, path: str) -> str:
        """Find where a file is or will be.

        :param path: of a file that need not exist
        :returns: the same without symbolic links in its directory
        :raises MissingDevice: when it is a symbolic link itself
        """
        directory, name = os.path.split(path)
        real = os.path.join(os.path.realpath(directory), name)
        if os.path.islink(real):
            raise exceptions.MissingDevice(f'{path} is a symbolic link')
        return real
