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

"""Memory and messages that processes share."""

import ctypes
import os
import time
from typing import Any

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks.actions import Do
from nova_isolation.tests.system.attacks.actions import List
from nova_isolation.tests.system.attacks.actions import Read
from nova_isolation.tests.system.attacks.actions import Write
from nova_isolation.tests.system.attacks.attempt import Attempt
from nova_isolation.tests.system.attacks.attempt import Why
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import captured
from nova_isolation.tests.system.attacks import syscalls

_KEY = 0x15014710
_SECRET = os.urandom(32)
_CREATE = 0o1000 | 0o600  # IPC_CREAT, for its owner alone
_NONE = ctypes.c_void_p(None)


def _attach() -> int:
    found = syscalls.call('shmget', _KEY, 4096, 0o600)
    return syscalls.call('shmat', found, _NONE, 0)


def _as_neighbour(world: World, what: Any) -> None:
    """Do something as a process of the neighbour's."""

    def body() -> None:
        captured.become(None, ())
        what()

    os.waitpid(captured.spawn(body), 0)


def _make_shared(world: World) -> None:
    def make() -> None:
        syscalls.call('shmget', _KEY, 4096, _CREATE)
        ctypes.memmove(_attach(), _SECRET, 32)

    _as_neighbour(world, make)


def _read_shared(world: World) -> Any:
    return ctypes.string_at(_attach(), 32).hex()


def _is_secret(world: World, got: Any, pid: int) -> bool:
    return bool(got == _SECRET.hex())


def _make_messages(world: World) -> None:
    def make() -> None:
        queue = syscalls.call('msgget', _KEY, _CREATE)
        message = (1).to_bytes(8, 'little') + _SECRET
        syscalls.call('msgsnd', queue, message, 32, 0)

    _as_neighbour(world, make)


def _read_messages(world: World) -> Any:
    queue = syscalls.call('msgget', _KEY, 0o600)
    buffer = ctypes.create_string_buffer(40)
    # IPC_NOWAIT
    if syscalls.LIBC.msgrcv(queue, buffer, 32, 0, 0o4000) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), 'msgrcv')
    return buffer.raw[8:].hex()


def _make_semaphore(world: World) -> None:
    _as_neighbour(world, lambda: syscalls.call('semget', _KEY, 1, _CREATE))


def _set_semaphore(world: World) -> Any:
    found = syscalls.call('semget', _KEY, 1, 0o600)
    syscalls.call('semctl', found, 0, 16, 4711)  # SETVAL
    return found


def _is_set(world: World, got: Any, pid: int) -> bool:
    return syscalls.call('semctl', got, 0, 12, 0) == 4711  # GETVAL


_QUEUE = b'captured'


def _make_queue(world: World) -> None:
    def make() -> None:
        syscalls.call('mq_open', _QUEUE, os.O_CREAT | os.O_RDWR, 0o600, _NONE)

    _as_neighbour(world, make)


def _open_queue(world: World) -> Any:
    queue = syscalls.call('mq_open', _QUEUE, os.O_RDWR, 0, _NONE)
    syscalls.call('mq_timedsend', queue, b'x' * 8, 8, 0, _NONE)
    return queue


def _has_message(world: World, got: Any, pid: int) -> bool:
    # root's own view of the queue
    queue = syscalls.call('mq_open', _QUEUE, os.O_RDONLY, 0, _NONE)
    try:
        return os.read(queue, 64).startswith(b'QSIZE:8 ')
    finally:
        os.close(queue)


def _add_key(world: World) -> Any:
    # a new one each time: a known one would only be changed
    description = f'captured-{os.getpid()}'.encode()
    # into the keyring of the session of the user, which all guests share
    return syscalls.call('add_key', b'user', description, _SECRET, 32, -4)


def _count_keys() -> int:
    with open('/proc/key-users') as f:
        for line in f:
            uid, _, _, _, quota, *_ = line.replace(':', ' ').split()
            if int(uid) == actions.user():
                return int(quota.partition('/')[0])
    return 0


_KEYS: list[int] = []


def _remember_keys(world: World) -> None:
    # an earlier process's keys go some time after it
    time.sleep(0.1)
    _KEYS[:] = [_count_keys()]


def _has_key(world: World, got: Any, pid: int) -> bool:
    return _count_keys() > _KEYS[0]


TABLE = (
    Attempt(
        "read a neighbour's shared memory",
        Read('/dev/shm/of-a-neighbour'),
    ),
    Attempt(
        "write a neighbour's shared memory",
        Write('/dev/shm/of-a-neighbour'),
    ),
    Attempt('make shared memory', Write('/dev/shm/captured', create=True)),
    Attempt('list the shared memory of others', List('/dev/shm')),
    Attempt(
        "read a neighbour's huge pages",
        Read('/dev/hugepages/libvirt/qemu/neighbour'),
    ),
    Attempt(
        "read a neighbour's shared memory of System V",
        Do(_read_shared, _is_secret, _make_shared),
        why=Why.IPC,
    ),
    Attempt(
        "read a neighbour's messages of System V",
        Do(_read_messages, _is_secret, _make_messages),
        why=Why.IPC,
    ),
    Attempt(
        "set a neighbour's semaphore of System V",
        Do(_set_semaphore, _is_set, _make_semaphore),
        why=Why.IPC,
    ),
    Attempt(
        "write a neighbour's POSIX message queue",
        Do(_open_queue, _has_message, _make_queue),
    ),
    Attempt(
        "put a key where a neighbour looks for keys",
        Do(_add_key, _has_key, _remember_keys),
        why=Why.KEYS,
    ),
)
