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

"""From the journal to the broker: one thread, the guests in turn.

Each guest's events go in their order, one after the other, until the broker
has confirmed them. So the one that makes much noise delays its own. Whoever
has had nothing to send since all was sent comes before the others, once.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
import threading
import time
from typing import Protocol

from oslo_log import log

from nova_isolation import exceptions
from nova_isolation.violations import journal as violations_journal

LOG = log.getLogger(__name__)

# The last of all that can be called a guest.
_LAST = '~'
# Confirmed events that are marked together, and seconds for which one waits
# for others: while the worker writes, a mark waits longer for the journal than
# a send for the broker.
_MARKS = 10
_MARK_AFTER = 0.05
# Seconds after which the journal is looked at without being told to.
_POLL = 1.0
# Seconds between attempts: the first, and the longest.
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 8.0
# Attempts on an event whose sending fails for a reason that is neither the
# broker's nor known: with these pauses some 16 seconds. How many such events
# are remembered.
_ATTEMPTS = 6
_MANY = 1000


class Journal(Protocol):
    """Where the events wait: what a sender needs of a journal."""

    @property
    def path(self) -> str:
        """The journal's file."""

    def next_unsent(
        self, after: str, but: Collection[int]
    ) -> violations_journal.Entry | None:
        """Read the oldest event of the guest whose turn comes after one's."""

    def unsent_of(
        self, instance: str, but: Collection[int]
    ) -> violations_journal.Entry | None:
        """Read the oldest event of a guest."""

    def mark_sent(self, marks: Mapping[int, float]) -> None:
        """Note that the broker has events."""

    def give_up(self, entry: violations_journal.Entry, reason: str) -> None:
        """Note that no broker will ever take an event."""


class Notifier(Protocol):
    """Sends one event, or raises NotSent or CannotBeSent."""

    def send(self, entry: violations_journal.Entry) -> None:
        """Send an event; when this returns, the broker has it."""


class _Broken(Exception):
    """An event could not even be offered to the broker; maybe it can later."""


class Sender:
    """Sends what is in a journal, each guest's in order, and marks it.

    :ivar sent: events that the broker has confirmed
    :ivar given_up: events that no broker will take
    """

    def __init__(
        self,
        journal: Journal,
        notifier: Notifier,
        confirmed: Callable[[violations_journal.Entry], None] = lambda e: None,
    ) -> None:
        """Connect the parts; nothing runs yet.

        :param journal: where the events wait
        :param notifier: sends them
        :param confirmed: told of each event that the broker has
        """
        self._journal = journal
        self._notifier = notifier
        self._confirmed = confirmed
        # whose turn it was: first comes what is about no guest
        self._after = _LAST
        # since all was sent: who has something for the first time and waits
        # for that, and who has had a turn
        self._new: dict[str, None] = {}
        self._served: set[str] = set()
        self._pause = 0.0
        self._failures = 0
        # confirmed and not marked yet, {seq: when}: sent once only
        self._unmarked: dict[int, float] = {}
        # events that fail for no known reason, and how often they have
        self._suspects: dict[str, int] = {}
        self._stopping = False
        self._until = float('inf')
        self._changed = threading.Condition()
        self._news = False
        self._thread = threading.Thread(
            target=self._run, name='sender', daemon=True
        )
        self.sent = 0
        self.given_up = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self, guests: Iterable[str] = ()) -> None:
        """Tell that there is something new in the journal.

        :param guests: whom it is about, as far as that is known: uuids
        """
        with self._changed:
            self._new.update(
                (guest, None)
                for guest in guests
                # what is about none is no guest's
                if guest and guest not in self._served
            )
            self._news = True
            self._changed.notify_all()

    def stop(self, timeout: float) -> None:
        """Stop, when all is sent; what is not stays in the journal.

        :param timeout: seconds to wait at most: a broker that hangs holds
            the thread, which then ends with the process
        """
        with self._changed:
            self._stopping = True
            self._until = time.monotonic() + timeout
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        last = False
        while not last:
            # what came before the end is sent once more
            last = self._stopping
            reason = None
            try:
                self._send_all()
            except exceptions.IsolationError as e:
                reason = e.message
            except _Broken as e:
                reason = str(e)
            except Exception as e:
                LOG.exception('Sending events failed')
                reason = repr(e)
            if reason is not None:
                self._failed(reason)
            self._wait()

    def _send_all(self) -> None:
        # Without the journal nothing is sent: it would be sent for ever.
        self._mark()
        try:
            while entry := self._next():
                if time.monotonic() > self._until:
                    return
                self._send(entry)
                if self._is_to_mark():
                    self._mark()
                if self._failures:
                    LOG.info(
                        'Events are sent again after %d attempts',
                        self._failures,
                    )
                self._failures, self._pause = 0, 0.0
        finally:
            self._mark()

    def _next(self) -> violations_journal.Entry | None:
        """Find what is to be sent next, None when there is nothing."""
        while guest := self._newest():
            entry = self._journal.unsent_of(guest, self._unmarked)
            with self._changed:
                del self._new[guest]
                self._served.add(guest)
            if entry is not None:
                return entry
        entry = self._journal.next_unsent(self._after, self._unmarked)
        with self._changed:
            if entry is None:
                self._served.clear()
            else:
                self._after = entry.instance
                self._served.add(entry.instance)
        return entry

    def _newest(self) -> str | None:
        """Find who has something for the first time since all was sent."""
        with self._changed:
            # what came last has waited for what the others had before
            return next(reversed(self._new), None)

    def _send(self, entry: violations_journal.Entry) -> None:
        try:
            self._notifier.send(entry)
        except exceptions.NotSent:
            # The broker's: whatever comes after would fail too.
            raise
        except exceptions.CannotBeSent as e:
            self._give_up(entry, e.message)
        except Exception as e:
            LOG.exception('The event %s could not be sent', entry.id)
            self._doubt(entry, e)
        else:
            self.sent += 1
            self._unmarked[entry.seq] = time.time()
            self._confirmed(entry)
            LOG.debug('Event %s is with the broker', entry.id)

    def _is_to_mark(self) -> bool:
        if len(self._unmarked) >= _MARKS:
            return True
        now = time.time()
        oldest = next(iter(self._unmarked.values()), now)
        # also when the clock was set
        return abs(now - oldest) > _MARK_AFTER

    def _mark(self) -> None:
        if self._unmarked:
            self._journal.mark_sent(self._unmarked)
            self._unmarked.clear()

    def _doubt(
        self, entry: violations_journal.Entry, error: Exception
    ) -> None:
        """Try an event again, and not for ever: others wait behind it."""
        attempts = self._suspects.get(entry.id, 0) + 1
        if attempts < _ATTEMPTS:
            self._suspects[entry.id] = attempts
            if len(self._suspects) > _MANY:
                del self._suspects[next(iter(self._suspects))]
            # the other guests first
            raise _Broken(repr(error)) from error
        self._suspects.pop(entry.id, None)
        self._give_up(entry, f'{attempts} attempts failed: {error!r}')

    def _give_up(self, entry: violations_journal.Entry, reason: str) -> None:
        self._journal.give_up(entry, reason)
        self.given_up += 1

    def _failed(self, reason: str) -> None:
        # oslo.messaging logs each attempt; this says what it means
        if not self._failures:
            LOG.error(
                'Events cannot be sent and wait in the journal %s: %s',
                self._journal.path,
                reason,
            )
        self._failures += 1
        self._pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, self._pause * 2))

    def _wait(self) -> None:
        """Wait for news; after a failure for as long as the pause says.

        News during a pause do not shorten it: they would be sent after what
        could not be sent.
        """
        with self._changed:
            if self._pause:
                self._changed.wait_for(lambda: self._stopping, self._pause)
            else:
                self._changed.wait_for(
                    lambda: self._stopping or self._news, _POLL
                )
            self._news = False
