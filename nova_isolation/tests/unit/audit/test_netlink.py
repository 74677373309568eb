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


class _Socket:
    """Gives datagrams; what it cannot imitate is a real kernel's test."""

    def __init__(self, *results):
        self.results = list(results)
        # what poll() asks: there is always something to read
        self.file, self._writer = socket.socketpair()
        self._writer.send(b'x')

    def fileno(self):
        return self.file.fileno()

    def setblocking(self, flag):
        assert not flag

    def recvfrom_into(self, buffer, size, flags):
        assert flags & socket.MSG_DONTWAIT
        if not self.results:
            raise BlockingIOError
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        data, sender = result
        taken = data[:size]
        buffer[: len(taken)] = taken
        return len(data), (sender, 1)


class AuditSocketTestCase(base.BaseTestCase):
    def audit(self, *results):
        return netlink.AuditSocket(_Socket(*results))

    def test_all_records_that_are_there(self):
        audit = self.audit(
            (_datagram(1400, b'audit(1.002:3): a'), 0),
            (_datagram(1300, b'audit(1.002:3): bcd'), 0),
        )
        self.assertEqual(
            [(1400, b'audit(1.002:3): a'), (1300, b'audit(1.002:3): bcd')],
            audit.read_many(0.5),
        )

    def test_no_more_than_asked_for(self):
        audit = self.audit(*[(_datagram(1400, b'x'), 0)] * 5)
        self.assertEqual(3, len(audit.read_many(0.5, 3)))
        self.assertEqual(2, len(audit.read_many(0.5, 3)))

    def test_a_record_of_another_process_is_not_believed(self):
        audit = self.audit(
            (_datagram(1400, b'forged'), 4711), (_datagram(1400, b'real'), 0)
        )
        self.assertEqual([(1400, b'real')], audit.read_many(0))

    def test_a_datagram_without_a_header_is_nothing(self):
        self.assertEqual([], self.audit((b'\0' * 15, 0)).read_many(0))

    def test_a_record_longer_than_any_is_cut_and_counted(self):
        audit = self.audit((_datagram(1400, b'x' * 20000), 0))
        ((kind, text),) = audit.read_many(0)
        self.assertEqual(1400, kind)
        self.assertEqual(b'x' * (16384 - 16), text)

    def test_records_that_the_kernel_dropped_are_counted(self):
        audit = self.audit(
            (_datagram(1400, b'before'), 0),
            OSError(errno.ENOBUFS, 'full'),
            (_datagram(1400, b'after'), 0),
        )
        self.assertEqual([(1400, b'before')], audit.read_many(0))
        self.assertEqual(1, audit.overruns)
        self.assertEqual([(1400, b'after')], audit.read_many(0))

    def test_a_broken_socket_is_not_silence(self):
        audit = self.audit(OSError(errno.EBADF, 'closed'))
        self.assertRaises(OSError, audit.read_many, 0)


class RealSocketTestCase(base.BaseTestCase):
    """The kernel's answers on another netlink family are netlink, too."""

    def setUp(self):
        super().setUp()
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self.socket.bind((0, 0))
        self.audit = netlink.AuditSocket(self.socket)
        self.addCleanup(self.audit.close)

    def test_silence_is_nothing(self):
        self.assertEqual([], self.audit.read_many(0))
        self.assertEqual(0, self.audit.overruns)
        self.assertEqual(0, self.audit.dropped())

    def test_the_kernel_is_heard(self):
        # RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP
        self.socket.sendto(
            struct.pack('=IHHIIBxxx', 20, 18, 0x301, 1, 0, 0), (0, 0)
        )
        found = self.audit.read_many(5)
        # RTM_NEWLINK, or NLMSG_DONE where there is no interface
        self.assertIn(found[0][0], (16, 3))


class OpenTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        patcher = mock.patch.object(socket, 'socket', autospec=True)
        self.make = patcher.start()
        self.addCleanup(patcher.stop)
        self.socket = self.make.return_value
        self.addCleanup(self.socket.close)
        self.socket.fileno.return_value = 0
        self.socket.getsockopt.return_value = 64 * 1024 * 1024

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

    def test_the_buffer_is_as_large_as_was_asked_for(self):
        with self.assertNoLogs(netlink.__name__, 'WARNING'):
            netlink.AuditSocket.open(32)
        self.socket.setsockopt.assert_called_once_with(
            socket.SOL_SOCKET, 33, 32 * 1024 * 1024
        )

    def test_a_smaller_buffer_is_named_with_the_way_out(self):
        self.socket.setsockopt.side_effect = [
            PermissionError(errno.EPERM, 'no'),
            None,
        ]
        self.socket.getsockopt.return_value = 425984
        with self.assertLogs(netlink.__name__, 'WARNING') as logs:
            netlink.AuditSocket.open(32)
        self.assertIn('208 KiB', logs.output[0])
        self.assertIn('net.core.rmem_max = 33554432', logs.output[0])
        self.assertIn('CAP_NET_ADMIN', logs.output[0])


class StatusTestCase(base.BaseTestCase):
    def ask(self, *answers):
        with mock.patch.object(socket, 'socket', autospec=True) as make:
            sock = make.return_value
            sock.__enter__.return_value = sock
            sock.recvfrom.side_effect = answers
            return netlink.status()

    def test_the_kernels_answer(self):
        numbers = (0, 1, 1, 4321, 100, 8192, 17, 3, 15, 60000, 0)
        answer = struct.pack('=11I', *numbers)
        self.assertEqual(
            netlink.AuditStatus(
                enabled=1,
                pid=4321,
                rate_limit=100,
                backlog_limit=8192,
                lost=17,
                backlog=3,
            ),
            self.ask((_datagram(1000, answer), (0, 0))),
        )

    def test_another_processs_answer_is_not_believed(self):
        forged = _datagram(1000, bytes(44))
        self.assertIsNone(
            self.ask((forged, (4711, 0)), TimeoutError('timed out'))
        )

    def test_without_the_capability_it_says_so(self):
        refusal = struct.pack('=i', -errno.EPERM) + bytes(16)
        with self.assertLogs(netlink.__name__, 'INFO') as logs:
            self.assertIsNone(self.ask((_datagram(2, refusal), (0, 0))))
        self.assertIn('CAP_AUDIT_CONTROL', logs.output[0])

    def test_a_kernel_that_does_not_answer_is_not_waited_for(self):
        self.assertIsNone(self.ask(TimeoutError('timed out')))
