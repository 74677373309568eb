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

"""Reads what the agent did not hear, in a thread of its own.

Files of the host can be large and its journal slow; what the kernel says
meanwhile must not wait for them.
"""

from collections.abc import Sequence
import itertools
import queue
import threading
import time

from oslo_log import log

from nova_isolation.audit import backfill
from nova_isolation.audit import lines

LOG = log.getLogger(__name__)

# Events that wait for the worker.
_WAITING = 2000
# Seconds that an event waits at most: the worker was stopped.
_LONGEST = 60.0
# Seconds between two looks whether there is enough.
_LOOK = 0.02


class Catching:
    """One reading of the past, on its way."""

    def __init__(self, reading: backfill.Reading) -> None:
        """Begin to read.

        :param reading: what is read; it has a limit of its own in time
        """
        self.reading = reading
        self._events: queue.Queue[Sequence[lines.Line]] = queue.Queue(_WAITING)
        self._thread = threading.Thread(
            target=self._run, name='catching up', daemon=True
        )
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether all was read; :meth:`take` may have the rest of it."""
        return not self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """Wait until all was read, or there is much to take.

        :param timeout: seconds to wait at most
        """
        deadline = time.monotonic() + timeout
        while not self._events.full() and time.monotonic() < deadline:
            self._thread.join(_LOOK)
            if self.ended:
                return

    def take(self) -> list[lines.Line]:
        """Take what was read by now.

        Records of one event that a source has one after the other come
        together: who notes the event's number has all of it.

        :returns: lines in their order, of at most some thousand events
        """
        return [
            line
            for _ in range(self._events.qsize())
            for line in self._events.get()
        ]

    def _run(self) -> None:
        try:
            for _, event in itertools.groupby(
                self.reading, lambda line: (line.boot, line.serial)
            ):
                self._events.put(tuple(event), timeout=_LONGEST)
        except queue.Full:
            LOG.debug('Nobody takes what was read of the past')
        except Exception:
            LOG.exception('Reading the audit records of the past failed')
