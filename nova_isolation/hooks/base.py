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

"""The contract of the hooks that confine and check guests.

Hooks are registered under the entry point namespace ``nova_isolation.hooks``
and called in the order of ``[isolation] hooks``. At a start:

1. ``define``: before libvirt knows the domain, its XML is completed;
2. ``prepare``: just before libvirt starts QEMU, whose vCPUs do not run yet;
3. ``narrow``: QEMU is there, and what was not known before now is;
4. ``verify``: nothing changes any more; the guest runs if nobody objects.

A device of a running guest comes with ``judge`` and ``widen`` before libvirt
attaches it, ``narrow`` and ``verify`` after; and goes with ``narrow`` and
``wait_closed``, once libvirt says that it is gone.

A hook objects by raising :class:`nova_isolation.exceptions.Refusal` when the
fault is the guest's, or :class:`nova_isolation.exceptions.HostFault` when it
is the host's. Hooks know neither Nova nor libvirt's connection.
"""

import abc
import dataclasses
import os

from lxml import etree
from oslo_config import cfg

from nova_isolation import chains
from nova_isolation import domain as domain_module
from nova_isolation import images


@dataclasses.dataclass(frozen=True)
class Host:
    """What a hook may need to know of the host.

    :ivar capabilities: libvirt's capabilities, read now, as XML
    :ivar starting: whether ``judge`` or ``prepare`` of a guest follows
    """

    capabilities: str
    starting: bool = False


@dataclasses.dataclass(frozen=True)
class Guest:
    """A guest about to start or to change, or as it runs.

    :ivar domain: what libvirt will start or make of it, or has started
    :ivar directories: where the files of its disks may be
    :ivar restoring: whether libvirt will restore its saved memory
    """

    domain: domain_module.Domain
    directories: images.Directories
    restoring: bool = False


def describe(
    xml: str,
    instances: str,
    cache: str,
    volumes: str,
    believed: frozenset[str] = frozenset(),
) -> Guest:
    """Describe a guest to the hooks.

    :param xml: of its domain
    :param instances: Nova's ``instances_path``
    :param cache: the directory of Nova's image cache
    :param volumes: Nova's ``[libvirt] nfs_mount_point_base``
    :param believed: names of files in the cache that are the guest's, beside
        what its domain says
    :returns: the guest
    :raises InvalidDomain: when the XML cannot be understood
    """
    domain = domain_module.parse(xml)
    return Guest(
        domain,
        images.Directories(
            instance=os.path.join(instances, domain.uuid),
            cache=cache,
            images=believed | recorded(domain, xml, cache),
            volumes=volumes,
        ),
    )


def recorded(
    domain: domain_module.Domain, xml: str, cache: str
) -> frozenset[str]:
    """Name the images of the cache that a domain's record gives a guest.

    :param domain: of the guest
    :param xml: of the same domain
    :param cache: the directory of Nova's image cache
    :returns: the names of their files
    """
    real = os.path.realpath(cache)
    # one that was unshelved before that was recorded has the image's alone
    image = domain.instance.image_id
    own = frozenset([images.cache_name(image)] if image else ())
    return own | {
        os.path.basename(path)
        for path in chains.recorded(domain_module.read_xml(xml))
        if os.path.dirname(path) == real
    }


class Hook(abc.ABC):
    """One hook; a verb that it does not override has nothing to say.

    :param conf: the configuration, with the [isolation] group registered
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self.conf = conf

    @abc.abstractmethod
    def check_host(self, host: Host) -> None:
        """Check that this host can confine guests at all.

        Called when the service starts, periodically, and before each start;
        then it need not look for what the guest's own verbs will find.

        :param host: what may be needed to tell
        :raises HostFault: when it cannot, naming the cause and the way out
        """

    def define(self, xml: etree._Element) -> None:
        """Complete the XML of a domain that is about to be defined.

        :param xml: the ``<domain>`` element, changed in place
        :raises Refusal: when the guest may not be defined
        """

    def undefine(self, xml: etree._Element) -> None:
        """Take back what ``define`` added, when isolation is switched off.

        :param xml: the ``<domain>`` element, changed in place
        """

    def learn(self, domain: domain_module.Domain) -> None:
        """Take in another guest of this host, in place of what was known.

        Called for each guest, running or defined, before one starts or gets
        a device, and for one that has lost a device.

        :param domain: the guest's domain
        """

    def forget(self, uuid: str) -> None:
        """Forget a guest that is no longer on this host.

        :param uuid: of the domain
        """

    def judge(self, guest: Guest) -> None:
        """Find out, without changing anything, what would be refused.

        Called before Nova tears down what it cannot bring back, and before a
        running guest gets a device.

        :param guest: as it would start, or as it would run
        :raises Refusal: when ``prepare`` or ``widen`` would refuse it
        """

    def prepare(self, guest: Guest) -> None:
        """Do what must be there before QEMU starts.

        :param guest: as it will start
        :raises Refusal: when it may not start
        """

    def widen(self, guest: Guest) -> None:
        """Do what must be there before a running guest gets a device.

        What it has already must go on working. Followed by ``narrow``,
        whatever becomes of the device.

        :param guest: as it will run, with the device
        :raises Refusal: when it may not have it
        """

    def narrow(self, guest: Guest) -> None:
        """Take away what only the start needed, or a device that is gone.

        :param guest: as it runs; at its start with stopped vCPUs
        :raises Refusal: when that fails
        """

    def wait_closed(self, uuid: str) -> tuple[str, ...]:
        """Wait until a guest's processes have closed what ``narrow`` took.

        :param uuid: of the domain, which runs
        :returns: in words what they have open even after the time that the
            hook allows: a guest that keeps a device may not run
        :raises IsolationError: when that cannot be told
        """
        return ()

    def exceeds(self, guest: Guest) -> bool:
        """Tell whether more is granted than the devices of a guest need.

        :param guest: as it runs
        :returns: whether ``narrow`` was missed when one of them went
        """
        return False

    def verify(self, guest: Guest) -> tuple[str, ...]:
        """Prove that the guest's process is confined.

        :param guest: as it runs; at its start with stopped vCPUs
        :returns: in words what is not, where the configuration says that it
            is only to be reported
        :raises Refusal: when it is not proven
        """
        return ()

    def owns(self, uuid: str) -> bool:
        """Tell whether this hook has made something for a guest.

        :param uuid: of the domain
        :returns: False for a guest that was started without this hook, which
            therefore cannot be proven
        """
        return False

    def release(self, uuid: str) -> None:
        """Remove what was made for a guest that is gone.

        Called on every way out, also when nothing was made.

        :param uuid: of the domain
        :raises IsolationError: when something could not be removed
        """
