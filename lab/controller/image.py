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

"""Stand-in for glance, for tests that want none of it: the one image that the
databases layer would hold.
"""

import collections.abc
import hashlib
import json
import typing

from resources import IMAGE
from resources import IMAGE_FILE

TEXTS = {
    'name': 'empty',
    'status': 'active',
    'visibility': 'public',
    'disk_format': 'qcow2',
    'container_format': 'bare',
}


class Application:
    """The WSGI application."""

    def __init__(self) -> None:
        with open(IMAGE_FILE, 'rb') as f:
            self.content = f.read()
        self.image: dict[str, typing.Any] = TEXTS | {
            'id': IMAGE,
            'size': len(self.content),
            'virtual_size': 64 << 20,
            'checksum': hashlib.md5(self.content).hexdigest(),
            'os_hash_algo': 'sha512',
            'os_hash_value': hashlib.sha512(self.content).hexdigest(),
            'min_disk': 0,
            'min_ram': 0,
            'owner': 'lab',
            'protected': False,
            'os_hidden': False,
            'tags': [],
            'created_at': '2026-01-01T00:00:00Z',
            'updated_at': '2026-01-01T00:00:00Z',
            'file': f'/v2/images/{IMAGE}/file',
            'self': f'/v2/images/{IMAGE}',
            'schema': '/v2/schemas/image',
        }

    def __call__(
        self, environment: dict[str, typing.Any], start: typing.Any
    ) -> collections.abc.Iterable[bytes]:
        path = environment['PATH_INFO'].rstrip('/')
        if path.endswith('/file'):
            kind, content = 'application/octet-stream', self.content
        else:
            kind, content = (
                'application/json',
                json.dumps(self.describe(path)).encode(),
            )
        start(
            '200 OK',
            [('Content-Type', kind), ('Content-Length', str(len(content)))],
        )
        return [content]

    def describe(self, path: str) -> dict[str, typing.Any]:
        """The answer to a request for JSON."""
        if 'schemas' in path:
            properties: dict[str, typing.Any] = {
                name: {} for name in self.image
            }
            return {
                'name': 'image',
                'additionalProperties': {'type': 'string'},
                'properties': properties,
            }
        return self.image if path.endswith(IMAGE) else {'images': [self.image]}
