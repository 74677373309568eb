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

"""Reading audit records: run natively in an image's Debian tree.

``python3 -m benchmarks.records NAME…``, by :mod:`benchmarks.main`. The peers
are Debian's packages of LibAppArmor and auparse for Python, installed into
the tree's overlay; without a network they are not there, and their figures
are none.
"""

from collections.abc import Callable, Iterator
import functools
import importlib
import itertools
import os
import re
import subprocess
import sys
from typing import Any

from benchmarks import figures
from nova_isolation.audit import lines
from nova_isolation.audit import records
from nova_isolation.tests.unit.audit import shapes

SAMPLES = '/src/nova_isolation/tests/unit/audit/samples'
PACKAGES = ('python3-libapparmor', 'python3-audit')
MODULES = '/usr/lib/python3/dist-packages'

REPEAT = 30
LINES = 10_000

# What auditd calls the types, and auparse decodes.
NAMES = {
    1107: 'USER_AVC',
    1400: 'AVC',
    1401: 'SELINUX_ERR',
    1403: 'MAC_POLICY_LOAD',
    1404: 'MAC_STATUS',
    1405: 'MAC_CONFIG_CHANGE',
    1503: 'APPARMOR_DENIED',
}
UNTRUSTED = frozenset(['comm', 'name', 'path', 'profile'])
# LibAppArmor's types of records (aalogparse.h), in their order.
EVENTS = (
    *('INVALID', 'ERROR', 'AUDIT', 'ALLOWED', 'DENIED', 'HINT', 'STATUS'),
    'KILLED',
)


def install() -> str:
    """Install the peers.

    :returns: why they are not there, empty when they are
    """
    env = {**os.environ, 'DEBIAN_FRONTEND': 'noninteractive'}
    for command in (
        ['apt-get', '-q', 'update'],
        ['apt-get', '-qy', 'install', '--no-install-recommends', *PACKAGES],
    ):
        done = subprocess.run(command, env=env, capture_output=True)
        if done.returncode:
            return f'{PACKAGES[0]} cannot be installed: no package registry'
    return ''


def sample(name: str) -> list[bytes]:
    """Read the lines of a sample."""
    with open(f'{SAMPLES}/{name}', 'rb') as file:
        return file.read().splitlines()


def denials(*names: str) -> list[bytes]:
    """Make distinct denials of those that kernels sent.

    Each has another time, serial, process and, where it has one, name.

    :param names: of samples, from netlink
    :returns: payloads of type AVC
    """
    found = [
        line.partition(b' ')[2].rstrip()
        for name in names
        for line in sample(name)
        if re.search(rb'="(DENIED|ALLOWED)"|avc:  denied', line)
    ]
    made = []
    for number in range(LINES):
        text = found[number % len(found)]
        text = re.sub(
            rb'[0-9]{3}:[0-9]+\)',
            b'%03d:%d)'
            % (
                number % 1000,
                10_000 + number,
            ),
            text,
            count=1,
        )
        text = re.sub(rb' pid=[0-9]+', b' pid=%d' % (1000 + number), text)
        text = re.sub(rb'( name="[^"]+)', rb'\1-%d' % number, text)
        made.append(text)
    assert len(set(made)) == LINES
    return made


def read_ours(record: records.Record) -> tuple[object, ...]:
    """Read all that an event needs of one of our records."""
    get, number = record.fields.get, record.number
    return (
        record.verdict,
        record.millis,
        record.serial,
        get('operation'),
        get('class'),
        get('profile'),
        get('name'),
        get('target'),
        get('comm'),
        get('info'),
        get('requested_mask'),
        get('denied_mask'),
        get('family'),
        get('sock_type'),
        get('signal'),
        get('laddr'),
        get('faddr'),
        get('peer'),
        get('peer_label'),
        number('pid'),
        number('error'),
        number('protocol'),
        number('lport'),
        number('fport'),
    )


def read_theirs(record: Any) -> tuple[object, ...]:
    """Read the same of one of LibAppArmor's."""
    return (
        record.event,
        record.epoch,
        record.audit_sub_id,
        record.audit_id,
        record.operation,
        # before AppArmor 4 it knows no class
        getattr(record, '_class', None),
        record.profile,
        record.name,
        record.name2,
        record.comm,
        record.info,
        record.requested_mask,
        record.denied_mask,
        record.net_family,
        record.net_sock_type,
        record.signal,
        record.net_local_addr,
        record.net_foreign_addr,
        record.peer,
        record.peer_profile,
        record.pid,
        record.error_code,
        record.net_protocol,
        record.net_local_port,
        record.net_foreign_port,
    )


def version(package: str) -> str:
    """Tell which version of a package is installed."""
    return subprocess.run(
        ['dpkg-query', '-Wf', '${Version}', package],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


class Peers:
    """LibAppArmor and auparse, as far as they are there.

    :ivar reason: why one is not
    :ivar names: ``{peer: its name with its version}``
    """

    def __init__(self) -> None:
        self.reason = install()
        sys.path.append(MODULES)
        self.library = self._load('LibAppArmor')
        self.auparse = self._load('auparse')
        self.names = {
            name: f'{name} {version(package)}'
            for name, package, module in (
                ('LibAppArmor', PACKAGES[0], self.library),
                ('auparse', PACKAGES[1], self.auparse),
            )
            if module
        }

    def _load(self, name: str) -> Any:
        try:
            return importlib.import_module(name)
        except ImportError:
            return None

    def read(self, line: str) -> tuple[str, str | None, str | None]:
        """Have LibAppArmor read a line.

        :returns: verdict, operation and profile, as far as it knows them
        """
        record = self.library.parse_record(line)
        try:
            return EVENTS[record.event], record.operation, record.profile
        finally:
            self.library.free_record(record)

    def fields(self, text: str) -> Iterator[dict[str, str]]:
        """Have auparse read all fields of all events.

        :param text: lines of auditd's
        :returns: of each event its first record, what may be in hex decoded
        """
        parser = self.auparse.AuParser(self.auparse.AUSOURCE_BUFFER, text)
        while parser.parse_next_event():
            parser.first_record()
            parser.first_field()
            found: dict[str, str] = {}
            more = True
            while more:
                name = parser.get_field_name()
                value = (
                    parser.interpret_field()
                    if name in UNTRUSTED
                    else parser.get_field_str().strip('"')
                )
                found.setdefault(name, value)
                more = parser.next_field()
            yield found


def rates(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Time functions that each read LINES lines, in turns.

    :returns: ``{name: lines in a second of the CPU's time, median}``
    """
    times = figures.alternate(REPEAT, *functions.values())
    return {
        name: LINES / figures.quantile(taken, 0.5) * 1000
        for name, taken in zip(functions, times, strict=True)
    }


def parse(peers: Peers) -> Iterator[figures.Figure]:
    """Read denials, each another one, with all that an event needs."""
    payloads = denials(
        'apparmor-kernel6.1.netlink', 'apparmor-kernel7.2.netlink'
    )
    if peers.library:
        payloads = [
            payload
            for payload in payloads
            if peers.read(_written(payload))[1] is not None
        ]
        payloads = list(itertools.islice(itertools.cycle(payloads), LINES))
    lines = [_written(payload) for payload in payloads]
    raw = [line.encode() for line in lines]
    selinux = denials('selinux-kernel7.2.netlink')

    def netlink(payloads: list[bytes]) -> None:
        for payload in payloads:
            record = records.parse(records.AVC, payload)
            assert isinstance(record, records.Record)
            read_ours(record)

    def file() -> None:
        for line in raw:
            record = records.parse_line(line)
            assert isinstance(record, records.Record)
            read_ours(record)

    def library() -> None:
        for line in lines:
            record = peers.library.parse_record(line)
            read_theirs(record)
            peers.library.free_record(record)

    def auparse(text: str) -> None:
        assert sum(1 for _event in peers.fields(text)) == LINES

    functions: dict[str, Callable[[], object]] = {
        'netlink': functools.partial(netlink, payloads),
        'file': file,
        'selinux': functools.partial(netlink, selinux),
    }
    if peers.library:
        functions['LibAppArmor'] = library
    if peers.auparse:
        functions['auparse'] = functools.partial(auparse, _file(payloads))
        functions['auparse, selinux'] = functools.partial(
            auparse, _file(selinux)
        )
    found = rates(functions)
    for what, ours, peer, theirs, goal in (
        ('AppArmor, from netlink', 'netlink', 'LibAppArmor', '', 1),
        ("AppArmor, from auditd's file", 'file', 'LibAppArmor', '', 1),
        ("AppArmor, from auditd's file", 'file', 'auparse', '', None),
        ('SELinux, from netlink', 'selinux', 'auparse', ', selinux', None),
    ):
        yield figures.Figure(
            'parse',
            f'denials of {what}, every field read',
            found[ours],
            'lines/s',
            peers.names.get(peer),
            found.get(peer + theirs),
            least_ratio=goal,
            reason=peers.reason,
        )


def skip(_peers: Peers) -> Iterator[figures.Figure]:
    """Pass over what is not ours in auditd's file."""
    others = [
        line
        for line in sample('apparmor-kernel7.2-auditd.log')
        if not line.startswith(b'type=AVC')
    ]
    buffer = b'\n'.join(itertools.chain.from_iterable([others] * 400))
    count = buffer.count(b'\n') + 1
    assert not list(lines.lines_of(buffer))
    (times,) = figures.alternate(REPEAT, lambda: list(lines.lines_of(buffer)))
    yield figures.Figure(
        'skip',
        f"lines of others in auditd's file, of {len(buffer) // count} bytes",
        count / figures.quantile(times, 0.5) / 1000,
        'M lines/s',
        least=5,
        reason='no peer passes over lines without reading them',
    )


def shapes_(peers: Peers) -> Iterator[figures.Figure]:
    """Count the shapes whose fields come out as they were meant.

    Of LibAppArmor no more is asked than verdict, operation and profile, of
    auparse the fields alone.
    """

    def ours(shape: shapes.Shape) -> bool:
        record = records.parse(shape.kind, shape.payload)
        return isinstance(record, records.Record) and (
            record.verdict == shape.verdict
            and shape.fields.items() <= record.fields.items()
        )

    def library(shape: shapes.Shape) -> bool:
        record = records.parse(shape.kind, shape.payload)
        assert isinstance(record, records.Record)
        return peers.read(_written(shape.payload, shape.kind)) == (
            shape.verdict,
            record.text('operation'),
            record.text('profile') or record.text('label'),
        )

    def auparse(shape: shapes.Shape) -> bool:
        text = _written(shape.payload, shape.kind)
        try:
            (found,) = peers.fields(f'{text}\n')
        except RuntimeError:
            # a field that has no value
            return False
        found['perms'] = found.get('seperms', '').replace(',', ' ')
        return shape.fields.items() <= found.items()

    for of, module, peer, judge in (
        (shapes.APPARMOR, 'AppArmor', 'LibAppArmor', library),
        (shapes.SELINUX, 'SELinux', 'auparse', auparse),
    ):
        name = peers.names.get(peer)
        yield figures.Figure(
            'shapes',
            f'shapes of {module} that are understood',
            sum(map(ours, of)),
            f'of {len(of)}',
            name,
            sum(map(judge, of)) if name else None,
            least=len(of),
            reason=peers.reason,
        )


def _written(payload: bytes, kind: int = records.AVC) -> str:
    """Write a record as auditd does."""
    name = NAMES[kind]
    return f'type={name} msg={payload.decode()}'.replace('\n', ' ')


def _file(payloads: list[bytes]) -> str:
    """Write records one after the other, as auditd's file has them."""
    return ''.join(f'{_written(payload)}\n' for payload in payloads)


PARTS = {'parse': parse, 'skip': skip, 'shapes': shapes_}


def main() -> None:
    """Measure what the command line names."""
    peers = Peers()
    figures.emit(f for name in sys.argv[1:] for f in PARTS[name](peers))


if __name__ == '__main__':
    main()
