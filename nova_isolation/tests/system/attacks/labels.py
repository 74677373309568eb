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

"""Other labels, and the policy itself."""

import dataclasses
import os
import subprocess
from typing import Any

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks.actions import Do
from nova_isolation.tests.system.attacks.attempt import Action
from nova_isolation.tests.system.attacks.attempt import Attempt
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import captured

_POLICY = '/sys/kernel/security/apparmor'


@dataclasses.dataclass(frozen=True)
class ChangeLabel(Action):
    """Ask the kernel for another label; root reads which it has.

    :ivar label: the other one; names of the world stand in braces
    :ivar command: the kernel's word for the way
    :ivar file: of /proc/PID
    """

    label: str
    command: str = 'changeprofile'
    file: str = 'self/attr/apparmor/current'

    def attempt(self, world: World) -> Any:
        fd = os.open(f'/proc/{self.file}', os.O_WRONLY)
        os.write(fd, f'{self.command} {world.fill(self.label)}'.encode())

    def observed(self, world: World, got: Any, pid: int) -> bool:
        wanted = world.fill(self.label)
        if self.command == 'exec':
            with open(f'/proc/{pid}/attr/apparmor/exec') as f:
                return f.read().strip('\n\0').startswith(wanted)
        return captured.label_of(pid) == wanted


def _ask(world: World) -> Any:
    fd = os.open(f'{_POLICY}/.access', os.O_RDWR)
    query = b'label\0%s\0\x02%s' % (
        world.neighbour.label.encode(),
        world.neighbour.disk.encode(),
    )
    os.write(fd, query)
    return os.read(fd, 4096).decode()


def _is_answer(world: World, got: Any, pid: int) -> bool:
    return bool(got == _ask(world))


def _open_policy(world: World) -> None:
    os.chmod(f'{_POLICY}/.access', 0o666)


_PROFILE = 'captured'
_COMPILED: list[bytes] = []


def _compile(world: World) -> None:
    done = subprocess.run(
        ['apparmor_parser', '-QTS'],
        input=f'profile {_PROFILE} {{ file, }}\n'.encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    _COMPILED[:] = [done.stdout]
    os.chmod(f'{_POLICY}/.load', 0o666)


def _load(world: World) -> None:
    fd = os.open(f'{_POLICY}/.load', os.O_WRONLY)
    os.write(fd, _COMPILED[0])


def _is_loaded(world: World, got: Any, pid: int) -> bool:
    return any(
        name.startswith(f'{_PROFILE}.')
        for name in os.listdir(f'{_POLICY}/policy/profiles')
    )


def _remove(world: World) -> None:
    if _is_loaded(world, None, 0):
        with open(f'{_POLICY}/.remove', 'wb', buffering=0) as f:
            f.write(_PROFILE.encode())


TABLE = (
    Attempt('leave confinement', ChangeLabel('unconfined')),
    Attempt(
        'leave confinement by the older name',
        ChangeLabel('unconfined', file='self/attr/current'),
    ),
    Attempt(
        'leave confinement as a thread',
        ChangeLabel('unconfined', file='thread-self/attr/apparmor/current'),
    ),
    Attempt(
        'leave confinement at the next exec',
        ChangeLabel(
            'unconfined', command='exec', file='self/attr/apparmor/exec'
        ),
    ),
    Attempt("take a neighbour's label", ChangeLabel('{neighbour.label}')),
    Attempt(
        "take a neighbour's label at the next exec",
        ChangeLabel(
            '{neighbour.label}',
            command='exec',
            file='self/attr/apparmor/exec',
        ),
    ),
    Attempt("take libvirtd's label", ChangeLabel('libvirtd')),
    Attempt(
        'ask the kernel what a neighbour may reach',
        Do(_ask, _is_answer, _open_policy),
    ),
    Attempt(
        'load a profile into the kernel',
        Do(_load, _is_loaded, _compile, _remove),
        ('mac_admin',),
    ),
    Attempt(
        'list the loaded profiles',
        actions.List(f'{_POLICY}/policy/profiles'),
    ),
)
