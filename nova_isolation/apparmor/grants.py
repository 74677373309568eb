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

"""What a guest needs of the host, by what its domain names.

Each device gives files and needs, with the element that asks for them, or is
refused by name: what cannot be granted exactly is not granted widely.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import ipaddress
import os
import types
from typing import Any, Self

from nova_isolation.apparmor.policy import FileGrant
from nova_isolation.apparmor.policy import Need
from nova_isolation import domain as domain_module
from nova_isolation.domain.characters import Character
from nova_isolation.domain import devices
from nova_isolation.domain import disks
from nova_isolation.domain.graphics import Graphics
from nova_isolation.domain import hostdevs
from nova_isolation.domain import interfaces
from nova_isolation.domain.memory import MemoryDevice
from nova_isolation.domain.memory import SharedMemory
from nova_isolation.domain.reader import PciAddress
from nova_isolation import exceptions
from nova_isolation import hostfacts
from nova_isolation import images
from nova_isolation import neighbours

# Back ends of character devices that stay within QEMU and its graphics.
_INNER = ('null', 'qemu-vdagent', 'spiceport', 'spicevmc', 'vc')
_CEPH = '/etc/ceph/ceph.conf'
# In every profile.
_RANDOM = '/dev/urandom'
_QUOTES = '/run/tdx-qgs/qgs.socket'
# The kernel's own devices, which hold nothing of a guest: each guest with a
# device of that kind opens them, and what it gets through them is its own.
_COMMON = ('iommu', 'vfio/vfio', 'vhost-scsi', 'vhost-vsock')


Grant = FileGrant | Need


@dataclasses.dataclass(frozen=True)
class Places:
    """Directories of this host's libvirt.

    :ivar state: see ``[isolation] libvirt_state_directory``
    :ivar runtime: see ``[isolation] libvirt_runtime_directory``
    :ivar tls: certificates for NBD and consoles
    :ivar spice_tls: certificates for SPICE
    :ivar vnc_tls: certificates for VNC, '' when it has no TLS
    """

    state: str = '/var/lib/libvirt/qemu'
    runtime: str = '/run/libvirt/qemu'
    tls: str = '/etc/pki/qemu'
    spice_tls: str = '/etc/pki/libvirt-spice'
    vnc_tls: str = ''

    @classmethod
    def configured(cls, options: Any) -> Self:
        """Read them from the configuration.

        :param options: the [isolation] group
        :returns: the directories
        """
        return cls(
            state=options.libvirt_state_directory,
            runtime=options.libvirt_runtime_directory,
            tls=options.tls_directory,
            spice_tls=options.spice_tls_directory,
            vnc_tls=options.vnc_tls_directory,
        )


@dataclasses.dataclass(frozen=True)
class Granting:
    """Finds what a guest needs.

    :ivar directories: where the files of its disks may be
    :ivar facts: of this host
    :ivar places: of this host's libvirt
    :ivar connections: whether a guest may connect to sockets of the host, see
        ``[isolation] unix_connections``
    """

    directories: images.Directories
    facts: hostfacts.HostFacts
    places: Places
    connections: bool

    def of(
        self, domain: domain_module.Domain, *, unknown: bool
    ) -> tuple[Grant, ...]:
        """Find all that a guest needs.

        :param domain: the guest's domain
        :param unknown: whether to refuse what the model of domains does not
            know, too, see ``[isolation] unknown_device``
        :returns: its files and needs
        :raises NotCovered: naming all that cannot be granted
        :raises MissingDevice: when the host lacks what the domain names
        :raises UntrustedImage: when a file of a disk is not where it may be
        :raises MissingImage: when it does not exist
        """
        found: list[Grant] = []
        refused = [f'{name} cannot be granted' for name in _never(domain)]
        if unknown:
            refused += [f'unknown: {name}' for name in domain.unknown]
        for grants in self._all(domain):
            try:
                found += grants
            except exceptions.NotCovered as e:
                refused.append(f'{e.message} cannot be granted')
        if refused:
            raise exceptions.NotCovered(
                'the guest has what nova-isolation does not cover yet: '
                + '; '.join(refused)
            )
        return tuple(found)

    def resources(
        self,
        domain: domain_module.Domain,
        *,
        starting: bool = False,
        had: Mapping[str, int] = types.MappingProxyType({}),
    ) -> tuple[neighbours.Resource, ...]:
        """Find what a guest has that is nobody else's affair.

        :param domain: of any guest of this host, running or not, also of one
            that would be refused
        :param starting: whether one that does not run is about to
        :param had: {path: :meth:`hostfacts.HostFacts.sequence`} of the block
            devices that one had that does not run any more: they are its own
            as long as they have that number
        :returns: its own files, and each device, socket and directory that it
            is granted, as far as they are there; without what every guest
            with such a device opens, and without what only was its own when
            it ran
        """
        passing: dict[str, int] = {}
        if domain.id is None and not starting:
            names = {disk.path for disk in domain.disks if _is_passing(disk)}
            passing = {path: n for path, n in had.items() if path in names}
            lasting = tuple(
                disk
                for disk in domain.disks
                if disk.path not in names or disk.path in passing
            )
            domain = dataclasses.replace(domain, disks=lasting)
        known = {
            resource.path: dataclasses.replace(
                resource, number=passing.get(resource.path)
            )
            for resource in neighbours.resources(domain, self.places.state)
        }
        # whatever this host allows: others may have been started without us
        lenient = dataclasses.replace(self, connections=True)
        for grants, shareable in lenient._held(domain):
            # what is not there, or cannot be granted, has no neighbours
            with contextlib.suppress(exceptions.IsolationError, OSError):
                for grant in grants:
                    if not isinstance(grant, FileGrant):
                        continue
                    if path := self._private(grant, domain):
                        resource = neighbours.Resource(
                            path,
                            grant.origin,
                            'rw' if 'w' in grant.access else 'r',
                            shareable,
                            grant.tree,
                        )
                        known.setdefault(path, resource)
        return tuple(known.values())

    def _held(
        self, domain: domain_module.Domain
    ) -> Iterator[tuple[Iterable[Grant], bool]]:
        """Give what is granted beside files, and whether it is shareable."""
        for disk in domain.disks:
            if not isinstance(disk.top.source, disks.FileSource):
                origin = f'<disk> {disk.target}'
                access = 'rk' if disk.readonly else 'rwk'
                yield (
                    self._source(disk.top.source, access, origin),
                    disk.shareable,
                )
        for device in self._devices(domain):
            yield device, False

    def _private(
        self, grant: FileGrant, domain: domain_module.Domain
    ) -> str | None:
        """Tell the path of what is granted to one guest alone, if it is."""
        if grant.after is None:
            return None if self.is_common(grant.path) else grant.path
        if domain.id is None:
            # only a guest that runs has it
            return None
        return grant.whole(domain.id, domain.name)

    def is_common(self, path: str) -> bool:
        """Tell whether a file is a device that the kernel has for all.

        :param path: as it is granted
        """
        return path in [f'{self.facts.dev}/{name}' for name in _COMMON]

    def _all(self, domain: domain_module.Domain) -> Iterator[Iterable[Grant]]:
        """Give one iterable for each device, so that each can refuse."""
        if domain.type == 'kvm':
            yield [Need('kvm')]
        yield self._firmware(domain)
        for disk in domain.disks:
            yield self._disk(disk, running=domain.id is not None)
        yield from self._devices(domain)
        yield self._launch_security(domain)

    def _devices(
        self, domain: domain_module.Domain
    ) -> Iterator[Iterable[Grant]]:
        """Give those of its memory, and of the devices that are no disks."""
        yield self._memory(domain)
        for memory in domain.memory.devices:
            yield self._memory_device(memory)
        for interface in domain.interfaces:
            yield self._interface(interface, domain)
        for device in domain.host_devices:
            yield self._host_device(device)
        for character in domain.characters:
            yield self._character(character)
        for shown in domain.graphics:
            yield self._graphics(shown)
        for tpm in domain.tpms:
            yield self._tpm(tpm, domain)
        for index, filesystem in enumerate(domain.filesystems):
            yield self._filesystem(filesystem, index)
        for shared in domain.shared_memories:
            yield self._shared_memory(shared)
        for rng in domain.rngs:
            yield self._rng(rng)
        for given in domain.inputs:
            yield self._input(given)
        if domain.vsocks:
            path = f'{self.facts.dev}/vhost-vsock'
            yield [Need('vhost'), FileGrant(path, 'rw', '<vsock>')]

    def _firmware(self, domain: domain_module.Domain) -> Iterator[Grant]:
        found = domain.firmware
        if found.automatic and not found.loader:
            raise exceptions.NotCovered(
                '<os> with firmware that libvirt has not chosen'
            )
        if found.loader and found.loader.path:
            if not found.loader.readonly:
                raise exceptions.NotCovered(
                    '<loader> that the guest may write to'
                )
            yield FileGrant(
                self.facts.file(found.loader.path), 'rk', '<loader>'
            )
        if found.nvram:
            path = found.nvram.path or ''
            directory = os.path.join(self.places.state, 'nvram')
            # libvirt makes it at the first start
            if os.path.dirname(path) != directory:
                raise exceptions.NotCovered(
                    f'<nvram> {path!r} that is not in {directory}'
                )
            yield FileGrant(self.facts.place(path), 'rwk', '<nvram>')
        for name, file in (('kernel', found.kernel), ('initrd', found.initrd)):
            if file:
                place = images.place(file, self.directories)
                yield FileGrant(place, 'r', f'<{name}>')
        if found.dtb or found.shim or found.tables:
            raise exceptions.NotCovered(
                '<dtb>, <shim> or <acpi> with files of the host'
            )

    def _memory(self, domain: domain_module.Domain) -> Iterator[Grant]:
        found = domain.memory
        sizes = {
            *found.huge_pages,
            *(d.page_size for d in found.devices if d.page_size is not None),
        }
        for size in sorted(sizes):
            for mount in self.facts.huge_pages(size):
                yield self._own(
                    f'{mount}/libvirt/qemu/', '', '<hugepages>', tree=True
                )
        filed = found.access or found.by_node or found.devices
        if found.source == 'file' or (filed and found.source != 'memfd'):
            # qemu.conf's memory_backing_dir
            yield self._own(
                f'{self.places.state}/ram/', '', '<memoryBacking>', tree=True
            )

    def _memory_device(self, device: MemoryDevice) -> Iterator[Grant]:
        if device.model == 'sgx-epc':
            raise exceptions.NotCovered('<memory> sgx-epc')
        if device.path:
            path = self.facts.character_device(device.path)
            access = 'r' if device.readonly else 'rw'
            yield FileGrant(path, access, f'<memory> {device.model}')

    def _own(
        self,
        path: str,
        after: str,
        origin: str,
        *,
        tree: bool = False,
    ) -> FileGrant:
        """Grant what libvirt names by the domain's short name."""
        return FileGrant(path, 'rw', origin, tree, after)

    def _connect(self, path: str, origin: str) -> Iterator[Grant]:
        """Grant connecting to a socket that a process of the host serves."""
        yield from self._may_connect(origin)
        yield FileGrant(self.facts.place(path), 'rw', origin)

    def _may_connect(self, origin: str) -> Iterator[Grant]:
        if not self.connections:
            raise exceptions.NotCovered(
                f'{origin} that connects to a socket of the host (see '
                '[isolation] unix_connections)'
            )
        yield Need('connect-unix')

    def _disk(self, disk: disks.Disk, *, running: bool) -> Iterator[Grant]:
        origin = f'<disk> {disk.target}'
        for name in ('transient', 'io_uring', 'raw_io', 'mirror'):
            if getattr(disk, name):
                raise exceptions.NotCovered(f'{origin} with {name}')
        for layer in disk.layers:
            if layer.data:
                raise exceptions.NotCovered(
                    f'{origin} with an external data file'
                )
            if layer.reservations:
                raise exceptions.NotCovered(
                    f'{origin} with persistent reservations'
                )
        if isinstance(disk.top.source, disks.FileSource):
            yield from self._files(disk, origin, running=running)
        elif disk.backing:
            raise exceptions.NotCovered(
                f'{origin} with a backing chain that is no file'
            )
        elif disk.top.format != 'raw':
            # libvirt would follow what stands in its header
            raise exceptions.NotCovered(
                f'{origin} of format {disk.top.format!r} that is no file'
            )
        else:
            access = 'rk' if disk.readonly else 'rwk'
            yield from self._source(disk.top.source, access, origin)

    def _files(
        self, disk: disks.Disk, origin: str, *, running: bool
    ) -> Iterator[Grant]:
        if disk.top.format not in ('qcow2', 'raw'):
            raise exceptions.NotCovered(
                f'{origin} of format {disk.top.format!r}'
            )
        if running and disk.backing is not None:
            # Stated before QEMU got it, and what QEMU has open. Its headers
            # are the guest's own writing by now, which must not keep us from
            # withdrawing a right.
            layers = _stated(disk)
        else:
            layers = images.chain(
                disk.path or '',
                disk.top.format,
                self.directories,
                None if disk.backing is None else _stated(disk)[1:],
            )
        first, *backing = layers
        access = 'rk' if disk.readonly else 'rwk'
        yield FileGrant(first.path, access, origin)
        for layer in backing:
            yield FileGrant(layer.path, 'rk', f'{origin}, backing file')

    def _source(
        self, source: disks.Source, access: str, origin: str
    ) -> Iterator[Grant]:
        match source:
            case disks.BlockSource():
                try:
                    path = self.facts.block_device(source.path)
                except exceptions.MissingDevice as e:
                    raise exceptions.MissingVolume(e.message) from e
                if os.path.islink(source.path):
                    # which may lead to another device by and by
                    origin = f'{origin} {source.path}'
                yield Need('block')
                yield FileGrant(path, access, origin)
            case disks.NvmeSource():
                yield from self._vfio(
                    self.facts.vfio_of_pci(source.address), origin
                )
            case disks.VhostUserSource():
                yield from self._connect(source.path, origin)
            case disks.VhostVdpaSource():
                path = self.facts.character_device(source.path)
                yield FileGrant(path, 'rw', origin)
            case disks.NetworkSource():
                yield from self._network_disk(source, origin)
            case _:
                raise exceptions.NotCovered(
                    f'{origin} with a source of type {_name(source)}'
                )

    def _network_disk(
        self, source: disks.NetworkSource, origin: str
    ) -> Iterator[Grant]:
        if source.protocol not in ('rbd', 'iscsi', 'nbd'):
            raise exceptions.NotCovered(f'{origin} over {source.protocol!r}')
        for host in source.hosts:
            if host.transport == 'unix' and host.socket:
                yield from self._connect(host.socket, origin)
            elif host.transport == 'tcp' and host.name:
                yield from _connect(host.name)
            else:
                raise exceptions.NotCovered(
                    f'{origin} with a host over {host.transport}'
                )
        if source.protocol == 'rbd':
            yield Need('ceph')
            # QEMU does without the default one
            config = self.facts.file(source.config) if source.config else _CEPH
            yield FileGrant(config, 'r', origin)
            if not source.hosts:
                raise exceptions.NotCovered(
                    f'{origin} without the hosts of its monitors'
                )
            if not source.secret:
                raise exceptions.NotCovered(f'{origin} without a secret')
        if source.tls:
            yield FileGrant(self.places.tls, 'r', f'{origin}, TLS', tree=True)

    def _vfio(self, group: str, origin: str) -> Iterator[Grant]:
        yield FileGrant(f'{self.facts.dev}/vfio/vfio', 'rw', origin)
        yield FileGrant(group, 'rw', origin)

    def _interface(
        self, interface: interfaces.Interface, domain: domain_module.Domain
    ) -> Iterator[Grant]:
        link = interface.link
        origin = f'<interface> {link.mac}'
        if interface.scripts or interface.rom:
            raise exceptions.NotCovered(
                f'{origin} with a script or ROM of the host'
            )
        by_tap = isinstance(link, interfaces.Tap | interfaces.Macvtap)
        if by_tap and domain.type == 'kvm':
            yield Need('vhost')
            yield Need('vhost-net')
        match link:
            case interfaces.Tap(tun=None, vhost=None):
                yield Need('tap')
            case interfaces.Macvtap() if domain.id and link.device:
                yield FileGrant(self.facts.macvtap(link.device), 'rw', origin)
            case interfaces.Macvtap():
                yield Need('macvtap')
            case interfaces.PciInterface():
                yield from self._pci(link.address, link.iommufd, origin)
            case interfaces.VhostUser(listens=False):
                yield from self._connect(link.path, origin)
            case interfaces.VhostUser():
                yield FileGrant(self.facts.place(link.path), 'rw', origin)
            case interfaces.Vdpa():
                path = self.facts.character_device(link.path)
                yield FileGrant(path, 'rw', origin)
            case _:
                raise exceptions.NotCovered(f'{origin} of type {_name(link)}')

    def _pci(
        self, address: PciAddress, iommufd: bool, origin: str
    ) -> Iterator[Grant]:
        if iommufd:
            yield FileGrant(f'{self.facts.dev}/iommu', 'rw', origin)
            device = self.facts.vfio_device(address)
            yield FileGrant(device, 'rw', origin)
        else:
            yield from self._vfio(self.facts.vfio_of_pci(address), origin)

    def _host_device(self, device: hostdevs.HostDevice) -> Iterator[Grant]:
        match device:
            case hostdevs.PciDevice(rom=None):
                origin = f'<hostdev> {device.address}'
                yield from self._pci(device.address, device.iommufd, origin)
            case hostdevs.MediatedDevice():
                group = self.facts.vfio_of_mediated(device.uuid)
                yield from self._vfio(group, f'<hostdev> mdev {device.uuid}')
            case hostdevs.UsbDevice(optional=False):
                path = self.facts.usb(device)
                yield FileGrant(path, 'rw', '<hostdev> usb')
            case hostdevs.ScsiDevice():
                path = self.facts.scsi_generic(device)
                access = 'r' if device.readonly else 'rw'
                yield FileGrant(path, access, '<hostdev> scsi')
            case hostdevs.VhostScsi():
                path = f'{self.facts.dev}/vhost-scsi'
                yield Need('vhost')
                yield FileGrant(path, 'rw', '<hostdev> scsi_host')
            case _:
                raise exceptions.NotCovered(f'<hostdev> {_name(device)}')

    def _character(self, found: Character) -> Iterator[Grant]:
        origin = f'<{found.device} type={found.kind}>'
        match found.kind:
            case 'pty' if found.device in ('serial', 'console'):
                # the policy has them by their number
                return
            case kind if kind in _INNER:
                return
            case 'file' if found.path:
                place = images.place(found.path, self.directories)
                yield FileGrant(place, 'rw', origin)
            case 'dev' if found.path:
                path = self.facts.character_device(found.path)
                yield FileGrant(path, 'rw', origin)
            case 'unix' if found.path and not found.listens:
                yield from self._connect(found.path, origin)
            case 'unix' if found.path:
                yield FileGrant(self.facts.place(found.path), 'rw', origin)
            case 'unix' if found.target and not found.path:
                name = f'/{found.target}'
                # libvirt's places of 9.7 and later, and of before
                yield self._own(
                    f'{self.places.runtime}/channel/', name, origin
                )
                yield self._own(
                    f'{self.places.state}/channel/target/domain-', name, origin
                )
            case 'tcp' if found.listens:
                for host in found.hosts:
                    yield _listen(host, origin)
            case 'tcp':
                for host in found.hosts:
                    yield from _connect(host)
            case _:
                raise exceptions.NotCovered(
                    f'<{found.device}> of type {found.kind!r}'
                )
        if found.tls:
            yield FileGrant(self.places.tls, 'r', f'{origin}, TLS', tree=True)

    def _graphics(self, found: Graphics) -> Iterator[Grant]:
        origin = f'<graphics type={found.kind}>'
        if found.kind not in ('vnc', 'spice') or found.render:
            raise exceptions.NotCovered(f'<graphics> of type {found.kind!r}')
        if found.kind == 'spice':
            yield Need('spice')
        for address in found.addresses:
            yield _listen(address, origin)
        for socket in found.sockets:
            if socket:
                yield FileGrant(self.facts.place(socket), 'rw', origin)
            else:
                yield self._own(
                    f'{self.places.state}/domain-',
                    f'/{found.kind}.sock',
                    origin,
                )
        if found.kind == 'vnc' and self.places.vnc_tls:
            yield FileGrant(self.places.vnc_tls, 'r', origin, tree=True)
        if found.kind == 'spice' and found.tls:
            yield FileGrant(self.places.spice_tls, 'r', origin, tree=True)

    def _tpm(
        self, tpm: devices.Tpm, domain: domain_module.Domain
    ) -> Iterator[Grant]:
        origin = f'<tpm type={tpm.kind}>'
        if tpm.kind == 'external' and tpm.path:
            yield from self._connect(tpm.path, origin)
            return
        if tpm.kind != 'emulator' or tpm.path:
            raise exceptions.NotCovered(f'<tpm> of type {tpm.kind!r}')
        # libvirt starts swtpm with the guest's label
        yield Need('swtpm')
        own = f'{self.places.runtime}/swtpm/'
        yield self._own(own, '-swtpm.sock', origin)
        yield self._own(own, '-swtpm.pid', origin)
        # beside libvirt's other drivers
        state = os.path.join(os.path.dirname(self.places.state), 'swtpm')
        version = 'tpm1.2' if tpm.version == '1.2' else 'tpm2'
        yield FileGrant(
            f'{state}/{domain.uuid}/{version}', 'rwk', origin, tree=True
        )
        log = f'/var/log/swtpm/libvirt/qemu/{domain.name}-swtpm.log'
        yield FileGrant(log, 'rw', origin)

    def _filesystem(
        self, found: devices.Filesystem, index: int
    ) -> Iterator[Grant]:
        origin = f'<filesystem> {found.target}'
        if found.driver != 'virtiofs' or found.kind != 'mount':
            raise exceptions.NotCovered(f'{origin} of driver {found.driver!r}')
        if found.socket:
            yield from self._connect(found.socket, origin)
        else:
            # libvirt starts virtiofsd without a label
            yield from self._may_connect(origin)
            yield self._own(
                f'{self.places.state}/domain-', f'/fs{index}-fs.sock', origin
            )

    def _shared_memory(self, found: SharedMemory) -> Iterator[Grant]:
        origin = f'<shmem> {found.name}'
        if found.server == '':
            raise exceptions.NotCovered(
                f'{origin} with a server that libvirt chooses'
            )
        if found.server:
            yield from self._connect(found.server, origin)
        else:
            yield FileGrant(f'{self.facts.dev}/shm/{found.name}', 'rw', origin)

    def _rng(self, rng: devices.Rng) -> Iterator[Grant]:
        if rng.backend is not None:
            yield from self._character(rng.backend)
        elif rng.kind == 'egd':
            raise exceptions.NotCovered('<rng> with an unknown backend')
        elif rng.path and rng.path != _RANDOM:
            path = self.facts.character_device(rng.path)
            yield FileGrant(path, 'r', '<rng>')

    def _input(self, given: devices.Input) -> Iterator[Grant]:
        path = self.facts.character_device(given.path)
        yield FileGrant(path, 'rw', '<input>')

    def _launch_security(
        self, domain: domain_module.Domain
    ) -> Iterator[Grant]:
        found = domain.launch_security
        if found is None:
            return
        origin = f'<launchSecurity type={found.kind}>'
        if found.kind in ('sev', 'sev-snp'):
            yield FileGrant(f'{self.facts.dev}/sev', 'rw', origin)
        if found.quotes is not None:
            yield from self._connect(found.quotes or _QUOTES, origin)


def _is_passing(disk: disks.Disk) -> bool:
    """Tell whether a disk's name may be another one's by now.

    Nova connects volumes anew before each start, and the kernel gives the
    names that it makes itself, ``/dev/sdc``, to whatever is connected next. A
    link below ``/dev`` is made for what it leads to.
    """
    source = disk.top.source
    return isinstance(source, disks.BlockSource) and not os.path.islink(
        source.path
    )


def _never(domain: domain_module.Domain) -> Iterator[str]:
    """Name what no profile can grant or no guest of Nova has."""
    if domain.type not in ('kvm', 'qemu'):
        yield f'domain type {domain.type!r}'
    for label in domain.labels:
        # any other is not ours to prove
        if label.model not in ('apparmor', 'dac') or label.kind != 'dynamic':
            yield f'<seclabel> type={label.kind!r} model={label.model!r}'
    for audio in domain.audios:
        if audio.kind not in ('none', 'spice'):
            yield f'<audio> of type {audio.kind!r}'
    for crypto in domain.cryptos:
        if crypto.backend != 'builtin':
            yield f'<crypto> with {crypto.backend!r}'
    for video in domain.videos:
        yield f'<video> {video.model} that draws with the host'
    for smartcard in domain.smartcards:
        yield f'<smartcard> {smartcard.mode}'
    for path in domain.pstores:
        yield f'<pstore> {path!r}'
    for path in domain.configuration_files:
        yield f'<sysinfo> with the file {path!r}'
    for name in domain.qemu:
        yield f'<qemu:commandline> {name}'


def _stated(disk: disks.Disk) -> tuple[images.Layer, ...]:
    """Give the files that the domain's own XML names."""
    if not all(
        isinstance(layer.source, disks.FileSource)
        for layer in disk.backing or ()
    ):
        raise exceptions.NotCovered(
            f'<disk> {disk.target} with a backing file that is no file'
        )
    return tuple(
        images.Layer(images.resolve(layer.path or ''), layer.format)
        for layer in (disk.top, *(disk.backing or ()))
    )


def _listen(address: str, origin: str) -> Need:
    family = _family(address)
    if family is None:
        raise exceptions.NotCovered(
            f'{origin} that listens on {address!r}, which is no IP address '
            '(see [vnc] server_listen, [spice] server_listen),'
        )
    return Need(f'listen-{family}')


def _connect(host: str) -> Iterator[Need]:
    family = _family(host.strip('[]'))
    if family is not None:
        yield Need(f'connect-{family}')
    else:
        yield from map(Need, ('names', 'connect-inet', 'connect-inet6'))


def _family(address: str) -> str | None:
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return None
    return 'inet6' if version == 6 else 'inet'


def _name(device: object) -> str:
    return type(device).__name__
