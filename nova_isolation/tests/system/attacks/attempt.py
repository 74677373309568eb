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

"""What an attempt is: whose process does it, what it does, what it comes to.

An :class:`Action` is done by hostile code and looked at from outside::

    prepare   as root, before
    attempt   as the captured process; returns what it got out of it
    observed  as root, while that process still lives: whether it succeeded
    restore   as root, after

An OSError of ``attempt`` is the kernel's refusal. What it returns is a claim
only: ``observed`` compares it with what root sees.
"""

from collections.abc import Mapping
import dataclasses
import enum
from typing import Any


@dataclasses.dataclass(frozen=True)
class Guest:
    """A guest on the compute node.

    :ivar uuid: its domain's
    :ivar name: libvirt's name of it
    :ivar id: libvirt's number of it
    :ivar pid: of its QEMU
    :ivar directory: of its disks, without a slash at the end
    :ivar pty: its console, ``/dev/pts/N``
    :ivar vnc: the port of its VNC server
    :ivar label: AppArmor's label of its QEMU, ``unconfined`` for none
    :ivar plugged: the block device that was plugged into it, '' for none
    """

    uuid: str
    name: str
    id: int
    pid: int
    directory: str
    pty: str
    vnc: int
    label: str
    plugged: str

    @property
    def disk(self) -> str:
        return f'{self.directory}/disk'

    @property
    def state(self) -> str:
        """The directory in which libvirt keeps the running guest's state."""
        return f'/var/lib/libvirt/qemu/domain-{self.id}-{self.name[:20]}'


@dataclasses.dataclass(frozen=True)
class World:
    """What an attempt is aimed at.

    :ivar own: the guest whose process is captured
    :ivar neighbour: another tenant's guest
    :ivar base: the image in the cache that is behind both
    :ivar unplugged: the block device that ``own`` had, and has no longer
    :ivar tcp: port of a TCP listener on 127.0.0.1 and ::1
    :ivar udp: port of a UDP receiver on 127.0.0.1
    :ivar labels: of the stand-ins: ``neighbour`` has the neighbour's,
        ``libvirtd`` libvirtd's, ``host`` none
    :ivar processes: their pids, and those of real processes
    """

    own: Guest
    neighbour: Guest
    base: str
    unplugged: str
    tcp: int
    udp: int
    labels: Mapping[str, str | None]
    processes: dict[str, int]

    def fill(self, text: str) -> str:
        """Put the names of this world into a text.

        :param text: with ``{neighbour.disk}`` and such
        :returns: the text
        """
        return text.format(
            own=self.own,
            neighbour=self.neighbour,
            base=self.base,
            unplugged=self.unplugged,
            tcp=self.tcp,
            udp=self.udp,
            pid=self.processes,
        )


class Action:
    """Something that a captured process does: see above."""

    def prepare(self, world: World) -> None:
        """Make what the action needs.

        :param world: what it is aimed at
        """

    def attempt(self, world: World) -> Any:
        """Do it, as the captured process.

        :param world: what it is aimed at
        :returns: what it got, as JSON has it
        :raises OSError: when the kernel refuses
        """
        raise NotImplementedError

    def observed(self, world: World, got: Any, pid: int) -> bool:
        """Tell whether it really happened.

        :param world: what it is aimed at
        :param got: what :meth:`attempt` returned
        :param pid: of the process that did it, which waits
        :returns: whether it did
        """
        raise NotImplementedError

    def restore(self, world: World) -> None:
        """Undo it.

        :param world: what it is aimed at
        """


class Why(enum.Enum):
    """Why no profile can deny something that a guest does not need."""

    NO_HOOK = 'AppArmor does not look at it'
    ATTRIBUTES = 'AppArmor does not look at attributes'
    IPC = 'AppArmor does not look at what System V shares'
    KEYS = 'AppArmor does not look at keys'
    LISTEN = 'a right to listen, for VNC, is one for every port and address'
    CONNECT = 'to listen, for VNC, and to connect are one rule of this parser'
    UNIX = 'the monitor and other unix sockets are one rule of this parser'
    USER_NAMESPACE = 'this parser has no rule for user namespaces'
    DELEGATED = (
        'what an unconfined process opened may be used by whom it gave it to'
    )


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A row of a table.

    :ivar name: what is tried, in words; unique
    :ivar action: how
    :ivar capabilities: what QEMU's user is left with, in the control too: as
        where libvirt is told not to clear them
    :ivar why: the reason, where it is found to be allowed under the least
        profile too
    """

    name: str
    action: Action
    capabilities: tuple[str, ...] = ()
    why: Why | None = None
