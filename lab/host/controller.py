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

"""The controller of a run: services that run natively, from the image's tree,
copy-on-write in memory.
"""

import os
import pathlib
import subprocess

from host import contain
from host import databases
from host.errors import LabError
from host import paths
from host import spec
import lablib
import resources

ENVIRONMENT = contain.clean_environment(
    PYTHONPATH='/src/lab/controller',
    PYTHONUNBUFFERED='1',
    PYTHONDONTWRITEBYTECODE='1',
)
READY = 'Join ServiceGroup'  # what nova-conductor logs when it listens


def mount(run: spec.Spec, directory: pathlib.Path) -> pathlib.Path:
    """Mount the controller's root.

    :returns: where it is.
    """
    overlay = directory / 'memory' / 'controller'
    command: list[str | pathlib.Path] = [
        paths.LAB / 'host' / 'controller-root.sh',
        f'{run.databases}/{databases.UPPER}:{run.tree}',
        overlay,
        paths.CHECKOUT,
        directory / 'log',
    ]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise LabError(f'the root of the controller: {done.stderr.strip()}')
    return overlay / 'root'


def services(run: spec.Spec, root: pathlib.Path) -> dict[str, list[str]]:
    """The commands of the services by name."""
    stub = ['--stub-glance'] if run.glance == 'stub' else []
    words = {'rabbitmq': [], 'mariadb': [], 'services': ['/run/log', *stub]}
    return {
        name: ['chroot', str(root), f'/src/lab/controller/{name}', *arguments]
        for name, arguments in words.items()
    }


def environment(address: str, root: pathlib.Path) -> dict[str, str]:
    """What the command's environment says of the controller."""
    return {
        'LAB_API': f'http://{address}:8774/v2.1',
        'LAB_PLACEMENT': f'http://{address}:8778',
        'LAB_IMAGE_API': f'http://{address}:9292',
        'LAB_NETWORK_API': f'http://{address}:9696',
        'LAB_VOLUME_API': f'http://{address}:8776/v3',
        'LAB_TRANSPORT_URL': f'rabbit://guest:guest@{address}:5672/',
        'LAB_CONTROLLER': str(root),
        'LAB_TOKEN': 'admin:lab',
        'LAB_FLAVOR': resources.FLAVOR,
        'LAB_GLANCE_IMAGE': resources.IMAGE,
        'LAB_NETWORK': resources.NETWORK,
    }


def conductor_is_up(log: pathlib.Path) -> bool:
    """Whether nova-conductor listens: a nova-compute that speaks earlier waits
    for 10 s.
    """
    try:
        return READY in (log / 'nova-conductor.log').read_text(
            errors='replace'
        )
    except FileNotFoundError:
        return False


def compute_is_up() -> bool:
    """Whether the compute node's service is up and the scheduler finds it: for
    that placement has its inventory; a disabled one is not to be found.
    """
    try:
        path = '/os-services?binary=nova-compute'
        status, answer = lablib.call('GET', path, timeout=10)
        services = answer['services'] if status == 200 else []
        if not any(service['state'] == 'up' for service in services):
            return False
        if services[0]['status'] == 'disabled':
            return True
        listed = lablib.placement('GET', '/resource_providers')[1]
        for provider in listed['resource_providers']:
            path = f'/resource_providers/{provider["uuid"]}/inventories'
            return 'VCPU' in lablib.placement('GET', path)[1]['inventories']
    except OSError:
        pass
    return False


def image_api_is_up() -> bool:
    """Whether glance, or its stand-in, answers."""
    try:
        base = os.environ['LAB_IMAGE_API']
        return (
            lablib.call('GET', '/v2/images', base=base, timeout=10)[0] == 200
        )
    except OSError:
        return False
