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

"""What a guest has its own disk name, and what comes of it at the next start.

Done by Nova, through its API, from the controller's side.
"""

import json
import shlex
from typing import Any

import lablib

from nova_isolation.tests.system.attacks import model
from nova_isolation.tests.system import cloud

_CLASS = 'own disk at the next start'
_NAMES = {
    'backing file': (
        "a neighbour's config drive as the own disk's backing file"
    ),
    'external data file': (
        "a neighbour's swap disk as the own disk's external data file"
    ),
    'image in the cache': (
        "another project's image in the cache as the own disk's backing file"
    ),
    'symbolic link': (
        "a symbolic link to a neighbour's disk in the own disk's place"
    ),
}


def _headers(*words: str, timeout: float = 60) -> str:
    module = 'nova_isolation.tests.system.attacks.headers'
    return cloud.node(
        shlex.join(['python3', '-m', module, *words]), timeout=timeout
    )


def _started(uuid: str) -> tuple[str, str]:
    """Start a server, and wait until Nova has done or refused it.

    :returns: the action's result, ``Success`` or ``Error``, and the reason
    """
    path = f'/servers/{uuid}/os-instance-actions'

    def starts() -> list[dict[str, Any]]:
        _, answer = lablib.call('GET', path)
        return [a for a in answer['instanceActions'] if a['action'] == 'start']

    before = {a['request_id'] for a in starts()}
    code, answer = lablib.call(
        'POST', f'/servers/{uuid}/action', {'os-start': None}
    )
    assert code == 202, answer

    def ended() -> tuple[str, str] | None:
        for action in starts():
            if action['request_id'] in before:
                continue
            _, found = lablib.call('GET', f'{path}/{action["request_id"]}')
            for event in found['instanceAction']['events']:
                if event['result']:
                    return event['result'], event.get('details') or ''
        return None

    found: tuple[str, str] = lablib.wait_for('the start', ended, 60)
    return found


def attempts(
    driver: str, captured: str, neighbour: str, consumer: cloud.Consumer
) -> list[model.Observation]:
    """Try every kind of header.

    :param driver: ``stock`` or ``ours``
    :param captured: the server whose disk lies; it runs, and is stopped then
    :param neighbour: another tenant's, which runs
    :param consumer: hears what is reported
    :returns: what was observed
    """
    directory = f'{cloud.INSTANCES}/{neighbour}'
    disk = f'{cloud.INSTANCES}/{captured}/disk'
    _headers('victims', directory)
    control = json.loads(_headers('control', captured, directory))
    cloud.act(captured, 'os-stop', 'SHUTOFF')
    cloud.node(f'cp -p {disk} {disk}.kept')
    found = []
    for kind, name in _NAMES.items():
        if control[kind]:
            note = control[kind]
            found.append(
                model.Observation(
                    name,
                    _CLASS,
                    model.NOT_APPLICABLE,
                    model.failure('', note),
                    note=note,
                )
            )
            continue
        told = len(consumer.events)
        _headers('rewrite', kind, disk, directory)
        result, reason = _started(captured)
        if result == 'Success' and json.loads(
            _headers('holds', captured, kind, directory)
        ):
            found.append(model.Observation(name, _CLASS, model.ALLOWED))
        else:
            # the start is refused, or does not follow the header
            ours = driver == 'ours'
            found.append(
                model.Observation(
                    name,
                    _CLASS,
                    model.DENIED,
                    by='nova-isolation' if ours else '',
                    reported=ours and _reported(consumer, told, captured),
                    note=reason,
                )
            )
        if lablib.settled(captured, 'SHUTOFF')['status'] != 'SHUTOFF':
            cloud.act(captured, 'os-stop', 'SHUTOFF')
        cloud.node(f'rm -f {disk}; cp -p {disk}.kept {disk}')
    return found


def _reported(consumer: cloud.Consumer, told: int, uuid: str) -> bool:
    """Tell whether a consumer was told of the lie, as of an attack."""

    def attacks() -> list[dict[str, Any]]:
        return [
            event
            for event in consumer.events[told:]
            if event['event_type']
            in ('isolation.refused', 'isolation.violation')
            and event['instance']['uuid'] == uuid
            and event.get('attack', True)
        ]

    try:
        lablib.wait_for('a notification', attacks, 10)
    except TimeoutError:
        return False
    return True
