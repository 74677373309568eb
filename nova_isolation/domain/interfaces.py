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

"""Network interfaces."""

import dataclasses

from nova_isolation.domain.reader import Node
from nova_isolation.domain.reader import pci_address
from nova_isolation.domain.reader import PciAddress
from nova_isolation import exceptions

# Configured by libvirt, which runs outside of the guest's confinement, or
# seen by the guest only.
_HARMLESS = (
    'acpi address alias bandwidth boot coalesce filterref guest ip link model'
    ' mtu port route teaming tune virtualport vlan'
)
_HARMLESS_DRIVER = (
    'ats event_idx ioeventfd iommu model packed page_per_vq queues rss'
    ' rss_hash_report rx_queue_size tx_queue_size txmode'
)


@dataclasses.dataclass(frozen=True)
class Tap:
    """A tap device that libvirt opens and hands over.

    :ivar kind: ``ethernet``, ``bridge`` or ``network``
    :ivar device: the tap device's name, '' when libvirt chooses it
    :ivar tun: the device that taps are made with, None for ``/dev/net/tun``
    :ivar vhost: the device of vhost, None for ``/dev/vhost-net``
    """

    mac: str
    kind: str
    device: str
    tun: str | None = None
    vhost: str | None = None


@dataclasses.dataclass(frozen=True)
class Macvtap:
    """A macvtap device, which libvirt makes, opens and hands over.

    :ivar device: its name, '' as long as libvirt has not chosen it
    :ivar parent: the interface of the host below it
    """

    mac: str
    device: str
    parent: str


@dataclasses.dataclass(frozen=True)
class PciInterface:
    """A PCI device of the host, as a rule a virtual function.

    :ivar iommufd: whether QEMU gets it through ``/dev/iommu``
    """

    mac: str
    address: PciAddress
    iommufd: bool = False


@dataclasses.dataclass(frozen=True)
class VhostUser:
    """A socket that is shared with a switch of the host.

    :ivar path: of the socket
    :ivar listens: whether QEMU makes the socket, rather than the switch
    """

    mac: str
    path: str
    listens: bool


@dataclasses.dataclass(frozen=True)
class Vdpa:
    """A vDPA device, which libvirt opens and hands over."""

    mac: str
    path: str


@dataclasses.dataclass(frozen=True)
class UserNetwork:
    """A network stack in the emulator or in a process beside it.

    :ivar backend: ``passt`` or ''
    """

    mac: str
    backend: str


@dataclasses.dataclass(frozen=True)
class Interface:
    """An interface.

    :ivar link: what it is connected to
    :ivar scripts: programs of the host that libvirt runs for it
    :ivar rom: a file of the host with its boot ROM, or None
    """

    link: Tap | Macvtap | PciInterface | VhostUser | Vdpa | UserNetwork
    scripts: tuple[str, ...] = ()
    rom: str | None = None


def read_rom(node: Node) -> str | None:
    """Read the ``<rom>`` of a device.

    :param node: the device
    :returns: the path of the ROM's file, or None
    :raises InvalidDomain: when it is no path
    """
    rom = node.child('rom')
    rom.harmless('bar enabled')
    return rom.path('file')


def read_iommufd(driver: Node) -> bool:
    """Read the ``<driver>`` of a PCI device.

    :param driver: the element
    :returns: whether QEMU gets the device through ``/dev/iommu``
    """
    driver.get('name', 'vfio', 'qemu', 'vhost')
    driver.harmless('model')
    return driver.get('iommufd', 'yes', 'no') == 'yes'


def read_interface(node: Node) -> Interface | None:
    """Read an ``<interface>``.

    :param node: the element
    :returns: the interface; None when its type is not known
    :raises InvalidDomain: when it lacks what its type needs
    """
    mac = node.child('mac')
    address = mac.get('address')
    mac.harmless('check currentAddress type')
    node.label = f'<interface> {address}'.strip()
    node.harmless('managed trustGuestRxFilters', _HARMLESS)
    target = node.child('target')
    device = target.get('dev')
    target.harmless('managed')
    rom = read_rom(node)
    # Nova writes <script path=''/> to keep libvirt's default away
    scripts = [
        script.get('path') for script in node.children('script', 'downscript')
    ]
    link = _link(node, address, device)
    if link is None:
        return None
    return Interface(link, tuple(path for path in scripts if path), rom)


def _link(
    node: Node, mac: str, device: str
) -> Tap | Macvtap | PciInterface | VhostUser | Vdpa | UserNetwork | None:
    kind = node.get(
        'type',
        'bridge',
        'direct',
        'ethernet',
        'hostdev',
        'network',
        'user',
        'vdpa',
        'vhostuser',
    )
    source = node.child('source')
    driver = node.child('driver')
    driver.harmless(_HARMLESS_DRIVER, 'guest host')
    iommufd = read_iommufd(driver)
    backend = node.child('backend')
    match kind:
        case 'ethernet' | 'bridge' | 'network':
            source.harmless(
                'bridge macTableManager network portgroup portid', 'ip route'
            )
            return Tap(
                mac, kind, device, backend.path('tap'), backend.path('vhost')
            )
        case 'direct':
            source.harmless('mode network portgroup portid')
            return Macvtap(mac, device, source.get('dev'))
        case 'hostdev':
            if pci := pci_address(source):
                return PciInterface(mac, pci, iommufd)
        case 'vhostuser':
            source.get('type', 'unix')
            source.harmless('dev', 'reconnect')
            mode = source.get('mode', 'client', 'server')
            if path := source.path('path'):
                return VhostUser(mac, path, listens=mode == 'server')
        case 'vdpa':
            if path := source.path('dev'):
                return Vdpa(mac, path)
        case 'user':
            return UserNetwork(mac, backend.get('type', 'default', 'passt'))
        case _:
            return None
    raise exceptions.InvalidDomain(f'{node.where} has no usable source')
