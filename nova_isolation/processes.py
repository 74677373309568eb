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

"""The processes of a guest, found without trusting their labels.

libvirt writes ``NAME.pid`` into its runtime directory; the uuid on the
command line tells whether that number still is the guest's QEMU, and the
start time whether it was the same process before and after a check.

Beside it libvirt starts helpers. A virtiofsd has such a file, too. That of a
swtpm lies where a captured guest may write and nova-compute may not read, so
each process counts whose command line names the guest's socket: one that
pretends to be it can only be one more that has to be confined.
"""

from collections.abc import Iterator
import contextlib
import ctypes
import dataclasses
import itertools
import os
import platform
import re
import stat
import time

from nova_isolation import domain as domain_module
from nova_isolation import exceptions
from nova_isolation import neighbours


# Of net/unix/af_unix.c and io_uring/fdinfo.c: not none.
_HIDDEN = re.compile(rb'(scm_fds: |UserFiles:\t)[1-9]')
_TOLD = b'UserFiles:'
_IO_URING = 'anon_inode:[io_uring]'
_LOOKS = 5
# Seconds for which an io_uring may be too busy to tell.
_BUSY = 1.0
# Where a kernel has it not, each thread is looked through.
_LIBC = ctypes.CDLL(None)
_KCMP = {'x86_64': 312, 'aarch64': 272, 'ppc64le': 354, 's390x': 343}
_KCMP_FILES = 2
# The types of what is in a file system, and of pipes.
_PLAIN = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO)


@dataclasses.dataclass(frozen=True)
class Process:
    """A process, told apart from a later one with the same number.

    :ivar pid: its number
    :ivar started: when it began, in clock ticks since boot
    """

    pid: int
    started: int


@dataclasses.dataclass(frozen=True)
class Helper:
    """A process that libvirt starts beside a guest's QEMU.

    :ivar program: ``swtpm`` or ``virtiofsd``
    :ivar origin: the element of the domain's XML that asks for it
    :ivar process: the process
    :ivar labelled: whether libvirt gives it the guest's label
    """

    program: str
    origin: str
    process: Process
    labelled: bool


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
    process, arguments = _read(path, name)
    if ('-uuid', uuid) not in itertools.pairwise(arguments):
        raise exceptions.NotConfined(
            f'process {process.pid}, which {path} names, is not the QEMU of '
            f'{uuid}'
        )
    return process


def helpers(
    runtime_directory: str, domain: domain_module.Domain
) -> tuple[Helper, ...]:
    """Find the processes that libvirt has started beside a guest's QEMU.

    :param runtime_directory: ``[isolation] libvirt_runtime_directory``
    :param domain: the guest's domain, running
    :returns: all that its XML asks for, with the processes that they forked
    :raises NotConfined: when one cannot be found
    """
    found = []
    short = domain_module.short_name(domain.id or '', domain.name)
    if any(tpm.kind == 'emulator' for tpm in domain.tpms):
        socket = f'{runtime_directory}/swtpm/{short}-swtpm.sock'
        emulators = list(_swtpms(socket))
        if not emulators:
            raise exceptions.NotConfined(
                f'the swtpm of the guest cannot be found: no process serves '
                f'{socket} by its command line'
            )
        found += [Helper('swtpm', '<tpm>', p, True) for p in emulators]
    for index, share in enumerate(domain.filesystems):
        if share.has_helper:
            path = f'{runtime_directory}/{short}-fs{index}-fs.pid'
            origin = f'<filesystem> {share.target}'
            process, arguments = _read(path, 'the virtiofsd')
            if not _shares(arguments, share.source or ''):
                raise exceptions.NotConfined(
                    f'process {process.pid}, which {path} names, is not the '
                    f'virtiofsd of {origin}'
                )
            found += [
                Helper('virtiofsd', origin, p, False)
                for p in (process, *_children(process))
            ]
    return tuple(found)


def _swtpms(socket: str) -> Iterator[Process]:
    # as libvirt writes it, which doubles commas
    option = f'path={socket.replace(",", ",,")}'
    for entry in os.listdir('/proc'):
        if not entry.isdigit():
            continue
        try:
            arguments = _arguments(int(entry))
            if any(
                name == '--ctrl' and f',{option},' in f',{value},'
                for name, value in itertools.pairwise(arguments)
            ):
                yield Process(int(entry), _started(int(entry)))
        except (OSError, ValueError):
            # it ended meanwhile
            continue


def _shares(arguments: list[str], source: str) -> bool:
    """Tell whether a command line is that of the virtiofsd of a directory."""
    # of Rust's and of QEMU's, as libvirt writes it
    option = f'source={source.replace(",", ",,")}'
    return any(
        (name == '--shared-dir' and value == source)
        or (name == '-o' and f'{value},'.startswith(f'{option},'))
        for name, value in itertools.pairwise(arguments)
    )


def _children(process: Process) -> Iterator[Process]:
    """Find the processes that a process, or one of these, has started."""
    try:
        threads = os.listdir(f'/proc/{process.pid}/task')
        for thread in threads:
            path = f'/proc/{process.pid}/task/{thread}/children'
            with open(path) as f:
                pids = [int(pid) for pid in f.read().split()]
            for pid in pids:
                child = Process(pid, _started(pid))
                yield child
                yield from _children(child)
    except (OSError, ValueError) as e:
        raise exceptions.NotConfined(
            f'the children of process {process.pid} cannot be found: {e}'
        ) from e


def _read(path: str, what: str) -> tuple[Process, list[str]]:
    """Find a process through a pid file of libvirt's."""
    try:
        with open(path) as f:
            pid = int(f.read(32))
        return Process(pid, _started(pid)), _arguments(pid)
    except (OSError, ValueError) as e:
        raise exceptions.NotConfined(
            f'the process of {what} cannot be found through {path}: {e}'
        ) from e


def _arguments(pid: int) -> list[str]:
    with open(f'/proc/{pid}/cmdline', 'rb') as f:
        return [os.fsdecode(a) for a in f.read(1 << 20).split(b'\0')]


def is_same(process: Process) -> bool:
    """Tell whether a process still runs.

    :param process: what :func:`find` gave
    :returns: whether its number still means the same process
    """
    try:
        return _started(process.pid) == process.started
    except (OSError, ValueError):
        return False


def opened(pid: int, end: float) -> frozenset[neighbours.Identity] | None:
    """Tell which files and devices a process has open or mapped.

    Looks several times: what goes back and forth meanwhile is seen in one of
    them. Of another user's process that needs CAP_SYS_PTRACE,
    CAP_DAC_READ_SEARCH and CAP_CHECKPOINT_RESTORE.

    :param pid: of the process
    :param end: when to give up, of ``time.monotonic()``
    :returns: what each of its threads has, whatever its name is by now; empty
        when the process is gone. None when it has files where nobody sees
        them: on their way through a socket of its own, or registered with an
        io_uring
    :raises TimeoutError: when it has so many that they cannot be looked
        through
    :raises OSError: when it may not be told
    """
    found: set[neighbours.Identity] = set()
    for _ in range(_LOOKS):
        threads = _entries(f'/proc/{pid}/task')
        for thread in threads:
            # a thread may have a table of its own: unshare(2)
            shared = thread != str(pid) and _share_files(pid, int(thread))
            if not shared and not _look_through(
                f'/proc/{pid}/task/{thread}', found, end
            ):
                return None
        for thread in threads:
            # of all threads alike, but not of a first one that has ended
            mapped = set(_mapped(thread))
            if mapped:
                found |= mapped
                break
    return frozenset(found)


def _look_through(
    directory: str, found: set[neighbours.Identity], end: float
) -> bool:
    """Add what a thread has open.

    :returns: whether that is all
    """
    for name in _entries(f'{directory}/fd'):
        if time.monotonic() > end:
            raise TimeoutError('it has too much open to be looked through')
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = os.stat(f'{directory}/fd/{name}')
            found.add(neighbours.identity_of(status))
            # what is no file of a file system can have files of its own
            if stat.S_IFMT(status.st_mode) not in _PLAIN and _hides(
                f'{directory}/fdinfo/{name}', f'{directory}/fd/{name}', end
            ):
                return False
    return True


def _hides(description: str, link: str, end: float) -> bool:
    """Tell whether a socket or an io_uring has files of its process."""
    end = min(end, time.monotonic() + _BUSY)
    while True:
        told = False
        with open(description, 'rb') as f:
            # of an io_uring that comes after all that is in its rings
            for line in f:
                if _HIDDEN.match(line) or time.monotonic() > end:
                    return True
                told = told or line.startswith(_TOLD)
        if told or os.readlink(link) != _IO_URING:
            return False
        # one that is busy says nothing: io_uring_show_fdinfo()
        time.sleep(_BUSY / 50)


def _share_files(one: int, other: int) -> bool:
    """Tell whether two threads have one table of files: kcmp(2)."""
    number = _KCMP.get(platform.machine())
    if number is None:
        return False
    return bool(_LIBC.syscall(number, one, other, _KCMP_FILES, 0, 0) == 0)


def _mapped(pid: str) -> Iterator[neighbours.Identity]:
    directory = f'/proc/{pid}/map_files'
    for name in _entries(directory):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield neighbours.identity_of(os.stat(f'{directory}/{name}'))


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, ProcessLookupError):
        # it ended meanwhile
        return []


def _started(pid: int) -> int:
    with open(f'/proc/{pid}/stat', 'rb') as f:
        # the second field, in brackets, may hold anything: proc(5)
        fields = f.read().rpartition(b')')[2].split()
    return int(fields[19])
