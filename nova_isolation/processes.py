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

"""The QEMU process of a guest, found without trusting its label.

libvirt writes ``NAME.pid`` into its runtime directory; the uuid on the
command line tells whether that number still is the guest's process, and the
start time whether it was the same process before and after a check.
"""

import dataclasses
import itertools
import os

from nova_isolation import exceptions


@dataclasses.dataclass(frozen=True)
class Process:
    """A process, told apart from a later one with the same number.

    :ivar pid: its number
    :ivar started: when it began, in clock ticks since boot
    """

    pid: int
    started: int


def find(runtime_directory: str, name: str, uuid: str) -> Process:
    """Find the QEMU process of a running domain.

    :param runtime_directory: ``[isolation] libvirt_runtime_directory``
    :param name: the domain's name
    :param uuid: the domain's uuid
    :returns: the process
    :raises NotConfined: when it cannot be found, so that nothing can be said
        of it
    """
    path = os.path.join(runtime_directory, f'{name}.pid')
    try:
        with open(path) as f:
            pid = int(f.read(32))
        with open(f'/proc/{pid}/cmdline', 'rb') as f:
            arguments = f.read(1 << 20).split(b'\0')
        process = Process(pid, _started(pid))
    except (OSError, ValueError) as e:
        raise exceptions.NotConfined(
            f'the process of {name} cannot be found through {path}: {e}'
        ) from e
    if (b'-uuid', uuid.encode()) not in itertools.pairwise(arguments):
        raise exceptions.NotConfined(
            f'process {pid}, which {path} names, is not the QEMU of {uuid}'
        )
    return process


def is_same(process: Process) -> bool:
    """Tell whether a process still runs.

    :param process: what :func:`find` gave
    :returns: whether its number still means the same process
    """
    try:
        return _started(process.pid) == process.started
    except (OSError, ValueError):
        return False


def _started(pid: int) -> int:
    with open(f'/proc/{pid}/stat', 'rb') as f:
        # the second field, in brackets, may hold anything: proc(5)
        fields = f.read().rpartition(b')')[2].split()
    return int(fields[19])
