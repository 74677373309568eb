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

"""A whole domain."""

from collections.abc import Callable
import dataclasses
import itertools
import re
from typing import TypeVar
import uuid as uuid_module

from lxml import etree

from nova_isolation.domain.characters import Character
from nova_isolation.domain.characters import read_character
from nova_isolation.domain.devices import Crypto
from nova_isolation.domain.devices import Filesystem
from nova_isolation.domain.devices import Input
from nova_isolation.domain.devices import read_crypto
from nova_isolation.domain.devices import read_filesystem
from nova_isolation.domain.devices import read_input
from nova_isolation.domain.devices import read_pstore
from nova_isolation.domain.devices import read_rng
from nova_isolation.domain.devices import read_smartcard
from nova_isolation.domain.devices import read_tpm
from nova_isolation.domain.devices import read_vsock
from nova_isolation.domain.devices import Rng
from nova_isolation.domain.devices import Smartcard
from nova_isolation.domain.devices import Tpm
from nova_isolation.domain.disks import Disk
from nova_isolation.domain.disks import read_disk
from nova_isolation.domain.firmware import Firmware
from nova_isolation.domain.firmware import read_firmware
from nova_isolation.domain.graphics import Audio
from nova_isolation.domain.graphics import Graphics
from nova_isolation.domain.graphics import read_audio
from nova_isolation.domain.graphics import read_graphics
from nova_isolation.domain.graphics import read_video
from nova_isolation.domain.graphics import Video
from nova_isolation.domain.hostdevs import HostDevice
from nova_isolation.domain.hostdevs import read_host_device
from nova_isolation.domain.interfaces import Interface
from nova_isolation.domain.interfaces import read_interface
from nova_isolation.domain.memory import Memory
from nova_isolation.domain.memory import read_memory
from nova_isolation.domain.memory import read_memory_device
from nova_isolation.domain.memory import read_shared_memory
from nova_isolation.domain.memory import SharedMemory
from nova_isolation.domain import reader
from nova_isolation.domain.reader import Node
from nova_isolation import exceptions

_T = TypeVar('_T')

NOVA_NAMESPACE = 'http://openstack.org/xmlns/libvirt/nova/1.1'
UUID_RE = re.compile(
    '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}'
)

# QEMU's buses have room for some hundreds.
_MAX_DEVICES = 1024
# A message has to stay readable.
_MAX_UNKNOWN = 50

# Children of <domain> that give the guest nothing of the host but memory and
# processor time, which are not confined by path.
_HARMLESS = (
    'blkiotune clock cputune currentMemory description features genid'
    ' iothreadids iothreads keywrap maxMemory memory memtune metadata name'
    ' numatune on_crash on_lockfailure on_poweroff on_reboot perf pm resource'
    ' throttlegroups title uuid vcpu vcpus'
)
# Devices that exist in the emulator only, or in libvirt only.
_HARMLESS_DEVICES = (
    'controller emulator hub iommu memballoon nvram panic sound watchdog'
)
_NO_FIRMWARE = Firmware()
_PLAIN_MEMORY = Memory()
_STREAMS = ('channel', 'console', 'parallel', 'redirdev', 'serial')
_DEVICES = (
    *_STREAMS,
    *(
        'audio crypto disk filesystem graphics hostdev input interface memory'
        ' pstore rng shmem smartcard tpm video vsock'
    ).split(),
)


@dataclasses.dataclass(frozen=True)
class Instance:
    """What Nova says of its instance in the domain's metadata.

    Empty strings stand for what the metadata does not say. Tenants choose
    the names.
    """

    name: str = ''
    project_id: str = ''
    project_name: str = ''
    user_id: str = ''
    user_name: str = ''
    flavor: str = ''
    image_id: str = ''


@dataclasses.dataclass(frozen=True)
class SecurityLabel:
    """How libvirt is to confine the guest.

    :ivar model: ``apparmor``, ``dac``, ``selinux`` or '' for libvirt's own
    :ivar kind: ``dynamic``, ``static``, ``none`` or ''
    :ivar label: of SELinux, the context of a guest that runs, or ''
    """

    model: str
    kind: str
    label: str = ''


@dataclasses.dataclass(frozen=True)
class LaunchSecurity:
    """How the guest's memory is kept from the host.

    :ivar kind: ``sev``, ``sev-snp``, ``tdx`` or ``s390-pv``
    :ivar quotes: socket of the service that signs for TDX, '' for the usual
        one, None without
    """

    kind: str
    quotes: str | None = None


@dataclasses.dataclass(frozen=True)
class Domain:
    """A libvirt domain: all that its XML gives the guest of the host.

    :ivar uuid: in lower case; Nova's instance uuid
    :ivar name: libvirt's name, e.g. ``instance-0000002a``
    :ivar id: libvirt's number of the running domain, or None
    :ivar type: ``kvm``, ``qemu`` or what else libvirt knows
    :ivar emulator: absolute path, or '' as long as libvirt has not filled it
        in
    :ivar disks: disks, and drives with a medium
    :ivar characters: serial ports, consoles, channels and the like; a console
        that is a serial port appears as both
    :ivar videos: the video cards that need something of the host
    :ivar inputs: the input devices of the host
    :ivar pstores: files that keep what a guest says when it crashes; '' for
        one that libvirt chooses
    :ivar vsocks: how many sockets to the host there are
    :ivar launch_security: how its memory is kept from the host, or None
    :ivar configuration_files: files that become the firmware's configuration
    :ivar qemu: what is handed to QEMU past libvirt, in words
    :ivar unknown: what of the XML is known neither to give something of the
        host nor to give nothing, in words
    """

    uuid: str
    name: str
    id: int | None = None
    type: str = 'kvm'
    emulator: str = ''
    instance: Instance = Instance()
    labels: tuple[SecurityLabel, ...] = ()
    firmware: Firmware = _NO_FIRMWARE
    memory: Memory = _PLAIN_MEMORY
    disks: tuple[Disk, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    host_devices: tuple[HostDevice, ...] = ()
    characters: tuple[Character, ...] = ()
    graphics: tuple[Graphics, ...] = ()
    videos: tuple[Video, ...] = ()
    audios: tuple[Audio, ...] = ()
    tpms: tuple[Tpm, ...] = ()
    filesystems: tuple[Filesystem, ...] = ()
    shared_memories: tuple[SharedMemory, ...] = ()
    rngs: tuple[Rng, ...] = ()
    inputs: tuple[Input, ...] = ()
    cryptos: tuple[Crypto, ...] = ()
    smartcards: tuple[Smartcard, ...] = ()
    pstores: tuple[str, ...] = ()
    vsocks: int = 0
    launch_security: LaunchSecurity | None = None
    configuration_files: tuple[str, ...] = ()
    qemu: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def consoles(self) -> tuple[Character, ...]:
        """Its serial ports and consoles."""
        return tuple(
            c for c in self.characters if c.device in ('serial', 'console')
        )


def is_uuid(text: object) -> bool:
    """Tell whether a text is a uuid in the form that names a profile.

    :param text: anything
    :returns: True for a uuid in lower case with hyphens
    """
    return isinstance(text, str) and UUID_RE.fullmatch(text) is not None


def short_name(number: int | str, name: str) -> str:
    """Tell what libvirt calls a domain's own files and directories.

    :param number: libvirt's id of it, or '' for what follows the id
    :param name: libvirt's name of it
    :returns: as virDomainDefGetShortName(): the id and 20 characters of the
        name
    """
    return f'{number}-{name[:20]}'


def parse(xml: str) -> Domain:
    """Read a domain's XML.

    :param xml: the text as Nova defines it or as libvirt describes it,
        running or not
    :returns: the :class:`Domain`
    :raises InvalidDomain: when it is not a domain, or one without a uuid, a
        name, with a path that is not absolute, or with more than any guest
        has
    """
    root = reader.read_xml(xml)
    node = Node(root)
    node.harmless('id', _HARMLESS)
    uuid, name, number = _identity(root)
    nodes = _devices(node.child('devices'))

    def each(tag: str, read: Callable[[Node], _T | None]) -> tuple[_T, ...]:
        found = [read(device) for device in nodes if device.tag == tag]
        return tuple(device for device in found if device is not None)

    # also what a card is reached through
    streams = [read_character(n) for n in nodes if n.tag in _STREAMS]
    cards = each('smartcard', read_smartcard)
    streams += [c for c in cards if isinstance(c, Character)]
    domain = Domain(
        uuid=uuid,
        name=name,
        id=number,
        type=node.get('type'),
        emulator=_emulator(root),
        instance=_instance(root),
        labels=_labels(node),
        firmware=read_firmware(node),
        memory=read_memory(node, each('memory', read_memory_device)),
        disks=each('disk', read_disk),
        interfaces=each('interface', read_interface),
        host_devices=each('hostdev', read_host_device),
        characters=tuple(s for s in streams if s is not None),
        graphics=each('graphics', read_graphics),
        videos=each('video', read_video),
        audios=each('audio', read_audio),
        tpms=each('tpm', read_tpm),
        filesystems=each('filesystem', read_filesystem),
        shared_memories=each('shmem', read_shared_memory),
        rngs=each('rng', read_rng),
        inputs=each('input', read_input),
        cryptos=each('crypto', read_crypto),
        smartcards=tuple(c for c in cards if isinstance(c, Smartcard)),
        pstores=each('pstore', read_pstore),
        vsocks=len(each('vsock', read_vsock)),
        launch_security=_launch_security(node.child('launchSecurity')),
        configuration_files=_configuration_files(node),
        qemu=_qemu(node),
    )
    return dataclasses.replace(domain, unknown=_unknown(node))


def outline(xml: str) -> Domain:
    """Read of a domain's XML only who it is.

    :param xml: as of :func:`parse`, which may not understand it
    :returns: the :class:`Domain`, with its labels and nothing of the host
    :raises InvalidDomain: when it is not a domain, or one without a uuid or a
        name
    """
    root = reader.read_xml(xml)
    uuid, name, number = _identity(root)
    return Domain(
        uuid=uuid,
        name=name,
        id=number,
        instance=_instance(root),
        labels=_labels(Node(root)),
    )


def _labels(node: Node) -> tuple[SecurityLabel, ...]:
    return tuple(_label(n) for n in node.children('seclabel'))


def _devices(node: Node) -> list[Node]:
    # a device is known by its own name
    node.label = ''
    node.harmless(children=_HARMLESS_DEVICES)
    nodes = node.children(*_DEVICES)
    if len(nodes) > _MAX_DEVICES:
        raise exceptions.InvalidDomain(
            f'the domain has {len(nodes)} devices, more than the '
            f'{_MAX_DEVICES} that any guest of Nova has'
        )
    return nodes


def _identity(root: etree._Element) -> tuple[str, str, int | None]:
    uuid = (root.findtext('uuid') or '').strip()
    try:
        uuid = str(uuid_module.UUID(uuid))
    except ValueError:
        raise exceptions.InvalidDomain(
            f'the domain has no valid <uuid>: {uuid[:100]!r}'
        ) from None
    name = root.findtext('name') or ''
    if not name or '/' in name or not name.isprintable():
        raise exceptions.InvalidDomain(
            f'the domain {uuid} has no usable <name>: {name[:100]!r}'
        )
    number = root.get('id')
    if number is not None and not (
        number.isascii() and number.isdigit() and len(number) < 10
    ):
        raise exceptions.InvalidDomain(
            f'the domain {uuid} has no usable id: {number[:100]!r}'
        )
    return uuid, name, None if number is None else int(number)


def _emulator(root: etree._Element) -> str:
    path = root.findtext('devices/emulator') or ''
    return reader.absolute(path, 'the emulator') or ''


def _label(node: Node) -> SecurityLabel:
    node.harmless('relabel', 'baselabel imagelabel')
    model, label = node.get('model'), node.child('label').text()
    # those of other models say what their names say anyway
    return SecurityLabel(
        model, node.get('type'), label if model == 'selinux' else ''
    )


def _launch_security(node: Node) -> LaunchSecurity | None:
    if not node:
        return None
    # numbers, policies and certificates, which are the guest's own
    node.harmless(
        'authorKey kernelHashes vcek',
        'cbitpos dhCert guestVisibleWorkarounds handle hostData idAuth idBlock'
        ' mrConfigId mrOwner mrOwnerConfig policy reducedPhysBits session',
    )
    service = node.child('quoteGenerationService')
    path = service.path('path') or ''
    kind = node.get('type', 'sev', 'sev-snp', 'tdx', 's390-pv')
    return LaunchSecurity(kind, path if service else None) if kind else None


def _configuration_files(root: Node) -> tuple[str, ...]:
    found = []
    for node in root.children('sysinfo'):
        match node.get('type', 'smbios', 'fwcfg'):
            case 'smbios':
                node.all_harmless()
            case 'fwcfg':
                for entry in node.children('entry'):
                    entry.harmless('name')
                    entry.text()
                    found.append(entry.path('file'))
    return tuple(path for path in found if path)


def _qemu(root: Node) -> tuple[str, ...]:
    found = []
    commands = root.child(reader.qemu('commandline'))
    for argument in commands.children(reader.qemu('arg')):
        found.append(f'the argument {argument.get("value")[:100]!r}')
    for variable in commands.children(reader.qemu('env')):
        variable.harmless('value')
        found.append(f'the variable {variable.get("name")[:100]!r}')
    for tag in ('override', 'capabilities'):
        node = root.child(reader.qemu(tag))
        if node:
            node.all_harmless()
            found.append(node.where)
    root.harmless(children=reader.qemu('deprecation'))
    return tuple(found[:_MAX_UNKNOWN])


def _unknown(root: Node) -> tuple[str, ...]:
    unread = root.unread()
    found = list(itertools.islice(unread, _MAX_UNKNOWN))
    more = sum(1 for _ in unread)
    return tuple([*found, f'and {more} more'] if more else found)


def _instance(root: etree._Element) -> Instance:
    names = {'nova': NOVA_NAMESPACE}
    node = root.find('metadata/nova:instance', names)
    if node is None:
        return Instance()

    def text(path: str) -> str:
        return (node.findtext(path, namespaces=names) or '').strip()

    def attribute(path: str, name: str) -> str:
        found = node.find(path, names)
        return '' if found is None else found.get(name) or ''

    return Instance(
        name=text('nova:name'),
        project_id=attribute('nova:owner/nova:project', 'uuid'),
        project_name=text('nova:owner/nova:project'),
        user_id=attribute('nova:owner/nova:user', 'uuid'),
        user_name=text('nova:owner/nova:user'),
        flavor=attribute('nova:flavor', 'name'),
        image_id=attribute('nova:root[@type="image"]', 'uuid'),
    )
