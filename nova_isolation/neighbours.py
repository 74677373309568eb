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

"""Which guest of this host has which file or device.

Two names may stand for one file, and a device's name for another device
tomorrow: a file is known by the device and inode that it has, a device by its
number, and only what does not exist by its name.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import os
import stat
import threading

from nova_isolation import domain as domain_module
from nova_isolation import hostfacts

Identity = tuple[str, int, int] | tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Resource:
    """A file or device of a guest.

    :ivar path: absolute, as the kernel shows it: without symbolic links
    :ivar origin: the element of the domain's XML, or what libvirt keeps
    :ivar access: ``rw`` for what is its own, ``r`` for what several guests may
        read, '' for what is kept for it and no guest may name
    :ivar shareable: whether the XML says that several guests may write to it
    :ivar tree: whether it is a directory with all that is below it
    :ivar number: :meth:`hostfacts.HostFacts.sequence` of a block device that
        is the guest's only as long as that is its number
    """

    path: str
    origin: str
    access: str
    shareable: bool = False
    tree: bool = False
    number: int | None = None

    @property
    def sample(self) -> str:
        """A path that whoever reaches the resource can reach."""
        return f'{self.path}/x' if self.tree else self.path


@dataclasses.dataclass(frozen=True)
class Overlap:
    """A resource that two guests have.

    :ivar mine: as the guest asked about has it
    :ivar uuid: of the other guest
    :ivar theirs: as the other one has it
    """

    mine: Resource
    uuid: str
    theirs: Resource


def identify(path: str) -> Identity:
    """Tell which file or device a path is now.

    :param path: absolute
    :returns: equal for two paths to the same one
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ('path', path)
    return identity_of(status)


def identity_of(status: os.stat_result) -> tuple[str, int, int]:
    """Tell which file or device somebody has looked at.

    :param status: what was seen of it
    :returns: equal for two looks at the same one
    """
    if stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode):
        return ('device', stat.S_IFMT(status.st_mode), status.st_rdev)
    return ('file', status.st_dev, status.st_ino)


def resources(
    domain: domain_module.Domain, state_directory: str
) -> tuple[Resource, ...]:
    """List the files that are a guest's, whoever may use them.

    :param domain: the guest's domain, running or not
    :param state_directory: libvirt's, see ``[isolation]
        libvirt_state_directory``
    :returns: files of its XML, and what libvirt keeps for it; what it is
        granted beyond them is found by
        :meth:`nova_isolation.apparmor.grants.Granting.resources`
    """
    found = []
    for disk in domain.disks:
        origin = f'<disk> {disk.target}'
        below = set(disk.backing or ())
        own = os.path.dirname(disk.path or '')
        for layer in disk.layers:
            if not layer.path:
                continue
            # of backing files the image cache's are shared, and not what
            # lies beside the disk; a disk that is only read may be the
            # config drive
            shared = layer in below and os.path.dirname(layer.path) != own
            access = 'r' if shared else 'rw'
            path = os.path.realpath(layer.path)
            found.append(Resource(path, origin, access, disk.shareable))
    for character in domain.characters:
        origin = f'<{character.device}>'
        if character.path and character.kind != 'pipe':
            path = os.path.realpath(character.path)
            found.append(Resource(path, origin, 'rw'))
        if character.log:
            path = os.path.realpath(character.log)
            found.append(Resource(path, f'{origin} <log>', ''))
    firmware = domain.firmware
    if firmware.nvram and firmware.nvram.path:
        path = os.path.realpath(firmware.nvram.path)
        found.append(Resource(path, '<nvram>', 'rw'))
    saved = f'{state_directory}/save/{domain.name}.save'
    found.append(Resource(saved, "the guest's saved memory", ''))
    if domain.id is not None:
        short = domain_module.short_name(domain.id, domain.name)
        own = f'{state_directory}/domain-{short}'
        for name in ('master-key.aes', 'monitor.sock'):
            found.append(Resource(f'{own}/{name}', 'libvirt', ''))
    return tuple(found)


def is_below(path: str, places: Iterable[str]) -> bool:
    """Tell whether a path is one of some places, or below one.

    :param path: absolute
    :param places: of files and directories
    """
    return any(path == p or path.startswith(f'{p}/') for p in places)


def is_intended(
    mine: Resource, theirs: Resource, shared: Sequence[str] = ()
) -> bool:
    """Tell whether two guests may have a resource both.

    :param mine: as one of them has it
    :param theirs: as the other one has it
    :param shared: ``[isolation] shared_paths``
    :returns: for what neither writes to, and what is declared shared
    """
    if is_below(mine.path, shared) or is_below(theirs.path, shared):
        return True
    if mine.shareable and theirs.shareable:
        return True
    return mine.access == theirs.access == 'r'


def _is_the_same(resource: Resource) -> bool:
    """Tell whether a block device still is the one that was taken in."""
    if resource.number is None:
        return True
    return resource.number == hostfacts.HostFacts().sequence(resource.path)


def _keys(path: str, identity: Identity | None = None) -> set[Identity]:
    """Give what a resource is found by: what it is, and what it is called.

    What a name means may have changed since it was taken in.
    """
    return {identity or identify(path), ('path', path)}


class Register:
    """What all guests of this host have; used by several threads.

    Its size is that of the guests' XML; a lookup does not depend on how many
    guests there are.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guests: dict[str, tuple[Resource, ...]] = {}
        # who has it, apart from those who only read it
        self._private: dict[Identity, dict[str, Resource]] = {}
        self._read: dict[Identity, dict[str, Resource]] = {}
        self._keys: dict[str, list[Identity]] = {}

    def put(self, uuid: str, found: Iterable[Resource]) -> None:
        """Take in a guest, in place of what was known of it.

        :param uuid: of the guest
        :param found: its resources
        """
        known = tuple(found)
        keys = [_keys(resource.path) for resource in known]
        with self._lock:
            self._drop(uuid)
            self._guests[uuid] = known
            self._keys[uuid] = list(itertools.chain.from_iterable(keys))
            for resource, names in zip(known, keys, strict=True):
                kind = self._read if resource.access == 'r' else self._private
                for key in names:
                    kind.setdefault(key, {})[uuid] = resource

    def drop(self, uuid: str) -> None:
        """Forget a guest.

        :param uuid: of the guest
        """
        with self._lock:
            self._drop(uuid)

    def _drop(self, uuid: str) -> None:
        self._guests.pop(uuid, None)
        for key in self._keys.pop(uuid, ()):
            for kind in (self._private, self._read):
                owners = kind.get(key, {})
                owners.pop(uuid, None)
                if not owners:
                    kind.pop(key, None)

    def others(self, uuid: str) -> list[tuple[str, tuple[Resource, ...]]]:
        """List the other guests.

        :param uuid: of the guest that is none of them
        :returns: (uuid, resources) of each
        """
        with self._lock:
            found = [item for item in self._guests.items() if item[0] != uuid]
        return [
            (other, tuple(filter(_is_the_same, resources)))
            for other, resources in found
        ]

    def overlaps(
        self, uuid: str, found: Iterable[Resource], shared: Sequence[str] = ()
    ) -> list[Overlap]:
        """Find what a guest would have of others without intention.

        :param uuid: of the guest
        :param found: its resources
        :param shared: ``[isolation] shared_paths``
        :returns: the overlaps, at most one with each other guest and resource
        """
        candidates: list[Overlap] = []
        for mine in found:
            identity = identify(mine.path)
            theirs: dict[str, Resource] = {}
            with self._lock:
                for key in _keys(mine.path, identity):
                    theirs |= self._private.get(key, {})
                    if mine.access != 'r':
                        theirs |= self._read.get(key, {})
            candidates += [
                Overlap(mine, other, resource)
                for other, resource in theirs.items()
                if other != uuid
                # a name may mean another device than when it was taken in
                and identify(resource.path) == identity
                and _is_the_same(resource)
            ]
        return [
            overlap
            for overlap in candidates
            if not is_intended(overlap.mine, overlap.theirs, shared)
        ]
