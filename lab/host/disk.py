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

"""The disk layer: the compute node's disk, made from the tree, with libvirt's
and AppArmor's caches filled.

The caches are filled by a boot of the finished disk itself: libvirt compares
its own with the times of the very inodes.
"""

import os
import pathlib
import shutil
import subprocess

from host import cache
from host import contain
from host import cpus
from host.errors import LabError
from host import kernel
from host import machine
from host import paths
from host import progress

NAME = 'disk'
FILE = 'disk.ext4'
SCRIPT = 'host/make-disk.sh'
USED = (
    SCRIPT,
    'guest/init-stub',
    'guest/umlfast.c',
    'etc/libvirtd.conf',
    'etc/qemu.conf',
    'etc/selinux-labels',
    'etc/selinux.cil',
)
FIRST_BOOT_LIMIT = 180  # seconds


def layer(
    image: str, tree: cache.Layer, linux: cache.Layer, root: pathlib.Path
) -> cache.Layer:
    """The layer's recipe.

    :param image: the Debian suite.
    :param tree: the tree layer.
    :param linux: the kernel layer.
    :param root: the cache's directory.
    """
    recipe = [pathlib.Path(__file__), *(paths.LAB / file for file in USED)]
    key = cache.digest(image, tree.key, linux.key, *recipe)

    def build(work: pathlib.Path, logs: pathlib.Path) -> None:
        steps = progress.Steps(image, logs)
        disk = work / FILE
        with steps.step('disk') as step:
            _assemble(
                step, root / tree.directory, root / linux.directory, disk, work
            )
        with steps.step('first boot') as step:
            cpu, lock = cpus.choose(root / cache.LOCKS)
            _first_boot(step, root / linux.directory, disk, logs, cpu)
            os.close(lock)

    return cache.Layer(f'{NAME}-{image}', key, build)


def _assemble(
    step: progress.Step,
    tree: pathlib.Path,
    linux: pathlib.Path,
    disk: pathlib.Path,
    work: pathlib.Path,
) -> None:
    """Make the file system."""
    parts = work / 'parts'
    modules = linux / kernel.MODULES
    command = [paths.LAB / SCRIPT, tree, modules, paths.LAB, parts, disk]
    step.run(contain.contained(command, network=False))
    shutil.rmtree(parts)


def _first_boot(
    step: progress.Step,
    linux: pathlib.Path,
    disk: pathlib.Path,
    logs: pathlib.Path,
    cpu: int,
) -> None:
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
        cpu=cpu,
    )
    try:
        step.run(
            contain.contained(command, network=False),
            env={'PATH': '/usr/bin:/bin', 'TMPDIR': '/dev/shm'},
            limit=FIRST_BOOT_LIMIT,
        )
    except subprocess.SubprocessError:
        step.note('the machine did not end by itself')
        raise
    if not (shared / 'ready').exists():
        raise LabError('the first boot did not fill the caches')
