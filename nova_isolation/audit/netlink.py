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

"""The kernel's audit records as they happen, beside auditd.

The multicast group AUDIT_NLGRP_READLOG of NETLINK_AUDIT carries a copy of
every record to whoever holds CAP_AUDIT_READ, and disturbs neither auditd nor
the kernel when nobody reads. Linux 3.16 and later have it. The kernel sends to
the first network namespace alone: in another one the socket stays silent.
"""

import dataclasses
import errno
import os
import select
import socket
import struct
import time

from oslo_log import log

from nova_isolation import exceptions

LOG = log.getLogger(__name__)

_NETLINK_AUDIT = 9
# bind() takes a mask: bit n-1 is group n, and AUDIT_NLGRP_READLOG is 1
_GROUPS = 1 << 0

# <asm-generic/socket.h>; Python has no name for them
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
# <linux/sock_diag.h>: which of the numbers of SO_MEMINFO
_MEMINFO = struct.Struct('=9I')
_MEMINFO_DROPS = 8

# struct nlmsghdr: length, type, flags, sequence, port. One datagram is one
# record, and the length is not used: depending on the kernel it counts the
# header or not (audit_log_end keeps an old mistake alive for auditd).
_HEADER = struct.Struct('=IHHII')
_KIND = struct.Struct('=H')
# MAX_AUDIT_MESSAGE_LENGTH is 8970
_DATAGRAM = 16384
# MSG_TRUNC: say how long the record was, also when the buffer was too short
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_TRUNC

# <linux/netlink.h> and <linux/audit.h>
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_AUDIT_GET = 1000
# struct audit_status: mask, enabled, failure, pid, rate_limit, backlog_limit,
# lost, backlog; newer kernels append to it
_STATUS = struct.Struct('=8I')
_ERROR = struct.Struct('=i')

_MEGABYTE = 1024 * 1024


class AuditSocket:
    """A socket that hears all audit records of the kernel.

    :ivar overruns: how often the kernel began to drop records because they
        were not read quickly enough. It then drops all until everything that
        waits was read; :meth:`dropped` says how many. The reader of the
        records announces it
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take a bound socket.

        :param sock: as :meth:`open` makes it
        """
        self._socket = sock
        sock.setblocking(False)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._buffer = bytearray(_DATAGRAM)
        self._view = memoryview(self._buffer)
        self.overruns = 0

    @classmethod
    def open(cls, megabytes: int = 32) -> 'AuditSocket':
        """Open the socket.

        :param megabytes: that the kernel may hold of records that were not
            read yet (``[isolation] audit_buffer``)
        :returns: the :class:`AuditSocket`
        :raises AuditUnavailable: when the kernel has no audit or does not
            let this process read it
        """
        try:
            sock = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_AUDIT
            )
        except OSError as e:
            raise exceptions.AuditUnavailable(
                f'this kernel gives no audit socket ({e.strerror}): it is '
                f'built without CONFIG_AUDIT'
            ) from e
        try:
            _grow(sock, megabytes)
            sock.bind((0, _GROUPS))
        except PermissionError as e:
            sock.close()
            raise exceptions.AuditUnavailable(
                "this process may not read the kernel's audit records: it "
                'lacks the capability CAP_AUDIT_READ; let its systemd unit '
                'say AmbientCapabilities=CAP_AUDIT_READ. Where it has that, '
                "SELinux denies it: let the policy allow the process's domain "
                'capability2 audit_read'
            ) from e
        except OSError as e:
            sock.close()
            raise exceptions.AuditUnavailable(
                f"the kernel's audit records cannot be read: {e.strerror}"
            ) from e
        return cls(sock)

    def read_many(
        self, timeout: float, limit: int = 1024
    ) -> list[tuple[int, bytes]]:
        """Wait for a record, then take all that are there.

        :param timeout: seconds to wait at most for the first one
        :param limit: how many to take at most
        :returns: ``[(numeric type, text)]`` in the kernel's order; empty when
            there was none in that time, or an overrun is told first
        :raises OSError: when the socket is of no more use
        """
        found: list[tuple[int, bytes]] = []
        receive = self._socket.recvfrom_into
        buffer, view = self._buffer, self._view
        kind_of = _KIND.unpack_from
        begin = _HEADER.size
        try:
            if not self._poll.poll(max(0, timeout) * 1000):
                return found
            for _ in range(limit):
                size, sender = receive(buffer, _DATAGRAM, _FLAGS)
                # Only the kernel has port 0. Whoever has CAP_NET_ADMIN could
                # send to the group, too.
                if sender[0] != 0 or size < begin:
                    continue
                found.append((kind_of(buffer, 4)[0], bytes(view[begin:size])))
        except BlockingIOError:
            pass
        except OSError as e:
            if e.errno != errno.ENOBUFS:
                raise
            self.overruns += 1
        return found

    def read(self, timeout: float) -> tuple[int, bytes] | None:
        """Wait for the next record.

        :param timeout: seconds to wait at most
        :returns: the record's numeric type and its text, or None when there
            was none in that time
        :raises OSError: when the socket is of no more use
        """
        found = self.read_many(timeout, 1)
        return found[0] if found else None

    def dropped(self) -> int | None:
        """Tell how many records the kernel dropped because none were read.

        They are of all kinds, not only denials.

        :returns: their number since :meth:`open`, modulo 2**32; None when the
            kernel does not tell (before Linux 4.12)
        """
        try:
            answer = self._socket.getsockopt(
                socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size
            )
        except OSError:
            return None
        if len(answer) < _MEMINFO.size:
            return None
        return int(_MEMINFO.unpack_from(answer)[_MEMINFO_DROPS])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _grow(sock: socket.socket, megabytes: int) -> None:
    """Give a socket its receive buffer, and say when it got a smaller one."""
    wanted = megabytes * _MEGABYTE
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted)
    except PermissionError:
        # at most net.core.rmem_max, without an error
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
    # The kernel answers with twice of what it granted, because it counts what
    # it needs itself for a record, too: a megabyte holds about 2,500.
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    if granted < wanted:
        LOG.warning(
            'The kernel holds only %(granted)d KiB of audit records until '
            'they are read, not %(wanted)d: a flood of denials overruns it '
            'sooner. Set sysctl net.core.rmem_max = %(bytes)d, let the '
            "agent's unit say AmbientCapabilities=CAP_NET_ADMIN, or lower "
            '[isolation] audit_buffer',
            {
                'granted': granted // 1024,
                'wanted': wanted // 1024,
                'bytes': wanted,
            },
        )
    else:
        LOG.info(
            'Reading audit records, receive buffer %d KiB', granted // 1024
        )


@dataclasses.dataclass(frozen=True)
class AuditStatus:
    """What the kernel says of its audit (``auditctl -s``).

    :ivar enabled: 0: no records of system calls (denials are recorded all the
        same), 1: they are, 2: and nobody can change it until the next boot
    :ivar pid: auditd's in the reader's pid namespace; 0 when there is none
    :ivar rate_limit: records a second, beyond which the kernel drops them; 0:
        no limit
    :ivar backlog_limit: records that may wait for the kernel's own sender,
        beyond which it drops those of denials; 0: no limit
    :ivar lost: records that the kernel dropped for these limits or for want
        of memory, since the boot or since somebody reset it (``auditctl
        --reset-lost``), modulo 2**32. What a socket was too slow for is not
        among them
    :ivar backlog: records that wait now
    """

    enabled: int
    pid: int
    rate_limit: int
    backlog_limit: int
    lost: int
    backlog: int


def status(timeout: float = 2.0) -> AuditStatus | None:
    """Ask the kernel how its audit is.

    It needs CAP_AUDIT_CONTROL in the first user and pid namespace
    (kernel/audit.c, audit_netlink_ok), with which a process could also switch
    the audit off. Who is not to have that follows the lines ``audit_lost=``
    of the kernel's log: :class:`nova_isolation.audit.backfill.KernelLog`.

    :param timeout: seconds to wait at most
    :returns: the :class:`AuditStatus`, or None, with the reason in the log at
        level info, when it cannot be had
    """
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_AUDIT
        ) as sock:
            return _ask(sock, timeout)
    except OSError as e:
        # EPERM in a pid namespace, ECONNREFUSED in a user namespace
        if e.errno in (errno.EPERM, errno.EACCES, errno.ECONNREFUSED):
            LOG.info(
                "The state of the kernel's audit cannot be asked for (%s): "
                'it needs the capability CAP_AUDIT_CONTROL, outside of a '
                'container',
                os.strerror(e.errno),
            )
        else:
            LOG.info("The state of the kernel's audit is not known: %s", e)
        return None


def _ask(sock: socket.socket, timeout: float) -> AuditStatus:
    """Send AUDIT_GET and wait for the answer.

    :raises OSError: with the kernel's own errno, or ETIMEDOUT
    """
    sock.settimeout(timeout)
    sock.sendto(
        _HEADER.pack(_HEADER.size, _AUDIT_GET, _NLM_F_REQUEST, 1, 0), (0, 0)
    )
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        data, sender = sock.recvfrom(_DATAGRAM)
        if sender[0] != 0 or len(data) < _HEADER.size + _ERROR.size:
            continue
        kind = _HEADER.unpack_from(data)[1]
        if kind == _NLMSG_ERROR:
            code = -_ERROR.unpack_from(data, _HEADER.size)[0]
            if code:
                raise OSError(code, os.strerror(code))
        elif kind == _AUDIT_GET and len(data) >= _HEADER.size + _STATUS.size:
            _, enabled, _, pid, rate, limit, lost, backlog = (
                _STATUS.unpack_from(data, _HEADER.size)
            )
            return AuditStatus(enabled, pid, rate, limit, lost, backlog)
    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
