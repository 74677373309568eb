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

"""Stand-in for cinder: volumes that are block devices of the compute node;
just what Nova asks for to plug one.

A volume is made with the device in its metadata (`device_path`). Nova's
`local` volume driver takes that as it is.
"""

import collections.abc
import threading
import uuid

import rest

Resource = rest.Resource
# What Nova 34 asks for at most is 3.68.
VERSION = {
    'id': 'v3.0',
    'status': 'CURRENT',
    'version': '3.71',
    'min_version': '3.0',
    'links': [],
}


class Volumes:
    """The volumes there are, and what they are attached to."""

    def __init__(self) -> None:
        self._volumes: dict[str, Resource] = {}
        self._attachments: dict[str, Resource] = {}
        self._lock = threading.Lock()

    def create(self, wanted: Resource) -> Resource:
        """A new volume.

        :raises BadRequest: without a device.
        """
        metadata = wanted.get('metadata') or {}
        if not metadata.get('device_path'):
            raise rest.BadRequest('metadata: device_path is missing')
        volume: Resource = {
            'id': str(uuid.uuid4()),
            'name': wanted.get('name') or '',
            'description': wanted.get('description') or '',
            'size': wanted.get('size') or 1,
            'status': 'available',
            'metadata': metadata,
            'multiattach': bool(wanted.get('multiattach')),
            'availability_zone': 'nova',
            'created_at': '2026-01-01T00:00:00Z',
            'volume_type': None,
            'snapshot_id': None,
            'bootable': 'false',
            'encrypted': False,
            'shared_targets': False,
            'service_uuid': None,
        }
        with self._lock:
            self._volumes[volume['id']] = volume
            return self._shown(volume)

    def all(self) -> list[Resource]:
        """All volumes."""
        with self._lock:
            return [self._shown(v) for v in self._volumes.values()]

    def show(self, identity: str) -> Resource:
        """A volume; KeyError when there is none."""
        with self._lock:
            return self._shown(self._volumes[identity])

    def delete(self, identity: str) -> None:
        """Forget a volume; KeyError when there is none.

        :raises BadRequest: when it is attached to something.
        """
        with self._lock:
            status = self._volumes[identity]['status']
            if status not in ('available', 'error'):
                raise rest.BadRequest(f'the volume is {status}')
            del self._volumes[identity]

    def begin_detaching(self, identity: str) -> None:
        """Nova is about to detach a volume."""
        self._change(identity, 'in-use', 'detaching')

    def roll_detaching(self, identity: str) -> None:
        """Nova did not detach a volume."""
        self._change(identity, 'detaching', 'in-use')

    def attachments(self) -> list[Resource]:
        """All attachments."""
        with self._lock:
            return [dict(a) for a in self._attachments.values()]

    def attach(self, wanted: Resource) -> Resource:
        """A new attachment, connected when it has a connector.

        :raises BadRequest: when the volume is another's already.
        """
        with self._lock:
            volume = self._volumes[wanted['volume_uuid']]
            if volume['status'] != 'available' and not (
                volume['multiattach'] and volume['status'] == 'in-use'
            ):
                raise rest.BadRequest(
                    f'volume {volume["id"]} is {volume["status"]}'
                )
            attachment = {
                'id': str(uuid.uuid4()),
                'volume_id': volume['id'],
                'instance': wanted.get('instance_uuid'),
                'status': 'reserved',
                'attach_mode': 'rw',
                'attached_at': '',
                'detached_at': '',
                'connection_info': {},
            }
            self._attachments[attachment['id']] = attachment
            self._settle(volume)
        return self.connect(attachment['id'], wanted.get('connector'))

    def connect(self, identity: str, connector: Resource | None) -> Resource:
        """Tell what an attachment is of; KeyError when there is none."""
        with self._lock:
            attachment = self._attachments[identity]
            volume = self._volumes[attachment['volume_id']]
            if connector:
                attachment |= {
                    'status': 'attaching',
                    'device': connector.get('mountpoint'),
                    'connection_info': {
                        'driver_volume_type': 'local',
                        'device_path': volume['metadata']['device_path'],
                        'access_mode': 'rw',
                        'encrypted': False,
                        'qos_specs': None,
                        'attachment_id': identity,
                    },
                }
                self._settle(volume)
            return dict(attachment)

    def complete(self, identity: str) -> None:
        """The guest has it; KeyError when there is no such attachment."""
        with self._lock:
            attachment = self._attachments[identity]
            attachment['status'] = 'attached'
            self._settle(self._volumes[attachment['volume_id']])

    def detach(self, identity: str) -> None:
        """Forget an attachment; KeyError when there is none."""
        with self._lock:
            attachment = self._attachments.pop(identity)
            self._settle(self._volumes[attachment['volume_id']])

    def _of(self, volume: Resource) -> collections.abc.Iterator[Resource]:
        return (
            attachment
            for attachment in self._attachments.values()
            if attachment['volume_id'] == volume['id']
        )

    def _settle(self, volume: Resource) -> None:
        """A volume's status follows from its attachments, the furthest."""
        found = {attachment['status'] for attachment in self._of(volume)}
        volume['status'] = (
            'in-use'
            if 'attached' in found
            else 'attaching'
            if 'attaching' in found
            else 'reserved'
            if found
            else 'available'
        )

    def _change(self, identity: str, before: str, after: str) -> None:
        with self._lock:
            volume = self._volumes[identity]
            if volume['status'] != before:
                raise rest.BadRequest(
                    f'volume {identity} is {volume["status"]}, not {before}'
                )
            volume['status'] = after

    def _shown(self, volume: Resource) -> Resource:
        return volume | {
            'attachments': [
                {
                    'id': volume['id'],
                    'volume_id': volume['id'],
                    'attachment_id': attachment['id'],
                    'server_id': attachment['instance'],
                    'device': attachment['device'],
                }
                for attachment in self._of(volume)
                if attachment['status'] == 'attached'
            ]
        }


class Application(rest.Application):
    """The WSGI application: / and /v3/COLLECTION[/ID[/action]]."""

    version = 'v3'

    def __init__(self) -> None:
        self.volumes = Volumes()

    def answer(
        self, method: str, path: list[str], query: rest.Query, body: Resource
    ) -> tuple[str, Resource | None]:
        """See `rest.Application.answer`."""
        collection, identity, verb = [*path, '', ''][:3]
        if not collection:
            return '200 OK', {'versions': [VERSION]}
        handle = {
            'volumes': self._volumes,
            'attachments': self._attachments,
        }[collection]
        return handle(
            'ACTION' if verb == 'action' else method,
            '' if identity == 'detail' else identity,
            query,
            body,
        )

    def _volumes(
        self, method: str, identity: str, query: rest.Query, body: Resource
    ) -> tuple[str, Resource | None]:
        if method == 'ACTION':
            (action,) = body
            {
                'os-begin_detaching': self.volumes.begin_detaching,
                'os-roll_detaching': self.volumes.roll_detaching,
            }[action](identity)
            return '202 Accepted', None
        if method == 'POST':
            return '202 Accepted', {
                'volume': self.volumes.create(body['volume'])
            }
        if method == 'DELETE':
            self.volumes.delete(identity)
            return '202 Accepted', None
        if identity:
            return '200 OK', {'volume': self.volumes.show(identity)}
        found = self.volumes.all()
        return '200 OK', {
            'volumes': [v for v in found if rest.matches(v, query)]
        }

    def _attachments(
        self, method: str, identity: str, query: rest.Query, body: Resource
    ) -> tuple[str, Resource | None]:
        if method == 'ACTION':
            self.volumes.complete(identity)
            return '204 No Content', None
        if method == 'POST':
            return '200 OK', {
                'attachment': self.volumes.attach(body['attachment'])
            }
        if method == 'PUT':
            connector = body['attachment']['connector']
            return '200 OK', {
                'attachment': self.volumes.connect(identity, connector)
            }
        if method == 'DELETE':
            self.volumes.detach(identity)
            return '200 OK', {'attachments': []}
        # Nova's word for the server is another one here
        wanted = {
            {'instance_id': 'instance'}.get(name, name): values
            for name, values in query.items()
        }
        found = self.volumes.attachments()
        if identity:
            return '200 OK', {
                'attachment': {a['id']: a for a in found}[identity]
            }
        return '200 OK', {
            'attachments': [a for a in found if rest.matches(a, wanted)]
        }

    def fault(self, code: int, message: str) -> Resource:
        """See `rest.Application.fault`."""
        name = 'itemNotFound' if code == 404 else 'badRequest'
        return {name: {'code': code, 'message': message}}
