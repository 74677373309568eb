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

"""The journal: every event is in it before it is sent.

One SQLite file. The agent alone writes it, through one connection; others
read it, in the agent and in other processes. Beside the events it keeps, in
the same transactions, what the agent has to know when it comes back: the open
windows of :mod:`nova_isolation.violations.coalescing`, and a few values by
name.

What the journal itself loses, it announces itself: ``isolation.lost`` stands
in the transaction that deletes, or in the one that begins a new file after a
damaged one.
"""

from collections.abc import (
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
import contextlib
import dataclasses
import errno
import json
import math
import os
import sqlite3
import threading
import time
from typing import Any, TypeVar
import urllib.parse

from oslo_log import log

from nova_isolation import exceptions
from nova_isolation.violations import model

LOG = log.getLogger(__name__)

#: the file's name in the directory
NAME = 'journal.sqlite'
_DAMAGED = f'{NAME}.damaged-'
# beside the file: its write-ahead log, and the index of that
_LOG, _INDEX = '-wal', '-shm'

# In SQLite's header: whose file it is ("niso").
_APPLICATION = 0x6E69736F

# An event has some 3 KB.
_PAGE = 8192
# Seconds to wait for another process that writes.
_BUSY = 5.0
# Seconds that looking for damage may take when the journal is opened.
_CHECK = 5.0
# SQLite's instructions between two looks at that.
_INSTRUCTIONS = 100_000
# Bytes of events after which the write-ahead log is brought into the file, by
# a thread for which nothing waits; and when that does not run, pages after
# which a commit does it. Then bytes that the log keeps.
_CHECKPOINT = 4 * 1024**2
_LATEST_CHECKPOINT = 4000
_WAL = 8 * 1024**2

# Events that are deleted in one transaction, others wait for it.
_CHUNK = 1000
# Of the limit, what is left when the journal was too large.
_LEFT = 0.95
# Of all pages, how many may be free before the file is made smaller, and how
# many at a time.
_FREE = 0.125
_VACUUM = 1000
# Damaged journals that are kept.
_KEPT = 3

# Each brings the schema to the version that is its place in the list, from 1.
# Never change one that was released: add one.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE events (
            -- never used twice: it is a cursor
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            -- seconds since the epoch, as "sent": when the broker confirmed
            -- it, or when it was given up because of "failure"
            time REAL NOT NULL,
            event_type TEXT NOT NULL,
            priority TEXT NOT NULL,
            -- a uuid, or ''
            instance TEXT NOT NULL,
            sent REAL,
            failure TEXT,
            -- JSON
            payload TEXT NOT NULL
        )
        """,
        'CREATE INDEX events_unsent ON events (seq) WHERE sent IS NULL',
        'CREATE INDEX events_time ON events (time)',
        'CREATE INDEX events_instance ON events (instance, seq)',
        """
        CREATE TABLE windows (id TEXT NOT NULL PRIMARY KEY, data TEXT NOT NULL)
        WITHOUT ROWID
        """,
        """
        CREATE TABLE state (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)
        WITHOUT ROWID
        """,
    ),
    # each guest's events are sent in their order, and the guests in turn
    (
        'DROP INDEX events_unsent',
        'CREATE INDEX events_waiting ON events (instance, seq) '
        'WHERE sent IS NULL',
    ),
)

_COLUMNS = (
    'seq, id, time, event_type, priority, instance, payload, sent, failure'
)

_T = TypeVar('_T')


@dataclasses.dataclass(frozen=True)
class Entry:
    """An event in the journal.

    :ivar id: the event's id
    :ivar time: when it was made, seconds since the epoch
    :ivar instance: the uuid of the guest that it is about, or ''
    :ivar payload: the notification's
    :ivar seq: its place: greater than that of all before, also of those in a
        journal that was put aside; 0 while it is not in the journal
    :ivar sent: when the broker confirmed it, seconds since the epoch, or None
    :ivar failure: why it was given up (at ``sent``), or None
    """

    id: str
    time: float
    event_type: str
    priority: str
    instance: str
    payload: model.Payload
    seq: int = 0
    sent: float | None = None
    failure: str | None = None

    @property
    def line(self) -> str:
        """What the host's own log says of it: type, id and words."""
        summary = self.payload.get('summary', '')
        return f'{self.event_type} {self.id}: {summary}'

    @classmethod
    def of(cls, event: model.Event) -> 'Entry':
        """Make an entry of an event.

        :param event: any of the model
        :returns: the entry
        """
        return cls.made(
            event.event_type,
            event.priority,
            event.payload(),
            event.time.timestamp(),
        )

    @classmethod
    def made(
        cls, event_type: str, priority: str, payload: model.Payload, at: float
    ) -> 'Entry':
        """Make an entry of a payload.

        :param event_type: e.g. ``isolation.refused``
        :param priority: ``info``, ``warn`` or ``error``
        :param payload: JSON types, with its ``id``
        :param at: seconds since the epoch
        :returns: the entry
        """
        about = payload.get('instance')
        instance = about.get('uuid') if isinstance(about, dict) else ''
        return cls(
            id=str(payload['id']),
            time=at,
            event_type=_text(event_type),
            priority=_text(priority),
            instance=_text(str(instance or '')),
            payload=payload,
        )

    @property
    def denials(self) -> int | None:
        """How many denials it stands for; None: it is not known."""
        if self.event_type == model.Violation.event_type:
            repeats = self.payload.get('repeats')
            count = repeats.get('count') if isinstance(repeats, dict) else 1
        elif self.event_type == model.Lost.event_type:
            count = self.payload.get('count')
        else:
            count = 1
        return count if isinstance(count, int) else None


@dataclasses.dataclass(frozen=True)
class Expired:
    """What was deleted because of age or size.

    :ivar confirmed: events that the broker had
    :ivar lost: events that it had not
    """

    confirmed: int
    lost: int


class Reader:
    """Reads a journal that an agent may be writing; for any thread."""

    def __init__(self, directory: str) -> None:
        """Name a journal; nothing is touched yet.

        :param directory: ``[isolation] journal_directory``
        """
        self.directory = directory
        self.path = os.path.join(directory, NAME)
        self._reading = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        self._read_from: tuple[int, int] | None = None
        self._frozen = False

    def entries(
        self,
        since: int = 0,
        *,
        instance: str | None = None,
        after: float | None = None,
        limit: int = 100,
        newest: bool = False,
    ) -> list[Entry]:
        """Read events.

        :param since: only those whose ``seq`` is greater
        :param instance: only those about the guest with this uuid
        :param after: only those made then or later, seconds since the epoch
        :param limit: how many at most
        :param newest: when there are more, the newest; else the oldest
        :returns: in their order
        :raises JournalUnavailable: when the journal cannot be read
        """
        where, values = ['seq > ?'], [since]
        if instance is not None:
            where.append('instance = ?')
            values.append(instance)  # type: ignore[arg-type]
        if after is not None:
            where.append('time >= ?')
            values.append(after)  # type: ignore[arg-type]
        found = self._events(
            f'WHERE {" AND ".join(where)} '
            f'ORDER BY seq {"DESC" if newest else "ASC"} LIMIT ?',
            *values,
            limit,
        )
        return found[::-1] if newest else found

    def event(self, identity: str) -> Entry | None:
        """Read one event.

        :param identity: its id
        :returns: the event, or None when it is not there (any more)
        :raises JournalUnavailable: when the journal cannot be read
        """
        found = self._events('WHERE id = ?', identity)
        return found[0] if found else None

    def guests(self) -> list[model.Payload]:
        """Find out which guests events are about.

        :returns: of each the newest ``instance`` of a payload
        :raises JournalUnavailable: when the journal cannot be read
        """
        newest = self._events(
            "WHERE seq IN (SELECT max(seq) FROM events WHERE instance != '' "
            'GROUP BY instance)'
        )
        return [entry.payload['instance'] for entry in newest]

    def close(self) -> None:
        """Close the file."""
        with self._reading:
            self._close_reader()

    def _events(self, which: str, *values: object) -> list[Entry]:
        # never a text of others: these are bound
        query = f'SELECT {_COLUMNS} FROM events {which}'  # noqa: S608
        return self._read(query, values, _entry)

    def _read(
        self,
        query: str,
        values: Sequence[object],
        make: Callable[[tuple[Any, ...]], _T],
    ) -> list[_T]:
        with self._reading:
            try:
                rows = self._opened_reader().execute(query, values)
                return [make(row) for row in rows.fetchall()]
            except (sqlite3.Error, OSError, _Malformed) as e:
                identity = self._read_from
                self._close_reader()
                raise _explained(self.path, e, identity) from e

    def _opened_reader(self) -> sqlite3.Connection:
        identity = _identity(self.path)
        if identity is None:
            raise exceptions.JournalUnavailable(
                f'there is no journal {self.path}: nova-isolation-agent makes '
                f'it when it starts, in [isolation] journal_directory'
            )
        # an agent has begun to write, which a frozen view does not see
        woken = self._frozen and os.path.exists(self.path + _LOG)
        if self._reader is None or self._read_from != identity or woken:
            self._close_reader()
            self._reader, self._frozen = _connect_to_read(self.path)
            self._read_from = identity
        return self._reader

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader, self._read_from, self._frozen = None, None, False


class Journal(Reader):
    """Writes the journal, and reads it; for the threads of one process.

    Each call opens the file when it is not open: one that failed may be tried
    again. Not across a fork: SQLite's connections do not survive it.

    :ivar opened: how often a file was opened to be written: each time it may
        be a new one
    """

    def __init__(
        self, directory: str, days: int, megabytes: int, host: str
    ) -> None:
        """Name a journal; nothing is touched yet.

        :param directory: absolute path; created when it is needed
        :param days: for which confirmed events are kept
        :param megabytes: that the events may have
        :param host: the name of this host, for what the journal announces
        """
        super().__init__(directory)
        self._seconds = days * 86400
        self._bytes = megabytes * 1024**2
        self._host = host
        self._writing = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._written_to: tuple[int, int] | None = None
        self._checked: tuple[int, int] | None = None
        self._gone = False
        self._succeeds = False
        self.opened = 0
        self._checkpointing = threading.Lock()
        self._since_checkpoint = 0

    def open(self) -> None:
        """Open the file, and make it when there is none.

        :raises JournalUnavailable: when it cannot be opened for writing
        :raises IncompatibleJournal: when a newer version has written it
        """
        self._write(lambda connection: None, durable=False)

    def close(self) -> None:
        """Close the file."""
        super().close()
        with self._writing:
            self._close_writer()

    def commit(
        self,
        entries: Sequence[Entry] = (),
        windows: Mapping[str, Mapping[str, Any] | None] | None = None,
        state: Mapping[str, str | None] | None = None,
    ) -> int:
        """Write all of it or nothing: when this returns, it is on the disk.

        :param entries: new events; one whose id is there already is left out
        :param windows: JSON objects by their ids; None: forget it
        :param state: values by their names; None: forget it
        :returns: how many of the events are new
        :raises JournalUnavailable: when it cannot be written: nothing was
        :raises IncompatibleJournal: when a newer version has written it
        """
        rows = [_row(entry) for entry in entries]
        data = {
            key: None if value is None else json.dumps(value)
            for key, value in (windows or {}).items()
        }

        def work(connection: sqlite3.Connection) -> int:
            new = _insert(connection, rows)
            _put(connection, 'windows', 'id', 'data', data)
            _put(connection, 'state', 'key', 'value', state or {})
            return new

        new = self._write(work)
        self._since_checkpoint += sum(len(row[-1]) for row in rows)
        return new

    def next_unsent(
        self, after: str, but: Collection[int] = ()
    ) -> Entry | None:
        """Read the next event that the broker has not confirmed.

        The guests have their turns in a ring: however much there is of one,
        that of another waits for one event of each only.

        :param after: the ``instance`` whose turn was the last one
        :param but: the ``seq`` of some that it has confirmed
        :returns: the oldest of the next guest that has any; None when there
            is nothing to be sent
        :raises JournalUnavailable: when the journal cannot be read
        """
        return self._unsent('instance > ?', after, but) or self._unsent(
            'instance <= ?', after, but
        )

    def unsent_of(
        self, instance: str, but: Collection[int] = ()
    ) -> Entry | None:
        """Read a guest's next event that the broker has not confirmed.

        :param instance: the guest's uuid; '' for what is about none
        :param but: the ``seq`` of some that it has confirmed
        :returns: its oldest; None when there is none
        :raises JournalUnavailable: when the journal cannot be read
        """
        return self._unsent('instance = ?', instance, but)

    def _unsent(
        self, which: str, instance: str, but: Collection[int]
    ) -> Entry | None:
        marks = ', '.join('?' * len(but))
        found = self._events(
            f'WHERE sent IS NULL AND {which} AND seq NOT IN ({marks}) '
            f'ORDER BY instance, seq LIMIT 1',
            instance,
            *but,
        )
        return found[0] if found else None

    def mark_sent(self, marks: Mapping[int, float]) -> None:
        """Note that the broker has events.

        Not on the disk yet when this returns: when the host fails now, they
        are sent again, with the same ids.

        :param marks: ``{seq: when}``, in seconds since the epoch
        :raises JournalUnavailable: when it cannot be written
        """
        rows = [(when, seq) for seq, when in marks.items()]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                'UPDATE events SET sent = ? WHERE seq = ?', rows
            )

        self._write(work, durable=False)
        if self._since_checkpoint > _CHECKPOINT:
            self._checkpoint()

    def give_up(self, entry: Entry, reason: str) -> None:
        """Note that no broker will ever take an event, and announce that.

        :param entry: the event
        :param reason: why, in words
        :raises JournalUnavailable: when it cannot be written
        """
        now = time.time()
        lost = self._lost(
            'journal',
            [entry],
            f'the event {entry.id} ({entry.event_type}) cannot be sent: '
            f'{reason}; it stays in the journal {self.path}',
        )
        # one that says of others that they are lost would say it for ever
        announced = (
            [] if entry.event_type == lost.event_type else [Entry.of(lost)]
        )

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                'UPDATE events SET sent = ?, failure = ? WHERE seq = ?',
                (now, reason, entry.seq),
            )
            _insert(connection, [_row(new) for new in announced])

        self._write(work)
        if announced:
            LOG.error('%s', announced[0].line)
        else:
            LOG.error('%s', lost.summary())

    def windows(self) -> dict[str, dict[str, Any]]:
        """Read the open windows.

        :returns: JSON objects by their ids
        :raises JournalUnavailable: when the journal cannot be read
        """
        return dict(self._read('SELECT id, data FROM windows', (), _window))

    def state(self, key: str) -> str | None:
        """Read a value.

        :param key: its name
        :returns: the value, or None when there is none
        :raises JournalUnavailable: when the journal cannot be read
        """
        found = self._read(
            'SELECT value FROM state WHERE key = ?', (key,), _first
        )
        return None if not found else str(found[0])

    def states(self, prefix: str) -> dict[str, str]:
        """Read all values whose names begin alike.

        :param prefix: of their names
        :returns: the values by their names
        :raises JournalUnavailable: when the journal cannot be read
        """
        query = 'SELECT key, value FROM state WHERE substr(key, 1, ?) = ?'
        values = (len(prefix), prefix)
        return dict(self._read(query, values, lambda row: (row[0], row[1])))

    def depth(self) -> int:
        """Count what the broker has not confirmed.

        :returns: the number of events
        :raises JournalUnavailable: when the journal cannot be read
        """
        query = 'SELECT count(*) FROM events WHERE sent IS NULL'
        return int(self._read(query, (), _first)[0])

    def size(self) -> int:
        """Tell what the journal has on the disk.

        :returns: bytes, with the write-ahead log
        """
        size = 0
        for path in (self.path, self.path + _LOG):
            with contextlib.suppress(OSError):
                size += os.stat(path).st_size
        return size

    def expire(self, now: float) -> Expired:
        """Delete what is too old or too much, and make the file smaller.

        To be called every few seconds: a broker that is away and a flood fill
        the journal quickly.

        :param now: seconds since the epoch
        :returns: what was deleted; the lost ones are announced
        :raises JournalUnavailable: when it cannot be written
        """
        confirmed = lost = 0
        before = now - self._seconds
        while deleted := self._write(
            lambda connection: _delete_older(connection, before), durable=False
        ):
            confirmed += deleted
        for shed in self._shed():
            if shed.announced is None:
                confirmed += shed.events
            else:
                lost += shed.events
                LOG.error('%s', Entry.of(shed.announced).line)
        self._shrink()
        self._checkpoint()
        return Expired(confirmed, lost)

    def _shed(self) -> Iterator['_Shed']:
        """Delete the oldest, a little at a time, while there is too much."""
        shed = self._write(lambda c: self._shed_some(c, self._bytes))
        target = int(self._bytes * _LEFT)
        while shed is not None:
            yield shed
            # only an announcement that took the place of another one
            if shed.announced is not None and shed.events < 2:
                return
            shed = self._write(lambda c: self._shed_some(c, target))

    def _shed_some(
        self, connection: sqlite3.Connection, target: int
    ) -> '_Shed | None':
        """Delete some of the oldest, those first that the broker has.

        :param target: bytes that the events may have
        :returns: what was deleted; None when they have no more than that
        """
        pages, free = _pages(connection)
        used = (pages - free) * _page(connection)
        if used <= target:
            return None
        (events,) = connection.execute(
            'SELECT count(*) FROM events'
        ).fetchone()
        # as many as are too many, if all are of the same size
        some = min(_CHUNK, math.ceil((used - target) / used * events))
        for which in ('NOT NULL', 'NULL'):
            oldest = [
                _entry(row)
                for row in connection.execute(
                    f'SELECT {_COLUMNS} FROM events WHERE sent IS {which} '  # noqa: S608
                    f'ORDER BY seq LIMIT ?',
                    (some,),
                )
            ]
            if oldest:
                break
        else:
            return None
        connection.executemany(
            'DELETE FROM events WHERE seq = ?', [(e.seq,) for e in oldest]
        )
        if which == 'NOT NULL':
            return _Shed(len(oldest), None)
        lost = self._lost(
            'retention',
            oldest,
            f'RabbitMQ had not confirmed them when the journal {self.path} '
            f'had more than [isolation] journal_megabytes: see to the broker',
        )
        _insert(connection, [_row(Entry.of(lost))])
        return _Shed(len(oldest), lost)

    def _shrink(self) -> None:
        """Give what is free back to the file system, a little at a time."""
        last = -1
        while True:
            pages, free = self._write(_pages, durable=False)
            if free <= pages * _FREE or free == last:
                return
            last = free
            self._write(
                lambda c: c.execute(
                    f'PRAGMA incremental_vacuum({_VACUUM})'
                ).fetchall(),
                durable=False,
            )

    def _checkpoint(self) -> None:
        """Bring the write-ahead log into the file, without holding up commits.

        It waits for nobody, either: what is being read stays for the next one.
        """
        if not self._checkpointing.acquire(blocking=False):
            return
        try:
            self._since_checkpoint = 0
            with contextlib.closing(_connect(self.path, 'rw')) as connection:
                connection.execute('PRAGMA wal_checkpoint(PASSIVE)').fetchall()
        except sqlite3.Error as e:
            # a commit will find out what it means
            LOG.warning('The journal %s: no checkpoint: %s', self.path, e)
        finally:
            self._checkpointing.release()

    def _lost(
        self, stage: str, entries: Sequence[Entry], reason: str
    ) -> model.Lost:
        counts = [entry.denials for entry in entries]
        known = [count for count in counts if count is not None]
        times = [entry.time for entry in entries]
        return model.Lost(
            host=self._host,
            stage=stage,
            count=sum(known) if len(known) == len(counts) else None,
            first=model.utc(min(times)),
            last=model.utc(max(times)),
            reason=reason,
        )

    def _read(
        self,
        query: str,
        values: Sequence[object],
        make: Callable[[tuple[Any, ...]], _T],
    ) -> list[_T]:
        if self._writer is None:
            self.open()
        try:
            return super()._read(query, values, make)
        except _Damaged as e:
            with self._writing:
                self._put_aside(e)
        self.open()
        return super()._read(query, values, make)

    def _write(
        self, work: Callable[[sqlite3.Connection], _T], durable: bool = True
    ) -> _T:
        """Do something in a transaction; in a new journal after damage."""
        with self._writing:
            try:
                return self._transaction(work, durable)
            except _Damaged as e:
                self._put_aside(e)
                return self._transaction(work, durable)

    def _transaction(
        self, work: Callable[[sqlite3.Connection], _T], durable: bool
    ) -> _T:
        try:
            connection = self._opened_writer()
            return _transaction(connection, work, durable)
        except (sqlite3.Error, OSError, _Malformed) as e:
            identity = self._written_to or _identity(self.path)
            # whatever state it is in: the next one begins anew
            if _code(e) not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
                self._close_writer()
                # what was opened without the right to write, a process has
                # for all its connections, until the last is closed
                with self._reading:
                    self._close_reader()
            raise _explained(self.path, e, identity) from e

    def _opened_writer(self) -> sqlite3.Connection:
        if self._writer is not None:
            if _identity(self.path) == self._written_to:
                return self._writer
            LOG.error(
                'The journal %s was removed or replaced while it was written',
                self.path,
            )
            self._gone = True
            self._close_writer()
        os.makedirs(self.directory, 0o750, exist_ok=True)
        if _identity(self.path) is None:
            # Of a file that was removed. A reader may still have them open,
            # and the new file must not share them.
            for suffix in (_LOG, _INDEX):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path + suffix)
        created = _create(self.path)
        connection = _connect(self.path, 'rw')
        try:
            self._begin(connection, created)
        except BaseException:
            connection.close()
            raise
        self._writer, self._written_to = connection, _identity(self.path)
        self.opened += 1
        return connection

    def _begin(self, connection: sqlite3.Connection, created: bool) -> None:
        """Check a file that was opened, and bring it to our schema."""
        version = _version(connection, self.path)
        if not version and not created:
            self._gone = True
        identity = _identity(self.path)
        if version and identity != self._checked:
            _check(connection)
        self._checked = identity
        if not version:
            # both only count before there is anything in the file
            connection.execute(f'PRAGMA page_size = {_PAGE}')
            connection.execute('PRAGMA auto_vacuum = INCREMENTAL')
        mode = connection.execute('PRAGMA journal_mode = WAL').fetchone()[0]
        if mode != 'wal':
            raise exceptions.JournalUnavailable(
                f'the journal {self.path} cannot have a write-ahead log: put '
                f'[isolation] journal_directory on a local file system'
            )
        connection.execute(f'PRAGMA wal_autocheckpoint = {_LATEST_CHECKPOINT}')
        connection.execute(f'PRAGMA journal_size_limit = {_WAL}')
        if version < len(_MIGRATIONS):
            lost = _transaction(connection, self._migrate, durable=True)
            if lost is not None:
                LOG.error('%s', Entry.of(lost).line)
        self._gone = False

    def _migrate(self, connection: sqlite3.Connection) -> model.Lost | None:
        version = _version(connection, self.path)
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        # neither takes a bound value
        connection.execute(f'PRAGMA user_version = {len(_MIGRATIONS)}')
        connection.execute(f'PRAGMA application_id = {_APPLICATION}')
        if version:
            return None
        # Microseconds: no journal takes events more quickly, so a reader's
        # cursor of an older one comes before all that this one will have.
        connection.execute(
            "INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)",
            (time.time_ns() // 1000,),
        )
        if (reason := self._why_new()) is None:
            return None
        self._succeeds = True
        now = model.now()
        lost = model.Lost(self._host, 'journal', None, now, now, reason)
        _insert(connection, [_row(Entry.of(lost))])
        return lost

    def _why_new(self) -> str | None:
        """Tell what a new journal has to announce.

        The file beside it is asked, not a variable: an agent that dies between
        putting one aside and beginning another is followed by one that
        announces it.
        """
        if damaged := _damaged(self.directory):
            path = os.path.join(self.directory, damaged[-1])
            return (
                f'the journal was damaged, a new one is begun; what RabbitMQ '
                f'had not confirmed and what was being counted is in {path}'
            )
        if self._gone:
            return (
                f'the journal {self.path} was removed, replaced or emptied, a '
                f'new one is begun: what RabbitMQ had not confirmed is gone'
            )
        return None

    def is_successor(self) -> bool:
        """Tell whether another journal was here before, and is lost.

        :returns: so that who finds nothing in it knows why
        """
        return self._succeeds or bool(_damaged(self.directory))

    def _put_aside(self, damage: '_Damaged') -> None:
        """Rename a damaged journal, so that a new one can be begun."""
        if damage.identity is None or _identity(self.path) != damage.identity:
            # another thread has done it
            return
        at = model.now().strftime('%Y%m%dT%H%M%S.%fZ')
        aside = os.path.join(self.directory, f'{_DAMAGED}{at}')
        LOG.error('%s; it is kept as %s', damage.message, aside)
        try:
            # The file first: without its log it would pass for a good one.
            os.rename(self.path, aside)
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path + _LOG, aside + _LOG)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path + _INDEX)
            for old in _damaged(self.directory)[:-_KEPT]:
                LOG.error('The damaged journal %s is removed', old)
                for suffix in ('', _LOG):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(self.directory, old + suffix))
        except OSError as e:
            raise exceptions.JournalUnavailable(
                f'{damage.message}; it cannot be put aside: {e.strerror}'
            ) from e
        # Only now: SQLite leaves alone what lies at the name of a file that
        # was renamed.
        self._close_writer()

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._written_to = None, None


@dataclasses.dataclass(frozen=True)
class _Shed:
    """Events that were deleted, and the announcement if they were lost."""

    events: int
    announced: model.Lost | None


class _Malformed(Exception):
    """What the file has is no journal of ours; the message says why."""


class _Damaged(exceptions.JournalUnavailable):
    """The journal is damaged.

    :ivar identity: of the file in which it was found
    """

    identity: tuple[int, int] | None = None


def _explained(
    path: str, error: Exception, identity: tuple[int, int] | None
) -> exceptions.JournalUnavailable:
    """Tell an operator what an error means."""
    code = _code(error)
    if isinstance(error, _Malformed) or code in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    ):
        damaged = _Damaged(f'the journal {path} is damaged: {error}')
        damaged.identity = identity
        return damaged
    denied = (
        'it cannot be opened or written, see to the owner and mode of it, of '
        'its directory and of the files beside it'
    )
    words = {
        sqlite3.SQLITE_FULL: 'the disk is full',
        sqlite3.SQLITE_BUSY: 'another process keeps it locked',
        sqlite3.SQLITE_CANTOPEN: denied,
        sqlite3.SQLITE_READONLY: denied,
    }
    cause = words.get(code, str(error))
    directory = os.path.dirname(path)
    if isinstance(error, PermissionError):
        cause = 'this user may not reach it'
    elif getattr(error, 'errno', 0) == errno.EROFS or (
        cause == denied and _is_read_only(directory)
    ):
        cause = (
            f'its file system is read-only for this process. Where only '
            f'systemd makes it so, let the unit say ReadWritePaths='
            f'{directory} (systemctl edit nova-isolation-agent)'
        )
    return exceptions.JournalUnavailable(
        f'the journal {path} cannot be used: {cause}'
    )


def _is_read_only(directory: str) -> bool:
    try:
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _code(error: Exception) -> int:
    # without what SQLite says beyond it
    return int(getattr(error, 'sqlite_errorcode', 0)) & 0xFF


def _identity(path: str) -> tuple[int, int] | None:
    try:
        state = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return state.st_dev, state.st_ino


def _create(path: str) -> bool:
    """Make an empty file with the right mode, when there is none."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file = os.open(path, flags, 0o640)
    except FileExistsError:
        # Not opened: closing it would end SQLite's locks on it.
        return False
    try:
        os.fchmod(file, 0o640)
    finally:
        os.close(file)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True


def _connect(path: str, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f'file:{urllib.parse.quote(path)}?{_MODES[mode]}',
        uri=True,
        timeout=_BUSY,
        # transactions begin where we say it
        isolation_level=None,
        # a lock of ours keeps threads apart
        check_same_thread=False,
    )
    # a byte that flipped is not to be an error that nobody knows
    connection.text_factory = lambda data: data.decode('utf-8', 'replace')
    return connection


_MODES = {'rw': 'mode=rw', 'ro': 'mode=ro', 'frozen': 'immutable=1'}


def _connect_to_read(path: str) -> tuple[sqlite3.Connection, bool]:
    """Open a journal that others write.

    :returns: the connection, and whether it sees no changes: when no agent
        runs there is no write-ahead log, and who may not write into the
        directory cannot make one, which SQLite needs unless it is told that
        the file does not change
    """
    modes = ['ro']
    if not os.path.exists(path + _LOG):
        modes.append('frozen')
    for mode in modes:
        connection = _connect(path, mode)
        try:
            if not _version(connection, path):
                raise exceptions.JournalUnavailable(
                    f'the journal {path} is empty: nova-isolation-agent has '
                    f'not begun it yet'
                )
        except sqlite3.OperationalError as e:
            connection.close()
            if mode == modes[-1] or _code(e) not in (
                sqlite3.SQLITE_CANTOPEN,
                sqlite3.SQLITE_READONLY,
            ):
                raise
        except BaseException:
            connection.close()
            raise
        else:
            return connection, mode == 'frozen'
    raise AssertionError('the last mode raises')


def _version(connection: sqlite3.Connection, path: str) -> int:
    """Read the version of the schema; 0: the file is empty."""
    # all in one: who makes the file may be between two of them
    version, whose, filled = connection.execute(
        'SELECT user_version, application_id, '
        'EXISTS (SELECT 1 FROM sqlite_master) '
        'FROM pragma_user_version, pragma_application_id'
    ).fetchone()
    if version == whose == 0 and not filled:
        return 0
    if whose != _APPLICATION:
        raise _Malformed('it is a database of something else')
    if not 1 <= version <= len(_MIGRATIONS):
        raise exceptions.IncompatibleJournal(
            f'the journal {path} has version {version} of its schema, this '
            f'nova-isolation knows {len(_MIGRATIONS)}: install the newer one '
            f'again, or move the file away'
        )
    return int(version)


def _check(connection: sqlite3.Connection) -> None:
    """Look for damage, as long as that does not take too long."""
    end = time.monotonic() + _CHECK
    connection.set_progress_handler(
        lambda: time.monotonic() > end, _INSTRUCTIONS
    )
    try:
        (found,) = connection.execute('PRAGMA quick_check(1)').fetchone()
    except sqlite3.OperationalError as e:
        if e.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        found = 'ok'
    finally:
        connection.set_progress_handler(None, 0)
    if found != 'ok':
        raise _Malformed(found)


def _transaction(
    connection: sqlite3.Connection,
    work: Callable[[sqlite3.Connection], _T],
    durable: bool,
) -> _T:
    level = 'FULL' if durable else 'NORMAL'
    connection.execute(f'PRAGMA synchronous = {level}')
    connection.execute('BEGIN IMMEDIATE')
    try:
        result = work(connection)
        connection.execute('COMMIT')
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute('ROLLBACK')
        raise
    return result


def _insert(
    connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]]
) -> int:
    if not rows:
        return 0
    return connection.executemany(
        'INSERT INTO events '
        '(id, time, event_type, priority, instance, payload) '
        'VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING',
        rows,
    ).rowcount


def _put(
    connection: sqlite3.Connection,
    table: str,
    key: str,
    column: str,
    values: Mapping[str, str | None],
) -> None:
    connection.executemany(
        f'INSERT OR REPLACE INTO {table} ({key}, {column}) VALUES (?, ?)',  # noqa: S608
        [(k, v) for k, v in values.items() if v is not None],
    )
    connection.executemany(
        f'DELETE FROM {table} WHERE {key} = ?',  # noqa: S608
        [(k,) for k, v in values.items() if v is None],
    )


def _delete_older(connection: sqlite3.Connection, before: float) -> int:
    return connection.execute(
        'DELETE FROM events WHERE seq IN (SELECT seq FROM events '
        'WHERE time < ? AND sent IS NOT NULL LIMIT ?)',
        (before, _CHUNK),
    ).rowcount


def _pages(connection: sqlite3.Connection) -> tuple[int, int]:
    (pages,) = connection.execute('PRAGMA page_count').fetchone()
    (free,) = connection.execute('PRAGMA freelist_count').fetchone()
    return pages, free


def _page(connection: sqlite3.Connection) -> int:
    return int(connection.execute('PRAGMA page_size').fetchone()[0])


def _row(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.id,
        entry.time,
        entry.event_type,
        entry.priority,
        entry.instance,
        # ASCII: what is no text stays what it is
        json.dumps(entry.payload),
    )


def _text(text: str) -> str:
    """Replace half characters, which JSON can hold and SQLite cannot."""
    return text.encode(errors='replace').decode()


def _entry(row: tuple[Any, ...]) -> Entry:
    seq, identity, at, event_type, priority, instance, payload, *rest = row
    return Entry(
        id=identity,
        time=at,
        event_type=event_type,
        priority=priority,
        instance=instance,
        payload=_object(payload),
        seq=seq,
        sent=rest[0],
        failure=rest[1],
    )


def _window(row: tuple[Any, ...]) -> tuple[str, dict[str, Any]]:
    return row[0], _object(row[1])


def _first(row: tuple[Any, ...]) -> Any:
    return row[0]


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as e:
        raise _Malformed(f'a value in it is no JSON: {e}') from e
    if not isinstance(value, dict):
        raise _Malformed('a value in it is no JSON object')
    return value


def _damaged(directory: str) -> list[str]:
    """List the journals that were put aside, the newest at the end."""
    return sorted(
        name
        for name in os.listdir(directory)
        if name.startswith(_DAMAGED) and not name.endswith(_LOG)
    )
