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

"""From the spool to the broker: one thread, in order, until confirmed."""

import threading
from typing import Protocol

from oslo_log import log

from nova_isolation import exceptions
from nova_isolation.violations import spool as violations_spool

LOG = log.getLogger(__name__)

# Seconds after which the spool is looked at for what nova-compute left there.
_POLL = 1.0
# Seconds between attempts: the first, and the longest.
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 8.0


class Notifier(Protocol):
    """Sends one event, or raises NotSent."""

    def send(self, entry: violations_spool.Entry) -> None:
        """Send an event; when this returns, the broker has it."""


class Sender:
    """Sends what is in a spool, oldest first, and removes what arrived."""

    def __init__(
        self, spool: violations_spool.Spool, notifier: Notifier
    ) -> None:
        """Connect the parts; nothing runs yet.

        :param spool: where the events wait
        :param notifier: sends them
        """
        self._spool = spool
        self._notifier = notifier
        self._pause = 0.0
        self._failures = 0
        self._stopping = False
        self._changed = threading.Condition()
        self._news = False
        self._thread = threading.Thread(
            target=self._run, name='sender', daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Tell that there is something new in the spool."""
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def stop(self, timeout: float) -> None:
        """Stop; what was not sent stays in the spool.

        :param timeout: seconds to wait at most: a broker that hangs holds
            the thread, which then ends with the process
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping:
            reason = None
            try:
                self._send_all()
            except exceptions.NotSent as e:
                reason = e.message
            except OSError as e:
                reason = f'the spool cannot be used: {e}'
            except Exception as e:
                LOG.exception('Sending events failed')
                reason = repr(e)
            if reason is not None:
                self._failed(reason)
            self._wait()

    def _send_all(self) -> None:
        for entry in self._spool.entries():
            if self._stopping:
                return
            self._notifier.send(entry)
            self._spool.remove(entry)
            LOG.debug('Event %s is with the broker', entry.id)
            if self._failures:
                LOG.info(
                    'The broker is back after %d attempts', self._failures
                )
            self._failures, self._pause = 0, 0.0

    def _failed(self, reason: str) -> None:
        # oslo.messaging logs each attempt; this says what it means
        if not self._failures:
            LOG.error(
                'Events cannot be sent and wait in the spool %s: %s',
                self._spool.directory,
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
