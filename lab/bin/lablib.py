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

"""For programs that run beside a lab's Nova: its APIs, its compute node, and
waiting.

The environment comes from `lab run --with nova`; see lab/README.md.
"""

import collections.abc
import json
import os
import socket
import struct
import threading
import time
import typing
import urllib.error
import urllib.request

VERSION = 'compute latest'
PLACEMENT_VERSION = 'placement 1.39'
Answer = tuple[int, typing.Any]


class Ended(typing.NamedTuple):
    """A command that ended on the compute node."""

    status: int
    stdout: str
    stderr: str


class Frame(typing.NamedTuple):
    """A piece of a running command's answer: kind `o`, `e` or `x` (see
    guest/command-server).
    """

    kind: str
    content: bytes


def call(
    method: str,
    path: str,
    body: object = None,
    *,
    base: str | None = None,
    token: str | None = None,
    version: str = VERSION,
    timeout: float = 60,
) -> Answer:
    """One request to the compute API, or to another.

    :param path: below the API's root: `/servers`.
    :param base: the API's root, default Nova's.
    :param token: `user:project` or `user:project:role,role`; default the
        administrator's.
    :param timeout: seconds.
    :returns: HTTP status and decoded body, the body's text when it is no JSON.
    """
    headers = {
        'X-Auth-Token': token or os.environ['LAB_TOKEN'],
        'Content-Type': 'application/json',
        'Accept': 'application/json',
        'OpenStack-API-Version': version,
    }
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        (base or os.environ['LAB_API']) + path, data, headers, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            status, raw = response.status, response.read()
    except urllib.error.HTTPError as e:
        status, raw = e.code, e.read()
    try:
        return status, json.loads(raw) if raw else None
    except ValueError:
        return status, raw.decode(errors='replace')


def placement(method: str, path: str, body: object = None) -> Answer:
    """One request to placement."""
    return call(
        method,
        path,
        body,
        base=os.environ['LAB_PLACEMENT'],
        version=PLACEMENT_VERSION,
        token='admin',
    )


def volumes(method: str, path: str, body: object = None) -> Answer:
    """One request to the volume API."""
    return call(
        method,
        path,
        body,
        base=os.environ['LAB_VOLUME_API'],
        version='volume 3.71',
    )


def follow(
    command: str | collections.abc.Sequence[str], timeout: float | None = None
) -> collections.abc.Iterator[Frame]:
    """Run a command as root on the compute node and yield what it writes while
    it does.

    :param command: a text for sh, or words.
    :param timeout: seconds, after which it is killed; its status then is 124.
    :raises ConnectionError: when the machine or its command server went away.
    """
    host, _, port = os.environ['LAB_COMPUTE'].partition(':')
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.settimeout(None if timeout is None else timeout + 30)
        words = command if isinstance(command, str) else list(command)
        connection.sendall(
            json.dumps({'command': words, 'timeout': timeout}).encode() + b'\n'
        )
        with connection.makefile('rb') as answer:
            while header := answer.read(5):
                kind, length = struct.unpack('>cI', header)
                yield Frame(kind.decode(), answer.read(length))
                if kind == b'x':
                    return
    raise ConnectionError('the connection to the compute node broke')


def guest(
    command: str | collections.abc.Sequence[str],
    *,
    timeout: float | None = 60,
    check: bool = False,
) -> Ended:
    """Run a command as root on the compute node.

    :param command: a text for sh, or words.
    :param check: whether a status other than 0 is an error.
    :raises RuntimeError: see `check`.
    """
    output = {'o': b'', 'e': b'', 'x': b''}
    for frame in follow(command, timeout):
        output[frame.kind] += frame.content
    ended = Ended(
        int(output['x']),
        *(output[kind].decode(errors='replace') for kind in 'oe'),
    )
    if check and ended.status:
        raise RuntimeError(f'{command}: {ended}')
    return ended


T = typing.TypeVar('T')
_AT_REST = 5  # seconds in which Nova would have begun what was asked
# Seconds between two questions about a server: an answer costs nova-api some
# 40 ms of a processor that the compute node could use.
_ASKING = 0.5
# The version of the API that says least of a server, for that.
_BRIEF = 'compute 2.1'


def wait_for(
    what: str,
    probe: collections.abc.Callable[[], T | None],
    timeout: float = 60,
    interval: float = 0.1,
) -> T:
    """Call `probe` until it returns something true, and return that.

    :param what: what is waited for, for the error.
    :param timeout: seconds.
    :raises TimeoutError: when the time is up, with the last OSError that
        `probe` raised.
    """
    limit = time.monotonic() + timeout
    last: OSError | None = None
    while True:
        try:
            if found := probe():
                return found
        except OSError as e:
            last = e
        if time.monotonic() >= limit:
            raise TimeoutError(
                f'{what}: not within {timeout} s'
                + (f' ({last})' if last else '')
            )
        time.sleep(interval)


def server(
    identity: str, token: str | None = None, version: str = VERSION
) -> dict[str, typing.Any]:
    """What the API says of a server.

    :raises LookupError: when there is none.
    """
    status, answer = call(
        'GET', f'/servers/{identity}', token=token, version=version
    )
    if status != 200:
        raise LookupError(f'server {identity}: {status} {answer}')
    return typing.cast('dict[str, typing.Any]', answer['server'])


def settled(
    identity: str,
    status: str,
    *,
    timeout: float = 120,
    token: str | None = None,
) -> dict[str, typing.Any]:
    """Wait until a server has the status, or rests in another one: without a
    task in ERROR, or for some seconds in any other.

    :returns: the server.
    """
    rests: list[tuple[str, float]] = []

    def probe() -> dict[str, typing.Any] | None:
        found = server(identity, token, _BRIEF)
        now = found['status']
        if found.get('OS-EXT-STS:task_state') is not None or now == 'BUILD':
            rests.clear()
            return None
        if now in (status, 'ERROR'):
            return found
        if not rests or rests[0][0] != now:
            rests[:] = [(now, time.monotonic())]
        return found if time.monotonic() - rests[0][1] > _AT_REST else None

    wait_for(f'server {identity} {status}', probe, timeout, _ASKING)
    return server(identity, token)


def gone(
    identity: str, *, timeout: float = 120, token: str | None = None
) -> None:
    """Wait until a server is deleted."""
    wait_for(
        f'server {identity} deleted',
        lambda: (
            call('GET', f'/servers/{identity}', token=token, version=_BRIEF)[0]
            == 404
        ),
        timeout,
        _ASKING,
    )


def create(
    name: str,
    *,
    config_drive: bool = False,
    network: bool = False,
    token: str | None = None,
    **more: object,
) -> Answer:
    """Create a server of the lab's flavor and image.

    :param network: whether it gets an interface of the lab's network.
    :param more: further members of the request.
    """
    wanted = {
        'name': name,
        'flavorRef': os.environ['LAB_FLAVOR'],
        'imageRef': os.environ['LAB_GLANCE_IMAGE'],
        'networks': [{'uuid': os.environ['LAB_NETWORK']}]
        if network
        else 'none',
        'config_drive': config_drive,
    }
    return call('POST', '/servers', {'server': wanted | more}, token=token)


def create_volume(
    name: str, *, device: str | None = None, multiattach: bool = False
) -> dict[str, typing.Any]:
    """Create a volume.

    :param device: a block device of the compute node; default a new loop
        device of 64 MB.
    :returns: the volume, with the device in its metadata (`device_path`).
    :raises RuntimeError: when that failed.
    """
    if device is None:
        made = guest(['lab-loop', name], check=True)
        device = made.stdout.strip()
    status, answer = volumes(
        'POST',
        '/volumes',
        {
            'volume': {
                'name': name,
                'size': 1,
                'multiattach': multiattach,
                'metadata': {'device_path': device},
            }
        },
    )
    if status != 202:
        raise RuntimeError(f'volume {name}: {status} {answer}')
    return typing.cast('dict[str, typing.Any]', answer['volume'])


def change(
    identity: str,
    action: str,
    method: str,
    path: str,
    body: object = None,
    *,
    timeout: float = 120,
    token: str | None = None,
) -> str:
    """Change a server, and wait until that has succeeded or failed.

    :param action: what Nova calls it: `attach_volume`.
    :param path: below the server's.
    :returns: why it failed, or nothing.
    """
    server, before = f'/servers/{identity}', _requests(identity, action, token)
    status, answer = call(method, server + path, body, token=token)
    if status not in (200, 202, 204):
        return f'{status} {json.dumps(answer)}'

    def result() -> tuple[str] | None:
        for request in _requests(identity, action, token) - before:
            path = f'{server}/os-instance-actions/{request}'
            told = call('GET', path, token=token)[1]['instanceAction']
            for event in told['events']:
                # The API's own and the conductor's end before it is done.
                if event['event'] == f'compute_{action}' and event['result']:
                    failed = event['result'] != 'Success'
                    return (str(event.get('details') or 'Error') * failed,)
        return None

    (why,) = wait_for(f'{action} of server {identity}', result, timeout)
    return why


def _requests(identity: str, action: str, token: str | None) -> set[str]:
    """The requests of an action that a server has seen."""
    path = f'/servers/{identity}/os-instance-actions'
    status, answer = call('GET', path, token=token)
    if status != 200:
        raise LookupError(f'server {identity}: {status} {answer}')
    return {
        found['request_id']
        for found in answer['instanceActions']
        if found['action'] == action
    }


def attach(
    identity: str,
    volume: str | None = None,
    *,
    timeout: float = 120,
    token: str | None = None,
) -> str:
    """Plug a volume into a server, or a new interface of the lab's network,
    and wait for it.

    :returns: why that failed, or nothing.
    """
    action, path, body = (
        (
            'attach_volume',
            '/os-volume_attachments',
            {'volumeAttachment': {'volumeId': volume}},
        )
        if volume
        else (
            'attach_interface',
            '/os-interface',
            {'interfaceAttachment': {'net_id': os.environ['LAB_NETWORK']}},
        )
    )
    return change(
        identity, action, 'POST', path, body, timeout=timeout, token=token
    )


def detach(
    identity: str,
    *,
    volume: str | None = None,
    port: str | None = None,
    willing: bool = True,
    timeout: float = 120,
    token: str | None = None,
) -> str:
    """Unplug a volume from a server, or the interface of a port, and wait for
    it.

    :param willing: whether the guest gives it up (`lab-eject`); one that is
        off is not asked.
    :returns: why that failed, or nothing.
    """
    action, path = (
        ('detach_volume', f'/os-volume_attachments/{volume}')
        if volume
        else ('detach_interface', f'/os-interface/{port}')
    )
    answering = threading.Thread(
        target=guest, args=(['lab-eject', identity],), daemon=True
    )
    if willing:
        answering.start()
    why = change(
        identity, action, 'DELETE', path, timeout=timeout, token=token
    )
    if willing:
        # or it would give up what is asked for next
        answering.join(timeout)
    return why


def ports(identity: str, token: str | None = None) -> list[str]:
    """The ports whose interfaces a server has."""
    _, answer = call('GET', f'/servers/{identity}/os-interface', token=token)
    return [found['port_id'] for found in answer['interfaceAttachments']]
