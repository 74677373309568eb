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

"""One change at a time to what each guest may reach.

A start, a device that comes and one that goes all compute a guest's rights
from its domain: a change that overtakes another one would take away what the
other is about to use. Who starts or plugs waits for its turn. Who only learns
that a device has gone (libvirt's event, the periodic task) never waits: it
notes that, and whoever has the turn sees to it afterwards.
"""

from collections.abc import Iterator
import contextlib
import threading

from nova_isolation import exceptions

#: seconds: as long as libvirt itself waits for another job of a domain
PATIENCE = 30.0


class Turns:
    """Who may change the rights of which guest; used by several threads.

    Its size is that of the guests that are changed at the moment, and of
    those whose last change failed.

    :param patience: seconds for which a change waits for another one
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._condition = threading.Condition()
        self._taken: set[str] = set()
        self._due: set[str] = set()

    @contextlib.contextmanager
    def take(self, uuid: str) -> Iterator[None]:
        """Wait for the turn of a guest, and have it.

        :param uuid: of the domain
        :returns: a context
        :raises Refusal: when another change does not end
        """
        with self._condition:
            if not self._condition.wait_for(
                lambda: uuid not in self._taken, self.patience
            ):
                raise exceptions.Refusal(
                    f'another change to the guest has not ended in '
                    f'{self.patience:.0f} seconds: try again'
                )
            self._taken.add(uuid)
        try:
            yield
        finally:
            self.give_back(uuid)

    def note(self, uuid: str) -> None:
        """Note that a guest may have lost what it still has a right to.

        :param uuid: of the domain
        """
        with self._condition:
            self._due.add(uuid)

    def is_due(self, uuid: str) -> bool:
        """Tell whether something was noted that nobody has seen to yet.

        :param uuid: of the domain
        """
        with self._condition:
            return uuid in self._due

    def claim(self, uuid: str) -> bool:
        """Take the turn of a guest if it is free and something is noted.

        :param uuid: of the domain
        :returns: whether the caller has it, and has to give it back
        """
        with self._condition:
            if uuid in self._taken or uuid not in self._due:
                return False
            self._due.discard(uuid)
            self._taken.add(uuid)
            return True

    def give_back(self, uuid: str) -> None:
        """End a turn.

        :param uuid: of the domain
        """
        with self._condition:
            self._taken.discard(uuid)
            self._condition.notify_all()

    def forget(self, uuid: str) -> None:
        """Drop what is noted of a guest that is gone.

        :param uuid: of the domain
        """
        with self._condition:
            self._due.discard(uuid)
