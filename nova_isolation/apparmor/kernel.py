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

"""What the kernel says of AppArmor: read-only, and without privilege.

Sources: the kernel's ``security/apparmor/apparmorfs.c`` (the policy tree below
securityfs) and ``procattr.c`` (the labels of processes).
"""

from collections.abc import Mapping
import contextlib
import errno
import functools
import hashlib
import os
import re
import types
from typing import Self

from nova_isolation import exceptions

_ENABLED = '/sys/module/apparmor/parameters/enabled'
_PROFILES = '/sys/kernel/security/apparmor/policy/profiles'
_ACCESS = '/sys/kernel/security/apparmor/.access'

# The class of files in a query, and the bits of its answer that let somebody
# do something to one: executing, writing, reading, appending. Of any path at
# which a granted one goes on the kernel says that attributes can be read:
# aa_compute_fperms().
_FILE = 2
_EXECUTE, _WRITE, _READ, _APPEND = 1, 2, 4, 8
# what is read of an answer: the first of its lines
_ALLOWED = re.compile(b'allow 0x([0-9a-f]{8})\n')
_LENGTH = 17

# No label is longer: proc_pid_attr_read().
_PAGE = 4096

# raw_sha256 since Linux 6.8 or so, raw_sha1 before
_ALGORITHMS = ('sha256', 'sha1')


def check_enabled() -> None:
    """Check that this kernel confines with AppArmor and shows its policy.

    :raises HostFault: when it does not, with the way out
    """
    try:
        with open(_ENABLED) as f:
            enabled = f.read().strip() == 'Y'
    except OSError:
        enabled = False
    if not enabled:
        raise exceptions.HostFault(
            'the kernel runs without AppArmor: boot it with '
            '"apparmor=1 security=apparmor"'
        )
    if not os.path.isdir(_PROFILES):
        raise exceptions.HostFault(
            'the kernel does not show its AppArmor policy: mount securityfs '
            'at /sys/kernel/security'
        )


def digests(policy: bytes) -> dict[str, str]:
    """Compute what the kernel would show of a policy that it was given.

    :param policy: what the parser made of a profile
    :returns: {algorithm: hexadecimal digest}, of each that a kernel may show
    """
    return {a: hashlib.new(a, policy).hexdigest() for a in _ALGORITHMS}


def holds(profile: str, expected: Mapping[str, str]) -> bool:
    """Tell whether the kernel holds just this policy under this name.

    :param profile: the profile's name, without metacharacters
    :param expected: :func:`digests` of the policy
    :returns: whether the kernel's own digest of what was loaded is equal
    :raises HostFault: when the kernel shows no digest of a loaded policy
    """
    found = _loaded(profile)
    if len(found) != 1:
        return False
    for algorithm in _ALGORITHMS:
        path = os.path.join(_PROFILES, found[0], f'raw_{algorithm}')
        try:
            with open(path) as f:
                digest = f.read().strip()
        except FileNotFoundError:
            continue
        return digest == expected[algorithm]
    raise exceptions.HostFault(
        f'the kernel shows no digest of the policy {profile}: it needs '
        'CONFIG_SECURITY_APPARMOR_HASH and apparmor.export_binary=1'
    )


def is_loaded(profile: str) -> bool:
    """Tell whether the kernel holds a policy under this name.

    :param profile: the profile's name
    :returns: whether it does
    """
    return bool(_loaded(profile))


def loaded() -> frozenset[str]:
    """Name all policies that the kernel holds.

    :returns: the profiles' names, without those of their children
    """
    return frozenset(
        name
        for name, _, number in (d.rpartition('.') for d in _directories())
        if number.isdigit()
    )


def enforces(word: str) -> bool:
    """Tell whether the kernel holds a profile that a word is about.

    :param word: in the profile's name; one without a name is named as its
        program
    :returns: whether one of them is in enforce mode
    """
    for name in _directories():
        # or unloaded meanwhile
        with contextlib.suppress(FileNotFoundError):
            if word in name:
                with open(os.path.join(_PROFILES, name, 'mode')) as f:
                    if f.read().strip() == 'enforce':
                        return True
    return False


def _loaded(profile: str) -> list[str]:
    return [
        name
        for name in _directories()
        if name.rpartition('.')[0] == profile
        and name.rpartition('.')[2].isdigit()
    ]


def _directories() -> list[str]:
    # each profile is a directory NAME.NUMBER
    try:
        return os.listdir(_PROFILES)
    except FileNotFoundError:
        return []


def labels(pid: int) -> dict[int, str]:
    """Read the label of every thread of a process.

    :param pid: of the process
    :returns: {thread id: label with its mode}, e.g. ``{4711: 'libvirt-…
        (enforce)'}``; empty when the process is gone
    :raises OSError: when one may not be read
    """
    found = {}
    tasks = f'/proc/{pid}/task'
    try:
        threads = os.listdir(tasks)
    except FileNotFoundError:
        return {}
    for thread in threads:
        label = _label(f'{tasks}/{thread}')
        if label is not None:
            found[int(thread)] = label
    return found


def label(pid: int) -> str | None:
    """Read the label of the first thread of a process.

    :param pid: of the process
    :returns: with its mode; '' when no module of this kernel labels
        processes; None when the process is gone
    :raises OSError: when it may not be read
    """
    return _label(f'/proc/{pid}')


def holders(profile: str) -> list[int]:
    """Find the live processes that hold a profile or a child of it.

    :param profile: the profile's name
    :returns: their process ids
    :raises OSError: when a label may not be read
    """
    found = []
    for entry in os.listdir('/proc'):
        if not entry.isdigit():
            continue
        label = _label(f'/proc/{entry}') or ''
        # "name (mode)", or "name//child (mode)"
        if label.partition(' (')[0].partition('//')[0] == profile:
            found.append(int(entry))
    return found


def _label(directory: str) -> str | None:
    # attr/current belongs to whichever module the kernel shows first; the
    # directory of one that does not run may be there all the same
    label: str | None = None
    for name in ('attr/apparmor/current', 'attr/current'):
        try:
            # the agent does this often: half of what a file object costs
            descriptor = os.open(
                f'{directory}/{name}', os.O_RDONLY | os.O_CLOEXEC
            )
            try:
                text = os.read(descriptor, _PAGE)
            finally:
                os.close(descriptor)
        except (FileNotFoundError, ProcessLookupError):
            # the thread ended between listing and reading
            label = None
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            # that module does not run; when it was the last, none does
            label = ''
        else:
            return os.fsdecode(text).rstrip('\n\0')
    return label


# A proof asks thousands of questions, by one profile after the other, and gets
# a handful of different answers.
@functools.lru_cache(maxsize=1)
def _question(profile: str) -> bytes:
    return b'label\0%s\0%c' % (profile.encode(), _FILE)


@functools.lru_cache(maxsize=64)
def _access(answer: bytes) -> str | None:
    found = _ALLOWED.fullmatch(answer)
    if not found:
        return None
    allowed = int(found[1], 16)
    return ''.join(
        letter
        for letter, bits in (
            ('r', _READ),
            ('w', _WRITE | _APPEND),
            ('x', _EXECUTE),
        )
        if allowed & bits
    )


class Judge:
    """The kernel's own answers to what a profile allows; a context manager.

    The interface is that of libapparmor's aa_query_file_path(3). It needs no
    privilege.
    """

    def __enter__(self) -> Self:
        """Open the kernel's interface.

        :returns: itself
        :raises HostFault: when there is none
        """
        try:
            self._descriptor = os.open(_ACCESS, os.O_RDWR | os.O_CLOEXEC)
        except OSError as e:
            raise exceptions.HostFault(
                f'the kernel does not answer what a profile allows: {_ACCESS}:'
                f' {e.strerror}'
            ) from e
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def file(self, profile: str, path: str) -> str:
        """Ask which access to a file a profile allows.

        :param profile: the name of a loaded profile
        :param path: absolute, as the kernel would show it
        :returns: of ``r``, ``w`` and ``x`` what it allows; ``w`` for appending
            too; '' also for a profile that is not loaded
        :raises HostFault: when the kernel's answer is none
        """
        try:
            os.write(self._descriptor, _question(profile) + os.fsencode(path))
            answer = os.pread(self._descriptor, _LENGTH, 0)
        except FileNotFoundError:
            return ''
        except OSError as e:
            raise exceptions.HostFault(
                f'the kernel does not answer what {profile} allows: '
                f'{e.strerror}'
            ) from e
        access = _access(answer)
        if access is None:
            raise exceptions.HostFault(
                f'the kernel answers {answer!r} to what {profile} allows'
            )
        return access
