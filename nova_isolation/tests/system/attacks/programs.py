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

"""Programs that a captured process would run, and code that it would map."""

import ctypes
import dataclasses
import os
import shutil
from typing import Any

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks.actions import Map
from nova_isolation.tests.system.attacks.attempt import Action
from nova_isolation.tests.system.attacks.attempt import Attempt
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import syscalls

_DROPPED = f'{actions.PLACE}/programs/dropped'
_SCRIPT = f'{actions.PLACE}/programs/script'
_BUSYBOX = '/usr/bin/busybox'
_LOADER = '/lib64/ld-linux-x86-64.so.2'


def start(argv: list[str], descriptor: int = -1) -> int:
    """Start a program that says something and blocks, for nobody reads it.

    :param argv: its command line
    :param descriptor: of the program's file, instead of its name
    :returns: its pid, once it runs
    :raises OSError: when it cannot be executed
    """
    # an error arrives through it; a successful exec closes it
    failed, fail = os.pipe()
    nobody, full = os.pipe()
    os.set_blocking(full, False)
    try:
        while True:
            os.write(full, bytes(4096))
    except BlockingIOError:
        os.set_blocking(full, True)
    pid = os.fork()
    if pid == 0:
        try:
            os.set_inheritable(fail, False)
            os.dup2(full, 1)
            os.dup2(full, 2)
            # else it would end with SIGPIPE
            os.set_inheritable(nobody, True)
            if descriptor < 0:
                os.execv(argv[0], argv)
            words = (ctypes.c_char_p * (len(argv) + 1))(
                *[word.encode() for word in argv], None
            )
            none = (ctypes.c_char_p * 1)(None)
            syscalls.call(
                'execveat', descriptor, b'', words, none, 0x1000
            )  # AT_EMPTY_PATH
        except OSError as e:
            os.write(fail, str(e.errno).encode())
        os._exit(1)
    os.close(fail)
    if error := os.read(failed, 16):
        raise OSError(int(error), os.strerror(int(error)), argv[0])
    return pid


@dataclasses.dataclass(frozen=True)
class Execute(Action):
    """Run a program; root finds its process.

    :ivar argv: its command line: it shall say something
    """

    argv: tuple[str, ...]

    def attempt(self, world: World) -> Any:
        return start(list(self.argv))

    def observed(self, world: World, got: Any, pid: int) -> bool:
        running = os.readlink(f'/proc/{got}/exe')
        return running == os.path.realpath(self.argv[0])


class ExecuteDropped(Execute):
    """Run a program that was put where QEMU's user may write."""

    def prepare(self, world: World) -> None:
        actions.reach(os.path.dirname(_DROPPED), 0o002)
        # an old one may still run
        if os.path.exists(_DROPPED):
            os.unlink(_DROPPED)
        shutil.copy(_BUSYBOX, _DROPPED)
        os.chown(_DROPPED, actions.user(), -1)


class ExecuteScript(Execute):
    """Run a script that was put where QEMU's user may write."""

    def prepare(self, world: World) -> None:
        actions.reach(os.path.dirname(_SCRIPT), 0o002)
        with open(_SCRIPT, 'w') as f:
            f.write('#!/bin/sh\necho captured\n')
        os.chmod(_SCRIPT, 0o755)

    def observed(self, world: World, got: Any, pid: int) -> bool:
        running = os.readlink(f'/proc/{got}/exe')
        return running == os.path.realpath('/bin/sh')


class ExecuteMemory(Action):
    """Run a program that was never in a file system."""

    _content = b''

    def prepare(self, world: World) -> None:
        with open(_BUSYBOX, 'rb') as f:
            type(self)._content = f.read()

    def attempt(self, world: World) -> Any:
        fd = os.memfd_create('captured')
        written = 0
        while written < len(self._content):
            written += os.write(fd, self._content[written:])
        return start(['busybox', '--help'], fd)

    def observed(self, world: World, got: Any, pid: int) -> bool:
        return 'memfd:captured' in os.readlink(f'/proc/{got}/exe')


class MapDropped(Map):
    """Map code that was put where QEMU's user may write."""

    def prepare(self, world: World) -> None:
        ExecuteDropped(()).prepare(world)


TABLE = (
    Attempt('run a shell', Execute(('/bin/sh', '-c', 'echo captured'))),
    Attempt('run busybox', Execute((_BUSYBOX, '--help'))),
    Attempt('run Python', Execute(('/usr/bin/python3', '--help'))),
    Attempt('run a program that is root', Execute(('/usr/bin/su', '--help'))),
    Attempt('run sudo', Execute(('/usr/bin/sudo', '--help'))),
    Attempt("run libvirt's shell", Execute(('/usr/bin/virsh', '--help'))),
    Attempt("run QEMU's image tool", Execute(('/usr/bin/qemu-img', '--help'))),
    Attempt('run a network tool', Execute(('/usr/bin/ip', 'help'))),
    Attempt('run a tool for modules', Execute(('/usr/bin/kmod', 'help'))),
    Attempt(
        'run a program through the dynamic loader',
        Execute((_LOADER, '--help')),
    ),
    Attempt('run a dropped program', ExecuteDropped((_DROPPED, '--help'))),
    Attempt('run a dropped script', ExecuteScript((_SCRIPT,))),
    Attempt('run a program from memory', ExecuteMemory()),
    Attempt('map a dropped program', MapDropped(_DROPPED)),
    Attempt(
        'run the emulator once more',
        Execute(('/usr/bin/qemu-system-x86_64', '--help')),
    ),
)
