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

"""What a captured QEMU does with its own code, commanded through QMP."""

import collections.abc
import dataclasses
import os
import socket
import time
from typing import Any

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks.attempt import Action
from nova_isolation.tests.system.attacks.attempt import Attempt
from nova_isolation.tests.system.attacks.attempt import Why
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import audit
from nova_isolation.tests.system.attacks import peers
from nova_isolation.tests.system.attacks import virsh

Qmp = tuple[str, dict[str, Any]]
Seen = collections.abc.Callable[[World, int], bool]

_NEW = f'{actions.PLACE}/monitor/new'
_FILE = f'{actions.PLACE}/monitor/file'
_NODE = f'{actions.PLACE}/monitor/volume'
_PIPE = f'{actions.PLACE}/monitor/pipe'
_LOG = '{neighbour.directory}/console.log'
_PORT = 7411
# Seconds: for what it does by itself after it has answered; and for that once
# the kernel has denied it something.
_WAIT = 20.0
_WAIT_DENIED = 3.0


@dataclasses.dataclass(frozen=True)
class Monitor(Action):
    """Commands to QEMU's monitor; root looks at what QEMU then holds or did.

    :ivar commands: executed one after the other; names of the world stand in
        braces
    :ivar seen: whether it happened; told QEMU's pid
    :ivar before: done as root, before
    :ivar undo: commands that end it, whatever came of it
    :ivar handed: a file that root opens for reading and writing, and hands
        over with the first command
    """

    commands: tuple[Qmp, ...]
    seen: Seen
    before: collections.abc.Callable[[World], None] | None = None
    undo: tuple[Qmp, ...] = ()
    handed: str = ''

    def prepare(self, world: World) -> None:
        peers.forget()
        actions.reach(os.path.dirname(_NEW), 0o002)
        _remove(_NEW)
        if self.before:
            self.before(world)

    def attempt(self, world: World) -> Any:
        """Send the commands.

        :returns: the answer to the last, or to the first that was refused
        """
        answer: Any = None
        for number, command in enumerate(self.commands):
            handed: tuple[int, ...] = ()
            if self.handed and number == 0:
                flags = os.O_RDWR | os.O_CREAT
                handed = (os.open(world.fill(self.handed), flags, 0o600),)
            try:
                answer = _send(world, command, handed)
            finally:
                for descriptor in handed:
                    os.close(descriptor)
            if 'error' in answer:
                return answer
        return answer

    def observed(self, world: World, got: Any, pid: int) -> bool:
        refused = 'Permission denied' in got.get('error', {}).get('desc', '')
        begun = time.monotonic()
        while not (found := self.seen(world, pid)):
            waited = time.monotonic() - begun
            if (
                refused
                or waited > _WAIT
                or (waited > _WAIT_DENIED and audit.was_denied(pid))
            ):
                return False
            time.sleep(0.05)
        return found

    def restore(self, world: World) -> None:
        for command in self.undo:
            _send(world, command)
        _remove(_NEW)


def _send(world: World, command: Qmp, handed: tuple[int, ...] = ()) -> Any:
    name, arguments = command
    request = {'execute': name, 'arguments': _filled(arguments, world)}
    return virsh.monitor(world.own.uuid, request, handed)


def _filled(value: Any, world: World) -> Any:
    match value:
        case str():
            return world.fill(value)
        case dict():
            return {k: _filled(v, world) for k, v in value.items()}
        case list():
            return [_filled(v, world) for v in value]
    return value


def _remove(path: str) -> None:
    if os.path.lexists(path):
        os.unlink(path)


def _holds(path: str) -> Seen:
    """QEMU has the file open."""

    def seen(world: World, pid: int) -> bool:
        wanted = os.stat(world.fill(path))
        for name in os.listdir(f'/proc/{pid}/fd'):
            try:
                held = os.stat(f'/proc/{pid}/fd/{name}')
            except FileNotFoundError:
                continue
            if os.path.samestat(held, wanted):
                return True
        return False

    return seen


def _maps(path: str) -> Seen:
    """QEMU has the file in its memory."""

    def seen(world: World, pid: int) -> bool:
        with open(f'/proc/{pid}/maps') as f:
            return any(world.fill(path) in line for line in f)

    return seen


def _unread(path: str) -> collections.abc.Callable[[World], None]:
    """Make a file that was never read, as far as its times tell."""

    def before(world: World) -> None:
        name = world.fill(path)
        actions.open_up(name)
        os.utime(name, (1, time.time()))

    return before


def _was_read(path: str) -> Seen:
    return lambda world, pid: os.stat(world.fill(path)).st_atime != 1


def _old(path: str) -> collections.abc.Callable[[World], None]:
    """Make a file that was never written, as far as its times tell."""

    def before(world: World) -> None:
        name = world.fill(path)
        actions.open_up(name)
        os.utime(name, (1, 1))

    return before


def _was_written(path: str) -> Seen:
    return lambda world, pid: os.stat(world.fill(path)).st_mtime != 1


def _is_new(world: World, pid: int) -> bool:
    return os.path.lexists(_NEW)


def _came(name: str) -> Seen:
    return lambda world, pid: bool(peers.heard(name))


def _answers(world: World, pid: int) -> bool:
    try:
        with socket.create_connection(('127.0.0.1', _PORT), 5):
            return True
    except OSError:
        return False


def _bound(world: World, pid: int) -> bool:
    with open('/proc/net/udp') as f:
        return any(f':{_PORT:04X} ' in line for line in f)


def _opened_up(path: str) -> collections.abc.Callable[[World], None]:
    return lambda world: actions.open_up(world.fill(path))


def _volume(world: World) -> None:
    _remove(_NODE)
    # one that libvirt's device cgroup lets every guest open: /dev/zero
    os.mknod(_NODE, 0o020666, os.makedev(1, 5))
    os.chmod(_NODE, 0o666)


def _pipes(world: World) -> None:
    for name in ('in', 'out'):
        _remove(f'{_PIPE}.{name}')
        os.mkfifo(f'{_PIPE}.{name}')
        os.chmod(f'{_PIPE}.{name}', 0o666)


def _tls(world: World) -> None:
    for name in ('server-key', 'server-cert', 'ca-cert'):
        _unread(f'/etc/pki/libvirt-vnc/{name}.pem')(world)


def _target(world: World) -> None:
    path = f'{world.neighbour.directory}/disk.local'
    actions.open_up(path)
    os.truncate(path, 65536)


def _add_node(driver: str, filename: str, **more: Any) -> Qmp:
    return (
        'blockdev-add',
        {
            'driver': driver,
            'node-name': 'captured',
            'filename': filename,
            'locking': 'off',
            **more,
        },
    )


_DROP_NODE: Qmp = ('blockdev-del', {'node-name': 'captured'})
_NULL: Qmp = (
    'blockdev-add',
    {'driver': 'null-co', 'node-name': 'nothing', 'size': 65536},
)
_DROP_NULL: Qmp = ('blockdev-del', {'node-name': 'nothing'})
_DISMISS: tuple[Qmp, ...] = (
    ('block-job-cancel', {'device': 'captured', 'force': True}),
    ('job-dismiss', {'id': 'captured'}),
)


def _character(backend: str, **data: Any) -> Qmp:
    return (
        'chardev-add',
        {'id': 'captured', 'backend': {'type': backend, 'data': data}},
    )


_DROP_CHARACTER: Qmp = ('chardev-remove', {'id': 'captured'})


def _inet(port: str | int = '{tcp}') -> dict[str, Any]:
    return {
        'type': 'inet',
        'data': {'host': '127.0.0.1', 'port': str(port)},
    }


def _object(kind: str, **arguments: Any) -> Qmp:
    named = {k.replace('_', '-'): v for k, v in arguments.items()}
    return ('object-add', {'qom-type': kind, 'id': 'captured', **named})


_DROP_OBJECT: Qmp = ('object-del', {'id': 'captured'})


def _human(line: str) -> Qmp:
    return ('human-monitor-command', {'command-line': line})


def _migrate(uri: str) -> tuple[Qmp, ...]:
    return (('migrate', {'uri': uri}),)


# A finished migration stops the guest.
_STAY: tuple[Qmp, ...] = (('migrate_cancel', {}), ('cont', {}))
_OVER = ('none', 'completed', 'failed', 'cancelled')


def _no_migration(world: World) -> None:
    """Wait for the end of the migration before: QEMU has one at a time."""
    limit = time.monotonic() + _WAIT
    while time.monotonic() < limit:
        told = _send(world, ('query-migrate', {})).get('return', {})
        if told.get('status', 'none') in _OVER:
            return
        time.sleep(0.05)


_BLOCK = (
    Attempt(
        "QMP: open a neighbour's disk",
        Monitor(
            (_add_node('file', '{neighbour.disk}'),),
            _holds('{neighbour.disk}'),
            None,
            (_DROP_NODE,),
        ),
    ),
    Attempt(
        "QMP: open a neighbour's config drive for reading",
        Monitor(
            (
                _add_node(
                    'file',
                    '{neighbour.directory}/disk.config',
                    **{'read-only': True},
                ),
            ),
            _holds('{neighbour.directory}/disk.config'),
            _opened_up('{neighbour.directory}/disk.config'),
            (_DROP_NODE,),
        ),
    ),
    Attempt(
        "QMP: open a neighbour's disk through its process",
        Monitor(
            (_add_node('file', '/proc/{neighbour.pid}/root{neighbour.disk}'),),
            _holds('{neighbour.disk}'),
            None,
            (_DROP_NODE,),
        ),
    ),
    Attempt(
        "QMP: open another project's image in the cache",
        Monitor(
            (
                _add_node(
                    'file',
                    '/var/lib/nova/instances/_base/' + 40 * 'a',
                    **{'read-only': True},
                ),
            ),
            _holds('/var/lib/nova/instances/_base/' + 40 * 'a'),
            _opened_up('/var/lib/nova/instances/_base/' + 40 * 'a'),
            (_DROP_NODE,),
        ),
    ),
    Attempt(
        "QMP: open a neighbour's disk that is handed over: add-fd",
        Monitor(
            (
                ('add-fd', {'fdset-id': 77}),
                _add_node('file', '/dev/fdset/77'),
            ),
            _holds('{neighbour.disk}'),
            None,
            (_DROP_NODE, ('remove-fd', {'fdset-id': 77})),
            '{neighbour.disk}',
        ),
        why=Why.DELEGATED,
    ),
    Attempt(
        'QMP: open a device of the host',
        Monitor(
            (_add_node('host_device', _NODE, **{'read-only': True}),),
            _holds(_NODE),
            _volume,
            (_DROP_NODE,),
        ),
    ),
    Attempt(
        'QMP: a disk over TCP: nbd',
        Monitor(
            (
                (
                    'blockdev-add',
                    {
                        'driver': 'nbd',
                        'node-name': 'captured',
                        'server': {
                            'type': 'inet',
                            'host': '127.0.0.1',
                            'port': '{tcp}',
                        },
                    },
                ),
            ),
            _came('tcp'),
            None,
            (_DROP_NODE,),
        ),
        why=Why.CONNECT,
    ),
    Attempt(
        'QMP: a disk over a unix socket: nbd',
        Monitor(
            (
                (
                    'blockdev-add',
                    {
                        'driver': 'nbd',
                        'node-name': 'captured',
                        'server': {'type': 'unix', 'path': peers.STREAM},
                    },
                ),
            ),
            _came('stream'),
            None,
            (_DROP_NODE,),
        ),
        why=Why.UNIX,
    ),
    Attempt(
        'QMP: make a file: blockdev-create',
        Monitor(
            (
                (
                    'blockdev-create',
                    {
                        'job-id': 'captured',
                        'options': {
                            'driver': 'file',
                            'filename': _NEW,
                            'size': 4096,
                        },
                    },
                ),
            ),
            _is_new,
            None,
            _DISMISS,
        ),
    ),
    Attempt(
        'QMP: make a file: snapshot',
        Monitor(
            (
                _NULL,
                (
                    'blockdev-snapshot-sync',
                    {
                        'node-name': 'nothing',
                        'snapshot-file': _NEW,
                        'snapshot-node-name': 'captured',
                        'format': 'qcow2',
                    },
                ),
            ),
            _is_new,
            None,
            (_DROP_NODE, _DROP_NULL),
        ),
    ),
    Attempt(
        "QMP: mirror over a neighbour's file",
        Monitor(
            (
                _NULL,
                (
                    'drive-mirror',
                    {
                        'job-id': 'captured',
                        'device': 'nothing',
                        'target': '{neighbour.directory}/disk.local',
                        'format': 'raw',
                        'sync': 'full',
                        'mode': 'existing',
                    },
                ),
            ),
            _holds('{neighbour.directory}/disk.local'),
            _target,
            (*_DISMISS, _DROP_NULL),
        ),
    ),
    Attempt(
        'QMP: make a file: backup',
        Monitor(
            (
                _NULL,
                (
                    'drive-backup',
                    {
                        'job-id': 'captured',
                        'device': 'nothing',
                        'target': _NEW,
                        'format': 'raw',
                        'sync': 'full',
                    },
                ),
            ),
            _is_new,
            None,
            (*_DISMISS, _DROP_NULL),
        ),
    ),
    Attempt(
        "QMP: serve one's disk at a TCP port: nbd",
        Monitor(
            (('nbd-server-start', {'addr': _inet(_PORT)}),),
            _answers,
            None,
            (('nbd-server-stop', {}),),
        ),
        why=Why.LISTEN,
    ),
    Attempt(
        "QMP: serve one's disk at a unix socket: nbd",
        Monitor(
            (
                (
                    'nbd-server-start',
                    {'addr': {'type': 'unix', 'data': {'path': _NEW}}},
                ),
            ),
            _is_new,
            None,
            (('nbd-server-stop', {}),),
        ),
    ),
    Attempt(
        'QMP: serve a disk at a unix socket: vhost-user',
        Monitor(
            (
                _NULL,
                (
                    'block-export-add',
                    {
                        'type': 'vhost-user-blk',
                        'id': 'captured',
                        'node-name': 'nothing',
                        'addr': {'type': 'unix', 'path': _NEW},
                    },
                ),
            ),
            _is_new,
            None,
            (
                ('block-export-del', {'id': 'captured', 'mode': 'hard'}),
                _DROP_NULL,
            ),
        ),
    ),
)


_CHARACTER = (
    Attempt(
        "QMP: write into a neighbour's console log",
        Monitor(
            (_character('file', out=_LOG, append=True),),
            _holds(_LOG),
            _opened_up(_LOG),
            (_DROP_CHARACTER,),
        ),
    ),
    Attempt(
        'QMP: make a file: character device',
        Monitor(
            (_character('file', out=_NEW),),
            _is_new,
            None,
            (_DROP_CHARACTER,),
        ),
    ),
    Attempt(
        'QMP: read the passwords of the host: character device',
        Monitor(
            (_character('file', out='/dev/null', **{'in': '/etc/shadow'}),),
            _holds('/etc/shadow'),
            _opened_up('/etc/shadow'),
            (_DROP_CHARACTER,),
        ),
    ),
    Attempt(
        "QMP: open a neighbour's console",
        Monitor(
            (_character('serial', device='{neighbour.pty}'),),
            _holds('{neighbour.pty}'),
            None,
            (_DROP_CHARACTER,),
        ),
    ),
    Attempt(
        'QMP: open pipes of the host',
        Monitor(
            (_character('pipe', device=_PIPE),),
            _holds(f'{_PIPE}.in'),
            _pipes,
            (_DROP_CHARACTER,),
        ),
    ),
    Attempt(
        'QMP: connect a character device over TCP',
        Monitor(
            (_character('socket', addr=_inet(), server=False),),
            _came('tcp'),
            None,
            (_DROP_CHARACTER,),
        ),
        why=Why.CONNECT,
    ),
    Attempt(
        'QMP: connect a character device to a unix socket',
        Monitor(
            (
                _character(
                    'socket',
                    addr={'type': 'unix', 'data': {'path': peers.STREAM}},
                    server=False,
                ),
            ),
            _came('stream'),
            None,
            (_DROP_CHARACTER,),
        ),
        why=Why.UNIX,
    ),
    Attempt(
        'QMP: connect a character device to an abstract unix socket',
        Monitor(
            (
                _character(
                    'socket',
                    addr={
                        'type': 'unix',
                        'data': {
                            'path': peers.ABSTRACT[1:],
                            'abstract': True,
                            'tight': True,
                        },
                    },
                    server=False,
                ),
            ),
            _came('abstract'),
            None,
            (_DROP_CHARACTER,),
        ),
        why=Why.UNIX,
    ),
    Attempt(
        'QMP: listen at a unix socket',
        Monitor(
            (
                _character(
                    'socket',
                    addr={'type': 'unix', 'data': {'path': _NEW}},
                    server=True,
                    wait=False,
                ),
            ),
            _is_new,
            None,
            (_DROP_CHARACTER,),
        ),
    ),
    Attempt(
        'QMP: listen at another TCP port',
        Monitor(
            (
                _character(
                    'socket', addr=_inet(_PORT), server=True, wait=False
                ),
            ),
            _answers,
            None,
            (_DROP_CHARACTER,),
        ),
        why=Why.LISTEN,
    ),
    Attempt(
        'QMP: a character device over UDP',
        Monitor(
            (_character('udp', remote=_inet('{udp}'), local=_inet(_PORT)),),
            _bound,
            None,
            (_DROP_CHARACTER,),
        ),
    ),
)


_NETWORK = (
    Attempt(
        'QMP: make a tap interface',
        Monitor(
            (
                (
                    'netdev_add',
                    {
                        'type': 'tap',
                        'id': 'captured',
                        'ifname': 'captured0',
                        'script': 'no',
                        'downscript': 'no',
                    },
                ),
            ),
            lambda world, pid: os.path.exists('/sys/class/net/captured0'),
            None,
            (('netdev_del', {'id': 'captured'}),),
        ),
    ),
    Attempt(
        'QMP: a network of its own, with a port of the host: user',
        Monitor(
            (
                (
                    'netdev_add',
                    {
                        'type': 'user',
                        'id': 'captured',
                        'hostfwd': [{'str': f'tcp:127.0.0.1:{_PORT}-:22'}],
                    },
                ),
            ),
            _answers,
            None,
            (('netdev_del', {'id': 'captured'}),),
        ),
        why=Why.LISTEN,
    ),
    Attempt(
        'QMP: a network over TCP: stream',
        Monitor(
            (
                (
                    'netdev_add',
                    {
                        'type': 'stream',
                        'id': 'captured',
                        'server': False,
                        'addr': {
                            'type': 'inet',
                            'host': '127.0.0.1',
                            'port': '{tcp}',
                        },
                    },
                ),
            ),
            _came('tcp'),
            None,
            (('netdev_del', {'id': 'captured'}),),
        ),
        why=Why.CONNECT,
    ),
    Attempt(
        'QMP: a network over UDP: dgram',
        Monitor(
            (
                (
                    'netdev_add',
                    {
                        'type': 'dgram',
                        'id': 'captured',
                        'local': {
                            'type': 'inet',
                            'host': '127.0.0.1',
                            'port': str(_PORT),
                        },
                        'remote': {
                            'type': 'inet',
                            'host': '127.0.0.1',
                            'port': '{udp}',
                        },
                    },
                ),
            ),
            _bound,
            None,
            (('netdev_del', {'id': 'captured'}),),
        ),
    ),
)


_OBJECTS = (
    Attempt(
        "QMP: map a neighbour's disk as memory",
        Monitor(
            (
                _object(
                    'memory-backend-file',
                    mem_path='{neighbour.disk}',
                    size=65536,
                    share=True,
                ),
            ),
            _maps('{neighbour.disk}'),
            None,
            (_DROP_OBJECT,),
        ),
    ),
    Attempt(
        'QMP: read a TLS key as a secret',
        Monitor(
            (_object('secret', file='/etc/pki/qemu/server-key.pem'),),
            _was_read('/etc/pki/qemu/server-key.pem'),
            _unread('/etc/pki/qemu/server-key.pem'),
            (_DROP_OBJECT,),
        ),
    ),
    Attempt(
        "QMP: read a neighbour's key as a secret",
        Monitor(
            (_object('secret', file='{neighbour.state}/master-key.aes'),),
            _was_read('{neighbour.state}/master-key.aes'),
            _unread('{neighbour.state}/master-key.aes'),
            (_DROP_OBJECT,),
        ),
    ),
    Attempt(
        'QMP: read TLS certificates',
        Monitor(
            (
                _object(
                    'tls-creds-x509',
                    dir='/etc/pki/libvirt-vnc',
                    endpoint='server',
                    verify_peer=True,
                ),
            ),
            _was_read('/etc/pki/libvirt-vnc/server-cert.pem'),
            _tls,
            (_DROP_OBJECT,),
        ),
    ),
    Attempt(
        'QMP: read a file of the host as random numbers',
        Monitor(
            (_object('rng-random', filename=_FILE),),
            _holds(_FILE),
            _opened_up(_FILE),
            (_DROP_OBJECT,),
        ),
    ),
    Attempt(
        'QMP: read a file of the host as a list of users',
        Monitor(
            (_object('authz-listfile', filename=_FILE),),
            _was_read(_FILE),
            _unread(_FILE),
            (_DROP_OBJECT,),
        ),
    ),
    Attempt(
        'QMP: read a file of the host as the memory of a device',
        Monitor(
            (
                (
                    'device_add',
                    {
                        'driver': 'virtio-net-pci',
                        'id': 'captured',
                        'romfile': _FILE,
                    },
                ),
            ),
            _was_read(_FILE),
            _unread(_FILE),
            (('device_del', {'id': 'captured'}),),
        ),
    ),
)


_DUMPS = (
    Attempt(
        "QMP: write the screen over a neighbour's file",
        Monitor(
            (('screendump', {'filename': '{neighbour.directory}/screen'}),),
            _was_written('{neighbour.directory}/screen'),
            _old('{neighbour.directory}/screen'),
        ),
    ),
    Attempt(
        'QMP: make a file: memsave',
        Monitor(
            (('memsave', {'val': 0, 'size': 4096, 'filename': _NEW}),),
            _is_new,
        ),
    ),
    Attempt(
        'QMP: make a file: pmemsave',
        Monitor(
            (('pmemsave', {'val': 0, 'size': 4096, 'filename': _NEW}),),
            _is_new,
        ),
    ),
    Attempt(
        "QMP: make a file: QEMU's log",
        Monitor(
            (_human(f'logfile {_NEW}'), _human('log unimp')),
            _is_new,
            None,
            (_human('log none'), _human('logfile /dev/null')),
        ),
    ),
    Attempt(
        'QMP: a debugger at a TCP port',
        Monitor(
            (_human(f'gdbserver tcp:127.0.0.1:{_PORT}'),),
            _answers,
            None,
            (_human('gdbserver none'),),
        ),
        why=Why.LISTEN,
    ),
    Attempt(
        'QMP: migrate over TCP',
        Monitor(
            _migrate('tcp:127.0.0.1:{tcp}'),
            _came('tcp'),
            _no_migration,
            _STAY,
        ),
        why=Why.CONNECT,
    ),
    Attempt(
        'QMP: migrate to a unix socket',
        Monitor(
            _migrate(f'unix:{peers.STREAM}'),
            _came('stream'),
            _no_migration,
            _STAY,
        ),
        why=Why.UNIX,
    ),
    Attempt(
        'QMP: migrate to a descriptor that is handed over: fd',
        Monitor(
            (('getfd', {'fdname': 'captured'}), *_migrate('fd:captured')),
            lambda world, pid: os.stat(_NEW).st_size > 0,
            _no_migration,
            (*_STAY, ('closefd', {'fdname': 'captured'})),
            _NEW,
        ),
        why=Why.DELEGATED,
    ),
    Attempt(
        'QMP: migrate to a file',
        Monitor(_migrate(f'file:{_NEW}'), _is_new, _no_migration, _STAY),
    ),
    Attempt(
        'QMP: migrate to a program',
        Monitor(_migrate(f'exec:touch {_NEW}'), _is_new, _no_migration, _STAY),
    ),
    Attempt(
        "QMP: dump one's memory to a file",
        Monitor(
            (
                (
                    'dump-guest-memory',
                    {
                        'paging': False,
                        'protocol': f'file:{_NEW}',
                        # beyond all memory: the file is made, and no end is
                        # announced, which older libvirtds do not survive
                        'begin': 1 << 60,
                        'length': 65536,
                    },
                ),
            ),
            _is_new,
        ),
    ),
)


TABLE = (*_BLOCK, *_CHARACTER, *_NETWORK, *_OBJECTS, *_DUMPS)


def _reads_own_disk(world: World, pid: int) -> bool:
    return _holds('{own.disk}')(world, pid)


def _type(text: str) -> tuple[Qmp, ...]:
    return tuple(_human(f'o /1 0x3f8 {letter}') for letter in text.encode())


_TYPED = 'legitimate'


def _in_console_log(world: World, pid: int) -> bool:
    with open(f'{world.own.directory}/console.log', 'rb') as f:
        return _TYPED.encode() in f.read()


def greets(world: World, pid: int) -> bool:
    """Tell whether a guest answers VNC.

    :param world: whose ``own`` guest is asked
    :param pid: of its QEMU
    :returns: whether it does
    """
    try:
        with socket.create_connection(
            ('127.0.0.1', world.own.vnc), 10
        ) as sock:
            return sock.recv(12).startswith(b'RFB 003')
    except OSError:
        return False


LEGITIMATE = (
    Attempt(
        "QMP: open one's own disk once more",
        Monitor(
            (_add_node('file', '{own.disk}', **{'read-only': True}),),
            _reads_own_disk,
            None,
            (_DROP_NODE,),
        ),
    ),
    Attempt(
        "QMP: write into one's own console log",
        Monitor(_type(_TYPED), _in_console_log),
    ),
    Attempt(
        'QMP: be looked at through VNC',
        Monitor((('query-vnc', {}),), greets),
    ),
    Attempt(
        'QMP: answer at the monitor',
        Monitor(
            (('query-status', {}),),
            lambda world, pid: (
                'return'
                in virsh.monitor(world.own.uuid, {'execute': 'query-status'})
            ),
        ),
    ),
)
