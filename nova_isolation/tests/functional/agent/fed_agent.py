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

Run as a program: the first argument is the descriptor of a socket that stands
for the kernel's, the others are the agent's own. A packet is the record's
type, a space, and its text, as in the samples; one of the type 0 says that the
kernel had to drop records here. Of the kernel that runs the test nothing is
read: its records have numbers, too. PATIENCE in the environment is how many
seconds a denial waits for libvirt.
"""

import functools
import os
import socket
import sys
import time

from nova_isolation.cmd import agent


class FedSocket:
    """Stands for netlink.AuditSocket."""

    def __init__(self, descriptor):
        self.overruns = 0
        self._socket = socket.socket(fileno=descriptor)

    def read_many(self, timeout, limit=1024):
        found = []
        self._socket.settimeout(timeout)
        try:
            while len(found) < limit:
                packet = self._socket.recv(16384)
                if not packet:
                    time.sleep(timeout)
                    break
                kind, payload = packet.split(b' ', 1)
                if kind == b'0':
                    # as ENOBUFS, it comes instead of records
                    self.overruns += 1
                    break
                found.append((int(kind), payload))
                self._socket.setblocking(False)
        except (TimeoutError, BlockingIOError):
            pass
        return found


if __name__ == '__main__':
    source = FedSocket(int(sys.argv[1]))
    # imported by the agent, after what it switches off first
    backfill = sys.modules['nova_isolation.audit.backfill']
    intake = sys.modules['nova_isolation.agent.intake']
    netlink = sys.modules['nova_isolation.audit.netlink']
    patience = float(os.environ.get('PATIENCE', intake._PATIENCE))
    setattr(intake, '_PATIENCE', patience)  # noqa: B010
    setattr(netlink.AuditSocket, 'open', lambda megabytes: source)  # noqa: B010
    setattr(  # noqa: B010
        netlink, 'status', lambda: netlink.AuditStatus(1, 0, 0, 0, 0, 0)
    )
    setattr(  # noqa: B010
        backfill,
        'Backfill',
        functools.partial(backfill.Backfill, journalctl='', kernel_log=''),
    )
    sys.exit(agent.main(sys.argv[2:]))
