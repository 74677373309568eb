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

"""What the sources of past audit records have in common.

:mod:`.auditlog`, :mod:`.journald` and :mod:`.kmsg` each read one; which of
them is asked, :mod:`.backfill` decides.
"""

from collections.abc import Iterator
import dataclasses
import re
import time
from typing import NamedTuple, Protocol

# Milliseconds before the wanted time at which reading begins. A record of a
# system call carries the time of the call's entry, and clocks are stepped.
SLACK = 300_000

# Bytes that are looked at of a line: the kernel's longest record
# (MAX_AUDIT_MESSAGE_LENGTH, 8970), what auditd adds to it, and room.
LONGEST = 64 * 1024

# Bytes of a line in the kernel's log that is surely whole: it cuts them at
# 1,024 with what it puts before them (kernel/printk).
_PRINTED = 900

# How a record begins in auditd's file. After a crash a file system may have
# filled up with zeros before it.
HEAD = rb'\0*(?:node=\S{1,255} )?type='

# The kinds that are denials or changes of policy, by auditd's names and by
# the kernel's numbers (<linux/audit.h>).
_NAMES = (
    rb'(?:AVC|USER_AVC|MAC_|SELINUX_ERR|USER_SELINUX_ERR|USER_MAC_|APPARMOR'
    rb'|UNKNOWN\[1[45]\d\d\])'
)
_NUMBERS = rb'(?:1107|1[45]\d\d)'

# Beginning with a newline it is ten times quicker than with ^.
_OURS = re.compile(rb'\n' + HEAD + _NAMES)
_FIRST = re.compile(HEAD + _NAMES)

# As the kernel's own log has it; the journal's is made to look like it.
_KERNEL = re.compile(
    rb'audit: type=\d{1,5} audit\((\d{1,11})\.(\d{3}):(\d{1,10})\):'
)
_KERNEL_OURS = re.compile(rb'audit: type=' + _NUMBERS + b' ')


@dataclasses.dataclass(frozen=True)
class Line:
    """A record as a source has it; it may be a denial.

    :ivar source: the name of the source
    :ivar boot: id of the boot it is from; None when it is not this one and
        the source does not say which
    :ivar millis: the kernel's time of it, milliseconds since 1970
    :ivar serial: the kernel's number of it
    :ivar data: ``type=… msg=audit(…): …`` of auditd, with or without
        ``node=…`` before it and its translation after 0x1d; or ``audit:
        type=… audit(…): …`` as in the kernel's log
    """

    source: str
    boot: str | None
    millis: int
    serial: int
    data: bytes


def is_cut(line: Line) -> bool:
    """Tell of a line whether the kernel may have cut it when it printed it.

    :param line: of whatever source
    :returns: whether the record may be longer elsewhere
    """
    return line.data.startswith(b'audit: ') and len(line.data) > _PRINTED


class Block(NamedTuple):
    """A part of what a source has.

    :ivar lines: those that may be denials
    :ivar serials: the numbers of all records of this boot, of any kind
    """

    lines: list[Line]
    serials: list[int]


@dataclasses.dataclass
class Window:
    """What is wanted of a source, and how much may be spent on it.

    :ivar since: milliseconds since 1970
    :ivar boot: the id of this boot
    :ivar booted: when it began, milliseconds since 1970 by today's clock
    :ivar lowest: the lowest number of this boot that is missed; None when
        it is not known what is
    :ivar room: bytes that may be read yet
    :ivar deadline: end of the time for it, of :func:`time.monotonic`
    :ivar cut: whether reading ended for want of room or time
    :ivar rebooted: whether :attr:`since` is in an earlier boot
    """

    since: int
    boot: str
    booted: int
    lowest: int | None
    room: int
    deadline: float
    cut: bool = False
    rebooted: bool = False

    def spend(self, size: int) -> bool:
        """Account for what was read.

        :param size: bytes
        :returns: whether more may be read
        """
        self.room -= size
        if self.room < 0 or time.monotonic() >= self.deadline:
            self.cut = True
        return not self.cut

    def before(self, millis: int, serial: int, this_boot: bool) -> bool:
        """Tell whether all that is wanted comes after a record.

        Of another boot the time says it, or that nothing of it is wanted. Of
        this one all is wanted after a reboot; else the number counts, too,
        because it knows of no clock, and a time from before the boot is none.

        :param millis: the kernel's time of it
        :param serial: the kernel's number of it
        :param this_boot: False when it is known to be of another boot
        :returns: False also when that cannot be told
        """
        early = millis < self.since - SLACK
        if not this_boot:
            return early or not self.rebooted
        return (
            early
            and not self.rebooted
            and millis >= self.booted
            and (self.lowest is None or serial < self.lowest)
        )


class Unavailable(Exception):
    """A source cannot be read; the text says why, and the way out."""


class Source(Protocol):
    """Where records of the past are.

    :ivar name: for people
    :ivar covers: when :meth:`blocks` has ended: whether it goes back to the
        wanted time, and leaves nothing out of itself
    :ivar interrupted: when it has ended: whether in this boot there was a
        time in which it did not listen
    """

    name: str
    covers: bool
    interrupted: bool

    def blocks(self, window: Window) -> Iterator[Block]:
        """Read it, oldest first.

        :param window: what is wanted, and how much may be spent
        :returns: all that is wanted, and more
        :raises Unavailable: when it cannot be read
        """
        ...  # pragma: no cover


def lines_of(buffer: bytes) -> Iterator[bytes]:
    """Find the lines of auditd's file that may be denials.

    :param buffer: whole lines
    :returns: those, and changes of policy, without their newline
    """
    at = 0
    if _FIRST.match(buffer) is None:
        at = _next(buffer, 0)
    while at >= 0:
        end = buffer.find(b'\n', at)
        if end < 0:
            end = len(buffer)
        yield buffer[at:end]
        at = _next(buffer, end)


def _next(buffer: bytes, at: int) -> int:
    """Find where the next such line begins; -1 when there is none."""
    match = _OURS.search(buffer, at)
    return -1 if match is None else match.start() + 1


def kernel_line(source: str, boot: str, text: bytes) -> Line | None:
    """Read a line of the kernel's log.

    :param source: the name of the source
    :param boot: id of the boot it is from
    :param text: without time and level
    :returns: the :class:`Line`, or None when it is no audit record
    """
    # Only at the beginning: drivers print names that devices choose.
    match = _KERNEL.match(text)
    if match is None:
        return None
    return Line(
        source=source,
        boot=boot,
        millis=int(match[1]) * 1000 + int(match[2]),
        serial=int(match[3]),
        data=text[:LONGEST],
    )


def block_of(line: Line, this_boot: bool) -> Block:
    """Make a block of one line of the kernel's log.

    :param line: as :func:`kernel_line` made it
    :param this_boot: whether it is of this boot
    :returns: the :class:`Block`
    """
    return Block(
        [line] if _KERNEL_OURS.match(line.data) else [],
        [line.serial] if this_boot else [],
    )
