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

"""What a guest has used: by audit records, and by what it holds open now.

The stock profile logs nothing that it allows, unless it is told to: in its
``audit`` flag or the kernel's audit mode ``all``. What a process holds open is
evidence without any record.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import os
import re
import stat

from nova_isolation.apparmor import accesses
from nova_isolation.apparmor.accesses import Access
from nova_isolation.audit import attribution
from nova_isolation.audit import records

# The kernel's letters (aa_audit_perm_mask()), in the language of rules.
_LETTERS = {
    'r': 'r',
    'w': 'w',
    'a': 'w',
    'c': 'w',
    'd': 'w',
    'm': 'm',
    'k': 'k',
    'x': 'ix',
    'l': 'l',
}
_CLASSES = {'cap': accesses.CAPABILITY, 'net': accesses.NETWORK}
# A line of auditd's, of the journal's or of dmesg.
_RECORD = re.compile(rb'audit\([0-9.]+:[0-9]+\): [^\x1d]*')
_LONGEST = 1 << 16
# Different accesses of one guest.
_MOST = 1000

_O_PATH = 0o10000000
_LISTENING = '0A'  # TCP_LISTEN
_MAPPING = re.compile(
    r'[0-9a-f-]+ (?P<mode>[rwxsp-]{4}) \S+ \S+ [1-9][0-9]* +(?P<path>/.*)'
)


@dataclasses.dataclass
class Recorded:
    """What audit records say.

    :ivar used: what each guest was let do and that was recorded
    :ivar unparsable: how many records could not be read
    :ivar dropped: how many accesses were too many
    """

    used: dict[str, set[Access]] = dataclasses.field(default_factory=dict)
    unparsable: int = 0
    dropped: int = 0

    def read(self, lines: Iterable[bytes]) -> None:
        """Take in a log.

        :param lines: of auditd, the journal or dmesg
        """
        for line in lines:
            found = _RECORD.search(line[:_LONGEST])
            if not found or b'apparmor=' not in found[0]:
                continue
            record = records.parse(records.AVC, found[0])
            if isinstance(record, records.Record):
                self._add(record)
            elif record is not None:
                self.unparsable += 1

    def _add(self, record: records.Record) -> None:
        uuid = attribution.subject(record.text('profile') or '')
        # what the stock profile denied, ours may deny as well
        if uuid is None or record.verdict not in ('ALLOWED', 'AUDIT'):
            return
        known = self.used.setdefault(uuid, set())
        if len(known) < _MOST:
            known.add(of_record(record))
        else:
            self.dropped += 1


def of_record(record: records.Record) -> Access:
    """Tell what a record says was done.

    :param record: of AppArmor
    :returns: the access
    """
    text = record.text
    mask = text('requested_mask') or text('denied_mask') or ''
    operation = text('operation') or ''
    kind = text('class') or ''
    kind = _CLASSES.get(kind, kind)
    words = frozenset(mask.replace(',', ' ').split())
    if capability := text('capname'):
        return Access(accesses.CAPABILITY, capability, frozenset(['use']))
    if family := text('family'):
        words = words or frozenset([operation])
        if family == 'unix':
            peer = text('peer_label') or text('peer') or ''
            return Access(accesses.UNIX, peer, words)
        name = f'{family} {text("sock_type") or ""}'
        return Access(accesses.NETWORK, name, words)
    if operation in (accesses.SIGNAL, accesses.PTRACE):
        return Access(operation, text('peer') or '', words)
    name = text('name') or ''
    # older kernels do not say the class
    if kind == accesses.FILE or (not kind and name.startswith('/')):
        letters = frozenset(_LETTERS.get(c, c) for c in mask)
        return Access(accesses.FILE, name, letters)
    return Access(kind or operation, name, words)


def of_process(pid: int) -> Iterator[Access]:
    """Tell what a process holds: files, mappings and sockets.

    Not unix sockets: who is at their other end is not in proc(5).

    :param pid: of the process
    :returns: the accesses; of one file several, perhaps
    :raises OSError: when it may not be looked at, or is gone
    """
    sockets = set()
    directory = f'/proc/{pid}'
    for number in os.listdir(f'{directory}/fd'):
        try:
            target = os.readlink(f'{directory}/fd/{number}')
            flags = _flags(f'{directory}/fdinfo/{number}')
        except FileNotFoundError:
            # closed meanwhile
            continue
        if target.startswith('socket:['):
            sockets.add(target[len('socket:[') : -1])
        elif _is_file(target) and not flags & _O_PATH:
            mode = ('r', 'w', 'rw')[min(flags & os.O_ACCMODE, 2)]
            name = _name(target, f'{directory}/fd/{number}')
            yield Access(accesses.FILE, name, frozenset(mode))
    yield from _mappings(directory)
    yield from _sockets(directory, sockets)


def _flags(path: str) -> int:
    with open(path) as f:
        for line in f:
            key, _, value = line.partition(':')
            if key == 'flags':
                return int(value, 8)
    return 0


def _is_file(target: str) -> bool:
    # AppArmor leaves an open file that is deleted to who has it
    return target.startswith('/') and not (
        target.endswith(' (deleted)') or target.startswith('/memfd:')
    )


def _name(target: str, link: str) -> str:
    """Name a file as the kernel does in a rule: a directory with a slash."""
    try:
        directory = stat.S_ISDIR(os.stat(link).st_mode)
    except OSError:
        directory = False
    return f'{target}/' if directory and target != '/' else target


def _mappings(directory: str) -> Iterator[Access]:
    found: dict[str, set[str]] = {}
    with open(f'{directory}/maps', errors='surrogateescape') as f:
        for line in f:
            mapping = _MAPPING.fullmatch(line.rstrip('\n'))
            if not mapping or not _is_file(mapping['path']):
                continue
            mode = mapping['mode']
            letters = found.setdefault(mapping['path'], set())
            letters.update('r' if 'r' in mode else '')
            letters.update('m' if 'x' in mode else '')
            # a private copy is no writing
            letters.update('w' if 'w' in mode and 's' in mode else '')
    for path, letters in found.items():
        yield Access(accesses.FILE, path, frozenset(letters))


def _sockets(directory: str, inodes: set[str]) -> Iterator[Access]:
    for table, name in (
        ('tcp', 'inet stream'),
        ('tcp6', 'inet6 stream'),
        ('udp', 'inet dgram'),
        ('udp6', 'inet6 dgram'),
    ):
        try:
            with open(f'{directory}/net/{table}') as f:
                rows = [line.split() for line in f][1:]
        except FileNotFoundError:
            continue
        mine = [row for row in rows if len(row) > 9 and row[9] in inodes]
        served = {
            row[1].rpartition(':')[2] for row in mine if row[3] == _LISTENING
        }
        for row in mine:
            operation = 'connect'
            if row[3] == _LISTENING:
                operation = 'listen'
            elif row[1].rpartition(':')[2] in served:
                operation = 'accept'
            elif table.startswith('udp'):
                operation = 'create'
            yield Access(accesses.NETWORK, name, frozenset([operation]))
