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

"""nova-isolation-agent as it is, but for where its records come from.

Run as a program: the first argument is the descriptor of a datagram socket
that stands for the kernel's, the others are the agent's own. A datagram is the
record's type, a space, and its text, as in the samples.
"""

import socket
import sys

from nova_isolation.audit import netlink
from nova_isolation.cmd import agent


class FedSocket:
    """Stands for netlink.AuditSocket."""

    def __init__(self, descriptor):
        self.overruns = 0
        self._socket = socket.socket(fileno=descriptor)

    def read(self, timeout):
        self._socket.settimeout(timeout)
        try:
            kind, payload = self._socket.recv(16384).split(b' ', 1)
        except TimeoutError:
            return None
        return int(kind), payload


if __name__ == '__main__':
    source = FedSocket(int(sys.argv[1]))
    setattr(netlink.AuditSocket, 'open', lambda: source)  # noqa: B010
    sys.exit(agent.main(sys.argv[2:]))
