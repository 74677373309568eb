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

"""Has a verifier hear what the kernel records of policy, as the agent does."""

import contextlib
import threading

from nova_isolation.audit import netlink
from nova_isolation.audit import records


@contextlib.contextmanager
def followed(verifier):
    """Have audit records about policy and modes reach it.

    :param verifier: of :mod:`nova_isolation.agent.verifier`
    """
    source = netlink.AuditSocket.open()
    stopped = threading.Event()

    def follow():
        while not stopped.is_set():
            for kind, payload in source.read_many(0.2, 100):
                record = records.parse(kind, payload)
                if (
                    isinstance(record, records.Record)
                    and record.decision is None
                ):
                    verifier.on_record(record)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        source.close()
