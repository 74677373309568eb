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

"""The command line of a User-Mode Linux machine."""

import collections.abc
import pathlib

from host import kernel

MEMORY = '4G'  # of a sparse file: what is not touched costs nothing
INIT = '/usr/lib/lab/init'


def command(
    linux: pathlib.Path,
    *,
    disk: str,
    lsm: str,
    mounts: collections.abc.Mapping[str, pathlib.Path],
    init_arguments: collections.abc.Mapping[str, str],
    directory: pathlib.Path,
    cpu: int,
    tap: str | None = None,
) -> list[str]:
    """The command that boots a machine.

    :param linux: the kernel's layer.
    :param disk: what `ubd0=` takes: a file, or `COW,FILE`.
    :param lsm: `apparmor`, `selinux` or `none`.
    :param mounts: names of directories in the machine's root that show one of
        the host's; all but `share` and `lab` read-only.
    :param init_arguments: words for guest/init.
    :param directory: where the kernel keeps its own small files (its default
        is below $HOME).
    :param cpu: the host's CPU that it runs on: UML has one, and hand-overs
        between the host's cost it most of the time.
    :param tap: the host's network interface of the machine's `vec0`.
    """
    words = {
        'mem': MEMORY,
        'ubd0': disk,
        'root': '/dev/ubda',
        'init': INIT,
        'security': lsm,
        'con': 'null',
        'con0': 'null,fd:1',
        'log_buf_len': '1M',
        'uml_dir': f'{directory}/',
        **{f'lab_{name}': str(path) for name, path in mounts.items()},
        **init_arguments,
    }
    network = (
        [f'vec0:transport=tap,ifname={tap},depth=128,gro=0'] if tap else []
    )
    own = (linux / kernel.ARGUMENTS).read_text().split()
    return [
        'taskset',
        '--cpu-list',
        str(cpu),
        str(linux / 'linux'),
        'rw',
        *own,
        *network,
        *(f'{name}={value}' for name, value in words.items()),
    ]
