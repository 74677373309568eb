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

"""The files of guests' profiles, by who wrote them."""

import enum
import os
import stat

from nova_isolation.apparmor import policy
from nova_isolation import exceptions

# The first line of the files that libvirt's virt-aa-helper makes from its
# TEMPLATE.qemu, in every release.
_LIBVIRT_MARK = (
    b'# This profile is for the domain whose UUID matches this file'
)
_HEAD = 4096


class Writer(enum.Enum):
    """Who wrote a file that we may replace."""

    OURS = 'nova-isolation'
    LIBVIRT = 'libvirt'
    #: libvirt replaces an empty file silently
    EMPTY = 'empty'
    NOBODY = 'nobody'


def writer(path: str) -> Writer:
    """Tell who wrote the file at a profile's path.

    :param path: of the file, which need not exist
    :returns: the writer
    :raises ForeignProfile: when it is anything that is not ours to replace
    """
    try:
        descriptor = os.open(
            path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except FileNotFoundError:
        return Writer.NOBODY
    except OSError as e:
        raise _foreign(path, e.strerror or str(e)) from e
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _foreign(path, 'it is not a regular file')
        head = os.read(descriptor, _HEAD)
    finally:
        os.close(descriptor)
    lines = head.splitlines()
    if not head:
        return Writer.EMPTY
    if lines[:1] == [policy.MARK.encode()]:
        return Writer.OURS
    if any(line.startswith(_LIBVIRT_MARK) for line in lines[:3]):
        return Writer.LIBVIRT
    raise _foreign(path, 'neither nova-isolation nor libvirt wrote it')


def _foreign(path: str, why: str) -> exceptions.ForeignProfile:
    return exceptions.ForeignProfile(
        f'{path} is in the way: {why}. Move it away; rules of your own belong '
        'into an issue, not into a file that decides over one guest'
    )
