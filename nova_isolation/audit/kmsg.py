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

"""The kernel's log as a source.

While no auditd runs, the kernel prints audit records to its log: at most ten
in five seconds (kernel.printk_ratelimit), about a thousand bytes of each, into
a ring that forgets. Better than nothing, and always there.

The format is Documentation/ABI/testing/dev-kmsg. Where
kernel.dmesg_restrict is 1 it needs the capability CAP_SYSLOG.
"""

from collections.abc import Iterator
import errno
import os
import re

from nova_isolation.audit import lines

PATH = '/dev/kmsg'

# CONSOLE_EXT_LOG_MAX is 8192; one read gives one record
_RECORD = 16384
# how many records are read at once at most; the ring of most kernels has fewer
_MOST = 1_000_000

_ESCAPE = re.compile(rb'\\x([0-9a-f]{2})')
_LOST = re.compile(rb'audit: audit_lost=(\d{1,10}) ')


class KernelLog:
    """The kernel's own count of lost audit records, by its log.

    The kernel prints ``audit_lost=N`` when it loses one, though not each time:
    N counts from the boot on, so a later line tells of all before. It needs no
    right to change the audit, as asking the kernel does
    (:func:`.netlink.status`).
    """

    def __init__(self, path: str = PATH) -> None:
        """Open the kernel's log.

        :param path: of the device
        :raises Unavailable: when it cannot be read
        """
        self._fd = _open(path)
        self._lost: int | None = None

    def lost(self) -> int | None:
        """Read what is new in the log. It does not wait.

        :returns: the kernel's last word; None when the log has none. Lower
            than before after ``auditctl --reset-lost``
        """
        for text in _texts(self._fd):
            match = _LOST.match(text)
            if match:
                self._lost = int(match[1])
        return self._lost

    def close(self) -> None:
        """Close the log."""
        os.close(self._fd)


class Kmsg:
    """The kernel's log of this boot."""

    def __init__(self, path: str = PATH) -> None:
        """Take the device.

        :param path: of the device
        """
        self.name = path
        # nobody knows what the rate limit left out
        self.covers = False
        self.interrupted = False

    def blocks(self, window: lines.Window) -> Iterator[lines.Block]:
        """Read it, oldest first.

        :param window: what is wanted, and how much may be spent
        :returns: all that the log still has
        :raises Unavailable: when it cannot be read
        """
        fd = _open(self.name)
        try:
            for text in _texts(fd):
                more = window.spend(len(text))
                line = lines.kernel_line(self.name, window.boot, text)
                if line is not None:
                    yield lines.block_of(line, True)
                if not more:
                    return
        finally:
            os.close(fd)


def _open(path: str) -> int:
    """Open the kernel's log.

    :raises Unavailable: when it cannot be read
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as e:
        text = f'{path}: {e.strerror}'
        if isinstance(e, PermissionError):
            text += (
                '; kernel.dmesg_restrict = 1 asks for CAP_SYSLOG: let the '
                "agent's unit say AmbientCapabilities=CAP_SYSLOG, and its "
                'user read the device'
            )
        raise lines.Unavailable(text) from e


def _texts(fd: int) -> Iterator[bytes]:
    """Give what the kernel itself has printed and was not read yet."""
    for _ in range(_MOST):
        try:
            record = os.read(fd, _RECORD)
        except BlockingIOError:
            return
        except OSError as e:
            # the ring went over what was to be read next
            if e.errno == errno.EPIPE:
                continue
            raise lines.Unavailable(
                f"the kernel's log cannot be read: {e.strerror}"
            ) from e
        if not record:
            return
        head, _, text = record.partition(b';')
        level = head.partition(b',')[0]
        # Facility 0 is the kernel. What a process writes to the device gets
        # another one, whatever it says (devkmsg_write).
        if level.isdigit() and int(level) < 8:
            text = text.partition(b'\n')[0]
            yield _ESCAPE.sub(_unescape, text).partition(b'\n')[0]


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 16),))
