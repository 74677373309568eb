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

"""Files of other guests, and of the host."""

import ctypes
import os
import shutil
from typing import Any

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks.actions import Change
from nova_isolation.tests.system.attacks.actions import Do
from nova_isolation.tests.system.attacks.actions import List
from nova_isolation.tests.system.attacks.actions import Lock
from nova_isolation.tests.system.attacks.actions import Read
from nova_isolation.tests.system.attacks.actions import Write
from nova_isolation.tests.system.attacks.attempt import Attempt
from nova_isolation.tests.system.attacks.attempt import Why
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import syscalls

_IN_CACHE = '/var/lib/nova/instances/_base/' + 40 * 'a'
_PLACE = actions.PLACE
_VICTIM = '{neighbour.directory}/disk.local'


def _unlink(path: str) -> None:
    if os.path.lexists(path):
        os.unlink(path)


def _mode(path: str) -> int:
    return os.stat(path).st_mode


def _links(path: str) -> int:
    return os.stat(path).st_nlink


def _link(path: str) -> None:
    os.link(path, f'{path}.stolen')


def _unlink_stolen(path: str) -> None:
    _unlink(f'{path}.stolen')


def _rename(path: str) -> None:
    os.rename(path, f'{path}.stolen')


def _rename_over(path: str) -> None:
    os.rename(f'{_PLACE}/mine', path)


def _mine(path: str) -> int:
    """Keep something to rename, and tell which file has the name."""
    mine = f'{_PLACE}/mine'
    if not os.path.exists(mine):
        actions.open_up(mine)
        actions.reach(_PLACE, 0o002)
        os.chown(mine, actions.user(), -1)
    # on the same file system as the victim
    return os.stat(path).st_ino


def _stat(world: World) -> Any:
    found = os.stat(world.neighbour.disk)
    return [found.st_ino, found.st_size]


def _stat_seen(world: World, got: Any, pid: int) -> bool:
    found = os.stat(world.neighbour.disk)
    return bool(got == [found.st_ino, found.st_size])


def _watch(world: World) -> Any:
    fd = syscalls.LIBC.inotify_init1(os.O_NONBLOCK)
    added = syscalls.LIBC.inotify_add_watch(
        fd, world.neighbour.disk.encode(), 0xFFF
    )
    if added < 0:
        raise PermissionError(ctypes.get_errno(), 'inotify')
    return fd


def _watch_seen(world: World, got: Any, pid: int) -> bool:
    inode = os.stat(world.neighbour.disk).st_ino
    with open(f'/proc/{pid}/fdinfo/{got}') as f:
        return f'ino:{inode:x} ' in f.read()


def _exists(world: World) -> Any:
    return [
        os.access(world.neighbour.disk, os.W_OK),
        os.access(f'{world.neighbour.disk}.none', os.F_OK),
    ]


def _chdir(world: World) -> None:
    os.chdir(world.neighbour.directory)


def _chdir_seen(world: World, got: Any, pid: int) -> bool:
    return os.readlink(f'/proc/{pid}/cwd') == world.neighbour.directory


def _remove_directory(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)


NEIGHBOUR = (
    Attempt("read a neighbour's disk", Read('{neighbour.disk}')),
    Attempt("write a neighbour's disk", Write('{neighbour.disk}')),
    Attempt("lock a neighbour's disk", Lock('{neighbour.disk}')),
    Attempt(
        "read a neighbour's console log",
        Read('{neighbour.directory}/console.log'),
    ),
    Attempt(
        "write a neighbour's console log",
        Write('{neighbour.directory}/console.log'),
    ),
    Attempt(
        "read a neighbour's config drive",
        Read('{neighbour.directory}/disk.config'),
    ),
    Attempt(
        "write a neighbour's config drive",
        Write('{neighbour.directory}/disk.config'),
    ),
    Attempt(
        "read a neighbour's NVRAM",
        Read('/var/lib/libvirt/qemu/nvram/{neighbour.name}_VARS.fd'),
    ),
    Attempt(
        "write a neighbour's NVRAM",
        Write('/var/lib/libvirt/qemu/nvram/{neighbour.name}_VARS.fd'),
    ),
    Attempt(
        "read the state of a neighbour's virtual TPM",
        Read('/var/lib/libvirt/swtpm/{neighbour.uuid}/tpm2/tpm2-00.permall'),
    ),
    Attempt(
        "write the state of a neighbour's virtual TPM",
        Write('/var/lib/libvirt/swtpm/{neighbour.uuid}/tpm2/tpm2-00.permall'),
    ),
    Attempt(
        "read a neighbour's saved memory",
        Read('/var/lib/libvirt/qemu/save/{neighbour.name}.save'),
    ),
    Attempt(
        "write a neighbour's saved memory",
        Write('/var/lib/libvirt/qemu/save/{neighbour.name}.save'),
    ),
    Attempt(
        "read a file of a neighbour's memory",
        Read('/var/lib/libvirt/qemu/ram/{neighbour.id}-{neighbour.name}/ram'),
    ),
    Attempt(
        "read a core dump of a neighbour's memory",
        Read('/var/lib/libvirt/qemu/dump/{neighbour.name}.dump'),
    ),
    Attempt(
        "read the key of a neighbour's secrets",
        Read('{neighbour.state}/master-key.aes'),
    ),
    Attempt("read a neighbour's ephemeral disk", Read(_VICTIM)),
    Attempt(
        "truncate a neighbour's disk",
        Change(
            _VICTIM,
            lambda path: os.truncate(path, 0),
            lambda path: os.stat(path).st_size,
            _unlink,
        ),
    ),
    Attempt(
        "remove a neighbour's disk",
        Change(_VICTIM, os.unlink, os.path.exists),
    ),
    Attempt(
        "rename a neighbour's disk",
        Change(_VICTIM, _rename, os.path.exists, _unlink_stolen),
    ),
    Attempt(
        "put another file in the place of a neighbour's disk",
        Change(_VICTIM, _rename_over, _mine),
    ),
    Attempt(
        "make a hard link to a neighbour's disk",
        Change(_VICTIM, _link, _links, _unlink_stolen),
    ),
    Attempt(
        "change the mode of a neighbour's disk",
        Change(
            _VICTIM,
            lambda path: os.chmod(path, 0o666),
            _mode,
            lambda path: os.chmod(path, 0o600),
        ),
    ),
    Attempt(
        "change the group of a neighbour's disk",
        Change(
            _VICTIM,
            lambda path: os.chown(path, -1, os.getgid()),
            lambda path: os.stat(path).st_gid,
            lambda path: os.chown(path, -1, 0),
        ),
    ),
    Attempt(
        "change the times of a neighbour's disk",
        Change(
            _VICTIM,
            lambda path: os.utime(path, (1, 1)),
            lambda path: os.stat(path).st_mtime == 1,
            os.utime,
        ),
        why=Why.ATTRIBUTES,
    ),
    Attempt(
        "give a neighbour's disk an extended attribute",
        Change(
            _VICTIM,
            lambda path: os.setxattr(path, 'user.captured', b'1'),
            os.listxattr,
            _unlink,
        ),
        why=Why.ATTRIBUTES,
    ),
    Attempt("list a neighbour's directory", List('{neighbour.directory}')),
    Attempt(
        'list the directory of all guests',
        List('/var/lib/nova/instances'),
    ),
    Attempt(
        "make a file in a neighbour's directory",
        Write('{neighbour.directory}/dropped', create=True),
    ),
    Attempt(
        "make a directory in a neighbour's directory",
        Do(
            lambda world: os.mkdir(f'{world.neighbour.directory}/made'),
            lambda world, got, pid: os.path.isdir(
                f'{world.neighbour.directory}/made'
            ),
            lambda world: actions.reach(world.neighbour.directory, 0o002),
            lambda world: _remove_directory(
                f'{world.neighbour.directory}/made'
            ),
        ),
    ),
    Attempt(
        "make a symbolic link in a neighbour's directory",
        Do(
            lambda world: os.symlink(
                '/etc/shadow', f'{world.neighbour.directory}/made'
            ),
            lambda world, got, pid: os.path.islink(
                f'{world.neighbour.directory}/made'
            ),
            lambda world: actions.reach(world.neighbour.directory, 0o002),
            lambda world: _unlink(f'{world.neighbour.directory}/made'),
        ),
    ),
    Attempt(
        "look at the size of a neighbour's disk",
        Do(_stat, _stat_seen),
        why=Why.ATTRIBUTES,
    ),
    Attempt(
        "watch what happens to a neighbour's disk",
        Do(_watch, _watch_seen),
        why=Why.NO_HOOK,
    ),
    Attempt(
        "ask whether a neighbour's disk is there",
        Do(_exists, lambda world, got, pid: bool(got == [True, False])),
        why=Why.NO_HOOK,
    ),
    Attempt(
        "go into a neighbour's directory",
        Do(_chdir, _chdir_seen),
        why=Why.NO_HOOK,
    ),
    Attempt('write the image that guests share', Write('{base}')),
    Attempt("read another project's image in the cache", Read(_IN_CACHE)),
    Attempt("write another project's image in the cache", Write(_IN_CACHE)),
    Attempt(
        'make a file in the image cache',
        Write('/var/lib/nova/instances/_base/' + 40 * 'b', create=True),
    ),
)


HOST = (
    Attempt('read the passwords of the host', Read('/etc/shadow')),
    Attempt("read Nova's passwords", Read('/etc/nova/nova.conf')),
    Attempt(
        "read Nova's key for other hosts", Read('/var/lib/nova/.ssh/id_rsa')
    ),
    Attempt(
        "read the TLS key of the host's migrations",
        Read('/etc/pki/qemu/server-key.pem'),
    ),
    Attempt(
        "read the TLS key of the host's consoles",
        Read('/etc/pki/libvirt-vnc/server-key.pem'),
    ),
    Attempt(
        "read libvirt's TLS key",
        Read('/etc/pki/libvirt/private/serverkey.pem'),
    ),
    Attempt(
        "read a neighbour's definition",
        Read('/etc/libvirt/qemu/{neighbour.name}.xml'),
    ),
    Attempt(
        "read a neighbour's live definition",
        Read('/run/libvirt/qemu/{neighbour.name}.xml'),
    ),
    Attempt(
        "read a secret of libvirt's",
        Read(
            '/etc/libvirt/secrets/11111111-2222-4333-8444-555555555555.base64'
        ),
    ),
    Attempt(
        "read libvirt's log of a neighbour",
        Read('/var/log/libvirt/qemu/{neighbour.name}.log'),
    ),
    Attempt(
        "write libvirt's log of a neighbour",
        Write('/var/log/libvirt/qemu/{neighbour.name}.log'),
    ),
    Attempt("read nova-compute's log", Read('/var/log/nova/nova-compute.log')),
    Attempt('write the log of the host', Write('/var/log/syslog')),
    Attempt(
        "write one's own profile",
        Write('/etc/apparmor.d/libvirt/libvirt-{own.uuid}.decoy'),
    ),
    Attempt(
        'install a hook of libvirt',
        Write('/etc/libvirt/hooks/qemu.d/captured', create=True),
    ),
    Attempt(
        'install a job of cron', Write('/etc/cron.d/captured', create=True)
    ),
    Attempt(
        'write a library that every guest maps',
        Write('/usr/lib/x86_64-linux-gnu/libcaptured.so.0'),
    ),
    Attempt(
        'write firmware that every guest loads',
        Write('/usr/share/seabios/captured.bin'),
    ),
    Attempt(
        'leave a file for others in /tmp',
        Write('/tmp/captured', create=True),
    ),
    Attempt("read another program's file in /tmp", Read('/tmp/of-another')),
)
