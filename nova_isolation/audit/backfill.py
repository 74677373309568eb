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

"""What the kernel recorded while nobody listened.

Sources are asked in the order of what they can be trusted to have, until one
is known to have all:

1. auditd's file (:mod:`.auditlog`),
2. journald, what it heard of the audit (:mod:`.journald`),
3. journald, what the kernel printed to its log,
4. the kernel's log itself (:mod:`.kmsg`).

What no source has is to be announced as lost: see :attr:`Reading.complete`.
"""

from collections.abc import Callable, Iterable, Iterator
import time

from oslo_log import log

from nova_isolation.audit import auditlog
from nova_isolation.audit import journald
from nova_isolation.audit import kmsg
from nova_isolation.audit import lines
from nova_isolation.audit import serials

LOG = log.getLogger(__name__)

# Ranges of numbers that are remembered of a reading. A source that has not
# even every second number of more is not one to rely on.
_RANGES = 65536

_GIGABYTE = 1024**3


class Backfill:
    """Reads records of the past."""

    def __init__(
        self,
        audit_log: str,
        journalctl: str = '/usr/bin/journalctl',
        kernel_log: str = kmsg.PATH,
    ) -> None:
        """Take where the sources are.

        :param audit_log: path of auditd's file (``[isolation] audit_log``);
            empty: none
        :param journalctl: path of the program; empty: none
        :param kernel_log: path of the device; empty: none
        """
        self._audit_log = audit_log
        self._journalctl = journalctl
        self._kernel_log = kernel_log

    def read(
        self,
        since_millis: int,
        is_wanted: Callable[[int, int], bool],
        missing: Iterable[range] = (),
        *,
        rebooted: bool = False,
        limit: int = _GIGABYTE,
        seconds: float = 30.0,
    ) -> 'Reading':
        """Read what may be denials since a time.

        The socket should be open before, so that nothing falls between the
        two. What happens meanwhile may come from both.

        :param since_millis: milliseconds since 1970: the kernel's time of the
            last record that was handled
        :param is_wanted: ``(milliseconds, serial number) -> bool``, asked of
            records of this boot: :meth:`.serials.Serials.is_new`. It must not
            change while this reads, because an event may have several records.
            What is of other boots is given only after a reboot
        :param missing: numbers of this boot, 32 bits, that were not heard
            (:attr:`.serials.Serials.missing`). They are the proof: with them
            the reading is complete when it found each of them; without them
            it relies on what the sources say of themselves
        :param rebooted: whether that time is in an earlier boot: all that was
            recorded since is given, of that boot and the ones after it
        :param limit: bytes to read at most; the oldest are left out
        :param seconds: for all of it
        :returns: the :class:`Reading`, to be iterated over once
        """
        sources: list[lines.Source] = []
        if self._audit_log:
            sources.append(auditlog.AuditLog(self._audit_log))
        if self._journalctl:
            sources += [
                journald.Journal('audit', self._journalctl),
                journald.Journal('kernel', self._journalctl),
            ]
        if self._kernel_log:
            sources.append(kmsg.Kmsg(self._kernel_log))
        wanted = serials.Numbers(missing, _RANGES)
        window = lines.Window(
            since=since_millis,
            boot=boot_id(),
            booted=boot_time() * 1000,
            lowest=next(iter(wanted)).start if wanted else None,
            room=limit,
            deadline=time.monotonic() + seconds,
            rebooted=rebooted,
        )
        return Reading(sources, window, is_wanted, wanted)


class Reading:
    """The records that sources have.

    The attributes hold when the iteration has ended.

    :ivar sources: names of the sources that were read
    :ivar complete: whether surely nothing is missing. With ``missing``: each
        of them was found; what of an earlier boot is wanted, the source says
        that it has. Else something may have been lost
    """

    def __init__(
        self,
        sources: Iterable[lines.Source],
        window: lines.Window,
        is_wanted: Callable[[int, int], bool],
        missing: serials.Numbers,
    ) -> None:
        """Take what is to be read.

        :param sources: in the order of preference
        :param window: what is wanted, and how much may be spent
        :param is_wanted: as for :meth:`Backfill.read`
        :param missing: what has to be found; it is emptied
        """
        self.sources: tuple[str, ...] = ()
        self.complete = False
        self._candidates = sources
        self._window = window
        self._is_wanted = is_wanted
        self._proof = bool(missing)
        self._missing = missing
        self._found = serials.Numbers((), _RANGES)
        self._covered = False

    @property
    def found(self) -> tuple[range, ...]:
        """The numbers of all records of this boot that were read.

        Of any kind; for :meth:`.serials.Serials.found`.
        """
        return tuple(self._found)

    def __iter__(self) -> Iterator[lines.Line]:
        """Read, oldest first within a source.

        :returns: the lines that are wanted
        """
        count = 0
        for source in self._candidates:
            numbers = serials.Numbers((), _RANGES)
            try:
                for block in source.blocks(self._window):
                    for each in serials.ranges_of(block.serials):
                        numbers.add(each.start, each.stop)
                    for line in block.lines:
                        if self._wants(line):
                            count += 1
                            yield line
            except lines.Unavailable as e:
                LOG.info('No audit records of the past from there: %s', e)
            else:
                self.sources += (source.name,)
                self._covered = self._covered or source.covers
            # not before its end: an event may have several records
            self._note(numbers)
            self.complete = self._has_all(source)
            if self.complete or self._window.cut:
                break
        LOG.info(
            '%(count)d records of the past from %(sources)s, %(complete)s',
            {
                'count': count,
                'sources': ', '.join(self.sources) or 'nowhere',
                'complete': 'complete'
                if self.complete
                else 'perhaps not all that there were',
            },
        )

    def _wants(self, line: lines.Line) -> bool:
        """Tell whether to give a line."""
        if line.boot != self._window.boot:
            return (
                self._window.rebooted
                and line.millis >= self._window.since - lines.SLACK
            )
        # a source before had the event, and perhaps more of it
        return line.serial not in self._found and self._is_wanted(
            line.millis, line.serial
        )

    def _note(self, numbers: Iterable[range]) -> None:
        """Take note of what a source had, when it was read."""
        for each in numbers:
            self._found.add(each.start, each.stop)
            self._missing.remove(each.start, each.stop)

    def _has_all(self, source: lines.Source) -> bool:
        """Tell whether the sources so far have all that is wanted."""
        if self._window.cut or self._missing:
            return False
        if not self._proof:
            return source.covers and not source.interrupted
        return self._covered or not self._window.rebooted


def boot_id() -> str:
    """Read the id of this boot.

    :returns: 36 characters, as ``/proc/sys/kernel/random/boot_id`` has them
    """
    with open('/proc/sys/kernel/random/boot_id') as file:
        return file.read().strip()


def boot_time() -> int:
    """Tell when this boot began, by today's clock.

    A clock that is set moves it.

    :returns: seconds since 1970
    :raises RuntimeError: when /proc/stat does not say it
    """
    with open('/proc/stat') as file:
        for line in file:
            name, _, value = line.partition(' ')
            if name == 'btime':
                return int(value)
    raise RuntimeError('/proc/stat has no btime')
