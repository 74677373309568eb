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

"""Tells the main job as a story; tools/demo.sh runs it beside the lab's Nova.

Called as ``python tools/demo.py REPORT STEPS STARTED``: STEPS holds the steps
that were done before, as JSON lines; STARTED is when the lab was started, in
seconds since the epoch. REPORT gets all steps: ``{"ok", "seconds", "steps":
[{"name", "ok", "seconds", "evidence"}]}``.
"""

import json
import pathlib
import sys
import textwrap
import time
import traceback
from typing import Any

from nova_isolation.tests.system import main_job

Step = dict[str, Any]


def tell(number: int, name: str) -> None:
    """Announce a step."""
    print(f'\n{number:2}. {name[0].upper()}{name[1:]} …', flush=True)


def show(step: Step) -> None:
    """Show what was observed."""
    mark = 'observed' if step['ok'] else 'NOT OBSERVED'
    print(
        textwrap.indent(
            textwrap.fill(step['evidence'], 100, break_on_hyphens=False),
            '      ',
        )
    )
    print(f'      [{mark}, {step["seconds"]:.1f} s]', flush=True)


def run(done: list[Step], started: float) -> list[Step]:
    """Run the main job until a step is not observed.

    :param done: the steps before
    :param started: when the first step of the job began, seconds since the
        epoch: the lab's start belongs to it
    :returns: all steps
    """
    steps = list(done)
    start = time.monotonic() - (time.time() - started)
    job = main_job.MainJob()
    try:
        for name, function in job.steps():
            if len(steps) > len(done):
                tell(len(steps) + 1, name)
                start = time.monotonic()
            try:
                ok, evidence = True, function()
            except Exception as e:
                traceback.print_exc()
                ok, evidence = False, f'{type(e).__name__}: {e}'
            seconds = round(time.monotonic() - start, 2)
            steps.append(
                {
                    'name': name,
                    'ok': ok,
                    'seconds': seconds,
                    'evidence': evidence,
                }
            )
            show(steps[-1])
            if not ok:
                break
    finally:
        job.close()
    return steps


def main(arguments: list[str]) -> int:
    """Tell the story.

    :returns: 0 when every step was observed
    """
    report, before = map(pathlib.Path, arguments[:2])
    done = [json.loads(line) for line in before.read_text().splitlines()]
    steps = run(done, float(arguments[2]))
    ok = all(step['ok'] for step in steps)
    seconds = round(sum(step['seconds'] for step in steps), 2)
    report.write_text(
        json.dumps({'ok': ok, 'seconds': seconds, 'steps': steps}, indent=2)
        + '\n'
    )
    return 0 if ok else 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
