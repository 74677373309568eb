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

"""Peers for what a captured process connects to, in a process of their own.

They answer at once and hang up, so that nobody waits for them, and write a
line for each that came.
"""

import os
import selectors
import socket

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks import captured

ADDRESS = '127.0.0.1'
STREAM = f'{actions.PLACE}/peers/stream'
DATAGRAM = f'{actions.PLACE}/peers/datagram'
ABSTRACT = '\0captured-stream'
_HEARD = '/run/attacks-heard'


def start() -> tuple[int, int]:
    """Start the peers.

    :returns: the TCP port, on 127.0.0.1 and ::1, and the UDP port
    """
    actions.reach(os.path.dirname(STREAM))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((ADDRESS, 0))
    tcp = socket.create_server((ADDRESS, 0))
    port = tcp.getsockname()[1]
    tcp6 = socket.create_server(('::1', port), family=socket.AF_INET6)
    peers = {'udp': udp, 'tcp': tcp, 'tcp6': tcp6}
    try:
        sctp = socket.socket(
            socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP
        )
    except OSError:
        # this kernel has none
        pass
    else:
        sctp.bind((ADDRESS, port))
        sctp.listen()
        peers['sctp'] = sctp
    for name, address, kind in (
        ('stream', STREAM, socket.SOCK_STREAM),
        ('datagram', DATAGRAM, socket.SOCK_DGRAM),
        ('abstract', ABSTRACT, socket.SOCK_STREAM),
    ):
        peer = socket.socket(socket.AF_UNIX, kind)
        peer.bind(address)
        if kind == socket.SOCK_STREAM:
            peer.listen()
        if not address.startswith('\0'):
            os.chmod(address, 0o777)
        peers[name] = peer
    forget()
    captured.spawn(lambda: _listen(peers))
    heard_at = udp.getsockname()[1]
    for peer in peers.values():
        peer.close()
    return port, heard_at


def _listen(peers: dict[str, socket.socket]) -> None:
    with selectors.DefaultSelector() as waiting:
        for name, peer in peers.items():
            waiting.register(peer, selectors.EVENT_READ, name)
        while True:
            for key, _ in waiting.select():
                peer, said = peers[key.data], b''
                if peer.type == socket.SOCK_STREAM:
                    connection, _ = peer.accept()
                    connection.close()
                else:
                    said = peer.recv(4096)
                with open(_HEARD, 'a') as f:
                    f.write(f'{key.data} {said.hex()}\n')


def forget() -> None:
    """Forget who came."""
    with open(_HEARD, 'w'):
        pass


def heard(name: str) -> list[bytes]:
    """Tell who came.

    :param name: of the peer
    :returns: what each said: nothing, where it was a connection
    """
    with open(_HEARD) as f:
        lines = [line.rstrip('\n').split(' ') for line in f]
    return [bytes.fromhex(said) for who, said in lines if who == name]
