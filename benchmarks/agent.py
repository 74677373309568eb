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

"""The whole agent, fed through a socket, with a RabbitMQ of its own.

``python3 -m benchmarks.agent``, by :mod:`benchmarks.main`, in the tests' own
environment on this machine. The host has a thousand guests.
"""

from collections.abc import Iterator
import contextlib
import datetime
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import figures
from nova_isolation.tests.functional.agent import rig
from nova_isolation.tests.functional import rabbitmq

GUESTS = 1000
# Denials that are each the first of a kind, some time apart.
FIRSTS = 400
APART = 0.05
# Just before one of these, others begin to try so many names, each guest once.
NAMES = 1000
ROUNDS = 20
# The flood: by so many guests, events a second, seconds, and how many are sent
# at a time.
FLOODING = 20
RATE = 20_000
SECONDS = 60
CHUNK = 100
QUIET = 30.0
# Seconds that all of it may take to arrive.
PATIENCE = 300.0

NO_PEER = 'no peer attributes, folds and confirms'
# Seconds that the peer is given.
LAUREL = 10.0

_TICKS = os.sysconf('SC_CLK_TCK')

_STAND_IN = """
import sys
import libvirt

def dirty():
    with open('/proc/self/smaps_rollup') as f:
        return sum(
            int(line.split()[1]) for line in f if line.startswith('Private_D')
        )

libvirt.openReadOnly('test:///default').listAllDomains()
before = dirty()
connection = libvirt.openReadOnly(sys.argv[1])
print(dirty() - before)
"""


def memory(host: rig.Rig) -> float:
    """Tell what the agent has of the memory, shared pages in parts: MiB."""
    total = 0
    for pid in (host.agent.pid, host.worker):
        with open(f'/proc/{pid}/smaps_rollup') as f:
            total += next(
                int(line.split()[1]) for line in f if line.startswith('Pss:')
            )
    return total / 1024


def cpu(host: rig.Rig) -> float:
    """Tell the CPU's time of the agent, in seconds."""
    total = 0
    for pid in (host.agent.pid, host.worker):
        with open(f'/proc/{pid}/stat') as f:
            fields = f.read().rpartition(')')[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def settled(host: rig.Rig, api: Any, count: int) -> dict[str, Any]:
    """Wait until so many denials are accounted for; give the status."""
    deadline = time.monotonic() + PATIENCE
    while True:
        status: dict[str, Any] = api.status('cmp1')
        counts = status['counts']
        told = counts['out'] + counts['folded'] + sum(status['lost'].values())
        if told >= count or time.monotonic() > deadline:
            return status
        time.sleep(0.2)


def firsts(host: rig.Rig, name: str, count: int) -> list[float]:
    """Tell how long events took from the kernel's stamp to the confirm.

    :param name: what the names in their denials begin with
    :param count: how many there are
    :returns: milliseconds, sorted
    """

    def found() -> list[Any]:
        return [
            entry
            for entry in host.entries()
            if entry.event_type == 'isolation.violation'
            and entry.payload['denial']['name'].startswith(name)
        ]

    host.wait_until(
        lambda: all(entry.sent for entry in found()), 'all is sent', PATIENCE
    )
    entries = found()
    assert len(entries) == count, len(entries)
    # the kernel's stamp has whole milliseconds
    return sorted(
        (entry.sent - _stamp(entry.payload['denial'])) * 1000
        for entry in entries
    )


def _stamp(denial: dict[str, Any]) -> float:
    return datetime.datetime.fromisoformat(denial['time']).timestamp()


def quiet(host: rig.Rig) -> list[float]:
    """Measure from the kernel's stamp to the broker's confirm: ms."""
    for number in range(FIRSTS):
        host.kernel.deny(f'/etc/{number}', rig.uuid_of(1 + number % GUESTS))
        time.sleep(APART)
    return firsts(host, '/etc/', FIRSTS)


def beside(host: rig.Rig, noisy: int, first: int) -> list[float]:
    """Measure a guest whose first comes just after others began a flood: ms.

    :param noisy: guests that try all the names, one name after the other
    :param first: number of the first of these guests; of each round, others
    """
    kernel, name = host.kernel, f'/beside/{noisy}/'
    for turn in range(ROUNDS):
        guests = [rig.uuid_of(first + turn * noisy + n) for n in range(noisy)]
        for number in range(NAMES):
            guest = guests[number % noisy]
            kernel.send(1400, kernel.denial(f'/tmp/{number}', guest))
        kernel.deny(f'{name}{turn}', rig.uuid_of(GUESTS - turn))
        host.wait_until(lambda: not host.held(), 'all is attributed', PATIENCE)
        time.sleep(1)
    return firsts(host, name, ROUNDS)


def flood(host: rig.Rig, count: int, rate: float, name: str) -> float:
    """Feed denials of distinct names by some guests; give the seconds.

    :param name: what is below /tmp in all names; in each second one other
        guest has its first of a kind, of a name that begins so
    """
    kernel = host.kernel
    guests = [rig.uuid_of(1 + n) for n in range(FLOODING)]
    begun = time.monotonic()
    for start in range(0, count, CHUNK):
        for number in range(start, start + CHUNK):
            guest = guests[number % FLOODING]
            kernel.send(1400, kernel.denial(f'/tmp{name}{number}', guest))
        if start % rate == 0:
            second = int(start / rate)
            other = rig.uuid_of(FLOODING + 1 + second)
            kernel.deny(f'{name}{second}', other)
        ahead = begun + (start + CHUNK) / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
    return time.monotonic() - begun


def stand_in(host: rig.Rig) -> float:
    """Tell what libvirt's test driver has of the agent's memory: MiB.

    It keeps the domains in the process that asks; on a host, libvirtd does.
    """
    measured = subprocess.run(
        [sys.executable, '-c', _STAND_IN, host.libvirt_uri],
        check=True,
        capture_output=True,
        env={**os.environ, 'MALLOC_ARENA_MAX': '2'},
        text=True,
    ).stdout
    return int(measured) / 1024


def quantile(values: list[float], q: float) -> float:
    """Give a quantile of sorted values."""
    return values[min(len(values) - 1, math.ceil(q * len(values)) - 1)]


def laurel() -> tuple[float | None, str]:
    """Measure the peer with a single denial, without what audit adds to it.

    :returns: milliseconds from the record to the event, at most those that
        it was given; None, and why, where there is no such package
    """
    with tempfile.TemporaryDirectory() as home:
        for command in (
            ['apt-get', 'download', '-q', 'laurel'],
            ['sh', '-c', 'dpkg-deb -x laurel_*.deb .'],
        ):
            if subprocess.run(
                command, cwd=home, capture_output=True
            ).returncode:
                return None, 'laurel is not in this Debian'
        log = pathlib.Path(home, 'out/audit.log')
        log.parent.mkdir()
        config = pathlib.Path(home, 'config')
        config.write_text(
            f'directory = "{log.parent}"\n[auditlog]\nfile = "{log.name}"\n'
            f'size = 1000000\ngenerations = 2\n'
        )
        program = subprocess.Popen(
            [f'{home}/usr/sbin/laurel', '-c', str(config)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            time.sleep(1)
            assert program.stdin is not None
            begun = time.monotonic()
            program.stdin.write(
                b'type=AVC msg=' + rig.Kernel().denial('/x', '0') + b'\n'
            )
            program.stdin.flush()
            while time.monotonic() - begun < LAUREL:
                if log.exists() and log.stat().st_size:
                    break
                time.sleep(0.005)
            return (time.monotonic() - begun) * 1000, ''
        finally:
            program.kill()
            program.wait()


def measure(host: rig.Rig) -> list[figures.Figure]:
    """Measure an agent that runs."""
    api = host.api()
    host.wait_until(
        lambda: api.status('cmp1')['guests'] == GUESTS, 'it knows its guests'
    )
    time.sleep(3)
    before = cpu(host)
    time.sleep(QUIET)
    idle = (cpu(host) - before) / QUIET * 100
    fresh = memory(host) - stand_in(host)

    # the verifier finds no process of any of these guests, and says so
    host.wait_until(
        lambda: (
            api.status('cmp1')['counts']['sent'] > GUESTS
            and not api.status('cmp1')['unsent']
        ),
        'it has looked at its guests',
        PATIENCE,
    )
    times = quiet(host)
    by_one = beside(host, 1, FLOODING + SECONDS + 1)
    by_many = beside(host, FLOODING, FLOODING + SECONDS + 1 + ROUNDS)
    settled(host, api, host.kernel.denied)

    fed = host.kernel.denied
    begun = time.monotonic()
    offered = flood(host, RATE * SECONDS, RATE, '/srv/')
    count = host.kernel.denied - fed
    status = settled(host, api, fed + count)
    taken = time.monotonic() - begun
    counts, lost = status['counts'], status['lost']
    told = counts['out'] + counts['folded']
    unaccounted = fed + count - told - sum(lost.values())
    meanwhile = firsts(host, '/srv/', SECONDS)
    apart = stand_in(host)
    first = memory(host) - apart
    # the windows of the first minute end, those of the second are as many
    flood(host, RATE * SECONDS, RATE, '/opt/')
    settled(host, api, host.kernel.denied)
    second = memory(host) - apart
    api.close()

    def figure(what: str, value: float, unit: str, **more: Any) -> Any:
        return figures.Figure('agent', what, value, unit, **more)

    peer, why = laurel()
    name = f'laurel, given {LAUREL:g} s' if peer else None
    return [
        figure(
            'stamp to confirm, first of a kind, p50',
            quantile(times, 0.5),
            'ms',
            most=5,
            peer=name,
            peer_value=peer,
            reason=why,
        ),
        figure(
            'stamp to confirm, first of a kind, p99',
            quantile(times, 0.99),
            'ms',
            most=50,
            reason=why,
        ),
        *(
            figure(f'the same {when}, {which}', value, 'ms', reason=NO_PEER)
            for when, values in (
                (f'just after {NAMES} names of one guest', by_one),
                (f'just after {NAMES} names of {FLOODING} guests', by_many),
                (f'while {FLOODING} guests flood', meanwhile),
            )
            for which, value in (
                ('p50', quantile(values, 0.5)),
                ('most', values[-1]),
            )
        ),
        figure(
            f'events a second for {SECONDS} s, distinct names',
            count / max(taken, offered),
            '/s',
            least=RATE * 0.98,
            reason=NO_PEER,
        ),
        figure('of these, unaccounted for', unaccounted, '', most=0),
        figure('of these, announced as lost', sum(lost.values()), ''),
        figure(f'memory with {GUESTS} guests', fresh, 'MiB', reason=NO_PEER),
        figure('memory after a minute of it', first, 'MiB', most=100),
        figure('memory after two', second, 'MiB', most=100),
        figure('idle, of a core', idle, '%', most=0.5, reason=NO_PEER),
    ]


@contextlib.contextmanager
def running() -> Iterator[rig.Rig]:
    """Run an agent with its guests and a broker."""
    with contextlib.ExitStack() as stack:
        broker = rabbitmq.RabbitMQ()
        broker.setUp()
        stack.callback(broker.cleanUp)
        host = rig.Rig(broker.url, GUESTS, auditd=False)
        host.setUp()
        stack.callback(host.cleanUp)
        host.start()
        yield host


def main() -> None:
    """Measure, and write the figures."""
    with running() as host:
        found = measure(host)
    figures.emit(found)


if __name__ == '__main__':
    main()
