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

"""The systemd journal as a source.

journald hears the kernel's audit itself where systemd-journald-audit.socket is
enabled (``_TRANSPORT=audit``); and it keeps the kernel's log, to which the
kernel prints audit records while no auditd runs (``_TRANSPORT=kernel``). See
systemd.journal-fields(7).
"""

from collections.abc import Iterator
import contextlib
import json
import os
import selectors
import subprocess
import tempfile
import time

from nova_isolation.audit import lines

_FIELDS = (
    'MESSAGE',
    '_TRANSPORT',
    '_BOOT_ID',
    '_AUDIT_TYPE',
    '_AUDIT_ID',
    '_SOURCE_REALTIME_TIMESTAMP',
)
_CHUNK = 1024 * 1024
# bytes of a line of JSON: a message of which each byte is a number
_LONGEST = 8 * lines.LONGEST
# seconds for a journalctl that was told to end
_END = 2.0


class Journal:
    """What journalctl shows of one transport."""

    def __init__(
        self, transport: str, program: str = '/usr/bin/journalctl'
    ) -> None:
        """Take the transport.

        :param transport: ``audit`` or ``kernel``
        :param program: path of journalctl
        """
        self.name = f'journald ({transport})'
        self.covers = False
        self.interrupted = False
        self._transport = transport
        self._program = program

    def blocks(self, window: lines.Window) -> Iterator[lines.Block]:
        """Read it, oldest first.

        :param window: what is wanted, and how much may be spent
        :returns: all that is wanted, and a little more
        :raises Unavailable: when there is no journal that can be read
        """
        older = list(
            self._entries(
                window, '--lines=1', f'--until=@{window.since // 1000}'
            )
        )
        since = max(0, window.since - lines.SLACK) // 1000
        empty = True
        for entry in self._entries(window, f'--since=@{since}'):
            line = self._line(entry)
            if line is None:
                continue
            empty = False
            yield lines.block_of(line, line.boot == window.boot)
        if empty and not older:
            raise lines.Unavailable(
                f'{self.name}: no message that this process may read. If '
                f"there are some, the agent's user is not in the group "
                f'systemd-journal'
            )
        # Of the kernel's log nobody knows what its rate limit left out.
        self.covers = (
            bool(older) and self._transport == 'audit' and not window.cut
        )

    def _entries(
        self, window: lines.Window, *which: str
    ) -> Iterator[dict[str, object]]:
        """Run journalctl.

        :raises Unavailable: when it fails
        """
        for text in self._run(
            window,
            [
                self._program,
                '--no-pager',
                '--quiet',
                # also what is longer than 4096 bytes
                '--all',
                '--output=json',
                f'--output-fields={",".join(_FIELDS)}',
                *which,
                f'_TRANSPORT={self._transport}',
            ],
        ):
            try:
                entry = json.loads(text)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry

    def _run(
        self, window: lines.Window, command: list[str]
    ) -> Iterator[bytes]:
        """Run a program and give the lines that it writes.

        :raises Unavailable: when it fails
        """
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env={'LC_ALL': 'C', 'PATH': '/usr/bin:/bin'},
                    cwd='/',
                )
            except OSError as e:
                raise lines.Unavailable(
                    f'{self._program} cannot be run: {e.strerror}'
                ) from e
            assert process.stdout is not None
            try:
                yield from _output(process.stdout.fileno(), window)
                if window.cut:
                    return
                code = process.wait(
                    max(0.1, window.deadline - time.monotonic())
                )
            except subprocess.TimeoutExpired:
                window.cut = True
                return
            finally:
                process.stdout.close()
                process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_END)
            # 1 also says that there was nothing to show
            if code not in (0, 1):
                errors.seek(0)
                said = errors.read(500).decode(errors='replace').strip()
                raise lines.Unavailable(
                    f'{self._program} ended with {code}: {said}'
                )

    def _line(self, entry: dict[str, object]) -> lines.Line | None:
        """Read an entry.

        :returns: the line, or None when it is no audit record
        """
        text = _bytes(entry.get('MESSAGE'))
        boot = _dashed(entry.get('_BOOT_ID'))
        if text is None or boot is None:
            return None
        if self._transport == 'audit':
            # journald took the head of the record apart
            # (journald-audit.c, process_audit_string)
            try:
                kind, serial, micros = (
                    int(str(entry[key]))
                    for key in (
                        '_AUDIT_TYPE',
                        '_AUDIT_ID',
                        '_SOURCE_REALTIME_TIMESTAMP',
                    )
                )
            except (KeyError, ValueError):
                return None
            text = b'audit: type=%d audit(%d.%03d:%d): %s' % (
                kind,
                micros // 1000000,
                micros // 1000 % 1000,
                serial,
                # the kind's name
                text.partition(b' ')[2],
            )
        return lines.kernel_line(self.name, boot, text)


def _output(fd: int, window: lines.Window) -> Iterator[bytes]:
    """Give the lines that come from a pipe, as long as there is time."""
    carry = b''
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            left = window.deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                window.cut = True
                return
            chunk = os.read(fd, _CHUNK)
            if not chunk:
                return
            more = window.spend(len(chunk))
            *whole, carry = (carry + chunk).split(b'\n')
            yield from whole
            if not more:
                return
            if len(carry) > _LONGEST:
                carry = b''


def _bytes(message: object) -> bytes | None:
    """Read a message: text, or numbers when it is no UTF-8."""
    if isinstance(message, str):
        return message.encode(errors='surrogateescape')
    if isinstance(message, list):
        try:
            return bytes(message)
        except (TypeError, ValueError):
            pass
    return None


def _dashed(boot: object) -> str | None:
    """Write a boot's id as the kernel does."""
    if not isinstance(boot, str) or len(boot) != 32:
        return None
    return '-'.join(
        (boot[:8], boot[8:12], boot[12:16], boot[16:20], boot[20:])
    )
