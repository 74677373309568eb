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

"""What came of the tests: the verdict, the table and test-report.json."""

import collections.abc
import dataclasses
import json
import pathlib
import re
import typing

PASSED = 'passed'
FAILED = 'failed'
SKIPPED = 'skipped'

_LINE = 2000  # characters of one line that a failure shows
_COLUMNS = ('tier', 'tests run', 'passed', 'failed', 'skipped', 'seconds')


@dataclasses.dataclass(frozen=True)
class Result:
    """One test, or one program that failed without a test having failed.

    :param run: the run within the tier: ``threads``, ``main-job/trixie``; it
        tells apart tests that are run more than once
    :param test: the test's id
    :param status: ``passed``, ``failed`` or ``skipped``
    :param detail: traceback, reason or output
    """

    run: str
    test: str
    status: str
    detail: str = ''

    @property
    def title(self) -> str:
        return f'[{self.run}] {self.test}' if self.run else self.test


class AllowedSkips:
    """The tests that may be skipped.

    One a line: the test's id, in which ``*`` stands for any text, white space,
    and the reason. An entry without a reason is refused.

    :param text: the content of tools/allowed-skips.txt
    """

    def __init__(self, text: str) -> None:
        self._patterns: list[re.Pattern[str]] = []
        for line in text.splitlines():
            line = line.strip()
            if not line or line.startswith('#'):
                continue
            test, _, reason = line.partition(' ')
            if not reason.strip():
                raise ValueError(f'allowed skip without a reason: {test}')
            pattern = '.*'.join(re.escape(part) for part in test.split('*'))
            self._patterns.append(re.compile(pattern))

    def __contains__(self, test: object) -> bool:
        return any(pattern.fullmatch(str(test)) for pattern in self._patterns)


@dataclasses.dataclass
class Tier:
    """A tier that was run.

    :param name: ``unit``, ``functional``, ``system`` or ``style``
    :param seconds: how long it took
    :param results: judged: every skip among them is an allowed one
    """

    name: str
    seconds: float
    results: list[Result]

    def count(self, status: str) -> int:
        return sum(result.status == status for result in self.results)

    @property
    def failures(self) -> list[Result]:
        return [r for r in self.results if r.status == FAILED]

    @property
    def ok(self) -> bool:
        return not self.failures and self.count(PASSED) > 0

    def as_json(self) -> dict[str, typing.Any]:
        return {
            'name': self.name,
            'run': len(self.results),
            'passed': self.count(PASSED),
            'failed': self.count(FAILED),
            'skipped': self.count(SKIPPED),
            'seconds': round(self.seconds, 1),
        }


def judge(
    name: str,
    seconds: float,
    results: collections.abc.Iterable[Result],
    allowed: AllowedSkips,
) -> Tier:
    """Decide what counts as a failure.

    A skip that nobody allowed is one, and so is a tier in which no test ran.

    :param name: the tier
    :param seconds: how long it took
    :param results: what was read from the streams
    :param allowed: the tests that may be skipped
    :returns: the tier
    """
    judged = []
    for result in results:
        if result.status == SKIPPED and result.test not in allowed:
            result = dataclasses.replace(
                result,
                status=FAILED,
                detail=(
                    f'skipped: {result.detail.strip() or "no reason given"}\n'
                    'Not in tools/allowed-skips.txt, so it is a failure.'
                ),
            )
        judged.append(result)
    if not any(result.status != SKIPPED for result in judged):
        judged.append(
            Result(
                '', f'{name}: no test was run', FAILED, 'The tier is empty.'
            )
        )
    return Tier(name, seconds, judged)


def ok(tiers: collections.abc.Sequence[Tier]) -> bool:
    return bool(tiers) and all(tier.ok for tier in tiers)


def write_json(
    tiers: collections.abc.Sequence[Tier], path: pathlib.Path
) -> None:
    """Write test-report.json, whole or not at all."""
    partial = path.with_name(f'.{path.name}.partial')
    content = {
        'ok': ok(tiers),
        'tiers': [tier.as_json() for tier in tiers],
    }
    partial.write_text(json.dumps(content, indent=2) + '\n')
    partial.replace(path)


def failures_text(tiers: collections.abc.Sequence[Tier]) -> str:
    """Every failure with its id and what it said."""
    parts = []
    for tier in tiers:
        for result in tier.failures:
            parts.append('=' * 70)
            parts.append(f'FAILED {tier.name} {result.title}')
            parts.append('-' * 70)
            detail = result.detail.strip() or '(nothing was said)'
            parts += [_shortened(line) for line in detail.splitlines()]
            parts.append('')
    return '\n'.join(parts)


def skips_text(tiers: collections.abc.Sequence[Tier]) -> str:
    """Every allowed skip with its id and its reason."""
    lines = []
    for tier in tiers:
        for result in tier.results:
            if result.status == SKIPPED:
                lines.append(f'SKIPPED {tier.name} {result.title}')
                lines += [
                    f'  {_shortened(line)}'
                    for line in result.detail.strip().splitlines()
                ]
                lines.append('')
    return '\n'.join(lines)


def _shortened(line: str) -> str:
    if len(line) <= _LINE:
        return line
    return f'{line[:_LINE]} … ({len(line) - _LINE} more characters)'


def table(tiers: collections.abc.Sequence[Tier]) -> str:
    rows = [_COLUMNS]
    for tier in tiers:
        counts = tier.as_json()
        rows.append(
            (
                tier.name,
                str(counts['run']),
                str(counts['passed']),
                str(counts['failed']),
                str(counts['skipped']),
                f'{tier.seconds:.0f}',
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [
            cell.rjust(width)
            for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        lines.append('  '.join(cells))
    lines.insert(1, '  '.join('-' * width for width in widths))
    return '\n'.join(lines)


def totals(tiers: collections.abc.Sequence[Tier]) -> str:
    """The last line on the terminal."""
    passed = sum(tier.count(PASSED) for tier in tiers)
    failed = sum(tier.count(FAILED) for tier in tiers)
    return f'{passed} passed, {failed} failed'
