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

"""Upload the empty image to the glance that listens here."""

import json
import urllib.request

from resources import IMAGE
from resources import IMAGE_FILE

GLANCE = 'http://127.0.0.1:9292/v2'


def request(method: str, path: str, content: bytes, kind: str) -> None:
    """One request; anything but success ends the build."""
    headers = {'X-Auth-Token': 'admin:lab', 'Content-Type': kind}
    urllib.request.urlopen(
        urllib.request.Request(GLANCE + path, content, headers, method=method),
        timeout=60,
    ).close()


image = {
    'id': IMAGE,
    'name': 'empty',
    'disk_format': 'qcow2',
    'container_format': 'bare',
    'visibility': 'public',
}
request('POST', '/images', json.dumps(image).encode(), 'application/json')
with open(IMAGE_FILE, 'rb') as f:
    request(
        'PUT', f'/images/{IMAGE}/file', f.read(), 'application/octet-stream'
    )
