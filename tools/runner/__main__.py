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

"""Run the tiers named on the command line, all of them without one."""

import collections.abc
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import types

from tools.runner import progress
from tools.runner import report
from tools.runner import streams
from tools.runner import tiers

ROOT = pathlib.Path(__file__).resolve().parents[2]
REPORT = ROOT / 'test-report.json'
ALLOWED_SKIPS = ROOT / 'tools/allowed-skips.txt'


def _interrupt(signum: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _sudo_kept() -> collections.abc.Iterator[None]:
    """Keep what sudo remembers of a password until the lab needs it."""
    done = threading.Event()

    def keep() -> None:
        while not done.wait(60):
            subprocess.run(['sudo', '-n', '-v'], stderr=subprocess.DEVNULL)

    threading.Thread(target=keep, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _run_tier(name: str, context: tiers.Context) -> None:
    try:
        tiers.TIERS[name](context)
    except Exception:
        # Our own fault, and no reason to lose the other tiers.
        context.line.add(
            report.Result(
                '',
                f'{name}: the runner failed',
                report.FAILED,
                traceback.format_exc(),
            )
        )


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in tiers.TIERS]
    if unknown:
        print(f'no such tier: {" ".join(unknown)}; there are:', *tiers.TIERS)
        return 2
    # In the order that tells of a fault soonest.
    chosen = [name for name in tiers.TIERS if not names or name in names]
    allowed = report.AllowedSkips(ALLOWED_SKIPS.read_text())
    # What is there at the end was written by this run.
    REPORT.unlink(missing_ok=True)
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, _interrupt)

    done: list[report.Tier] = []
    with contextlib.ExitStack() as stack:
        if os.geteuid() != 0 and 'system' in chosen:
            stack.enter_context(_sudo_kept())
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(
                prefix='nova-isolation-', ignore_cleanup_errors=True
            )
        )
        scratch = pathlib.Path(directory)
        programs = streams.Programs(ROOT, scratch)
        try:
            for name in chosen:
                print(f'== {name}', flush=True)
                with progress.Line(name) as line:
                    _run_tier(
                        name, tiers.Context(ROOT, scratch, programs, line)
                    )
                    for orphan in programs.end_orphans():
                        line.show(f'{name}: left {orphan} running; ended it')
                tier = report.judge(name, line.seconds, line.results, allowed)
                done.append(tier)
                print(
                    f'{name}: {len(tier.results)} tests, '
                    f'{len(tier.failures)} failed, {tier.seconds:.0f} s',
                    flush=True,
                )
        except KeyboardInterrupt:
            print('\nInterrupted; ending what runs …', flush=True)
            programs.stop()
            return 130

    report.write_json(done, REPORT)
    print()
    for text in (report.skips_text(done), report.failures_text(done)):
        if text:
            print(text)
    print(report.table(done))
    print()
    print(report.totals(done))
    return 0 if report.ok(done) else 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
