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

"""What of a domain a profile can grant."""

from collections.abc import Iterator

from nova_isolation import domain as domain_module
from nova_isolation.domain import disks
from nova_isolation.domain import interfaces
from nova_isolation import exceptions


def check_covered(domain: domain_module.Domain, *, unknown: bool) -> None:
    """Refuse a guest that has what no rule covers.

    :param domain: the guest's domain
    :param unknown: whether to refuse what the model of domains does not know,
        too, see ``[isolation] unknown_device``
    :raises NotCovered: naming all of it
    """
    reasons = [f'{name} cannot be granted' for name in _uncovered(domain)]
    if unknown:
        reasons += [f'unknown: {name}' for name in domain.unknown]
    if reasons:
        raise exceptions.NotCovered(
            'the guest has what nova-isolation does not cover yet: '
            + '; '.join(reasons)
        )


def _uncovered(domain: domain_module.Domain) -> Iterator[str]:
    if domain.type not in ('kvm', 'qemu'):
        yield f'domain type {domain.type!r}'
    for label in domain.labels:
        # any other is not ours to prove
        if label.model not in ('apparmor', 'dac') or label.kind != 'dynamic':
            yield f'<seclabel> type={label.kind!r} model={label.model!r}'
    if domain.firmware != domain_module.Firmware():
        yield '<os> with firmware, kernel or tables of the host'
    if domain.memory != domain_module.Memory():
        yield '<memoryBacking> or <memory>'
    for disk in domain.disks:
        yield from _disk(disk)
    for interface in domain.interfaces:
        link = interface.link
        if not isinstance(link, interfaces.Tap) or link.kind != 'ethernet':
            yield f'<interface> {link.mac} of type {_name(link)}'
        elif link.tun or link.vhost:
            yield f'<interface> {link.mac} with <backend>'
        if interface.scripts:
            yield f'<interface> {link.mac} with <script>'
        if interface.rom:
            yield f'<interface> {link.mac} with <rom>'
    for character in domain.characters:
        if character not in domain.consoles or character.kind not in (
            'pty',
            'file',
        ):
            yield f'<{character.device}> of type {character.kind!r}'
    for shown in domain.graphics:
        if shown.kind != 'vnc' or shown.sockets or shown.render:
            yield f'<graphics> of type {shown.kind!r}'
    for rng in domain.rngs:
        if rng.kind == 'egd' or rng.path not in (None, '/dev/urandom'):
            yield f'<rng> with backend {rng.kind!r} {rng.path!r}'
    for audio in domain.audios:
        if audio.kind != 'none':
            yield f'<audio> of type {audio.kind!r}'
    for name, devices in (
        ('video', domain.videos),
        ('hostdev', domain.host_devices),
        ('tpm', domain.tpms),
        ('filesystem', domain.filesystems),
        ('shmem', domain.shared_memories),
        ('input', domain.inputs),
        ('crypto', domain.cryptos),
        ('smartcard', domain.smartcards),
        ('pstore', domain.pstores),
    ):
        for device in devices:
            yield f'<{name}> {_name(device)}'
    if domain.vsocks:
        yield '<vsock>'
    if domain.launch_security is not None:
        yield f'<launchSecurity> {domain.launch_security.kind}'
    for path in domain.configuration_files:
        yield f'<sysinfo> with the file {path!r}'
    for name in domain.qemu:
        yield f'<qemu:commandline> {name}'


def _disk(disk: disks.Disk) -> Iterator[str]:
    where = f'<disk> {disk.target}'
    if disk.device not in ('disk', 'cdrom'):
        yield f'{where} of kind {disk.device!r}'
    for layer in disk.layers:
        if not isinstance(layer.source, disks.FileSource):
            yield f'{where} with a source of type {_name(layer.source)}'
        if layer.encryption:
            yield f'{where} with encryption'
        if layer.data:
            yield f'{where} with an external data file'
        if layer.reservations:
            yield f'{where} with persistent reservations'
    if disk.top.format not in ('qcow2', 'raw'):
        yield f'{where} of format {disk.top.format!r}'
    for name in ('shareable', 'transient', 'io_uring', 'raw_io', 'mirror'):
        if getattr(disk, name):
            yield f'{where} with {name}'


def _name(device: object) -> str:
    return type(device).__name__
