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

"""The kernel layer: a User-Mode Linux kernel with AppArmor, from Debian.

sid's runs in seccomp mode, where a system call costs a quarter of the ptrace
mode of the stable suites; theirs is the fallback. sid's needs a newer glibc
than a stable host has, and re-executes itself, so that starting it through
ld.so does not do: it gets sid's loader as its interpreter, by absolute path
(which therefore is part of the layer's key).
"""

import pathlib
import shutil
import subprocess

from host import cache
from host.errors import LabError
from host import progress
from host import registries

ARGUMENTS = (
    'arguments'  # file with the kernel's own arguments, beside the kernel
)
MODULES = 'modules'  # directory of the kernel's modules, by release
NAME = 'kernel'


def layer(root: pathlib.Path) -> cache.Layer:
    """The layer's recipe.

    :param root: the cache's directory.
    """
    key = cache.digest(
        pathlib.Path(__file__), str(root), pathlib.Path('/etc/debian_version')
    )
    final = root / f'{NAME}-{key}'

    def build(work: pathlib.Path, logs: pathlib.Path) -> None:
        with progress.Steps(NAME, logs).step('user-mode-linux') as step:
            try:
                _from_sid(step, work, final)
            except (subprocess.CalledProcessError, LabError) as e:
                step.note(f'{e}: falling back to the kernel of this suite')
                _from_this_suite(step, work)

    return cache.Layer(NAME, key, build)


def _from_sid(
    step: progress.Step, work: pathlib.Path, final: pathlib.Path
) -> None:
    apt = work / 'apt'
    for directory in ('lists/partial', 'cache/archives/partial'):
        (apt / directory).mkdir(parents=True)
    mirror = registries.debian_mirror('Debian')
    (apt / 'sources.list').write_text(registries.rolling(mirror) + '\n')
    options = {
        'Dir::Etc::sourcelist': apt / 'sources.list',
        'Dir::Etc::sourceparts': '-',
        'Dir::State::lists': apt / 'lists',
        'Dir::Cache': apt / 'cache',
        'Acquire::Languages': 'none',
        'APT::Sandbox::User': 'root',
    }
    command = [
        'apt-get',
        '-q',
        *(f'-o{name}={value}' for name, value in options.items()),
    ]
    step.run([*command, 'update'])
    step.run([*command, 'download', 'user-mode-linux', 'libc6'], cwd=work)
    _unpack(step, work)
    linux = work / 'linux'
    if not _runs(linux):
        for place in (
            work,
            final,
        ):  # tried where it is now, then made for where it will be
            libraries = place / 'usr/lib/x86_64-linux-gnu'
            loader = libraries / 'ld-linux-x86-64.so.2'
            step.run(
                [
                    'patchelf',
                    '--set-interpreter',
                    loader,
                    '--set-rpath',
                    libraries,
                    linux,
                ]
            )
            if place is work and not _runs(linux):
                raise LabError('the kernel of sid does not run here')
    (work / ARGUMENTS).write_text('seccomp=on\n')
    shutil.rmtree(apt)


def _from_this_suite(step: progress.Step, work: pathlib.Path) -> None:
    for path in work.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    step.run(
        [
            'apt-get',
            '-q',
            '-oAPT::Sandbox::User=root',
            'download',
            'user-mode-linux',
        ],
        cwd=work,
    )
    _unpack(step, work)
    if not _runs(work / 'linux'):
        raise LabError('the user-mode-linux of this suite does not run here')
    (work / ARGUMENTS).write_text('')


def _unpack(step: progress.Step, work: pathlib.Path) -> None:
    for package in sorted(work.glob('*.deb')):
        step.run(['dpkg', '-x', package, work])
        package.unlink()
    shutil.copy(work / 'usr/bin/linux.uml', work / 'linux')
    (work / 'usr/lib/uml/modules').rename(work / MODULES)


def _runs(linux: pathlib.Path) -> bool:
    try:
        return (
            subprocess.run(
                [linux, '--version'], capture_output=True, timeout=10
            ).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
