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

"""What a guest needs: denying all of it would be no protection."""

import ctypes
import errno
import os
from typing import Any

from nova_isolation.tests.system.attacks.actions import Do
from nova_isolation.tests.system.attacks.actions import Lock
from nova_isolation.tests.system.attacks.actions import Map
from nova_isolation.tests.system.attacks.actions import Open
from nova_isolation.tests.system.attacks.actions import OpenNode
from nova_isolation.tests.system.attacks.actions import Read
from nova_isolation.tests.system.attacks.actions import Write
from nova_isolation.tests.system.attacks.attempt import Attempt
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import syscalls


def _translate(world: World) -> Any:
    # what an emulator does that translates code
    syscalls.LIBC.mmap.restype = ctypes.c_void_p
    address = syscalls.LIBC.mmap(None, 4096, 3, 0x22, -1, 0)
    if syscalls.LIBC.mprotect(ctypes.c_void_p(address), 4096, 5):
        raise OSError(errno.EACCES, 'mprotect')
    return address


def _is_translated(world: World, got: Any, pid: int) -> bool:
    with open(f'/proc/{pid}/maps') as f:
        for line in f:
            start, _, end = line.split()[0].partition('-')
            if int(start, 16) <= got < int(end, 16):
                return ' r-xp ' in line
    return False


TABLE = (
    Attempt("read one's own disk", Read('{own.disk}')),
    Attempt("write one's own disk", Write('{own.disk}')),
    Attempt("lock one's own disk", Lock('{own.disk}')),
    Attempt('read the image behind it', Read('{base}')),
    Attempt("read one's own hot-plugged disk", Read('{own.plugged}')),
    Attempt(
        "open one's own hot-plugged disk for writing",
        OpenNode('{own.plugged}', block=True),
    ),
    Attempt("lock one's own hot-plugged disk", Lock('{own.plugged}')),
    Attempt("open one's own console", Open('{own.pty}')),
    Attempt('open a new pseudo terminal', Open('/dev/ptmx')),
    Attempt('throw output away', OpenNode('/dev/null')),
    Attempt('read random numbers', Open('/dev/urandom', os.O_RDONLY)),
    Attempt(
        'map a shared library', Map('/usr/lib/x86_64-linux-gnu/libc.so.6')
    ),
    Attempt('execute translated code', Do(_translate, _is_translated)),
    Attempt('load firmware', Read('/usr/share/seabios/bios-256k.bin')),
)
