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

"""Starts the programs of a tier and reads their results while they run."""

import collections.abc
import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time
import typing

import subunit
import testtools

from tools.runner import report

_PR_SET_CHILD_SUBREAPER = 36
_KILL_AFTER = 20  # seconds that a program has to end after SIGTERM
_OUTPUT_LINES = 200  # how much of a program's own output a failure shows

_FINAL = {
    'success': report.PASSED,
    'xfail': report.PASSED,
    'fail': report.FAILED,
    'uxsuccess': report.FAILED,
    'skip': report.SKIPPED,
}

_HOOK = re.compile(
    r'(?P<name>\S.*?)\.{3,}(?:\(.*\))?(?P<status>Passed|Failed|Skipped)'
)
_HOOK_STATUS = {
    'Passed': report.PASSED,
    'Failed': report.FAILED,
    'Skipped': report.SKIPPED,
}

OnResult = collections.abc.Callable[[report.Result], None]


@dataclasses.dataclass(frozen=True)
class Program:
    """A program to start.

    :param run: what its results are told apart by, see report.Result
    :param argv: command line
    :param environ: what its environment has beside ours
    :param limit: seconds after which it is ended
    """

    run: str
    argv: tuple[str, ...]
    environ: dict[str, str] = dataclasses.field(default_factory=dict)
    limit: float = 3600


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a program ended.

    :param status: exit status, or the signal's number, negative
    :param expired: it was ended at its limit
    :param output: what it wrote beside its results, the end of it
    """

    status: int
    expired: bool
    output: str

    @property
    def cause(self) -> str:
        if self.expired:
            return 'ended at its limit'
        if self.status < 0:
            return f'killed by {signal.Signals(-self.status).name}'
        return f'exit status {self.status}'


class Programs:
    """The programs that run now, so that an interrupt can end them all.

    :param root: the checkout, their working directory
    :param scratch: a directory for their output
    """

    def __init__(self, root: pathlib.Path, scratch: pathlib.Path) -> None:
        self._root = root
        self._scratch = scratch
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopping = False
        self._count = 0
        # What a test leaves behind (a broker that became a daemon) becomes
        # our child and is found by end_orphans().
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def run(
        self,
        program: Program,
        read: collections.abc.Callable[[typing.IO[bytes]], None] | None = None,
    ) -> Ended:
        """Run a program to its end.

        :param program: what to start
        :param read: is given its standard output; without it, that is output
            like standard error
        """
        with self._lock:
            self._count += 1
            log = self._scratch / f'{self._count}.output'
        with open(log, 'wb') as output:
            with self._lock:
                if self._stopping:
                    return Ended(-signal.SIGTERM, False, '')
                process = subprocess.Popen(
                    program.argv,
                    cwd=self._root,
                    env=os.environ | program.environ,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if read else output,
                    stderr=output,
                    # Not a session of its own: what sudo remembers belongs
                    # to the terminal.
                    process_group=0,
                )
                self._running.add(process)
            expired = threading.Event()

            def expire() -> None:
                expired.set()
                _end(process)

            timer = threading.Timer(program.limit, expire)
            timer.start()
            try:
                if read:
                    assert process.stdout is not None
                    with process.stdout:
                        read(process.stdout)
                status = process.wait()
            finally:
                timer.cancel()
                with self._lock:
                    self._running.discard(process)
        lines = log.read_text(errors='replace').splitlines()
        return Ended(
            status, expired.is_set(), '\n'.join(lines[-_OUTPUT_LINES:])
        )

    def stop(self) -> None:
        """End everything; nothing new is started any more."""
        with self._lock:
            self._stopping = True
            running = list(self._running)
        threads = [
            threading.Thread(target=_end, args=(process,))
            for process in running
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.end_orphans()

    def end_orphans(self) -> list[str]:
        """End the processes that ended programs left behind.

        Called when no program runs: those of one that runs are its own.

        :returns: their names
        """
        names = []
        for sign in (signal.SIGTERM, signal.SIGKILL):
            children = list(_children())
            for pid, name in children:
                names.append(name)
                _signal(pid, sign)
            deadline = time.monotonic() + 5
            while children and time.monotonic() < deadline:
                time.sleep(0.05)
                children = list(_children())
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        return sorted(set(names))


def _children() -> collections.abc.Iterator[tuple[int, str]]:
    for entry in pathlib.Path('/proc').glob('[0-9]*/stat'):
        try:
            head, _, tail = entry.read_text().rpartition(')')
        except OSError:
            continue
        state, parent = tail.split()[:2]
        if int(parent) == os.getpid() and state != 'Z':
            yield int(entry.parent.name), head.partition('(')[2]


def _signal(pid: int, sign: signal.Signals) -> None:
    """Send a signal to a process, or with a negative number to a group."""
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        pass
    except PermissionError:
        # The lab goes on as root.
        subprocess.run(
            ['sudo', '-n', 'kill', f'-{sign.name}', '--', str(pid)],
            stderr=subprocess.DEVNULL,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        _signal(-process.pid, sign)
        deadline = time.monotonic() + _KILL_AFTER
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)


class _Collector(testtools.StreamResult):
    """Turns the events of a subunit stream into results."""

    def __init__(self, run: str, on_result: OnResult) -> None:
        super().__init__()
        self._run = run
        self._on_result = on_result
        self._details: dict[str, dict[str, bytes]] = {}
        self.stray = b''

    def status(
        self,
        test_id: str | None = None,
        test_status: str | None = None,
        *args: typing.Any,
        file_name: str | None = None,
        file_bytes: bytes | None = None,
        **kwargs: typing.Any,
    ) -> None:
        if test_id is None:
            # A worker printed into the stream.
            self.stray += bytes(file_bytes or b'')
            return
        if test_status == 'exists':
            return
        details = self._details.setdefault(test_id, {})
        if file_name:
            details[file_name] = details.get(file_name, b'') + bytes(
                file_bytes or b''
            )
        if test_status in _FINAL:
            del self._details[test_id]
            self._on_result(
                report.Result(
                    self._run,
                    test_id,
                    _FINAL[test_status],
                    _detail_text(test_status, details),
                )
            )

    def unfinished(self) -> None:
        for test_id, details in self._details.items():
            text = 'The test did not finish.\n' + _detail_text('', details)
            self._on_result(
                report.Result(self._run, test_id, report.FAILED, text)
            )


def _detail_text(status: str, details: dict[str, bytes]) -> str:
    if status == 'success':
        return ''
    parts = []
    # The traceback last: it is what one looks for at the end of the screen.
    for name in sorted(details, key=lambda name: 'traceback' in name):
        text = details[name].decode(errors='replace').strip()
        if not text:
            continue
        lines = text.splitlines()
        if 'traceback' not in name and len(lines) > _OUTPUT_LINES:
            omitted = len(lines) - _OUTPUT_LINES
            lines = [f'({omitted} lines omitted)', *lines[-_OUTPUT_LINES:]]
        if 'traceback' not in name and name != 'reason':
            lines.insert(0, f'{name}: {{{{{{')
            lines.append('}}}')
        parts.append('\n'.join(lines))
    if status == 'uxsuccess':
        parts.append('passed, but was expected to fail')
    return '\n'.join(parts)


class _Watch:
    """Passes results on and remembers whether one failed."""

    def __init__(self, on_result: OnResult) -> None:
        self._on_result = on_result
        self.failed = False

    def __call__(self, result: report.Result) -> None:
        self.failed = self.failed or result.status == report.FAILED
        self._on_result(result)

    def end(self, program: Program, ended: Ended, output: str = '') -> None:
        """A program that fails without a failed test is a failure itself."""
        if (ended.status == 0 and not ended.expired) or self.failed:
            return
        name = f'{program.run or os.path.basename(program.argv[0])}'
        text = f'{" ".join(program.argv)}: {ended.cause}\n'
        text += f'{output}\n{ended.output}'
        self._on_result(
            report.Result(
                program.run, f'{name}: {ended.cause}', report.FAILED, text
            )
        )


def run_subunit(
    programs: Programs, program: Program, on_result: OnResult
) -> None:
    """Run a program that writes a subunit stream to its output.

    :param programs: where it runs
    :param program: the program
    :param on_result: called for each test when it ends
    """
    watch = _Watch(on_result)
    collector = _Collector(program.run, watch)

    def read(stream: typing.IO[bytes]) -> None:
        subunit.ByteStreamToStreamResult(
            stream, non_subunit_name='output'
        ).run(collector)

    ended = programs.run(program, read)
    collector.unfinished()
    watch.end(program, ended, collector.stray.decode(errors='replace'))


def run_lab(
    programs: Programs,
    program: Program,
    results: pathlib.Path,
    on_result: OnResult,
) -> Ended:
    """Run a program that leaves results as inlab.py writes them.

    :param programs: where it runs
    :param program: the program
    :param results: the file with a JSON object per line
    :param on_result: called for each test after the program ended
    :returns: how it ended
    """
    watch = _Watch(on_result)
    ended = programs.run(program)
    started: dict[str, None] = {}
    if results.exists():
        for line in results.read_text(errors='replace').splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                # Cut off where the machine died.
                continue
            test = record['test']
            if record['status'] == 'started':
                started[test] = None
                continue
            started.pop(test, None)
            watch(
                report.Result(
                    program.run, test, record['status'], record['detail']
                )
            )
    for test in started:
        watch(
            report.Result(
                program.run,
                test,
                report.FAILED,
                f'The test did not finish: {ended.cause}\n{ended.output}',
            )
        )
    watch.end(program, ended)
    return ended


def run_hooks(
    programs: Programs, program: Program, on_result: OnResult
) -> None:
    """Run pre-commit; each of its hooks is a test.

    :param programs: where it runs
    :param program: the program
    :param on_result: called for each hook
    """
    watch = _Watch(on_result)
    current: re.Match[str] | None = None
    detail: list[str] = []

    def flush() -> None:
        if current:
            status = _HOOK_STATUS[current['status']]
            watch(
                report.Result(
                    program.run, current['name'], status, '\n'.join(detail)
                )
            )
        elif any(detail):
            stray.extend(detail)
        detail.clear()

    stray: list[str] = []

    def read(stream: typing.IO[bytes]) -> None:
        nonlocal current
        for raw in stream:
            line = raw.decode(errors='replace').rstrip('\n')
            match = _HOOK.fullmatch(line)
            if match:
                flush()
                current = match
                if match['status'] == 'Passed':
                    # Nothing follows: tell it at once.
                    flush()
                    current = None
            else:
                detail.append(line)

    ended = programs.run(program, read)
    flush()
    watch.end(program, ended, '\n'.join(stray))
