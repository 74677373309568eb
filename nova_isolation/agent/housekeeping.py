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

"""What is to be done every few seconds, in a thread of its own.

The journal loses what is too old, and the kernel is asked what it lost.
"""

import collections
from collections.abc import Callable
import threading
import time

from oslo_log import log

from nova_isolation.agent import ledger as agent_ledger
from nova_isolation.audit import backfill
from nova_isolation.audit import kmsg
from nova_isolation.audit import lines
from nova_isolation.audit import netlink
from nova_isolation import exceptions
from nova_isolation.violations import journal as violations_journal

LOG = log.getLogger(__name__)

#: the name of the journal's value that says what the kernel had lost: the
#: id of the boot, a space, its counter
LOST = 'kernel lost'

_PAUSE = 5.0
_COUNTER = 2**32
# Looks after which what was lost is surely announced.
_ANNOUNCED = 3
_REASON = (
    'the kernel dropped audit records: too many waited for auditd (auditctl '
    '-s: backlog_limit), came in a second (rate_limit), or it had no memory; '
    'they need not be denials'
)


class Housekeeper:
    """Keeps the journal small, and follows the kernel's own losses."""

    def __init__(
        self,
        journal: violations_journal.Journal,
        ledger: agent_ledger.Ledger,
    ) -> None:
        """Connect the parts; nothing runs yet.

        :param journal: what is kept small
        :param ledger: told of what the kernel lost
        """
        self._journal = journal
        self._ledger = ledger
        self._log: kmsg.KernelLog | None = None
        self._asking = True
        self._lost: int | None = None
        # the counter at the last looks, and what the journal has of it
        self._looks: collections.deque[int] = collections.deque(
            maxlen=_ANNOUNCED
        )
        self._kept: int | None = None
        self._failing: dict[str, str] = {}
        self._beat: Callable[[], None] = lambda: None
        self._stopping = threading.Event()
        self.thread = threading.Thread(
            target=self._run, name='housekeeper', daemon=True
        )

    def start(self, beat: Callable[[], None] = lambda: None) -> None:
        """Start the thread.

        :param beat: called every few seconds
        """
        self._beat = beat
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """Stop.

        :param timeout: seconds to wait at most
        """
        self._stopping.set()
        if self.thread.is_alive():
            self.thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._beat()
            self.look()
            self._stopping.wait(_PAUSE)
        if self._log is not None:
            self._log.close()

    def look(self) -> None:
        """Do all of it once; no part keeps another from its work."""
        self._do('Nothing old is deleted', self._expire)
        self._do('What the kernel itself loses is not known', self._ask)

    def _do(self, otherwise: str, task: Callable[[], None]) -> None:
        cause = ''
        try:
            task()
        except exceptions.IsolationError as e:
            cause = e.message
        except lines.Unavailable as e:
            cause = str(e)
        except Exception as e:
            LOG.exception('Keeping house failed')
            cause = repr(e)
        if cause and cause != self._failing.get(otherwise):
            LOG.error('%s: %s', otherwise, cause)
        self._failing[otherwise] = cause

    def _expire(self) -> None:
        expired = self._journal.expire(time.time())
        # the journal has announced it
        self._ledger.note('retention', expired.lost)

    def _ask(self) -> None:
        """Compare the kernel's counter with what it was."""
        lost = self._counter()
        if lost is None:
            return
        if self._lost is None:
            self._kept = self._before()
            # before the agent came to this host, it answers for nothing
            self._lost = lost if self._kept is None else self._kept
        if lost != self._lost:
            more = (lost - self._lost) % _COUNTER
            # somebody has set it back
            if more > _COUNTER // 2:
                more = lost
            self._ledger.lost('kernel', more, _REASON)
        self._lost = lost
        self._keep()

    def _counter(self) -> int | None:
        """Read the counter, from where this process may."""
        if self._asking:
            status = netlink.status()
            if status is not None:
                return status.lost
            # without the capability it says so once
            self._asking = False
            self._log = kmsg.KernelLog()
            # its last word may be older than what the kernel said
            if self._lost is not None:
                self._lost = self._log.lost() or 0
        # it prints nothing before it has lost something
        return None if self._log is None else self._log.lost() or 0

    def _before(self) -> int | None:
        """Tell what the counter was when an earlier agent ended.

        None when there was none.
        """
        boot, _, counter = (self._journal.state(LOST) or '').partition(' ')
        if not counter.isdecimal():
            return None
        # that of another boot began anew since
        return int(counter) if boot == backfill.boot_id() else 0

    def _keep(self) -> None:
        """Note what is announced, for the next agent."""
        assert self._lost is not None
        self._looks.append(self._lost)
        if self._looks[0] != self._kept and len(self._looks) == _ANNOUNCED:
            self._journal.commit(
                state={LOST: f'{backfill.boot_id()} {self._looks[0]}'}
            )
            self._kept = self._looks[0]
