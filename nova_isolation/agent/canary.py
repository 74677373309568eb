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

"""The canary: silence is peace only when a denial would be heard.

A thread of the agent tries what the kernel denies it. Its denial has to come
back from the kernel, get into the journal as
:class:`nova_isolation.violations.model.Canary`, and be confirmed by the
broker; where it does not, the whole way is not open, and that is an alarm.

* With AppArmor, it takes a profile that grants nothing and tries to open the
  directory ``/``: labels are those of threads (aa_change_profile(2)), and
  whoever is not confined may take any, also with NoNewPrivs.
* With SELinux, it asks for sockets that have the context of ``/dev/null``
  (setsockcreatecon(3), also of threads), which no policy grants, and for one.

So it needs no program, no child, no privilege and no file. The record is
recognised by the thread's name, which the kernel adds to each as ``comm``.
"""

from collections.abc import Callable
import datetime
import enum
import os
import secrets
import socket
import threading
import time
from typing import Any

from oslo_log import log

from nova_isolation.audit import attempts
from nova_isolation.audit import records
from nova_isolation import exceptions
from nova_isolation import selinux
from nova_isolation.violations import model

LOG = log.getLogger(__name__)

PROFILE = 'nova-isolation-canary'
FILE = f'/etc/apparmor.d/{PROFILE}'

# All in seconds.
# For what happens on this host: to the record, to the journal.
_PATIENCE = 10.0
# For the broker, which may have others to confirm before.
_LONG_PATIENCE = 60.0
# For the thread itself.
_ATTEMPT = 5.0
_THREAD = 'canary'
_HANGS = (
    'the kernel holds it, or this host is overloaded; systemctl kill '
    '--signal=USR2 nova-isolation-agent has the agent log where'
)

# The kernel keeps 15 bytes of a thread's name.
_PREFIX = 'canary-'
_SELF = '/proc/thread-self'
# attr/apparmor since Linux 5.8 or so; attr is that of the first module
_ATTRIBUTES = ('attr/apparmor/current', 'attr/current')


class Stage(enum.Enum):
    """How far a canary has come."""

    TRIED = 'tried'
    HEARD = 'heard'
    JOURNALED = 'journaled'
    CONFIRMED = 'confirmed'


# Why it may have got no further than that.
_CAUSES = {
    Stage.TRIED: (
        'the kernel denied it, and no audit record of it was read. Likely '
        'causes: audit=0 on the kernel\'s command line; a rule of auditctl '
        'that excludes records of type AVC ("auditctl -l"); a full backlog '
        '("auditctl -s"); /sys/module/apparmor/parameters/audit is quiet or '
        'quiet_denied; a dontaudit rule of SELinux (semodule -DB); the agent '
        'does not keep up, or has lost the capability CAP_AUDIT_READ'
    ),
    Stage.HEARD: (
        'its record was read, and is not in the journal: the disk is full or '
        'read-only, or the agent does not keep up; its log has more'
    ),
    Stage.JOURNALED: (
        'it is in the journal, and the broker did not confirm it: RabbitMQ '
        'does not answer, has no resources left, or there is more to send '
        'than it takes'
    ),
}


class Unheard(Exception):
    """The canary cannot even try; the message says why and what to do."""


def is_one(record: records.Record) -> bool:
    """Tell whether a record is of a canary, be it an old one.

    :param record: one that is not of a guest, which may call its threads what
        it likes
    """
    if attempts.is_selinux(record):
        return (record.text('comm') or '').startswith(_PREFIX)
    return record.label == PROFILE


def attempt(token: str) -> None:
    """Have the kernel deny something.

    :param token: the name of the thread that tries it, at most 15 bytes
    :raises Unheard: when it is not denied, or cannot be tried
    """
    try:
        deny = _open if selinux.enforcing() is None else _socket
    except exceptions.HostFault as e:
        raise Unheard(e.message) from e
    if any(thread.name == _THREAD for thread in threading.enumerate()):
        # not one more each time
        raise Unheard(f'the thread that tried it before hangs: {_HANGS}')
    faults: list[str] = []
    thread = threading.Thread(
        target=_try, args=(token, deny, faults), name=_THREAD, daemon=True
    )
    thread.start()
    thread.join(_ATTEMPT)
    if thread.is_alive():
        raise Unheard(f'the thread that tries it hangs: {_HANGS}')
    if faults:
        raise Unheard(faults[0])


def _try(token: str, deny: Callable[[], str], faults: list[str]) -> None:
    # Confined from here on: nothing may be imported, logged or raised, all of
    # which can open files.
    try:
        _write('comm', token.encode())
        fault = deny()
    except PermissionError:
        return
    except BaseException as e:
        fault = repr(e)
    faults.append(fault)


def _open() -> str:
    """Take the profile and open something; tell why that is not denied.

    :raises PermissionError: when it is denied
    """
    if fault := _enter():
        return fault
    os.close(os.open('/', os.O_RDONLY | os.O_CLOEXEC))
    return _ALLOWED


def _socket() -> str:
    """Ask for a socket that is none; tell why that is not denied.

    :raises PermissionError: when it is denied, or already the asking
    """
    try:
        context = os.getxattr('/dev/null', 'security.selinux')
        _write('attr/sockcreate', context)
    except PermissionError:
        raise
    except OSError as e:
        return f'SELinux does not take the context of /dev/null: {e}'
    socket.socket().close()
    return _PERMITTED


_NEITHER = 'the kernel runs without AppArmor, and without SELinux'
_PERMITTED = (
    'SELinux allowed what no policy grants: it is permissive, and confines no '
    "guest (setenforce 1), or only the agent's domain is (semanage permissive "
    '-l)'
)
_ALLOWED = (
    f'the kernel allowed what the profile {PROFILE} does not grant: it is in '
    f'complain mode, or has been changed (apparmor_parser -r {FILE}), or all '
    'profiles of this kernel are in complain mode: '
    '/sys/module/apparmor/parameters/mode. Then no guest is confined'
)


def _enter() -> str:
    """Take the profile; tell why that does not go."""
    for attribute in _ATTRIBUTES:
        try:
            _write(attribute, f'changeprofile {PROFILE}'.encode())
        except FileNotFoundError as e:
            # without a name it is the kernel's answer about the profile
            if e.filename is None:
                return (
                    f'the profile {PROFILE} is not loaded: copy '
                    f'etc/apparmor.d/{PROFILE} of the source to {FILE}, then '
                    f'apparmor_parser -r {FILE}'
                )
        except PermissionError:
            return (
                'the agent is itself confined, by a profile that does not '
                f'let it: add "change_profile -> {PROFILE}," to that'
            )
        except OSError as e:
            return f'{_NEITHER} ({e.strerror})'
        else:
            return ''
    return _NEITHER


def _write(name: str, value: bytes) -> None:
    descriptor = os.open(f'{_SELF}/{name}', os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value)
    finally:
        os.close(descriptor)


class Canary:
    """Sends canaries, one at a time, and says where one ended.

    The pipeline tells it what it sees: :meth:`heard`, :meth:`journaled`,
    :meth:`confirmed`, each cheap and from any thread.
    """

    def __init__(
        self,
        host: str,
        interval: int,
        lost: Callable[[str, datetime.datetime], None],
        attempt: Callable[[str], None] = attempt,
    ) -> None:
        """Connect the parts; nothing runs yet.

        :param host: the name of this host, for the events
        :param interval: ``[isolation] canary_interval``, 0 for none
        :param lost: told of one that ended on its way: why, and since when
            the way may not be open; the ledger's stage ``canary``
        :param attempt: has the kernel deny something, or raises Unheard
        """
        self._host = host
        self._interval = interval
        self._lost = lost
        self._attempt = attempt
        self._lock = threading.Lock()
        # of the present one
        self._token = ''
        self._event: model.Canary | None = None
        self._stage = Stage.CONFIRMED
        self._tried = model.now()
        self._deadline: float | None = None
        self._next = float('-inf')
        # of all
        self._told = ''
        self._last_ok: datetime.datetime | None = None
        self._result = 'none yet'
        self._stopping = threading.Event()
        self._beat: Callable[[], None] = lambda: None
        self._thread = threading.Thread(
            target=self._run, name='canaries', daemon=True
        )

    @property
    def thread(self) -> threading.Thread:
        """The thread, for who watches over it."""
        return self._thread

    def start(self, beat: Callable[[], None] = lambda: None) -> None:
        """Start; the first one is tried at once.

        :param beat: called every second
        """
        self._beat = beat
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop.

        :param timeout: seconds to wait at most
        """
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.check(time.monotonic())
            except Exception:
                LOG.exception('The canary failed')
            self._beat()
            self._stopping.wait(1)

    def check(self, now: float) -> None:
        """Do what is due: say that one did not arrive, or send one.

        :param now: of ``time.monotonic()``
        """
        with self._lock:
            stage = self._stage
            late = self._deadline is not None and now >= self._deadline
            if late:
                self._deadline = None
            # the next would take its place
            under_way = self._deadline is not None
        if late:
            self._failed(stage.value, _CAUSES[stage])
        if self._interval and now >= self._next and not under_way:
            self.begin(now)

    def begin(self, now: float) -> str:
        """Send a canary; the next is due one interval later.

        :param now: of ``time.monotonic()``
        :returns: its token
        """
        token = f'{_PREFIX}{secrets.token_hex(4)}'
        with self._lock:
            self._token, self._event = token, None
            self._next = now + self._interval
            self._stage, self._tried = Stage.TRIED, model.now()
            # also while it is tried: the record may be quicker
            self._deadline = now + _PATIENCE
        try:
            self._attempt(token)
        except Unheard as e:
            with self._lock:
                # whatever is still heard of it says nothing
                self._token, self._event = '', None
                self._deadline = None
            self._failed('not tried', str(e))
        return token

    def heard(self, comm: str | None) -> model.Canary | None:
        """Take a denial of which :func:`is_one` is true.

        Not what was allowed in complain mode (``apparmor="ALLOWED"``) or by a
        permissive SELinux.

        :param comm: of the record
        :returns: the event to be put into the journal; None when it is not
            the present one's record: an old one, or one that was heard before
        """
        with self._lock:
            if not comm or comm != self._token or self._event is not None:
                return None
            self._event = model.Canary(self._host, self._token, self._tried)
            self._reach(Stage.HEARD, _PATIENCE)
            return self._event

    def journaled(self, event_id: str) -> None:
        """Take note that an event is in the journal.

        :param event_id: of any event
        """
        with self._lock:
            if self._is_mine(event_id) and self._stage is Stage.HEARD:
                self._reach(Stage.JOURNALED, _LONG_PATIENCE)

    def confirmed(self, event_id: str) -> None:
        """Take note that the broker has confirmed an event.

        :param event_id: of any event
        """
        with self._lock:
            if not self._is_mine(event_id) or self._stage is Stage.CONFIRMED:
                return
            self._stage, self._deadline = Stage.CONFIRMED, None
            self._last_ok, self._result = model.now(), 'ok'
            told, self._told = self._told, ''
        if told:
            LOG.info('A denial is heard again: the canary arrived')

    def _is_mine(self, event_id: str) -> bool:
        return self._event is not None and self._event.id == event_id

    def _reach(self, stage: Stage, patience: float) -> None:
        self._stage = stage
        # one that was given up may still arrive, and is welcome
        if self._deadline is not None:
            self._deadline = time.monotonic() + patience

    def _failed(self, stage: str, why: str) -> None:
        with self._lock:
            self._result = f'{stage}: {why}'
            if why == self._told:
                return
            self._told = why
            since = self._last_ok or self._tried
        words = (
            f"a denial of the agent's own did not arrive, so others may not "
            f'arrive either: {why}'
        )
        LOG.error('The canary ended (%s): %s', stage, words)
        self._lost(words, since)

    def status(self) -> dict[str, Any]:
        """Tell how it is.

        :returns: ``result``: ``ok``, ``off``, ``none yet`` or what went wrong;
            ``last_ok`` and ``tried``: ISO 8601 in UTC, or None; ``arrived``:
            ``last_ok`` in seconds since 1970, or None
        """
        with self._lock:
            began = self._next != float('-inf')
            tried = self._tried if began else None
            return {
                'result': self._result if self._interval else 'off',
                'last_ok': self._last_ok and model.iso(self._last_ok),
                'tried': tried and model.iso(tried),
                'arrived': self._last_ok and self._last_ok.timestamp(),
            }
