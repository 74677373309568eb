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

"""System calls that Python does not offer, and a few constants."""

import ctypes
import mmap
import os
import struct
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)

# capabilities(7), by the names that AppArmor gives them
CAPABILITIES = {
    name: number
    for number, name in enumerate(
        'chown dac_override dac_read_search fowner fsetid kill setgid setuid'
        ' setpcap linux_immutable net_bind_service net_broadcast net_admin'
        ' net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot'
        ' sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource'
        ' sys_time sys_tty_config mknod lease audit_write audit_control'
        ' setfcap mac_override mac_admin syslog wake_alarm block_suspend'
        ' audit_read perfmon bpf checkpoint_restore'.split()
    )
}

# Numbers of x86-64.
SYS = {
    'ptrace': 101,
    'syslog': 103,
    'pivot_root': 155,
    'mount': 165,
    'umount2': 166,
    'reboot': 169,
    'init_module': 175,
    'ioprio_set': 251,
    'add_key': 248,
    'keyctl': 250,
    'mq_open': 240,
    'mq_timedsend': 242,
    'shmget': 29,
    'shmat': 30,
    'msgget': 68,
    'msgsnd': 69,
    'semget': 64,
    'semctl': 66,
    'name_to_handle_at': 303,
    'open_by_handle_at': 304,
    'setns': 308,
    'unshare': 272,
    'process_vm_readv': 310,
    'process_vm_writev': 311,
    'kcmp': 312,
    'bpf': 321,
    'userfaultfd': 323,
    'execveat': 322,
    'io_uring_setup': 425,
    'io_uring_enter': 426,
    'open_tree': 428,
    'move_mount': 429,
    'fsopen': 430,
    'fsconfig': 431,
    'fsmount': 432,
    'pidfd_open': 434,
    'openat2': 437,
    'pidfd_getfd': 438,
    'capset': 126,
    'personality': 135,
    'fanotify_init': 300,
    'perf_event_open': 298,
    'quotactl': 179,
    'swapon': 167,
    'acct': 163,
}

PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
CLONE_NEWPID = 0x20000000


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)
    return result


def call(name: str, *arguments: Any) -> int:
    """Make a system call.

    :param name: in :data:`SYS`
    :param arguments: integers, bytes, or what ctypes takes
    :returns: its result
    :raises OSError: when the kernel refuses
    """
    LIBC.syscall.restype = ctypes.c_long
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(LIBC.syscall(ctypes.c_long(SYS[name]), *values), name)


def prctl(option: int, *arguments: Any) -> None:
    """Call prctl(2).

    :param option: one of ``PR_*``
    :param arguments: its arguments
    :raises OSError: when the kernel refuses
    """
    values = [
        ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments
    ]
    values += [ctypes.c_ulong(0)] * (4 - len(values))
    _checked(LIBC.prctl(option, *values), 'prctl')


def set_capabilities(names: tuple[str, ...]) -> None:
    """Keep these capabilities, effective and permitted, and no other.

    :param names: in :data:`CAPABILITIES`
    """
    bits = sum(1 << CAPABILITIES[name] for name in names)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = struct.pack('=Ii', 0x20080522, 0)
    data = struct.pack('=6I', low, low, 0, high, high, 0)
    call('capset', header, data)


def mount(source: str, target: str, kind: str, flags: int = 0) -> None:
    """Call mount(2).

    :param source: what is mounted
    :param target: where
    :param kind: of file system
    :param flags: MS_*
    """
    call(
        'mount',
        source.encode(),
        target.encode(),
        kind.encode(),
        flags,
        ctypes.c_void_p(None),
    )


def enter_user_namespace() -> None:
    """Become the root of a user namespace of one's own."""
    uid, gid = os.getuid(), os.getgid()
    call('unshare', CLONE_NEWUSER)
    for name, text in (
        ('uid_map', f'0 {uid} 1'),
        ('setgroups', 'deny'),
        ('gid_map', f'0 {gid} 1'),
    ):
        # under a label /proc may be closed; the namespace is there all the
        # same, with all capabilities
        try:
            with open(f'/proc/self/{name}', 'w') as f:
                f.write(text)
        except PermissionError:
            return


def _io_vector(address: int, length: int) -> bytes:
    return struct.pack('=QQ', address, length)


def copy_memory(pid: int, address: int, length: int) -> bytes:
    """Read another process's memory with process_vm_readv(2).

    :param pid: of the process
    :param address: there
    :param length: in bytes
    :returns: what is there
    """
    buffer = ctypes.create_string_buffer(length)
    local = _io_vector(ctypes.addressof(buffer), length)
    remote = _io_vector(address, length)
    got = call('process_vm_readv', pid, local, 1, remote, 1, 0)
    return buffer.raw[:got]


def overwrite_memory(pid: int, address: int, content: bytes) -> None:
    """Write another process's memory with process_vm_writev(2).

    :param pid: of the process
    :param address: there
    :param content: what to write
    """
    buffer = ctypes.create_string_buffer(content, len(content))
    local = _io_vector(ctypes.addressof(buffer), len(content))
    remote = _io_vector(address, len(content))
    call('process_vm_writev', pid, local, 1, remote, 1, 0)


class Ring:
    """An io_uring with room for a few operations, done one by one.

    Offsets are those of struct io_uring_params (linux/io_uring.h).
    """

    _ENTRY = struct.Struct('=BBHiQQIIQHHiQQ')

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(120)
        self.fd = call('io_uring_setup', 4, parameters)
        submission = struct.unpack_from('=10I', parameters.raw, 40)
        completion = struct.unpack_from('=10I', parameters.raw, 80)
        entries, completions = struct.unpack_from('=2I', parameters.raw, 0)
        self._tail, self._mask, self._array = (
            submission[1],
            submission[2],
            submission[6],
        )
        self._results = completion[5]
        size = max(
            submission[6] + entries * 4, completion[5] + completions * 16
        )
        self._ring = mmap.mmap(self.fd, size, offset=0)
        self._entries = mmap.mmap(self.fd, entries * 64, offset=0x10000000)
        self._done = 0

    def do(
        self,
        operation: int,
        fd: int,
        *,
        address: int,
        length: int = 0,
        offset: int = 0,
        flags: int = 0,
    ) -> int:
        """Do one operation.

        :param operation: IORING_OP_*
        :param fd: file descriptor
        :param address: of a buffer, a path or a socket address
        :param length: of it, or a mode
        :param offset: in the file, or of the operation
        :param flags: of the operation
        :returns: its result
        :raises OSError: when it was refused
        """
        (tail,) = struct.unpack_from('=I', self._ring, self._tail)
        (mask,) = struct.unpack_from('=I', self._ring, self._mask)
        index = tail & mask
        self._ENTRY.pack_into(
            self._entries,
            index * 64,
            operation,
            0,
            0,
            fd,
            offset,
            address,
            length,
            flags,
            0,
            0,
            0,
            0,
            0,
            0,
        )
        struct.pack_into('=I', self._ring, self._array + index * 4, index)
        struct.pack_into('=I', self._ring, self._tail, tail + 1)
        call('io_uring_enter', self.fd, 1, 1, 1, ctypes.c_void_p(None), 0)
        _, result, _ = struct.unpack_from(
            '=QiI', self._ring, self._results + (self._done % 8) * 16
        )
        self._done += 1
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return int(result)
