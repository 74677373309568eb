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

"""What the driver, the host and the guests of one nova-compute share.

It holds the configuration, the hooks and the spool, and knows when this host
cannot confine guests. It decides nothing about a guest: the hooks do.
"""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import os
import threading
import time

import libvirt
from lxml import etree
from nova import objects
from oslo_config import cfg
from oslo_context import context as oslo_context
from oslo_log import log as logging

from nova_isolation import chains
from nova_isolation.conf import isolation as options
from nova_isolation import domain as domain_module
from nova_isolation import exceptions
from nova_isolation.hooks import base
from nova_isolation.hooks import manager
from nova_isolation import images
from nova_isolation.violations import model
from nova_isolation.violations import spool
from nova_isolation.virt import turns

LOG = logging.getLogger(__name__)

# Seconds for which a host that was found in order is not looked at again by
# the next start: a burst of starts does not ask libvirtd each time.
_TRUSTED = 5.0


class Isolation:
    """The isolation of the guests of this host.

    :param conf: Nova's configuration
    :raises ConfigurationError: naming the option, its value and the choice
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        options.register_opts(conf)
        for option in options.OPTS:
            try:
                conf.isolation[option.name]
            except ValueError as e:
                raise exceptions.ConfigurationError(
                    f'[isolation] {option.name}: {e}'
                ) from e
        self.conf = conf
        self.mode = conf.isolation.mode
        if self.mode != 'off' and conf.isolation.security_model == 'selinux':
            raise exceptions.ConfigurationError(
                '[isolation] security_model = selinux is not available yet: '
                'set it to auto or apparmor'
            )
        self.hooks = manager.HookManager(conf)
        if self.active and 'apparmor' not in conf.isolation.hooks:
            LOG.warning(
                'isolation: [isolation] hooks = %s: without apparmor nothing '
                'makes or proves the profiles of guests',
                ','.join(conf.isolation.hooks),
            )
        self.spool = spool.Spool(
            conf.isolation.spool_directory, conf.isolation.spool_limit
        )
        # a turn may include waiting for a device to be closed
        self.turns = turns.Turns(turns.PATIENCE + conf.isolation.close_timeout)
        self._sound_until = 0.0
        self._lock = threading.Lock()
        self._keeping: set[str] = set()
        self._believed: dict[str, frozenset[str]] = {}
        # of each guest that the hooks know: libvirt's id of it, -1 when off
        self._known: dict[str, int] = {}
        # why guests cannot be checked, as it was last said
        self._doubts: dict[str, str] = {}

    @property
    def active(self) -> bool:
        """Whether guests are confined by the hooks at all."""
        return bool(self.mode != 'off')

    def check_host(
        self, connection: libvirt.virConnect, *, starting: bool = False
    ) -> None:
        """Check that this host can confine guests.

        :param connection: to libvirtd
        :param starting: whether a guest is judged or prepared next
        :raises HostFault: when it cannot, with the cause and the way out
        """
        self._sound_until = 0.0
        try:
            capabilities = connection.getCapabilities()
        except libvirt.libvirtError as e:
            raise exceptions.HostFault(f'libvirtd does not answer: {e}') from e
        self.hooks.check_host(base.Host(capabilities, starting))
        self._sound_until = time.monotonic() + _TRUSTED

    def require_host(self, connection: libvirt.virConnect) -> None:
        """Check the host before a start, unless that was just done.

        :param connection: to libvirtd
        :raises HostFault: when it cannot confine guests
        """
        if time.monotonic() >= self._sound_until:
            self.check_host(connection, starting=True)

    def define(self, xml: str, before: str | None = None) -> str:
        """Complete the XML of a domain that Nova is about to define.

        :param xml: of the domain
        :param before: of the domain as it is defined now, if it is
        :returns: the XML to define in its place
        :raises Refusal: when it may not be defined
        """
        root = domain_module.read_xml(xml)
        allowed = self.guest(xml).directories
        known = allowed.images | self.recorded(before)
        chains.state(root, dataclasses.replace(allowed, images=known))
        self.hooks.define(root)
        return etree.tostring(root, encoding='unicode')

    def with_device(self, xml: str, device: str) -> tuple[str, str]:
        """Tell what would become of a domain that gets a device.

        :param xml: of the domain, running or not
        :param device: XML of the device, as Nova gives it to libvirt
        :returns: XML of the device, completed as :meth:`define` does, and of
            the domain with it
        :raises Refusal: when the domain may not have it
        """
        root = domain_module.read_xml(xml)
        devices = root.find('devices')
        if devices is None:
            raise exceptions.InvalidDomain('the domain has no <devices>')
        # as strictly read as a domain
        [added] = domain_module.read_xml(f'<domain>{device}</domain>')
        chains.complete(added, self.guest(xml).directories)
        complete = etree.tostring(added, encoding='unicode', with_tail=False)
        devices.append(added)
        return complete, etree.tostring(root, encoding='unicode')

    def learn_neighbours(self, connection: libvirt.virConnect) -> None:
        """Tell the hooks of all guests of this host, as far as they changed.

        :param connection: to libvirtd
        :raises HostFault: when libvirtd does not answer
        """
        try:
            domains = {d.UUIDString(): d for d in connection.listAllDomains(0)}
        except libvirt.libvirtError as e:
            raise exceptions.HostFault(f'libvirtd does not answer: {e}') from e
        with self._lock:
            gone = self._known.keys() - domains.keys()
            changed = [
                (uuid, domain, domain.ID())
                for uuid, domain in domains.items()
                if self._known.get(uuid) != domain.ID()
            ]
        for uuid in gone:
            self.forget_neighbour(uuid)
        for uuid, domain, number in changed:
            if self.learn_neighbour(domain):
                with self._lock:
                    self._known[uuid] = number

    def learn_neighbour(self, domain: libvirt.virDomain) -> bool:
        """Tell the hooks of one guest of this host.

        :param domain: libvirt's
        :returns: whether it is compared with from now on
        """
        try:
            self.hooks.learn(domain_module.parse(domain.XMLDesc(0)))
        except (exceptions.InvalidDomain, libvirt.libvirtError) as e:
            # gone meanwhile, or none that Nova could have made
            LOG.warning(
                'isolation: guest %s is not compared with: %s',
                domain.UUIDString(),
                e,
            )
            return False
        return True

    def look_again(self, uuid: str) -> None:
        """Learn of a guest anew before the next start.

        :param uuid: of the domain, which has changed: the hooks may have to
            know it by then as it was before
        """
        with self._lock:
            self._known.pop(uuid, None)

    def forget_neighbour(self, uuid: str) -> None:
        """Forget a guest that is gone.

        :param uuid: of the domain
        """
        self.look_again(uuid)
        self.hooks.forget(uuid)

    def release(self, uuid: str) -> None:
        """Remove what was made for a guest that is gone.

        :param uuid: of the domain
        """
        with contextlib.ExitStack() as stack:
            # not while somebody still makes it, unless that never ends
            with contextlib.suppress(exceptions.Refusal):
                stack.enter_context(self.turns.take(uuid))
            self.hooks.release(uuid)
            self.turns.forget(uuid)
            self.doubt(uuid, None)

    def doubt(self, uuid: str, why: str | None) -> bool:
        """Remember why a guest cannot be checked periodically.

        :param uuid: of the domain
        :param why: the cause, or None when it can be checked
        :returns: whether that is news to be told
        """
        with self._lock:
            before = self._doubts.pop(uuid, None)
            if why is not None:
                self._doubts[uuid] = why
        return why not in (None, before)

    @staticmethod
    def is_complete(xml: str) -> bool:
        """Tell whether a domain was completed by :meth:`define`.

        :param xml: of the domain
        :returns: False for one that was defined without us
        """
        return chains.are_stated(domain_module.read_xml(xml))

    def undefine(self, xml: str) -> str:
        """Take back what :meth:`define` added.

        :param xml: of a domain
        :returns: the XML without it
        """
        root = domain_module.read_xml(xml)
        chains.withdraw(root)
        self.hooks.undefine(root)
        return etree.tostring(root, encoding='unicode')

    def guest(self, xml: str) -> base.Guest:
        """Describe a guest to the hooks.

        :param xml: of its domain
        :returns: the guest
        :raises InvalidDomain: when the XML cannot be understood
        """
        uuid = domain_module.parse(xml).uuid
        with self._lock:
            believed = self._believed.get(uuid, frozenset())
        return base.describe(
            xml,
            self.conf.instances_path,
            self._cache,
            self.conf.libvirt.nfs_mount_point_base,
            believed,
        )

    def check_headers(
        self, uuid: str, image: str, paths: Iterable[str]
    ) -> None:
        """Check what the headers of disks name, whatever the domain says.

        :param uuid: of the domain
        :param image: name of the file in the cache that Nova has for it
        :param paths: of its qcow2 images
        :raises DeceivingImage: when a header names what it may not
        :raises MissingImage: when a file is missing that Nova may not make
        """
        with self._lock:
            believed = self._believed.get(uuid, frozenset())
        allowed = images.Directories(
            instance=os.path.join(self.conf.instances_path, uuid),
            cache=self._cache,
            images=believed | {image},
        )
        for path in paths:
            with contextlib.suppress(exceptions.MissingBase):
                images.chain(path, 'qcow2', allowed)

    @property
    def _cache(self) -> str:
        subdirectory: str = self.conf.image_cache.subdirectory_name
        return os.path.join(self.conf.instances_path, subdirectory)

    def recorded(self, xml: str | None) -> frozenset[str]:
        """Name the images of the cache that a domain's record gives a guest.

        :param xml: of the domain, or None
        :returns: the names of their files
        """
        if xml is None:
            return frozenset()
        return base.recorded(domain_module.parse(xml), xml, self._cache)

    @contextlib.contextmanager
    def believing(self, uuid: str, names: frozenset[str]) -> Iterator[None]:
        """Believe that images are a guest's, beside what its domain says.

        :param uuid: of the domain
        :param names: of the images' files in the cache
        :returns: a context
        """
        with self._lock:
            before = self._believed.get(uuid, frozenset())
            self._believed[uuid] = before | names
        try:
            yield
        finally:
            with self._lock:
                if before:
                    self._believed[uuid] = before
                else:
                    del self._believed[uuid]

    @contextlib.contextmanager
    def keeping_memory(self, uuid: str) -> Iterator[None]:
        """Keep a guest's saved memory, whatever Nova cleans up meanwhile.

        After a failed resume Nova undefines the domain, and its saved memory
        with it.

        :param uuid: of the domain
        :returns: a context
        """
        with self._lock:
            self._keeping.add(uuid)
        try:
            yield
        finally:
            with self._lock:
                self._keeping.discard(uuid)

    def keeps_memory(self, uuid: str) -> bool:
        """Tell whether a guest's saved memory has to stay.

        :param uuid: of the domain
        :returns: whether :meth:`keeping_memory` is in force for it
        """
        with self._lock:
            return uuid in self._keeping

    def report_refusal(
        self,
        operation: str,
        instance: 'objects.Instance',
        error: exceptions.IsolationError,
    ) -> str:
        """Leave an ``isolation.refused`` for the agent; never raises.

        :param operation: what Nova wanted to do, in its words
        :param instance: Nova's instance
        :param error: why it was refused
        :returns: the event's id, which the log has, too
        """
        attack = isinstance(
            error, exceptions.DeceivingImage | exceptions.StillOpen
        )
        event = model.Refused(
            host=self.conf.host,
            instance=_instance(instance),
            operation=operation,
            reason=error.message,
            attack=attack,
        )
        LOG.error(
            'isolation: %s refused%s: %s (event %s)',
            operation,
            ', an attack' if attack else '',
            error.message,
            event.id,
            instance=instance,
        )
        self._leave(event)
        return event.id

    def report_finding(
        self,
        domain: domain_module.Domain,
        kind: str,
        reason: str,
        *,
        attack: bool = False,
    ) -> None:
        """Leave an ``isolation.finding`` for the agent; never raises.

        :param domain: the guest's
        :param kind: see :class:`nova_isolation.violations.model.Finding`
        :param reason: what was found
        :param attack: whether it is the guest's own doing
        """
        LOG.log(
            logging.ERROR if attack else logging.WARNING,
            'isolation: guest %s%s: %s',
            domain.uuid,
            ', an attack' if attack else '',
            reason,
        )
        self._leave(
            model.Finding(
                host=self.conf.host,
                instance=model.Instance.of(domain),
                kind=kind,
                reason=reason,
                attack=attack,
            )
        )

    def _leave(self, event: model.Refused | model.Finding) -> None:
        try:
            self.spool.put_event(event)
        except Exception as e:
            # What it tells of is done without it.
            LOG.error(
                'isolation: %s of guest %s is not notified: %s',
                event.event_type,
                event.instance.uuid,
                e,
            )


def _instance(instance: 'objects.Instance') -> model.Instance:
    flavor = instance.flavor
    # Nova knows the names only of who asks, and that may be an administrator.
    asking = oslo_context.get_current() or oslo_context.RequestContext(
        overwrite=False
    )
    own = asking.project_id == instance.project_id
    named = own and asking.user_id == instance.user_id
    return model.Instance(
        uuid=instance.uuid,
        name=instance.display_name or '',
        project_id=instance.project_id or '',
        project_name=asking.project_name or '' if own else '',
        user_id=instance.user_id or '',
        user_name=asking.user_name or '' if named else '',
        flavor=flavor.name if flavor else '',
    )
