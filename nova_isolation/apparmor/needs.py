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

"""What QEMU and libvirt need for themselves, by what it is for.

None of it belongs to a guest. Each entry was measured: without it a guest does
not start or work, or the kernel logs a denial at every start that is none of
the guest's doing. What is only noise is denied quietly, with the reason.
"""

from collections.abc import Callable

from nova_isolation.apparmor import rules
from nova_isolation.apparmor.rules import Glob

# What a socket that listens takes; all but connecting to others.
LISTENING = (
    'create',
    'bind',
    'listen',
    'accept',
    'getattr',
    'setattr',
    'getopt',
    'setopt',
    'shutdown',
    'send',
    'receive',
)

# The labels under which libvirt's daemon runs, the monolithic and the modular
# one, if not unconfined. (Its profile was named by its path before libvirt 5.)
_LIBVIRT = ('libvirtd', 'virtqemud')
_UNCONFINED = 'unconfined'
# The profile that etc/apparmor.d brings for it.
_VIRTIOFSD = 'libvirt-virtiofsd'


def _file(why: str, access: str, *path: str | Glob) -> rules.File:
    return rules.File(path, access, why)


def _quiet(why: str, access: str, *path: str | Glob) -> rules.File:
    return rules.File(path, access, f'quietly denied: {why}', deny=True)


def start() -> list[rules.Rule]:
    """What libvirt does in the new process before it runs the emulator, and
    what that does once, before its guest runs.

    Only for the start: an emulator that runs has no use for it.

    :returns: the rules
    """
    why = 'libvirt changes profile before it drops its uid'
    return [
        rules.Capability('setgid', why),
        rules.Capability('setuid', why),
        *[
            _file('libraries and QEMU look at the kernel once', 'r', *path)
            for path in (
                ('/proc/filesystems',),
                ('/proc/sys/vm/max_map_count',),  # QEMU 10
                ('/sys/devices/system/node', Glob.DIRECTORY),
            )
        ],
    ]


def modules() -> list[rules.Rule]:
    """Modules of a QEMU that runs while its package is upgraded.

    Only once it runs: one that starts has those of its package.

    :returns: the rules
    """
    path = ('/run/qemu/', Glob.ANY, '/', Glob.ANY, '.so')
    return [_file("QEMU's modules after an upgrade", 'rm', *path)]


def supervision() -> list[rules.Rule]:
    """How libvirt and the operator watch and end the process.

    These are rights of others over the guest, not of the guest.

    :returns: the rules
    """
    peers = (*_LIBVIRT, _UNCONFINED)
    end, read = 'libvirt or root ends the guest', 'they read its /proc'
    return [
        *[rules.Signal('receive', peer, end) for peer in peers],
        *[rules.Ptrace('readby', peer, read) for peer in peers],
    ]


def monitor() -> list[rules.Rule]:
    """The monitor's socket, which libvirt opens and hands over.

    :returns: the rules
    """
    why = "libvirt's monitor"
    own = tuple(o for o in LISTENING if o not in ('send', 'receive'))
    return [
        rules.Unix(own, why),
        *[
            rules.Unix(('send', 'receive'), why, peer)
            for peer in (*_LIBVIRT, _UNCONFINED)
        ],
    ]


def emulator() -> list[rules.Rule]:
    """Libraries, firmware and devices without state of any guest.

    :returns: the rules
    """
    libraries, firmware = 'shared libraries', 'firmware of emulated devices'
    found: list[rules.Rule] = [
        _file(libraries, 'rm', '/usr/lib/', Glob.TREE, '.so', Glob.ANY),
        _file(libraries, 'r', '/etc/ld.so.cache'),
        _file('output thrown away', 'rw', '/dev/null'),
        _file('random numbers', 'r', '/dev/urandom'),
        _file('the real time clock', 'r', '/usr/share/zoneinfo/', Glob.TREE),
    ]
    for directory in (
        '/usr/share/qemu/',
        '/usr/share/seabios/',
        '/usr/lib/ipxe/qemu/',
    ):
        found.append(_file(firmware, 'r', directory, Glob.TREE))
    for name in (
        '/proc/stat',
        '/proc/sys/vm/overcommit_memory',  # QEMU 10
        # glibc's malloc, with many threads; libraries that come later
        '/sys/devices/system/cpu/online',
        '/sys/devices/system/cpu/possible',
    ):
        found.append(_file('what the kernel offers', 'r', name))
    return found


def noise() -> list[rules.Rule]:
    """What QEMU tries and does without.

    A rule for "its own" /proc would not be that: in AppArmor any process id
    matches, and all guests share one uid.

    :returns: the rules
    """
    found: list[rules.Rule] = [
        _quiet(
            'QEMU names the sender of a signal in its log',
            'r',
            '/proc/',
            Glob.DIGITS,
            '/cmdline',
        ),
        rules.Network(
            'netlink',
            'raw',
            'quietly denied: the C library lists the interfaces',
            deny=True,
        ),
    ]
    for name in ('status', 'mounts'):
        found.append(
            _quiet(
                'shows what QEMU knows already, and of any process',
                'r',
                '/proc/',
                Glob.DIGITS,
                '/',
                name,
            )
        )
    return found


def kvm() -> list[rules.Rule]:
    """Hardware virtualisation.

    :returns: the rules
    """
    return [_file('the domain is of type kvm', 'rw', '/dev/kvm')]


def tap() -> list[rules.Rule]:
    """Interfaces whose tap device libvirt opens and hands over.

    Each read and write of the descriptor is checked against this path. To make
    or join a device through it takes CAP_NET_ADMIN, which QEMU does not have.

    :returns: the rules
    """
    path = ('/', Glob.HANDED_OVER, 'dev/net/tun')
    return [_file('<interface>', 'rw', *path)]


def vhost() -> list[rules.Rule]:
    """Devices whose data the host's kernel moves.

    :returns: the rules
    """
    path = '/sys/module/vhost/parameters/max_mem_regions'
    return [_file('how much memory vhost can be told of', 'r', path)]


def vhost_net() -> list[rules.Rule]:
    """Interfaces whose packets the host's kernel moves, as with KVM it does.

    libvirt opens the device; at a hot-plug QEMU receives it.

    :returns: the rules
    """
    path = ('/', Glob.HANDED_OVER, 'dev/vhost-net')
    return [_file('<interface> with vhost', 'rw', *path)]


def block() -> list[rules.Rule]:
    """What QEMU asks of a block device: sizes, and how a zoned one is zoned.

    By the device's place in sysfs, which only the kernel knows.

    :returns: the rules
    """
    return [
        _file(
            'limits of block devices',
            'r',
            '/sys/devices/',
            Glob.TREE,
            f'/queue/{name}',
        )
        for name in (
            'chunk_sectors',
            'max_active_zones',
            'max_open_zones',
            'max_segments',
            'nr_zones',
            'zone_append_max_bytes',
            'zoned',
        )
    ]


def listen_inet() -> list[rules.Rule]:
    """Listening on IPv4: for VNC, SPICE, consoles.

    :returns: the rules
    """
    why = 'QEMU listens on an IPv4 address'
    return [rules.Network('inet', 'stream', why, LISTENING)]


def listen_inet6() -> list[rules.Rule]:
    """Listening on IPv6: for VNC, SPICE, consoles.

    :returns: the rules
    """
    why = 'QEMU listens on an IPv6 address'
    return [rules.Network('inet6', 'stream', why, LISTENING)]


def connect_inet() -> list[rules.Rule]:
    """Connecting over IPv4: disks that QEMU itself gets from the network.

    :returns: the rules
    """
    why = 'QEMU connects over IPv4'
    return [rules.Network('inet', 'stream', why)]


def connect_inet6() -> list[rules.Rule]:
    """Connecting over IPv6: disks that QEMU itself gets from the network.

    :returns: the rules
    """
    why = 'QEMU connects over IPv6'
    return [rules.Network('inet6', 'stream', why)]


def connect_unix() -> list[rules.Rule]:
    """Connecting to a socket of the host.

    AppArmor 4 asks for the label at the other end and not for the path;
    AppArmor 3 does not tell connecting from the rest.

    :returns: the rules
    """
    why = 'QEMU connects to a process of the host'
    return [
        rules.Unix(('connect', 'send', 'receive'), why, peer)
        for peer in (_UNCONFINED, _VIRTIOFSD)
    ]


def spice() -> list[rules.Rule]:
    """What the library of SPICE tries and does without.

    :returns: the rules
    """
    sasl = 'SASL, which is off, looks for its plugins and for the system log'
    return [
        _quiet(sasl, 'r', '/usr/lib/', Glob.ANY, '/sasl2', Glob.DIRECTORY),
        rules.Network('unix', 'dgram', f'quietly denied: {sasl}', deny=True),
        _quiet(
            'names of threads, of any process',
            'rw',
            '/proc/',
            Glob.DIGITS,
            '/task/',
            Glob.DIGITS,
            '/comm',
        ),
    ]


def names() -> list[rules.Rule]:
    """Looking up the names of servers.

    :returns: the rules
    """
    why = 'a server is given by its name'
    files = ('gai.conf', 'host.conf', 'hosts', 'nsswitch.conf', 'resolv.conf')
    return [
        *[_file(why, 'r', f'/etc/{name}') for name in files],
        rules.Network('inet', 'dgram', why),
        rules.Network('inet6', 'dgram', why),
    ]


def ceph() -> list[rules.Rule]:
    """What Ceph's client tries and does without.

    :returns: the rules
    """
    why = "Ceph's tracing, which shares memory between all guests"
    return [
        _quiet(why, 'rw', f'/{top}/shm/lttng-ust-wait-', Glob.ANY)
        for top in ('dev', 'run')
    ]


def swtpm() -> list[rules.Rule]:
    """The emulator of a TPM, which libvirt starts with the guest's label.

    :returns: the rules
    """
    why = '<tpm type=emulator>'
    return [
        _file(why, 'rmix', '/usr/bin/swtpm'),
        _file(why, 'r', '/etc/ssl/openssl.cnf'),
    ]


def macvtap() -> list[rules.Rule]:
    """A macvtap device that is not known before libvirt has made it.

    Only until the guest runs: then its own is.

    :returns: the rules
    """
    why = '<interface type=direct>'
    path = ('/', Glob.HANDED_OVER, 'dev/tap', Glob.DIGITS)
    return [_file(why, 'rw', *path)]


#: in every profile, in this order
ALWAYS: tuple[Callable[[], list[rules.Rule]], ...] = (
    supervision,
    monitor,
    emulator,
    noise,
)

#: by the name that a policy asks for them with
OPTIONAL: dict[str, Callable[[], list[rules.Rule]]] = {
    'kvm': kvm,
    'tap': tap,
    'vhost': vhost,
    'vhost-net': vhost_net,
    'block': block,
    'listen-inet': listen_inet,
    'listen-inet6': listen_inet6,
    'connect-inet': connect_inet,
    'connect-inet6': connect_inet6,
    'connect-unix': connect_unix,
    'spice': spice,
    'names': names,
    'ceph': ceph,
    'swtpm': swtpm,
    'macvtap': macvtap,
}
