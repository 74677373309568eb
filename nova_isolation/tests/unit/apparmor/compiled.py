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

"""Reads a compiled profile as the kernel does, where there is no kernel.

What the parser made of a profile is asked what it grants on a path: the
kernel's own automaton (``security/apparmor/match.c``) and its meaning for
files (``file.c``), without its conditions on the file's owner.
"""

from collections.abc import Iterator
import struct
from typing import Any

_MAGIC = struct.pack('>I', 0x1B5E783D)
_START = 1
_DIFFERENCE = 0x80000000
_ACCEPT, _BASE, _CHECK, _DEFAULT, _CLASSES, _NEXT = 1, 2, 3, 4, 5, 8
_SIZES = {1: 'B', 2: 'H', 4: 'I', 8: 'Q'}
# Of the policy's serialisation (security/apparmor/policy_unpack.c): type
# codes of numbers, and of what has a length before it.
_NUMBERS = {0: '<B', 1: '<H', 2: '<I', 3: '<Q', 11: '<H'}
_SIZED = {4: '<H', 5: '<H', 6: '<I'}
_NAME, _BLOB, _ARRAY, _ARRAY_END = 4, 6, 11, 12
# Of the parser before 4.1, in the accepting state itself: the owner's rights,
# and those of others 14 bits higher.
_OLD_BITS = {'x': 1, 'w': 2, 'r': 4, 'k': 0x20, 'm': 0x40}
_OLD_OTHERS = 14
# Of the later one, whose states name two rows of a table.
_BITS = {'x': 1, 'w': 2, 'r': 4, 'k': 0x8000, 'm': 0x10000}
_ROW, _ALLOWED = 14, 1


def _items(policy: bytes) -> Iterator[tuple[int, Any]]:
    """Take a serialised policy apart: (type, value), without the nesting."""
    at = 0
    while at < len(policy):
        kind, at = policy[at], at + 1
        value: Any = None
        if kind in _NUMBERS:
            (value,) = struct.unpack_from(_NUMBERS[kind], policy, at)
            at += struct.calcsize(_NUMBERS[kind])
        elif kind in _SIZED:
            (length,) = struct.unpack_from(_SIZED[kind], policy, at)
            at += struct.calcsize(_SIZED[kind])
            value = policy[at : at + length]
            at += length
        yield kind, value


class Files:
    """The rules on files of a compiled profile.

    :param policy: what ``apparmor_parser -QTS`` gave
    """

    def __init__(self, policy: bytes) -> None:
        self._rows: list[int] = []
        automaton = b''
        name = b''
        numbers: list[int] | None = None
        for kind, value in _items(policy):
            if kind == _NAME:
                name = value
            elif kind == _ARRAY:
                numbers = []
            elif kind == _ARRAY_END:
                # what follows "version", the only name inside of "perms"
                if name == b'version\0' and numbers:
                    self._rows = numbers[_ALLOWED::_ROW]
                numbers = None
            elif kind == _BLOB and _MAGIC in value[:16]:
                # that of the files is the last one
                automaton = value
            elif numbers is not None:
                numbers.append(value)
        at = automaton.index(_MAGIC)
        _, header_size, size = struct.unpack_from('>III', automaton, at)
        self._tables: dict[int, tuple[int, ...]] = {}
        end, at = at + size, at + header_size
        while at < end:
            kind, width, _, length = struct.unpack_from('>HHII', automaton, at)
            self._tables[kind] = struct.unpack_from(
                f'>{length}{_SIZES[width]}', automaton, at + 12
            )
            at += (12 + length * width + 7) // 8 * 8

    def _step(self, state: int, byte: int) -> int:
        table = self._tables
        if _CLASSES in table:
            byte = table[_CLASSES][byte]
        while True:
            base = table[_BASE][state]
            at = (base & 0xFFFFFF) + byte
            if table[_CHECK][at] == state:
                return table[_NEXT][at]
            state = table[_DEFAULT][state]
            if not base & _DIFFERENCE:
                return state

    def access(self, path: str) -> str:
        """Tell what is granted on a file of another user.

        :param path: as the kernel shows it
        :returns: of the letters ``xwrkm`` those that are granted
        """
        state = _START
        for byte in path.encode():
            state = self._step(state, byte)
        accepted = self._tables[_ACCEPT][state]
        if self._rows:
            # after the owner's row
            allowed, bits = self._rows[accepted + 1], _BITS
        else:
            allowed, bits = accepted >> _OLD_OTHERS, _OLD_BITS
        return ''.join(c for c, bit in bits.items() if allowed & bit)
