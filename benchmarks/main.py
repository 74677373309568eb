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

"""``benchmarks/run``: runs each part where it can be measured."""

import argparse
import collections.abc
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from host import cache
from host import contain
from host import images
from host import paths

from benchmarks import figures

# What is measured where; the lab's runs are expensive, so one for all names.
NATIVE = ('compute', 'compile', 'size', 'proof')
RECORDS = ('parse', 'skip', 'shapes')
MACHINE = ('proof',)
CLOUD = ('boot', 'parser')
HERE = ('agent', 'soak')
# Takes half an hour: only when it is named.
LONG = ('soak',)
NAMES = (
    'compute',
    'compile',
    'size',
    'parser',
    'boot',
    'proof',
    *RECORDS,
    *HERE,
)


def native(
    image: str,
    names: list[str],
    module: str = 'benchmarks.native',
    *,
    network: bool = False,
) -> str:
    """Run a part in the image's tree, copy-on-write, at native speed."""
    store = cache.Cache(paths.cache())
    tree = images.obtain(image, store).tree
    with tempfile.TemporaryDirectory(
        prefix='benchmarks.', dir=store.root
    ) as scratch:
        upper, work = (pathlib.Path(scratch, name) for name in 'uw')
        upper.mkdir()
        python = ['/opt/nova/bin/python3', '-m', module, *names]
        command = contain.in_tree(
            tree, python, network=network, overlay=(upper, work)
        )
        env = contain.clean_environment(
            PYTHONPATH='/src', PYTHONDONTWRITEBYTECODE='1', LAB_IMAGE=image
        )
        return output(command, env=env)


def machine(image: str) -> str:
    """Run a part on the lab's machine, which has a kernel with AppArmor."""
    with open(os.devnull, 'r+b') as null:
        (times,) = figures.alternate(
            1000, lambda: figures.idle_calls(null.fileno())
        )
    idle = str(figures.quantile(times, 0.5))
    python = ['python3', '-m', 'benchmarks.machine', idle]
    return lab(image, [], python)


def cloud(image: str, names: list[str], boots: int) -> str:
    """Run a part beside the lab's Nova."""
    python = [sys.executable, '-m', 'benchmarks.cloud', str(boots), *names]
    return lab(image, ['--with', 'nova', '--glance', 'stub'], python)


def lab(image: str, options: list[str], command: list[str]) -> str:
    """Run a command in the lab."""
    program = str(paths.LAB / 'lab')
    limit = ['--timeout', '1800']
    return output(
        [program, 'run', '--image', image, *limit, *options, '--', *command]
    )


def output(
    command: list[str], env: collections.abc.Mapping[str, str] | None = None
) -> str:
    """Run a command and return what it prints.

    :raises CalledProcessError: when it fails; it has said why.
    """
    return subprocess.run(
        command, env=env, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def main() -> int:
    """Do what the command line says.

    :returns: the exit status: 1 when a part could not be measured or a goal
        was missed
    """
    parser = argparse.ArgumentParser(
        prog='benchmarks/run', description='Ours beside stock libvirt.'
    )
    parser.add_argument(
        'name', nargs='*', metavar='NAME', help=f'of {", ".join(NAMES)}'
    )
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE')
    parser.add_argument(
        '--image', choices=images.NAMES, default=images.DEFAULT
    )
    parser.add_argument(
        '--boots',
        type=int,
        default=8,
        metavar='N',
        help='of each side, default %(default)s',
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.name) - set(NAMES):
        parser.error(f'no such benchmark: {", ".join(sorted(unknown))}')
    names = arguments.name or [n for n in NAMES if n not in LONG]
    image = arguments.image

    if 'parser' in names and 'compile' not in names:
        # what one run of it takes
        names.append('compile')
    parts: list[collections.abc.Callable[[], str]] = []
    if here := [n for n in names if n in NATIVE]:
        parts.append(lambda: native(image, here))
    if of_records := [n for n in names if n in RECORDS]:
        # the peers' packages come over the network
        parts.append(
            lambda: native(
                image, of_records, 'benchmarks.records', network=True
            )
        )
    if any(n in MACHINE for n in names):
        parts.append(lambda: machine(image))
    if there := [n for n in names if n in CLOUD]:
        parts.append(lambda: cloud(image, there, arguments.boots))
    # this machine's broker and the environment of the tests
    python = os.environ.get('TESTS_PYTHON', sys.executable)
    parts.extend(
        functools.partial(output, [python, '-m', f'benchmarks.{n}'])
        for n in names
        if n in HERE
    )
    found: list[figures.Figure] = []
    failed = False
    for part in parts:
        try:
            found += [figures.Figure(**f) for f in json.loads(part())]
        except subprocess.CalledProcessError as e:
            print(f'benchmarks: {e}', file=sys.stderr)
            failed = True
    found += figures.of_a_start(found)
    found.sort(key=lambda f: NAMES.index(f.name))
    print(figures.table(found))
    if arguments.json:
        text = json.dumps([f.report() for f in found], indent=1)
        arguments.json.write_text(f'{text}\n')
    return int(failed or any(f.met is False for f in found))


if __name__ == '__main__':
    os.chdir(paths.CHECKOUT)
    sys.exit(main())
