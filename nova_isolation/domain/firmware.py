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

"""What the guest boots from besides its disks."""

import dataclasses

from nova_isolation.domain.reader import Node

_HARMLESS = 'bios boot bootmenu cmdline firmware smbios'
_FLASH = ('raw', 'qcow2')


@dataclasses.dataclass(frozen=True)
class Loader:
    """The guest's firmware.

    :ivar path: of its file, None as long as libvirt has not chosen it
    :ivar kind: ``pflash``, ``rom`` or ''
    :ivar readonly: whether QEMU opens it without writing
    """

    path: str | None
    kind: str = ''
    readonly: bool = True


@dataclasses.dataclass(frozen=True)
class Nvram:
    """What the firmware remembers.

    :ivar path: of its file, None as long as libvirt has not chosen it
    :ivar template: what libvirt copies it from at the first start, or None
    :ivar elsewhere: whether it is not in a file of the host
    """

    path: str | None
    template: str | None = None
    elsewhere: bool = False


@dataclasses.dataclass(frozen=True)
class Firmware:
    """What QEMU opens for the guest to boot.

    :ivar automatic: ``efi`` or ``bios`` when libvirt chooses loader and
        NVRAM, else ''
    :ivar kernel: path, or None; likewise the next three
    :ivar tables: ACPI tables of the host
    """

    automatic: str = ''
    loader: Loader | None = None
    nvram: Nvram | None = None
    kernel: str | None = None
    initrd: str | None = None
    dtb: str | None = None
    shim: str | None = None
    tables: tuple[str, ...] = ()


def read_firmware(root: Node) -> Firmware:
    """Read the ``<os>`` of a domain.

    :param root: the domain
    :returns: what it boots from
    :raises InvalidDomain: for a path that is not plain
    """
    node = root.child('os')
    node.harmless(children=_HARMLESS)
    machine = node.child('type')
    machine.harmless('arch machine')
    machine.text('hvm')
    tables = []
    for table in node.child('acpi').children('table'):
        table.harmless('type')
        tables.append(table.text_path())
    return Firmware(
        automatic=node.get('firmware', 'efi', 'bios'),
        loader=_loader(node.child('loader')),
        nvram=_nvram(node.child('nvram')),
        kernel=node.child('kernel').text_path(),
        initrd=node.child('initrd').text_path(),
        dtb=node.child('dtb').text_path(),
        shim=node.child('shim').text_path(),
        tables=tuple(path for path in tables if path),
    )


def _loader(node: Node) -> Loader | None:
    if not node:
        return None
    node.harmless('secure stateless')
    node.get('format', *_FLASH)
    kind = node.get('type', 'rom', 'pflash')
    # libvirt's default: a ROM is never written to, flash is unless it says so
    readonly = node.get('readonly', 'yes', 'no') == 'yes' or kind != 'pflash'
    return Loader(node.text_path(), kind, readonly)


def _nvram(node: Node) -> Nvram | None:
    if not node:
        return None
    node.get('format', *_FLASH)
    node.harmless('templateFormat')
    template = node.path('template')
    kind = node.get('type', 'file', 'block', 'network', 'volume')
    if not kind:
        return Nvram(node.text_path(), template)
    source = node.child('source')
    if kind == 'file':
        source.harmless('index')
        return Nvram(source.path('file'), template)
    source.all_harmless()
    return Nvram(None, template, elsewhere=True)
