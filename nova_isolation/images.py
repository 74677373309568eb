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

"""Which files QEMU opens for a disk: the disk and its backing chain.

A running guest's QEMU owns its overlay: what stands in the header is the
guest's own writing. So a header is read with a few bounded reads (no image
tool runs on it), and what it names counts only within two directories: the
instance's own and, of the image cache, the files that Nova's own word gives
it. Of a volume in a file only its own snapshots, beside it, count. Anything
else is refused, never followed.

Format: https://www.qemu.org/docs/master/interop/qcow2.html
"""

import dataclasses
import hashlib
import os
import re
import stat
import struct

from nova_isolation.domain import disks
from nova_isolation import exceptions

_MAGIC = b'QFI\xfb'
# Empty file systems and swap that Nova makes itself, the same for all guests.
_BLANK = re.compile('ephemeral_[0-9]+_[0-9a-z]+|swap_[0-9]+')
_MAX_NAME = 1023
_MAX_EXTENSIONS = 64 * 1024
_EXTERNAL_DATA_FILE = 1 << 2
_END = 0x00000000
_BACKING_FORMAT = 0xE2792ACA


@dataclasses.dataclass(frozen=True)
class Layer:
    """One file of a backing chain.

    :ivar path: its real path, without symbolic links
    :ivar format: ``qcow2`` or ``raw``
    """

    path: str
    format: str


@dataclasses.dataclass(frozen=True)
class Directories:
    """Where the files of an instance's disks may be.

    :ivar instance: the instance's own directory
    :ivar cache: Nova's image cache, of backing files only
    :ivar images: names of the files in it that are this guest's images
    :ivar volumes: the directory below which Nova mounts the shares that have
        volumes in files; '' when there is none
    """

    instance: str
    cache: str
    images: frozenset[str] = frozenset()
    volumes: str = ''


#: Where no file of a disk is.
NOWHERE = Directories('/nonexistent', '/nonexistent')


def cache_name(image_id: str) -> str:
    """Name an image's file in Nova's image cache.

    :param image_id: Glance's id
    :returns: as nova.virt.libvirt.imagecache.get_cache_fname() does
    """
    return hashlib.sha1(image_id.encode(), usedforsecurity=False).hexdigest()


def chain(
    path: str,
    image_format: str,
    allowed: Directories,
    stated: tuple[Layer, ...] | None = None,
) -> tuple[Layer, ...]:
    """Follow a disk's backing chain.

    :param path: of the disk's file, absolute
    :param image_format: ``qcow2`` or ``raw``, as the domain's XML says
    :param allowed: where its files may be
    :param stated: the backing files that the headers have to name; None when
        there is no record of them
    :returns: the disk's own file first, the last backing file at the end
    :raises DeceivingImage: when a header names what it may not
    :raises UntrustedImage: when a file is not where it may be, is no regular
        file, or has a header that cannot be followed
    :raises MissingBase: when only a file is missing that Nova makes anew
    :raises MissingVolume: when the share is not mounted that has it
    :raises MissingImage: when another file does not exist
    """
    layers: list[Layer] = []
    seen: set[tuple[int, int]] = set()
    named_by = 'the domain'
    while True:
        top = layers[0].path if layers else None
        real = _locate(path, named_by, allowed, top)
        if layers and stated is not None:
            # before it is opened: whether it is there is what Nova acts on
            _compare(Layer(real, image_format), len(layers), named_by, stated)
        descriptor = _open(real, named_by, image_format, allowed, stated)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                link = stat.S_ISLNK(status.st_mode)
                raise exceptions.UntrustedImage(
                    f'{real}, named by {named_by}, is '
                    + ('a symbolic link' if link else 'not a regular file')
                )
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                raise exceptions.DeceivingImage(
                    f'the backing chain of {layers[0].path} is a loop: '
                    f'{named_by} names {real}'
                )
            seen.add(identity)
            layers.append(Layer(real, image_format))
            backing = (
                None
                if image_format == 'raw'
                else _read_header(descriptor, real)
            )
        finally:
            os.close(descriptor)
        if backing is None:
            if stated is not None:
                _compare(None, len(layers), f'the header of {real}', stated)
            return tuple(layers)
        if len(layers) == disks.MAX_LAYERS:
            raise exceptions.UntrustedImage(
                f'the backing chain of {layers[0].path} has more than '
                f'{disks.MAX_LAYERS} layers'
            )
        named_by = f'the header of {real}'
        path, image_format = _resolve(backing, real)


def place(path: str, allowed: Directories) -> str:
    """Check that a file, which need not exist, belongs to the instance.

    :param path: absolute
    :param allowed: where its files may be
    :returns: the real path
    :raises UntrustedImage: when it is not in the instance's directory
    """
    real = _real(path, allowed)
    if not _is_own(real, allowed):
        raise _outside(path, 'the domain', allowed)
    if os.path.islink(real):
        raise exceptions.UntrustedImage(f'{real} is a symbolic link')
    return real


def _compare(
    named: Layer | None, number: int, named_by: str, stated: tuple[Layer, ...]
) -> None:
    """Compare what a header names with what the domain does.

    :param named: by the header, or None when it names nothing
    :param number: of the layer in the chain
    """
    expected = stated[number - 1] if number <= len(stated) else None
    if named != expected:
        raise exceptions.DeceivingImage(
            f'{named_by} names {_words(named)}, and the domain '
            f'{_words(expected)}'
        )


def _words(layer: Layer | None) -> str:
    return f'{layer.path} ({layer.format})' if layer else 'no backing file'


def resolve(path: str) -> str:
    """Resolve the directories above a file, and not the file itself.

    These are the operator's: they may be links. A link in the file's own
    place is somebody's who may write there.

    :param path: absolute
    :returns: the path that the kernel sees
    """
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name)


def _real(path: str, allowed: Directories) -> str:
    if os.path.islink(allowed.instance):
        raise exceptions.UntrustedImage(
            f'the instance directory {allowed.instance} is a symbolic link: '
            'set instances_path to where it points to'
        )
    return resolve(path)


def _is_own(real: str, allowed: Directories) -> bool:
    return os.path.dirname(real) == os.path.realpath(allowed.instance)


def _is_volume(real: str, allowed: Directories) -> bool:
    """Tell whether a file is in a share that Nova mounts: BASE/HASH/FILE."""
    share = os.path.dirname(real)
    return bool(allowed.volumes) and (
        os.path.dirname(share) == os.path.realpath(allowed.volumes)
    )


def _locate(
    path: str, named_by: str, allowed: Directories, top: str | None
) -> str:
    """Give the real path of a file that may belong to the guest.

    :param top: the real path of the disk whose chain it is in; None for the
        disk itself, which the domain names
    """
    real = _real(path, allowed)
    if top is None:
        if _is_own(real, allowed) or _is_volume(real, allowed):
            return real
        raise _outside(path, named_by, allowed)
    directory, name = os.path.split(real)
    if not _is_own(top, allowed):
        share, volume = os.path.split(top)
        # Cinder calls them VOLUME and VOLUME.SNAPSHOT
        if directory != share or _stem(name) != _stem(volume):
            raise exceptions.DeceivingImage(
                f'{path}, named by {named_by}, is no snapshot of {top}'
            )
        return real
    if _is_own(real, allowed):
        return real
    cache = os.path.realpath(allowed.cache)
    if directory != cache:
        raise exceptions.DeceivingImage(
            f'{path}, named by {named_by}, is not in '
            f'{os.path.realpath(allowed.instance)} or {cache}'
        )
    if name not in allowed.images and not _BLANK.fullmatch(name):
        raise exceptions.DeceivingImage(
            f'{path}, named by {named_by}, is none of the images that Nova '
            'gave this guest'
        )
    return real


def _stem(name: str) -> str:
    return name.partition('.')[0]


def _outside(
    path: str, named_by: str, allowed: Directories
) -> exceptions.UntrustedImage:
    return exceptions.UntrustedImage(
        f'{path}, named by {named_by}, is not in '
        f'{os.path.realpath(allowed.instance)}'
    )


def _open(
    path: str,
    named_by: str,
    image_format: str,
    allowed: Directories,
    stated: tuple[Layer, ...] | None,
) -> int:
    # A raw file is not read, and Cinder's need not be readable for Nova.
    # O_NONBLOCK: a FIFO in the file's place must not make us wait.
    mode = os.O_PATH if image_format == 'raw' else os.O_RDONLY | os.O_NONBLOCK
    try:
        return os.open(path, mode | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as e:
        directory, name = os.path.split(path)
        kind = exceptions.MissingImage
        if _is_volume(path, allowed):
            kind = exceptions.MissingVolume
        # without a record Nova's word for it is needed
        elif directory == os.path.realpath(allowed.cache) and (
            stated is not None or name in allowed.images
        ):
            kind = exceptions.MissingBase
        raise kind(f'{path}, named by {named_by}, does not exist') from e
    except OSError as e:
        reason = 'is a symbolic link' if os.path.islink(path) else e.strerror
        raise exceptions.UntrustedImage(
            f'{path}, named by {named_by}, cannot be used: {reason}'
        ) from e


def _read_header(descriptor: int, path: str) -> tuple[str, str] | None:
    """Read what a qcow2 header names.

    :returns: (name, format) of the backing file, or None when it has none
    """

    def broken(
        why: str, kind: type[exceptions.Refusal] = exceptions.UntrustedImage
    ) -> exceptions.Refusal:
        return kind(f'{path} is not a qcow2 image that can be followed: {why}')

    fixed = os.pread(descriptor, 104, 0)
    if fixed[:4] != _MAGIC or len(fixed) < 72:
        raise broken('it does not begin with a qcow2 header')
    version, offset, length = struct.unpack_from('>IQI', fixed, 4)
    size = 72
    if version == 3:
        if len(fixed) < 104:
            raise broken('its header is cut off')
        (incompatible,) = struct.unpack_from('>Q', fixed, 72)
        if incompatible & _EXTERNAL_DATA_FILE:
            raise broken(
                'its header names an external data file',
                exceptions.DeceivingImage,
            )
        (size,) = struct.unpack_from('>I', fixed, 100)
    elif version != 2:
        raise broken(f'it has version {version}')
    if not offset:
        return None
    if not 0 < length <= _MAX_NAME:
        raise broken(f"its backing file's name has {length} bytes")
    name = os.pread(descriptor, length, offset) if offset < 1 << 40 else b''
    if len(name) != length:
        raise broken("its backing file's name is cut off")
    try:
        text = name.decode()
        image_format = _backing_format(descriptor, size)
    except (UnicodeDecodeError, struct.error) as e:
        raise broken(str(e)) from e
    if image_format not in ('qcow2', 'raw'):
        raise broken(
            f'it names the backing file {text!r} with the format '
            f'{image_format!r}, and not qcow2 or raw',
            exceptions.DeceivingImage,
        )
    return text, image_format


def _backing_format(descriptor: int, offset: int) -> str:
    """Find the header extension that tells the backing file's format.

    QEMU pads extensions to 8 bytes, libvirt's own reader does not: a header
    that reads otherwise without the padding is made to deceive one of them.
    """
    extensions = os.pread(descriptor, _MAX_EXTENSIONS, offset)
    padded = _formats(extensions, 8)
    if len(padded) < 2 and padded != _formats(extensions, 1):
        return 'ambiguous'
    # of several QEMU takes the last; QEMU itself writes one
    return b' and '.join(padded).decode()


def _formats(extensions: bytes, alignment: int) -> list[bytes]:
    found = []
    at = 0
    while at + 8 <= len(extensions):
        kind, length = struct.unpack_from('>II', extensions, at)
        if kind == _END:
            break
        if kind == _BACKING_FORMAT:
            found.append(extensions[at + 8 : at + 8 + length][:32])
        at += 8 + -(-length // alignment) * alignment
    return found


def _resolve(backing: tuple[str, str], overlay: str) -> tuple[str, str]:
    name, image_format = backing
    # QEMU takes "word:" at the beginning for a protocol, "json:" among them,
    # wherever the colon comes before the first slash
    if ':' in name.partition('/')[0]:
        raise exceptions.DeceivingImage(
            f'the header of {overlay} names {name!r}, which is not a file'
        )
    path = os.path.join(os.path.dirname(overlay), name)
    # QEMU's name would end at a NUL
    if os.path.normpath(path) != path or '\0' in path:
        raise exceptions.DeceivingImage(
            f'the header of {overlay} names {name!r}, which is not a plain '
            'path'
        )
    return path, image_format
