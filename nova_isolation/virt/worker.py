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

"""A thread of its own for what a caller must not wait for.

libvirt's events come in the thread that reads the connection to libvirtd, or
in Nova's one for all guests: neither may run a parser.
"""

from collections.abc import Callable
import threading

from oslo_log import log as logging

LOG = logging.getLogger(__name__)


class Worker:
    """Does one thing for guests, one after the other.

    What is asked for a guest that waits already is done once: no more wait
    than there are guests. The thread ends when there is nothing to do.

    :param work: what is done, with the uuid of a domain
    """

    def __init__(self, work: Callable[[str], None]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._waiting: dict[str, None] = {}
        self._runs = False

    def put(self, uuid: str) -> None:
        """Have it done for a guest; returns at once.

        :param uuid: of the domain
        """
        with self._lock:
            self._waiting[uuid] = None
            if self._runs:
                return
            self._runs = True
        threading.Thread(
            target=self._run, name='isolation-events', daemon=True
        ).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._runs = False
                    return
                uuid = next(iter(self._waiting))
                del self._waiting[uuid]
            try:
                self._work(uuid)
            except Exception:
                LOG.exception('isolation: guest %s is passed over', uuid)
