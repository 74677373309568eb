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

"""Devices of the host that are passed through to the guest."""

import dataclasses
import re

from nova_isolation.domain.interfaces import read_iommufd
from nova_isolation.domain.interfaces import read_rom
from nova_isolation.domain.reader import Node
from nova_isolation.domain.reader import pci_address
from nova_isolation.domain.reader import PciAddress
from nova_isolation import exceptions

_UUID = re.compile('[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}')
_SCSI_HOST = re.compile('scsi_host([0-9]{1,7})')
_WWPN = re.compile('naa\\.[0-9a-fA-F]{16}')


@dataclasses.dataclass(frozen=True)
class PciDevice:
    """A PCI device.

    :ivar iommufd: whether QEMU gets it through ``/dev/iommu``
    :ivar rom: a file of the host with its boot ROM, or None
    """

    address: PciAddress
    iommufd: bool = False
    rom: str | None = None


@dataclasses.dataclass(frozen=True)
class MediatedDevice:
    """A mediated device (mdev), e.g. a virtual GPU.

    :ivar uuid: in lower case
    :ivar model: ``vfio-pci``, ``vfio-ccw`` or ``vfio-ap``
    :ivar display: whether it draws the guest's screen
    """

    uuid: str
    model: str
    display: bool = False


@dataclasses.dataclass(frozen=True)
class UsbDevice:
    """A USB device, by its place or by its maker.

    :ivar bus: number of the bus, or None
    :ivar device: its number there, or None
    :ivar port: its port there, e.g. ``1.4``, or ''
    :ivar optional: whether the guest starts without it
    """

    bus: int | None = None
    device: int | None = None
    port: str = ''
    vendor: int | None = None
    product: int | None = None
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class ScsiDevice:
    """A SCSI device of the host, used through its generic node.

    :ivar adapter: number of the host adapter
    """

    adapter: int
    bus: int
    target: int
    unit: int
    readonly: bool = False
    shareable: bool = False


@dataclasses.dataclass(frozen=True)
class IscsiDevice:
    """A SCSI device that QEMU itself gets over iSCSI.

    :ivar name: IQN and unit
    """

    name: str
    hosts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class VhostScsi:
    """A target of the host's kernel, through ``/dev/vhost-scsi``."""

    wwpn: str


HostDevice = (
    PciDevice
    | MediatedDevice
    | UsbDevice
    | ScsiDevice
    | IscsiDevice
    | VhostScsi
)


def read_host_device(node: Node) -> HostDevice | None:
    """Read a ``<hostdev>``.

    :param node: the element
    :returns: the device; None when its type is not known
    :raises InvalidDomain: when it does not name a device
    """
    kind = node.get('type', 'pci', 'mdev', 'usb', 'scsi', 'scsi_host')
    node.label = f'<hostdev> {kind}'.strip()
    node.get('mode', 'subsystem')
    node.harmless('managed', 'acpi address alias boot teaming')
    source = node.child('source')
    source.harmless('startupPolicy writeFiltering guestReset')
    device: HostDevice | None = None
    match kind:
        case 'pci':
            iommufd = read_iommufd(node.child('driver'))
            rom = read_rom(node)
            if pci := pci_address(source):
                device = PciDevice(pci, iommufd, rom)
        case 'mdev':
            device = _mdev(node, source)
        case 'usb':
            device = _usb(source)
        case 'scsi':
            device = _scsi(node, source)
        case 'scsi_host':
            node.harmless('model')
            source.get('protocol', 'vhost')
            wwpn = source.get('wwpn')
            device = VhostScsi(wwpn) if _WWPN.fullmatch(wwpn) else None
        case _:
            return None
    if device is None:
        raise exceptions.InvalidDomain(f'{node.where} names no device')
    return device


def _mdev(node: Node, source: Node) -> MediatedDevice | None:
    model = node.get('model', 'vfio-pci', 'vfio-ccw', 'vfio-ap')
    display = 'on' in (
        node.get('display', 'on', 'off'),
        node.get('ramfb', 'on', 'off'),
    )
    address = source.child('address')
    address.get('type', 'mdev')
    uuid = address.get('uuid')
    if not _UUID.fullmatch(uuid):
        return None
    return MediatedDevice(uuid.lower(), model or 'vfio-pci', display)


def _usb(source: Node) -> UsbDevice | None:
    optional = source.get('startupPolicy') in ('optional', 'requisite')
    source.harmless('missing')
    vendor = source.child('vendor').number('id')
    product = source.child('product').number('id')
    address = source.child('address')
    address.get('type', 'usb')
    bus, device = address.number('bus'), address.number('device')
    port = address.get('port')
    by_place = bus is not None and (device is not None or port)
    if not by_place and (vendor is None or product is None):
        return None
    return UsbDevice(bus, device, port, vendor, product, optional)


def _scsi(node: Node, source: Node) -> ScsiDevice | IscsiDevice | None:
    node.harmless('sgio rawio')
    readonly = bool(node.child('readonly'))
    shareable = bool(node.child('shareable'))
    protocol = source.get('protocol', 'adapter', 'iscsi', default='adapter')
    if protocol == 'iscsi':
        source.harmless(children='auth initiator')
        hosts = source.children('host')
        for host in hosts:
            host.harmless('port')
        return IscsiDevice(
            source.get('name'), tuple(host.get('name') for host in hosts)
        )
    adapter = _SCSI_HOST.fullmatch(source.child('adapter').get('name'))
    address = source.child('address')
    address.get('type', 'scsi')
    parts = [address.number(name) for name in ('bus', 'target', 'unit')]
    if protocol != 'adapter' or adapter is None or None in parts:
        return None
    bus, target, unit = (part or 0 for part in parts)
    return ScsiDevice(int(adapter[1]), bus, target, unit, readonly, shareable)
