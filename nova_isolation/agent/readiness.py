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

"""systemd is told that the agent is ready, and that it still works.

The protocol is that of sd_notify(3). The agent's worker is a child of the
process that systemd started: the unit says ``NotifyAccess=all``.
"""

from collections.abc import Callable, Mapping
import dataclasses
import os
import socket
import threading
import time

from oslo_log import log

LOG = log.getLogger(__name__)

# Seconds that sending a message may take: systemd itself may hang.
_PATIENCE = 1.0


class Systemd:
    """Sends messages to the service manager, when there is one."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Look where it listens.

        :param environment: of the process: ``NOTIFY_SOCKET``, and
            ``WATCHDOG_USEC`` with ``WATCHDOG_PID``
        """
        address = environment.get('NOTIFY_SOCKET', '')
        if address.startswith('@'):
            # in the abstract namespace
            address = '\0' + address[1:]
        elif not address.startswith('/'):
            address = ''
        self._address = address
        self.interval = _interval(environment) if address else None
        """Seconds until it wants the next sign of life, None for never."""

    def ready(self) -> None:
        """Tell that the service has started."""
        self._send('READY=1')

    def alive(self) -> None:
        """Give a sign of life."""
        self._send('WATCHDOG=1')

    def status(self, words: str) -> None:
        """Tell how it is, for ``systemctl status``.

        :param words: one line
        """
        self._send(f'STATUS={" ".join(words.split())}')

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.settimeout(_PATIENCE)
            try:
                s.connect(self._address)
                s.send(message.encode())
            except OSError as e:
                LOG.warning('systemd was not told %s: %s', message, e)


def _interval(environment: Mapping[str, str]) -> float | None:
    """Tell the interval, when it is meant for this process or its parent."""
    try:
        microseconds = int(environment['WATCHDOG_USEC'])
        pid = int(environment.get('WATCHDOG_PID', os.getpid()))
    except (KeyError, ValueError):
        return None
    if microseconds <= 0 or pid not in (os.getpid(), os.getppid()):
        return None
    return microseconds / 1e6


@dataclasses.dataclass
class _Watched:
    thread: threading.Thread
    limit: float
    beat: float


class Health:
    """Knows whether the threads get on with their work."""

    def __init__(self) -> None:
        """Watch nobody yet."""
        self._watched: list[_Watched] = []

    def watch(
        self, thread: threading.Thread, limit: float
    ) -> Callable[[], None]:
        """Watch a thread.

        :param thread: it has a name
        :param limit: seconds in which it gives a sign of life, also when it
            has nothing to do
        :returns: the function that it calls for that
        """
        watched = _Watched(thread, limit, time.monotonic())
        self._watched.append(watched)

        def beat() -> None:
            watched.beat = time.monotonic()

        return beat

    def complaint(self) -> str:
        """Tell what is wrong.

        :returns: in words; '' when all threads are well
        """
        now = time.monotonic()
        words = []
        for watched in self._watched:
            silence = now - watched.beat
            if not watched.thread.is_alive():
                words.append(f'thread {watched.thread.name} has ended')
            elif silence > watched.limit:
                words.append(
                    f'thread {watched.thread.name} has been stuck for '
                    f'{silence:.0f} s'
                )
        return ', '.join(words)


class Pulse:
    """Gives systemd signs of life, as long as there are any.

    When there are none, systemd ends the agent and starts it anew.
    """

    def __init__(self, systemd: Systemd, complaint: Callable[[], str]) -> None:
        """Connect the parts; nothing runs yet.

        :param systemd: who is told
        :param complaint: tells what is wrong, '' when nothing is
        """
        self._systemd = systemd
        self._complaint = complaint
        self._told = ''
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Tell that the service is ready, and start when there is a watchdog.

        Also a worker that replaces another one tells it: that does no harm.
        """
        self._systemd.ready()
        if self._systemd.interval is not None:
            self._thread = threading.Thread(
                target=self._run,
                args=(self._systemd.interval / 2,),
                name='pulse',
                daemon=True,
            )
            self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop.

        :param timeout: seconds to wait at most
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self, pause: float) -> None:
        # who is told to stop while it starts, has threads that have ended
        while not self._stopping.is_set():
            self.look()
            self._stopping.wait(pause)

    def look(self) -> None:
        """Give a sign of life, or say why there is none."""
        wrong = self._complaint()
        if not wrong:
            self._systemd.alive()
        if wrong != self._told:
            self._told = wrong
            self._systemd.status(wrong or 'working')
            if wrong:
                LOG.error(
                    'The agent does not work, and is to be started anew: %s',
                    wrong,
                )
