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

"""libvirt on the compute node: its guests, and guests beside Nova's."""

import collections.abc
import functools
import json
import os
import re
import shutil
import subprocess
from typing import Any
from xml.etree import ElementTree

import libvirt
import libvirt_qemu

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks.attempt import Guest
from nova_isolation.tests.system.attacks import captured

PROFILES = '/etc/apparmor.d/libvirt'
_BESIDE = 'beside-'


@functools.cache
def _connect() -> Any:
    libvirt.registerErrorHandler(lambda *_: None, None)
    return libvirt.open('qemu:///system')


def _connection() -> Any:
    """Connect to libvirtd; some of what QEMU tries ends older ones."""
    found = _connect()
    try:
        found.listDomainsID()
    except libvirt.libvirtError:
        _connect.cache_clear()
        subprocess.run(['lab-service', 'restart', 'libvirtd'], check=True)
        found = _connect()
    return found


def monitor(
    uuid: str, request: dict[str, Any], handed: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Let a guest's QEMU execute a command.

    :param uuid: of the guest
    :param request: QMP's
    :param handed: descriptors that it gets with the command
    :returns: QMP's answer, with ``return`` or ``error``
    """
    try:
        domain = _connection().lookupByUUIDString(uuid)
        text = json.dumps(request)
        if handed:
            answer, _ = libvirt_qemu.qemuMonitorCommandWithFiles(
                domain, text, list(handed), 0
            )
        else:
            answer = libvirt_qemu.qemuMonitorCommand(domain, text, 0)
    except libvirt.libvirtError as e:
        return {'error': {'class': 'libvirt', 'desc': str(e)}}
    found: dict[str, Any] = json.loads(answer)
    return found


def guest(uuid: str) -> Guest:
    """Look at a running guest.

    :param uuid: of the guest
    :returns: what attempts have to know of it
    """
    domain = _connection().lookupByUUIDString(uuid)
    xml = domain.XMLDesc()
    with open(f'/run/libvirt/qemu/{domain.name()}.pid') as f:
        pid = int(f.read())
    (disk,) = re.findall("<source file='([^']*/disk)'", xml)[:1]
    return Guest(
        uuid=uuid,
        name=domain.name(),
        id=domain.ID(),
        pid=pid,
        directory=os.path.dirname(disk),
        pty=''.join(re.findall("<source path='(/dev/pts/[0-9]+)'", xml)[:1]),
        vnc=int(re.findall("type='vnc' port='([0-9]+)'", xml)[0]),
        label=captured.label_of(pid),
        plugged=''.join(re.findall("<source dev='([^']+)'", xml)[:1]),
    )


def twin(
    model: Guest,
    uuid: str,
    profile: str | None,
    prepare: collections.abc.Callable[[str], Any] = lambda disk: None,
) -> Guest:
    """Start a guest like another, which Nova knows nothing of.

    :param model: the other guest, which runs
    :param uuid: of the new one
    :param profile: the text of its AppArmor profile, which covers no console;
        None for a guest that is not confined
    :param prepare: told the path of its disk, before the start
    :returns: the guest, which runs
    """
    domain = _connection().lookupByUUIDString(model.uuid)
    root = ElementTree.fromstring(
        domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    )
    directory = place(uuid)
    actions.reach(directory)
    shutil.copy(model.disk, f'{directory}/disk')
    os.chown(f'{directory}/disk', actions.user(), -1)
    prepare(f'{directory}/disk')
    gone = {'seclabel', 'metadata'}
    kind = 'none'
    if profile is not None:
        with open(f'{PROFILES}/libvirt-{uuid}', 'w') as f:
            f.write(profile)
        gone |= {'serial', 'console'}
        kind = 'dynamic'
    for parent in (root, root.find('devices')):
        for element in [e for e in parent or () if e.tag in gone]:
            assert parent is not None
            parent.remove(element)
    # what is plugged is the model's
    for devices in root.iter('devices'):
        for disk in devices.findall("disk[@type='block']"):
            devices.remove(disk)
    # as Nova describes a disk: libvirt follows its header
    for disk in root.iter('disk'):
        for chain in disk.findall('backingStore'):
            disk.remove(chain)
    ElementTree.SubElement(
        root, 'seclabel', {'type': kind, 'model': 'apparmor'}
    )
    xml = ElementTree.tostring(root, encoding='unicode')
    for old, new in (
        (model.directory, directory),
        (model.uuid, uuid),
        (model.name, beside(uuid)),
    ):
        xml = xml.replace(old, new)
    _connection().createXML(xml)
    return guest(uuid)


def try_twin(model: Guest, uuid: str, profile: str) -> Guest | None:
    """Start a guest like another, if its profile lets it start.

    :param model: the other guest, which runs
    :param uuid: of the new one
    :param profile: see :func:`twin`
    :returns: the guest, or None when libvirt could not start it
    """
    try:
        return twin(model, uuid, profile)
    except libvirt.libvirtError:
        os.unlink(f'{PROFILES}/libvirt-{uuid}')
        return None


def reload(uuid: str, profile: str) -> None:
    """Give a guest that :func:`twin` made another profile.

    :param uuid: of the guest, which runs
    :param profile: the text
    """
    path = f'{PROFILES}/libvirt-{uuid}'
    with open(path, 'w') as f:
        f.write(profile)
    subprocess.run(['apparmor_parser', '-rTK', path], check=True)


def beside(uuid: str) -> str:
    """Tell libvirt's name of a guest that :func:`twin` makes.

    :param uuid: of the guest
    :returns: its name
    """
    return f'{_BESIDE}{uuid[:8]}'


def place(uuid: str) -> str:
    """Tell where the disk of a guest is that :func:`twin` makes.

    :param uuid: of the guest
    :returns: its directory
    """
    return f'{actions.PLACE}/guests/{uuid}'


def end_twins() -> None:
    """End all guests that :func:`twin` made, and remove their profiles."""
    for domain in _connection().listAllDomains():
        if domain.name().startswith(_BESIDE):
            uuid = domain.UUIDString()
            domain.destroy()
            path = f'{PROFILES}/libvirt-{uuid}'
            if os.path.exists(path):
                os.unlink(path)
