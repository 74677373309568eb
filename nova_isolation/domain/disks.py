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

"""Disks, and what they are made of: sources, layers, encryption."""

import dataclasses

from nova_isolation.domain.reader import Node
from nova_isolation.domain.reader import pci_address
from nova_isolation.domain.reader import PciAddress
from nova_isolation import exceptions

#: The layers that one disk may have, its own included.
MAX_LAYERS = 16

_FORMATS = frozenset(
    'bochs cloop cow dir dmg fat iso luks parallels ploop qcow qcow2 qed raw'
    ' vdi vhd vmdk vpc'.split()
)
_PROTOCOLS = (
    'ftp ftps gluster http https iscsi nbd nfs rbd sheepdog ssh tftp vxhs'
).split()
_HARMLESS_DRIVER = (
    'ats cache copy_on_read detect_zeroes discard discard_no_unref'
    ' error_policy event_idx ioeventfd iommu iothread packed page_per_vq'
    ' queue_size queues rerror_policy'
)
_HARMLESS_DISK = (
    'acpi address alias blockio boot geometry iotune product serial target'
    ' throttlefilters vendor wwn'
)


@dataclasses.dataclass(frozen=True)
class Host:
    """Where a network source is served.

    :ivar transport: ``tcp``, ``rdma`` or ``unix``
    :ivar socket: path of the socket of ``unix``, else None
    """

    name: str
    port: str
    transport: str = 'tcp'
    socket: str | None = None


@dataclasses.dataclass(frozen=True)
class FileSource:
    """A file of the host."""

    path: str


@dataclasses.dataclass(frozen=True)
class BlockSource:
    """A block device of the host."""

    path: str


@dataclasses.dataclass(frozen=True)
class DirectorySource:
    """A directory of the host, shown as a FAT file system."""

    path: str


@dataclasses.dataclass(frozen=True)
class VolumeSource:
    """A volume of one of libvirt's storage pools.

    :ivar mode: ``host``, ``direct`` or ''
    """

    pool: str
    volume: str
    mode: str


@dataclasses.dataclass(frozen=True)
class NetworkSource:
    """What QEMU itself gets over a network protocol.

    :ivar name: of the image, volume or export; what follows the host in a URL
    :ivar config: rbd's configuration file, or None for its default ones
    :ivar user: who logs in, or ''
    :ivar secret: whether libvirt hands over a secret
    :ivar tls: whether TLS certificates of the host are used
    :ivar files: other files of the host that it names: ssh's keys and known
        hosts
    """

    protocol: str
    name: str
    hosts: tuple[Host, ...] = ()
    config: str | None = None
    user: str = ''
    secret: bool = False
    tls: bool = False
    files: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class NvmeSource:
    """An NVMe controller of the host, driven by QEMU through VFIO.

    :ivar namespace: the controller's namespace, or None
    """

    address: PciAddress
    namespace: int | None


@dataclasses.dataclass(frozen=True)
class VhostUserSource:
    """A disk that another process serves on a socket."""

    path: str


@dataclasses.dataclass(frozen=True)
class VhostVdpaSource:
    """A vDPA device of the host."""

    path: str


Source = (
    FileSource
    | BlockSource
    | DirectorySource
    | VolumeSource
    | NetworkSource
    | NvmeSource
    | VhostUserSource
    | VhostVdpaSource
)


@dataclasses.dataclass(frozen=True)
class Encryption:
    """What decrypts a layer.

    :ivar format: ``luks``, ``qcow`` …
    :ivar engine: ``qemu``, ``librbd`` or ''
    """

    format: str
    engine: str = ''


@dataclasses.dataclass(frozen=True)
class Layer:
    """One image of a disk's chain.

    :ivar format: ``qcow2``, ``raw`` …; '' when the XML does not say
    :ivar data: the external data file of a qcow2 image, or None
    :ivar reservations: whether persistent reservations go through a helper
    :ivar reservations_socket: path of the helper's socket, None as long as
        libvirt has not named it
    """

    source: Source
    format: str
    encryption: Encryption | None = None
    data: 'Layer | None' = None
    reservations: bool = False
    reservations_socket: str | None = None

    @property
    def path(self) -> str | None:
        """The file or block device that it is in, or None."""
        if isinstance(self.source, FileSource | BlockSource):
            return self.source.path
        return None


@dataclasses.dataclass(frozen=True)
class Disk:
    """A disk, or a drive with a medium.

    :ivar target: the device's name in the guest, e.g. ``vda``
    :ivar device: ``disk``, ``cdrom``, ``floppy`` or ``lun``
    :ivar top: what the guest writes to
    :ivar backing: the layers below, the last one at the end; None when the
        XML names none, and libvirt will follow the headers
    :ivar open_ended: whether the XML names some and not that there are no
        more, so that libvirt will follow the header of the last one
    :ivar readonly: whether QEMU opens it without writing
    :ivar shareable: whether several guests may write to it
    :ivar transient: whether libvirt puts an overlay of its own upon it
    :ivar io_uring: whether QEMU uses io_uring for it
    :ivar raw_io: whether it needs CAP_SYS_RAWIO
    :ivar mirror: the layers of what a block job copies it to
    """

    target: str
    device: str
    top: Layer
    backing: tuple[Layer, ...] | None = None
    open_ended: bool = False
    readonly: bool = False
    shareable: bool = False
    transient: bool = False
    io_uring: bool = False
    raw_io: bool = False
    mirror: tuple[Layer, ...] = ()

    @property
    def path(self) -> str | None:
        """The file or block device that the guest writes to, or None."""
        return self.top.path

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All that the XML names of it, the mirror included."""
        named = (self.top, *(self.backing or ()), *self.mirror)
        return named + tuple(n.data for n in named if n.data is not None)


def read_disk(node: Node) -> Disk | None:
    """Read a ``<disk>``.

    :param node: the element
    :returns: the disk; None for a drive without a medium, and for a source
        that is not known
    :raises InvalidDomain: for what no disk can be
    """
    device = node.get(
        'device', 'disk', 'cdrom', 'floppy', 'lun', default='disk'
    )
    target = node.child('target')
    name = target.get('dev')
    target.harmless('bus removable rotation_rate tray')
    node.label = f'<disk> {name}'.strip()
    node.harmless('model sgio snapshot', _HARMLESS_DISK)
    driver = node.child('driver')
    driver.get('name', 'qemu')
    driver.harmless(_HARMLESS_DRIVER, 'iothreads latency_histogram statistics')
    driver.child('metadata_cache').all_harmless()
    io_uring = driver.get('io', 'native', 'threads', 'io_uring') == 'io_uring'
    # without a driver element libvirt takes the format as raw
    image_format = driver.get('type', *_FORMATS) or 'raw'
    readonly = bool(node.child('readonly'))
    shareable = bool(node.child('shareable'))
    transient = node.child('transient')
    transient.harmless('shareBacking')
    raw_io = node.get('rawio', 'yes', 'no') == 'yes'
    mirror = _mirror(node.child('mirror'))
    # where older versions of Nova and libvirt have them
    outside = _Protection(node)
    drive = device in ('cdrom', 'floppy')
    top = _layer(node, image_format, outside, optional=drive)
    backing, open_ended = _backing(node)
    if top is None:
        return None
    return Disk(
        target=name,
        device=device,
        top=top,
        backing=backing,
        open_ended=open_ended,
        readonly=readonly or device == 'cdrom',
        shareable=shareable,
        transient=bool(transient),
        io_uring=io_uring,
        raw_io=raw_io,
        mirror=mirror,
    )


class _Protection:
    """The ``<auth>`` and ``<encryption>`` in an element."""

    def __init__(self, node: Node) -> None:
        auth = node.child('auth')
        self.user = auth.get('username')
        self.secret = bool(auth)
        # libvirt reads it and hands it over encrypted
        auth.child('secret').harmless('type usage uuid')
        encryption = node.child('encryption')
        self.encryption = None
        if encryption:
            self.encryption = Encryption(
                encryption.get('format'), encryption.get('engine')
            )
            for secret in encryption.children('secret'):
                secret.harmless('type usage uuid')
            encryption.harmless(children='cipher ivgen')


def _layer(
    node: Node,
    image_format: str,
    outside: _Protection | None = None,
    *,
    optional: bool = False,
) -> Layer | None:
    """Read the image that an element names by its type and ``<source>``.

    :returns: the layer; None when its type is not known, or it has none and
        is optional
    """
    kind = node.get(
        'type',
        'block',
        'dir',
        'file',
        'network',
        'nvme',
        'vhostuser',
        'vhostvdpa',
        'volume',
        default='file',
    )
    element = node.child('source')
    element.harmless('index startupPolicy', 'privateData seclabel slices')
    inside = _Protection(element)
    source = _source(kind, element, inside, outside)
    store = element.child('dataStore')
    data = None
    if store:
        data = _layer(store, _format(store))
    reservations = element.child('reservations')
    managed = reservations.get('managed', 'yes', 'no')
    helper = reservations.child('source')
    helper.get('type', 'unix')
    helper.harmless('mode', 'reconnect')
    socket = helper.path('path')
    if source is None:
        if kind and not optional:
            raise exceptions.InvalidDomain(f'{node.where} has no source')
        return None
    encryption = inside.encryption or (outside and outside.encryption)
    return Layer(
        source,
        image_format,
        encryption=encryption or None,
        data=data,
        reservations=bool(reservations) and (managed == 'yes' or bool(helper)),
        reservations_socket=socket,
    )


def _format(node: Node) -> str:
    image_format = node.child('format')
    image_format.harmless(children='metadata_cache')
    return image_format.get('type', *_FORMATS)


def _source(
    kind: str,
    element: Node,
    inside: _Protection,
    outside: _Protection | None,
) -> Source | None:
    """Read a ``<source>``; None when it names nothing or is not known."""
    match kind:
        case 'file' if path := element.path('file'):
            return FileSource(path)
        case 'block' if path := element.path('dev'):
            return BlockSource(path)
        case 'dir' if path := element.path('dir'):
            return DirectorySource(path)
        case 'volume' if element:
            return VolumeSource(
                element.get('pool'),
                element.get('volume'),
                element.get('mode', 'host', 'direct'),
            )
        case 'network' if element:
            return _network(element, inside, outside)
        case 'nvme' if address := pci_address(element):
            element.get('type', 'pci')
            element.harmless('managed')
            return NvmeSource(address, element.number('namespace'))
        case 'vhostuser' if path := element.path('path'):
            element.get('type', 'unix')
            element.harmless('mode', 'reconnect')
            return VhostUserSource(path)
        case 'vhostvdpa' if path := element.path('dev'):
            return VhostVdpaSource(path)
    return None


def _network(
    element: Node, inside: _Protection, outside: _Protection | None
) -> NetworkSource:
    protection = inside if inside.secret or outside is None else outside
    element.harmless(
        'query tlsHostname',
        'cookies initiator readahead reconnect snapshot timeout',
    )
    # certificates of the public: QEMU asks the host's store
    element.child('ssl').harmless('verify')
    hosts = []
    for host in element.children('host'):
        hosts.append(
            Host(
                host.get('name'),
                host.get('port'),
                host.get('transport', 'tcp', 'rdma', 'unix') or 'tcp',
                host.path('socket'),
            )
        )
    identity = element.child('identity')
    identity.harmless('group user username')
    files = (
        identity.path('keyfile'),
        identity.path('agentsock'),
        element.child('knownHosts').path('path'),
    )
    return NetworkSource(
        protocol=element.get('protocol', *_PROTOCOLS),
        name=element.get('name'),
        hosts=tuple(hosts),
        config=element.child('config').path('file'),
        user=protection.user,
        secret=protection.secret,
        tls=element.get('tls', 'yes', 'no') == 'yes',
        files=tuple(path for path in files if path),
    )


def _backing(disk: Node) -> tuple[tuple[Layer, ...] | None, bool]:
    """Read the chain below an image, and whether its end is not said."""
    store = disk.child('backingStore')
    if not store:
        return None, False
    chain: list[Layer] = []
    # the last one has none
    while store.has('type'):
        if len(chain) + 1 == MAX_LAYERS:
            raise exceptions.InvalidDomain(
                f'{disk.where} has more than {MAX_LAYERS} layers'
            )
        # without the layers above it
        store.label = f'{disk.label} <backingStore>'
        store.harmless('index')
        layer = _layer(store, _format(store))
        if layer is None:
            break
        chain.append(layer)
        store = store.child('backingStore')
    return tuple(chain), not store


def _mirror(node: Node) -> tuple[Layer, ...]:
    if not node:
        return ()
    node.harmless('format job ready')
    # libvirt repeats the source there for old readers
    path = node.path('file')
    layer = _layer(node, _format(node), optional=path is not None)
    if path and layer is None:
        layer = Layer(FileSource(path), '')
    backing = _backing(node)[0] or ()
    return (layer, *backing) if layer else backing
