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

"""The kernel's audit, as root speaks to it and as the lab writes it down."""

import os
import socket
import struct
import time

LOG = '/share/log/audit.log'

# AUDIT_USER_AVC is the one kind that the kernel takes from user space also
# while its audit is off.
MARK = 1107
FORGED = MARK

_GET, _SET = 1000, 1001
_HEADER = struct.Struct('=IHHII')
_STATUS = struct.Struct('=11I')


def _exchange(kind: int, content: bytes) -> bytes:
    """Send a message to the kernel and read what it answers."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as sock:
        sock.settimeout(20)
        length = _HEADER.size + len(content)
        # NLM_F_REQUEST, and NLM_F_ACK where nothing else is answered
        flags = 1 if kind == _GET else 5
        sock.sendto(_HEADER.pack(length, kind, flags, 1, 0) + content, (0, 0))
        answer = sock.recv(8192)
    if _HEADER.unpack_from(answer)[1] == 2:  # NLMSG_ERROR
        (error,) = struct.unpack_from('=i', answer, _HEADER.size)
        if error:
            raise OSError(-error, os.strerror(-error), 'audit')
    return answer[_HEADER.size :]


def say(text: str, kind: int = MARK) -> None:
    """Write a record of one's own into the audit.

    :param text: what it says
    :param kind: of the record
    :raises OSError: when the kernel refuses
    """
    _exchange(kind, text.encode() + b'\0')


def status(enabled: int | None) -> int:
    """Read whether the audit is on, or set it.

    :param enabled: what to set, or None to read
    :returns: 1 when it is on, 0 when it is off; 0 when it was set
    :raises OSError: when the kernel refuses
    """
    if enabled is not None:
        # AUDIT_STATUS_ENABLED
        _exchange(_SET, _STATUS.pack(1, enabled, *[0] * 9))
        return 0
    answer = _exchange(_GET, b'').ljust(_STATUS.size, b'\0')
    return int(_STATUS.unpack_from(answer)[1])


def lines() -> list[str]:
    """Read the lab's log of the audit.

    :returns: a record each
    """
    with open(LOG, errors='replace') as f:
        return f.read().splitlines()


def was_denied(pid: int) -> bool:
    """Tell whether a process was denied something since the last mark.

    :param pid: of the process
    :returns: whether the log has it
    """
    for line in reversed(lines()):
        if line.startswith(f'type={MARK} '):
            break
        if 'apparmor="DENIED"' in line and f' pid={pid} ' in line:
            return True
    return False


def wait_for(text: str, seconds: float = 20, kind: int = MARK) -> bool:
    """Wait until the log has a text.

    :param text: part of a record
    :param seconds: limit
    :param kind: of the record
    :returns: whether it came
    """
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if any(
            line.startswith(f'type={kind} ') and text in line
            for line in lines()
        ):
            return True
        time.sleep(0.05)
    return False
