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

"""Stand-in for neutron: one network with one subnet, and ports that are bound
as taps; just what Nova 34 asks for.

Nova's `tap` VIF needs no agent: nova-compute makes the interface, and QEMU
opens it. Nobody carries its packets.
"""

import itertools
import threading
import uuid

from resources import NETWORK
import rest

SUBNET = '6e657477-0000-4000-8000-000000000002'
GROUP = '6e657477-0000-4000-8000-000000000003'

Resource = rest.Resource
CONSTANT: dict[str, list[Resource]] = {
    'networks': [
        {
            'id': NETWORK,
            'name': 'lab',
            'subnets': [SUBNET],
            'status': 'ACTIVE',
            'admin_state_up': True,
            'shared': True,
            'router:external': False,
            'port_security_enabled': False,
            'tenant_id': 'lab',
            'project_id': 'lab',
            'mtu': 1450,
        }
    ],
    'subnets': [
        {
            'id': SUBNET,
            'name': 'lab',
            'network_id': NETWORK,
            'ip_version': 4,
            'cidr': '192.0.2.0/24',
            'gateway_ip': '192.0.2.1',
            'enable_dhcp': False,
            'dns_nameservers': [],
            'host_routes': [],
            'allocation_pools': [
                {'start': '192.0.2.10', 'end': '192.0.2.250'}
            ],
        }
    ],
    'security-groups': [
        {
            'id': GROUP,
            'name': 'default',
            'description': '',
            'security_group_rules': [],
        }
    ],
    'floatingips': [],
    'extensions': [],
    'agents': [],
}


class Ports:
    """The ports there are."""

    def __init__(self) -> None:
        self._ports: dict[str, Resource] = {}
        self._addresses = itertools.cycle(range(10, 250))
        self._lock = threading.Lock()

    def create(self, wanted: Resource) -> Resource:
        """A new port, bound when it has a host."""
        number = uuid.uuid4()
        address = f'192.0.2.{next(self._addresses)}'
        port = {
            'id': str(number),
            'name': '',
            'network_id': NETWORK,
            'device_id': '',
            'device_owner': '',
            'mac_address': 'fa:16:3e:'
            + ':'.join(number.hex[i : i + 2] for i in (0, 2, 4)),
            'fixed_ips': [{'subnet_id': SUBNET, 'ip_address': address}],
            'admin_state_up': True,
            'status': 'DOWN',
            'security_groups': [],
            'port_security_enabled': False,
            'binding:vnic_type': 'normal',
            'binding:profile': {},
            'tenant_id': wanted.get('project_id', ''),
        }
        with self._lock:
            self._ports[port['id']] = port
        # Nova may ask for a fixed_ips of its choice, without an address
        wanted = {k: v for k, v in wanted.items() if k != 'fixed_ips'}
        return self.update(port['id'], wanted)

    def update(self, identity: str, wanted: Resource) -> Resource:
        """A port with these values; KeyError when there is none."""
        with self._lock:
            port = self._ports[identity]
            port |= {k: v for k, v in wanted.items() if v is not None}
            bound = bool(port.get('binding:host_id'))
            port['binding:vif_type'] = 'tap' if bound else 'unbound'
            port['binding:vif_details'] = (
                {'port_filter': False} if bound else {}
            )
            port['status'] = 'ACTIVE' if bound else 'DOWN'
            return port

    def delete(self, identity: str) -> None:
        """Forget a port; KeyError when there is none."""
        with self._lock:
            del self._ports[identity]

    def all(self) -> list[Resource]:
        """All ports."""
        with self._lock:
            return list(self._ports.values())


class Application(rest.Application):
    """The WSGI application: /v2.0/COLLECTION[/ID]."""

    version = 'v2.0'

    def __init__(self) -> None:
        self.ports = Ports()

    def answer(
        self, method: str, path: list[str], query: rest.Query, body: Resource
    ) -> tuple[str, Resource | None]:
        """See `rest.Application.answer`."""
        collection, identity = (
            path[0].removesuffix('.json'),
            path[1].removesuffix('.json') if len(path) > 1 else None,
        )
        if collection == 'quotas':
            return '200 OK', {
                'quota': {'port': -1, 'network': -1, 'security_group': -1}
            }
        if collection != 'ports':
            return '200 OK', self.read(
                collection, CONSTANT[collection], identity, query
            )
        if method == 'POST':
            return '201 Created', {'port': self.ports.create(body['port'])}
        if method == 'PUT' and identity:
            return '200 OK', {
                'port': self.ports.update(identity, body['port'])
            }
        if method == 'DELETE' and identity:
            self.ports.delete(identity)
            return '204 No Content', None
        return '200 OK', self.read(
            collection, self.ports.all(), identity, query
        )

    def fault(self, code: int, message: str) -> Resource:
        """See `rest.Application.fault`."""
        return {
            'NeutronError': {
                'type': 'NotFound' if code == 404 else 'BadRequest',
                'message': message,
                'detail': '',
            }
        }

    @staticmethod
    def read(
        collection: str,
        resources: list[Resource],
        identity: str | None,
        query: rest.Query,
    ) -> Resource:
        """One resource, or those that the query matches."""
        name = collection.replace('-', '_')
        if identity is None:
            return {name: [r for r in resources if rest.matches(r, query)]}
        return {
            name.removesuffix('s'): {r['id']: r for r in resources}[identity]
        }
