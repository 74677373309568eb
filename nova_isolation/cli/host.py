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

"""The guests of this host, as the operator's commands see them."""

from collections.abc import Sequence
import dataclasses

import libvirt
from oslo_config import cfg

from nova_isolation.apparmor import grants
from nova_isolation import domain as domain_module
from nova_isolation import exceptions
from nova_isolation import hostfacts
from nova_isolation import images
from nova_isolation import neighbours


@dataclasses.dataclass(frozen=True)
class Guest:
    """One guest of this host.

    :ivar domain: as it runs, or as it is defined
    :ivar resources: what it has
    """

    domain: domain_module.Domain
    resources: tuple[neighbours.Resource, ...]

    @property
    def uuid(self) -> str:
        return self.domain.uuid

    @property
    def name(self) -> str:
        """What its project calls it, or what libvirt does."""
        return self.domain.instance.name or self.domain.name


@dataclasses.dataclass(frozen=True)
class Definition:
    """A domain, as libvirt has it.

    :ivar uuid: of the domain
    :ivar starting: XML of what its next start begins with: of a suspended
        guest that of its saved memory
    :ivar saved: whether its memory is saved
    :ivar running: XML of what runs now, or None
    """

    uuid: str
    starting: str
    saved: bool
    running: str | None


def guests(conf: cfg.ConfigOpts) -> tuple[list[Guest], list[str]]:
    """Read all guests of this host, running or defined.

    :param conf: with the [isolation] group registered
    :returns: the guests, by name; and which could not be read, with the cause
    :raises HostFault: when libvirtd does not answer
    """
    found, unread = [], []
    _, domains = _connect(conf)
    for domain in domains:
        try:
            found.append(read(conf, domain.XMLDesc(0)))
        except (exceptions.InvalidDomain, libvirt.libvirtError) as e:
            unread.append(f'{domain.UUIDString()}: {e}')
    return sorted(found, key=lambda guest: (guest.name, guest.uuid)), unread


def read(conf: cfg.ConfigOpts, xml: str, *, starting: bool = False) -> Guest:
    """Read what a guest has.

    :param conf: with the [isolation] group registered
    :param xml: of its domain
    :param starting: see :meth:`grants.Granting.resources`
    :returns: the guest
    :raises InvalidDomain: when that is no domain
    """
    parsed = domain_module.parse(xml)
    granting = grants.Granting(
        images.NOWHERE,
        hostfacts.HostFacts(),
        grants.Places.configured(conf.isolation),
        connections=True,
    )
    return Guest(parsed, granting.resources(parsed, starting=starting))


def definitions(conf: cfg.ConfigOpts) -> tuple[str, list[Definition]]:
    """Read how all guests of this host would start, and how they run.

    :param conf: with the [isolation] group registered
    :returns: libvirt's capabilities, as XML, and the definitions
    :raises HostFault: when libvirtd does not answer
    """
    found = []
    connection, domains = _connect(conf)
    for domain in domains:
        try:
            saved = bool(domain.hasManagedSaveImage(0))
            found.append(
                Definition(
                    domain.UUIDString(),
                    domain.managedSaveGetXMLDesc(0)
                    if saved
                    else domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE),
                    saved,
                    domain.XMLDesc(0) if domain.isActive() else None,
                )
            )
        except libvirt.libvirtError as e:
            if e.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise _silent(conf, e) from e
    try:
        return connection.getCapabilities(), found
    except libvirt.libvirtError as e:
        raise _silent(conf, e) from e


def _connect(
    conf: cfg.ConfigOpts,
) -> tuple[libvirt.virConnect, list[libvirt.virDomain]]:
    # else libvirt prints every error on the standard error stream
    libvirt.registerErrorHandler(lambda context, error: None, None)
    try:
        connection = libvirt.openReadOnly(conf.isolation.libvirt_uri)
        return connection, connection.listAllDomains(0)
    except libvirt.libvirtError as e:
        raise _silent(conf, e) from e


def _silent(
    conf: cfg.ConfigOpts, error: libvirt.libvirtError
) -> exceptions.HostFault:
    uri = conf.isolation.libvirt_uri
    return exceptions.HostFault(f'libvirtd does not answer at {uri}: {error}')


def find(known: Sequence[Guest], wanted: str) -> Guest:
    """Find a guest by what an operator calls it.

    :param known: all guests
    :param wanted: its uuid, libvirt's name or its project's name of it
    :returns: the one guest
    :raises InvalidDomain: when there is none, or more than one
    """
    found = [
        guest
        for guest in known
        if wanted in (guest.uuid, guest.domain.name, guest.name)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise exceptions.InvalidDomain(
            f'{len(found)} guests are called {wanted!r}: give the uuid: '
            + ', '.join(guest.uuid for guest in found)
        )
    raise exceptions.InvalidDomain(f'this host has no guest {wanted!r}')
