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

"""Does the whole matrix in one run of the lab: ``lab/lab run --with nova``.

``python -m …observe FILE`` writes what it observed into FILE.
"""

import collections
import dataclasses
import json
import os
import pathlib
import shlex
import socket
import socketserver
import sys
import threading
from typing import Any

import lablib

from nova_isolation.tests.system.attacks import model
from nova_isolation.tests.system.attacks import next_start
from nova_isolation.tests.system import cloud

_LIMIT = 800  # seconds
_CONTROLLER = '10.77.0.1'
_MARIADB = 3306


class _ToMariaDB(socketserver.BaseRequestHandler):
    """Passes on the greeting of the lab's MariaDB, which listens on its own
    machine alone; a cloud's listens on the management network.
    """

    def handle(self) -> None:
        with socket.create_connection(('127.0.0.1', _MARIADB), 5) as theirs:
            self.request.sendall(theirs.recv(4096))


def _driver() -> str:
    configured = cloud.node('cat /lab/conf/*.conf')
    return 'ours' if 'isolation.LibvirtDriver' in configured else 'stock'


def observe() -> model.Part:
    """Boot two servers and let one be captured.

    :returns: what came of it
    """
    driver = _driver()
    server = socketserver.ThreadingTCPServer(
        (_CONTROLLER, _MARIADB), _ToMariaDB
    )
    with server, cloud.Consumer() as consumer:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        neighbour = cloud.boot(
            'neighbour', token=cloud.ALICE, config_drive=True, network=True
        )['id']
        captured = cloud.boot('captured', token=cloud.MALLORY)['id']
        unplugged = _plug(captured, neighbour)
        observed = _captured(driver, captured, neighbour, unplugged, consumer)
        observed += next_start.attempts(driver, captured, neighbour, consumer)
        server.shutdown()
    cloud.delete(captured, neighbour)
    return model.Part(os.environ['LAB_IMAGE'], driver, tuple(observed))


def _plug(captured: str, neighbour: str) -> str:
    """Plug a volume into each server, and another one in and out.

    :returns: the device that the captured one has no longer
    """
    for server in (neighbour, captured):
        _succeeds(lablib.attach(server, lablib.create_volume(server)['id']))
    gone = lablib.create_volume('gone')
    _succeeds(lablib.attach(captured, gone['id']))
    _succeeds(lablib.detach(captured, volume=gone['id']))
    return str(gone['metadata']['device_path'])


def _succeeds(failure: str) -> None:
    if failure:
        raise RuntimeError(failure)


def _captured(
    driver: str,
    captured: str,
    neighbour: str,
    unplugged: str,
    consumer: cloud.Consumer,
) -> list[model.Observation]:
    arguments = {
        'captured': captured,
        'neighbour': neighbour,
        'driver': driver,
        'unplugged': unplugged,
    }
    module = 'nova_isolation.tests.system.attacks.matrix'
    command = ['python3', '-m', module, json.dumps(arguments)]
    done = lablib.guest(shlex.join(command), timeout=_LIMIT)
    if done.status:
        raise RuntimeError(f'{module}: {done.status}\n{done.stderr}')
    found = json.loads(done.stdout)
    told = _told(dict(found['kinds']), consumer)
    observed = []
    for item in found['items']:
        one = model.Observation(**item['observed'])
        # what is allowed may have tried more, in vain
        reported = (
            driver == 'ours'
            and one.result == model.DENIED
            and bool(told & set(item['serials']))
        )
        observed.append(dataclasses.replace(one, reported=reported))
    return observed


def _told(kinds: dict[int, str], consumer: cloud.Consumer) -> set[int]:
    """Wait until all that the kernel recorded has arrived, or a while.

    :param kinds: of each record, by its serial
    :param consumer: hears the events
    :returns: the serials of those that were told or summed up
    """
    recorded = collections.Counter(kinds.values())

    def told() -> set[int]:
        counted: collections.Counter[str] = collections.Counter()
        for event in list(consumer.events):
            if event['event_type'] == 'isolation.violation':
                # of repeats: that of the first
                kind = kinds.get(event['denial']['serial'], '')
                counted[kind] += event['repeats']['count']
        return {
            serial
            for serial, kind in kinds.items()
            if counted[kind] >= recorded[kind]
        }

    def complete() -> Any:
        return len(told()) == len(kinds)

    try:
        lablib.wait_for('all reports', complete, 20)
    except TimeoutError as e:
        print(f'{e}: {sorted(set(kinds) - told())}', file=sys.stderr)
    return told()


if __name__ == '__main__':
    observe().write(pathlib.Path(sys.argv[1]))
