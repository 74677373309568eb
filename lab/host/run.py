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

"""A run, seen from outside: prepares its directory, keeps its time limit, and
leaves nothing of it but logs.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

from host import cache
from host import contain
from host import cpus
from host import distinfo
from host.errors import LabError
from host import guestfiles
from host import images
from host import paths
from host import progress
from host import registries
from host import requirements
from host import spec

TIMED_OUT = 124
NO_BOOT = 125
KEEP_RUNS = 20  # directories of failed or killed runs that stay
PR_SET_CHILD_SUBREAPER = 36


class Killed(Exception):
    """A signal asked us to end."""

    def __init__(self, number: int) -> None:
        self.number = number


def run(arguments: argparse.Namespace) -> int:
    """Run what the command line says.

    :returns: the exit status: the command's, TIMED_OUT or NO_BOOT.
    """
    requirements.check(build=False)
    check_driver(arguments)
    check_audit(arguments)
    check_policy(arguments)
    store = cache.Cache(paths.cache())
    image = images.obtain(arguments.image, store)
    store.prune()
    directory = _new_directory(store.root)
    lock = os.open(directory / 'lock', os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    cpu, cpu_lock = cpus.choose(store.root / cache.LOCKS)
    if arguments.cpu is not None:
        cpu = arguments.cpu
    share, made = _share(directory, arguments.share)
    try:
        _prepare(directory, arguments, image, cpu, share)
        status = _supervise(directory, arguments.timeout)
    finally:
        for path in (*made, *(directory / name for name in spec.MOUNTS)):
            with contextlib.suppress(OSError):
                path.rmdir()
        os.close(cpu_lock)
    if status == 0 and not arguments.keep:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        progress.say(f'lab: logs of the run: {directory / "log"}')
    return status


def check_driver(arguments: argparse.Namespace) -> None:
    """A compute driver of ours needs its entry point, else Nova's message is
    about a module that is missing.
    """
    driver = arguments.compute_driver
    if arguments.mode != 'nova' or not driver.startswith('isolation.'):
        return
    for source in (paths.CHECKOUT, *arguments.plugin):
        points = distinfo.entry_points(distinfo.project(source))
        if 'isolation' in points.get('os_vif', {}):
            return
    raise LabError(
        f'--compute-driver {driver}: neither the checkout nor a plugin '
        'registers the os_vif entry point "isolation" that makes it '
        'importable; stock Nova is --compute-driver libvirt.LibvirtDriver'
    )


def check_policy(arguments: argparse.Namespace) -> None:
    """libvirtd's own message is about a driver that cannot be had."""
    if (
        arguments.lsm == 'selinux'
        and arguments.mode != 'none'
        and arguments.image == registries.ROLLING
    ):
        raise LabError(
            f'--lsm selinux --with {arguments.mode}: the image '
            f'{arguments.image} has no policy; trixie and bookworm have'
        )


def check_audit(arguments: argparse.Namespace) -> None:
    """Without AppArmor there is no audit mode to set."""
    if arguments.lsm != 'apparmor' and arguments.audit != 'normal':
        raise LabError(
            f'--audit {arguments.audit}: with --lsm {arguments.lsm} there is '
            'no AppArmor whose audit mode could be set'
        )


def _new_directory(root: pathlib.Path) -> pathlib.Path:
    """The directory of this run; those of the oldest that ended are
    removed.
    """
    runs = root / 'runs'
    runs.mkdir(exist_ok=True)
    for old in sorted(runs.iterdir(), key=lambda p: p.name)[:-KEEP_RUNS]:
        try:
            lock = os.open(old / 'lock', os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(old, ignore_errors=True)
        finally:
            os.close(lock)
    directory = runs / f'{time.strftime("%Y%m%d-%H%M%S")}-{os.getpid()}'
    directory.mkdir(mode=0o755)
    (directory / 'log' / 'compute').mkdir(parents=True)
    return directory


def _share(
    directory: pathlib.Path, given: pathlib.Path | None
) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """The directory that is /share, with a place to mount the machine's logs.

    :returns: it, and what was made for it and has to go.
    """
    share = given or directory / 'share'
    log = share / 'log'
    if log.exists():
        return share, []
    log.mkdir(parents=True)
    return share, [log] if given else []


def _prepare(
    directory: pathlib.Path,
    arguments: argparse.Namespace,
    image: images.Image,
    cpu: int,
    share: pathlib.Path,
) -> None:
    """Write what the inside of the run reads."""
    job = {
        'mode': arguments.mode,
        'lsm': arguments.lsm,
        'audit': arguments.audit,
        'preload': 'yes' if arguments.preload else 'no',
        'systemd': 'yes' if arguments.systemd else 'no',
    }
    guestfiles.write(
        directory / 'guest',
        job=job,
        plugins=arguments.plugin,
        conf=arguments.conf,
        compute_driver=arguments.compute_driver,
        preload=arguments.preload,
    )
    spec.Spec(
        image=image.name,
        kernel=str(image.kernel),
        tree=str(image.tree),
        databases=str(image.databases),
        disk=str(image.disk),
        mode=arguments.mode,
        lsm=arguments.lsm,
        cpu=cpu,
        share=str(share),
        preload=arguments.preload,
        glance=arguments.glance,
        command=arguments.command,
    ).write(directory)


def _supervise(directory: pathlib.Path, timeout: float) -> int:
    """Start the inside of the run and wait for it.

    :returns: the exit status.
    """

    def on_signal(number: int, _frame: types.FrameType | None) -> None:
        raise Killed(number)

    # when the process that made the namespaces dies first, we see the end of
    # their first process, which is the end of all
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    modules = os.pathsep.join(
        map(str, (paths.LAB, paths.LAB / 'bin', paths.LAB / 'controller'))
    )
    env = dict(
        os.environ,
        PYTHONPATH=modules,
        LAB_OUTER_PYTHONPATH=os.environ.get('PYTHONPATH', ''),
    )
    previous = {
        s: signal.signal(s, on_signal)
        for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    }
    process = None
    try:
        command = contain.contained(
            [sys.executable, '-m', 'host.inside', directory], network=False
        )
        process = subprocess.Popen(command, env=env)
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        console = directory / 'log' / 'console.log'
        progress.say(
            f'lab: not ended within {timeout:g} s; '
            + progress.with_tail(f'console: {console}', console)
        )
        return TIMED_OUT
    except Killed as e:
        progress.say(f'lab: ended by {signal.Signals(e.number).name}')
        return 128 + e.number
    finally:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        if process:
            process.kill()
        _reap()
        for number, handler in previous.items():
            signal.signal(number, handler)
    result = spec.Result.read(directory)
    if result.status is None:
        progress.say(f'lab: {result.failure}')
        return NO_BOOT
    return result.status


def _reap() -> None:
    """Wait until nothing of the run lives."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
