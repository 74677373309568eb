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

"""What a libvirt domain's XML gives a guest: typed, pure, without any I/O.

The format is libvirt's (https://libvirt.org/formatdomain.html), the elements
are those that Nova produces. An element that could give a guest something of
the host and that is not modelled here is never dropped silently: it is named
in :attr:`Domain.uncovered`, and who starts the guest refuses it. What is
listed as harmless exists inside the emulator only.
"""

import dataclasses
import re
import uuid as uuid_module

from lxml import etree

from nova_isolation import exceptions

NOVA_NAMESPACE = 'http://openstack.org/xmlns/libvirt/nova/1.1'
UUID_RE = re.compile(
    '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}'
)

# A domain of Nova with a hundred disks has some 60 KiB.
_MAX_XML = 4 * 1024 * 1024

# Children of <domain> that give the guest nothing of the host but memory and
# processor time, which are not confined by path.
_HARMLESS = frozenset(
    'blkiotune clock cpu cputune currentMemory description features'
    ' iothreadids iothreads maxMemory memory memtune name numatune on_crash'
    ' on_poweroff on_reboot perf pm resource title uuid vcpu vcpus'.split()
)
_READ_ELSEWHERE = frozenset(['devices', 'metadata', 'os', 'seclabel'])
_HARMLESS_OS = frozenset(['type', 'boot', 'bootmenu', 'bios', 'smbios'])
_HARMLESS_DEVICES = frozenset(['controller', 'emulator', 'memballoon'])
_HARMLESS_DISK = frozenset(
    'address alias backingStore blockio boot driver geometry iotune'
    ' readonly serial source target vendor product wwn'.split()
)
_SOURCE_ATTRIBUTES = frozenset(['file', 'index', 'startupPolicy'])
_HARMLESS_INTERFACE = frozenset(
    'acpi address alias bandwidth boot coalesce driver link mac model mtu'
    ' target'.split()
)
_RANDOM_SOURCE = '/dev/urandom'


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
class Disk:
    """A disk or CD-ROM whose source is a file.

    :ivar target: the device's name in the guest, e.g. ``vda``
    :ivar path: the absolute path of the file
    :ivar format: ``qcow2`` or ``raw``
    :ivar readonly: whether QEMU opens it without writing
    :ivar backing: the files of the backing chain that the XML names, the
        last one at the end; None when it names none, and libvirt will follow
        the headers
    """

    target: str
    path: str
    format: str
    readonly: bool
    backing: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Console:
    """A serial port or console.

    :ivar kind: ``pty`` or ``file``
    :ivar path: the file, or the pseudo terminal of a running guest, or None
    :ivar log: the file that virtlogd keeps of it, or None
    """

    kind: str
    path: str | None
    log: str | None


@dataclasses.dataclass(frozen=True)
class Domain:
    """A libvirt domain.

    :ivar uuid: in lower case; Nova's instance uuid
    :ivar name: libvirt's name, e.g. ``instance-0000002a``
    :ivar id: libvirt's number of the running domain, or None
    :ivar type: ``kvm`` or ``qemu``
    :ivar emulator: absolute path, or '' as long as libvirt has not filled it
        in
    :ivar taps: whether it has an interface whose tap device libvirt opens
    :ivar vnc: the addresses on which QEMU listens for VNC
    :ivar uncovered: what of the XML is not modelled here, in words
    """

    uuid: str
    name: str
    id: int | None
    type: str
    emulator: str
    instance: Instance
    disks: tuple[Disk, ...]
    consoles: tuple[Console, ...]
    taps: bool
    vnc: tuple[str, ...]
    uncovered: tuple[str, ...]


def is_uuid(text: object) -> bool:
    """Tell whether a text is a uuid in the form that names a profile.

    :param text: anything
    :returns: True for a uuid in lower case with hyphens
    """
    return isinstance(text, str) and UUID_RE.fullmatch(text) is not None


def read_xml(xml: str) -> etree._Element:
    """Parse a domain's XML without entities, DTD or network.

    :param xml: the text as libvirt or Nova gives it
    :returns: the ``<domain>`` element
    :raises InvalidDomain: when it is not such a document
    """
    if len(xml) > _MAX_XML:
        raise exceptions.InvalidDomain(
            f'the XML of the domain has {len(xml)} characters, more than the '
            f'{_MAX_XML} that any guest of Nova needs'
        )
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        # as bytes: lxml refuses text that carries an encoding declaration
        root = etree.fromstring(xml.encode(), parser)
    except (etree.XMLSyntaxError, UnicodeEncodeError) as e:
        raise exceptions.InvalidDomain(
            f'the XML of the domain cannot be parsed: {e}'
        ) from e
    if root.getroottree().docinfo.internalDTD is not None:
        raise exceptions.InvalidDomain(
            'the XML of the domain carries a document type declaration'
        )
    if root.tag != 'domain':
        raise exceptions.InvalidDomain(
            f'the XML of the domain begins with {_name(root)}, not <domain>'
        )
    return root


def parse(xml: str) -> Domain:
    """Read a domain's XML.

    :param xml: the text as Nova defines it or as libvirt describes it,
        running or not
    :returns: the :class:`Domain`
    :raises InvalidDomain: when it is not a domain, or one without a uuid, a
        name, or with a path that is not absolute
    """
    return _Reader(read_xml(xml)).domain()


class _Reader:
    """Reads one domain, collecting the names of what is not covered."""

    def __init__(self, root: etree._Element) -> None:
        self.root = root
        self.uncovered: list[str] = []

    def domain(self) -> Domain:
        uuid = (self.root.findtext('uuid') or '').strip()
        try:
            uuid = str(uuid_module.UUID(uuid))
        except ValueError:
            raise exceptions.InvalidDomain(
                f'the domain has no valid <uuid>: {uuid!r}'
            ) from None
        name = self.root.findtext('name') or ''
        if not name or '/' in name or not name.isprintable():
            raise exceptions.InvalidDomain(
                f'the domain {uuid} has no usable <name>: {name!r}'
            )
        kind = self.root.get('type', '')
        if kind not in ('kvm', 'qemu'):
            self.uncovered.append(f'domain type {kind!r}')
        number = self.root.get('id')
        if number is not None and not (
            number.isascii() and number.isdigit() and len(number) < 10
        ):
            raise exceptions.InvalidDomain(
                f'the domain {uuid} has no usable id: {number!r}'
            )
        devices = self.root.find('devices')
        if devices is None:
            devices = etree.Element('devices')
        self._top_level()
        emulator = devices.findtext('emulator') or ''
        if emulator:
            _absolute(emulator, 'the emulator')
        disks, consoles, vnc = self._devices(devices)
        return Domain(
            uuid=uuid,
            name=name,
            id=None if number is None else int(number),
            type=kind,
            emulator=emulator,
            instance=_instance(self.root),
            disks=disks,
            consoles=consoles,
            taps=devices.find('interface') is not None,
            vnc=vnc,
            uncovered=tuple(self.uncovered),
        )

    def _not_covered(self, element: etree._Element, detail: str = '') -> None:
        name = _name(element)
        self.uncovered.append(f'{name} {detail}' if detail else name)

    def _top_level(self) -> None:
        for element in self.root:
            tag = element.tag
            if tag in _HARMLESS or tag in _READ_ELSEWHERE:
                continue
            if tag == 'sysinfo' and element.get('type') == 'smbios':
                continue
            self._not_covered(element)
        for block in self.root.findall('os'):
            if block.get('firmware'):
                self._not_covered(block, f'firmware={block.get("firmware")!r}')
            for element in block:
                if element.tag not in _HARMLESS_OS:
                    self._not_covered(element)
        for label in self.root.findall('seclabel'):
            model, kind = label.get('model'), label.get('type')
            if model not in ('apparmor', 'dac') or kind != 'dynamic':
                self._not_covered(label, f'type={kind!r} model={model!r}')

    def _devices(
        self, devices: etree._Element
    ) -> tuple[tuple[Disk, ...], tuple[Console, ...], tuple[str, ...]]:
        disks: list[Disk] = []
        consoles: list[Console] = []
        vnc: list[str] = []
        for device in devices:
            match device.tag:
                case 'disk':
                    disks += self._disk(device)
                case 'serial' | 'console':
                    consoles += self._console(device)
                case 'interface':
                    self._interface(device)
                case 'graphics':
                    vnc += self._graphics(device)
                case 'input':
                    if device.get('type') not in (
                        'mouse',
                        'tablet',
                        'keyboard',
                    ):
                        self._not_covered(device, device.get('type', ''))
                case 'video':
                    self._video(device)
                case 'rng':
                    self._rng(device)
                case 'audio':
                    if device.get('type') != 'none':
                        self._not_covered(device, device.get('type', ''))
                case tag if tag not in _HARMLESS_DEVICES:
                    detail = device.get('type') or device.get('model') or ''
                    self._not_covered(device, detail)
        return tuple(disks), tuple(consoles), tuple(vnc)

    def _disk(self, element: etree._Element) -> list[Disk]:
        kind, device = element.get('type', ''), element.get('device', 'disk')
        target = _attribute(element, 'target', 'dev')
        where = f'disk {target}'.strip()
        if kind != 'file':
            self.uncovered.append(f'{where} with a source of type {kind!r}')
            return []
        if device not in ('disk', 'cdrom'):
            self.uncovered.append(f'{where} of kind {device!r}')
        for child in element:
            if child.tag not in _HARMLESS_DISK:
                self.uncovered.append(f'{where} with {_name(child)}')
        source = element.find('source')
        path = source.get('file') if source is not None else None
        if source is None or not path:
            if device != 'cdrom':
                self.uncovered.append(f'{where} without a source file')
            return []
        for child in source:
            self.uncovered.append(f'{where} with {_name(child)} of its source')
        for name in set(source.keys()) - _SOURCE_ATTRIBUTES:
            self.uncovered.append(f'{where} with {name!s} of its source')
        # without a driver element libvirt takes the format as raw
        image_format = _attribute(element, 'driver', 'type') or 'raw'
        if image_format not in ('qcow2', 'raw'):
            self.uncovered.append(f'{where} of format {image_format!r}')
        if _attribute(element, 'driver', 'io') == 'io_uring':
            self.uncovered.append(f'{where} with io_uring')
        _absolute(path, f'the source of {where}')
        readonly = device == 'cdrom' or element.find('readonly') is not None
        backing = self._backing(element, where)
        return [Disk(target, path, image_format, readonly, backing)]

    def _backing(
        self, element: etree._Element, where: str
    ) -> tuple[str, ...] | None:
        store = element.find('backingStore')
        if store is None:
            return None
        chain: list[str] = []
        # the last one is empty
        while store is not None and (store.get('type') or len(store)):
            path = _attribute(store, 'source', 'file')
            if store.get('type') != 'file' or not path:
                self.uncovered.append(
                    f'{where} with a backing store of type '
                    f'{store.get("type")!r}'
                )
                break
            _absolute(path, f'a backing file of {where}')
            chain.append(path)
            store = store.find('backingStore')
        return tuple(chain)

    def _console(self, element: etree._Element) -> list[Console]:
        kind = element.get('type', '')
        if kind not in ('pty', 'file'):
            self._not_covered(element, f'of type {kind!r}')
            return []
        path = _attribute(element, 'source', 'path') or None
        log = _attribute(element, 'log', 'file') or None
        for value in (path, log):
            if value:
                _absolute(value, f'the path of a {element.tag!s}')
        if kind == 'file' and not path:
            raise exceptions.InvalidDomain(f'a {element.tag!s} has no file')
        return [Console(kind, path, log)]

    def _interface(self, element: etree._Element) -> None:
        kind = element.get('type', '')
        where = f'interface {_attribute(element, "mac", "address")}'.strip()
        if kind != 'ethernet':
            self.uncovered.append(f'{where} of type {kind!r}')
            return
        for child in element:
            # Nova writes <script path=''/> to keep libvirt's default away
            if child.tag == 'script' and not child.get('path'):
                continue
            if child.tag not in _HARMLESS_INTERFACE:
                self.uncovered.append(f'{where} with {_name(child)}')

    def _graphics(self, element: etree._Element) -> list[str]:
        kind = element.get('type', '')
        if kind != 'vnc':
            self._not_covered(element, f'of type {kind!r}')
            return []
        listens = element.findall('listen')
        if element.get('socket') or any(
            listen.get('type', 'address') not in ('address', 'network')
            for listen in listens
        ):
            self._not_covered(element, 'vnc on a socket')
        addresses = {listen.get('address') for listen in listens}
        addresses.add(element.get('listen'))
        for child in element:
            if child.tag != 'listen':
                self._not_covered(element, f'vnc with {_name(child)}')
        # qemu.conf's vnc_listen, when the XML says nothing
        return sorted(a for a in addresses if a) or ['127.0.0.1']

    def _video(self, element: etree._Element) -> None:
        driver = element.find('driver')
        if driver is not None and driver.get('name') not in (None, 'qemu'):
            self._not_covered(element, f'driven by {driver.get("name")!r}')
        for acceleration in element.iter('acceleration'):
            if 'yes' in (
                acceleration.get('accel3d'),
                acceleration.get('accel2d'),
            ):
                self._not_covered(element, 'with host acceleration')

    def _rng(self, element: etree._Element) -> None:
        for backend in element.findall('backend'):
            model, source = backend.get('model'), (backend.text or '').strip()
            if model == 'builtin':
                continue
            if model == 'random' and source in ('', _RANDOM_SOURCE):
                continue
            self._not_covered(element, f'with backend {model!r} {source!r}')


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


def _name(element: etree._Element) -> str:
    """The element as an operator knows it: no namespace, in brackets."""
    qualified = etree.QName(element)
    prefix = 'qemu:' if 'qemu' in str(qualified.namespace) else ''
    return f'<{prefix}{qualified.localname!s}>'


def _attribute(element: etree._Element, child: str, name: str) -> str:
    found = element.find(child)
    return '' if found is None else found.get(name) or ''


def _absolute(path: str, what: str) -> None:
    parts = path.split('/')
    if parts[0] or '.' in parts or '..' in parts or '\0' in path:
        raise exceptions.InvalidDomain(
            f'{what} is not a plain absolute path: {path!r}'
        )
