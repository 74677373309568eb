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

"""Which of the kernel's audit events were heard, by their serial numbers.

What the number is (kernel/audit.c and auditsc.c, Linux 4.10 to 7.2):

* It begins with 1 at each boot, grows by one with each event, and is 32 bits
  wide: after 2**32 events it begins again with 0. All records of one system
  call share it.
* It is taken when the first record of an event is begun
  (``audit_log_start``), after the exclude filter and the backlog limit were
  asked, and that record is queued when it is complete. So several CPUs bring
  records out of order by some microseconds, and nothing that the kernel
  decides not to record takes a number.
* Every kind of record with a number goes to the multicast group, in the order
  of the queue, whether auditd runs or not.

So a **gap** that does not close within a second is an event of which no record
arrived. These can be the reasons:

* this socket was full (ENOBUFS; :meth:`~.netlink.AuditSocket.dropped` counts
  the records),
* ``auditctl -r``: the record was above the rate limit. The kernel counts it
  in ``lost``, too, and neither auditd nor the kernel's log have it,
* the kernel had no memory to copy the record for the group. Nobody counts
  that, but auditd or the kernel's log have the record.

It does **not** say what event that was: it may have been a login as well as a
denial. Unless a source of :mod:`~nova_isolation.audit.backfill` has it, a
denial *may* have been lost.

**No gap** is no proof either:

* When too many records wait in the kernel (``backlog_limit``), a denial is
  dropped before it takes a number; only ``lost`` tells.
* Of an event with several records one can be missing. After an overrun the
  end of an event may arrive without its beginning: :meth:`Serials.overrun`
  takes care of that.
* auditd's own lines (``type=DAEMON_…``) have numbers of another series.
  Whoever reads a file must not give them to this.
"""

import bisect
import collections
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_BITS = 32
_ALL = 1 << _BITS
_HALF = _ALL >> 1

# Seconds after which a number that did not come does not come any more. A
# record is queued some microseconds after it took its number; but its task
# may have to wait for the CPU, or for memory, in between.
PATIENCE = 1.5

# How many separate gaps are remembered: 100 bytes each.
_GAPS = 4096

# Kinds that the kernel writes when a system call ends, after what it is about
# (audit_log_exit; <linux/audit.h>).
_ENDS = frozenset(
    (
        1300,  # SYSCALL
        1302,  # PATH
        1303,  # IPC
        1304,  # SOCKETCALL
        1306,  # SOCKADDR
        1307,  # CWD
        1309,  # EXECVE
        1311,  # IPC_SET_PERM
        1312,  # MQ_OPEN
        1313,  # MQ_SENDRECV
        1314,  # MQ_NOTIFY
        1315,  # MQ_GETSETATTR
        1317,  # FD_PAIR
        1318,  # OBJ_PID
        1320,  # EOE
        1321,  # BPRM_FCAPS
        1322,  # CAPSET
        1323,  # MMAP
        1327,  # PROCTITLE
        1336,  # URINGOP
        1337,  # OPENAT2
    )
)


class Numbers:
    """A set of whole numbers, kept as ranges.

    :ivar forgotten: how many numbers it had to let go, the smallest first,
        because there were too many ranges
    """

    def __init__(
        self, ranges: Iterable[range] = (), limit: int = _GAPS
    ) -> None:
        """Begin with some numbers.

        :param ranges: them
        :param limit: how many ranges to keep at most
        """
        # ends[i] <= starts[i + 1] - 1: neighbours are joined
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._limit = limit
        self.forgotten = 0
        for each in ranges:
            self.add(each.start, each.stop)

    def __contains__(self, number: int) -> bool:
        i = bisect.bisect_right(self._starts, number) - 1
        return i >= 0 and number < self._ends[i]

    def __iter__(self) -> Iterator[range]:
        """Give the ranges, in order."""
        return map(range, self._starts, self._ends)

    def __len__(self) -> int:
        """Count the numbers."""
        return sum(self._ends) - sum(self._starts)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def add(self, start: int, stop: int) -> None:
        """Add the numbers from ``start`` to before ``stop``."""
        if stop <= start:
            return
        i = bisect.bisect_left(self._ends, start)
        j = bisect.bisect_right(self._starts, stop)
        if i < j:
            start = min(start, self._starts[i])
            stop = max(stop, self._ends[j - 1])
        self._starts[i:j] = [start]
        self._ends[i:j] = [stop]
        if len(self._starts) > self._limit:
            self.forgotten += self._ends.pop(0) - self._starts.pop(0)

    def remove(self, start: int, stop: int) -> int:
        """Take the numbers from ``start`` to before ``stop`` away.

        :returns: how many of them were there
        """
        i = bisect.bisect_right(self._ends, start)
        j = bisect.bisect_left(self._starts, stop)
        if i >= j or stop <= start:
            return 0
        removed = sum(self._ends[i:j]) - sum(self._starts[i:j])
        left, right = self._starts[i], self._ends[j - 1]
        rest = [(left, start)] if left < start else []
        if stop < right:
            rest.append((stop, right))
        self._starts[i:j] = [each[0] for each in rest]
        self._ends[i:j] = [each[1] for each in rest]
        removed -= sum(each[1] - each[0] for each in rest)
        if len(self._starts) > self._limit:
            self.forgotten += self._ends.pop(0) - self._starts.pop(0)
        return removed


def ranges_of(numbers: Iterable[int]) -> Iterator[range]:
    """Join numbers to ranges.

    :param numbers: in any order, also twice
    :returns: the ranges, in order
    """
    start = stop = None
    for number in sorted(set(numbers)):
        if start is None or stop is None:
            start = number
        elif number != stop:
            yield range(start, stop)
            start = number
        stop = number + 1
    if start is not None and stop is not None:
        yield range(start, stop)


def is_ahead(serial: int, other: int) -> bool:
    """Tell whether a number comes after another one, as far as can be told.

    :param serial: a 32-bit number
    :param other: likewise
    :returns: True also when they are the same
    """
    return (serial - other) % _ALL < _HALF


class Serials:
    """The serial numbers of one boot: what was heard, and what is missing.

    Its size has a limit: a gap of a million takes as much as one of 1, and of
    more than 4,096 gaps the oldest are given up and counted by
    :meth:`settle`. One thread uses it.

    :ivar boot: the boot whose numbers these are
    """

    def __init__(
        self,
        boot: str,
        highest: int | None = None,
        missing: Iterable[range] = (),
    ) -> None:
        """Begin.

        :param boot: the boot's id (:func:`.backfill.boot_id`)
        :param highest: the last number that was heard; 0 when nothing of this
            boot was, but should have been; None when what was before does not
            matter (the agent was never here before)
        :param missing: numbers below it that were not heard
        """
        self.boot = boot
        # Beyond 32 bits, so that it only grows: what a number means is seen
        # from the last one.
        self._highest = highest
        self._missing = Numbers(missing)
        self._given_up = 0
        # [(when, highest then)]: what is missing below it was missing then
        self._marks: collections.deque[tuple[float, int]] = collections.deque()
        if highest is not None and self._missing:
            self._marks.append((float('-inf'), highest))
        self._doubt_until = float('-inf')

    @property
    def highest(self) -> int | None:
        """The highest number heard, 32 bits; None before the first."""
        return None if self._highest is None else self._highest % _ALL

    @property
    def missing(self) -> tuple[range, ...]:
        """What was not heard, as 32-bit numbers: ``(range, …)``."""
        return tuple(
            part for each in self._missing for part in _within_bits(each)
        )

    def see(self, serial: int, now: float, kind: int = 0) -> None:
        """Take note that a record was heard.

        :param serial: its number
        :param now: seconds of a clock that never goes back
        :param kind: its numeric type, which only matters after an overrun
        """
        if self._highest is None:
            self._highest = serial
            return
        ahead = (serial - self._highest) % _ALL
        if now < self._doubt_until and kind in _ENDS:
            if 0 < ahead < _HALF:
                self._jump(ahead, now)
                self._missing.add(self._highest, self._highest + 1)
        elif ahead == 1:
            self._highest += 1
        elif ahead >= _HALF:
            number = self._highest + ahead - _ALL
            if self._missing:
                self._missing.remove(number, number + 1)
        elif ahead:
            self._jump(ahead, now)

    def _jump(self, ahead: int, now: float) -> None:
        """Go to a number that is not the next one, perhaps."""
        assert self._highest is not None
        before = self._highest
        self._highest = before + ahead
        self._missing.add(before + 1, self._highest)
        # Few marks are enough: a gap waits a quarter longer than it need.
        if self._marks and now < self._marks[-1][0]:
            self._marks[-1] = (self._marks[-1][0], self._highest)
        else:
            self._marks.append((now + PATIENCE / 4, self._highest))

    def overrun(self, now: float) -> None:
        """Take note that the socket dropped records.

        For a while the end of an event (``type=SYSCALL``, ``PATH`` …) is then
        no proof that its beginning was heard: the event counts as missing
        until a source has shown it or it is settled.

        :param now: as for :meth:`see`
        """
        self._doubt_until = now + PATIENCE

    def is_new(self, serial: int) -> bool:
        """Tell whether an event that another source has was not heard.

        While a source is read this must not change: an event may have several
        denials with one number. Call :meth:`see` and :meth:`found`
        afterwards.

        :param serial: its number
        :returns: True when it is missing or higher than all
        """
        if self._highest is None:
            return True
        ahead = (serial - self._highest) % _ALL
        if ahead == 0:
            return self._highest in self._missing
        if ahead < _HALF:
            return True
        return self._highest + ahead - _ALL in self._missing

    def found(self, ranges: Iterable[range], now: float) -> None:
        """Take note that other sources had these events.

        :param ranges: their numbers, 32 bits: all that the source has, of
            whatever kind; each was handled when it was a denial
        :param now: as for :meth:`see`
        """
        for each in ranges:
            if not each:
                continue
            if self._highest is None:
                self._highest = each[-1]
                continue
            ahead = (each.start - self._highest) % _ALL
            start = self._highest + ahead - (_ALL if ahead >= _HALF else 0)
            stop = start + len(each)
            if start > self._highest + 1:
                self._jump(start - self._highest, now)
            self._highest = max(self._highest, stop - 1)
            self._missing.remove(start, stop)

    def expired(self, now: float) -> int:
        """Count the events that do not come any more.

        :param now: as for :meth:`see`
        :returns: how many are missing for longer than records come out of
            order. It is time to ask other sources for them
        """
        below = self._due(now)
        return (
            self._given_up
            + self._missing.forgotten
            + sum(
                max(0, min(each.stop, below) - each.start)
                for each in self._missing
            )
        )

    def settle(self, now: float) -> int:
        """Give up what does not come any more.

        :param now: as for :meth:`see`
        :returns: how many events may have been lost, for the ledger
        """
        below = self._due(now)
        count = self.expired(now)
        for each in tuple(self._missing):
            self._missing.remove(each.start, min(each.stop, below))
        self._given_up = self._missing.forgotten = 0
        while self._marks and self._marks[0][1] <= below:
            self._marks.popleft()
        return count

    def _due(self, now: float) -> int:
        """Tell below which number what is missing does not come."""
        below = -_ALL
        for when, highest in self._marks:
            if now < when + PATIENCE:
                break
            below = highest + 1
        return below

    def state(self) -> dict[str, Any]:
        """Give what :meth:`restored` needs.

        :returns: what JSON can hold
        """
        return {
            'boot': self.boot,
            'highest': self._highest,
            'missing': [[each.start, each.stop] for each in self._missing],
            'given_up': self._given_up + self._missing.forgotten,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any] | None, boot: str) -> 'Serials':
        """Go on where an earlier run of the agent ended.

        All that it did not hear is missing, and due at once.

        :param state: what :meth:`state` gave it; None when there was none
        :param boot: the id of this boot. If it is another one than the
            state's, all its events are missing; what of the other boot was
            missing, :meth:`settle` of ``restored(state, state['boot'])`` tells
        :returns: the numbers
        :raises ValueError: when the state is damaged
        """
        if state is None:
            return cls(boot)
        try:
            if state['boot'] != boot:
                return cls(boot, 0)
            highest, given_up = state['highest'], state['given_up']
            missing = [range(start, stop) for start, stop in state['missing']]
            if not (
                isinstance(highest, int | None)
                and isinstance(given_up, int)
                and all(highest is not None and each for each in missing)
                and all(each.stop - 1 <= (highest or 0) for each in missing)
            ):
                raise ValueError
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError(
                f'the state of the serial numbers is damaged: {state!r:.200}'
            ) from e
        serials = cls(boot, highest, missing)
        serials._given_up = given_up
        return serials


def _within_bits(numbers: range) -> Iterator[range]:
    """Write numbers with 32 bits, in two parts when they cross the end."""
    start = numbers.start % _ALL
    stop = start + min(len(numbers), _ALL)
    yield range(start, min(stop, _ALL))
    if stop > _ALL:
        yield range(stop - _ALL)
