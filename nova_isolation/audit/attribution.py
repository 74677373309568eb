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
directory of its own says so.
"""

from collections.abc import Callable, Iterable
import dataclasses
import os.path
import re

from nova_isolation import domain as domain_module

_UUID = domain_module.UUID_RE.pattern
_PROFILE = re.compile(f'libvirt-({_UUID})(?://.*)?', re.DOTALL)
# What Nova calls the directory of an instance, also while it is resized or
# deleted.
_INSTANCE_DIRECTORY = re.compile(f'({_UUID})(?:_resize|_del)?')
_PTYS = '/dev/pts/'
# virDomainDefGetShortName cuts the names of a domain's directories
_SHORT_NAME = 20

DISK = 'disk'
CONFIG_DRIVE = 'config drive'
CONSOLE = 'console'
INSTANCE_DIRECTORY = 'instance directory'
LIBVIRT_STATE = 'libvirt state'
HOST_FILE = 'host file'


@dataclasses.dataclass(frozen=True)
class Guest:
    """A guest and what is its own.

    :ivar domain: as its XML describes it
    :ivar files: pairs of a path and its kind
    :ivar directories: the instance's own directories
    :ivar gone: libvirt knows it no more
    """

    domain: domain_module.Domain
    files: tuple[tuple[str, str], ...]
    directories: frozenset[str]
    gone: bool = False


@dataclasses.dataclass(frozen=True)
class Target:
    """What a path is.

    :ivar kind: one of this module's kinds
    :ivar owner: the uuid of the guest that it belongs to, or None
    :ivar certain: whether newer knowledge could not say otherwise: the file
        may be that of a guest that the table does not have yet, and the
        number of a pseudo terminal passes from guest to guest
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


def describe(
    domain: domain_module.Domain,
    real_directory: Callable[[str], str] = lambda directory: directory,
    *,
    gone: bool = False,
) -> Guest:
    """List what is a guest's own.

    :param domain: the guest's domain
    :param real_directory: resolves the symlinks of a directory's path: the
        kernel reports files by their real path, whatever the XML says
    :param gone: whether libvirt knows it no more
    :returns: the :class:`Guest`
    """
    files: dict[str, str] = {}
    directories: set[str] = set()

    def add(path: str, kind: str) -> None:
        directory, name = os.path.split(path)
        for place in (directory, real_directory(directory)):
            files.setdefault(os.path.join(place, name), kind)
            if os.path.basename(place) == domain.uuid:
                directories.add(place)

    for disk in domain.disks:
        if disk.path is None:
            continue
        name = os.path.basename(disk.path)
        add(
            disk.path,
            CONFIG_DRIVE if name.startswith('disk.config') else DISK,
        )
    for console in domain.consoles:
        if console.log:
            add(console.log, CONSOLE)
        if console.path and console.kind == 'file':
            add(console.path, CONSOLE)
        elif console.path and domain.id is not None and not gone:
            files.setdefault(console.path, CONSOLE)
    return Guest(
        domain=domain,
        files=tuple(files.items()),
        directories=frozenset(directories),
        gone=gone,
    )


class Table:
    """The guests of this host at one moment; immutable.

    What a living guest owns is not its predecessor's: guests that are gone
    only count where no other has a claim.
    """

    def __init__(
        self,
        guests: Iterable[Guest] = (),
        state_directories: Iterable[str] = (),
    ) -> None:
        """Make a table.

        :param guests: the guests, living or gone
        :param state_directories: libvirt's state directory, by its name and
            its real path
        """
        self._guests: dict[str, Guest] = {}
        self._files: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._instances: set[str] = set()
        self._state: dict[str, str] = {}
        self._state_directories = tuple(
            directory.rstrip('/') + '/' for directory in state_directories
        )
        for guest in sorted(guests, key=lambda guest: guest.gone):
            self._add(guest)

    def _add(self, guest: Guest) -> None:
        domain = guest.domain
        self._guests.setdefault(domain.uuid, guest)
        for path, kind in guest.files:
            first_kind, owners = self._files.get(path, (kind, ()))
            if not (owners and guest.gone):
                self._files[path] = (first_kind, (*owners, domain.uuid))
        for directory in guest.directories:
            self._instances.add(os.path.dirname(directory))
        names = [f'{domain.name}.save', f'{domain.name}_VARS.fd']
        if domain.id is not None:
            names.append(f'domain-{domain.id}-{domain.name[:_SHORT_NAME]}')
        for name in names:
            self._state.setdefault(name, domain.uuid)

    def __contains__(self, uuid: str) -> bool:
        return uuid in self._guests

    def domain(self, uuid: str) -> domain_module.Domain | None:
        """Find a guest's domain.

        :param uuid: the guest's uuid
        :returns: the domain, or None when the guest is not known
        """
        guest = self._guests.get(uuid)
        return None if guest is None else guest.domain

    def target(self, path: str, subject: str | None = None) -> Target:
        """Tell what a path is and whose.

        :param path: the real path, as the kernel reports it
        :param subject: the uuid of the guest that reached for it: of a file
            that several guests share, it is said to be the owner when it is
            one of them
        :returns: the :class:`Target`
        """
        # the kernel ends directories with a slash
        path = path.rstrip('/') or path
        kind, owners = self._files.get(path, ('', ()))
        if owners:
            owner = subject if subject in owners else owners[0]
            return Target(kind, owner, certain=not path.startswith(_PTYS))
        return (
            self._in_instances(path)
            or self._in_state(path)
            or Target(HOST_FILE, None, certain=False)
        )

    def _in_instances(self, path: str) -> Target | None:
        """Find the guest by the directory of its instance.

        On shared storage it may be a guest of another host: its uuid is all
        that is known of it.
        """
        directory = path
        while directory not in ('/', ''):
            directory, name = os.path.split(directory)
            if directory in self._instances:
                found = _INSTANCE_DIRECTORY.fullmatch(name)
                if found is None:
                    return None
                owner = found[1]
                return Target(INSTANCE_DIRECTORY, owner, owner in self)
        return None

    def _in_state(self, path: str) -> Target | None:
        for directory in self._state_directories:
            if path.startswith(directory):
                # save/NAME.save, qemu/nvram/NAME_VARS.fd, domain-ID-NAME/…,
                # channel/target/domain-ID-NAME/…
                for name in path[len(directory) :].split('/'):
                    if name in self._state:
                        return Target(
                            LIBVIRT_STATE, self._state[name], certain=True
                        )
                return Target(LIBVIRT_STATE, None, certain=False)
        return None
