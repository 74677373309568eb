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

"""Sums up what a guest repeats: a flood costs little and hides nothing.

The first event of a kind is reported at once and opens a window; what follows
of that kind in the window is only counted, and told in one event when the
window ends. A captured guest chooses the names that it tries, so the open
windows of a guest are limited: what is beyond falls into one window more, its
overflow, which counts, estimates the number of kinds and keeps some of them.
No guest has a share in another one's windows.

Pure: times are given, and what has to be kept is given away as plain data. One
thread uses it, in turns::

    window = coalescer.add(…)           # for each denial of a batch
    if window is not None:
        event = …                       # with repeats=window.opening(time)
        window.id = event.id
    ended = coalescer.due(now)          # events of these: summary()
    journal.commit(events, coalescer.changes(), …)
    coalescer.committed()               # not when the commit failed

When a commit fails, the events of ``ended`` are thrown away: the windows stay
open, count on, and :meth:`Coalescer.due` names them again.
"""

import bisect
import collections
from collections.abc import Mapping
import datetime
import hashlib
import math
import os
from typing import Any
import uuid

from nova_isolation.violations import model

#: an open window as the journal keeps it: JSON types
Row = dict[str, Any]

# Windows of all guests; a window has some 300 bytes. When there are more, a
# guest opens one only while it has fewer than its share.
_MANY = 50_000
_SHARE = 8
#: windows that are told in one turn: each makes an event of some 3 KB. A turn
#: must not open more than it can end
AT_ONCE = 500

# Of the kinds in an overflow those with the smallest hashes are kept: a fair
# sample of all, whoever was first, and their density tells how many there are.
_HASHES = 64
_SAMPLES = 8
_SAMPLE = 200
# The estimate's relative standard error is 1/sqrt(_HASHES - 2); three of them
# below it "at least" is true.
_SURELY = 1 - 3 / math.sqrt(_HASHES - 2)
_ALL_HASHES = 2.0**64


class _Guest:
    """How many windows a guest has open, in one lane."""

    __slots__ = ('lane', 'open', 'overflow', 'uuid')

    def __init__(self, uuid: str, lane: str) -> None:
        self.uuid = uuid
        self.lane = lane
        self.open = 0
        self.overflow: Overflow | None = None


class Window:
    """A kind whose first event is reported and whose repeats are counted.

    :ivar instance: the guest's uuid
    :ivar id: of the first event; the caller writes it
    :ivar count: of the repeats, without the first
    """

    # there are many of them
    __slots__ = ('_guest', '_id', '_key', 'count', 'ends', 'first', 'last')

    def __init__(self, guest: _Guest, key: bytes, ends: float) -> None:
        self._guest = guest
        self._key = key
        self._id = b''
        self.ends = ends
        self.count = 0
        self.first: datetime.datetime | None = None
        self.last: datetime.datetime | None = None

    @property
    def instance(self) -> str:
        """The guest's uuid."""
        return self._guest.uuid

    @property
    def id(self) -> str:
        """The id of the first event, '' before the caller has written it."""
        if not self._id:
            return ''
        # uuid.UUID takes three times as long
        digits = self._id.hex()
        return '-'.join(
            (
                digits[:8],
                digits[8:12],
                digits[12:16],
                digits[16:20],
                digits[20:],
            )
        )

    @id.setter
    def id(self, value: str) -> None:
        self._id = uuid.UUID(value).bytes

    @property
    def kinds(self) -> int:
        """How many kinds are folded into it: 0, it is one."""
        return 0

    @property
    def samples(self) -> tuple[str, ...]:
        """Of many kinds some, in words."""
        return ()

    def opening(self, time: datetime.datetime) -> model.Repeats:
        """Tell how the event that opens it counts.

        :param time: the kernel's
        :returns: the event's ``repeats``
        """
        return model.Repeats(1, time, time)

    def repeats(self) -> model.Repeats:
        """Tell what it has counted.

        :returns: the ``repeats`` of its event at the end
        """
        assert self.first is not None and self.last is not None
        return model.Repeats(
            self.count,
            self.first,
            self.last,
            of=self.id,
            kinds=self.kinds,
            samples=self.samples,
        )

    def row(self) -> Row:
        """Write down what a later agent has to know to report it.

        :returns: what :meth:`Coalescer.restore` reads
        """
        assert self.first is not None and self.last is not None
        return {
            'instance': self.instance,
            'count': self.count,
            # seconds since the epoch
            'first': self.first.timestamp(),
            'last': self.last.timestamp(),
            'kinds': self.kinds,
            'samples': list(self.samples),
        }

    def _count(self, time: datetime.datetime) -> None:
        self.count += 1
        # kernels number events before they stamp them, and clocks step back
        if self.first is None or time < self.first:
            self.first = time
        if self.last is None or time > self.last:
            self.last = time


class Overflow(Window):
    """Takes what a guest tries when it has all its windows open."""

    __slots__ = ('_hashes', '_samples')

    def __init__(self, guest: _Guest, ends: float) -> None:
        super().__init__(guest, b'', ends)
        self._hashes: list[int] = []
        self._samples: list[str] = []

    @property
    def kinds(self) -> int:
        """How many kinds are folded into it at least."""
        if len(self._hashes) < _HASHES:
            return max(1, len(self._hashes))
        density = (self._hashes[-1] + 1) / _ALL_HASHES
        return max(_HASHES, int((_HASHES - 1) / density * _SURELY))

    @property
    def samples(self) -> tuple[str, ...]:
        """Of these kinds some, in words."""
        return tuple(self._samples)

    def opening(self, time: datetime.datetime) -> model.Repeats:
        """Tell how the event that opens it counts.

        :param time: the kernel's
        :returns: the event's ``repeats``: of a kind that is not counted alone
        """
        return model.Repeats(1, time, time, kinds=1)

    def _sample(self, key: bytes, fingerprint: tuple[object, ...]) -> None:
        number = int.from_bytes(key)
        at = bisect.bisect_left(self._hashes, number)
        if at >= _HASHES or self._hashes[at : at + 1] == [number]:
            return
        self._hashes.insert(at, number)
        del self._hashes[_HASHES:]
        if at < _SAMPLES:
            words = ' '.join(
                str(part) for part in fingerprint if part not in (None, '')
            )
            self._samples.insert(at, words[:_SAMPLE])
            del self._samples[_SAMPLES:]


class _Restored(Window):
    """What another agent has counted; nothing is added to it."""

    __slots__ = ('_kinds', '_samples')

    def __init__(self, identity: str, row: Mapping[str, Any]) -> None:
        super().__init__(_Guest(str(row['instance']), ''), b'', float('-inf'))
        self.id = identity
        self.count = int(row['count'])
        self.first = model.utc(row['first'])
        self.last = model.utc(row['last'])
        self._kinds = int(row['kinds'])
        self._samples = tuple(str(sample) for sample in row['samples'])
        if self.count < 1:
            raise ValueError('nothing was counted')

    @property
    def kinds(self) -> int:
        return self._kinds

    @property
    def samples(self) -> tuple[str, ...]:
        return self._samples


class Coalescer:
    """Knows what was reported a short while ago."""

    def __init__(
        self, window: float, kinds: int, *, key: bytes | None = None
    ) -> None:
        """Begin with nothing.

        :param window: seconds for which repeats are summed up
        :param kinds: how many windows a guest may have open
        :param key: of the hash that tells kinds apart: a guest that knew it
            could hide one kind behind another; by default a random one
        """
        self._window = window
        self._kinds = kinds
        self._hash = hashlib.blake2b(
            key=os.urandom(16) if key is None else key, digest_size=8
        )
        self._guests: dict[tuple[str, str], _Guest] = {}
        self._windows: dict[bytes, Window] = {}
        # all have the same length: those that end first are at the left
        self._order: collections.deque[Window] = collections.deque()
        self._changed: dict[Window, None] = {}
        # ended, told by due(), and open until their event is on the disk
        self._ended: list[Window] = []
        self._told = False

    def __len__(self) -> int:
        """Count the open windows."""
        return len(self._order) + len(self._ended)

    def add(
        self,
        instance: str,
        fingerprint: tuple[object, ...],
        now: float,
        time: datetime.datetime,
        lane: str = '',
    ) -> Window | None:
        """Tell whether a denial is to be reported, else count it.

        :param instance: the guest's uuid
        :param fingerprint: what makes a kind: operation, class, target,
            access; texts, numbers and None. Shown as a sample in that order
        :param now: a monotonic clock's seconds
        :param time: the kernel's
        :param lane: one of a few words, e.g. the severity: a guest has its
            windows in each, so that its noise in one hides nothing in another
        :returns: None when it is counted and nothing is to be done. Else the
            window that it opens: it is to be reported at once, with the
            window's :meth:`~Window.opening`, and the event's id written into
            ``window.id``; until that is done, the kind counts as new
        """
        self._told = False
        guest = self._guests.get((instance, lane))
        if guest is None:
            guest = _Guest(instance, lane)
            self._guests[instance, lane] = guest
        key = self._key(guest, fingerprint)
        window = self._windows.get(key)
        if window is None:
            if self._may_open(guest):
                return self._open(guest, key, now)
            window = guest.overflow
            if window is None:
                return self._overflow(guest, now)
        if not window._id:
            return window
        window._count(time)
        if isinstance(window, Overflow):
            window._sample(key, fingerprint)
        self._changed[window] = None
        return None

    def due(self, now: float) -> list[Window]:
        """Find the windows that have ended with repeats in them.

        Those that ended without are forgotten. When there are too many
        windows, the oldest end before their time.

        :param now: a monotonic clock's seconds
        :returns: of which a :func:`summary` each is to be reported, and
            committed together with :meth:`changes`; when there are many, the
            others come next time
        """
        while (
            len(self._ended) < AT_ONCE
            and self._order
            and (self._order[0].ends <= now or len(self._order) > 2 * _MANY)
        ):
            window = self._order.popleft()
            if window.count:
                self._ended.append(window)
            else:
                self._forget(window)
        self._told = True
        return list(self._ended)

    def changes(self) -> dict[str, Row | None]:
        """Tell what has changed since the last :meth:`committed`.

        :returns: of each changed window what the journal has to keep by the
            first event's id; None where it has nothing to keep any more
        """
        changed: dict[str, Row | None] = {
            window.id: window.row() for window in self._changed
        }
        if self._told:
            changed.update((window.id, None) for window in self._ended)
        return changed

    def committed(self) -> None:
        """Note that the changes, and the events of what was due, are kept."""
        self._changed.clear()
        if self._told:
            for window in self._ended:
                self._forget(window)
            self._ended.clear()

    def forget(self) -> None:
        """Note that nothing may be kept: :meth:`changes` gives all."""
        for window in (*self._ended, *self._order):
            if window.count:
                self._changed[window] = None

    def restore(self, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Take over what an agent that died has counted.

        These windows end at once, some in each turn: their kinds' next events
        are first ones again.

        :param rows: by the first event's id what :meth:`changes` gave
        :returns: the ids of those that cannot be read
        """
        readable, unreadable = [], []
        for identity, row in rows.items():
            try:
                window = _Restored(identity, row)
            except (
                ArithmeticError,
                LookupError,
                OSError,
                TypeError,
                ValueError,
            ):
                unreadable.append(identity)
            else:
                readable.append(window)
        self._order.extendleft(reversed(readable))
        return unreadable

    def _key(self, guest: _Guest, fingerprint: tuple[object, ...]) -> bytes:
        digest = self._hash.copy()
        # no two tuples look alike
        digest.update(repr((guest.uuid, guest.lane, fingerprint)).encode())
        return digest.digest()

    def _may_open(self, guest: _Guest) -> bool:
        if len(self) >= _MANY:
            return guest.open < min(self._kinds, _SHARE)
        return guest.open < self._kinds

    def _open(self, guest: _Guest, key: bytes, now: float) -> Window:
        window = Window(guest, key, now + self._window)
        guest.open += 1
        self._windows[key] = window
        self._order.append(window)
        return window

    def _overflow(self, guest: _Guest, now: float) -> Window:
        guest.overflow = Overflow(guest, now + self._window)
        self._order.append(guest.overflow)
        return guest.overflow

    def _forget(self, window: Window) -> None:
        guest = window._guest
        if isinstance(window, Overflow):
            guest.overflow = None
        elif self._windows.pop(window._key, None) is not None:
            guest.open -= 1
        mine = (guest.uuid, guest.lane)
        idle = not guest.open and guest.overflow is None
        if idle and self._guests.get(mine) is guest:
            del self._guests[mine]


def summary(
    first: model.Payload, window: Window, time: datetime.datetime
) -> model.Payload:
    """Make the event of a window's end.

    :param first: the payload of the event that opened the window
    :param window: one that is due
    :param time: of the event
    :returns: the payload: that of the first one, but ``id``, ``time``,
        ``repeats`` and ``summary``. The id is made from the first one's and
        the count: the same end, told twice, has the same
    """
    repeats = window.repeats()
    identity = uuid.uuid5(uuid.UUID(window.id), f'{repeats.count} repeats')
    who = model.Instance(**first['instance']).words()
    return {
        **first,
        'id': str(identity),
        'time': model.iso(time),
        'repeats': repeats.payload(),
        'summary': model.repeated(first['summary'], who, repeats),
    }
