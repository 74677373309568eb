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

"""Other names for a neighbour's disk, and files whose names look like one's
own.
"""

import collections.abc
import ctypes
import dataclasses
import os
import shutil
import subprocess
import types
from typing import Any

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks.actions import Do
from nova_isolation.tests.system.attacks.attempt import Action
from nova_isolation.tests.system.attacks.attempt import Attempt
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import syscalls

_PLACE = f'{actions.PLACE}/names'


@dataclasses.dataclass(frozen=True)
class ByOtherName(Action):
    """Open a neighbour's disk by a name that is made before.

    :ivar name: what is opened; names of the world stand in braces
    :ivar make: makes the name, as root; told the disk and the name
    :ivar unmake: removes it
    """

    name: str
    make: collections.abc.Callable[[str, str], Any] | None = None
    unmake: collections.abc.Callable[[str], Any] | None = None

    def prepare(self, world: World) -> None:
        actions.reach(_PLACE, 0o002)
        os.chown(_PLACE, actions.user(), -1)
        if self.make:
            self.make(world.neighbour.disk, world.fill(self.name))

    def attempt(self, world: World) -> Any:
        return os.open(world.fill(self.name), os.O_RDWR)

    def observed(self, world: World, got: Any, pid: int) -> bool:
        return actions.same_file(pid, got, world.neighbour.disk)

    def restore(self, world: World) -> None:
        if self.unmake:
            self.unmake(world.fill(self.name))


def _path_only(world: World) -> Any:
    held = os.open(world.neighbour.disk, os.O_PATH)
    return os.open(f'/proc/self/fd/{held}', os.O_RDWR)


def _from_working_directory(world: World) -> Any:
    os.chdir(world.neighbour.directory)
    return os.open('/proc/self/cwd/disk', os.O_RDWR)


def _relative(world: World) -> Any:
    held = os.open(world.neighbour.directory, os.O_PATH)
    return os.open('disk', os.O_RDWR, dir_fd=held)


def _openat2(world: World) -> Any:
    how = (ctypes.c_uint64 * 3)(os.O_RDWR, 0, 0x08)  # RESOLVE_BENEATH
    held = os.open(world.neighbour.directory, os.O_PATH)
    return syscalls.call('openat2', held, b'disk', how, 24)


def _is_disk(world: World, got: Any, pid: int) -> bool:
    return actions.same_file(pid, got, world.neighbour.disk)


def _bind(disk: str, name: str) -> None:
    directory = os.path.dirname(name)
    os.makedirs(directory, exist_ok=True)
    subprocess.run(
        ['mount', '--bind', os.path.dirname(disk), directory], check=True
    )


def _unbind(name: str) -> None:
    subprocess.run(['umount', os.path.dirname(name)], check=True)


# What the longest path of a name cannot hold; the kernel then knows no name.
_DEEP = ['d' * 250] * 20
_HELD = types.SimpleNamespace(directory=-1)


def _make_deep(world: World) -> None:
    actions.reach(_PLACE, 0o002)
    held = os.open(_PLACE, os.O_RDONLY)
    for name in _DEEP:
        try:
            os.mkdir(name, 0o777, dir_fd=held)
        except FileExistsError:
            pass
        deeper = os.open(name, os.O_RDONLY, dir_fd=held)
        os.close(held)
        held = deeper
    try:
        os.link(world.neighbour.disk, 'disk', dst_dir_fd=held)
    except FileExistsError:
        pass
    _HELD.directory = held


def _open_deep(world: World) -> Any:
    return os.open('disk', os.O_RDWR, dir_fd=_HELD.directory)


def _remove_deep(world: World) -> None:
    os.close(_HELD.directory)
    subprocess.run(['rm', '-rf', f'{_PLACE}/{_DEEP[0]}'], check=True)


def _jail(world: World) -> None:
    """A root of one's own, in which the own name is a neighbour's disk."""
    name = f'{_PLACE}/jail{world.own.disk}'
    os.makedirs(os.path.dirname(name), exist_ok=True)
    os.link(world.neighbour.disk, name)


def _in_jail(world: World) -> Any:
    syscalls.enter_user_namespace()
    os.chroot(f'{_PLACE}/jail')
    return os.open(world.own.disk, os.O_RDWR)


def _remove_jail(world: World) -> None:
    shutil.rmtree(f'{_PLACE}/jail')


def _bind_over_own(world: World) -> Any:
    syscalls.enter_user_namespace()
    syscalls.call('unshare', syscalls.CLONE_NEWNS)
    own, neighbour = world.own.directory, world.neighbour.directory
    syscalls.mount(neighbour, own, '', 0x1000)  # MS_BIND
    return os.open(world.own.disk, os.O_RDWR)


def _detached(world: World) -> Any:
    syscalls.enter_user_namespace()
    syscalls.call('unshare', syscalls.CLONE_NEWNS)
    tree = syscalls.call(
        'open_tree', -100, world.neighbour.directory.encode(), 1
    )  # OPEN_TREE_CLONE
    return os.open('disk', os.O_RDWR, dir_fd=tree)


def _by_handle(world: World) -> Any:
    # struct file_handle: the size of the room that follows
    handle = ctypes.create_string_buffer((128).to_bytes(4, 'little'), 8 + 128)
    mount = ctypes.c_int()
    syscalls.call(
        'name_to_handle_at',
        -100,
        world.neighbour.disk.encode(),
        handle,
        ctypes.byref(mount),
        0,
    )
    where = os.open('/var/lib/nova/instances', os.O_RDONLY)
    return syscalls.call('open_by_handle_at', where, handle, os.O_RDWR)


def _link(disk: str, name: str) -> None:
    actions.reach(os.path.dirname(name))
    os.link(disk, name)


TABLE = (
    Attempt(
        "a neighbour's disk by a symbolic link",
        ByOtherName(f'{_PLACE}/link', os.symlink, os.unlink),
    ),
    Attempt(
        "a neighbour's disk by a hard link",
        ByOtherName(f'{_PLACE}/hard', _link, os.unlink),
    ),
    Attempt(
        "a neighbour's disk by a hard link in one's own directory",
        ByOtherName('{own.directory}/disk.extra', _link, os.unlink),
    ),
    Attempt(
        "a neighbour's disk by a hard link whose name begins as one's own",
        ByOtherName('{own.disk}x', _link, os.unlink),
    ),
    Attempt(
        'a hard link named as if the own disk were deleted',
        ByOtherName('{own.disk} (deleted)', _link, os.unlink),
    ),
    Attempt(
        "a neighbour's disk by a bind mount",
        ByOtherName(f'{_PLACE}/bound/disk', _bind, _unbind),
    ),
    Attempt(
        "a neighbour's disk by ..",
        ByOtherName('{own.directory}/../{neighbour.uuid}/disk'),
    ),
    Attempt(
        "a neighbour's disk by doubled slashes and dots",
        ByOtherName('/var/lib//nova/./instances/{neighbour.uuid}//disk'),
    ),
    Attempt(
        "a neighbour's disk by /proc/self/root",
        ByOtherName('/proc/self/root{neighbour.disk}'),
    ),
    Attempt(
        "a neighbour's disk by /proc/self/cwd",
        Do(_from_working_directory, _is_disk),
    ),
    Attempt("a neighbour's disk by /proc/self/fd", Do(_path_only, _is_disk)),
    Attempt(
        "a neighbour's disk by the descriptor of its directory",
        Do(_relative, _is_disk),
    ),
    Attempt("a neighbour's disk by openat2", Do(_openat2, _is_disk)),
    Attempt(
        "a neighbour's disk by a name too long to be told",
        Do(_open_deep, _is_disk, _make_deep, _remove_deep),
    ),
    Attempt(
        "a neighbour's disk under one's own name after chroot",
        Do(_in_jail, _is_disk, _jail, _remove_jail),
    ),
    Attempt(
        "a neighbour's directory mounted over one's own",
        Do(_bind_over_own, _is_disk),
    ),
    Attempt(
        "a neighbour's disk in a detached copy of its mount",
        Do(_detached, _is_disk),
    ),
    Attempt(
        "a neighbour's disk by its file handle",
        Do(_by_handle, _is_disk),
        ('dac_read_search',),
    ),
)
