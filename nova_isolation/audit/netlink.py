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
the kernel when nobody reads. Linux 3.16 and later have it.
"""

import errno
import socket
import struct

from oslo_log import log

from nova_isolation import exceptions

LOG = log.getLogger(__name__)

_NETLINK_AUDIT = 9
# bind() takes a mask: bit n-1 is group n, and AUDIT_NLGRP_READLOG is 1
_GROUPS = 1 << 0

# struct nlmsghdr: length, type, flags, sequence, port. One datagram is one
# record, and the length is not used: depending on the kernel it counts the
# header or not (audit_log_end keeps an old mistake alive for auditd).
_HEADER = struct.Struct('=IHHII')
# MAX_AUDIT_MESSAGE_LENGTH is 8970
_DATAGRAM = 16384

# bytes; the kernel grants at most net.core.rmem_max of it
_RECEIVE_BUFFER = 8 * 1024 * 1024


class AuditSocket:
    """A socket that hears all audit records of the kernel.

    :ivar overruns: how often the kernel had to drop records because they
        were not read quickly enough; the reader of the records announces it
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take a bound socket.

        :param sock: as :meth:`open` makes it
        """
        self._socket = sock
        self.overruns = 0

    @classmethod
    def open(cls) -> 'AuditSocket':
        """Open the socket.

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
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER
            )
            sock.bind((0, _GROUPS))
        except PermissionError as e:
            sock.close()
            raise exceptions.AuditUnavailable(
                "this process may not read the kernel's audit records: it "
                'lacks the capability CAP_AUDIT_READ; let its systemd unit '
                'say AmbientCapabilities=CAP_AUDIT_READ'
            ) from e
        except OSError as e:
            sock.close()
            raise exceptions.AuditUnavailable(
                f"the kernel's audit records cannot be read: {e.strerror}"
            ) from e
        size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        # the kernel answers with twice of what it granted
        LOG.info(
            'Reading audit records, receive buffer %d KiB (at most '
            'net.core.rmem_max)',
            size // 2048,
        )
        return cls(sock)

    def read(self, timeout: float) -> tuple[int, bytes] | None:
        """Wait for the next record.

        :param timeout: seconds to wait at most
        :returns: the record's numeric type and its text, or None when there
            was none in that time
        :raises OSError: when the socket is of no more use
        """
        self._socket.settimeout(timeout)
        try:
            data, sender = self._socket.recvfrom(_DATAGRAM)
        except TimeoutError:
            return None
        except OSError as e:
            if e.errno != errno.ENOBUFS:
                raise
            self.overruns += 1
            return None
        # Only the kernel has port 0. Whoever has CAP_NET_ADMIN could send to
        # the group, too.
        if sender[0] != 0 or len(data) < _HEADER.size:
            return None
        return _HEADER.unpack_from(data)[1], data[_HEADER.size :]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
