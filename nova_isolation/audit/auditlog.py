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

"""The file of auditd, and the ones it was rotated to, as a source.

Its lines do not say of which boot they are, and their time does not tell it:
when this boot began moves whenever the clock is set. But auditd writes a line
at each of its own starts, and the kernel's numbers, which only grow within a
boot, fall where a start followed a reboot. The last such place is where this
boot begins, whatever the clock says.

They do not fall when an earlier boot had fewer events than this one had when
auditd started. Then the clock has to tell: a start is the beginning, too, when
it is not before this boot, and the record before it is. It tells line by line
where no beginning is found, because auditd could not write that it started.
And when the last record of all is from before this boot, none is of this boot:
auditd does not run, or has recorded nothing yet. The clock is wrong only when
it was set as well, and when auditd has recorded nothing since.
"""

import collections
from collections.abc import Iterable, Iterator
import dataclasses
import errno
import gzip
import itertools
import os
import re
import stat
import sys
from typing import BinaryIO, NamedTuple
import zlib

from oslo_log import log

from nova_isolation.audit import lines

LOG = log.getLogger(__name__)

_CHUNK = 4 * 1024 * 1024
# enough to hold the beginning of a line
_PROBE = 2 * lines.LONGEST

# How much smaller gzip makes such text.
_COMPRESSED = 16

# How many files are open at once. auditd keeps 999 at most.
_FILES = 64
# How often the directory is looked at again because it was rotated meanwhile.
_PASSES = 4

# auditd's own lines have numbers of their own.
_RECORD = (
    lines.HEAD
    + rb'(?!DAEMON_)\S{1,64} '
    + rb'msg=audit\((\d{1,11})\.(\d{3}):(\d{1,10})\):'
)
_LINE = re.compile(_RECORD)
# Beginning with a newline they are much quicker than with ^.
_LINES = re.compile(b'\n' + _RECORD)
_INTERRUPTED = re.compile(
    b'\n'
    + lines.HEAD
    + rb'DAEMON_(?:START|END|ABORT|ERR) msg=audit\((\d{1,11})\.'
)
_START = b'type=DAEMON_START '
_STARTED = re.compile(
    lines.HEAD + rb'DAEMON_START msg=audit\((\d{1,11})\.(\d{3}):'
)
# Records after a start among which there is a new event: the end of a system
# call that took long has a number from before it.
_FIRST = 32
# Starts that are remembered of a compressed file, the last ones.
_RUNS = 4096


@dataclasses.dataclass
class _Part:
    """A file that is to be read.

    :ivar file: open
    :ivar start: where to begin, in bytes
    :ivar rotated: nobody writes to it any more
    :ivar boot: where this boot begins in it, in bytes: 0 when all of it is of
        this boot; None when only the clock can tell
    """

    file: BinaryIO
    start: int
    rotated: bool
    boot: int | None = None


class _Run(NamedTuple):
    """What auditd wrote between two of its starts, or a part of that.

    :ivar start: the place of the start that it begins with, and its time;
        None when it begins in the middle
    :ivar first: the highest of the first numbers; None when it has none
    :ivar last: the highest of the last numbers, and the time of the last one
    """

    start: tuple[int, int] | None
    first: int | None
    last: tuple[int, int] | None


class _Beginning:
    """Looks for where this boot begins, from the end backwards.

    :ivar found: whether it was found
    :ivar place: the file, counted from the newest, and the offset in it: of
        the start that it is, or of one before which nothing is known yet
    """

    def __init__(self, booted: int) -> None:
        """Begin at the end.

        :param booted: when this boot began by today's clock, in milliseconds
        """
        self.found = False
        self.place: tuple[int, int] | None = None
        self._booted = booted
        self._started = 0
        self._first: int | None = None

    def look(self, runs: Iterable[_Run], file: int) -> None:
        """Look at what comes before all that was looked at.

        :param runs: the newest first
        :param file: in which they are
        """
        for run in runs:
            if self.found:
                return
            if run.last is not None:
                if self.place is not None:
                    self.found = self._is_boot(*run.last)
                    if self.found:
                        return
                    self.place = None
                if self._first is None and run.last[1] < self._booted:
                    # auditd has recorded nothing yet in this boot
                    self.found, self.place = True, (0, sys.maxsize)
                    return
                self._first = run.first
            if run.start is not None:
                self.place = file, run.start[0]
                self._started = run.start[1]

    def _is_boot(self, number: int, millis: int) -> bool:
        """Tell of the start at hand whether it followed a reboot.

        :param number: the highest one before it
        :param millis: the time of the last record before it
        """
        fell = self._first is not None and self._first < number
        return fell or millis < self._booted <= self._started


class AuditLog:
    """auditd's file with its rotated siblings."""

    def __init__(self, path: str) -> None:
        """Take the path.

        :param path: of the file that auditd writes to
        """
        self.name = path
        self.covers = False
        self.interrupted = False
        self._path = path
        self._seen: set[tuple[int, int]] = set()
        self._reaches = False
        self._damaged = False
        self._boot = _Beginning(0)

    def blocks(self, window: lines.Window) -> Iterator[lines.Block]:
        """Read them, oldest first.

        :param window: what is wanted, and how much may be spent
        :returns: all that is wanted, and more
        :raises Unavailable: when there is none that can be read
        """
        self._boot = _Beginning(window.booted)
        for attempt in range(_PASSES):
            parts = self._plan(window, again=attempt > 0)
            self._divide(parts, again=attempt > 0)
            try:
                while parts:
                    part = parts.pop()
                    with part.file:
                        yield from self._read(part, window)
            finally:
                for part in parts:
                    part.file.close()
            if not self._rotated():
                break
        else:
            self._damaged = True
        self.covers = self._reaches and not self._damaged and not window.cut

    def _divide(self, parts: list[_Part], again: bool) -> None:
        """Note in each file, newest first, where this boot begins."""
        if self._boot.place is None:
            return
        file, offset = self._boot.place
        for number, part in enumerate(parts):
            if again or number < file:
                # written since
                part.boot = 0
            else:
                part.boot = offset if number == file else sys.maxsize

    def _rotated(self) -> bool:
        """Tell whether there is a file by now that was not read."""
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) not in self._seen

    def _names(self) -> list[str]:
        """List the files, newest first."""
        directory, base = os.path.split(self._path)
        of_ours = re.compile(
            re.escape(base) + r'[.-](?P<number>[0-9]{1,14})(?:\.gz)?'
        )
        found = []
        with os.scandir(directory) as entries:
            for entry in entries:
                match = of_ours.fullmatch(entry.name)
                if match is None:
                    continue
                try:
                    changed = entry.stat().st_mtime_ns
                except OSError:
                    continue
                found.append((-changed, int(match['number']), entry.path))
        return [self._path, *(path for _, _, path in sorted(found))]

    def _plan(self, window: lines.Window, again: bool) -> list[_Part]:
        """Open what has to be read, newest first.

        A rotation in between moves files to names that come later: none is
        missed, and one that comes twice is known by its inode.
        """
        try:
            names = self._names()
        except OSError as e:
            raise lines.Unavailable(_why(e)) from e
        parts: list[_Part] = []
        failure: OSError | None = None
        room = window.room
        for name in names:
            if len(parts) == _FILES or room <= 0:
                self._damaged = True
                break
            try:
                file = _open(name)
            except OSError as e:
                if e.errno != errno.ENOENT:
                    failure = failure or e
                    self._damaged = True
                continue
            found = os.fstat(file.fileno())
            key = found.st_dev, found.st_ino
            if key in self._seen:
                file.close()
                if again:
                    break
                continue
            self._seen.add(key)
            try:
                start, reached = self._start(
                    file, found.st_size, len(parts), window
                )
            except (OSError, EOFError, zlib.error) as e:
                LOG.warning('%s cannot be read: %s', name, e)
                self._damaged = True
                file.close()
                continue
            size = found.st_size - start
            if isinstance(file, gzip.GzipFile):
                size *= _COMPRESSED
            elif size > room:
                # of what is too much, the oldest is left out
                start += size - room
                self._damaged = True
            parts.append(_Part(file, start, name != self._path))
            room -= size
            if reached:
                break
        if failure is not None:
            if not parts and not again:
                raise lines.Unavailable(_why(failure)) from failure
            LOG.warning('Not all of the audit log: %s', _why(failure))
        if not parts and not again:
            raise lines.Unavailable(f'{self._path} does not exist')
        return parts

    def _start(
        self, file: BinaryIO, size: int, number: int, window: lines.Window
    ) -> tuple[int, bool]:
        """Find where in a file to begin.

        From its end backwards, so that of a huge one only what is wanted is
        read.

        :returns: the offset; and whether all that is wanted comes after it
        """
        boot = self._boot
        if isinstance(file, gzip.GzipFile):
            if not boot.found:
                boot.look(_runs_of(file, window), number)
            file.seek(0)
            return 0, self._before(b'\n' + file.read(_PROBE), window)
        end = size
        while end > max(0, size - window.room):
            at = max(0, end - _CHUNK)
            body = os.pread(
                file.fileno(), _PROBE if boot.found else end - at, at
            )
            if at == 0:
                body = b'\n' + body
            if not boot.found:
                boot.look(_runs(body, at if at else -1), number)
            if self._before(body[:_PROBE], window) or not window.spend(0):
                return at, True
            if at == 0:
                break
            # the line that is cut here belongs to what comes before it
            end = at + body.find(b'\n', 0, -1) + 1
        return 0, False

    def _before(self, probe: bytes, window: lines.Window) -> bool:
        """Tell whether all that is wanted comes after a place in a file."""
        match = _LINES.search(probe)
        if match is None:
            return False
        millis = int(match[1]) * 1000 + int(match[2])
        beyond = self._boot.found
        if millis <= window.since or (beyond and not window.rebooted):
            self._reaches = True
        return window.before(millis, int(match[3]), not beyond)

    def _read(
        self, part: _Part, window: lines.Window
    ) -> Iterator[lines.Block]:
        """Read one file from its start on."""
        part.file.seek(part.start)
        # what a start in the middle cuts is no line
        partial = part.start > 0
        carry = b''
        at, boot, booted = part.start, part.boot or 0, window.booted
        try:
            while chunk := part.file.read(
                min(_CHUNK, boot - at) if at < boot else _CHUNK
            ):
                if part.boot is not None:
                    # all of it is of this boot, or nothing, whatever its time
                    booted = sys.maxsize if at < boot else 0
                at += len(chunk)
                more = window.spend(len(chunk))
                end = chunk.rfind(b'\n') + 1
                if end:
                    begin = chunk.find(b'\n') if partial else 0
                    partial = False
                    yield self._block(
                        b''.join((b'\n', carry, chunk[begin:end])),
                        window,
                        booted,
                    )
                    carry = chunk[end : end + lines.LONGEST]
                elif not partial:
                    carry = (carry + chunk)[: lines.LONGEST]
                if not more:
                    return
        except (OSError, EOFError, zlib.error) as e:
            LOG.warning('Not all of the audit log can be read: %s', e)
            self._damaged = True
        # Without its newline the last line is being written: whoever listens
        # hears it. In a file that is complete nothing follows.
        if carry and part.rotated and not partial:
            yield self._block(b'\n' + carry, window, booted)

    def _block(
        self, body: bytes, window: lines.Window, booted: int
    ) -> lines.Block:
        """Look for what is ours in lines, each after a newline.

        :param booted: milliseconds; what is earlier is not of this boot
        """
        found = []
        for line in lines.lines_of(body):
            match = _LINE.match(line)
            if match is None:
                continue
            millis = int(match[1]) * 1000 + int(match[2])
            found.append(
                lines.Line(
                    source=self.name,
                    boot=window.boot if millis >= booted else None,
                    millis=millis,
                    serial=int(match[3]),
                    data=line[: lines.LONGEST].lstrip(b'\0'),
                )
            )
        serials = [
            int(serial)
            for seconds, _, serial in _LINES.findall(body)
            if int(seconds) >= booted // 1000
        ]
        since = booted if window.rebooted else max(window.since, booted)
        self.interrupted = self.interrupted or any(
            int(match[1]) >= since // 1000
            for match in _INTERRUPTED.finditer(body)
        )
        return lines.Block(found, serials)


def _runs(body: bytes, at: int) -> Iterator[_Run]:
    """Divide lines where auditd started.

    :param body: lines, each after a newline
    :param at: the place of it
    :returns: the runs, the newest first
    """
    end = begin = len(body)
    while (begin := body.rfind(_START, 0, begin)) >= 0:
        # a line counts that begins with it, not one that has it elsewhere
        begin = body.rfind(b'\n', 0, begin) + 1
        match = _STARTED.match(body, begin) if begin else None
        if match is not None:
            millis = int(match[1]) * 1000 + int(match[2])
            yield _run(body, begin, end, (at + begin, millis))
            end = begin
        elif not begin:
            break
    yield _run(body, 0, end, None)


def _run(
    body: bytes, begin: int, end: int, start: tuple[int, int] | None
) -> _Run:
    """Read the first and the last numbers of a part of lines."""
    first = [
        int(match[3])
        for match in itertools.islice(
            _LINES.finditer(body, begin, end), _FIRST
        )
    ]
    if not first:
        return _Run(start, None, None)
    last = [
        (int(match[3]), int(match[1]) * 1000 + int(match[2]))
        for match in (
            *_LINES.finditer(body, max(begin, end - lines.LONGEST), end),
        )
        or _LINES.finditer(body, begin, end)
    ]
    return _Run(start, max(first), (max(last)[0], last[-1][1]))


def _runs_of(file: BinaryIO, window: lines.Window) -> Iterator[_Run]:
    """Divide a compressed file, which is only read forward.

    :returns: the runs, the newest first
    """
    runs: collections.deque[_Run] = collections.deque(maxlen=_RUNS)
    body, at = b'\n', -1
    try:
        while window.spend(0) and (chunk := file.read(_CHUNK)):
            body += chunk
            end = body.rfind(b'\n')
            runs.extend(reversed((*_runs(body[: end + 1], at),)))
            # what is written next is after a newline, too
            end = max(end, len(body) - lines.LONGEST)
            body, at = body[end:], at + end
    except (OSError, EOFError, zlib.error):
        # who reads it says so
        pass
    runs.extend(reversed((*_runs(body, at),)))
    return reversed(runs)


def _open(name: str) -> BinaryIO:
    """Open a file that is one.

    :raises OSError: when it cannot be, or is a device, a pipe …
    """
    # a pipe would wait for a writer
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, 'not a regular file', name)
    file = os.fdopen(fd, 'rb', buffering=0)
    if name.endswith('.gz'):
        return _Gzip(file)  # type: ignore[return-value]
    return file


class _Gzip(gzip.GzipFile):
    """A compressed file that closes the one below it, too."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(fileobj=file, mode='rb')
        self._below = file

    def close(self) -> None:
        """Close both."""
        super().close()
        self._below.close()


def _why(error: OSError) -> str:
    """Name the cause and the way out."""
    text = f'{error.filename}: {error.strerror}'
    if isinstance(error, PermissionError):
        text += (
            "; set log_group in /etc/audit/auditd.conf to a group of the "
            "agent's user and restart auditd"
        )
    return text
