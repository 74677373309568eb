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

"""Events that wait on the disk until the broker has them.

One directory, one JSON file per event. nova-compute only puts, the agent puts
its own and is the only one that takes: what one writes is complete as soon as
it has its name, so no lock is needed between the two. A spool survives the
broker, the agent and the host.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import errno
import json
import os
import re
import stat
import threading
import time
from typing import Any

from oslo_log import log

from nova_isolation import exceptions
from nova_isolation.violations import model

LOG = log.getLogger(__name__)

# nanoseconds, writing process, event: sorts by age
_NAME = re.compile(r'[0-9]{20}-[0-9]{1,10}-([0-9a-f-]{36})\.json')
_SUFFIX = '.json'
_TEMPORARY = '.new'
_BAD = '.bad'
# What did not fit: a line for each event, and the same when it is being told.
_DROPPED = 'dropped'
_TELLING = re.compile(r'dropped-([0-9a-f-]{36})')
# Bytes of it at most: what is beyond is not counted any more.
_MOST_DROPPED = 1024**2

# Bytes; an event has a few KiB, a path in it at most some 16.
_LARGEST = 256 * 1024
# Seconds since the epoch; datetime ends with the year 9999.
_END_OF_TIME = 250e9
# Seconds after which a file that nobody finished belongs to a dead process.
_ABANDONED = 3600
# Seconds that a full spool is taken to be full without counting again.
_FULL = 0.1


@dataclasses.dataclass(frozen=True)
class Entry:
    """An event in the spool.

    :ivar name: the file's name in the directory
    :ivar id: the event's id
    :ivar time: when it was put there, seconds since the epoch
    """

    name: str
    id: str
    time: float
    event_type: str
    priority: str
    payload: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Events that did not fit into the spool.

    :ivar id: a uuid of its own
    :ivar count: how many, None when there were too many to be counted
    :ivar first: when the first was to be put, seconds since the epoch
    :ivar last: likewise the last
    """

    id: str
    count: int | None
    first: float
    last: float


class Spool:
    """A bounded directory of events; for the threads of one process.

    Several processes may put, one may take.
    """

    def __init__(self, directory: str, limit: int) -> None:
        """Name a spool; nothing is touched yet.

        :param directory: absolute path; created when it is needed
        :param limit: events that it holds at most. With N processes that put
            it may become N-1 more.
        """
        self.directory = directory
        self._limit = limit
        self._lock = threading.Lock()
        self._last = 0
        # how many may be put before the directory is counted again
        self._free = 0
        self._full_until = 0.0

    def put(
        self, event_type: str, priority: str, payload: dict[str, Any]
    ) -> str:
        """Write an event: when this returns, it is on the disk.

        :param event_type: e.g. ``isolation.refused``
        :param priority: ``info``, ``warn`` or ``error``
        :param payload: JSON types; its ``id`` is the event's
        :returns: the event's id
        :raises SpoolFull: when the spool holds as many as it may
        :raises OSError: when the directory cannot be written
        """
        identity = str(payload.get('id') or model.new_id())
        with self._lock, self._open(create=True) as directory:
            try:
                self._claim(directory)
            except exceptions.SpoolFull:
                with contextlib.suppress(OSError):
                    _note_dropped(directory, self._stamp())
                raise
            stamp = self._stamp()
            name = f'{stamp:020d}-{os.getpid()}-{identity}{_SUFFIX}'
            if not _NAME.fullmatch(name):
                raise ValueError(f'the id of an event is a uuid: {identity!r}')
            content = json.dumps(
                {
                    'id': identity,
                    'time': stamp / 1e9,
                    'event_type': event_type,
                    'priority': priority,
                    'payload': payload,
                }
            ).encode()
            if len(content) > _LARGEST:
                raise ValueError(
                    f'an event of {len(content)} bytes is more than the '
                    f'{_LARGEST} that a spool takes'
                )
            _write(directory, name, content)
            self._free -= 1
        return identity

    def put_event(self, event: model.Event) -> str:
        """Write an event of the model: see :meth:`put`.

        :param event: e.g. a :class:`~nova_isolation.violations.model.Refused`
        :returns: the event's id
        :raises SpoolFull: when the spool holds as many as it may
        :raises OSError: when the directory cannot be written
        """
        return self.put(event.event_type, event.priority, event.payload())

    def entries(self) -> Iterator[Entry]:
        """Read what is there now, oldest first.

        What is broken is put aside under its name with ``.bad`` appended, is
        named in the log, and holds nothing up.

        :returns: an iterator of :class:`Entry`
        :raises OSError: when the directory cannot be read now
        """
        try:
            directory = self._directory(create=False)
        except FileNotFoundError:
            return
        try:
            for name in sorted(_names(directory)):
                try:
                    entry = _read(directory, name)
                except FileNotFoundError:
                    continue
                except _Broken as e:
                    broken = f'{self.directory}: {e}'
                else:
                    yield entry
                    continue
                _put_aside(directory, name, broken)
        finally:
            os.close(directory)

    def remove(self, entry: Entry) -> None:
        """Forget an event that the broker has.

        :param entry: the event
        :raises OSError: when the directory cannot be written
        """
        with self._open(create=False) as directory:
            # When the host fails before this is on the disk, the event is
            # sent again with the same id: no reason to wait for a disk here.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=directory)

    def dropped(self) -> list[Dropped]:
        """Tell what did not fit, until :meth:`forget`.

        What was dropped since the last call is told by the next one: who
        writes it down is done by then.

        :returns: what is to be announced
        :raises OSError: when the directory cannot be read or written
        """
        try:
            directory = self._directory(create=False)
        except FileNotFoundError:
            return []
        try:
            found = [
                _dropped(directory, name, match[1])
                for name in sorted(os.listdir(directory))
                if (match := _TELLING.fullmatch(name))
            ]
            with contextlib.suppress(FileNotFoundError):
                os.rename(
                    _DROPPED,
                    f'{_DROPPED}-{model.new_id()}',
                    src_dir_fd=directory,
                    dst_dir_fd=directory,
                )
            return found
        finally:
            os.close(directory)

    def forget(self, dropped: Dropped) -> None:
        """Forget what did not fit, because it is announced.

        :param dropped: of what :meth:`dropped` gave
        :raises OSError: when the directory cannot be written
        """
        with self._open(create=False) as directory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f'{_DROPPED}-{dropped.id}', dir_fd=directory)

    def clean(self) -> None:
        """Remove what processes left that died while they wrote.

        :raises OSError: when the directory cannot be read or written
        """
        with self._open(create=True) as directory:
            for name in os.listdir(directory):
                if not name.endswith(_TEMPORARY):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    state = os.lstat(name, dir_fd=directory)
                    if (
                        stat.S_ISREG(state.st_mode)
                        and time.time() - state.st_mtime > _ABANDONED
                    ):
                        os.unlink(name, dir_fd=directory)

    @contextlib.contextmanager
    def _open(self, *, create: bool) -> Iterator[int]:
        try:
            directory = self._directory(create=create)
            try:
                yield directory
            finally:
                os.close(directory)
        except OSError as e:
            if e.errno != errno.EROFS:
                raise
            raise OSError(
                e.errno,
                f'{e.strerror}. Where only systemd makes it so, let the unit '
                f'say ReadWritePaths={self.directory} (systemctl edit)',
                e.filename,
            ) from e

    def _directory(self, *, create: bool) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            return os.open(self.directory, flags)
        except FileNotFoundError:
            if not create:
                raise
        os.makedirs(self.directory, 0o750, exist_ok=True)
        return os.open(self.directory, flags)

    def _claim(self, directory: int) -> None:
        """Make sure that one more event fits.

        Reading a directory of ten thousand names for each event would cost
        more than the event. So half of what is free may be put before it is
        read again: the other process may do the same with the other half.
        """
        if self._free > 0:
            return
        if time.monotonic() >= self._full_until:
            free = self._limit - sum(1 for _ in _names(directory))
            self._free = (free + 1) // 2
            if self._free > 0:
                return
            self._full_until = time.monotonic() + _FULL
        raise exceptions.SpoolFull(
            f'the spool {self.directory} holds {self._limit} events that the '
            f'broker did not take yet'
        )

    def _stamp(self) -> int:
        # a clock that is set back does not reorder what one process puts
        self._last = max(time.time_ns(), self._last + 1)
        return self._last


def _note_dropped(directory: int, stamp: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(_DROPPED, flags, 0o640, dir_fd=directory)
    try:
        if os.fstat(file).st_size < _MOST_DROPPED:
            os.write(file, b'%020d\n' % stamp)
    finally:
        os.close(file)


def _dropped(directory: int, name: str, identity: str) -> Dropped:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(name, flags, dir_fd=directory)
    with open(file, 'rb') as stream:
        content = stream.read(_MOST_DROPPED)
    # an unfinished line counts, too: somebody was about to write it
    times = [int(line) for line in content.split() if line.isdigit()]
    now = time.time_ns()
    if not times or not all(0 <= each <= now for each in times):
        times = [now]
    return Dropped(
        identity,
        None if len(content) >= _MOST_DROPPED else len(content.splitlines()),
        min(times) / 1e9,
        max(times) / 1e9,
    )


class _Broken(Exception):
    """What stands there is no event; the message says why."""


def _names(directory: int) -> Iterator[str]:
    return (n for n in os.listdir(directory) if n.endswith(_SUFFIX))


def _write(directory: int, name: str, content: bytes) -> None:
    temporary = name + _TEMPORARY
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file = os.open(temporary, flags, 0o640, dir_fd=directory)
        with open(file, 'wb') as stream:
            # Whatever the umask of nova-compute is; where the file system has
            # owners of its own, the narrower mode stays.
            with contextlib.suppress(PermissionError):
                os.fchmod(file, 0o640)
            stream.write(content)
            stream.flush()
            os.fsync(file)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


def _read(directory: int, name: str) -> Entry:
    named = _NAME.fullmatch(name)
    if named is None:
        raise _Broken('its name is not that of an event')
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(name, flags, dir_fd=directory)
    except OSError as e:
        # A shortage (EMFILE, EIO, …) is not the file's fault.
        if e.errno in (errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO):
            raise _Broken(f'it cannot be opened: {e.strerror}') from e
        raise
    # looked at first: open() of a directory fails and leaves it open
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _Broken('it is no regular file')
    with open(file, 'rb') as stream:
        content = stream.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise _Broken(f'it has more than {_LARGEST} bytes')
    return _entry(name, named[1], content)


def _entry(name: str, identity: str, content: bytes) -> Entry:
    try:
        event = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise _Broken(f'it is no JSON: {e}') from e
    if not isinstance(event, dict):
        raise _Broken('it is no JSON object')
    kinds = {
        'id': str,
        'time': float,
        'event_type': str,
        'priority': str,
        'payload': dict,
    }
    for key, kind in kinds.items():
        if not isinstance(event.get(key), kind):
            raise _Broken(f'it has no usable {key!r}')
    if event['id'] != identity:
        raise _Broken('its id is not that of its name')
    if event['priority'] not in ('info', 'warn', 'error'):
        raise _Broken('it has no usable priority')
    # JSON as Python reads it knows NaN and Infinity
    if not 0 <= event['time'] < _END_OF_TIME:
        raise _Broken('it has no usable time')
    return Entry(name, **{key: event[key] for key in kinds})


def _put_aside(directory: int, name: str, why: str) -> None:
    LOG.error('The event %r is put aside as %r in %s', name, name + _BAD, why)
    try:
        os.rename(
            name, name + _BAD, src_dir_fd=directory, dst_dir_fd=directory
        )
    except OSError as e:
        LOG.error('The event %r cannot be put aside: %s', name, e.strerror)
