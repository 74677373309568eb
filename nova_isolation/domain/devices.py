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

"""The smaller devices: TPM, random numbers, input, file systems and others."""

import dataclasses

from nova_isolation.domain.characters import Character
from nova_isolation.domain.characters import read_character
from nova_isolation.domain.reader import Node
from nova_isolation import exceptions

_HARMLESS = 'acpi address alias'
_HARMLESS_DRIVER = 'ats iommu packed page_per_vq'


@dataclasses.dataclass(frozen=True)
class Tpm:
    """A TPM.

    :ivar kind: ``emulator`` (swtpm, which libvirt starts), ``external`` (one
        that somebody else runs) or ``passthrough``
    :ivar path: the device, the socket of an external one, or where swtpm
        keeps its state; None for libvirt's own place
    :ivar version: ``1.2``, ``2.0`` or ''
    """

    kind: str
    path: str | None = None
    version: str = ''


@dataclasses.dataclass(frozen=True)
class Rng:
    """A source of random numbers.

    :ivar kind: ``random``, ``egd`` or ``builtin``
    :ivar path: the device that ``random`` reads
    :ivar backend: what ``egd`` talks to
    """

    kind: str
    path: str | None = None
    backend: Character | None = None


@dataclasses.dataclass(frozen=True)
class Input:
    """An input device of the host."""

    path: str


@dataclasses.dataclass(frozen=True)
class Filesystem:
    """A directory of the host.

    :ivar kind: ``mount``, ``file``, ``block`` …
    :ivar driver: ``virtiofs``, ``path`` (9p in QEMU itself) …, or ''
    :ivar target: its tag in the guest
    :ivar source: the directory, or None
    :ivar socket: where a virtiofsd that libvirt did not start listens
    :ivar binary: the virtiofsd that libvirt starts, None for its own
    :ivar readonly: whether the guest cannot write to it
    """

    kind: str
    driver: str
    target: str
    source: str | None = None
    socket: str | None = None
    binary: str | None = None
    readonly: bool = False

    @property
    def has_helper(self) -> bool:
        """Whether libvirt starts a virtiofsd for it."""
        return self.driver == 'virtiofs' and not self.socket


@dataclasses.dataclass(frozen=True)
class Crypto:
    """A cryptographic device.

    :ivar backend: ``builtin`` or ``lkcf`` (the host's kernel)
    """

    backend: str


@dataclasses.dataclass(frozen=True)
class Smartcard:
    """A smartcard of the host.

    :ivar mode: ``host`` or ``host-certificates``
    :ivar database: directory of the certificates, or None
    """

    mode: str
    database: str | None = None


def read_tpm(node: Node) -> Tpm | None:
    """Read a ``<tpm>``.

    :param node: the element
    :returns: the TPM; None when its type is not known
    :raises InvalidDomain: for a path that is not plain
    """
    model = node.get('model')
    node.label = f'<tpm> {model}'.strip()
    node.harmless(children=_HARMLESS)
    backend = node.child('backend')
    kind = backend.get('type', 'emulator', 'external', 'passthrough')
    backend.harmless('debug persistent_state', 'active_pcr_banks profile')
    backend.child('encryption').harmless('secret')
    version = backend.get('version')
    source = backend.child('source')
    source.get('type', 'unix', 'dir', 'file')
    source.harmless('mode', 'reconnect')
    path = backend.child('device').path('path') or source.path('path')
    if kind in ('external', 'passthrough') and not path:
        raise exceptions.InvalidDomain(f'{node.where} has no path')
    return Tpm(kind, path, version) if kind else None


def read_rng(node: Node) -> Rng | None:
    """Read an ``<rng>``.

    :param node: the element
    :returns: the source; None when its kind is not known
    :raises InvalidDomain: for a path that is not plain
    """
    node.harmless('model', f'{_HARMLESS} rate')
    node.child('driver').harmless(_HARMLESS_DRIVER)
    backend = node.child('backend')
    kind = backend.get('model', 'random', 'egd', 'builtin')
    match kind:
        case 'random':
            # what libvirt takes when the XML says nothing
            return Rng(kind, backend.text_path() or '/dev/urandom')
        case 'egd':
            return Rng(kind, backend=read_character(backend))
        case 'builtin':
            return Rng(kind)
    return None


def read_input(node: Node) -> Input | None:
    """Read an ``<input>``.

    :param node: the element
    :returns: the device; None when the emulator makes it up
    :raises InvalidDomain: when its device is not named
    """
    kind = node.get(
        'type', 'evdev', 'keyboard', 'mouse', 'passthrough', 'tablet'
    )
    node.label = f'<input> {kind}'.strip()
    node.harmless('bus model', _HARMLESS)
    node.child('driver').harmless(_HARMLESS_DRIVER)
    if kind not in ('evdev', 'passthrough'):
        return None
    source = node.child('source')
    source.harmless('grab grabToggle repeat')
    path = source.path('dev' if kind == 'evdev' else 'evdev')
    if path is None:
        raise exceptions.InvalidDomain(f'{node.where} names no device')
    return Input(path)


def read_filesystem(node: Node) -> Filesystem | None:
    """Read a ``<filesystem>``.

    :param node: the element
    :returns: the file system; None when its type is not known
    :raises InvalidDomain: for a path that is not plain
    """
    target = node.child('target').get('dir')
    node.label = f'<filesystem> {target}'.strip()
    kind = node.get('type', 'mount', 'file', 'block', 'ram', 'template')
    # the driver's own, and what ploop and containers have
    node.harmless(
        'accessmode dmode fmode model multidevs',
        f'{_HARMLESS} boot idmap space_hard_limit space_soft_limit',
    )
    driver = node.child('driver')
    driver.harmless(f'{_HARMLESS_DRIVER} format queue wrpolicy')
    source = node.child('source')
    source.harmless('name units usage')
    paths = [source.path(name) for name in ('dir', 'file', 'dev')]
    binary = node.child('binary')
    binary.harmless('xattr', 'cache lock openfiles sandbox thread_pool')
    if not kind:
        return None
    return Filesystem(
        kind=kind,
        driver=driver.get(
            'type', 'virtiofs', 'path', 'handle', 'loop', 'mtp', 'nbd'
        ),
        target=target,
        source=next((path for path in paths if path), None),
        socket=source.path('socket'),
        binary=binary.path('path'),
        readonly=bool(node.child('readonly')),
    )


def read_crypto(node: Node) -> Crypto | None:
    """Read a ``<crypto>``.

    :param node: the element
    :returns: the device; None when its back end is not known
    """
    node.get('type', 'qemu')
    node.harmless('model', _HARMLESS)
    node.child('driver').harmless(_HARMLESS_DRIVER)
    backend = node.child('backend')
    backend.harmless('queues')
    kind = backend.get('model', 'builtin', 'lkcf')
    return Crypto(kind) if kind else None


def read_vsock(node: Node) -> bool:
    """Read a ``<vsock>``.

    :param node: the element
    :returns: True: libvirt opens ``/dev/vhost-vsock`` and hands it over
    """
    node.harmless('model', f'{_HARMLESS} cid')
    node.child('driver').harmless(_HARMLESS_DRIVER)
    return True


def read_pstore(node: Node) -> str:
    """Read a ``<pstore>``.

    :param node: the element
    :returns: the path of its file; '' when libvirt chooses it
    :raises InvalidDomain: for a path that is not plain
    """
    node.get('backend', 'acpi-erst')
    node.harmless(children=f'{_HARMLESS} size')
    return node.child('path').text_path() or ''


def read_smartcard(node: Node) -> Smartcard | Character | None:
    """Read a ``<smartcard>``.

    :param node: the element
    :returns: the card, or what it is reached through; None when its mode is
        not known
    :raises InvalidDomain: for a path that is not plain
    """
    mode = node.get('mode', 'host', 'host-certificates', 'passthrough')
    node.label = f'<smartcard> {mode}'.strip()
    if mode == 'passthrough':
        return read_character(node)
    node.harmless(children=f'{_HARMLESS} certificate')
    database = node.child('database').text_path()
    return Smartcard(mode, database) if mode else None
