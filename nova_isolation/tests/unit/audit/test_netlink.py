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

"""Datagrams of the kernel become records, and nobody else's do."""

import errno
import socket
import struct
from unittest import mock

from oslotest import base

from nova_isolation.audit import netlink
from nova_isolation import exceptions


def _datagram(kind, payload):
    # the length is wrong, as older kernels have it
    return struct.pack('=IHHII', len(payload), kind, 0, 0, 0) + payload


class AuditSocketTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.socket = mock.Mock()
        self.audit = netlink.AuditSocket(self.socket)

    def test_a_record_of_the_kernel(self):
        self.socket.recvfrom.return_value = (
            _datagram(1400, b'audit(1.002:3): apparmor="DENIED"'),
            (0, 1),
        )
        self.assertEqual(
            (1400, b'audit(1.002:3): apparmor="DENIED"'), self.audit.read(0.5)
        )
        self.socket.settimeout.assert_called_once_with(0.5)

    def test_a_record_of_another_process_is_not_believed(self):
        self.socket.recvfrom.return_value = (
            _datagram(1400, b'audit(1.002:3): apparmor="DENIED"'),
            (4711, 1),
        )
        self.assertIsNone(self.audit.read(0))

    def test_a_datagram_without_a_header_is_nothing(self):
        self.socket.recvfrom.return_value = (b'\0' * 15, (0, 1))
        self.assertIsNone(self.audit.read(0))

    def test_silence_is_nothing(self):
        self.socket.recvfrom.side_effect = TimeoutError
        self.assertIsNone(self.audit.read(0))
        self.assertEqual(0, self.audit.overruns)

    def test_records_that_the_kernel_dropped_are_counted(self):
        self.socket.recvfrom.side_effect = OSError(errno.ENOBUFS, 'full')
        self.assertIsNone(self.audit.read(0))
        self.assertIsNone(self.audit.read(0))
        self.assertEqual(2, self.audit.overruns)

    def test_a_broken_socket_is_not_silence(self):
        self.socket.recvfrom.side_effect = OSError(errno.EBADF, 'closed')
        self.assertRaises(OSError, self.audit.read, 0)


class OpenTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        patcher = mock.patch.object(socket, 'socket', autospec=True)
        self.make = patcher.start()
        self.addCleanup(patcher.stop)
        self.socket = self.make.return_value
        self.socket.getsockopt.return_value = 1 << 20

    def test_without_the_capability_it_is_named_with_the_way_out(self):
        self.socket.bind.side_effect = PermissionError(errno.EPERM, 'no')
        e = self.assertRaises(
            exceptions.AuditUnavailable, netlink.AuditSocket.open
        )
        self.assertIn('CAP_AUDIT_READ', e.message)
        self.assertIn('AmbientCapabilities=', e.message)
        self.socket.close.assert_called_once_with()

    def test_a_kernel_without_audit_is_named(self):
        self.make.side_effect = OSError(errno.EPROTONOSUPPORT, 'no protocol')
        e = self.assertRaises(
            exceptions.AuditUnavailable, netlink.AuditSocket.open
        )
        self.assertIn('CONFIG_AUDIT', e.message)

    def test_it_listens_to_the_read_log_group_only(self):
        netlink.AuditSocket.open()
        self.socket.bind.assert_called_once_with((0, 1))
