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

"""Devices, consoles of others, and ways round the calls that open them.

Where the machine has no such device, a node of that name is made: what the
label says to the name is what counts.
"""

import ctypes
import os
from typing import Any

from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks.actions import Do
from nova_isolation.tests.system.attacks.actions import Lock
from nova_isolation.tests.system.attacks.actions import Open
from nova_isolation.tests.system.attacks.actions import OpenNode
from nova_isolation.tests.system.attacks.actions import Read
from nova_isolation.tests.system.attacks.attempt import Attempt
from nova_isolation.tests.system.attacks.attempt import Why
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import syscalls

_NODES = (
    ("hardware virtualisation", '/dev/kvm', False),
    ("another guest's VFIO group", '/dev/vfio/42', False),
    ("VFIO's container", '/dev/vfio/vfio', False),
    ("an mdev's IOMMU device", '/dev/vfio/devices/vfio42', False),
    ('vhost for the network', '/dev/vhost-net', False),
    ('vhost for vsock', '/dev/vhost-vsock', False),
    ('a disk of the host', '/dev/ubda', True),
    ("a neighbour's volume", '/dev/dm-42', True),
    ("a neighbour's iSCSI disk", '/dev/sdz', True),
    ('a SCSI device', '/dev/sg42', False),
    ('an NVMe device', '/dev/nvme42', False),
    ('the ports of the host', '/dev/port', False),
    ('tap interfaces', '/dev/net/tun', False),
    ("a neighbour's macvtap", '/dev/tap42', False),
    ('FUSE', '/dev/fuse', False),
    ('the loop devices', '/dev/loop-control', False),
    ('the device mapper', '/dev/mapper/control', False),
    ('faults of user space', '/dev/userfaultfd', False),
    ('a keyboard of the host', '/dev/input/event42', False),
    ('a USB device of the host', '/dev/bus/usb/042/042', False),
    ('a graphics card of the host', '/dev/dri/renderD142', False),
    ("the host's TPM", '/dev/tpm42', False),
    ("a sound card of the host", '/dev/snd/pcmC42D0p', False),
    ('a serial port of the host', '/dev/ttyS142', False),
    ("a watchdog of the host", '/dev/watchdog42', False),
    ('an SGX enclave', '/dev/sgx_vepc', False),
    ('the encryption of guests', '/dev/sev', False),
)


def _userfault(world: World) -> Any:
    # UFFD_USER_MODE_ONLY
    return syscalls.call('userfaultfd', 1)


def _is_userfault(world: World, got: Any, pid: int) -> bool:
    return 'userfaultfd' in os.readlink(f'/proc/{pid}/fd/{got}')


def _ring_open(world: World) -> Any:
    ring = syscalls.Ring()
    path = ctypes.create_string_buffer(world.neighbour.disk.encode())
    # IORING_OP_OPENAT
    return ring.do(18, -100, address=ctypes.addressof(path), flags=os.O_RDWR)


def _is_disk(world: World, got: Any, pid: int) -> bool:
    return actions.same_file(pid, got, world.neighbour.disk)


_VICTIM = f'{actions.PLACE}/of-a-neighbour'


def _victim(world: World) -> None:
    actions.reach(actions.PLACE, 0o002)
    actions.open_up(_VICTIM)
    os.chown(_VICTIM, actions.user(), -1)


def _ring_unlink(world: World) -> None:
    ring = syscalls.Ring()
    path = ctypes.create_string_buffer(_VICTIM.encode())
    # IORING_OP_UNLINKAT
    ring.do(36, -100, address=ctypes.addressof(path))


def _gone(world: World, got: Any, pid: int) -> bool:
    return not os.path.exists(_VICTIM)


TABLE = (
    *(
        Attempt(f'open {what}: {path}', OpenNode(path, block=block))
        for what, path, block in _NODES
    ),
    Attempt(
        'open the memory of the host: /dev/mem',
        OpenNode('/dev/mem'),
        ('sys_rawio',),
    ),
    Attempt(
        'open the log of the kernel: /dev/kmsg',
        OpenNode('/dev/kmsg'),
        ('syslog',),
    ),
    Attempt("open a neighbour's console", Open('{neighbour.pty}')),
    Attempt(
        "read a neighbour's hot-plugged disk", Read('{neighbour.plugged}')
    ),
    Attempt(
        "open a neighbour's hot-plugged disk for writing",
        OpenNode('{neighbour.plugged}', block=True),
    ),
    Attempt(
        "lock a neighbour's hot-plugged disk", Lock('{neighbour.plugged}')
    ),
    Attempt('read a disk that was unplugged', Read('{unplugged}')),
    Attempt(
        'open a disk that was unplugged for writing',
        OpenNode('{unplugged}', block=True),
    ),
    Attempt(
        "open a neighbour's disk through io_uring",
        Do(_ring_open, _is_disk),
    ),
    Attempt(
        "remove another's file through io_uring",
        Do(_ring_unlink, _gone, _victim),
    ),
    Attempt(
        'handle page faults of the own process',
        Do(_userfault, _is_userfault),
        why=Why.NO_HOOK,
    ),
)
