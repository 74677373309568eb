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

"""Which CPU a machine gets. UML has one CPU; hand-overs between the host's
CPUs cost it most of the time, so it is pinned.
"""

import fcntl
import os
import pathlib
import random

#: How many machines a CPU carries before one is pinned anywhere: each waits
#: for something a good part of its time.
SHARE = 2


def choose(locks: pathlib.Path) -> tuple[int, int]:
    """A CPU that no other run has; or one that few have; or any.

    :returns: its number, and a descriptor that keeps it ours until closed.
    """
    available = sorted(os.sched_getaffinity(0))
    for place in range(SHARE):
        for number in available:
            lock = os.open(
                locks / f'cpu-{number}.{place}',
                os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
                0o644,
            )
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            else:
                return number, lock
    return random.choice(available), os.open(
        os.devnull, os.O_RDONLY | os.O_CLOEXEC
    )
