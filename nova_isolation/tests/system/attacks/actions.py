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

"""Actions on files, and how root sees that they happened.

What DAC would refuse to QEMU's user is opened first, as an administrator's
mistake would: then the label alone stands between it and the file.
"""

import collections.abc
import dataclasses
import fcntl
import mmap
import os
import pwd
import stat
from typing import Any

from nova_isolation.tests.system.attacks.attempt import Action
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import captured

#: what an attack leaves where it could write
TOKEN = b'CAPTURED-QEMU-WAS-HERE'
#: files that the attempts themselves need
PLACE = '/srv/attacks'


def user() -> int:
    """Tell QEMU's uid.

    :returns: the number
    """
    return pwd.getpwnam(captured.USER).pw_uid


def reach(directory: str, extra: int = 0) -> None:
    """Let everybody pass through a directory, made when it is missing.

    :param directory: its path
    :param extra: further bits of its mode
    """
    os.makedirs(directory, exist_ok=True)
    while directory != '/':
        mode = os.stat(directory).st_mode
        wanted = stat.S_IMODE(mode) | 0o001 | extra
        if stat.S_IMODE(mode) != wanted:
            os.chmod(directory, wanted)
        extra = 0
        directory = os.path.dirname(directory)


def open_up(path: str) -> None:
    """Let QEMU's user read and write a file, made when it is missing.

    :param path: of the file
    """
    reach(os.path.dirname(path))
    if not os.path.lexists(path):
        with open(path, 'wb') as f:
            f.write(os.urandom(64))
    found = os.stat(path)
    if found.st_uid != user() and found.st_mode & 0o006 != 0o006:
        os.chmod(path, stat.S_IMODE(found.st_mode) | 0o006)


def same_file(pid: int, fd: int, path: str) -> bool:
    """Tell whether a process holds a file open.

    :param pid: of the process
    :param fd: its descriptor
    :param path: of the file
    :returns: whether the descriptor is of that file
    """
    held, wanted = os.stat(f'/proc/{pid}/fd/{fd}'), os.stat(path)
    return os.path.samestat(held, wanted)


def tail(path: str) -> bytes:
    """Read the end of a file.

    :param path: of the file
    :returns: as many bytes as :data:`TOKEN` has
    """
    with open(path, 'rb') as f:
        f.seek(0, os.SEEK_END)
        f.seek(max(0, f.tell() - len(TOKEN)))
        return f.read()


@dataclasses.dataclass(frozen=True)
class Do(Action):
    """An action that is told by functions: see :class:`Action`.

    :ivar attack: done as the captured process
    :ivar seen: looked at as root
    :ivar before: done as root, before
    :ivar after: done as root, after
    """

    attack: collections.abc.Callable[[World], Any]
    seen: collections.abc.Callable[[World, Any, int], bool]
    before: collections.abc.Callable[[World], None] | None = None
    after: collections.abc.Callable[[World], None] | None = None

    def prepare(self, world: World) -> None:
        if self.before:
            self.before(world)

    def attempt(self, world: World) -> Any:
        return self.attack(world)

    def observed(self, world: World, got: Any, pid: int) -> bool:
        return self.seen(world, got, pid)

    def restore(self, world: World) -> None:
        if self.after:
            self.after(world)


@dataclasses.dataclass(frozen=True)
class OnFile(Action):
    """Something that is done to a file.

    :ivar path: of the file; names of the world stand in braces
    """

    path: str

    def prepare(self, world: World) -> None:
        open_up(world.fill(self.path))


@dataclasses.dataclass(frozen=True)
class Open(OnFile):
    """Open a file; root finds the descriptor.

    :ivar flags: of open(2)
    """

    flags: int = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY

    def attempt(self, world: World) -> Any:
        return os.open(world.fill(self.path), self.flags)

    def observed(self, world: World, got: Any, pid: int) -> bool:
        return same_file(pid, got, world.fill(self.path))


@dataclasses.dataclass(frozen=True)
class OpenNode(Open):
    """Open a device; where the machine has none, one of that name is made.

    :ivar block: whether it is a block device
    """

    block: bool = False

    def prepare(self, world: World) -> None:
        path = world.fill(self.path)
        reach(os.path.dirname(path))
        if not os.path.lexists(path):
            kind = stat.S_IFBLK if self.block else stat.S_IFCHR
            # of the lab's disk, or of /dev/zero
            number = os.makedev(98, 0) if self.block else os.makedev(1, 5)
            os.mknod(path, kind, number)
            _MADE.add(path)
        os.chmod(path, 0o666)

    def restore(self, world: World) -> None:
        path = world.fill(self.path)
        if path in _MADE:
            os.unlink(path)
            _MADE.remove(path)


_MADE: set[str] = set()


@dataclasses.dataclass(frozen=True)
class Read(OnFile):
    """Read a file; root reads the same."""

    def prepare(self, world: World) -> None:
        path = world.fill(self.path)
        open_up(path)
        if not os.stat(path).st_size:
            with open(path, 'wb') as f:
                f.write(os.urandom(64))

    def attempt(self, world: World) -> Any:
        fd = os.open(world.fill(self.path), os.O_RDONLY | os.O_NONBLOCK)
        return [fd, os.pread(fd, 64, 0).hex()]

    def observed(self, world: World, got: Any, pid: int) -> bool:
        path = world.fill(self.path)
        with open(path, 'rb') as f:
            content = f.read(64)
        return same_file(pid, got[0], path) and got[1] == content.hex() != ''


@dataclasses.dataclass(frozen=True)
class ReadProc(Action):
    """Read a file of /proc; root finds the descriptor, and bytes came.

    :ivar path: of the file
    """

    path: str

    def attempt(self, world: World) -> Any:
        fd = os.open(world.fill(self.path), os.O_RDONLY)
        return [fd, len(os.read(fd, 256))]

    def observed(self, world: World, got: Any, pid: int) -> bool:
        held = os.readlink(f'/proc/{pid}/fd/{got[0]}')
        return held == world.fill(self.path) and got[1] > 0


@dataclasses.dataclass(frozen=True)
class Write(OnFile):
    """Write at the end of a file; root finds it there.

    :ivar create: whether the file may be missing before
    """

    create: bool = False

    def prepare(self, world: World) -> None:
        path = world.fill(self.path)
        if self.create:
            reach(os.path.dirname(path), 0o002)
            if os.path.lexists(path):
                os.unlink(path)
        else:
            open_up(path)

    def attempt(self, world: World) -> Any:
        flags = os.O_WRONLY | (os.O_CREAT if self.create else 0)
        fd = os.open(world.fill(self.path), flags, 0o600)
        os.lseek(fd, 0, os.SEEK_END)
        return os.write(fd, TOKEN)

    def observed(self, world: World, got: Any, pid: int) -> bool:
        return tail(world.fill(self.path)) == TOKEN

    def restore(self, world: World) -> None:
        path = world.fill(self.path)
        if not os.path.exists(path):
            return
        if self.create:
            os.unlink(path)
        elif tail(path) == TOKEN:
            os.truncate(path, os.stat(path).st_size - len(TOKEN))


@dataclasses.dataclass(frozen=True)
class Change(OnFile):
    """Change a file, or its name, with one call; root sees the difference.

    :ivar change: told the path
    :ivar look: what root sees, told the path
    :ivar undo: told the path
    """

    change: collections.abc.Callable[[str], Any]
    look: collections.abc.Callable[[str], Any]
    undo: collections.abc.Callable[[str], Any] | None = None

    def prepare(self, world: World) -> None:
        path = world.fill(self.path)
        open_up(path)
        reach(os.path.dirname(path), 0o002)
        # what belongs to others may not be linked to
        os.chown(path, user(), -1)
        _SEEN[path] = self.look(path)

    def attempt(self, world: World) -> Any:
        self.change(world.fill(self.path))

    def observed(self, world: World, got: Any, pid: int) -> bool:
        path = world.fill(self.path)
        return bool(self.look(path) != _SEEN[path])

    def restore(self, world: World) -> None:
        if self.undo:
            self.undo(world.fill(self.path))


_SEEN: dict[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Map(OnFile):
    """Map a file executable; root finds it in the maps."""

    def attempt(self, world: World) -> Any:
        fd = os.open(world.fill(self.path), os.O_RDONLY)
        kept = mmap.mmap(fd, 64, mmap.MAP_PRIVATE, 4 | mmap.PROT_READ)
        _KEPT.append(kept)

    def observed(self, world: World, got: Any, pid: int) -> bool:
        path = os.path.realpath(world.fill(self.path))
        with open(f'/proc/{pid}/maps') as f:
            return any(line.rstrip().endswith(path) for line in f)


_KEPT: list[Any] = []


@dataclasses.dataclass(frozen=True)
class Lock(OnFile):
    """Lock a file, so that others wait; root cannot lock it."""

    def attempt(self, world: World) -> Any:
        fd = os.open(world.fill(self.path), os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def observed(self, world: World, got: Any, pid: int) -> bool:
        with open(world.fill(self.path), 'rb') as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


@dataclasses.dataclass(frozen=True)
class List(Action):
    """List a directory; root sees the same names.

    :ivar path: of the directory
    """

    path: str

    def prepare(self, world: World) -> None:
        reach(world.fill(self.path), 0o004)

    def attempt(self, world: World) -> Any:
        return sorted(os.listdir(world.fill(self.path)))

    def observed(self, world: World, got: Any, pid: int) -> bool:
        return bool(got == sorted(os.listdir(world.fill(self.path))) != [])
