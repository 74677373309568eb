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

"""Capabilities that QEMU's user has been left with.

libvirt clears them unless it is told not to (``clear_emulator_capabilities``).
"""

import ctypes
import fcntl
import os
import resource
import socket
import struct
import subprocess
import time
from typing import Any

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks.actions import Do
from nova_isolation.tests.system.attacks.attempt import Attempt
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import audit
from nova_isolation.tests.system.attacks import syscalls

_FILE = f'{actions.PLACE}/of-root'
_OWN = f'{actions.PLACE}/of-qemu'


def _of_root(world: World) -> None:
    actions.reach(actions.PLACE)
    with open(_FILE, 'wb') as f:
        f.write(os.urandom(64))
    os.chown(_FILE, 0, 0)
    os.chmod(_FILE, 0o600)


def _own(world: World) -> None:
    actions.open_up(_OWN)
    os.chown(_OWN, actions.user(), -1)


def _chown(world: World) -> None:
    os.chown(_FILE, os.getuid(), -1)


def _chowned(world: World, got: Any, pid: int) -> bool:
    return os.stat(_FILE).st_uid == actions.user()


def _fowner(world: World) -> None:
    os.chmod(_FILE, 0o666)


def _fowned(world: World, got: Any, pid: int) -> bool:
    return os.stat(_FILE).st_mode & 0o777 == 0o666


def _dac_override(world: World) -> Any:
    return os.open(_FILE, os.O_RDWR)


def _holds(world: World, got: Any, pid: int) -> bool:
    return actions.same_file(pid, got, _FILE)


def _setuid(world: World) -> None:
    os.setresuid(0, 0, 0)


def _identity(pid: int, what: str) -> list[str]:
    with open(f'/proc/{pid}/status') as f:
        for line in f:
            if line.startswith(f'{what}:'):
                return line.split()[1:4]
    return []


def _setgid(world: World) -> None:
    os.setresgid(0, 0, 0)


def _packet_socket(world: World) -> Any:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    return sock.detach()


def _raw_socket(world: World) -> Any:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, 255).detach()


def _in_table(name: str, pid: int, fd: int, column: int) -> bool:
    inode = os.readlink(f'/proc/{pid}/fd/{fd}')[len('socket:[') : -1]
    with open(f'/proc/net/{name}') as f:
        return any(line.split()[column] == inode for line in f)


def _tun(world: World) -> Any:
    fd = os.open('/dev/net/tun', os.O_RDWR)
    # TUNSETIFF, IFF_TAP | IFF_NO_PI
    request = struct.pack('=16sH22x', b'captured0', 0x1002)
    fcntl.ioctl(fd, 0x400454CA, request)
    return fd


def _open_tun(world: World) -> None:
    os.chmod('/dev/net/tun', 0o666)


def _has_tun(world: World, got: Any, pid: int) -> bool:
    return os.path.exists('/sys/class/net/captured0')


def _mtu(world: World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # SIOCSIFMTU
        fcntl.ioctl(sock, 0x8922, struct.pack('=16si20x', b'lo', 1400))


def _has_mtu(world: World, got: Any, pid: int) -> bool:
    with open('/sys/class/net/lo/mtu') as f:
        return f.read().strip() == '1400'


def _restore_mtu(world: World) -> None:
    subprocess.run(['ip', 'link', 'set', 'lo', 'mtu', '65536'], check=True)


def _mknod(world: World) -> None:
    os.mknod(f'{actions.PLACE}/node', 0o060600, os.makedev(98, 0))


def _is_node(world: World, got: Any, pid: int) -> bool:
    return os.stat(f'{actions.PLACE}/node').st_rdev == os.makedev(98, 0)


def _remove_node(world: World) -> None:
    if os.path.exists(f'{actions.PLACE}/node'):
        os.unlink(f'{actions.PLACE}/node')


def _place(world: World) -> None:
    actions.reach(actions.PLACE, 0o002)


_MODULE: list[bytes] = []


def _find_module(world: World) -> None:
    release = os.uname().release
    path = f'/lib/modules/{release}/kernel/drivers/net/dummy.ko'
    if not os.path.exists(path):
        raise FileNotFoundError(2, path)
    with open(path, 'rb') as f:
        _MODULE[:] = [f.read()]


def _load_module(world: World) -> None:
    syscalls.call('init_module', _MODULE[0], len(_MODULE[0]), b'')


def _has_module(world: World, got: Any, pid: int) -> bool:
    return os.path.exists('/sys/module/dummy')


def _unload_module(world: World) -> None:
    subprocess.run(['rmmod', 'dummy'], check=False, capture_output=True)


def _kernel_log(world: World) -> Any:
    buffer = ctypes.create_string_buffer(1 << 16)
    length = syscalls.call('syslog', 3, buffer, len(buffer))
    return buffer.raw[:length].hex()


def _is_kernel_log(world: World, got: Any, pid: int) -> bool:
    said = subprocess.run(['dmesg', '-r'], check=True, capture_output=True)
    return bytes.fromhex(got)[-32:].strip() in said.stdout


def _restrict_log(world: World) -> None:
    with open('/proc/sys/kernel/dmesg_restrict', 'w') as f:
        f.write('1')


def _host_name(world: World) -> None:
    socket.sethostname('captured')


def _has_name(world: World, got: Any, pid: int) -> bool:
    return os.uname().nodename == 'captured'


def _restore_name(world: World) -> None:
    socket.sethostname('node1')


def _privileged_port(world: World) -> Any:
    sock = socket.socket()
    sock.bind(('127.0.0.1', 81))
    sock.listen()
    return sock.detach()


def _listens(world: World, got: Any, pid: int) -> bool:
    with socket.create_connection(('127.0.0.1', 81), 5):
        return True


def _nice(world: World) -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def _is_nice(world: World, got: Any, pid: int) -> bool:
    return os.sched_getscheduler(pid) == os.SCHED_FIFO


def _limit(world: World) -> None:
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
    except ValueError as e:
        # Python's word for EPERM
        raise PermissionError(1, str(e)) from e


def _has_limit(world: World, got: Any, pid: int) -> bool:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[1] == 1 << 20


def _lower_limit(world: World) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))


def _set_flags(flags: int) -> None:
    fd = os.open(_OWN, os.O_RDONLY)
    # FS_IOC_SETFLAGS
    fcntl.ioctl(fd, 0x40086602, struct.pack('=q', flags))
    os.close(fd)


def _is_immutable(world: World, got: Any, pid: int) -> bool:
    try:
        os.chmod(_OWN, 0o600)
    except PermissionError:
        return True
    return False


def _file_capability(world: World) -> None:
    value = struct.pack('=5I', 0x02000001, 1 << 21, 0, 0, 0)
    os.setxattr(_OWN, 'security.capability', value)


def _has_file_capability(world: World, got: Any, pid: int) -> bool:
    return 'security.capability' in os.listxattr(_OWN)


def _forge(world: World) -> None:
    audit.say('captured-forged', audit.FORGED)


def _is_forged(world: World, got: Any, pid: int) -> bool:
    return audit.wait_for('captured-forged')


def _set_audit(world: World) -> None:
    audit.status(enabled=1)


def _audit_set(world: World, got: Any, pid: int) -> bool:
    return audit.status(enabled=None) == 1


def _reset_audit(world: World) -> None:
    audit.status(enabled=0)


def _listen_to_audit(world: World) -> Any:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)
    sock.bind((0, 1))
    return sock.detach()


def _in_netlink(world: World, got: Any, pid: int) -> bool:
    return _in_table('netlink', pid, got, 9)


_KEYS = '/proc/sys/kernel/ctrl-alt-del'


def _reboot(world: World) -> None:
    # the one command that reboots nothing: LINUX_REBOOT_CMD_CAD_OFF
    syscalls.call('reboot', -18751827, 672274793, 0, ctypes.c_void_p(None))


def _keys_are_off(world: World, got: Any, pid: int) -> bool:
    with open(_KEYS) as f:
        return f.read().strip() == '0'


def _keys_on(world: World) -> None:
    with open(_KEYS, 'w') as f:
        f.write('1')


_JUMP = 0.4  # seconds
_BEFORE: list[float] = []


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(
        time.CLOCK_MONOTONIC
    )


def _jump(seconds: float) -> None:
    now = time.clock_gettime(time.CLOCK_REALTIME)
    time.clock_settime(time.CLOCK_REALTIME, now + seconds)


def _jumped(world: World, got: Any, pid: int) -> bool:
    return abs(_since_boot() - _BEFORE[0]) > _JUMP / 2


def _remember_time(world: World) -> None:
    _BEFORE[:] = [_since_boot()]


def _restore_time(world: World) -> None:
    if _jumped(world, None, 0):
        _jump(-_JUMP)


def _bpf(world: World) -> Any:
    # BPF_MAP_CREATE of a BPF_MAP_TYPE_ARRAY
    attributes = struct.pack('=IIII', 2, 4, 8, 1).ljust(72, b'\0')
    return syscalls.call('bpf', 0, attributes, len(attributes))


def _has_bpf(world: World, got: Any, pid: int) -> bool:
    with open(f'/proc/{pid}/fdinfo/{got}') as f:
        return 'map_type' in f.read()


def _restrict_bpf(world: World) -> None:
    with open('/proc/sys/kernel/unprivileged_bpf_disabled', 'w') as f:
        f.write('2')


def _trusted_attribute(world: World) -> None:
    os.setxattr(_OWN, 'trusted.captured', b'1')


def _has_trusted(world: World, got: Any, pid: int) -> bool:
    return 'trusted.captured' in os.listxattr(_OWN)


def _accounting(world: World) -> None:
    syscalls.call('acct', _OWN.encode())


def _stop_accounting(world: World) -> None:
    syscalls.call('acct', ctypes.c_void_p(None))


def _accounts(world: World, got: Any, pid: int) -> bool:
    before = os.stat(_OWN).st_size
    subprocess.run(['true'], check=True)
    return os.stat(_OWN).st_size > before


TABLE = (
    Attempt(
        'chown a file of root',
        Do(_chown, _chowned, _of_root),
        ('chown', 'dac_override'),
    ),
    Attempt(
        'chmod a file of root', Do(_fowner, _fowned, _of_root), ('fowner',)
    ),
    Attempt(
        'open a file of root',
        Do(_dac_override, _holds, _of_root),
        ('dac_override',),
    ),
    Attempt(
        'read a file of root',
        Do(lambda world: os.open(_FILE, os.O_RDONLY), _holds, _of_root),
        ('dac_read_search',),
    ),
    Attempt(
        'become root',
        Do(
            _setuid,
            lambda world, got, pid: _identity(pid, 'Uid') == ['0'] * 3,
        ),
        ('setuid',),
    ),
    Attempt(
        "take root's group",
        Do(
            _setgid,
            lambda world, got, pid: _identity(pid, 'Gid') == ['0'] * 3,
        ),
        ('setgid',),
    ),
    Attempt(
        'sniff the network of the host',
        Do(
            _packet_socket,
            lambda world, got, pid: _in_table('packet', pid, got, 8),
        ),
        ('net_raw',),
    ),
    Attempt(
        'forge packets with a raw socket',
        Do(
            _raw_socket,
            lambda world, got, pid: _in_table('raw', pid, got, 9),
        ),
        ('net_raw',),
    ),
    Attempt(
        'make a network interface',
        Do(_tun, _has_tun, _open_tun),
        ('net_admin',),
    ),
    Attempt(
        'change a network interface of the host',
        Do(_mtu, _has_mtu, None, _restore_mtu),
        ('net_admin',),
    ),
    Attempt(
        'listen at a port below 1024',
        Do(_privileged_port, _listens),
        ('net_bind_service',),
    ),
    Attempt(
        'make a node of a disk of the host',
        Do(_mknod, _is_node, _place, _remove_node),
        ('mknod', 'dac_override'),
    ),
    Attempt(
        'load a module into the kernel',
        Do(_load_module, _has_module, _find_module, _unload_module),
        ('sys_module',),
    ),
    Attempt(
        'read the log of the kernel',
        Do(_kernel_log, _is_kernel_log, _restrict_log),
        ('syslog',),
    ),
    Attempt(
        'change the name of the host',
        Do(_host_name, _has_name, None, _restore_name),
        ('sys_admin',),
    ),
    Attempt(
        'give a file a trusted attribute',
        Do(_trusted_attribute, _has_trusted, _own),
        ('sys_admin',),
    ),
    Attempt(
        'switch on process accounting',
        Do(_accounting, _accounts, _own, _stop_accounting),
        ('sys_pacct',),
    ),
    Attempt('take real-time priority', Do(_nice, _is_nice), ('sys_nice',)),
    Attempt(
        'raise a limit',
        Do(_limit, _has_limit),
        ('sys_resource',),
    ),
    Attempt(
        'make a file immutable',
        Do(
            lambda world: _set_flags(0x10),
            _is_immutable,
            _own,
            lambda world: _set_flags(0),
        ),
        ('linux_immutable',),
    ),
    Attempt(
        'give a file capabilities',
        Do(_file_capability, _has_file_capability, _own),
        ('setfcap',),
    ),
    Attempt(
        'forge a record of the audit',
        Do(_forge, _is_forged),
        ('audit_write',),
    ),
    Attempt(
        'change the settings of the audit',
        Do(_set_audit, _audit_set, _reset_audit, _reset_audit),
        ('audit_control',),
    ),
    Attempt(
        'listen to the audit',
        Do(_listen_to_audit, _in_netlink),
        ('audit_read',),
    ),
    Attempt(
        'make a map for BPF programs',
        Do(_bpf, _has_bpf, _restrict_bpf),
        ('bpf',),
    ),
    Attempt(
        'set what ctrl-alt-del does',
        Do(_reboot, _keys_are_off, _keys_on, _keys_on),
        ('sys_boot',),
    ),
    Attempt(
        'set the clock',
        Do(lambda world: _jump(_JUMP), _jumped, _remember_time, _restore_time),
        ('sys_time',),
    ),
)
