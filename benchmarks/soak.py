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

"""What an hour's worth of flood leaves in the agent's memory.

``python3 -m benchmarks.soak [MINUTES]``, by :mod:`benchmarks.main` when it is
named: it takes half an hour. The denials are offered as quickly as they can be
made; where the machine is busy it takes longer, for the agent gets as many in
any case.
"""

import math
import sys
import time

from benchmarks import agent
from benchmarks import figures
from nova_isolation.tests.functional.agent import rig

MINUTES = 60
# Seconds after the flood: its last windows have ended, and are sent.
AFTER = 90


def measure(host: rig.Rig, minutes: int) -> list[figures.Figure]:
    """Flood an agent that runs, and look at its memory.

    :param minutes: the denials are those of so many at :data:`agent.RATE`
    """
    share = agent.RATE * 60
    api = host.api()
    host.wait_until(
        lambda: api.status('cmp1')['guests'] == agent.GUESTS, 'it has guests'
    )
    time.sleep(5)
    count, sizes = 0, []
    for minute in range(minutes):
        agent.flood(host, share, math.inf, f'/srv/{minute}/')
        count += host.kernel.denied
        # of the whole hour they do not fit here
        host.kernel.fed.clear()
        agent.settled(host, api, count)
        sizes.append(agent.memory(host) - agent.stand_in(host))
        print(f'minute {minute + 1}: {sizes[-1]:.1f} MiB', file=sys.stderr)
    time.sleep(AFTER)
    left = agent.memory(host) - agent.stand_in(host)
    status = agent.settled(host, api, count)
    api.close()
    counts, lost = status['counts'], sum(status['lost'].values())

    def figure(
        what: str, value: float, unit: str, most: float | None = None
    ) -> figures.Figure:
        return figures.Figure(
            'soak', what, value, unit, most=most, reason=agent.NO_PEER
        )

    return [
        figure('denials of distinct names', count, ''),
        figure(
            'of these, unaccounted for',
            count - counts['out'] - counts['folded'] - lost,
            '',
            most=0,
        ),
        figure('of these, announced as lost', lost, ''),
        figure('memory after a minute of it', sizes[0], 'MiB', most=100),
        figure('memory, most', max(sizes), 'MiB', most=100),
        figure(f'memory after {minutes} minutes', sizes[-1], 'MiB', most=100),
        figure(f'memory {AFTER} s after that', left, 'MiB', most=100),
    ]


def main() -> None:
    """Measure, and write the figures."""
    minutes = int(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    with agent.running() as host:
        found = measure(host, minutes)
    figures.emit(found)


if __name__ == '__main__':
    main()
