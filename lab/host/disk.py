"""The disk layer: the compute node's disk, made from the tree, with libvirt's and AppArmor's caches filled.

The caches are filled by a boot of the finished disk itself: libvirt compares its own with the times of the very inodes.
"""

import pathlib
import subprocess

from host import cache
from host import contain
from host import machine
from host import paths
from host import progress
from host.errors import LabError

NAME = 'disk'
FILE = 'disk.ext4'
EMULATOR = 'usr/bin/qemu-system-x86_64'
LIBRARY = 'usr/lib/x86_64-linux-gnu/libumlfast.so'
FIRST_BOOT_LIMIT = 180  # seconds


def layer(image: str, tree: cache.Layer, linux: cache.Layer, root: pathlib.Path) -> cache.Layer:
    """The layer's recipe.

    :param image: the Debian suite.
    :param tree: the tree layer.
    :param linux: the kernel layer.
    :param root: the cache's directory.
    """
    guest = [paths.LAB / 'guest' / f for f in ('init-stub', 'umlfast.c')]
    key = cache.digest(image, tree.key, linux.key, pathlib.Path(__file__), *guest)

    def build(work: pathlib.Path, logs: pathlib.Path) -> None:
        steps = progress.Steps(image, logs)
        disk = work / FILE
        with steps.step('disk') as step:
            _assemble(step, root / tree.directory, root / linux.directory, disk, work)
        with steps.step('first boot') as step:
            _first_boot(step, root / linux.directory, disk, logs)

    return cache.Layer(f'{NAME}-{image}', key, build)


def _assemble(step: progress.Step, tree: pathlib.Path, linux: pathlib.Path, disk: pathlib.Path, work: pathlib.Path) -> None:
    """Make the file system from the tree and what only the compute node needs."""
    extra = work / 'extra'
    for directory in (LIBRARY, EMULATOR, 'usr/lib/modules', 'usr/lib/lab'):
        (extra / directory).parent.mkdir(parents=True, exist_ok=True)
    step.run(['gcc', '-O2', '-Wall', '-Werror', '-shared', '-fPIC', '-o', extra / LIBRARY, paths.LAB / 'guest/umlfast.c'])
    # QEMU needs the library by itself: no /etc/ld.so.preload, which would be one more file that a guest's profile must allow,
    # and no LD_PRELOAD, which the loader drops when an execution changes the profile
    step.run(['patchelf', '--add-needed', 'libumlfast.so', '--output', extra / EMULATOR, tree / EMULATOR])
    step.run(['install', '-D', '-m', '755', tree / EMULATOR, extra / 'usr/lib/lab/qemu-system-x86_64'])
    step.run(['install', '-m', '755', paths.LAB / 'guest/init-stub', extra / 'usr/lib/lab/init'])
    step.run(['cp', '-r', linux / 'modules', extra / 'usr/lib/modules'])
    script = (
        'mkdir -p "$2"/merged "$2"/work && mount -t overlay overlay '
        '-o lowerdir="$1",upperdir="$2"/extra,workdir="$2"/work "$2"/merged && '
        'exec mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$2"/merged "$3" 5G'
    )
    step.run(contain.contained(['sh', '-c', script, '-', tree, work, disk], network=False))
    for directory in ('extra', 'merged', 'work'):
        step.run(['rm', '-rf', work / directory])


def _first_boot(step: progress.Step, linux: pathlib.Path, disk: pathlib.Path, logs: pathlib.Path) -> None:
    """Boot the disk writable, once."""
    shared = logs / 'first-boot'
    shared.mkdir()
    command = machine.command(
        linux,
        disk=str(disk),
        lsm='apparmor',
        mounts={'src': paths.CHECKOUT, 'lab': shared},
        init_arguments={'lab_job': 'first-boot'},
        directory=shared,
    )
    limited = ['timeout', '--kill-after=5', str(FIRST_BOOT_LIMIT), *command]
    try:
        step.run(contain.contained(limited, network=False), env={'PATH': '/usr/bin:/bin', 'TMPDIR': '/dev/shm'})
    except subprocess.CalledProcessError:
        step.note('the machine did not end by itself')
        raise
    if not (shared / 'ready').exists():
        raise LabError('the first boot did not fill the caches')
