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

"""What guests had and have no longer, until their processes have closed it.

A right that is withdrawn keeps a process from opening a file again. What is
open the kernel leaves open: a captured QEMU can have opened a disk a second
time while it had it. So that is looked for, by what the file is and not by
any name.
"""

from collections.abc import Iterable, Mapping
import time

from oslo_log import log as logging

from nova_isolation import neighbours
from nova_isolation import privileged

LOG = logging.getLogger(__name__)

# Seconds between two looks.
_PAUSE = 0.2


class Withdrawn:
    """What was withdrawn from which guest, and may still be open.

    Its size is that of the devices that go at the moment, and of those that a
    guest keeps.
    """

    def __init__(self) -> None:
        self._guests: dict[str, dict[neighbours.Identity, str]] = {}

    def note(
        self, uuid: str, lost: Mapping[str, str], granted: Iterable[str]
    ) -> None:
        """Note what a guest is about to lose; by whose turn it is.

        :param uuid: of the guest
        :param lost: {path: origin} of what it had
        :param granted: paths of what it has
        """
        waiting = self._guests.get(uuid, {})
        for path, origin in lost.items():
            identity = neighbours.identify(path)
            if identity[0] == 'path':
                LOG.warning(
                    'isolation: guest %s has lost %s (%s), which does not '
                    'exist any more: whether it is still open cannot be told',
                    uuid,
                    path,
                    origin,
                )
                continue
            waiting[identity] = f'{path} ({origin})'
        if waiting:
            for path in granted:
                waiting.pop(neighbours.identify(path), None)
            self._guests[uuid] = waiting

    def wait_closed(self, uuid: str, limit: float) -> tuple[str, ...]:
        """Wait until a guest's processes have closed what it has lost.

        :param uuid: of the guest
        :param limit: seconds
        :returns: in words what they have open even then; it stays noted
        """
        end = time.monotonic() + limit
        while True:
            found = self._look(uuid)
            if not found or time.monotonic() >= end:
                return found
            time.sleep(_PAUSE)

    def _look(self, uuid: str) -> tuple[str, ...]:
        waiting = self._guests.get(uuid)
        if not waiting:
            return ()
        wanted = list(waiting)
        opened: dict[neighbours.Identity, list[int]] = {}
        for place, pid in privileged.find_open(uuid, wanted):
            opened.setdefault(wanted[place], []).append(pid)
        self._guests[uuid] = {i: waiting[i] for i in wanted if i in opened}
        return tuple(
            f'{waiting[identity]} by process {", ".join(map(str, pids))}'
            for identity, pids in opened.items()
        )

    def forget(self, uuid: str) -> None:
        """Look for nothing of a guest any more.

        :param uuid: of the guest
        """
        self._guests.pop(uuid, None)
