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

"""What belongs to each tier."""

import collections.abc
import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import pathlib
import shlex
import sys

from tools.runner import progress
from tools.runner import report
from tools.runner import streams

SYSTEM_RUNS = 'tools/system-runs.txt'

# The functional tests that are not repeated under eventlet: those that never
# touch Nova (the agent runs native threads only), those of devices unless
# changes meet, and what a constructor says.
NOT_UNDER_EVENTLET = (
    r'\.functional\.(agent\.|audit\.|violations\.|'
    r'virt\.test_devices\.(?!AtOnce)|virt\.test_modes\.WrongConfiguration)'
)

# What runs the test modules in the lab; -P, because the runner's own modules
# are none of theirs. With Nova it is a program beside the machine, on the
# controller's side; else one on the machine, where /src is the checkout and
# /share the shared directory.
INLAB = 'tools/runner/inlab.py'
RESULTS = 'results.jsonl'


@dataclasses.dataclass(frozen=True)
class Context:
    """What a tier is given.

    :param root: the checkout
    :param scratch: a directory that goes at the end
    :param programs: starts programs
    :param line: the line that shows how far it is
    """

    root: pathlib.Path
    scratch: pathlib.Path
    programs: streams.Programs
    line: progress.Line


@dataclasses.dataclass(frozen=True)
class SystemRun:
    """One start of the lab.

    :param name: told in the results
    :param image: the lab's image
    :param arguments: further arguments of ``lab/lab run``
    :param modules: test modules
    """

    name: str
    image: str
    arguments: tuple[str, ...]
    modules: tuple[str, ...]

    @property
    def title(self) -> str:
        return f'{self.image}/{self.name}'

    def argv(self, root: pathlib.Path, share: pathlib.Path) -> list[str]:
        """The command line.

        :param root: the checkout
        :param share: the directory that gets the results
        """
        argv = [str(root / 'lab/lab'), 'run', '--image', self.image]
        argv += ['--share', str(share), *self.arguments, '--']
        if ('--with', 'nova') in itertools.pairwise(self.arguments):
            argv += [sys.executable, '-P', str(root / INLAB)]
            argv += [str(share / RESULTS)]
        else:
            argv += ['python3', '-P', f'/src/{INLAB}', f'/share/{RESULTS}']
        return [*argv, *self.modules]


def read_system_runs(text: str) -> list[SystemRun]:
    """Read tools/system-runs.txt.

    :param text: its content; the file says what stands in a line
    :returns: the runs, one for each image of each line
    """
    runs = []
    for line in text.splitlines():
        fields = shlex.split(line, comments=True)
        if not fields:
            continue
        if len(fields) < 4:
            raise ValueError(f'{SYSTEM_RUNS}: fewer than 4 fields: {line}')
        name, images, arguments, *modules = fields
        runs += [
            SystemRun(
                name, image, tuple(shlex.split(arguments)), tuple(modules)
            )
            for image in images.split(',')
        ]
    return runs


def _stestr(
    context: Context,
    run: str,
    test_path: str,
    *arguments: str,
    environ: dict[str, str] | None = None,
) -> None:
    # A repository of its own: runs in one checkout do not meet.
    repository = context.scratch / f'stestr-{run}'
    repository.mkdir()
    program = streams.Program(
        run,
        (
            sys.executable,
            '-m',
            'stestr.cli',
            '--repo-url',
            str(repository),
            '--test-path',
            test_path,
            'run',
            '--subunit',
            *arguments,
        ),
        environ={
            'OS_STDOUT_CAPTURE': '1',
            'OS_STDERR_CAPTURE': '1',
            'OS_TEST_TIMEOUT': '600',
            **(environ or {}),
        },
    )
    streams.run_subunit(context.programs, program, context.line.add)


def unit(context: Context) -> None:
    """The pure parts, and the tools' own tests."""
    context.line.run = 'all'
    _stestr(context, 'unit', './nova_isolation/tests/unit')
    _stestr(context, 'tools', './tools/tests')
    if (context.root / 'lab/tests/__init__.py').exists():
        _stestr(context, 'lab', './lab/tests')


def functional(context: Context) -> None:
    """Nova in one process: with native threads, and under eventlet."""
    path = './nova_isolation/tests/functional'
    variable = 'OS_NOVA_DISABLE_EVENTLET_PATCHING'
    context.line.run = 'threads and eventlet'
    # side by side: much of both is waiting
    with _pool(context, 2) as pool:
        runs = [
            pool.submit(
                _stestr, context, 'threads', path, environ={variable: 'true'}
            ),
            pool.submit(
                _stestr,
                context,
                'eventlet',
                path,
                '--exclude-regex',
                NOT_UNDER_EVENTLET,
                environ={variable: 'false'},
            ),
        ]
        for run in runs:
            run.result()


@contextlib.contextmanager
def _pool(
    context: Context, workers: int
) -> collections.abc.Iterator[concurrent.futures.ThreadPoolExecutor]:
    """Threads, each of which runs a program; an error ends them all."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            yield pool
        except BaseException:
            # Before the pool waits for its threads.
            context.programs.stop()
            pool.shutdown(cancel_futures=True)
            raise


def system(context: Context) -> None:
    """A real kernel, in the lab: two machines per core at a time.

    Each waits for something a good part of its time; a third one would gain
    nothing.

    An image that cannot be built is a skip of its runs; it is a failure unless
    it is allowed like any other.
    """
    runs = read_system_runs((context.root / SYSTEM_RUNS).read_text())
    context.line.run = 'lab build'
    for image, cause in _build(context, {run.image for run in runs}).items():
        titles = ', '.join(run.title for run in runs if run.image == image)
        reason = f'not run: {titles}\n{cause}'
        context.line.add(
            report.Result('', f'lab-build-{image}', report.SKIPPED, reason),
            show=True,
        )
        runs = [run for run in runs if run.image != image]
    context.line.run = f'0 of {len(runs)} runs ended'
    machines = 2 * len(os.sched_getaffinity(0))
    with _pool(context, machines) as pool:
        futures = [pool.submit(_system_run, context, run) for run in runs]
        # what the lab itself promises of its runs
        checks = pool.submit(_stestr, context, 'lab-run', './lab/checks')

        def show_ended(_: object) -> None:
            ended = sum(future.done() for future in futures)
            context.line.run = f'{ended} of {len(runs)} runs ended'

        for future in futures:
            future.add_done_callback(show_ended)
        for run, future in zip(runs, futures, strict=True):
            results, output = future.result()
            context.line.show(f'-- {run.title}')
            for result in results:
                context.line.add(result, show=True)
            if any(r.status == report.FAILED for r in results):
                # Where its logs are; the tracebacks come at the end.
                for text in output.splitlines():
                    if text.startswith('lab: '):
                        context.line.show(text)
        checks.result()


def _build(
    context: Context, images: collections.abc.Collection[str]
) -> dict[str, str]:
    """Build the lab's images, side by side.

    :returns: the images that could not be built, and why
    """
    lab = str(context.root / 'lab/lab')
    with _pool(context, len(images)) as pool:
        builds = {
            image: pool.submit(
                context.programs.run,
                streams.Program(image, (lab, 'build', image), limit=1500),
            )
            for image in sorted(images)
        }
        ended = {image: build.result() for image, build in builds.items()}
    return {
        image: f'lab/lab build {image}: {end.cause}\n{end.output}'
        for image, end in ended.items()
        if end.status or end.expired
    }


def _system_run(
    context: Context, run: SystemRun
) -> tuple[list[report.Result], str]:
    share = context.scratch / run.title.replace('/', '-')
    share.mkdir()
    program = streams.Program(run.title, tuple(run.argv(context.root, share)))
    results: list[report.Result] = []
    ended = streams.run_lab(
        context.programs, program, share / RESULTS, results.append
    )
    return results, ended.output


def style(context: Context) -> None:
    """Every hook of .pre-commit-config.yaml is a test."""
    program = streams.Program(
        '',
        (
            sys.executable,
            '-m',
            'pre_commit',
            'run',
            '--all-files',
            '--color=never',
        ),
        environ={'PRE_COMMIT_HOME': str(context.scratch / 'pre-commit')},
    )
    context.line.run = 'hooks'
    streams.run_hooks(
        context.programs, program, lambda r: context.line.add(r, show=True)
    )


TIERS: dict[str, collections.abc.Callable[[Context], None]] = {
    'unit': unit,
    'functional': functional,
    'system': system,
    'style': style,
}
