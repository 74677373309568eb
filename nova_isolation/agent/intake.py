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

"""From the kernel to the spool: two threads with a bounded queue between them.

The reader does nothing but read, so that the kernel's buffer does not run
over; the worker understands, attributes and writes. What is lost on the way is
counted, and the log says so.
"""

import collections
from collections.abc import Callable
import queue
import threading
import time
from typing import Protocol

from oslo_log import log

from nova_isolation.agent import report
from nova_isolation.audit import attribution
from nova_isolation.audit import records
from nova_isolation import exceptions
from nova_isolation.violations import model
from nova_isolation.violations import spool as violations_spool

LOG = log.getLogger(__name__)

# Records; with the longest names of the kernel some 90 MB, as a rule 4.
_QUEUE = 10000
# Seconds after which each thread looks whether it has to stop.
_TICK = 0.2
# Seconds that an event waits for libvirt at most.
_PATIENCE = 2.0
# Seconds for which a guest that libvirt does not know is not asked for again,
# and how many of them are kept.
_UNKNOWN = 10.0
_UNKNOWNS = 1000


class Source(Protocol):
    """Where records come from: an audit socket, or a test."""

    overruns: int

    def read(self, timeout: float) -> tuple[int, bytes] | None:
        """Wait for the next record, at most so many seconds."""


class Guests(Protocol):
    """Who knows the guests: :class:`nova_isolation.agent.domains.Domains`."""

    @property
    def table(self) -> attribution.Table:
        """The newest table, without waiting."""

    def stale(self) -> bool:
        """Tell whether a newer table could be worth its cost."""

    def fresh(self, timeout: float) -> attribution.Table:
        """Wait for a newer table, at most so many seconds."""


class Tally:
    """Counts what was lost, and tells the log at most once per second."""

    def __init__(self, words: str) -> None:
        """Start at zero.

        :param words: a log message with two ``%d``: how many were lost since
            the last message, and since the start
        """
        self._words = words
        self._cause = ''
        self._told = 0
        self._last = float('-inf')
        self.total = 0

    def add(self, count: int = 1, cause: str = '') -> None:
        """Count.

        :param count: how many were lost now
        :param cause: why, where it is not always the same
        """
        self.total += count
        self._cause = f': {cause}' if cause else ''
        self.tell()

    def tell(self) -> None:
        """Log what was not logged yet, when a second has passed."""
        now = time.monotonic()
        if self.total > self._told and now - self._last >= 1:
            words = self._words % (self.total - self._told, self.total)
            LOG.error('%s%s', words, self._cause)
            self._told, self._last = self.total, now


class Intake:
    """Reads denials of guests and puts them into the spool."""

    def __init__(
        self,
        source: Source,
        guests: Guests,
        spool: violations_spool.Spool,
        host: str,
        wake: Callable[[], None],
    ) -> None:
        """Connect the parts; nothing runs yet.

        :param source: where records come from
        :param guests: knows the guests
        :param spool: where events go
        :param host: the name of this host
        :param wake: called when an event is in the spool
        """
        self._source = source
        self._guests = guests
        self._spool = spool
        self._host = host
        self._wake = wake
        self._queue: queue.Queue[tuple[int, bytes]] = queue.Queue(_QUEUE)
        self._unknown: collections.OrderedDict[str, float] = (
            collections.OrderedDict()
        )
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (
                ('reader', self._read),
                ('worker', self._work),
            )
        ]
        self.overruns = Tally(
            'The kernel dropped audit records %d times (%d since the start), '
            'they came too quickly: denials of that moment are missing. A '
            'larger net.core.rmem_max helps.'
        )
        self.dropped = Tally(
            '%d audit records (%d since the start) were dropped, they came '
            'more quickly than they could be reported'
        )
        self.unparsable = Tally(
            '%d audit records (%d since the start) could not be understood'
        )
        self.lost = Tally(
            '%d violations (%d since the start) stand in this log only, they '
            'could not be put into the spool'
        )

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> None:
        """Stop: what is in the queue is still put into the spool.

        :param timeout: seconds to wait for it at most
        """
        self._stopping.set()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        if not self._queue.empty():
            self.dropped.add(self._queue.qsize())

    def _read(self) -> None:
        while not self._stopping.is_set():
            try:
                record = self._source.read(_TICK)
            except OSError:
                LOG.exception('Reading audit records failed')
                self._stopping.wait(1)
                continue
            self.overruns.add(self._source.overruns - self.overruns.total)
            self.dropped.tell()
            # where auditd runs, four of five records are others
            if record is None or record[0] != records.AVC:
                continue
            try:
                self._queue.put_nowait(record)
            except queue.Full:
                self.dropped.add()

    def _work(self) -> None:
        while True:
            self.unparsable.tell()
            self.lost.tell()
            try:
                kind, payload = self._queue.get(timeout=_TICK)
            except queue.Empty:
                if self._stopping.is_set():
                    return
                continue
            try:
                self.handle(kind, payload)
            except Exception:
                LOG.exception('Handling the record %r failed', payload[:256])

    def handle(self, kind: int, payload: bytes) -> None:
        """Report a record when it is a guest's denial.

        :param kind: the record's numeric type
        :param payload: its text
        """
        record = records.parse(kind, payload)
        if isinstance(record, records.Unparsable):
            LOG.warning('An audit record was not understood: %s', record)
            self.unparsable.add()
            return
        if record is None:
            return
        uuid = report.subject(record)
        if uuid is None:
            return
        table = self._table(uuid, report.path(record))
        violation = report.violation(record, table, self._host)
        LOG.warning('Violation %s: %s', violation.id, violation.summary())
        self._keep(violation)

    def _keep(self, violation: model.Violation) -> None:
        try:
            self._spool.put_event(violation)
        except (exceptions.SpoolFull, OSError) as e:
            cause = str(e)
        else:
            self._wake()
            return
        self.lost.add(cause=cause)

    def _table(self, uuid: str, path: str | None) -> attribution.Table:
        """Get a table that knows the guest and the file, if any does."""
        table = self._guests.table
        if uuid not in table:
            if self._is_unknown(uuid):
                return table
            table = self._guests.fresh(_PATIENCE)
            if uuid not in table:
                self._unknown[uuid] = time.monotonic()
                if len(self._unknown) > _UNKNOWNS:
                    self._unknown.popitem(last=False)
        elif (
            path is not None
            and not table.target(path, uuid).certain
            and self._guests.stale()
        ):
            table = self._guests.fresh(_PATIENCE)
        return table

    def _is_unknown(self, uuid: str) -> bool:
        since = self._unknown.get(uuid)
        if since is not None and time.monotonic() - since < _UNKNOWN:
            return True
        self._unknown.pop(uuid, None)
        return False
