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


"""A hook that records how it is called, and objects when it is told to.

It stands in for the apparmor hook where there is no kernel to ask: the tests
read :data:`recording`, which belongs to the process.
"""

from collections.abc import Callable
import dataclasses

from lxml import etree

from nova_isolation.domain import Domain
from nova_isolation import exceptions
from nova_isolation.hooks import base


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a hook.

    :ivar verb: the method's name
    :ivar uuid: of the domain, or '' when it is about the host
    :ivar state: of the domain at that moment: ``absent``, ``shutoff``,
        ``paused`` or ``running``
    :ivar id: what the hook is told of the domain's number
    """

    verb: str
    uuid: str
    state: str
    id: int | None = None


class Recording:
    """What the hook was called for, and what it shall object to.

    :ivar look: tells a domain's state by its uuid
    :ivar granted: of each guest the domain that its rights are made of
    :ivar learned: of each guest the domain that others are compared with
    :ivar hosts: what the hook was told of the host
    :ivar reported: what is reported of every guest that is proven
    :ivar kept: what every guest keeps open of devices that it has lost
    """

    def __init__(self) -> None:
        self.granted: dict[str, Domain] = {}
        self.learned: dict[str, Domain] = {}
        self.kept: tuple[str, ...] = ()
        self.reported: tuple[str, ...] = ()
        self.calls: list[Call] = []
        self.guests: list[base.Guest] = []
        self.hosts: list[base.Host] = []
        self.look: Callable[[str], str] = lambda uuid: ''
        self._objections: dict[str, tuple[Exception, bool]] = {}

    def object_at(
        self, verb: str, error: Exception, *, once: bool = False
    ) -> None:
        """Make the hook raise.

        :param verb: the method's name
        :param error: what it raises
        :param once: whether only at the next call
        """
        self._objections[verb] = (error, once)

    def agree(self) -> None:
        """Object no more."""
        self._objections.clear()

    def verbs(self, uuid: str) -> list[tuple[str, str]]:
        """Tell what was called for a domain since the last :meth:`forget`.

        :param uuid: of the domain
        :returns: [(verb, state of the domain)]
        """
        return [(c.verb, c.state) for c in self.calls if c.uuid == uuid]

    def forget(self) -> None:
        """Begin a new recording."""
        self.calls.clear()
        self.guests.clear()
        self.hosts.clear()

    def note(self, verb: str, uuid: str, number: int | None = None) -> None:
        """Record a call, and object to it if that is wanted.

        :param verb: the method's name
        :param uuid: of the domain, or ''
        :param number: of the domain
        """
        state = self.look(uuid) if uuid else ''
        self.calls.append(Call(verb, uuid, state, number))
        self.object(verb)

    def object(self, verb: str) -> None:
        """Object if that is wanted.

        :param verb: the method's name
        """
        error, once = self._objections.get(verb, (None, False))
        if once:
            del self._objections[verb]
        if error is not None:
            raise error


recording = Recording()


class Recorder(base.Hook):
    """Adds the seclabel as the apparmor hook does, and records."""

    def check_host(self, host: base.Host) -> None:
        recording.hosts.append(host)
        recording.note('check_host', '')
        if '<model>apparmor</model>' not in host.capabilities:
            raise exceptions.HostFault('libvirtd runs without its driver')

    def define(self, xml: etree._Element) -> None:
        recording.note('define', xml.findtext('uuid', ''))
        self._remove(xml)
        etree.SubElement(
            xml, 'seclabel', type='dynamic', model='apparmor', relabel='yes'
        )

    def undefine(self, xml: etree._Element) -> None:
        recording.note('undefine', xml.findtext('uuid', ''))
        self._remove(xml)

    def _remove(self, xml: etree._Element) -> None:
        for label in xml.findall('seclabel'):
            xml.remove(label)

    def judge(self, guest: base.Guest) -> None:
        self._note('judge', guest)

    def prepare(self, guest: base.Guest) -> None:
        self._note('prepare', guest)
        self._grant(guest)

    def widen(self, guest: base.Guest) -> None:
        self._note('widen', guest)
        self._grant(guest)

    def narrow(self, guest: base.Guest) -> None:
        self._note('narrow', guest)
        self._grant(guest)

    def _grant(self, guest: base.Guest) -> None:
        recording.granted[guest.domain.uuid] = guest.domain

    def learn(self, domain: Domain) -> None:
        recording.learned[domain.uuid] = domain

    def forget(self, uuid: str) -> None:
        recording.learned.pop(uuid, None)

    def wait_closed(self, uuid: str) -> tuple[str, ...]:
        return recording.kept

    def exceeds(self, guest: base.Guest) -> bool:
        recording.object('exceeds')
        granted = recording.granted[guest.domain.uuid]
        return bool(_devices(granted) - _devices(guest.domain))

    def owns(self, uuid: str) -> bool:
        return uuid in recording.granted

    def verify(self, guest: base.Guest) -> tuple[str, ...]:
        self._note('verify', guest)
        return recording.reported

    def release(self, uuid: str) -> None:
        recording.note('release', uuid)
        recording.granted.pop(uuid, None)

    def _note(self, verb: str, guest: base.Guest) -> None:
        recording.guests.append(guest)
        recording.note(verb, guest.domain.uuid, guest.domain.id)


def _devices(domain: Domain) -> set[object]:
    return {*domain.disks, *domain.interfaces, *domain.host_devices}
