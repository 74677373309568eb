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

"""Starts of servers through Nova, with our driver and with Nova's in turns.

``python3 -m benchmarks.cloud BOOTS [boot] [parser]``, by
:mod:`benchmarks.main`, in ``lab/lab run --with nova``.
"""

import collections.abc
import os
import pathlib
import re
import sys
import time

import lablib

from benchmarks import figures

OURS, STOCK = 'isolation.LibvirtDriver', 'libvirt.LibvirtDriver'
ROUNDS = 2
_SPAWNED = re.compile(
    r'\[instance: ([0-9a-f-]{36})\] Took ([0-9.]+) seconds to spawn'
)

# Stands in the parser's place while its runs are counted; bash reads the
# clock without a process.
RUNS = '/run/parser-runs'
COUNTER = f"""#!/bin/bash
start=${{EPOCHREALTIME/./}}
/usr/sbin/apparmor_parser.real "$@"
status=$?
echo "$((${{EPOCHREALTIME/./}} - start)) us: $*" >> {RUNS}
exit $status"""


def switch(driver: str) -> None:
    """Restart nova-compute with a driver.

    :param driver: as ``[DEFAULT] compute_driver`` takes it
    """
    lablib.guest(
        'printf "[DEFAULT]\\ncompute_driver = %s\\n" '
        f'{driver} > /lab/conf/99-benchmark.conf && '
        'lab-service restart nova-compute',
        check=True,
    )
    before = updated()
    lablib.wait_for(
        f'nova-compute with {driver}',
        lambda: updated() not in (None, before),
        120,
    )


def updated() -> str | None:
    """Tell when nova-compute last said that it lives."""
    _, answer = lablib.call('GET', '/os-services?binary=nova-compute')
    service = answer['services'][0]
    usable = service['state'] == 'up' and service['status'] == 'enabled'
    return str(service['updated_at']) if usable else None


def boot() -> tuple[str, float]:
    """Boot a server with two interfaces.

    :returns: its uuid, and the seconds from the request to ACTIVE
    :raises RuntimeError: when it does not become ACTIVE
    """
    network = {'uuid': os.environ['LAB_NETWORK']}
    start = time.perf_counter()
    status, answer = lablib.create(
        'benchmark', config_drive=True, networks=[network, network]
    )
    if status != 202:
        raise RuntimeError(f'create: {status} {answer}')
    uuid = answer['server']['id']
    server = lablib.settled(uuid, 'ACTIVE')
    taken = time.perf_counter() - start
    if server['status'] != 'ACTIVE':
        raise RuntimeError(f'{server["status"]}: {server.get("fault")}')
    return uuid, taken


def delete(uuid: str) -> None:
    """Delete a server and wait until it is gone."""
    lablib.call('DELETE', f'/servers/{uuid}')
    lablib.gone(uuid)


def turns(
    boots: int, before: collections.abc.Callable[[], object] | None = None
) -> collections.abc.Iterator[tuple[str, str, float]]:
    """Boot servers with both drivers in turns.

    :param boots: of each driver
    :param before: called before each boot
    :returns: driver, uuid and seconds of each, which is deleted after that
    """
    for turn in range(ROUNDS):
        for driver in (OURS, STOCK):
            switch(driver)
            # the first start of a service fills its caches
            delete(boot()[0])
            for _ in range(turn, boots, ROUNDS):
                if before:
                    before()
                uuid, taken = boot()
                yield driver, uuid, taken
                delete(uuid)


def starts(boots: int) -> list[figures.Figure]:
    """Time starts.

    :param boots: of each driver
    """
    taken = list(turns(boots))
    log = pathlib.Path(os.environ['LAB_RUN'], 'compute/nova-compute.log')
    spawned = dict(_SPAWNED.findall(log.read_text(errors='replace')))
    found = []
    for what, values in (
        ("Nova's spawn", [(d, float(spawned[uuid])) for d, uuid, _ in taken]),
        ('request to ACTIVE', [(d, seconds) for d, _, seconds in taken]),
    ):
        ours, stock = (
            figures.quantile([v for d, v in values if d == driver], 0.5)
            for driver in (OURS, STOCK)
        )
        found.append(
            figures.Figure(
                'boot',
                f'{what}, median of {boots}',
                ours,
                's',
                peer(),
                stock,
                most_ratio=1,
            )
        )
    return found


def peer() -> str:
    """Name what we are compared with."""
    libvirt = lablib.guest(['libvirtd', '--version'], check=True).stdout
    return f'Nova alone, {libvirt.split()[-1]} ({os.environ["LAB_IMAGE"]})'


def parser_runs(boots: int = 4) -> list[figures.Figure]:
    """Count and time the parser's runs in a start.

    :param boots: of each driver
    """
    lablib.guest(
        f"""cd /usr/sbin && mv apparmor_parser apparmor_parser.real &&
        cat > apparmor_parser <<'END' && chmod 755 apparmor_parser &&
{COUNTER}
END
        touch {RUNS} && chmod 666 {RUNS}""",
        check=True,
    )
    runs: dict[str, list[list[float]]] = {OURS: [], STOCK: []}
    for driver, _, _ in turns(boots, lambda: lablib.guest(f': > {RUNS}')):
        lines = lablib.guest(['cat', RUNS], check=True).stdout
        print(f'the parser with {driver}:\n{lines}', file=sys.stderr)
        runs[driver].append(
            [float(line.split()[0]) / 1000 for line in lines.splitlines()]
        )
    found = []
    for what, unit, measure in (
        (figures.RUNS, 'runs', len),
        ('their time, in the lab', 'ms', sum),
    ):
        ours, stock = (
            figures.quantile([float(measure(r)) for r in runs[driver]], 0.5)
            for driver in (OURS, STOCK)
        )
        found.append(figures.Figure('parser', what, ours, unit, peer(), stock))
    return found


def main() -> None:
    """Measure what the command line names."""
    boots, *names = sys.argv[1:]
    found = []
    if 'boot' in names:
        found += starts(int(boots))
    if 'parser' in names:
        found += parser_runs()
    figures.emit(found)


if __name__ == '__main__':
    main()
