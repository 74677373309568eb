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

"""Headers of images, as a guest that owns its disk may rewrite them.

On the compute node: ``python3 -m …headers VERB ARGUMENT…``

``victims NEIGHBOUR-DIRECTORY``    make what the headers name
``control UUID NEIGHBOUR-DIRECTORY``  start guests beside Nova's, not confined,
                                   and print which hold what their header names
``rewrite KIND DISK NEIGHBOUR-DIRECTORY``
``holds UUID KIND NEIGHBOUR-DIRECTORY``  whether the guest's QEMU holds it
"""

import json
import os
import subprocess
import sys
import uuid as uuid_module

import libvirt

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks import virsh

#: kind → what it names, in the neighbour's directory if it is relative
VICTIMS = {
    'backing file': 'disk.config',
    'external data file': 'disk.swap',
    'image in the cache': '/var/lib/nova/instances/_base/' + 40 * 'c',
    'symbolic link': 'disk.local',
}


def victim(kind: str, directory: str) -> str:
    """Tell what a header names.

    :param kind: in :data:`VICTIMS`
    :param directory: of the neighbour
    :returns: its path
    """
    return os.path.join(directory, VICTIMS[kind])


def make_victims(directory: str) -> None:
    """Make what is not there yet.

    :param directory: of the neighbour
    """
    for kind in VICTIMS:
        path = victim(kind, directory)
        if kind == 'symbolic link':
            _image_tool('create', '-q', '-f', 'qcow2', path, '1M')
        elif not os.path.exists(path):
            with open(path, 'wb') as f:
                f.truncate(1 << 20)
        os.chown(path, actions.user(), -1)
        # as Nova makes them: the refusal must not be that of a mode
        os.chmod(path, 0o644)


def _image_tool(*arguments: str) -> None:
    subprocess.run(['qemu-img', *arguments], check=True)


def rewrite(kind: str, disk: str, path: str) -> None:
    """Let a disk name a file that is none of its guest's.

    :param kind: in :data:`VICTIMS`
    :param disk: of the guest
    :param path: what it shall name
    """
    before = os.stat(disk)
    if kind == 'symbolic link':
        os.unlink(disk)
        os.symlink(path, disk)
        return
    if kind == 'external data file':
        # the tool would empty the file that it is told: it is told another
        # one whose name is as long
        stand_in = '/tmp/'.ljust(len(path), 'x')
        option = f'data_file={stand_in},data_file_raw=on'
        os.unlink(disk)
        _image_tool('create', '-q', '-f', 'qcow2', '-o', option, disk, '1M')
        with open(disk, 'r+b') as f:
            content = f.read()
            f.seek(content.index(stand_in.encode()))
            f.write(path.encode())
        os.unlink(stand_in)
    else:
        _image_tool('rebase', '-u', '-F', 'raw', '-b', path, disk)
    os.chown(disk, before.st_uid, before.st_gid)
    os.chmod(disk, before.st_mode & 0o777)


def holds(pid: int, path: str) -> bool:
    """Tell whether a process holds a file open.

    :param pid: of the process
    :param path: of the file
    :returns: whether it does
    """
    wanted = os.stat(path)
    for name in os.listdir(f'/proc/{pid}/fd'):
        try:
            held = os.stat(f'/proc/{pid}/fd/{name}')
        except FileNotFoundError:
            continue
        if os.path.samestat(held, wanted):
            return True
    return False


def control(uuid: str, directory: str) -> dict[str, str]:
    """Start guests that are not confined, with rewritten headers.

    :param uuid: of the guest that they are like
    :param directory: of the neighbour
    :returns: for each kind why it failed, '' where it succeeded
    """
    found = {}
    model = virsh.guest(uuid)
    for kind in VICTIMS:
        path = victim(kind, directory)
        other = str(uuid_module.uuid4())

        def prepare(disk: str, kind: str = kind, path: str = path) -> None:
            rewrite(kind, disk, path)

        try:
            guest = virsh.twin(model, other, None, prepare)
        except libvirt.libvirtError as e:
            found[kind] = str(e)
            continue
        found[kind] = '' if holds(guest.pid, path) else 'not opened'
        virsh.end_twins()
    return found


def main() -> None:
    """See above."""
    verb, *rest = sys.argv[1:]
    match verb, rest:
        case 'victims', [directory]:
            make_victims(directory)
        case 'control', [uuid, directory]:
            print(json.dumps(control(uuid, directory)))
        case 'rewrite', [kind, disk, directory]:
            rewrite(kind, disk, victim(kind, directory))
        case 'holds', [uuid, kind, directory]:
            pid = virsh.guest(uuid).pid
            print(json.dumps(holds(pid, victim(kind, directory))))
        case _:
            sys.exit(__doc__)


if __name__ == '__main__':
    main()
