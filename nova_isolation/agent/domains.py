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

"""The table of this host's guests, kept from what libvirt tells.

The thin edge between libvirt and :mod:`nova_isolation.audit.attribution`. All
calls to libvirt happen in one thread of their own: they block in C, for ever
when libvirtd hangs, and who asks for the table waits only as long as it says.
libvirt's events (a guest starts, stops, gets a device) come in the thread of
libvirt's event loop, which only takes down whom they are about. Without events
the guests are read again and again.
"""

from collections.abc import Callable, Iterable, Mapping
import contextlib
import dataclasses
import os.path
import threading
import time
from typing import Any

import libvirt
from oslo_log import log

from nova_isolation.apparmor import grants
from nova_isolation.audit import attribution
from nova_isolation import domain as domain_module
from nova_isolation import exceptions
from nova_isolation import hostfacts
from nova_isolation import images
from nova_isolation import neighbours
from nova_isolation import processes

LOG = log.getLogger(__name__)

# All in seconds.
# Between two readings of all guests, when somebody waits for one.
_SHORTEST = 1.0
# Between two readings of those that events were about.
_QUICK = 0.05
# Between two that nobody asked for. They notice new and vanished guests: as
# long as events tell of these, they are a safety net.
_IDLE = 5.0
_IDLE_WITH_EVENTS = 60.0
# After which also the XML of known guests is read again (hot-plug).
_FULL = 60.0
_FULL_WITH_EVENTS = 900.0
# How long a guest that is gone is remembered.
_REMEMBERED = 3600.0
# How many guests are known at most, those that are gone included.
_MOST = 5000
# Readings may keep libvirtd busy for one part in this many.
_SHARE = 10
# A reading that takes longer than this hangs: nobody waits for it any more.
_HANGS = 2.0
# How long a reading waits for the event loop to catch up.
_SETTLE = 0.1
# Between two questions whether libvirtd lives, and after how many of them
# without an answer the connection is given up.
_KEEPALIVE = 5
_UNANSWERED = 3
# The event loop looks around at least that often.
_LOOP = 30.0

# After these, a guest is read again; not every libvirt has all of them.
_EVENTS = tuple(
    number
    for number in (
        getattr(libvirt, f'VIR_DOMAIN_EVENT_ID_{name}', None)
        for name in (
            'LIFECYCLE',
            'DEVICE_ADDED',
            'DEVICE_REMOVED',
            'BLOCK_JOB_2',
            'DISK_CHANGE',
            'TRAY_CHANGE',
            'METADATA_CHANGE',
        )
    )
    if number is not None
)

#: Keeps guests for the next start of the agent: {uuid: JSON of the guest as
#: :meth:`attribution.Guest.to_json` writes it, or None to forget it}
Remember = Callable[[Mapping[str, str | None]], None]


@dataclasses.dataclass(frozen=True)
class _Known:
    """A guest as it was last seen.

    :ivar number: libvirt's id of the running domain, -1 when it is off
    :ivar missed: monotonic time at which libvirt did not list it any more
    """

    guest: attribution.Guest
    number: int
    missed: float | None = None

    def is_running_as(self, number: int) -> bool:
        return self.missed is None and self.number == number


class _EventLoop:
    """libvirt's event loop; there can be one in a process.

    Its thread ends with the process: virEventRunDefaultImpl() cannot be
    stopped while connections may need it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start it, when it does not run."""
        with self._lock:
            if self._thread is None:
                # before any connection is opened
                libvirt.virEventRegisterDefaultImpl()
                self._thread = threading.Thread(
                    target=self._run, name='libvirt-events', daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        libvirt.virEventAddTimeout(
            int(_LOOP * 1000), lambda timer, opaque: None, None
        )
        while True:
            try:
                libvirt.virEventRunDefaultImpl()
            except Exception:
                LOG.exception("libvirt's event loop failed")
                time.sleep(1)

    def settle(self, timeout: float) -> None:
        """Wait until what has arrived was handed out.

        :param timeout: seconds to wait at most
        """
        done = threading.Event()

        def ring(timer: int, opaque: object) -> None:
            libvirt.virEventRemoveTimeout(timer)
            done.set()

        libvirt.virEventAddTimeout(0, ring, None)
        done.wait(timeout)


_LOOP_OF_PROCESS = _EventLoop()


class Domains:
    """Knows the guests of this host, a little late at most."""

    def __init__(
        self,
        uri: str,
        state_directory: str,
        connect: Callable[[str], libvirt.virConnect] = libvirt.openReadOnly,
        *,
        places: grants.Places | None = None,
        remember: Remember | None = None,
        remembered: Iterable[str] = (),
        opened: Callable[[], int] = lambda: 0,
    ) -> None:
        """Name the source; nothing is connected yet.

        :param uri: libvirt's connection URI
        :param state_directory: where libvirt keeps the state of its guests
        :param connect: opens a read-only connection
        :param places: directories of this host's libvirt; None for the usual
            ones
        :param remember: called in the thread that reads, with what changed;
            what it raises is logged, and the same is tried again
        :param remembered: what was remembered before: JSON of guests, in any
            order
        :param opened: tells how often the store was opened: each time it may
            be a new one
        """
        self._uri = uri
        self._connect = connect
        self._places = places or grants.Places(state=state_directory)
        self._state_directories = {
            place
            for directory in (state_directory, self._places.runtime)
            for place in (directory, os.path.realpath(directory))
        }
        self._granting = grants.Granting(
            images.NOWHERE,
            hostfacts.HostFacts(),
            self._places,
            connections=True,
        )
        self._remember_changes = remember
        self._opened = opened
        self._connection: libvirt.virConnect | None = None
        # of the connection; None without events
        self._callbacks: list[int] | None = None
        self._away: str | None = None
        self._unreadable: dict[str, str] = {}
        self._known = self._restored(remembered)
        # what the store has of each guest, as far as it is not gone
        self._stored = {uuid: k.guest for uuid, k in self._known.items()}
        # the opening of the store that has them
        self._stored_in = opened()
        self._storing_failed = False
        # of the present reading: of all guests, also their XML; or only those
        # that events were about
        self._full = True
        self._partial = False
        self._read_fully = float('-inf')
        self._listed = float('-inf')

        self._table = self._made(self._known)
        self._condition = threading.Condition()
        self._stopped = False
        # a reading is wanted
        self._wanted = True
        # uuids of guests that events were about
        self._changed: set[str] = set()
        # the connection is lost
        self._lost_connection = False
        # readings begun and ended
        self._begun = 0
        self._ended = 0
        # of the last one: monotonic time and length
        self._began = float('-inf')
        self._lasted = 0.0
        self._thread = threading.Thread(
            target=self._run, name='domains', daemon=True
        )

    def start(self) -> None:
        """Start to read."""
        # else libvirt prints every error on the standard error stream
        libvirt.registerErrorHandler(lambda context, error: None, None)
        _LOOP_OF_PROCESS.start()
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop to read.

        :param timeout: seconds to wait for it; when libvirtd hangs, the
            thread ends with the process
        """
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def table(self) -> attribution.Table:
        """The newest table, without waiting."""
        return self._table

    def running(self) -> list[tuple[str, str, int]]:
        """List the guests that run, without waiting.

        :returns: uuid, libvirt's name and libvirt's id of each
        """
        return [
            (guest.uuid, guest.name, guest.id)
            for guest in self._table.running()
            if guest.id is not None
        ]

    def stale(self) -> bool:
        """Tell whether guests may have changed since the table was made.

        :returns: True while something that libvirt has told is not in it yet;
            without its events, when the last reading is neither young nor
            took so long that the next has to wait
        """
        now = time.monotonic()
        if self._begun > self._ended:
            # nobody waits for one that hangs
            return now - self._began <= _HANGS
        if self._callbacks is not None:
            return bool(self._changed)
        return now - self._began > max(_SHORTEST, _SHARE * self._lasted)

    def fresh(self, timeout: float) -> attribution.Table:
        """Wait for a table whose reading begins after this call.

        :param timeout: seconds to wait at most
        :returns: that table; the newest when there is none in that time, at
            once when libvirtd is known to hang
        """
        with self._condition:
            running = self._begun > self._ended
            if running and time.monotonic() - self._began > _HANGS:
                return self._table
            wanted = self._begun + 1
            self._wanted = True
            self._condition.notify_all()
            self._condition.wait_for(
                lambda: self._ended >= wanted or self._stopped, timeout
            )
            return self._table

    def _happened(
        self, connection: libvirt.virConnect, domain: Any, *details: object
    ) -> None:
        """Take down that a guest has changed."""
        uuid = domain.UUIDString()
        with self._condition:
            self._changed.add(uuid)
            self._condition.notify_all()

    def _closed(
        self, connection: libvirt.virConnect, reason: int, opaque: object
    ) -> None:
        """Take down that the connection is lost."""
        with self._condition:
            if connection is self._connection:
                self._lost_connection = True
                self._condition.notify_all()

    def _run(self) -> None:
        while self._next():
            lost = None
            try:
                self._update(self._read())
            except libvirt.libvirtError as e:
                lost = ' '.join(str(e).split())
            except Exception:
                LOG.exception('Reading the guests from libvirt failed')
                # what events told is lost with it
                self._read_fully = float('-inf')
            if lost is not None:
                self._lost(lost)
            with self._condition:
                self._ended = self._begun
                self._lasted = time.monotonic() - self._began
                self._condition.notify_all()
            self._store()
        self._close()

    def _next(self) -> bool:
        """Wait until it is time for the next reading; False to stop."""
        with self._condition:
            events = self._callbacks is not None
            idle = _IDLE_WITH_EVENTS if events else _IDLE
            if self._connection is None:
                # what happens until it is back is not known: try soon
                idle = _SHORTEST
            self._condition.wait_for(
                lambda: (
                    self._stopped
                    or self._wanted
                    or bool(self._changed)
                    or self._lost_connection
                ),
                max(0.0, self._listed + idle - time.monotonic())
                if events
                else self._began + idle - time.monotonic(),
            )
            pause = max(_QUICK, _SHARE * self._lasted) if events else _SHORTEST
            self._condition.wait_for(
                lambda: self._stopped,
                min(pause, _SHORTEST) + self._began - time.monotonic(),
            )
            now = time.monotonic()
            if self._callbacks is None:
                self._full = self._wanted or now - self._read_fully > _FULL
                self._partial = False
            else:
                self._full = now - self._read_fully > _FULL_WITH_EVENTS
                self._partial = not (
                    self._full
                    or self._wanted
                    or self._lost_connection
                    or now - self._listed >= idle
                )
            self._wanted = False
            self._begun += 1
            self._began = now
            return not self._stopped

    def _update(self, known: dict[str, _Known]) -> None:
        self._known = self._bounded(known)
        self._table = self._made(self._known)
        if not self._partial:
            self._listed = self._began
        if self._full:
            self._read_fully = self._began

    def _made(self, known: Mapping[str, _Known]) -> attribution.Table:
        return attribution.Table(
            (k.guest for k in known.values()), self._state_directories
        )

    def _bounded(self, known: dict[str, _Known]) -> dict[str, _Known]:
        """Forget those that are gone longest when there are too many."""
        surplus = len(known) - _MOST
        if surplus <= 0:
            return known
        gone = sorted(
            (k.missed, uuid)
            for uuid, k in known.items()
            if k.missed is not None
        )
        for _, uuid in gone[:surplus]:
            del known[uuid]
        return known

    def _read(self) -> dict[str, _Known]:
        """Read the guests; a full reading also those that look as before.

        :returns: ``{uuid: _Known}``, with those that vanished of late
        """
        if self._lost_connection:
            self._close()
        if self._connection is not None:
            try:
                return self._read_from(self._connection)
            except libvirt.libvirtError as e:
                # libvirtd was restarted, as a rule
                LOG.debug('Connecting to libvirt again: %s', e)
                self._close()
        self._open()
        assert self._connection is not None
        return self._read_from(self._connection)

    def _open(self) -> None:
        # what happened before is not told by events
        self._full, self._partial = True, False
        self._connection = self._connect(self._uri)
        self._follow(self._connection)

    def _follow(self, connection: libvirt.virConnect) -> None:
        """Have libvirt tell what happens; without that, it is asked."""
        with contextlib.suppress(libvirt.libvirtError):
            # not every driver has it
            connection.setKeepAlive(_KEEPALIVE, _UNANSWERED)
        with contextlib.suppress(libvirt.libvirtError):
            connection.registerCloseCallback(self._closed, None)
        callbacks = []
        for event in _EVENTS:
            try:
                callbacks.append(
                    connection.domainEventRegisterAny(
                        None, event, self._happened, None
                    )
                )
            except libvirt.libvirtError as e:
                if event == libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE:
                    LOG.warning(
                        'libvirt at %s tells of no events, its guests are '
                        'read every %d seconds: %s',
                        self._uri,
                        _IDLE,
                        e,
                    )
                    return
                LOG.debug('libvirt has no event %d: %s', event, e)
        self._callbacks = callbacks

    def _read_from(self, connection: libvirt.virConnect) -> dict[str, _Known]:
        if self._callbacks is not None:
            _LOOP_OF_PROCESS.settle(_SETTLE)
        with self._condition:
            changed, self._changed = self._changed, set()
        try:
            if self._partial:
                return self._read_some(connection, changed)
            return self._read_all(connection, changed)
        except Exception:
            with self._condition:
                self._changed |= changed
            raise

    def _read_some(
        self, connection: libvirt.virConnect, changed: set[str]
    ) -> dict[str, _Known]:
        known = dict(self._known)
        for uuid in changed:
            found = None
            try:
                listed = connection.lookupByUUIDString(uuid)
                found = self._describe(uuid, listed.ID(), listed)
            except libvirt.libvirtError as e:
                if e.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                    raise
            old = known.pop(uuid, None)
            if found is not None:
                known[uuid] = found
            elif old is not None:
                known.update(self._remember(uuid, old))
        return known

    def _read_all(
        self, connection: libvirt.virConnect, changed: set[str]
    ) -> dict[str, _Known]:
        known: dict[str, _Known] = {}
        for listed in connection.listAllDomains():
            # name, uuid and id came with the list
            uuid, number = listed.UUIDString(), listed.ID()
            old = self._known.get(uuid)
            same = old is not None and old.is_running_as(number)
            if self._full or not same or uuid in changed:
                old = self._describe(uuid, number, listed)
            if old is not None:
                known[uuid] = old
        if self._away:
            LOG.info('libvirt is back at %s', self._uri)
        self._away = None
        for uuid, old in self._known.items():
            if uuid not in known:
                known.update(self._remember(uuid, old))
        return known

    def _remember(self, uuid: str, old: _Known) -> dict[str, _Known]:
        if old.missed is None:
            left = old.guest.left()
            return {uuid: _Known(left, old.number, missed=self._began)}
        if self._began - old.missed > _REMEMBERED:
            return {}
        return {uuid: old}

    def _describe(
        self, uuid: str, number: int, listed: libvirt.virDomain
    ) -> _Known | None:
        try:
            xml = listed.XMLDesc()
        except libvirt.libvirtError as e:
            if e.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise
        old = self._known.get(uuid)
        try:
            domain, kept = domain_module.parse(xml), None
        except exceptions.InvalidDomain as e:
            self._complain(uuid, e.message)
            domain, kept = _outline(listed, xml), old
        else:
            self._unreadable.pop(uuid, None)
        guest = attribution.describe(
            domain,
            os.path.realpath,
            self._resources(domain),
            self._processes(domain),
        )
        if kept is not None:
            # of another life of it, some is another guest's by now
            before = kept.guest
            if not kept.is_running_as(number):
                before = before.left()
            guest = dataclasses.replace(
                guest, files=before.files, directories=before.directories
            )
        if old is not None and guest.id is None and not guest.level:
            # a denial may be read after its end
            guest = dataclasses.replace(guest, level=old.guest.level)
        return _Known(guest, number)

    def _complain(self, uuid: str, reason: str) -> None:
        """Log once why a domain is not understood."""
        if self._unreadable.get(uuid) != reason:
            self._unreadable[uuid] = reason
            LOG.error(
                'The domain %s is not understood, which files are its own is '
                'not known: %s',
                uuid,
                reason,
            )

    def _resources(
        self, domain: domain_module.Domain
    ) -> tuple[neighbours.Resource, ...]:
        """Find what a guest has that its XML does not name by its path."""
        try:
            return self._granting.resources(domain)
        except (exceptions.IsolationError, OSError, ValueError) as e:
            LOG.debug('The devices of %s are not known: %s', domain.uuid, e)
            return ()

    def _processes(self, domain: domain_module.Domain) -> tuple[int, ...]:
        if domain.id is None:
            return ()
        try:
            found = processes.find(
                self._places.runtime, domain.name, domain.uuid
            )
        except (exceptions.IsolationError, OSError) as e:
            LOG.debug('The process of %s is not known: %s', domain.uuid, e)
            return ()
        return (found.pid,)

    def _lost(self, message: str) -> None:
        if self._away != message:
            self._away = message
            LOG.error(
                'libvirt does not answer at %s, guests are reported by what '
                'was known of them: %s',
                self._uri,
                message,
            )
        self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        callbacks, self._callbacks = self._callbacks, None
        with self._condition:
            self._lost_connection = False
            # the next one begins with a full reading
            self._changed = set()
        if connection is None:
            return
        for number in callbacks or ():
            with contextlib.suppress(libvirt.libvirtError):
                connection.domainEventDeregisterAny(number)
        with contextlib.suppress(libvirt.libvirtError):
            connection.unregisterCloseCallback()
        try:
            connection.close()
        except libvirt.libvirtError as e:
            LOG.debug('Closing the connection to libvirt: %s', e)

    def _restored(self, remembered: Iterable[str]) -> dict[str, _Known]:
        """Take in what the agent knew before it was restarted.

        Until libvirt answers, the guests are believed to be as they were.
        """
        known: dict[str, _Known] = {}
        now = time.monotonic()
        for text in remembered:
            if len(known) == _MOST:
                break
            try:
                guest = attribution.Guest.from_json(text)
            except ValueError as e:
                LOG.warning('A remembered guest is not understood: %s', e)
                continue
            number = -1 if guest.id is None else guest.id
            missed = now if guest.gone else None
            known[guest.uuid] = _Known(guest, number, missed)
        return known

    def _store(self) -> None:
        """Have the guests that changed remembered; in a new store, all."""
        if self._remember_changes is None:
            return
        # before it is written, which may open it
        opened = self._opened()
        anew = opened != self._stored_in
        now = {uuid: known.guest for uuid, known in self._known.items()}
        changes: dict[str, str | None] = {
            uuid: guest.to_json()
            for uuid, guest in now.items()
            if anew or self._stored.get(uuid) != guest
        }
        changes |= {uuid: None for uuid in self._stored if uuid not in now}
        if not changes:
            return
        try:
            self._remember_changes(changes)
        except Exception as e:
            if not self._storing_failed:
                LOG.error('The guests cannot be remembered: %s', e)
            self._storing_failed = True
            return
        self._storing_failed = False
        self._stored, self._stored_in = now, opened


def _outline(listed: libvirt.virDomain, xml: str) -> domain_module.Domain:
    """Tell who a guest is whose XML is not understood."""
    try:
        return domain_module.outline(xml)
    except exceptions.InvalidDomain:
        # it came with the list
        number = listed.ID()
        return domain_module.Domain(
            listed.UUIDString(), listed.name(), None if number < 0 else number
        )
