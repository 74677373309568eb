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

"""lab/lab's command line."""

import argparse
import concurrent.futures
import os
import pathlib
import signal
import sys
import time

from host import cache
from host.errors import LabError
from host import images
from host import paths
from host import progress
from host import run

USAGE = 2  # exit status of a wrong command line
# apparmor.audit of the kernel, see aa_audit(): noquiet records also what a
# profile denies quietly
AUDIT = ('normal', 'quiet_denied', 'quiet', 'noquiet', 'all')


def directory(text: str) -> pathlib.Path:
    """An argument that names a directory."""
    path = pathlib.Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f'{text}: no such directory')
    return path


def file(text: str) -> pathlib.Path:
    """An argument that names a file."""
    path = pathlib.Path(text).resolve()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f'{text}: no such file')
    return path


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog='lab/lab',
        description='A real kernel with AppArmor, with libvirt and Nova.',
    )
    verbs = top.add_subparsers(dest='verb', required=True)
    build = verbs.add_parser('build', help='build what is missing of images')
    build.add_argument(
        'image',
        nargs='*',
        metavar='IMAGE',
        help=f'of {", ".join(images.NAMES)}; default: '
        f'{" and ".join(images.STABLE)}',
    )
    go = verbs.add_parser('run', help='run a command in the lab')
    go.add_argument(
        '--image',
        choices=images.NAMES,
        default=images.DEFAULT,
        help='default: %(default)s',
    )
    go.add_argument(
        '--lsm',
        choices=('apparmor', 'selinux', 'none'),
        default='apparmor',
        help="the kernel's security module",
    )
    go.add_argument(
        '--audit',
        choices=AUDIT,
        default=AUDIT[0],
        metavar='MODE',
        help=f"AppArmor's audit mode: {', '.join(AUDIT)}; default: "
        '%(default)s',
    )
    go.add_argument(
        '--with',
        dest='mode',
        choices=('libvirt', 'nova'),
        default='none',
        help='what runs beside CMD',
    )
    go.add_argument(
        '--share',
        type=directory,
        metavar='DIR',
        help='writable directory, /share on the machine',
    )
    go.add_argument(
        '--timeout',
        type=float,
        default=600,
        metavar='S',
        help='limit for everything, default %(default)s',
    )
    go.add_argument(
        '--cpu',
        type=int,
        metavar='N',
        help="the machine's CPU, default: one that no other run has",
    )
    go.add_argument(
        '--conf',
        type=file,
        action='append',
        default=[],
        metavar='FILE',
        help='more configuration',
    )
    go.add_argument(
        '--plugin',
        type=directory,
        action='append',
        default=[],
        metavar='DIR',
        help='a project to install',
    )
    go.add_argument(
        '--compute-driver',
        default='isolation.LibvirtDriver',
        metavar='NAME',
        help='default: %(default)s',
    )
    go.add_argument(
        '--glance',
        choices=('real', 'stub'),
        default='real',
        help='default: %(default)s',
    )
    go.add_argument(
        '--systemd',
        action='store_true',
        help="with systemd for the machine's first process",
    )
    go.add_argument(
        '--no-preload',
        dest='preload',
        action='store_false',
        help='without what speeds up the lab only',
    )
    go.add_argument(
        '--keep',
        action='store_true',
        help='keep the logs also when CMD succeeds',
    )
    go.add_argument(
        'command',
        nargs='+',
        metavar='CMD',
        help='after --; on the machine, with --with nova beside it',
    )
    return top


def build(names: list[str]) -> None:
    """Build images, side by side."""
    for name in names:
        if name not in images.NAMES:
            raise LabError(
                f'{name}: no such image; there are {", ".join(images.NAMES)}'
            )
    # Ctrl-C ends us at once, and with us all that we started (contain.py)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    start = time.monotonic()
    store = cache.Cache(paths.cache())
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        made = {
            pool.submit(images.obtain, name, store): name for name in names
        }
        errors = []
        for future in concurrent.futures.as_completed(made):
            try:
                future.result()
            except LabError as e:
                errors.append(str(e))
    store.prune()
    if errors:
        raise LabError('\n'.join(errors))
    seconds, listed = time.monotonic() - start, ', '.join(names)
    progress.say(f'{seconds:6.1f} s  {listed}: ready in {store.root}')


def as_root(arguments: list[str]) -> None:
    """Go on as root, with the cache of the user who called."""
    if os.geteuid() != 0:
        cache_home = paths.cache().parent.parent
        command = [
            'sudo',
            '--',
            'env',
            f'XDG_CACHE_HOME={cache_home}',
            f'PATH={os.environ.get("PATH", "")}',
        ]
        os.execvp(
            'sudo',
            [*command, sys.executable, str(paths.LAB / 'lab'), *arguments],
        )


def main() -> int:
    """Do what the command line says.

    :returns: the exit status.
    """
    arguments = parser().parse_args()
    try:
        as_root(sys.argv[1:])
        if arguments.verb == 'build':
            build(arguments.image or list(images.STABLE))
            return 0
        return run.run(arguments)
    except LabError as e:
        progress.say(f'lab: {e}')
        return run.NO_BOOT
    except KeyboardInterrupt:
        return 130
