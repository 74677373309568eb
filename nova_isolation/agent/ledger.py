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

"""What came in, what went out, and what was lost between.

Whoever loses something says so here; what is due goes out as
:class:`nova_isolation.violations.model.Lost`, and stays here until it is in
the journal. So a loss can be late, but not silent.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import datetime
import threading
from typing import Any

from oslo_log import log

from nova_isolation.violations import model
from nova_isolation.violations import text

LOG = log.getLogger(__name__)

# Where something can be lost, in the order of the way. What is lost at INSIDE
# was counted as in before.
OUTSIDE = ('kernel', 'socket', 'agent')
INSIDE = ('queue', 'unparsable', 'journal')
AFTER = ('spool', 'retention', 'canary')
STAGES = (*OUTSIDE, *INSIDE, *AFTER)

# What is counted: audit records about guests that were read; the first events
# of a kind that are in the journal; records that have none of their own
# because an event sums them up; and events of all kinds that the broker
# confirmed.
IN, OUT, FOLDED, SENT = 'in', 'out', 'folded', 'sent'
COUNTS = (IN, OUT, FOLDED, SENT)

# Seconds between two events about one stage.
PAUSE = 5.0

# Characters of the reasons that an event has, and what follows them when that
# is not all. model.Lost cuts nothing of it.
_ROOM = 1950
_REST = ' … (the rest is in the log of nova-isolation-agent)'
# Between two events, how many of those go into the log that have no room
# there; and characters of one: of the longest record each byte is escaped.
_LOGGED = 10
_LONGEST = 40_000


@dataclasses.dataclass(frozen=True)
class _Loss:
    """What was lost at a stage since it was last announced."""

    count: int | None
    first: datetime.datetime
    last: datetime.datetime
    reason: str
    # how many had no room in it
    others: int = 0

    def plus(self, later: '_Loss') -> '_Loss':
        unknown = self.count is None or later.count is None
        reason, others = self.reason, self.others
        if later.reason not in reason:
            # each may be all that there is of a record: none hides another
            joined = f'{reason}; {later.reason}' if reason else later.reason
            if len(joined) <= _ROOM:
                reason = joined
            else:
                reason = reason or joined[:_ROOM]
                others += 1
        return _Loss(
            count=None if unknown else (self.count or 0) + (later.count or 0),
            first=min(self.first, later.first),
            last=max(self.last, later.last),
            reason=reason,
            others=others,
        )

    def words(self) -> str:
        return self.reason + (_REST if self.others else '')


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """All counts of one moment.

    :ivar counts: ``in``, ``out``, ``folded`` and ``sent``
    :ivar lost: {stage: how many, as far as that is known}
    :ivar unknown: {stage: how many times it was not known how many}
    """

    counts: dict[str, int]
    lost: dict[str, int]
    unknown: dict[str, int]

    @property
    def unaccounted(self) -> int:
        """Tell what is on its way, or was lost without a word.

        :returns: in - (out + folded + lost inside); 0 when all is at rest and
            well
        """
        counts = self.counts
        inside = sum(self.lost[stage] for stage in INSIDE)
        return counts[IN] - (counts[OUT] + counts[FOLDED] + inside)


class Ledger:
    """Counts, for all threads."""

    def __init__(self, host: str) -> None:
        """Start at zero.

        :param host: the name of this host, for the events
        """
        self._host = host
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(COUNTS, 0)
        self._lost = dict.fromkeys(STAGES, 0)
        self._unknown = dict.fromkeys(STAGES, 0)
        # of each stage at most one of both, and when an event was last made
        self._pending: dict[str, _Loss] = {}
        self._events: dict[str, model.Lost] = {}
        self._made: dict[str, float] = {}

    def count(self, what: str, number: int = 1) -> None:
        """Count.

        :param what: ``in``, ``out``, ``folded`` or ``sent``
        :param number: how many more
        """
        with self._lock:
            self._counts[what] += number

    def lost(
        self,
        stage: str,
        count: int | None = 1,
        reason: str = '',
        first: datetime.datetime | None = None,
        last: datetime.datetime | None = None,
    ) -> None:
        """Say that something was lost.

        :param stage: of STAGES
        :param count: how many, None when that is not known; 0 is no loss
        :param reason: why, and what is to be done; '' as before. Each one is
            told, the first of them by the event, others by the log
        :param first: since when, by default now
        :param last: until when, by default now
        """
        if count == 0:
            return
        now = model.now()
        begun = _Loss(0, first or now, last or now, '')
        loss = dataclasses.replace(begun, count=count, reason=reason)
        with self._lock:
            self._add(stage, count)
            before = self._pending.get(stage, begun)
            after = self._pending[stage] = before.plus(loss)
        if after.others > before.others:
            _log(stage, reason, after.others)

    def note(self, stage: str, count: int | None) -> None:
        """Count a loss that whoever found it has announced.

        :param stage: of STAGES
        :param count: how many, None when that is not known
        """
        with self._lock:
            self._add(stage, count)

    def _add(self, stage: str, count: int | None) -> None:
        if count is None:
            self._unknown[stage] += 1
        else:
            self._lost[stage] += count

    def due(self, now: float) -> list[model.Lost]:
        """Make the events that have to get into the journal now.

        The first loss of a stage is due at once; the next 5 s after it, summed
        up. An event comes again, the same with the same id, until
        :meth:`announced`.

        :param now: of ``time.monotonic()``
        :returns: at most one of each stage
        """
        with self._lock:
            for stage in STAGES:
                made = self._made.get(stage)
                if (
                    stage in self._pending
                    and stage not in self._events
                    and (made is None or now - made >= PAUSE)
                ):
                    self._events[stage] = self._event(stage)
                    self._made[stage] = now
            return list(self._events.values())

    def _event(self, stage: str) -> model.Lost:
        loss = self._pending.pop(stage)
        return model.Lost(
            host=self._host,
            stage=stage,
            count=loss.count,
            first=loss.first,
            last=loss.last,
            reason=loss.words() or 'no reason is known',
        )

    def pending(self) -> dict[str, list[Any]]:
        """Tell what :meth:`due` did not give yet.

        :returns: what :meth:`restore` reads, JSON types: so that a loss is
            announced when the agent dies before it is due
        """
        with self._lock:
            return {
                stage: [
                    loss.count,
                    loss.first.timestamp(),
                    loss.last.timestamp(),
                    loss.words(),
                ]
                for stage, loss in self._pending.items()
            }

    def restore(self, pending: Mapping[str, Sequence[Any]]) -> None:
        """Take over what an earlier agent had not announced yet.

        :param pending: what :meth:`pending` gave
        :raises ValueError: when it is damaged; TypeError, LookupError,
            ArithmeticError and OSError likewise
        """
        losses = [
            (
                STAGES[STAGES.index(stage)],
                None if count is None else int(count),
                str(reason),
                model.utc(first),
                model.utc(last),
            )
            for stage, (count, first, last, reason) in pending.items()
        ]
        for loss in losses:
            self.lost(*loss)

    def announced(self, events: Iterable[model.Lost]) -> None:
        """Take note that events are in the journal, for good.

        :param events: of those that :meth:`due` gave
        """
        with self._lock:
            for event in events:
                known = self._events.get(event.stage)
                if known is not None and known.id == event.id:
                    del self._events[event.stage]

    def snapshot(self) -> Snapshot:
        """Tell all counts of one moment.

        :returns: the :class:`Snapshot`
        """
        with self._lock:
            return Snapshot(
                dict(self._counts), dict(self._lost), dict(self._unknown)
            )


def _log(stage: str, reason: str, number: int) -> None:
    """Write a reason for which its event has no room, if it is not too many.

    :param number: how many there were since the last event, with this one
    """
    if number <= _LOGGED:
        LOG.warning('Lost (%s): %s', stage, text.visible(reason, _LONGEST))
    elif number == _LOGGED + 1:
        LOG.warning(
            'Lost (%s): more, until the next event only counted', stage
        )
