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

"""Namespaces and mounts."""

import collections.abc
import ctypes
import os
import subprocess
from typing import Any

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks.actions import Do
from nova_isolation.tests.system.attacks.attempt import Attempt
from nova_isolation.tests.system.attacks.attempt import Why
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import syscalls

_PLACE = f'{actions.PLACE}/mounts'
_MOUNT_POINT = f'{_PLACE}/here'


def _prepare(world: World) -> None:
    actions.reach(_MOUNT_POINT)


def _mounted_before(world: World) -> None:
    actions.reach(_MOUNT_POINT)
    subprocess.run(
        ['mount', '-t', 'tmpfs', 'captured', _MOUNT_POINT], check=True
    )


def _unmount(world: World) -> None:
    subprocess.run(
        ['umount', '-l', _MOUNT_POINT], check=False, stderr=subprocess.DEVNULL
    )


def _mounts(pid: int | str) -> list[str]:
    with open(f'/proc/{pid}/mountinfo') as f:
        return [line.split()[4] for line in f]


def _is_mounted(world: World, got: Any, pid: int) -> bool:
    return _MOUNT_POINT in _mounts(pid)


def _is_not_mounted(world: World, got: Any, pid: int) -> bool:
    return _MOUNT_POINT not in _mounts('self')


def _other(kind: str) -> collections.abc.Callable[[World, Any, int], bool]:
    def seen(world: World, got: Any, pid: int) -> bool:
        return os.readlink(f'/proc/{pid}/ns/{kind}') != os.readlink(
            f'/proc/self/ns/{kind}'
        )

    return seen


def _inside(
    *flags: int,
) -> collections.abc.Callable[[World], Any]:
    """Enter a user namespace, and then others."""

    def attack(world: World) -> None:
        syscalls.enter_user_namespace()
        for flag in flags:
            syscalls.call('unshare', flag)

    return attack


def _mount_tmpfs(world: World) -> None:
    _inside(syscalls.CLONE_NEWNS)(world)
    syscalls.mount('captured', _MOUNT_POINT, 'tmpfs')


def _mount_bind(world: World) -> None:
    _inside(syscalls.CLONE_NEWNS)(world)
    syscalls.mount('/etc', _MOUNT_POINT, '', 0x1000)


def _mount_proc(world: World) -> None:
    _inside(syscalls.CLONE_NEWNS, syscalls.CLONE_NEWPID)(world)
    # a process of the new namespace has to do it
    failed, fail = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.mount('proc', _MOUNT_POINT, 'proc')
        except OSError as e:
            os.write(fail, str(e.errno).encode())
        os._exit(0)
    os.close(fail)
    if error := os.read(failed, 16):
        raise OSError(int(error), os.strerror(int(error)), 'mount')


def _mount_new_way(world: World) -> None:
    _inside(syscalls.CLONE_NEWNS)(world)
    context = syscalls.call('fsopen', b'tmpfs', 0)
    none = ctypes.c_void_p(None)
    syscalls.call('fsconfig', context, 6, none, none, 0)  # CMD_CREATE
    made = syscalls.call('fsmount', context, 0, 0)
    # MOVE_MOUNT_F_EMPTY_PATH
    syscalls.call('move_mount', made, b'', -100, _MOUNT_POINT.encode(), 4)


def _private(world: World) -> None:
    _inside(syscalls.CLONE_NEWNS)(world)
    syscalls.mount('', '/', '', 0x4000 | 0x40000)  # MS_REC | MS_PRIVATE


def _is_private(world: World, got: Any, pid: int) -> bool:
    return _other('mnt')(world, got, pid)


def _pivot(world: World) -> None:
    _mount_tmpfs(world)
    os.chdir(_MOUNT_POINT)
    syscalls.call('pivot_root', b'.', b'.')


def _pivoted(world: World, got: Any, pid: int) -> bool:
    root = os.stat(f'/proc/{pid}/root')
    return not os.path.samestat(root, os.stat('/'))


def _chroot(world: World) -> None:
    _inside()(world)
    os.chroot(_MOUNT_POINT)


def _chrooted(world: World, got: Any, pid: int) -> bool:
    return os.readlink(f'/proc/{pid}/root') == _MOUNT_POINT


def _enter(kind: str) -> collections.abc.Callable[[World], Any]:
    def attack(world: World) -> None:
        fd = os.open(f'/proc/{world.neighbour.pid}/ns/{kind}', os.O_RDONLY)
        syscalls.call('setns', fd, 0)

    return attack


def _entered(world: World, got: Any, pid: int) -> bool:
    neighbour = f'/proc/{world.neighbour.pid}/ns/mnt'
    return os.readlink(f'/proc/{pid}/ns/mnt') == os.readlink(neighbour)


def _network(world: World) -> Any:
    _inside(syscalls.CLONE_NEWNET)(world)


_ADMIN = ('sys_admin', 'sys_chroot', 'sys_ptrace')


TABLE = (
    Attempt(
        'make a user namespace',
        Do(_inside(), _other('user')),
        why=Why.USER_NAMESPACE,
    ),
    Attempt(
        'make a mount namespace',
        Do(_inside(syscalls.CLONE_NEWNS), _other('mnt')),
        why=Why.USER_NAMESPACE,
    ),
    Attempt(
        'make a network namespace',
        Do(_network, _other('net')),
        why=Why.USER_NAMESPACE,
    ),
    Attempt(
        'make a process namespace',
        Do(
            _inside(syscalls.CLONE_NEWPID),
            _other('pid_for_children'),
        ),
        why=Why.USER_NAMESPACE,
    ),
    Attempt(
        'mount a file system in a user namespace',
        Do(_mount_tmpfs, _is_mounted, _prepare),
    ),
    Attempt(
        'mount a directory elsewhere in a user namespace',
        Do(_mount_bind, _is_mounted, _prepare),
    ),
    Attempt(
        'mount /proc in a user namespace',
        Do(_mount_proc, _is_mounted, _prepare),
    ),
    Attempt(
        'mount with the newer system calls in a user namespace',
        Do(_mount_new_way, _is_mounted, _prepare),
    ),
    Attempt(
        'change how mounts propagate in a user namespace',
        Do(_private, _is_private),
    ),
    Attempt(
        'change the root in a user namespace: pivot_root',
        Do(_pivot, _pivoted, _prepare),
    ),
    Attempt(
        'change the root in a user namespace: chroot',
        Do(_chroot, _chrooted, _prepare),
    ),
    Attempt(
        'mount a file system on the host',
        Do(
            lambda world: syscalls.mount('captured', _MOUNT_POINT, 'tmpfs'),
            _is_mounted,
            _prepare,
            _unmount,
        ),
        _ADMIN,
    ),
    Attempt(
        'mount a directory elsewhere on the host',
        Do(
            lambda world: syscalls.mount('/etc', _MOUNT_POINT, '', 0x1000),
            _is_mounted,
            _prepare,
            _unmount,
        ),
        _ADMIN,
    ),
    Attempt(
        'unmount a file system of the host',
        Do(
            lambda world: syscalls.call(
                'umount2', _MOUNT_POINT.encode(), 2
            ),  # MNT_DETACH
            _is_not_mounted,
            _mounted_before,
            _unmount,
        ),
        _ADMIN,
    ),
    Attempt(
        "enter a neighbour's mount namespace",
        Do(_enter('mnt'), _entered),
        _ADMIN,
    ),
)
