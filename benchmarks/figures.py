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

"""What a benchmark gives: figures, each beside its peer's and its goal."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import json
import math
import os
import resource
import sys
import time
from typing import Any

#: So few calls that the scheduler seldom comes between.
BATCH = 20


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured figure.

    :ivar name: of the benchmark, as ``benchmarks/run`` takes it
    :ivar figure: what was measured
    :ivar value: ours
    :ivar unit: of both values
    :ivar peer: what it is compared with, or None
    :ivar peer_value: measured in the same run, or None
    :ivar most: the goal: the most that the value may be
    :ivar most_ratio: the goal: the most that it may be of the peer's
    :ivar least: the goal: the least that the value may be
    :ivar least_ratio: the goal: the least that it may be of the peer's
    :ivar reason: why there is no peer
    """

    name: str
    figure: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    most: float | None = None
    most_ratio: float | None = None
    least: float | None = None
    least_ratio: float | None = None
    reason: str = ''

    @property
    def ratio(self) -> float | None:
        """Our value divided by the peer's."""
        return self.value / self.peer_value if self.peer_value else None

    @property
    def goal(self) -> str | None:
        """The goal in words."""
        if self.most is not None:
            return f'value <= {self.most:g} {self.unit}'
        if self.most_ratio is not None:
            return f'ratio <= {self.most_ratio:g}'
        if self.least is not None:
            return f'value >= {self.least:g} {self.unit}'
        if self.least_ratio is not None:
            return f'ratio >= {self.least_ratio:g}'
        return None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one, or without peer."""
        if self.most is not None:
            return self.value <= self.most
        if self.most_ratio is not None and self.ratio is not None:
            return self.ratio <= self.most_ratio
        if self.least is not None:
            return self.value >= self.least
        if self.least_ratio is not None and self.ratio is not None:
            return self.ratio >= self.least_ratio
        return None

    def report(self) -> dict[str, Any]:
        """Give the figure as design says it is written."""
        return {
            'name': self.name,
            'figure': self.figure,
            'value': self.value,
            'unit': self.unit,
            'peer': self.peer,
            'peer_value': self.peer_value,
            'ratio': self.ratio,
            'goal': self.goal,
            'met': self.met,
        }


#: the figures of which :func:`of_a_start` is made
RUNS = 'runs of the parser in a start'
COMPILED = 'a profile, with the start of the parser, median'


def of_a_start(found: Sequence[Figure]) -> list[Figure]:
    """Tell what the parser costs a start where processes cost what they do.

    :param found: all figures
    :returns: one, of the runs that were counted in the lab and what one of
        them takes natively; none where one of both is not among them
    """
    by_name = {f.figure: f for f in found}
    if not {RUNS, COMPILED} <= by_name.keys():
        return []
    runs, one = by_name[RUNS], by_name[COMPILED]
    stock = None
    if runs.peer_value and one.peer_value:
        stock = runs.peer_value * one.peer_value
    return [
        Figure(
            'parser',
            "that many of compile's medians",
            runs.value * one.value,
            'ms',
            one.peer,
            stock,
            most_ratio=0.2,
            reason=one.reason,
        )
    ]


def emit(figures: Iterable[Figure]) -> None:
    """Write figures where :mod:`benchmarks.main` reads them.

    :param figures: of one part of the benchmarks
    """
    json.dump([dataclasses.asdict(f) for f in figures], sys.stdout)
    print()


def table(figures: Sequence[Figure]) -> str:
    """Lay out figures for people.

    :param figures: in the order of the table
    :returns: lines of text
    """
    heads = ('figure', 'ours', 'peer', '', 'ratio', 'goal', 'met')
    rows = [heads]
    for f in figures:
        rows.append(
            (
                f'{f.name}: {f.figure}',
                f'{_short(f.value)} {f.unit}',
                f'{_short(f.peer_value)} {f.unit}' if f.peer_value else '-',
                f.peer or f.reason,
                _short(f.ratio) if f.ratio else '-',
                f.goal or '-',
                {True: 'yes', False: 'NO', None: '-'}[f.met],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(
        '  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
        for row in rows
    )


def _short(value: float | None) -> str:
    return (
        '-'
        if value is None
        else f'{value:.3g}'
        if value < 100
        else (f'{value:.0f}')
    )


def consumed() -> float:
    """Tell the CPU's time of this process and of those that it waited for.

    What else the machine does is not in it.

    :returns: seconds
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def alternate(
    count: int,
    *functions: Callable[[], object],
    clock: Callable[[], float] = consumed,
) -> list[list[float]]:
    """Time functions in turns, so that what changes on the machine hits all.

    :param count: how often each
    :param functions: each called once before, to fill caches
    :param clock: gives seconds
    :returns: the milliseconds of each call, for each function
    """
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(count):
        for function, taken in zip(functions, times, strict=True):
            start = clock()
            function()
            taken.append((clock() - start) * 1000)
    return times


def quantile(values: Sequence[float], part: float) -> float:
    """Tell the value that this part of all does not exceed.

    :param values: at least one
    :param part: 0.5 is the median, 0.95 the p95
    """
    return sorted(values)[math.ceil(part * len(values)) - 1]


def idle_calls(null: int, count: int = BATCH) -> None:
    """Make two system calls that do nothing, over and over.

    :param null: a descriptor of /dev/null
    :param count: how often
    """
    for _ in range(count):
        os.write(null, b'')
        os.pread(null, 256, 0)
