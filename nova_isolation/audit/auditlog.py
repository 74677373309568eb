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

Its lines carry neither boot nor order across reboots: what is of this boot is
told by the time of the boot. A clock that was stepped forward since makes
early records of this boot look like ones of an earlier boot; they are given as
such, not dropped.
"""

from collections.abc import Iterator
import errno
import gzip
import os
import re
import stat
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


class _Part(NamedTuple):
    """A file that is to be read.

    :ivar file: open
    :ivar start: where to begin, in bytes
    :ivar rotated: nobody writes to it any more
    """

    file: BinaryIO
    start: int
    rotated: bool


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
        self._oldest: int | None = None
        self._damaged = False

    def blocks(self, window: lines.Window) -> Iterator[lines.Block]:
        """Read them, oldest first.

        :param window: what is wanted, and how much may be spent
        :returns: all that is wanted, and more
        :raises Unavailable: when there is none that can be read
        """
        for attempt in range(_PASSES):
            parts = self._plan(window, again=attempt > 0)
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
        self.covers = (
            self._oldest is not None
            and self._oldest <= window.since
            and not self._damaged
            and not window.cut
        )

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
                start, reached = self._start(file, found.st_size, window)
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
        self, file: BinaryIO, size: int, window: lines.Window
    ) -> tuple[int, bool]:
        """Find where in a file to begin.

        From its end backwards, so that of a huge one only what is wanted is
        read.

        :returns: the offset; and whether all that is wanted comes after it
        """
        if not isinstance(file, gzip.GzipFile):
            while size > _CHUNK:
                size -= _CHUNK
                probe = os.pread(file.fileno(), _PROBE, size)
                if self._before(probe, window):
                    return size, True
        file.seek(0)
        return 0, self._before(b'\n' + file.read(_PROBE), window)

    def _before(self, probe: bytes, window: lines.Window) -> bool:
        """Tell whether all that is wanted comes after a place in a file."""
        match = _LINES.search(probe)
        if match is None:
            return False
        millis = int(match[1]) * 1000 + int(match[2])
        if self._oldest is None or millis < self._oldest:
            self._oldest = millis
        return window.before(millis, int(match[3]))

    def _read(
        self, part: _Part, window: lines.Window
    ) -> Iterator[lines.Block]:
        """Read one file from its start on."""
        part.file.seek(part.start)
        # what a start in the middle cuts is no line
        partial = part.start > 0
        carry = b''
        try:
            while chunk := part.file.read(_CHUNK):
                more = window.spend(len(chunk))
                end = chunk.rfind(b'\n') + 1
                if end:
                    begin = chunk.find(b'\n') if partial else 0
                    partial = False
                    yield self._block(
                        b''.join((b'\n', carry, chunk[begin:end])), window
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
            yield self._block(b'\n' + carry, window)

    def _block(self, body: bytes, window: lines.Window) -> lines.Block:
        """Look for what is ours in lines, each after a newline."""
        found = []
        for line in lines.lines_of(body):
            match = _LINE.match(line)
            if match is None:
                continue
            millis = int(match[1]) * 1000 + int(match[2])
            found.append(
                lines.Line(
                    source=self.name,
                    boot=window.boot if millis >= window.booted else None,
                    millis=millis,
                    serial=int(match[3]),
                    data=line[: lines.LONGEST].lstrip(b'\0'),
                )
            )
        booted = window.booted // 1000
        serials = [
            int(serial)
            for seconds, _, serial in _LINES.findall(body)
            if int(seconds) >= booted
        ]
        since = max(window.since, window.booted) // 1000
        self.interrupted = self.interrupted or any(
            int(match[1]) >= since for match in _INTERRUPTED.finditer(body)
        )
        return lines.Block(found, serials)


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
