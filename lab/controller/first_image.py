"""Upload the empty image to the glance that listens here."""

import json
import urllib.request

from resources import IMAGE
from resources import IMAGE_FILE

GLANCE = 'http://127.0.0.1:9292/v2'


def request(method: str, path: str, content: bytes, kind: str) -> None:
    """One request; anything but success ends the build."""
    headers = {'X-Auth-Token': 'admin:lab', 'Content-Type': kind}
    urllib.request.urlopen(urllib.request.Request(GLANCE + path, content, headers, method=method), timeout=60).close()


image = {'id': IMAGE, 'name': 'empty', 'disk_format': 'qcow2', 'container_format': 'bare', 'visibility': 'public'}
request('POST', '/images', json.dumps(image).encode(), 'application/json')
with open(IMAGE_FILE, 'rb') as f:
    request('PUT', f'/images/{IMAGE}/file', f.read(), 'application/octet-stream')
