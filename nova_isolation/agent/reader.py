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

"""Reads the kernel's records and does nothing else, so that none is dropped.

What is read waits for the worker in a queue of limited size. When that is
full, records wait in the kernel's buffer; when that is full, too, the kernel
drops them, and :data:`OVERRUN` stands in their place.
"""

import collections
from collections.abc import Callable, Sequence
import threading
from typing import Protocol

from oslo_log import log

LOG = log.getLogger(__name__)

#: a record: its numeric type and its text, from ``audit(`` on
Heard = tuple[int, bytes]

#: among the records: some before the next one may be missing
OVERRUN: Heard = (0, b'')

# Records that wait for the worker: some 500 bytes each. Who chooses long names
# makes 9,000 of it.
_WAITING = 5000
_BYTES = 16 * 1024**2
# Records of one batch.
_BATCH = 250
# Seconds until a thread looks whether it is to stop.
_TICK = 0.5


class Source(Protocol):
    """Where records come from: an audit socket, or a test."""

    overruns: int

    def read_many(self, timeout: float, limit: int) -> list[Heard]:
        """Wait for a record, at most so many seconds; take what is there."""


class Reader:
    """A thread that takes records from the kernel for another one."""

    def __init__(self, source: Source, waiting: int = _WAITING) -> None:
        """Connect the parts; nothing runs yet.

        :param source: where records come from
        :param waiting: records that wait for :meth:`take` at most, and one
            batch more
        """
        self._source = source
        self._waiting = waiting
        self._batches: collections.deque[list[Heard]] = collections.deque()
        self._size = 0
        self._bytes = 0
        self._beat: Callable[[], None] = lambda: None
        self._changed = threading.Condition()
        self._woken = False
        self._stopping = False
        self.thread = threading.Thread(
            target=self._run, name='reader', daemon=True
        )

    @property
    def overruns(self) -> int:
        """How often the kernel had to drop records."""
        return self._source.overruns

    def __len__(self) -> int:
        """How many records wait."""
        return self._size

    def start(self, beat: Callable[[], None] = lambda: None) -> None:
        """Start to read.

        :param beat: called several times a second
        """
        self._beat = beat
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """Stop to read; what waits can still be taken.

        :param timeout: seconds to wait for it at most
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self.thread.is_alive():
            self.thread.join(timeout)

    def wake(self) -> None:
        """Let who waits in :meth:`take` go on, now or the next time."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def take(self, timeout: float) -> Sequence[Heard]:
        """Take what was read.

        :param timeout: seconds to wait at most when there is nothing, and
            nobody calls :meth:`wake`
        :returns: records in the kernel's order, at most two batches; or none
        """
        with self._changed:
            if not self._batches:
                self._changed.wait_for(
                    lambda: self._batches or self._woken, timeout
                )
            self._woken = False
            if not self._batches:
                return ()
            batch = self._batches.popleft()
            while self._batches and len(batch) < _BATCH:
                batch += self._batches.popleft()
            self._size -= len(batch)
            self._bytes -= _bytes(batch)
            self._changed.notify_all()
            return batch

    def _run(self) -> None:
        overruns, over = self._source.overruns, False
        while not self._stopping:
            try:
                batch = self._source.read_many(_TICK, _BATCH)
            except Exception:
                # without a sign of life: a socket that stays broken needs
                # another agent
                LOG.exception('Reading audit records failed')
                self._pause(1)
                continue
            self._beat()
            # The kernel tells at once, then drops all until what waits was
            # read: somewhere up to there is the gap.
            if over or self._source.overruns != overruns:
                over = self._source.overruns != overruns or (
                    len(batch) >= _BATCH
                )
                overruns = self._source.overruns
                batch = [*batch, OVERRUN]
            if batch:
                self._put(batch)

    def _put(self, batch: list[Heard]) -> None:
        size = _bytes(batch)
        with self._changed:
            while self._is_full() and not self._stopping:
                self._changed.wait(_TICK)
                self._beat()
            self._batches.append(batch)
            self._size += len(batch)
            self._bytes += size
            self._changed.notify_all()

    def _is_full(self) -> bool:
        return self._size >= self._waiting or self._bytes >= _BYTES

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, seconds)


def _bytes(batch: list[Heard]) -> int:
    return sum(len(payload) for _, payload in batch)
