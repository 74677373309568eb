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

"""Other processes: tracing, memory, signals, and what /proc shows of them."""

import collections.abc
import ctypes
import dataclasses
import os
import signal
import struct
import time
from typing import Any

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks.actions import Do
from nova_isolation.tests.system.attacks.actions import ReadProc
from nova_isolation.tests.system.attacks.attempt import Action
from nova_isolation.tests.system.attacks.attempt import Attempt
from nova_isolation.tests.system.attacks.attempt import Why
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import captured
from nova_isolation.tests.system.attacks import syscalls

# What stand-ins have in their memory, at the same address as in this process.
SECRET = ctypes.create_string_buffer(os.urandom(32), 32)


def stand_in(label: str | None) -> int:
    """Start a process of QEMU's user that does nothing.

    :param label: of the process, or None for none
    :returns: its pid
    """
    ready, done = os.pipe()

    def body() -> None:
        captured.become(label, ())
        os.write(done, b'.')
        while True:
            signal.pause()

    pid = captured.spawn(body)
    os.close(done)
    os.read(ready, 1)
    os.close(ready)
    return pid


@dataclasses.dataclass(frozen=True)
class Kill(Action):
    """Kill a stand-in; root finds it dead.

    :ivar who: its name in ``World.processes``
    :ivar by_descriptor: whether through a pidfd
    """

    who: str
    by_descriptor: bool = False

    def prepare(self, world: World) -> None:
        pid = stand_in(world.labels[self.who])
        world.processes[f'victim-{self.who}'] = pid

    def attempt(self, world: World) -> Any:
        pid = world.processes[f'victim-{self.who}']
        if self.by_descriptor:
            signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)

    def observed(self, world: World, got: Any, pid: int) -> bool:
        return waited(world.processes[f'victim-{self.who}'])

    def restore(self, world: World) -> None:
        pid = world.processes.pop(f'victim-{self.who}')
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        os.waitpid(pid, 0)


def waited(pid: int) -> bool:
    """Wait a little until a child has died of SIGKILL.

    :param pid: of the child
    :returns: whether it has
    """
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        done = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if done:
            return done.si_status == signal.SIGKILL
        time.sleep(0.01)
    return False


def _trace(who: str) -> collections.abc.Callable[[World], Any]:
    def attack(world: World) -> None:
        pid = world.processes[who]
        syscalls.call('ptrace', 0x4206, pid, 0, 0)  # PTRACE_SEIZE

    return attack


def _traced(who: str) -> collections.abc.Callable[[World, Any, int], bool]:
    def seen(world: World, got: Any, pid: int) -> bool:
        with open(f'/proc/{world.processes[who]}/status') as f:
            return f'TracerPid:\t{pid}\n' in f.read()

    return seen


def _copy(world: World) -> Any:
    address = ctypes.addressof(SECRET)
    return syscalls.copy_memory(
        world.processes['neighbour'], address, 32
    ).hex()


def _memory(world: World) -> Any:
    fd = os.open(f'/proc/{world.processes["neighbour"]}/mem', os.O_RDWR)
    return os.pread(fd, 32, ctypes.addressof(SECRET)).hex()


def _is_secret(world: World, got: Any, pid: int) -> bool:
    return bool(got == SECRET.raw.hex())


def _overwrite(world: World) -> None:
    syscalls.overwrite_memory(
        world.processes['neighbour'],
        ctypes.addressof(SECRET),
        actions.TOKEN[:8],
    )


def _overwritten(world: World, got: Any, pid: int) -> bool:
    victim = world.processes['neighbour']
    with open(f'/proc/{victim}/mem', 'rb', buffering=0) as f:
        f.seek(ctypes.addressof(SECRET))
        return f.read(8) == actions.TOKEN[:8]


def _repair(world: World) -> None:
    victim = world.processes['neighbour']
    with open(f'/proc/{victim}/mem', 'r+b', buffering=0) as f:
        f.seek(ctypes.addressof(SECRET))
        f.write(SECRET.raw)


def _steal_descriptor(world: World) -> Any:
    pidfd = os.pidfd_open(world.neighbour.pid)
    return syscalls.call('pidfd_getfd', pidfd, _DISKS[0], 0)


# The neighbour's descriptors of its disk.
_DISKS: list[int] = []


def _find_descriptor(world: World) -> None:
    directory = f'/proc/{world.neighbour.pid}/fd'
    _DISKS[:] = [
        int(name)
        for name in os.listdir(directory)
        if os.readlink(f'{directory}/{name}') == world.neighbour.disk
    ]


def _is_disk(world: World, got: Any, pid: int) -> bool:
    return actions.same_file(pid, got, world.neighbour.disk)


def _through_descriptor(world: World) -> Any:
    return os.open(f'/proc/{world.neighbour.pid}/fd/{_DISKS[0]}', os.O_RDWR)


def _through_root(world: World) -> Any:
    root = f'/proc/{world.neighbour.pid}/root'
    return os.open(f'{root}{world.neighbour.disk}', os.O_RDWR)


def _descriptors(world: World) -> Any:
    return sorted(os.listdir(f'/proc/{world.neighbour.pid}/fd'))


def _descriptors_seen(world: World, got: Any, pid: int) -> bool:
    return bool(set(got) & set(os.listdir(f'/proc/{world.neighbour.pid}/fd')))


def _score(world: World) -> str:
    return f'/proc/{world.processes["neighbour"]}/oom_score_adj'


def _set_score(world: World) -> None:
    with open(_score(world), 'w') as f:
        f.write('1000')


def _score_seen(world: World, got: Any, pid: int) -> bool:
    with open(_score(world)) as f:
        return f.read().strip() == '1000'


def _set_limit(world: World) -> None:
    pid = world.processes['neighbour']
    new = struct.pack('=QQ', 7, 7)
    if syscalls.LIBC.prlimit64(pid, 7, new, None):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), 'prlimit')


def _limit_seen(world: World, got: Any, pid: int) -> bool:
    with open(f'/proc/{world.processes["neighbour"]}/limits') as f:
        return any(
            line.startswith('Max open files')
            and line.split()[3:5] == ['7'] * 2
            for line in f
        )


def _slow_down(world: World) -> None:
    os.setpriority(os.PRIO_PROCESS, world.processes['neighbour'], 19)


def _slowed_down(world: World, got: Any, pid: int) -> bool:
    victim = world.processes['neighbour']
    return os.getpriority(os.PRIO_PROCESS, victim) == 19


def _pin(world: World) -> None:
    victim = world.processes['neighbour']
    os.sched_setscheduler(victim, os.SCHED_BATCH, os.sched_param(0))


def _pinned(world: World, got: Any, pid: int) -> bool:
    victim = world.processes['neighbour']
    return os.sched_getscheduler(victim) == os.SCHED_BATCH


def _compare(world: World) -> Any:
    # KCMP_VM: the order of two address spaces in the kernel
    one, other = world.processes['neighbour'], world.processes['host']
    return [
        syscalls.call('kcmp', one, one, 1, 0, 0),
        syscalls.call('kcmp', one, other, 1, 0, 0),
    ]


def _renew(world: World) -> None:
    """A stand-in as it was."""
    captured.end(world.processes['neighbour'])
    world.processes['neighbour'] = stand_in(world.neighbour.label)


_SHOWN = (
    'maps',
    'environ',
    'cmdline',
    'status',
    'auxv',
    'smaps',
    'io',
    'limits',
    'mounts',
    'mountinfo',
    'stat',
    'attr/apparmor/current',
)


TABLE = (
    Attempt(
        "trace a neighbour's process",
        Do(_trace('neighbour'), _traced('neighbour')),
    ),
    Attempt(
        'trace a process of the host', Do(_trace('host'), _traced('host'))
    ),
    Attempt('trace libvirtd', Do(_trace('libvirtd'), _traced('libvirtd'))),
    Attempt("copy a neighbour's memory", Do(_copy, _is_secret)),
    Attempt("read a neighbour's memory in /proc", Do(_memory, _is_secret)),
    Attempt(
        "overwrite a neighbour's memory",
        Do(_overwrite, _overwritten, None, _repair),
    ),
    Attempt(
        "take a neighbour's open disk by its process",
        Do(_steal_descriptor, _is_disk, _find_descriptor),
    ),
    Attempt(
        "open a neighbour's disk through its descriptors in /proc",
        Do(_through_descriptor, _is_disk, _find_descriptor),
    ),
    Attempt(
        "open a neighbour's disk through its root in /proc",
        Do(_through_root, _is_disk),
    ),
    Attempt(
        "list a neighbour's descriptors",
        Do(_descriptors, _descriptors_seen),
    ),
    Attempt(
        "compare a neighbour's memory with another's",
        Do(_compare, lambda world, got, pid: bool(got == _compare(world))),
    ),
    Attempt('kill a neighbour', Kill('neighbour')),
    Attempt('kill a neighbour through a pidfd', Kill('neighbour', True)),
    Attempt('kill libvirtd', Kill('libvirtd')),
    Attempt('kill a process of the host', Kill('host')),
    Attempt(
        "make a neighbour the first to die when memory is short",
        Do(_set_score, _score_seen, None, _renew),
    ),
    Attempt(
        "limit a neighbour's open files",
        Do(_set_limit, _limit_seen, None, _renew),
    ),
    Attempt(
        "lower a neighbour's priority",
        Do(_slow_down, _slowed_down, None, _renew),
        why=Why.NO_HOOK,
    ),
    Attempt(
        "change a neighbour's scheduling",
        Do(_pin, _pinned, None, _renew),
        why=Why.NO_HOOK,
    ),
    *(
        Attempt(
            f"read a neighbour's /proc/PID/{name}",
            ReadProc('/proc/{neighbour.pid}/' + name),
        )
        for name in _SHOWN
    ),
    Attempt(
        'read the command line of a process of the host',
        ReadProc('/proc/{pid[host]}/cmdline'),
    ),
)
