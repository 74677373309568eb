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

"""Headers of qcow2 images, as honest or not as a test wants them."""

import struct

BACKING_FORMAT = 0xE2792ACA
_FEATURES = 0x6803F857


def extension(kind, data):
    padded = data + b'\0' * (-len(data) % 8)
    return struct.pack('>II', kind, len(data)) + padded


def header(
    backing=None,
    backing_format=b'qcow2',
    version=3,
    incompatible=0,
    offset=None,
    length=None,
    size=None,
    magic=b'QFI\xfb',
):
    """The beginning of a qcow2 image, as qemu-img lays it out."""
    fixed_size = 72 if version == 2 else 112
    tail = extension(_FEATURES, bytes(384))
    if backing_format is not None:
        tail = extension(BACKING_FORMAT, backing_format) + tail
    tail += extension(0, b'')
    name = backing or b''
    fixed = struct.pack(
        '>4sIQIIQIIQQIIQ',
        magic,
        version,
        (fixed_size + len(tail) if backing else 0)
        if offset is None
        else offset,
        len(name) if length is None else length,
        16,
        1 << 20,
        0,
        1,
        0x30000,
        0x10000,
        1,
        0,
        0,
    )
    if version != 2:
        fixed += struct.pack(
            '>QQQII8s',
            incompatible,
            0,
            0,
            4,
            fixed_size if size is None else size,
            b'',
        )
    return fixed + tail + name
