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

"""Who did it, and whose is what he reached for.

Pure: a :class:`Table` of the host's guests is made from what libvirt tells of
them (:mod:`nova_isolation.agent.domains` does that), and answers from memory.
Names in a denial are an attacker's choice, so nothing here is guessed from
how a name looks: a path belongs to a guest because the guest's XML or a
directory of its own says so. What lies in such a directory was named by Nova
or libvirt; only what kind of file it is, is told by that name.
"""

from collections.abc import Callable, Iterable
import dataclasses
import json
import os.path
import re
from typing import Any, NamedTuple, Protocol

from nova_isolation.apparmor import rules
from nova_isolation import domain as domain_module
from nova_isolation.domain import disks
from nova_isolation.domain import interfaces

_UUID = domain_module.UUID_RE.pattern
_PROFILE = re.compile(f'libvirt-({_UUID})(?://.*)?', re.DOTALL)
# A guest's processes under SELinux: QEMU with or without KVM, swtpm, passt;
# not those of containers.
_CONTEXT = re.compile(
    r'[^:]+:(?P<role>[^:]+):'
    r'(?:svirt(?!_lxc|_sandbox)[a-z0-9_]*_t|passt_t):(?P<level>[^ ]+)'
)
# What Nova calls the directory of an instance, also while it is resized or
# deleted.
_INSTANCE_DIRECTORY = re.compile(f'({_UUID})(?:_resize|_del)?')
# What Cinder's drivers call a volume in a file, and Nova its share.
_VOLUME = re.compile(f'volume-{_UUID}(?:\\..*)?', re.DOTALL)
_SHARE = re.compile('.*/mnt/[0-9a-f]{32,64}', re.DOTALL)
_PROCESS = re.compile('/proc/([0-9]{1,10})(?:/.*)?', re.DOTALL)
_PTYS = '/dev/pts/'
_LOGS = '/var/log/libvirt/qemu/'
_CACHE = '_base'

DISK = 'disk'
VOLUME = 'volume'
IMAGE_CACHE = 'image cache'
CONFIG_DRIVE = 'config drive'
NVRAM = 'nvram'
VTPM = 'vtpm'
CONSOLE = 'console'
VHOST_USER = 'vhost-user socket'
DEVICE = 'device'
MEMORY = 'memory'
FILESYSTEM = 'filesystem'
INSTANCE_DIRECTORY = 'instance directory'
LIBVIRT_STATE = 'libvirt state'
PROCESS = 'process'
HOST_FILE = 'host file'

# By how the origin of a resource begins.
_ORIGINS = (
    ('<disk>', DISK),
    ('<tpm', VTPM),
    ('<nvram>', NVRAM),
    ('<serial', CONSOLE),
    ('<console', CONSOLE),
    ('<parallel', CONSOLE),
    ('<channel', CONSOLE),
    ('<graphics', CONSOLE),
    ('<hugepages>', MEMORY),
    ('<memory', MEMORY),
    ('<shmem>', MEMORY),
    ('<filesystem>', FILESYSTEM),
    ('<', DEVICE),
)


class Resource(Protocol):
    """What a guest has: see :class:`nova_isolation.neighbours.Resource`."""

    @property
    def path(self) -> str: ...

    @property
    def origin(self) -> str: ...

    @property
    def access(self) -> str: ...

    @property
    def tree(self) -> bool: ...


class File(NamedTuple):
    """A file, device or socket that a guest's XML gives it, or libvirt keeps.

    :ivar path: as the XML has it, or the kernel
    :ivar kind: one of this module's
    :ivar access: what the XML lets it do itself: ``rw``, ``r``, or '' for what
        is kept for it
    :ivar tree: whether it is a directory with all below it
    :ivar common: whether every guest of that kind has it: it is nobody's own
    """

    path: str
    kind: str
    access: str
    tree: bool = False
    common: bool = False


class Port(NamedTuple):
    """A TCP port on which a guest's QEMU listens, or to which it connects.

    :ivar address: as the XML has it
    :ivar port: its number, 0 where it is not known
    :ivar what: what it is for, in words
    :ivar listens: whether QEMU listens there
    """

    address: str
    port: int
    what: str
    listens: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Guest:
    """A guest and what is its own: no more than denials need.

    :ivar uuid: libvirt's, which is Nova's
    :ivar name: libvirt's name of it
    :ivar id: libvirt's number of the running domain, or None
    :ivar instance: what Nova says of it
    :ivar level: of SELinux, its level and categories, or ''; of one that has
        ended, the last that it ran with
    :ivar files: its files
    :ivar directories: the instance's own directories
    :ivar ports: its TCP ports
    :ivar pids: its processes, as far as they are known
    :ivar gone: libvirt knows it no more
    """

    uuid: str
    name: str
    id: int | None = None
    instance: domain_module.Instance = domain_module.Instance()  # noqa: RUF009
    level: str = ''
    files: tuple[File, ...] = ()
    directories: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    pids: tuple[int, ...] = ()
    gone: bool = False

    def left(self) -> 'Guest':
        """Tell what is still its own when it is gone.

        :returns: it without what passes from guest to guest; its level counts
            until another runs with it, see :class:`Table`
        """
        return dataclasses.replace(
            self,
            id=None,
            files=tuple(
                f for f in self.files if not f.path.startswith(_PASSING)
            ),
            ports=(),
            pids=(),
            gone=True,
        )

    def named(self, path: str) -> File | None:
        """Find what its XML says of a path.

        :param path: as the kernel shows it
        :returns: the file, or None when the XML does not name it
        """
        for file in self.files:
            if path == file.path or (
                file.tree and path.startswith(f'{file.path}/')
            ):
                return file
        return None

    def to_json(self) -> str:
        """Write it down, to be known after a restart.

        :returns: a JSON object
        """
        fields = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self)
        }
        fields['instance'] = dataclasses.asdict(self.instance)
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> 'Guest':
        """Read what :meth:`to_json` wrote.

        :param text: the JSON object
        :returns: the guest
        :raises ValueError: when it is not that
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            guest = cls(
                **{
                    **fields,
                    'instance': domain_module.Instance(**fields['instance']),
                    'files': tuple(File(*f) for f in fields['files']),
                    'directories': tuple(fields['directories']),
                    'ports': tuple(Port(*p) for p in fields['ports']),
                    'pids': tuple(fields['pids']),
                }
            )
        except (AttributeError, KeyError, TypeError) as e:
            raise ValueError(f'no guest: {e!r}') from e
        if not domain_module.is_uuid(guest.uuid):
            raise ValueError(f'no guest: its uuid is {guest.uuid!r}')
        return guest


# Of these, the next guest may get what this one had.
_PASSING = ('/dev/', '/run/', '/proc/')


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """What a path is.

    :ivar kind: one of this module's kinds
    :ivar owner: the uuid of the guest that it belongs to, or None
    :ivar certain: whether newer knowledge could not say otherwise: the file
        may be that of a guest that the table does not have yet, and the
        number of a pseudo terminal or process passes from guest to guest
    """

    kind: str
    owner: str | None
    certain: bool


def subject(profile: str) -> str | None:
    """Find the guest that a profile confines.

    :param profile: the profile of a record, which may be a child of the
        guest's (``libvirt-<uuid>//swtpm``) or a stack of profiles
    :returns: the guest's uuid, or None when the profile is no guest's
    """
    for part in profile.split('//&'):
        found = _PROFILE.fullmatch(part)
        if found:
            return found[1]
    return None


def level(context: str) -> str | None:
    """Find the level of a guest's process under SELinux.

    :param context: of a process
    :returns: its level with its categories, e.g. ``s0:c504,c872``, which no
        other running guest has; None when it is no guest's process
    """
    found = _CONTEXT.fullmatch(context)
    if found is None or found['role'] == 'object_r':
        return None
    return found['level']


def describe(
    domain: domain_module.Domain,
    real: Callable[[str], str] = lambda path: path,
    resources: Iterable[Resource] = (),
    pids: Iterable[int] = (),
) -> Guest:
    """List what is a guest's own.

    :param domain: the guest's domain
    :param real: resolves the symlinks of a path: the kernel reports files by
        their real path, whatever the XML says
    :param resources: what it has of the host beyond its XML's own words
    :param pids: its processes
    :returns: the :class:`Guest`
    """
    made = _Description(domain, real)
    for disk in domain.disks:
        made.disk(disk)
    made.characters()
    made.others()
    for resource in resources:
        made.resource(resource)
    label = next((s.label for s in domain.labels if s.label), '')
    return Guest(
        uuid=domain.uuid,
        name=domain.name,
        id=domain.id,
        instance=domain.instance,
        level=level(label) or '',
        files=tuple(made.files.values()),
        directories=tuple(sorted(made.directories)),
        ports=tuple(_ports(domain)),
        pids=tuple(pids),
    )


class _Description:
    """What :func:`describe` gathers."""

    def __init__(
        self, domain: domain_module.Domain, real: Callable[[str], str]
    ) -> None:
        self.files: dict[str, File] = {}
        self.directories: set[str] = set()
        self._domain = domain
        self._real = real

    def _add(self, path: str, kind: str, access: str) -> None:
        directory, name = os.path.split(path)
        # a file's own name is no link: see images.resolve()
        for place in {directory: None, self._real(directory): None}:
            whole = os.path.join(place, name)
            self.files.setdefault(whole, File(whole, kind, access))
            if os.path.basename(place) == self._domain.uuid:
                self.directories.add(place)

    def _common(self, path: str, access: str, kind: str = DEVICE) -> None:
        for place in (path, self._real(path)):
            self.files.setdefault(
                place, File(place, kind, access, common=True)
            )

    def disk(self, disk: disks.Disk) -> None:
        below = {id(layer) for layer in disk.backing or ()}
        for layer in disk.layers:
            source = layer.source
            writable = not disk.readonly and id(layer) not in below
            access = 'rw' if writable else 'r'
            match source:
                case disks.BlockSource():
                    for path in (source.path, self._real(source.path)):
                        self.files.setdefault(path, File(path, VOLUME, access))
                case disks.FileSource():
                    kind = self._kind(source.path, id(layer) in below)
                    self._add(source.path, kind, access)
                case disks.VhostUserSource():
                    self._add(source.path, VHOST_USER, 'rw')
                case disks.VhostVdpaSource():
                    self._add(source.path, DEVICE, 'rw')
                case disks.NetworkSource():
                    for named in (source.config, *source.files):
                        if named:
                            self._common(named, 'r', HOST_FILE)
                    for host in source.hosts:
                        if host.socket:
                            self._common(host.socket, 'rw', 'socket')

    def _kind(self, path: str, backing: bool) -> str:
        directory, name = os.path.split(path)
        if os.path.basename(directory) == self._domain.uuid:
            return kind_of_name(name) or DISK
        if _VOLUME.fullmatch(name) or _SHARE.fullmatch(directory):
            return VOLUME
        return IMAGE_CACHE if backing else DISK

    def characters(self) -> None:
        domain = self._domain
        for character in domain.characters:
            if character.log:
                self._add(character.log, CONSOLE, '')
            if not character.path or character.kind == 'pipe':
                continue
            if character.kind == 'pty':
                if domain.id is not None:
                    # it is made anew at each start
                    path = character.path
                    self.files.setdefault(path, File(path, CONSOLE, 'rw'))
            else:
                self._add(character.path, CONSOLE, 'rw')
        for shown in domain.graphics:
            for path in filter(None, shown.sockets):
                self._add(path, CONSOLE, 'rw')

    def others(self) -> None:
        """What its XML names beside disks and consoles, and needs no looking.

        The rest (the IOMMU group of a device, libvirt's sockets) is found on
        the host: see :meth:`resource`.
        """
        domain, firmware = self._domain, self._domain.firmware
        if firmware.nvram and firmware.nvram.path:
            self._add(firmware.nvram.path, NVRAM, 'rw')
        loader = firmware.loader and firmware.loader.path
        for path in (loader, firmware.kernel, firmware.initrd, firmware.dtb):
            if path:
                self._common(path, 'r', HOST_FILE)
        for interface in domain.interfaces:
            if isinstance(interface.link, interfaces.VhostUser):
                self._add(interface.link.path, VHOST_USER, 'rw')
        for tpm in domain.tpms:
            if tpm.path:
                self._add(tpm.path, VTPM, 'rw')
        for device in domain.memory.devices:
            if device.path:
                access = 'r' if device.readonly else 'rw'
                self._add(device.path, MEMORY, access)
        for filesystem in domain.filesystems:
            if filesystem.socket:
                self._add(filesystem.socket, FILESYSTEM, 'rw')
        for path in self._shared_devices():
            self._common(path, 'rw')

    def _shared_devices(self) -> Iterable[str]:
        """The kernel's devices, through which each gets only its own."""
        domain = self._domain
        if domain.type == 'kvm':
            yield '/dev/kvm'
        if domain.interfaces:
            yield from ('/dev/net/tun', '/dev/vhost-net')
        if domain.host_devices:
            yield from ('/dev/vfio/vfio', '/dev/iommu', '/dev/vhost-scsi')
        if domain.vsocks:
            yield '/dev/vhost-vsock'
        if any(c.kind == 'pty' for c in domain.characters):
            yield '/dev/ptmx'

    def resource(self, resource: Resource) -> None:
        path, origin = resource.path, resource.origin
        kind = next(
            (kind for start, kind in _ORIGINS if origin.startswith(start)),
            LIBVIRT_STATE,
        )
        if kind == DISK and path.startswith('/dev/'):
            kind = DEVICE
        self.files.setdefault(
            path, File(path, kind, resource.access, resource.tree)
        )


def _ports(domain: domain_module.Domain) -> Iterable[Port]:
    for shown in domain.graphics:
        for address in shown.addresses:
            # one that does not run has none yet
            for port in shown.ports or (0,):
                yield Port(address, port, shown.kind.upper(), True)
    for character in domain.characters:
        pairs = zip(character.hosts, character.ports, strict=False)
        for address, port in pairs:
            what = f'the {character.device}'
            yield Port(address, port, what, character.listens)
    for disk in domain.disks:
        source = disk.top.source
        if isinstance(source, disks.NetworkSource):
            for host in source.hosts:
                if host.name:
                    port = int(host.port) if host.port.isdecimal() else 0
                    what = f'the {source.protocol} server of {disk.target}'
                    yield Port(host.name.strip('[]'), port, what, False)


def kind_of_name(name: str) -> str | None:
    """Tell what a file in an instance's directory is.

    :param name: as Nova names it
    :returns: a kind, or None for any other file
    """
    if name.startswith('disk.config'):
        return CONFIG_DRIVE
    if name == 'disk' or name.startswith(
        ('disk.eph', 'disk.local', 'disk.rescue', 'disk.swap')
    ):
        return DISK
    return CONSOLE if name.startswith('console.log') else None


class Table:
    """The guests of this host at one moment; immutable.

    What a living guest owns is not its predecessor's: guests that are gone
    only count where no other has a claim, and those that do not run have a
    level only where none runs with it.
    """

    def __init__(
        self,
        guests: Iterable[Guest] = (),
        state_directories: Iterable[str] = (),
    ) -> None:
        """Make a table.

        :param guests: the guests, living or gone
        :param state_directories: where libvirt keeps the state of its guests,
            by their names and their real paths
        """
        self._guests: dict[str, Guest] = {}
        self._files: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._trees: dict[str, tuple[str, str]] = {}
        self._caches: set[str] = set()
        self._instances: set[str] = set()
        self._state: dict[str, tuple[str, str]] = {}
        self._pids: dict[int, str] = {}
        self._ports: dict[int, list[tuple[str, Port]]] = {}
        roots = {d.rstrip('/') for d in state_directories}
        self._swtpm = {
            os.path.join(os.path.dirname(root), 'swtpm') for root in roots
        }
        self._roots = tuple(
            sorted({*(f'{root}/' for root in roots), _LOGS} if roots else ())
        )
        for guest in sorted(guests, key=lambda guest: guest.gone):
            self._add(guest)
        self._levels = _levels(self._guests.values())
        places = (*self._trees, *self._instances, *self._caches, *self._swtpm)
        # no path is looked at more deeply: names may have 2,000 components
        self._depth = max((place.count('/') for place in places), default=0)

    def _add(self, guest: Guest) -> None:
        uuid = guest.uuid
        self._guests.setdefault(uuid, guest)
        for file in guest.files:
            if file.kind == IMAGE_CACHE:
                self._caches.add(os.path.dirname(file.path))
            elif file.tree:
                self._trees.setdefault(file.path, (file.kind, uuid))
            elif not file.common:
                self._own(file, guest)
        for directory in guest.directories:
            parent = os.path.dirname(directory)
            self._instances.add(parent)
            self._caches.add(os.path.join(parent, _CACHE))
        for name in _state_names(guest):
            kind = NVRAM if name.endswith('_VARS.fd') else LIBVIRT_STATE
            self._state.setdefault(name, (kind, uuid))
        for pid in guest.pids:
            self._pids.setdefault(pid, uuid)
        for port in guest.ports:
            if port.listens and port.port:
                self._ports.setdefault(port.port, []).append((uuid, port))

    def _own(self, file: File, guest: Guest) -> None:
        first_kind, owners = self._files.get(file.path, (file.kind, ()))
        if not (owners and guest.gone):
            self._files[file.path] = (first_kind, (*owners, guest.uuid))

    def __contains__(self, subject: str) -> bool:
        return subject in self._guests or bool(self._levels.get(subject))

    def __len__(self) -> int:
        return len(self._guests)

    def uuid(self, subject: str) -> str | None:
        """Find the uuid of a guest.

        :param subject: its uuid, or its level under SELinux
        :returns: its uuid, or None when the guest is not known
        """
        if subject in self._guests:
            return subject
        return self._levels.get(subject) or None

    def guest(self, subject: str) -> Guest | None:
        """Find a guest.

        :param subject: its uuid, or its level under SELinux
        :returns: the guest, or None when it is not known
        """
        return self._guests.get(self.uuid(subject) or '')

    def running(self) -> list[Guest]:
        """List the guests that run.

        :returns: them, in no order
        """
        return [
            guest for guest in self._guests.values() if guest.id is not None
        ]

    def owners(self, path: str) -> tuple[str, ...]:
        """List the guests whose XML names a file.

        :param path: as the kernel shows it
        :returns: their uuids
        """
        return self._files.get(_connected(path), ('', ()))[1]

    def of_pid(self, pid: int) -> str | None:
        """Find the guest whose process it is.

        :param pid: its number
        :returns: the guest's uuid, or None
        """
        return self._pids.get(pid)

    def of_context(self, context: str) -> str | None:
        """Find the guest that an object or process belongs to under SELinux.

        :param context: the kernel's label of it
        :returns: the guest's uuid, or its level when the guest is not known;
            None when it is no guest's
        """
        found = _CONTEXT.fullmatch(context)
        if found is None or ':' not in found['level']:
            return None
        return self._levels.get(found['level']) or found['level']

    def file_of(self, owner: str, name: str) -> File | None:
        """Find a guest's file of which only the last name is known.

        :param owner: the guest's uuid
        :param name: without directories
        :returns: the file, or None when none or several have that name
        """
        guest = self._guests.get(owner)
        found = {
            file.path: file
            for file in (guest.files if guest else ())
            if file.path.endswith(f'/{name}')
        }
        return next(iter(found.values())) if len(found) == 1 else None

    def listener(
        self, address: str, port: int, local: str = ''
    ) -> tuple[str, Port] | None:
        """Find the guest whose QEMU listens somewhere.

        :param address: the IP address, '' when it is not known
        :param port: the TCP port
        :param local: the address that the connection came from, '' when that
            is not known
        :returns: the guest's uuid and the port; None when it is none of this
            host's
        """
        loopback = address == '::1' or address.startswith('127.')
        for uuid, found in self._ports.get(port, ()):
            if not address or address == found.address:
                return uuid, found
            if found.address in ('0.0.0.0', '::') and (  # noqa: S104
                loopback or address == local
            ):
                return uuid, found
        return None

    def target(self, path: str, subject: str | None = None) -> Target:
        """Tell what a path is and whose.

        :param path: the real path, as the kernel reports it
        :param subject: the guest that reached for it: of a file that several
            guests share, it is said to be the owner when it is one of them
        :returns: the :class:`Target`
        """
        # the kernel ends directories with a slash
        path = _connected(path).rstrip('/') or path
        kind, owners = self._files.get(path, ('', ()))
        if owners:
            own = self.uuid(subject) if subject else None
            owner = own if own in owners else owners[0]
            return Target(kind, owner, certain=not path.startswith(_PTYS))
        return (
            self._in_proc(path)
            or self._in_state(path)
            or self._in_directories(path)
            or Target(HOST_FILE, None, certain=False)
        )

    def _in_proc(self, path: str) -> Target | None:
        found = _PROCESS.fullmatch(path)
        owner = found and self._pids.get(int(found[1]))
        return Target(PROCESS, owner, certain=False) if owner else None

    def _in_directories(self, path: str) -> Target | None:
        """Find the guest by a directory.

        On shared storage it may be a guest of another host: its uuid is all
        that is known of it.
        """
        end = 0
        for _ in range(self._depth + 1):
            end = path.find('/', end + 1)
            directory = path if end < 0 else path[:end]
            if directory in self._trees:
                kind, owner = self._trees[directory]
                return Target(kind, owner, certain=True)
            if end < 0:
                return None
            rest = path[end + 1 :].split('/', 2)
            if directory in self._caches:
                return Target(IMAGE_CACHE, None, certain=True)
            if directory in self._swtpm and domain_module.is_uuid(rest[0]):
                return Target(VTPM, rest[0], rest[0] in self)
            if directory in self._instances:
                found = _INSTANCE_DIRECTORY.fullmatch(rest[0])
                if found:
                    named = kind_of_name(rest[1]) if len(rest) == 2 else None
                    kind = named or INSTANCE_DIRECTORY
                    return Target(kind, found[1], found[1] in self)
        return None

    def _in_state(self, path: str) -> Target | None:
        for directory in self._roots:
            if path.startswith(directory):
                # save/NAME.save, qemu/nvram/NAME_VARS.fd, domain-ID-NAME/…,
                # channel/target/domain-ID-NAME/…
                for name in path[len(directory) :].split('/', 8):
                    if name in self._state:
                        kind, owner = self._state[name]
                        return Target(kind, owner, certain=True)
                return Target(LIBVIRT_STATE, None, certain=False)
        return None


def _levels(guests: Iterable[Guest]) -> dict[str, str]:
    """Tell whose the levels of SELinux are; '' when it cannot be told."""
    ended: dict[str, str] = {}
    running: dict[str, str] = {}
    for guest in guests:
        if guest.level:
            # a level of two guests is nobody's
            levels = ended if guest.id is None else running
            levels[guest.level] = '' if guest.level in levels else guest.uuid
    # libvirt gives another the level of one that has ended
    return ended | running


def _connected(path: str) -> str:
    """Take away the root of what lies outside the guest's mount namespace."""
    if path.startswith(f'{rules.DISCONNECTED}/'):
        return path[len(rules.DISCONNECTED) :]
    return path


def _state_names(guest: Guest) -> list[str]:
    """List what libvirt calls a guest's files and directories."""
    name = guest.name
    found = [
        f'{name}.save',
        f'{name}_VARS.fd',
        f'{name}.log',
        f'{name}.pid',
        f'{name}.xml',
    ]
    if guest.id is not None:
        short = domain_module.short_name(guest.id, name)
        found += [short, f'domain-{short}', f'{short}-swtpm.sock']
    return found
