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

"""What the host must have, checked before anything is done, with the Debian
package that brings it.
"""

import os
import pathlib
import shutil

from host.errors import LabError
from host import registries

COMMANDS = {
    'unshare': 'util-linux',
    'setpriv': 'util-linux',
    'mount': 'mount',
    'taskset': 'util-linux',
    'ip': 'iproute2',
}
BUILD_COMMANDS = {
    'apt-get': 'apt',
    'dpkg': 'dpkg',
    'mmdebstrap': 'mmdebstrap',
    'mke2fs': 'e2fsprogs',
    'patchelf': 'patchelf',
    'gcc': 'gcc libc6-dev',
}


def check(*, build: bool) -> None:
    """Raise LabError with everything that is missing.

    :param build: whether something has to be built, which needs more than a
        run.
    """
    wanted = COMMANDS | BUILD_COMMANDS if build else COMMANDS
    missing = {
        command: package
        for command, package in wanted.items()
        if shutil.which(command) is None
    }
    if build and not registries.KEYRING.exists():
        missing[str(registries.KEYRING)] = 'debian-archive-keyring'
    if missing:
        packages = ' '.join(sorted(set(' '.join(missing.values()).split())))
        raise LabError(
            f'missing on this host: {", ".join(missing)}\n'
            f'  apt-get install --no-install-recommends {packages}'
        )
    if os.geteuid() != 0:
        raise LabError(
            'the lab needs root for namespaces, mounts and a tap device'
        )
    if not pathlib.Path('/dev/net/tun').exists():
        raise LabError(
            '/dev/net/tun is missing: load the module with "modprobe tun"'
        )
    if 'overlay' not in pathlib.Path('/proc/filesystems').read_text():
        raise LabError(
            'there is no overlayfs: load the module with "modprobe overlay"'
        )
