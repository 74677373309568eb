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

"""What the guest's memory is made of."""

import dataclasses

from nova_isolation.domain.reader import Node
from nova_isolation import exceptions

_MODELS = ('dimm', 'nvdimm', 'sgx-epc', 'virtio-mem', 'virtio-pmem')
_UNITS = {
    '': 1,
    'KiB': 1,
    'k': 1,
    'KB': 1,
    'MiB': 1 << 10,
    'M': 1 << 10,
    'GiB': 1 << 20,
    'G': 1 << 20,
    'TiB': 1 << 30,
    'T': 1 << 30,
}


@dataclasses.dataclass(frozen=True)
class MemoryDevice:
    """A memory device.

    :ivar model: ``dimm``, ``nvdimm``, ``virtio-pmem``, ``virtio-mem`` …
    :ivar path: the file or device that it is, or None
    :ivar page_size: in KiB, or None
    :ivar access: ``shared``, ``private`` or ''
    :ivar readonly: whether the guest cannot write to it
    """

    model: str
    path: str | None = None
    page_size: int | None = None
    access: str = ''
    readonly: bool = False


@dataclasses.dataclass(frozen=True)
class Memory:
    """The guest's memory.

    :ivar huge_pages: the sizes in KiB of the huge pages that it is made of,
        0 for the host's default
    :ivar source: ``file``, ``anonymous``, ``memfd`` or ''
    :ivar access: ``shared``, ``private`` or ''
    :ivar by_node: whether a NUMA node of the guest has an access of its own,
        for which QEMU needs a file
    :ivar locked: whether QEMU locks it
    :ivar devices: what is plugged into it
    """

    huge_pages: tuple[int, ...] = ()
    source: str = ''
    access: str = ''
    by_node: bool = False
    locked: bool = False
    devices: tuple[MemoryDevice, ...] = ()


@dataclasses.dataclass(frozen=True)
class SharedMemory:
    """Memory that several guests share.

    :ivar name: of the file in ``/dev/shm``
    :ivar model: ``ivshmem-plain``, ``ivshmem-doorbell`` or ''
    :ivar server: the socket of the server that hands it out, or None; ''
        when libvirt chooses it
    """

    name: str
    model: str
    server: str | None = None


def read_memory(root: Node, devices: tuple[MemoryDevice, ...]) -> Memory:
    """Read the ``<memoryBacking>`` of a domain.

    :param root: the domain
    :param devices: its memory devices
    :returns: its memory
    :raises InvalidDomain: for a size that is none
    """
    backing = root.child('memoryBacking')
    backing.harmless(children='allocation discard nosharepages')
    huge = backing.child('hugepages')
    sizes = set()
    for page in huge.children('page'):
        page.harmless('nodeset')
        sizes.add(_kibibytes(page.number('size'), page.get('unit'), page))
    access = backing.child('access').get('mode', 'shared', 'private')
    # the rest of it describes a processor to the guest
    cpu = root.child('cpu')
    cells = cpu.child('numa').children('cell')
    by_node = any(cell.get('memAccess') for cell in cells)
    cpu.all_harmless()
    return Memory(
        huge_pages=tuple(sorted(sizes)) or ((0,) if huge else ()),
        source=backing.child('source').get(
            'type', 'file', 'anonymous', 'memfd'
        ),
        access=access,
        by_node=by_node,
        locked=bool(backing.child('locked')),
        devices=devices,
    )


def read_memory_device(node: Node) -> MemoryDevice | None:
    """Read a ``<memory>`` of the devices.

    :param node: the element
    :returns: the device; None when its model is not known
    :raises InvalidDomain: for a path that is not plain, or a size
    """
    model = node.get('model', *_MODELS)
    node.label = f'<memory> {model}'.strip()
    node.harmless('discard', 'acpi address alias uuid')
    target = node.child('target')
    readonly = bool(target.child('readonly'))
    target.harmless(
        'dynamicMemslots',
        'address block current label node requested size',
    )
    source = node.child('source')
    source.harmless(children='alignsize nodemask pmem')
    size = source.child('pagesize')
    page_size = None
    if text := size.text():
        if not (text.isascii() and text.isdigit() and len(text) < 12):
            raise exceptions.InvalidDomain(
                f'{size.where} is no number: {text!r}'
            )
        page_size = _kibibytes(int(text), size.get('unit'), size)
    path = source.child('path').text_path()
    if model in ('nvdimm', 'virtio-pmem') and not path:
        raise exceptions.InvalidDomain(f'{node.where} has no path')
    if not model:
        return None
    return MemoryDevice(
        model,
        path,
        page_size,
        node.get('access', 'shared', 'private'),
        readonly,
    )


def _kibibytes(size: int | None, unit: str, node: Node) -> int:
    if size is None or unit not in _UNITS:
        raise exceptions.InvalidDomain(
            f'{node.where} is no size: {size} {unit!r}'
        )
    return size * _UNITS[unit]


def read_shared_memory(node: Node) -> SharedMemory:
    """Read a ``<shmem>``.

    :param node: the element
    :returns: the memory
    :raises InvalidDomain: for a name that is no file's
    """
    name = node.get('name')
    node.label = f'<shmem> {name}'.strip()
    if not name or '/' in name or name in ('.', '..'):
        raise exceptions.InvalidDomain(f'{node.where} has no usable name')
    node.harmless('role', 'acpi address alias msi size')
    model = node.child('model').get(
        'type', 'ivshmem', 'ivshmem-plain', 'ivshmem-doorbell'
    )
    server = node.child('server')
    path = server.path('path') or ''
    return SharedMemory(name, model, path if server else None)
