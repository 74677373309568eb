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

"""Sockets: services of the cloud and of the host, and the neighbour's."""

import collections.abc
import ctypes
import dataclasses
import hashlib
import os
import socket
import struct
import time
from typing import Any

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks.actions import Do
from nova_isolation.tests.system.attacks.attempt import Action
from nova_isolation.tests.system.attacks.attempt import Attempt
from nova_isolation.tests.system.attacks.attempt import Why
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import captured
from nova_isolation.tests.system.attacks import peers
from nova_isolation.tests.system.attacks import syscalls

_CONTROLLER = '10.77.0.1'  # the lab's
_TABLES = {
    socket.AF_INET: ('tcp', 9, 3, '01'),
    socket.AF_INET6: ('tcp6', 9, 3, '01'),
    socket.AF_UNIX: ('unix', 6, 5, '03'),
}


def connected(pid: int, fd: int, family: int) -> bool:
    """Tell from the kernel's tables whether a socket is connected.

    :param pid: of the process that holds it
    :param fd: its descriptor
    :param family: AF_*
    :returns: whether it is, or was until its peer hung up
    """
    inode = os.readlink(f'/proc/{pid}/fd/{fd}')[len('socket:[') : -1]
    name, at, state, wanted = _TABLES[socket.AddressFamily(family)]
    with open(f'/proc/net/{name}') as f:
        for line in f:
            fields = line.split()
            if len(fields) > at and fields[at] == inode:
                # 08: the peer has closed
                return fields[state] in (wanted, '08')
    return False


@dataclasses.dataclass(frozen=True)
class Connect(Action):
    """Connect to somebody; the kernel's tables show it to root.

    :ivar address: host and port, or the path of a unix socket
    :ivar say: what is said, where an answer is wanted
    :ivar answer: what it must hold
    """

    address: str | tuple[str, str]
    say: bytes = b''
    answer: bytes = b''

    def _where(self, world: World) -> tuple[int, Any]:
        if isinstance(self.address, str):
            return socket.AF_UNIX, world.fill(self.address)
        host, port = self.address
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        return family, (host, int(world.fill(port)))

    def prepare(self, world: World) -> None:
        family, where = self._where(world)
        if family == socket.AF_UNIX and not where.startswith('\0'):
            actions.reach(os.path.dirname(where))
            os.chmod(where, 0o777)

    def attempt(self, world: World) -> Any:
        family, where = self._where(world)
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(20)
        sock.connect(where)
        said = b''
        if self.answer:
            sock.sendall(self.say)
            said = sock.recv(256)
        return [sock.detach(), said.hex()]

    def observed(self, world: World, got: Any, pid: int) -> bool:
        family, _ = self._where(world)
        return self.answer in bytes.fromhex(got[1]) and connected(
            pid, got[0], family
        )


class ConnectStandIn(Connect):
    """Connect to a socket that is made beside a monitor's.

    The monitor's own takes two connections that nobody accepts, and no third.
    """

    def prepare(self, world: World) -> None:
        path = world.fill(str(self.address))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen()
        _INHERITED[:] = [listener]
        super().prepare(world)

    def restore(self, world: World) -> None:
        _close(world)
        os.unlink(world.fill(str(self.address)))


def _http(path: str) -> bytes:
    return f'GET {path} HTTP/1.0\r\n\r\n'.encode()


def _heard(name: str) -> collections.abc.Callable[[World, Any, int], bool]:
    def seen(world: World, got: Any, pid: int) -> bool:
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            if peers.heard(name):
                return True
            time.sleep(0.02)
        return False

    return seen


def _forget(world: World) -> None:
    peers.forget()


def _udp(world: World) -> Any:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.sendto(actions.TOKEN, (peers.ADDRESS, world.udp))
    return sock.detach()


def _dns(world: World) -> Any:
    # a question whose name carries what is stolen
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((peers.ADDRESS, world.udp))
    question = b'\6stolen\4evil\0\0\1\0\1'
    sock.send(struct.pack('>6H', 1, 0x100, 1, 0, 0, 0) + question)
    return sock.detach()


def _fast_open(world: World) -> Any:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.sendto(actions.TOKEN, socket.MSG_FASTOPEN, (peers.ADDRESS, world.tcp))
    return sock.detach()


def _datagram(world: World) -> Any:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.sendto(actions.TOKEN, peers.DATAGRAM)
    return sock.detach()


def _route(world: World) -> Any:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    # RTM_GETLINK, a dump
    sock.send(struct.pack('=IHHIIBxHiII', 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0))
    sock.settimeout(20)
    return sock.recv(65536).hex()


def _all_links(world: World, got: Any, pid: int) -> bool:
    return b'vec0\0' in bytes.fromhex(got)


def _uevents(world: World) -> Any:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
    sock.bind((0, 1))
    return sock.detach()


def _in_netlink(world: World, got: Any, pid: int) -> bool:
    inode = os.readlink(f'/proc/{pid}/fd/{got}')[len('socket:[') : -1]
    with open('/proc/net/netlink') as f:
        return any(line.split()[9] == inode for line in f)


def _crypto(world: World) -> Any:
    sock = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
    sock.bind(('hash', 'sha256'))
    operation, _ = sock.accept()
    operation.sendall(actions.TOKEN)
    return operation.recv(64).hex()


def _is_hash(world: World, got: Any, pid: int) -> bool:
    return bool(got == hashlib.sha256(actions.TOKEN).hexdigest())


def _vsock(world: World) -> Any:
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    sock.bind((0xFFFFFFFF, 7777))
    sock.listen()
    return sock.detach()


def _has_socket(world: World, got: Any, pid: int) -> bool:
    return os.readlink(f'/proc/{pid}/fd/{got}').startswith('socket:[')


def _ping(world: World) -> Any:
    sock = socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP
    )
    sock.settimeout(20)
    sock.sendto(struct.pack('>BBHHH', 8, 0, 0, 0, 1), (_CONTROLLER, 0))
    return sock.recv(64).hex()


def _ping_allowed(world: World) -> None:
    with open('/proc/sys/net/ipv4/ping_group_range', 'w') as f:
        f.write('0 2147483647')


def _sctp(world: World) -> Any:
    sock = socket.socket(
        socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP
    )
    sock.settimeout(20)
    sock.connect((peers.ADDRESS, world.tcp))
    return sock.detach()


def _mptcp(world: World) -> Any:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    sock.settimeout(20)
    sock.connect((peers.ADDRESS, world.tcp))
    return sock.detach()


# Sockets and descriptors that the captured process inherits.
_INHERITED: list[socket.socket] = []


def _pass_descriptor(
    label: collections.abc.Callable[[World], str | None],
) -> collections.abc.Callable[[World], None]:
    """Let a process with a label open a neighbour's disk and send it."""

    def before(world: World) -> None:
        ours, theirs = socket.socketpair()

        def body() -> None:
            captured.become(label(world), ())
            fd = os.open(world.neighbour.disk, os.O_RDWR)
            socket.send_fds(ours, [b'.'], [fd])

        os.waitpid(captured.spawn(body), 0)
        _INHERITED[:] = [ours, theirs]

    return before


def _receive_descriptor(world: World) -> Any:
    _INHERITED[1].settimeout(20)
    _, fds, flags, _ = socket.recv_fds(_INHERITED[1], 1, 1)
    if not fds:
        # the kernel drops what may not be received: MSG_CTRUNC
        raise PermissionError(13, f'nothing received, flags {flags}')
    return fds[0]


def _has_disk(world: World, got: Any, pid: int) -> bool:
    return actions.same_file(pid, got, world.neighbour.disk)


def _close(world: World) -> None:
    for sock in _INHERITED:
        sock.close()


def _through_ring(world: World) -> Any:
    ring = syscalls.Ring()
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    where = struct.pack(
        '=H2s4s8x',
        socket.AF_INET,
        struct.pack('>H', world.tcp),
        socket.inet_aton(peers.ADDRESS),
    )
    kept = ctypes.create_string_buffer(where, len(where))
    # IORING_OP_CONNECT
    ring.do(
        16, sock.fileno(), address=ctypes.addressof(kept), offset=len(where)
    )
    return sock.detach()


def _listen_elsewhere(world: World) -> Any:
    sock = socket.socket()
    sock.bind(('0.0.0.0', 0))
    sock.listen()
    port = sock.getsockname()[1]
    return [sock.detach(), port]


def _answers(world: World, got: Any, pid: int) -> bool:
    with socket.create_connection((peers.ADDRESS, got[1]), 5):
        return True


TABLE = (
    Attempt(
        'TCP to RabbitMQ',
        Connect(
            (_CONTROLLER, '5672'), b'AMQP\0\0\x09\x01', b'publisher_confirms'
        ),
        why=Why.CONNECT,
    ),
    Attempt(
        'TCP to MariaDB',
        Connect((_CONTROLLER, '3306'), b'', b'MariaDB'),
        why=Why.CONNECT,
    ),
    Attempt(
        'TCP to nova-api',
        Connect((_CONTROLLER, '8774'), _http('/'), b'HTTP/1.'),
        why=Why.CONNECT,
    ),
    Attempt(
        'TCP to placement',
        Connect((_CONTROLLER, '8778'), _http('/'), b'HTTP/1.'),
        why=Why.CONNECT,
    ),
    Attempt(
        'TCP to glance',
        Connect((_CONTROLLER, '9292'), _http('/'), b'HTTP/1.'),
        why=Why.CONNECT,
    ),
    Attempt(
        "TCP to a neighbour's VNC",
        Connect(('127.0.0.1', '{neighbour.vnc}'), b'', b'RFB'),
        why=Why.CONNECT,
    ),
    Attempt(
        'TCP to a service of the host',
        Connect(('127.0.0.1', '{tcp}')),
        why=Why.CONNECT,
    ),
    Attempt('TCP over IPv6', Connect(('::1', '{tcp}'))),
    Attempt(
        'TCP that says something before it is connected: fast open',
        Do(_fast_open, _heard('tcp'), _forget),
        why=Why.CONNECT,
    ),
    Attempt(
        'TCP through io_uring',
        Do(_through_ring, _heard('tcp'), _forget),
        why=Why.CONNECT,
    ),
    Attempt(
        'multipath TCP', Do(_mptcp, _heard('tcp'), _forget), why=Why.CONNECT
    ),
    Attempt('UDP to a service of the host', Do(_udp, _heard('udp'), _forget)),
    Attempt('ask a name server', Do(_dns, _heard('udp'), _forget)),
    Attempt('ping', Do(_ping, lambda w, got, p: bool(got), _ping_allowed)),
    Attempt(
        'SCTP to a service of the host',
        Do(_sctp, _heard('sctp'), _forget),
        why=Why.CONNECT,
    ),
    Attempt(
        'listen for TCP at any port and address',
        Do(_listen_elsewhere, _answers),
        why=Why.LISTEN,
    ),
    Attempt(
        "connect to libvirt",
        Connect('/run/libvirt/libvirt-sock'),
        why=Why.UNIX,
    ),
    Attempt(
        "connect to libvirt for reading",
        Connect('/run/libvirt/libvirt-sock-ro'),
        why=Why.UNIX,
    ),
    Attempt(
        "connect to libvirt's administration",
        Connect('/run/libvirt/libvirt-admin-sock'),
        why=Why.UNIX,
    ),
    Attempt(
        'connect to virtlogd',
        Connect('/run/libvirt/virtlogd-sock'),
        why=Why.UNIX,
    ),
    Attempt(
        'connect to D-Bus',
        Connect(
            '/run/dbus/system_bus_socket',
            b'\0AUTH ANONYMOUS\r\n',
            b'REJECTED',
        ),
        why=Why.UNIX,
    ),
    Attempt(
        "connect to a neighbour's monitor",
        ConnectStandIn('{neighbour.state}/monitor.stand-in'),
        why=Why.UNIX,
    ),
    Attempt(
        'connect to a unix socket of the host',
        Connect(peers.STREAM),
        why=Why.UNIX,
    ),
    Attempt(
        'connect to an abstract unix socket of the host',
        Connect(peers.ABSTRACT),
        why=Why.UNIX,
    ),
    Attempt(
        'send a datagram to a unix socket of the host',
        Do(_datagram, _heard('datagram'), _forget),
    ),
    Attempt(
        "receive a neighbour's disk through a socket from the neighbour",
        Do(
            _receive_descriptor,
            _has_disk,
            _pass_descriptor(lambda world: world.neighbour.label),
            _close,
        ),
    ),
    Attempt(
        "receive a neighbour's disk through a socket from the host",
        Do(
            _receive_descriptor,
            _has_disk,
            _pass_descriptor(lambda world: None),
            _close,
        ),
        why=Why.DELEGATED,
    ),
    Attempt('list the interfaces of the host', Do(_route, _all_links)),
    Attempt('listen to what happens to devices', Do(_uevents, _in_netlink)),
    Attempt('let the kernel compute hashes', Do(_crypto, _is_hash)),
    Attempt('listen at a vsock', Do(_vsock, _has_socket)),
)
