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
"""

from collections.abc import Callable
import dataclasses
import os.path
import threading
import time

import libvirt
from oslo_log import log

from nova_isolation.audit import attribution
from nova_isolation import domain as domain_module
from nova_isolation import exceptions

LOG = log.getLogger(__name__)

# All in seconds.
# Between two readings, when somebody waits for one.
_SHORTEST = 1.0
# Between two that nobody asked for. They notice new and vanished guests.
_IDLE = 5.0
# After which also the XML of known guests is read again (hot-plug).
_FULL = 60.0
# How long a guest that is gone is remembered.
_REMEMBERED = 300.0
# Readings may keep libvirtd busy for one part in this many.
_SHARE = 10
# A reading that takes longer than this hangs: nobody waits for it any more.
_HANGS = 2.0


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


class Domains:
    """Knows the guests of this host, a little late at most."""

    def __init__(
        self,
        uri: str,
        state_directory: str,
        connect: Callable[[str], libvirt.virConnect] = libvirt.openReadOnly,
    ) -> None:
        """Name the source; nothing is connected yet.

        :param uri: libvirt's connection URI
        :param state_directory: where libvirt keeps the state of its guests
        :param connect: opens a read-only connection
        """
        self._uri = uri
        self._connect = connect
        self._state_directories = {
            state_directory,
            os.path.realpath(state_directory),
        }
        self._connection: libvirt.virConnect | None = None
        self._away: str | None = None
        self._known: dict[str, _Known] = {}
        self._unreadable: dict[str, str] = {}
        # whether the present reading is a full one
        self._full = True
        self._read_fully = float('-inf')

        self._table = attribution.Table((), self._state_directories)
        self._condition = threading.Condition()
        self._stopped = False
        # a full reading is wanted
        self._wanted = True
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

    def stale(self) -> bool:
        """Tell whether asking libvirt again could be worth its cost.

        :returns: False when the last reading is so young, or took so long,
            that the next has to wait
        """
        pause = max(_SHORTEST, _SHARE * self._lasted)
        return time.monotonic() - self._began > pause

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

    def _run(self) -> None:
        while self._next():
            lost = None
            try:
                self._update(self._read())
            except libvirt.libvirtError as e:
                lost = ' '.join(str(e).split())
            except Exception:
                LOG.exception('Reading the guests from libvirt failed')
            if lost is not None:
                self._lost(lost)
            with self._condition:
                self._ended = self._begun
                self._lasted = time.monotonic() - self._began
                self._condition.notify_all()
        self._close()

    def _update(self, known: dict[str, _Known]) -> None:
        self._known = known
        self._table = attribution.Table(
            (k.guest for k in known.values()), self._state_directories
        )
        if self._full:
            self._read_fully = self._began

    def _next(self) -> bool:
        """Wait until it is time for the next reading; False to stop."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._stopped or self._wanted,
                self._began + _IDLE - time.monotonic(),
            )
            self._condition.wait_for(
                lambda: self._stopped,
                self._began + _SHORTEST - time.monotonic(),
            )
            now = time.monotonic()
            self._full = self._wanted or now - self._read_fully > _FULL
            self._wanted = False
            self._begun += 1
            self._began = now
            return not self._stopped

    def _read(self) -> dict[str, _Known]:
        """Read the guests; a full reading also those that look as before.

        :returns: ``{uuid: _Known}``, with those that vanished of late
        """
        known: dict[str, _Known] = {}
        for listed in self._list():
            # name, uuid and id came with the list
            uuid, number = listed.UUIDString(), listed.ID()
            old = self._known.get(uuid)
            same = old is not None and old.is_running_as(number)
            if self._full or not same:
                old = self._describe(uuid, number, listed)
            if old is not None:
                known[uuid] = old
        for uuid, old in self._known.items():
            if uuid not in known:
                known.update(self._remember(uuid, old))
        return known

    def _list(self) -> list[libvirt.virDomain]:
        if self._connection is not None:
            try:
                listed: list[libvirt.virDomain] = (
                    self._connection.listAllDomains()
                )
                return listed
            except libvirt.libvirtError as e:
                # libvirtd was restarted, as a rule
                LOG.debug('Connecting to libvirt again: %s', e)
                self._close()
        self._connection = self._connect(self._uri)
        listed = self._connection.listAllDomains()
        if self._away:
            LOG.info('libvirt is back at %s', self._uri)
        self._away = None
        return listed

    def _remember(self, uuid: str, old: _Known) -> dict[str, _Known]:
        if old.missed is None:
            guest = attribution.describe(
                old.guest.domain, os.path.realpath, gone=True
            )
            return {uuid: _Known(guest, old.number, missed=self._began)}
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
        try:
            domain = domain_module.parse(xml)
        except exceptions.InvalidDomain as e:
            reason = e.message
        else:
            self._unreadable.pop(uuid, None)
            return _Known(
                attribution.describe(domain, os.path.realpath), number
            )
        if self._unreadable.get(uuid) != reason:
            self._unreadable[uuid] = reason
            LOG.error(
                'The domain %s is not understood, its denials are reported '
                'without its name: %s',
                uuid,
                reason,
            )
        return None

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
        if connection is not None:
            try:
                connection.close()
            except libvirt.libvirtError as e:
                LOG.debug('Closing the connection to libvirt: %s', e)
