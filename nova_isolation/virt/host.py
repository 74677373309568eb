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

"""Nova's Host, which hands out guests of ours.

Nova creates the object; the driver substitutes its class.
"""

import threading
from typing import Any

from nova import exception as nova_exception
from nova import objects
from nova.virt.libvirt import host as libvirt_host

from nova_isolation import domain as domain_module
from nova_isolation.virt import guest as guest_module
from nova_isolation.virt import isolation as isolation_module


class Host(libvirt_host.Host):
    """The hypervisor host.

    :ivar isolation: what this nova-compute shares
    """

    isolation: isolation_module.Isolation

    def adopt(self, isolation: isolation_module.Isolation) -> None:
        """Become a host of ours; Nova has initialised it.

        :param isolation: what this nova-compute shares
        """
        self.isolation = isolation
        # Nova 34 asks libvirtd whether the connection still works, this lock
        # in its hand. When libvirtd has just ended, libvirt tells so from
        # inside that very call, and Nova's callback wants the lock as well:
        # with the one that Nova makes the thread waits for itself, and all
        # others, which need a connection, for it.
        self._wrapped_conn_lock = threading.RLock()

    def write_instance_config(self, xml: str) -> guest_module.Guest:
        """Define a domain, completed by the hooks.

        :param xml: of the domain
        :returns: the guest
        :raises Refusal: when a hook refuses it
        """
        if self.isolation.active:
            xml = self.isolation.define(xml, self._defined(xml))
        guest = self._ours(super().write_instance_config(xml))
        self.isolation.look_again(guest.uuid)
        return guest

    def _defined(self, xml: str) -> str | None:
        """Read the domain that a new definition will replace."""
        instance = objects.Instance(uuid=domain_module.parse(xml).uuid)
        try:
            return self.get_guest(instance).defined_xml()
        except nova_exception.InstanceNotFound:
            return None

    def get_guest(self, instance: 'objects.Instance') -> guest_module.Guest:
        """Find the guest of an instance.

        :param instance: Nova's instance
        :returns: the guest
        :raises nova.exception.InstanceNotFound: when there is no domain
        """
        return self._ours(super().get_guest(instance))

    def list_guests(
        self, *args: Any, **kwargs: Any
    ) -> list[guest_module.Guest]:
        """List the guests, with the arguments of Nova's method.

        :returns: the guests
        """
        return [
            self._ours(guest) for guest in super().list_guests(*args, **kwargs)
        ]

    def _ours(self, guest: Any) -> guest_module.Guest:
        return guest_module.Guest(guest._domain, self.isolation)
