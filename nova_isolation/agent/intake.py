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

"""From the kernel's records to the journal: one worker, in turns.

A turn takes what was read, folds what repeats, attributes some of what is new,
the guests in turn, and writes all of it in one durable transaction, together
with what is left to be attributed and with how far it has come in the kernel's
numbers. So whatever ends the agent, the next one goes on just there: what was
not written it takes from where the host keeps its audit records, or it
announces that it may be lost.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import json
import threading
import time
from typing import Any, Protocol
import uuid as uuid_module

from oslo_log import log

from nova_isolation.agent import canary as agent_canary
from nova_isolation.agent import catching
from nova_isolation.agent import ledger as agent_ledger
from nova_isolation.agent import reader as agent_reader
from nova_isolation.agent import report
from nova_isolation.agent import waiting
from nova_isolation.audit import attempts
from nova_isolation.audit import attribution
from nova_isolation.audit import backfill
from nova_isolation.audit import classification
from nova_isolation.audit import lines
from nova_isolation.audit import records
from nova_isolation.audit import serials
from nova_isolation import exceptions
from nova_isolation.violations import coalescing
from nova_isolation.violations import journal as violations_journal
from nova_isolation.violations import model

LOG = log.getLogger(__name__)

#: the name of the journal's value that says how far the agent has come
POSITION = 'position'
#: what the names of its values begin with that are denials, no events yet
DENIAL = 'denial:'
_NAMESPACE = uuid_module.UUID('a3b4c0de-6b0e-5b6e-9d2b-6d1f0f9b1a57')

# All in seconds. Until the thread looks whether it is to stop, and what is
# due; and what others find out for it, while it waits for that.
_TICK = 0.5
_QUICK = 0.05
# For what the kernel writes when a system call ends, on hosts where it does:
# where an event had such an end not long ago.
_AFTERTHOUGHT = 0.003
_AUDITED = 3600.0
# For libvirt to tell who a guest is that the agent does not know, because it
# has just been started; or whose a file is that has just been attached.
_PATIENCE = 1.0
# Between two writes of how far it has come, when nothing else is written.
_POSITION = 5.0
# For what happened while no agent was there, before what happens now.
_FIRST = 10.0
# Between two looks for what was not heard.
_BETWEEN = 5.0
# Between two attempts on a journal that cannot be written: each goes through
# all that waits.
_AGAIN = 1.0
# Between two lines of the log about the agent's own faults.
_PAUSE = 5.0

# Records after which a turn takes no more: each turn is a transaction, for
# which the last of those that wait would wait, too.
_TAKEN_AT_ONCE = 1000
# Denials that one turn attributes: what comes meanwhile waits for them.
_ATTRIBUTED = 25
# Denials that wait for that, and events that wait while the journal cannot be
# written: who chooses long names makes 50 KB of one.
_WAITING = 2000
# Of the first, the bytes that their records have: they are in the journal too.
_WAITING_BYTES = 4 * 1024**2
# Events of other threads that one transaction takes.
_GIVEN = 200
# Events of which more records may come: an attempt can be denied several times
# under one number, and events of other processors come in between.
_TAIL = 8
# Numbers of events that were taken from a file: when the socket still brings
# them, they are not counted again. In how many events' distance after the last
# of them no other comes any more: a processor may be late.
_TAKEN = 100_000
_LATE = 1000

_CAUSES = {
    'agent': 'the agent was not there when they were recorded',
    'socket': (
        'audit records came more quickly than the agent could read them (a '
        'larger [isolation] audit_buffer helps), or the kernel dropped them '
        '(auditctl -s: lost, rate_limit)'
    ),
}


class Reader(Protocol):
    """Gives records: :class:`nova_isolation.agent.reader.Reader`."""

    def take(self, timeout: float) -> Sequence[tuple[int, bytes]]:
        """Take what was read, after waiting for it so many seconds.

        :data:`agent_reader.OVERRUN` stands where records are missing.
        """

    def wake(self) -> None:
        """Let who waits for records go on without any."""

    def __len__(self) -> int:
        """How many records wait."""


class Guests(Protocol):
    """Knows the guests: :class:`nova_isolation.agent.domains.Domains`."""

    @property
    def table(self) -> attribution.Table:
        """The newest table, without waiting."""

    def stale(self) -> bool:
        """Tell whether guests may have changed since, as far as it knows."""

    def fresh(self, timeout: float) -> attribution.Table:
        """Ask for a newer one, and wait for it so many seconds."""


class Canary(Protocol):
    """Knows the agent's own denials: :mod:`nova_isolation.agent.canary`."""

    def heard(self, comm: str | None) -> model.Event | None:
        """Take a record of a canary; give the event of it."""

    def journaled(self, event_id: str) -> None:
        """Take note that an event is in the journal."""


class History(Protocol):
    """Has the past: :class:`nova_isolation.audit.backfill.Backfill`."""

    def read(
        self,
        since_millis: int,
        is_wanted: Callable[[int, int], bool],
        missing: Sequence[range] = (),
        *,
        rebooted: bool = False,
    ) -> backfill.Reading:
        """Read what was recorded since a time."""


@dataclasses.dataclass(slots=True)
class _Part:
    """What a file had of an event.

    :ivar count: how many records, with those that the socket has brought
    :ivar unheard: the identities of those that the socket may still bring
    """

    count: int
    unheard: list[str] = dataclasses.field(default_factory=list)


class Intake:
    """Understands, folds, attributes and writes."""

    def __init__(
        self,
        host: str,
        reader: Reader,
        guests: Guests,
        journal: violations_journal.Journal,
        coalescer: coalescing.Coalescer,
        ledger: agent_ledger.Ledger,
        history: History,
        canary: Canary,
        *,
        judge: classification.Judge | None,
        on_status: Callable[[records.Record], None],
        wake: Callable[[Iterable[str]], None],
    ) -> None:
        """Connect the parts; nothing runs yet.

        :param host: the name of this host
        :param reader: gives records
        :param guests: knows the guests
        :param journal: where events go
        :param coalescer: knows what was reported a short while ago
        :param ledger: counts
        :param history: has what was not heard
        :param canary: knows the agent's own denials
        :param judge: asks the kernel what a profile grants, None where it
            does not answer
        :param on_status: told of records that are about profiles and modes
        :param wake: called when new events are in the journal, with the uuids
            of the guests that they are about
        """
        self._host = host
        self._reader = reader
        self._guests = guests
        self._journal = journal
        self._coalescer = coalescer
        self._ledger = ledger
        self._history = history
        self._canary = canary
        self._judge = judge
        self._on_status = on_status
        self._wake = wake

        self._boot = backfill.boot_id()
        self._serials = serials.Serials(self._boot)
        # milliseconds of the last record
        self._seen = int(time.time() * 1000)
        # when the socket ran over, as long as nobody has looked for the rest
        self._overrun: float | None = None
        # the number of the last denial; when one had an end
        self._last = -1
        self._audited = float('-inf')
        # what was not heard
        self._recovered = False
        self._catching: catching.Catching | None = None
        self._caught = float('-inf')
        self._stage = 'socket'
        self._certain = True
        self._taken: set[int] = set()
        # of the last ones: the file may have ended in the middle of an event
        self._parts: dict[int, _Part] = {}
        # the last of both, and the last one that the socket has brought
        self._newest: int | None = None
        self._heard: int | None = None
        # {number: records that were heard of it} of the last events, and of
        # those that an earlier agent heard last; of these, what is to be
        # passed over when they are read
        self._tail: dict[int, int] = {}
        self._torn: dict[int, int] = {}
        self._over: dict[int, int] = {}
        # the number after the last one that an earlier agent heard
        self._next: int | None = None
        # Of the boot before, what the agent of then had handled; until what
        # it had not was looked for.
        self._before: tuple[int, serials.Serials] | None = None
        # denials of this turn, or that an earlier one has left; those of them
        # that are to be events; events that are not in the journal yet
        self._left: list[waiting.Denied] = []
        self._waiting = waiting.Waiting()
        self._entries: list[violations_journal.Entry] = []
        self._given: list[violations_journal.Entry] = []
        self._lock = threading.Lock()
        # {id of a window whose first event is gone: what was lost of it}
        self._gone: dict[str, int] = {}
        # of the journal: ids of windows that are damaged there
        self._unreadable: dict[str, None] = {}
        self._opened = journal.opened
        self._written = float('-inf')
        self._more = False
        self._moved = False
        self._unwritable = ''
        self._again = float('-inf')
        self._complained = float('-inf')

        self._beat: Callable[[], None] = lambda: None
        self._stopping = threading.Event()
        self.thread = threading.Thread(
            target=self._run, name='worker', daemon=True
        )

    def start(self, beat: Callable[[], None] = lambda: None) -> None:
        """Start the thread; what an earlier agent left is taken up first.

        To be called before anything is read: the next agent knows of it.

        :param beat: called several times a second
        """
        self._beat = beat
        try:
            self._recovered = self._recover(time.monotonic())
        except Exception:
            # the thread tries it again
            LOG.exception('What an earlier agent left cannot be taken up')
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """Stop, when what was read is written.

        :param timeout: seconds to wait for it at most
        """
        self._stopping.set()
        if self.thread.is_alive():
            self.thread.join(timeout)

    def give(self, event: model.Event) -> None:
        """Take an event of another thread.

        :param event: it gets into the journal with the next turn
        """
        entry = violations_journal.Entry.of(event)
        with self._lock:
            if len(self._given) < _WAITING:
                self._given.append(entry)
                self._reader.wake()
                return
        self._ledger.lost(
            'journal',
            None,
            f'{_WAITING} events of other threads than that of the denials '
            f'wait already: the journal takes them too slowly, or not at all, '
            f'and then the log says why',
        )

    def _run(self) -> None:
        while not self._stopping.is_set() or len(self._reader):
            self._beat()
            try:
                if not self._recovered:
                    self._recovered = self._recover(time.monotonic())
                if self._recovered:
                    heard = self._reader.take(self._pause())
                    self.turn(heard, time.monotonic())
                elif self._stopping.wait(1):
                    return
            except Exception:
                # whatever it was, the next records are not its fault
                LOG.exception('A turn failed')
                self._ledger.lost('queue', None, 'a fault: see the log')
                self._stopping.wait(_TICK)
        try:
            # nobody is waited for any more
            self._waiting.release(lambda each: True)
            self._report_all(self._waiting.take())
            self._commit(time.monotonic(), last=True)
            while self._given and not self._unwritable:
                self._commit(time.monotonic(), last=True)
        except Exception:
            LOG.exception('The last turn failed')

    def _pause(self) -> float:
        """Tell how long a turn may wait for something to be read."""
        if self._waiting.is_ready:
            return 0
        others = (
            self._waiting.is_holding
            or self._given
            or self._more
            or self._catching is not None
        )
        return _QUICK if others else _TICK

    # ---- a turn ------------------------------------------------------------

    def turn(self, heard: Sequence[tuple[int, bytes]], now: float) -> None:
        """Handle what was read, and what is due.

        :param heard: numeric types and texts, in the kernel's order
        :param now: seconds of a clock that never goes back
        """
        denied = self._left
        if self._newest is not None and self._catching is None:
            self._forget_taken(self._newest + (_LATE if heard else 0))
        ended = self._take_what_was_caught(denied)
        self._understand_all(heard, denied, now)
        self._look_back(now, ended=ended)
        # One for both, and the older ones first: what a guest that gets known
        # has tried comes in its order.
        # in this order: a table that was not stale has what came before
        stale = self._guests.stale()
        table = self._guests.table
        self._release(table, now, stale=stale)
        self._fold_all(denied, table, now, stale=stale)
        count = len(heard)
        while count < _TAKEN_AT_ONCE and len(self._reader):
            heard = self._reader.take(0)
            self._understand_all(heard, denied, now)
            self._fold_all(denied, table, now, stale=stale)
            count += len(heard)
        self._report_some()
        self._commit(now)

    def _forget_taken(self, beyond: int) -> None:
        """Forget what was taken from a file, when the socket is beyond it.

        :param beyond: the number that it has to have reached
        """
        if self._heard is not None and serials.is_ahead(self._heard, beyond):
            self._taken.clear()
            self._parts.clear()
            self._newest = None

    def _understand_all(
        self,
        heard: Sequence[tuple[int, bytes]],
        denied: list[waiting.Denied],
        now: float,
    ) -> None:
        self._understand(heard, denied, now)
        if denied and now - self._audited < _AUDITED:
            self._await_end(heard, denied, now)

    def _await_end(
        self,
        heard: Sequence[tuple[int, bytes]],
        denied: list[waiting.Denied],
        now: float,
    ) -> None:
        """Take what else belongs to the last event, if it comes at once."""
        limit = time.monotonic() + _AFTERTHOUGHT
        while heard and heard[-1][0] != records.EOE:
            heard = self._reader.take(max(0.0, limit - time.monotonic()))
            self._understand(heard, denied, now)
            if time.monotonic() >= limit:
                return

    def _understand(
        self,
        heard: Sequence[tuple[int, bytes]],
        denied: list[waiting.Denied],
        now: float,
    ) -> None:
        see = self._serials.see
        for kind, payload in heard:
            strange = None
            if kind in records.KINDS:
                found = records.parse(kind, payload)
                if isinstance(found, records.Record):
                    self._heard = found.serial
                    if self._is_again(found):
                        continue
                    self._hear(found.serial)
                    self._seen = found.millis
                    see(found.serial, now, kind)
                    self._sort(found, denied)
                    continue
                strange = found
            stamp = records.serial_of(payload)
            if strange and not (stamp and stamp[1] in self._taken):
                self._unparsable(strange)
                if stamp:
                    self._hear(stamp[1])
            if stamp is None:
                if kind == agent_reader.OVERRUN[0]:
                    self._overrun = now
                    self._serials.overrun(now)
                    if self._serials.highest is None:
                        # no number will show it
                        self._ledger.lost('socket', None, _CAUSES['socket'])
                continue
            self._seen, self._heard = stamp
            see(stamp[1], now, kind)
            if stamp[1] == self._last and kind in records.ENRICHING:
                self._audited = now
            if kind in records.ENRICHING and denied:
                self._enrich(kind, payload, stamp[1], denied)
        self._moved = self._moved or bool(heard)

    def _hear(self, serial: int) -> None:
        """Take down that a record of an event was heard."""
        part, tail = self._parts.get(serial), self._tail
        if part is not None:
            part.count += 1
            return
        tail[serial] = tail.get(serial, 0) + 1
        if len(tail) > _TAIL:
            del tail[next(iter(tail))]

    def _is_again(self, record: records.Record) -> bool:
        """Tell of a record that the socket brings whether a file had it."""
        part = self._parts.get(record.serial)
        if part is None:
            return record.serial in self._taken
        identity = records.identity(record)
        if identity not in part.unheard:
            return False
        part.unheard.remove(identity)
        return True

    def _sort(
        self,
        record: records.Record,
        denied: list[waiting.Denied],
        line: bool = False,
    ) -> None:
        """Tell what a record is about."""
        if _tells_of_policy(record):
            if not line:
                self._on_status(record)
        elif record.decision is None:
            self._unparsable(
                records.Unparsable('a verdict that is not known', record.raw)
            )
        elif (who := attempts.subject(record)) is not None:
            denied.append(waiting.Denied(record, who, line))
            if not line:
                self._last = record.serial
        elif agent_canary.is_one(record):
            # in complain mode it was allowed: the way is open, the cage too
            if record.decision != 'denied':
                return
            event = self._canary.heard(record.text('comm'))
            if event is not None:
                self._entries.append(violations_journal.Entry.of(event))
        elif record.label.startswith('"'):
            # cut off: the kernel closes what it opens
            self._unparsable(
                records.Unparsable(
                    'a denial that does not name its guest', record.raw
                )
            )

    def _unparsable(self, found: records.Unparsable) -> None:
        # it may have been a guest's: what there is of it goes on as it is
        self._ledger.count(agent_ledger.IN)
        self._ledger.lost(
            'unparsable', 1, f'an audit record is not understood: {found}'
        )

    def _enrich(
        self,
        kind: int,
        payload: bytes,
        serial: int,
        denied: list[waiting.Denied],
    ) -> None:
        # an event has few records, and they come together
        of_it = [
            each
            for each in denied[-8:]
            if each.record.serial == serial and not each.line
        ]
        found = records.enrichment(kind, payload) if of_it else None
        if found is None:
            return
        for each in of_it:
            for key, value in found[1].items():
                if each.context.setdefault(key, value) != value and (
                    key == 'opid'
                ):
                    # a signal to many: which of them it is, nobody says
                    each.context[key] = ''

    # ---- what repeats, and what is new -------------------------------------

    def _fold_all(
        self,
        denied: list[waiting.Denied],
        table: attribution.Table,
        now: float,
        *,
        stale: bool,
    ) -> None:
        self._ledger.count(agent_ledger.IN, len(denied))
        folded = 0
        for each in denied:
            try:
                folded += self._fold(each, table, now, stale=stale)
            except Exception as e:
                self._fault(each, e)
        denied.clear()
        self._ledger.count(agent_ledger.FOLDED, folded)

    def _fold(
        self,
        denied: waiting.Denied,
        table: attribution.Table,
        now: float,
        *,
        stale: bool,
    ) -> bool:
        """Count a denial, or report it when it is the first of its kind.

        :param stale: as for :meth:`_release`: what is held of the guest is not
            to be overtaken when the table has just become a new one
        :returns: whether it was only counted
        """
        record = denied.record
        fingerprint = attempts.fingerprint(record, table, denied.context)
        window = self._coalescer.add(
            fingerprint[0],
            fingerprint[1:],
            now,
            record.time,
            _lane(denied, table),
        )
        if window is None:
            return True
        known = _name(denied, table)
        denied.id = window.id = _id(record)
        denied.repeats = window.opening(record.time)
        denied.unsure = (
            stale or self._guests.stale()
        ) and not report.is_certain(record, table)
        if known and not denied.unsure:
            self._waiting.add(denied)
            return False
        # asked, and not waited for: others come first
        self._guests.fresh(0)
        denied.until = now + _PATIENCE
        self._waiting.hold(denied)
        return False

    def _release(
        self, table: attribution.Table, now: float, *, stale: bool
    ) -> None:
        """Let go those whose guest is known now, or is not going to be.

        :param stale: whether guests may have changed before the table was
            taken
        """
        full = len(self._waiting) > _WAITING

        def is_known(each: waiting.Denied) -> bool:
            known = _name(each, table) and not (each.unsure and stale)
            return full or known or each.until <= now

        self._waiting.release(is_known)

    def _report_some(self) -> None:
        """Report the next ones; what fills the memory is not left to wait."""
        if self._unwritable:
            self._report_all(self._waiting.take())
        else:
            over = len(self._waiting) - _WAITING
            self._report_all(self._waiting.take(max(_ATTRIBUTED, over)))
            while self._waiting.size > _WAITING_BYTES:
                self._report_all(self._waiting.take(_ATTRIBUTED))

    def _report_all(self, denials: Iterable[waiting.Denied]) -> None:
        for each in denials:
            try:
                self._report(each)
            except Exception as e:
                self._fault(each, e)

    def _report(self, denied: waiting.Denied) -> None:
        violation = report.violation(
            denied.record,
            self._guests.table,
            self._host,
            judge=self._judge,
            context=denied.context,
            who=denied.who,
        )
        assert denied.repeats is not None
        violation = dataclasses.replace(
            violation, id=denied.id, repeats=denied.repeats
        )
        self._entries.append(violations_journal.Entry.of(violation))

    def _fault(self, denied: waiting.Denied, error: Exception) -> None:
        """Announce a denial that the agent itself fails on."""
        if time.monotonic() - self._complained >= _PAUSE:
            self._complained = time.monotonic()
            LOG.error('A denial cannot be reported', exc_info=error)
        self._ledger.lost(
            'queue',
            1,
            f'the agent fails on a record, its log says how: '
            f'{denied.record.raw[:256]!r}',
        )

    # ---- the journal -------------------------------------------------------

    def _commit(self, now: float, *, last: bool = False) -> None:
        """Write what there is to be written."""
        if self._unwritable and now < self._again and not last:
            self._limit_waiting()
            return
        ended = self._coalescer.due(now)
        self._more = len(ended) >= coalescing.AT_ONCE
        if ended and len(self._waiting):
            # no end is told before its beginning
            self._report_all(
                self._waiting.pick({window.id for window in ended})
            )
        losses = self._ledger.due(now)
        with self._lock:
            given = tuple(self._given[:_GIVEN])
        windows = {**self._unreadable, **self._coalescer.changes()}
        denials = {
            DENIAL + key: row for key, row in self._waiting.changes().items()
        }
        late = last or now - self._written >= _POSITION
        if not (
            self._entries
            or given
            or losses
            or windows
            or denials
            or (self._moved and late)
        ):
            return
        try:
            new = [
                *given,
                *self._entries,
                *self._summaries(ended),
                *(violations_journal.Entry.of(loss) for loss in losses),
            ]
            self._journal.commit(
                new, windows, {POSITION: self._position(), **denials}
            )
        except exceptions.IsolationError as e:
            self._cannot_write(e.message)
            self._again = now + _AGAIN
            return
        if self._unwritable:
            LOG.info('The journal is written again')
        self._coalescer.committed()
        self._waiting.committed()
        if self._journal.opened != self._opened:
            # it may be a new one, which has only what has changed
            self._opened = self._journal.opened
            self._coalescer.forget()
            self._waiting.forget()
        self._gone.clear()
        self._unreadable.clear()
        self._ledger.announced(losses)
        self._ledger.count(
            agent_ledger.OUT,
            _violations(self._entries),
        )
        self._entries.clear()
        with self._lock:
            del self._given[: len(given)]
        self._written, self._unwritable = now, ''
        self._moved = False
        tell(new)
        for entry in new:
            self._canary.journaled(entry.id)
        if new:
            self._wake({entry.instance for entry in new})

    def _summaries(
        self, ended: Sequence[coalescing.Window]
    ) -> list[violations_journal.Entry]:
        """Make the events of what has repeated itself."""
        made = []
        unwritten = {entry.id: entry for entry in self._entries}
        now = model.now()
        for window in ended:
            first = unwritten.get(window.id) or self._journal.event(window.id)
            # it may have left the journal before its repeats ended
            cause = 'the first event is gone'
            if first is not None:
                try:
                    payload = coalescing.summary(first.payload, window, now)
                except (LookupError, TypeError, ValueError) as e:
                    # another version has written it
                    cause = f'the first event is not understood: {e!r}'
                else:
                    made.append(
                        violations_journal.Entry.made(
                            first.event_type,
                            first.priority,
                            payload,
                            now.timestamp(),
                        )
                    )
                    continue
            # once, however often it cannot be written
            told = self._gone.get(window.id, 0)
            self._gone[window.id] = window.count
            self._ledger.lost('retention', window.count - told, cause)
        return made

    def _position(self) -> str:
        """Tell the next agent how far this one has come."""
        return json.dumps(
            {
                'serials': self._serials.state(),
                'seen': self._seen,
                'taken': [
                    [each.start, each.stop]
                    for each in serials.ranges_of(
                        self._taken - self._parts.keys()
                    )
                ],
                'tail': [*{**self._torn, **self._tail}.items()],
                'parts': [
                    [serial, part.count, part.unheard]
                    for serial, part in self._parts.items()
                ],
                'lost': self._ledger.pending(),
                'before': self._before
                and [self._before[0], self._before[1].state()],
            }
        )

    def _cannot_write(self, cause: str) -> None:
        if cause != self._unwritable:
            LOG.error('Events wait in memory: %s', cause)
        self._unwritable = cause
        self._limit_waiting()

    def _limit_waiting(self) -> None:
        over = self._entries[_WAITING:]
        del self._entries[_WAITING:]
        self._ledger.lost(
            'journal',
            _violations(over),
            f'more than {_WAITING} events waited while the journal could not '
            f'be written: {self._unwritable}',
        )

    # ---- what was not heard ------------------------------------------------

    def _recover(self, now: float) -> bool:
        """Take up what an earlier agent left, if that can be read now."""
        try:
            position = self._journal.state(POSITION)
            rows = self._journal.windows()
            denials = self._journal.states(DENIAL)
            if position is None:
                self._journal.commit(state={POSITION: self._position()})
        except exceptions.IsolationError as e:
            self._cannot_write(e.message)
            return False
        self._unreadable = dict.fromkeys(self._coalescer.restore(rows))
        for each in self._unreadable:
            LOG.error('The window %r in the journal is damaged', each)
        if self._unreadable:
            self._ledger.lost(
                'journal', None, 'how often denials were repeated is damaged'
            )
        damaged = self._waiting.restore(
            {key.removeprefix(DENIAL): row for key, row in denials.items()},
            now + _PATIENCE,
        )
        for each in damaged:
            LOG.error('The value %r in the journal is damaged', DENIAL + each)
        self._ledger.count(agent_ledger.IN, len(denials))
        self._ledger.lost(
            'journal', len(damaged), 'denials that waited are damaged'
        )
        if position is None:
            if self._journal.is_successor():
                self._ledger.lost(
                    'agent',
                    None,
                    'how far the agent had come was in the journal that is '
                    'lost: what was denied while no agent was there is not '
                    'looked for',
                )
            return True
        try:
            same = self._go_on(json.loads(position))
        except Exception as e:
            # whatever has damaged it
            self._serials = serials.Serials(self._boot)
            self._seen, self._next, self._before = 0, None, None
            self._ledger.lost(
                'agent', None, f'how far the agent had come is not known: {e}'
            )
            return True
        self._catch_up('agent', now, certain=same)
        if self._catching is not None:
            # so that they come in their order; but not for ever
            self._catching.join(_FIRST)
        return True

    def _go_on(self, state: dict[str, Any]) -> bool:
        """Go on from a position.

        :returns: whether numbers will show all that was not heard
        """
        self._left.clear()
        self._serials = serials.Serials.restored(state['serials'], self._boot)
        if self._serials.highest is not None:
            self._next = self._serials.highest + 1
        self._seen = int(state['seen'])
        # it is a time
        model.utc(self._seen / 1000)
        self._ledger.restore(state['lost'])
        taken = [range(start, stop) for start, stop in state['taken']]
        parts = [
            (int(serial), count, unheard)
            for serial, count, unheard in state['parts']
        ]
        boot = str(state['serials']['boot'])
        if boot == self._boot:
            # they are handled, and the socket may still bring them
            self._serials.found(taken, time.monotonic())
            for each in taken:
                for serial in each:
                    self._take(serial)
            for serial, count, unheard in parts:
                self._parts[serial] = _Part(int(count), [*map(str, unheard)])
                self._beyond(serial)
            self._torn = {
                int(serial): int(count)
                for serial, count in state['tail']
                if serial not in self._taken
            } | {serial: part.count for serial, part in self._parts.items()}
            self._over = dict(self._torn)
        else:
            before = serials.Serials.restored(state['serials'], boot)
            handled = serials.ranges_of(serial for serial, _, _ in parts)
            before.found([*taken, *handled], time.monotonic())
            self._before = self._seen, before
            self._ledger.lost(
                'agent', before.expired(time.monotonic()), _CAUSES['agent']
            )
        if state['before'] is not None:
            # An agent of the boot after that one did not come to its end, and
            # perhaps this boot is another one again.
            seen, kept = state['before']
            before = serials.Serials.restored(kept, str(kept['boot']))
            self._before = int(seen), before
        return self._before is None and self._serials.highest is not None

    def _catch_up(self, stage: str, now: float, *, certain: bool) -> None:
        """Begin to look elsewhere for what was not heard."""
        self._stage, self._certain, self._caught = stage, certain, now
        self._overrun = None
        since = self._seen if self._serials.highest is None else 0
        try:
            self._catching = catching.Catching(
                self._history.read(
                    self._before[0] if self._before else self._seen,
                    # before the agent was there for the first time
                    lambda millis, serial: millis >= since,
                    self._sought(),
                    rebooted=self._before is not None,
                )
            )
        except (OSError, RuntimeError) as e:
            # no thread, no /proc
            LOG.exception('What was not heard cannot be looked for')
            self._ledger.lost(
                stage,
                self._serials.settle(now) or None,
                f'{_CAUSES[stage]}: {e}',
            )

    def _sought(self) -> list[range]:
        """List the numbers of what was not heard, or not all of it."""
        return [*self._serials.missing, *serials.ranges_of(self._torn)]

    def _look_back(self, now: float, *, ended: bool) -> None:
        """Look for what was not heard, or at what was found of it.

        :param ended: whether all was read and taken
        """
        if self._catching is None:
            # When the socket runs over at the end of a flood, nothing comes
            # that would show a gap.
            over = self._overrun is not None and (
                now - self._overrun > serials.PATIENCE
            )
            if (over or self._serials.expired(now)) and (
                now - self._caught > _BETWEEN
            ):
                # what nobody heard shows itself with the next record
                away = any(
                    self._next in each for each in self._serials.missing
                )
                self._next = None
                self._catch_up(
                    'agent' if away else 'socket', now, certain=not over
                )
        elif ended:
            self._caught_up(self._catching.reading, now)
            self._catching = None

    def _take_what_was_caught(self, denied: list[waiting.Denied]) -> bool:
        """Take what was read of the past; tell whether that was all."""
        if self._catching is None:
            return False
        ended = self._catching.ended
        for line in self._catching.take():
            torn = line.boot == self._boot and line.serial in self._torn
            if line.boot != self._boot:
                if self._was_handled(line):
                    continue
            elif not torn and not self._serials.is_new(line.serial):
                continue
            found = records.parse_line(line.data)
            if torn and found is not None and self._over[line.serial]:
                # an earlier agent has heard so many of it
                self._over[line.serial] -= 1
                continue
            if isinstance(found, records.Record):
                self._sort(found, denied, line=True)
                # of a change of policy, what is heard counts
                if line.boot == self._boot and not _tells_of_policy(found):
                    self._take_line(line, records.identity(found))
            elif found is not None:
                self._unparsable(found)
                if line.boot == self._boot:
                    self._take_line(line)
        return ended

    def _take_line(self, line: lines.Line, *identities: str) -> None:
        """Take down that a file had a record, and of the last events which."""
        self._take(line.serial)
        if lines.is_cut(line):
            # the socket's has another identity: its number has to do
            self._parts.pop(line.serial, None)
            return
        part = self._parts.get(line.serial)
        if part is None:
            # an earlier agent heard the first ones
            part = _Part(self._torn.get(line.serial, 0))
            self._parts[line.serial] = part
            if len(self._parts) > _TAIL:
                # sources are read one after the other
                del self._parts[min(self._parts)]
        part.count += 1
        part.unheard += identities

    def _take(self, serial: int) -> None:
        if len(self._taken) < _TAKEN:
            self._beyond(serial)
            self._taken.add(serial)

    def _beyond(self, serial: int) -> None:
        """Take down what the socket has to be beyond."""
        if self._newest is None or serials.is_ahead(serial, self._newest):
            self._newest = serial

    def _was_handled(self, line: lines.Line) -> bool:
        """Tell of a line of another boot whether an earlier agent had it.

        Reading begins some minutes before the time that is wanted.
        """
        if self._before is None or line.millis > self._before[0]:
            return False
        return not self._before[1].is_new(line.serial)

    def _caught_up(self, reading: backfill.Reading, now: float) -> None:
        self._moved = True
        self._before = None
        self._torn.clear()
        self._over.clear()
        self._serials.found(reading.found, now)
        # also of a reading that failed
        self._serials.found(serials.ranges_of(self._taken), now)
        # what is missing since was not looked for
        lost: int | None = self._serials.settle(self._caught)
        if not lost and not (self._certain or reading.complete):
            lost = None
        where = ', '.join(reading.sources) or 'no other source'
        self._ledger.lost(
            self._stage,
            lost,
            f'{_CAUSES[self._stage]}, and not all of them are to be had from '
            f'{where}; they need not be denials',
            first=model.utc(self._seen / 1000),
        )


def tell(entries: Sequence[violations_journal.Entry]) -> None:
    """Write events into the host's log, for those who read that.

    :param entries: they are in the journal
    """
    for entry in entries:
        level = log.INFO if entry.priority == 'info' else log.WARNING
        LOG.log(level, '%s', entry.line)


def _tells_of_policy(record: records.Record) -> bool:
    """Tell of a record whether nothing was refused, as far as it is known."""
    return record.decision is None and record.verdict in records.VERDICTS


def _name(denied: waiting.Denied, table: attribution.Table) -> bool:
    """Tell whether it is known who was denied something, and note it.

    A level of SELinux passes from a guest that has ended to another one, which
    the table may not have yet.
    """
    guest = table.guest(denied.who)
    if guest is None or (guest.uuid != denied.who and guest.id is None):
        return False
    denied.who = guest.uuid
    return True


def _id(record: records.Record) -> str:
    """Make the id of a denial's event: whoever has the record makes the same.

    The kernel's number alone begins anew with each boot.
    """
    return str(
        uuid_module.uuid5(
            _NAMESPACE,
            f'{record.millis}:{record.serial} {records.identity(record)}',
        )
    )


def _violations(entries: Sequence[violations_journal.Entry]) -> int:
    return sum(
        entry.event_type == model.Violation.event_type for entry in entries
    )


def _lane(denied: waiting.Denied, table: attribution.Table) -> str:
    """Tell what a denial's noise must not hide.

    A guest that tries a thousand names has a window left for its neighbour's
    disk, and for what is no file.

    :returns: one of some thirty words; the guest chooses none of them
    """
    target: attribution.Target | classification.Target
    path = attempts.plain_path(denied.record)
    if path is not None:
        # of a flood of names: this is twice as quick as the rest
        kind, is_there = attempts.FILE, False
        target = table.target(path, denied.who)
    else:
        attempt = attempts.read(denied.record, denied.context)
        kind, path = attempt.kind, attempt.file
        target = classification.target(attempt, table)
        # a label is on something
        is_there = path is None or attempt.selinux
    owner = target.owner
    # anybody can make up a uuid
    if owner is None or owner not in table or owner == table.uuid(denied.who):
        return kind
    # and names in somebody's directory, but not of what he really has
    if is_there or (path is not None and table.owners(path)):
        return f"a neighbour's {kind}"
    return f'near a neighbour: {target.kind}'
