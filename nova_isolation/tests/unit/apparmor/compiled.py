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

import struct

_MAGIC = struct.pack('>I', 0x1B5E783D)
_START = 1
_DIFFERENCE = 0x80000000
_ACCEPT, _BASE, _CHECK, _DEFAULT, _CLASSES, _NEXT = 1, 2, 3, 4, 5, 8
_SIZES = {1: 'B', 2: 'H', 4: 'I', 8: 'Q'}
_BITS = {'x': 1, 'w': 2, 'r': 4, 'k': 0x20, 'm': 0x40}


class Files:
    """The rules on files of a compiled profile.

    :param policy: what ``apparmor_parser -QTS`` gave
    """

    def __init__(self, policy: bytes) -> None:
        # The other automata of a profile come before it.
        at = policy.rindex(_MAGIC)
        _, header_size, size = struct.unpack_from('>III', policy, at)
        self._tables: dict[int, tuple[int, ...]] = {}
        end, at = at + size, at + header_size
        while at < end:
            kind, width, _, length = struct.unpack_from('>HHII', policy, at)
            self._tables[kind] = struct.unpack_from(
                f'>{length}{_SIZES[width]}', policy, at + 12
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
        allowed = self._tables[_ACCEPT][state] >> 14
        return ''.join(c for c, bit in _BITS.items() if allowed & bit)
