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

"""From the spool to the journal: what nova-compute has to say.

nova-compute does not wait for the agent, and the agent may be away: it leaves
its events in the spool. They are in the journal before they leave the spool;
when the agent dies between the two they are imported again, and the journal
takes an id only once.
"""

from collections.abc import Callable, Sequence
import itertools
import threading

from oslo_log import log

from nova_isolation.agent import ledger as agent_ledger
from nova_isolation import exceptions
from nova_isolation.violations import journal as violations_journal
from nova_isolation.violations import model
from nova_isolation.violations import spool as violations_spool

LOG = log.getLogger(__name__)

# Seconds between two looks at the spool.
_POLL = 0.5
# Events of one transaction.
_BATCH = 100


class Importer:
    """Moves events from a spool into a journal.

    :ivar imported: how many were new to the journal
    """

    def __init__(
        self,
        spool: violations_spool.Spool,
        journal: violations_journal.Journal,
        imported: Callable[[Sequence[violations_journal.Entry]], None],
        ledger: agent_ledger.Ledger,
        host: str,
    ) -> None:
        """Connect the parts; nothing runs yet.

        :param spool: where nova-compute puts its events
        :param journal: where they go
        :param imported: called with events that are in the journal now: to
            log them, and to wake the sender
        :param ledger: told of what did not fit into the spool
        :param host: the name of this host
        """
        self._spool = spool
        self._journal = journal
        self._told = imported
        self._ledger = ledger
        self._host = host
        self._failing = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name='importer', daemon=True
        )
        self.imported = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop; what was not imported stays in the spool.

        :param timeout: seconds to wait at most
        """
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def run_once(self) -> int:
        """Import what is in the spool now.

        :returns: how many events were taken out of the spool
        :raises JournalUnavailable: when the journal cannot be written: they
            stay in the spool
        :raises OSError: when the spool cannot be read or written
        """
        taken = 0
        left = self._spool.entries()
        while batch := list(itertools.islice(left, _BATCH)):
            entries = [_entry(event) for event in batch]
            self.imported += self._journal.commit(entries)
            self._told(entries)
            for event in batch:
                self._spool.remove(event)
            taken += len(batch)
        for dropped in self._spool.dropped():
            self._announce(dropped)
        return taken

    def _announce(self, dropped: violations_spool.Dropped) -> None:
        """Say what did not fit: once, by the id that it has in the spool."""
        lost = model.Lost(
            host=self._host,
            stage='spool',
            count=dropped.count,
            first=model.utc(dropped.first),
            last=model.utc(dropped.last),
            reason=(
                f'events of nova-compute did not fit into the spool '
                f'{self._spool.directory}, its log has them: was the agent '
                f'away, or its journal full? ([isolation] spool_limit)'
            ),
            id=dropped.id,
        )
        entry = violations_journal.Entry.of(lost)
        if self._journal.commit([entry]):
            self._ledger.note('spool', dropped.count)
            self._told([entry])
        self._spool.forget(dropped)

    def _run(self) -> None:
        try:
            self._spool.clean()
        except OSError as e:
            self._failed(str(e))
        while not self._stopping.is_set():
            try:
                self.run_once()
            except (exceptions.IsolationError, OSError) as e:
                self._failed(str(e))
            except Exception as e:
                LOG.exception('Taking events out of the spool failed')
                self._failed(repr(e))
            else:
                self._failing = False
            self._stopping.wait(_POLL)

    def _failed(self, reason: str) -> None:
        if not self._failing:
            LOG.error(
                'What nova-compute reports waits in the spool %s: %s',
                self._spool.directory,
                reason,
            )
        self._failing = True


def _entry(event: violations_spool.Entry) -> violations_journal.Entry:
    # whatever the payload calls itself, the spool's id was checked
    return violations_journal.Entry.made(
        event.event_type,
        event.priority,
        {**event.payload, 'id': event.id},
        event.time,
    )
