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

"""What a build tells the person who waits for it: each step with its seconds,
and a failing step with its log.
"""

import collections.abc
import contextlib
import pathlib
import subprocess
import sys
import time
import typing

from host.errors import LabError

TAIL = 25  # lines of a log that are shown when something failed


def say(text: str) -> None:
    """One line for the person at the terminal; stdout belongs to the command
    that runs in the lab.
    """
    print(text, file=sys.stderr, flush=True)


def tail(log: pathlib.Path, lines: int = TAIL) -> str:
    """The end of a log, indented."""
    try:
        text = log.read_text(errors='replace')
    except OSError as e:
        return f'  | ({e})'
    return '\n'.join('  | ' + line for line in text.splitlines()[-lines:])


def with_tail(text: str, log: pathlib.Path) -> str:
    """A message followed by the end of a log."""
    return f'{text}\n{tail(log)}'


class Steps:
    """The steps of one layer's build.

    :param title: stands before the name of each step: `trixie`.
    :param logs: directory that gets one log per step.
    """

    def __init__(self, title: str, logs: pathlib.Path) -> None:
        self.title = title
        self.logs = logs

    @contextlib.contextmanager
    def step(self, name: str) -> collections.abc.Iterator['Step']:
        """Run the body as one step; when it fails, name its log and show its
        end.
        """
        path = self.logs / (name.replace(' ', '-') + '.log')
        start = time.monotonic()
        say(f'   …      {self.title}: {name}')
        with path.open('w') as log:
            try:
                yield Step(log)
            except (subprocess.SubprocessError, OSError, LabError) as e:
                log.flush()
                text = f'{self.title}: step "{name}" failed: {e}; {path}:'
                raise LabError(with_tail(text, path)) from e
        say(f'{time.monotonic() - start:6.1f} s  {self.title}: {name}')


class Step:
    """One step of a build: runs commands with their output in the step's
    log.
    """

    def __init__(self, log: typing.TextIO) -> None:
        self._log = log

    def note(self, text: str) -> None:
        """Write a line into the step's log."""
        self._log.write(f'# {text}\n')
        self._log.flush()

    def run(
        self,
        command: collections.abc.Sequence[str | pathlib.Path],
        *,
        cwd: pathlib.Path | None = None,
        env: collections.abc.Mapping[str, str] | None = None,
        limit: float | None = None,
    ) -> None:
        """Run a command; a status other than 0 fails the step, and so does a
        command that runs for longer than its limit, in seconds.
        """
        argv = [str(word) for word in command]
        self._log.write(f'+ {" ".join(argv)}\n')
        self._log.flush()
        subprocess.run(
            argv,
            check=True,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            timeout=limit,
        )
