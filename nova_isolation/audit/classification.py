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

"""What a denial means: what it was aimed at, how bad that is, and why.

Pure. Text alone can mislead: what an attacker names, what an XML names that
is older than a device, what a symbolic link led to a moment ago. So where a
name decides between "another guest's" and "our profile is too tight", the
kernel is asked (``judge``) what the loaded profiles grant on that very path:

* named by the guest's own XML, granted by no profile: a ``policy_gap``, with
  the rule that would grant it. It is for review, and never loaded by itself;
* named by the guest's own XML, granted to another guest alone: the name means
  that guest's file now, so ``cross_instance``;
* granted by the guest's own profile, and denied all the same: no rule would
  help. The right came after the attempt, or another condition failed (the
  owner of the file, a lock, the other end of a rename), so it is neither;
* named by another guest's XML: ``cross_instance``, unless the kernel grants it
  to this guest and not to that one, which is what a device that changed hands
  looks like.

The kernel answers for the present, a record is of the past: of records that
are read back after hours, it is the table of guests that is as old as the
answer.
"""

from collections.abc import Callable
import dataclasses
import re

from nova_isolation.apparmor import needs
from nova_isolation.apparmor import rules
from nova_isolation.audit import attempts
from nova_isolation.audit import attribution
from nova_isolation.audit import services
from nova_isolation import exceptions

CROSS_INSTANCE = 'cross_instance'
HOST_FILE = 'host_file'
EXEC = 'exec'
CAPABILITY = 'capability'
NETWORK = 'network'
PROCESS = 'process'
DEVICE = 'device'
POLICY_GAP = 'policy_gap'

LOW = 'low'
MEDIUM = 'medium'
HIGH = 'high'
CRITICAL = 'critical'

#: (uuid of a guest, path) to the access that the guest's loaded profile
#: grants there, see :meth:`nova_isolation.apparmor.kernel.Judge.file`
Judge = Callable[[str, str], str]


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """What an attempt was aimed at.

    :ivar kind: one of :mod:`.attribution`'s, or ``unnamed file``, ``process``,
        ``socket``, ``network``, ``host service``, ``capability``, ``profile``,
        ``unknown``
    :ivar path: of a file or socket
    :ivar owner: the uuid of the guest that it belongs to, or None
    :ivar name: what it is, in words, or ''
    :ivar certain: see :class:`attribution.Target`
    """

    kind: str
    path: str | None = None
    owner: str | None = None
    name: str = ''
    certain: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Meaning:
    """What an attempt means.

    :ivar category: one of this module's
    :ivar severity: one of this module's
    :ivar reason: why, in words
    :ivar rule: of a ``policy_gap`` the rule that would grant it, or None
    :ivar owner: the guest whose it is, where the kernel knows better than the
        names; else None
    """

    category: str
    severity: str
    reason: str
    rule: str | None = None
    owner: str | None = None


def target(attempt: attempts.Attempt, table: attribution.Table) -> Target:
    """Find what an attempt was aimed at.

    :param attempt: what was tried
    :param table: the guests of this host
    :returns: the target
    """
    match attempt.kind:
        case attempts.CAPABILITY:
            return Target('capability')
        case attempts.PROCESS:
            return _process(attempt, table)
        case attempts.PROFILE:
            return Target('profile')
        case attempts.NETWORK:
            return _network(attempt, table)
        case attempts.UNIX:
            return _unix(attempt, table)
    if attempt.path is None:
        return Target('unknown')
    return _file(attempt, table)


def _peer(attempt: attempts.Attempt, table: attribution.Table) -> str | None:
    """Find the guest at the other end by its label or process."""
    owner = attribution.subject(attempt.peer) or table.of_context(attempt.peer)
    if owner is None and attempt.process is not None:
        owner = table.of_pid(attempt.process)
    return owner


def _process(attempt: attempts.Attempt, table: attribution.Table) -> Target:
    # of AppArmor, the label is the denial's peer
    name = f'with the context {attempt.peer}' if attempt.selinux else ''
    return Target('process', owner=_peer(attempt, table), name=name)


def _network(attempt: attempts.Attempt, table: attribution.Table) -> Target:
    address, port = attempt.remote
    if not (attempt.reaching and port):
        return Target('network')
    where = f'{address} port {port}'.strip()
    found = table.listener(address, port, attempt.local[0])
    if found is not None:
        return Target('console', None, found[0], f'{found[1].what} at {where}')
    service = services.of_port(port)
    if service is not None:
        return Target('host service', name=f'{service[0]} at {where}')
    return Target('network', name=where)


def _unix(attempt: attempts.Attempt, table: attribution.Table) -> Target:
    owner = _peer(attempt, table)
    path = attempt.file
    if path is None:
        # abstract, or the name of a file without its directories
        known = table.file_of(owner, attempt.path or '') if owner else None
        if known is not None:
            return Target(known.kind, known.path, owner)
        return Target('socket', attempt.path, owner)
    found = table.target(path, attempt.subject)
    if found.owner is not None:
        return Target(found.kind, path, found.owner, certain=found.certain)
    service = services.of_socket(path)
    if service is not None and owner is None:
        return Target('host service', path, name=service[0])
    return Target('socket', path, owner, certain=owner is not None)


def _file(attempt: attempts.Attempt, table: attribution.Table) -> Target:
    path = attempt.path
    assert path is not None
    # SELinux' label of the file says whose it is, whatever its name
    owner = table.of_context(attempt.peer) if attempt.peer else None
    if attempt.file is None:
        known = table.file_of(owner, path) if owner else None
        if known is not None:
            return Target(known.kind, known.path, owner)
        return Target('unnamed file', path, owner)
    found = table.target(path, attempt.subject)
    if owner is not None:
        kind = 'disk' if found.kind == 'host file' else found.kind
        return Target(kind, path, owner)
    if found.kind != attribution.HOST_FILE:
        return Target(found.kind, path, found.owner, certain=found.certain)
    service = services.of_socket(path)
    if service is not None:
        return Target('host service', path, name=service[0])
    if attempt.class_ in ('blk_file', 'chr_file') or _is_device(path):
        return Target('device', path, certain=False)
    return Target(attribution.HOST_FILE, path, certain=False)


def _is_device(path: str) -> bool:
    path = path.removeprefix(rules.DISCONNECTED)
    return path.startswith('/dev/') and not path.startswith(
        ('/dev/shm/', '/dev/hugepages', '/dev/mqueue/')  # noqa: S108
    )


def classify(
    attempt: attempts.Attempt,
    target: Target,
    table: attribution.Table,
    judge: Judge | None = None,
) -> Meaning:
    """Tell what an attempt means.

    :param attempt: what was tried
    :param target: what it was aimed at
    :param table: the guests of this host
    :param judge: asks the kernel; None where it cannot be asked
    :returns: the meaning
    """
    uuid = table.uuid(attempt.subject) or attempt.subject
    guest = table.guest(attempt.subject)
    if attempt.child:
        # what the guest's own profile grants says nothing of a child's
        judge = None
    if target.owner is not None and target.owner != uuid:
        return _cross(attempt, target, uuid, judge)
    if guest is not None:
        found = _own_file(attempt, guest, table, judge) or _own_port(
            attempt, guest
        )
        if found is not None:
            return found
    match attempt.kind:
        case attempts.FILE:
            return _host_file(attempt, target)
        case attempts.EXECUTE:
            return _execute(attempt)
        case attempts.CAPABILITY:
            return _capability(attempt)
        case attempts.NETWORK:
            return _to_network(attempt, target)
        case attempts.UNIX:
            return _to_socket(attempt, target)
        case attempts.PROCESS:
            return _to_process(attempt, target)
        case attempts.PROFILE:
            return Meaning(
                PROCESS, CRITICAL, 'it tried to leave its confinement'
            )
        case attempts.MOUNT:
            return Meaning(
                HOST_FILE, CRITICAL, 'it tried to change the tree of files'
            )
    return _of_the_kernel(attempt)


_LETTERS = frozenset('rw')
# Of another process: what tells only what it is.
_FAINT = re.compile('/proc/[0-9]+/(cmdline|comm|status|stat|statm|mounts)')


def _granted(judge: Judge | None, uuid: str, path: str) -> frozenset[str]:
    if judge is None:
        return frozenset()
    try:
        return frozenset(judge(uuid, path))
    except (exceptions.IsolationError, OSError):
        # then the names have to do
        return frozenset()


def _cross(
    attempt: attempts.Attempt, target: Target, uuid: str, judge: Judge | None
) -> Meaning:
    owner = target.owner or ''
    path, asked = attempt.file, _LETTERS & set(attempt.access)
    if path is not None and attempt.kind == attempts.FILE and asked:
        if asked <= _granted(judge, uuid, path) and not (
            asked & _granted(judge, owner, path)
        ):
            return Meaning(
                _by_place(path),
                LOW,
                'the name was that of another instance; by now the kernel '
                'grants it to this one alone',
            )
    if attempt.kind == attempts.FILE:
        if path is not None and _FAINT.fullmatch(path):
            return Meaning(
                CROSS_INSTANCE,
                MEDIUM,
                'what /proc says of the process of another instance',
            )
        verb = 'write to' if 'w' in attempt.access else 'read'
        return Meaning(
            CROSS_INSTANCE,
            CRITICAL,
            f'it tried to {verb} what belongs to another instance',
        )
    if attempt.kind == attempts.PROCESS and attempt.name in ('exists', '0'):
        return Meaning(
            CROSS_INSTANCE,
            MEDIUM,
            'it asked whether a process of another instance exists',
        )
    words = {
        attempts.PROCESS: 'it reached for a process of another instance',
        attempts.NETWORK: 'it tried to connect to another instance',
        attempts.UNIX: 'it tried to connect to another instance',
        attempts.EXECUTE: 'it tried to execute what belongs to another '
        'instance',
    }
    return Meaning(
        CROSS_INSTANCE,
        CRITICAL,
        words.get(attempt.kind, 'it reached for another instance'),
    )


def _by_place(path: str) -> str:
    return DEVICE if _is_device(path) else HOST_FILE


def _own_file(
    attempt: attempts.Attempt,
    guest: attribution.Guest,
    table: attribution.Table,
    judge: Judge | None,
) -> Meaning | None:
    """Judge what the guest's own XML names; None when it does not."""
    path = attempt.file
    wanted = set(attempt.access)
    if path is None or attempt.kind != attempts.FILE:
        return None
    plain = path.removeprefix(rules.DISCONNECTED)
    named = guest.named(plain.rstrip('/') or plain)
    if named is None or not wanted or wanted - set('rwk'):
        return None
    category = _by_place(path)
    shown = f'its own {named.kind}'
    if not named.access:
        return Meaning(
            category,
            MEDIUM,
            f'{shown}, which is kept for it and which it never opens itself',
        )
    if 'w' in wanted and 'w' not in named.access:
        shared = named.kind == attribution.IMAGE_CACHE
        return Meaning(
            category,
            CRITICAL if shared else MEDIUM,
            'it tried to change an image that other instances start from'
            if shared
            else f'{shown}, which its XML gives it only for reading',
        )
    asked = wanted & _LETTERS
    if judge is not None and asked:
        if asked <= _granted(judge, guest.uuid, path):
            return Meaning(
                category,
                LOW,
                f'{shown}, which its profile grants: that came after the '
                'attempt, or another condition of the kernel failed',
            )
        other = _holder(guest, path, asked, table, judge)
        reading = named.access == 'r' or named.common
        if other is not None and not reading:
            return Meaning(
                CROSS_INSTANCE,
                CRITICAL,
                f'its XML names it as {shown}, but the kernel grants it to '
                "another instance alone: that name is the other one's now",
                owner=other,
            )
    return _gap(attempt, path, named)


def _holder(
    guest: attribution.Guest,
    path: str,
    asked: frozenset[str] | set[str],
    table: attribution.Table,
    judge: Judge,
) -> str | None:
    """Find another guest whose profile grants a path.

    It asks of every guest that runs. Only names of the guest's own XML get
    here, and of those there are few.
    """
    for other in table.running():
        if other.uuid != guest.uuid and (
            asked & _granted(judge, other.uuid, path)
        ):
            return other.uuid
    return None


def _gap(
    attempt: attempts.Attempt, path: str, named: attribution.File
) -> Meaning:
    reason = f'its own XML names it ({named.kind}), and '
    if attempt.selinux:
        return Meaning(
            POLICY_GAP,
            MEDIUM,
            f'{reason}the policy does not grant it the label {attempt.peer}: '
            'check what set that label, and the booleans virt_use_*',
        )
    reason += 'its profile is too tight'
    if _is_device(path):
        reason += (
            ': check that the name still stands for the device that was meant'
        )
    rule = _rule(path, attempt.access)
    if rule is None:
        reason += ', and no rule can name it'
    return Meaning(POLICY_GAP, MEDIUM, reason, rule)


def _rule(path: str, access: str) -> str | None:
    """Write the rule that would grant a file."""
    plain = path.removeprefix(rules.DISCONNECTED)
    named = plain.rstrip('/') or '/'
    parts: list[str | rules.Glob] = [named]
    if plain != path or _is_device(path):
        # see policy.all_rules()
        parts = ['/', rules.Glob.HANDED_OVER, named[1:]]
    if plain.endswith('/') and plain != '/':
        parts.append(rules.Glob.DIRECTORY)
    letters = ''.join(c for c in 'rwk' if c in access)
    try:
        return rules.File(tuple(parts), letters, '').render(rules.Dialect())
    except exceptions.InvalidPolicy:
        return None


def _own_port(
    attempt: attempts.Attempt, guest: attribution.Guest
) -> Meaning | None:
    """Judge a socket that the guest's own XML asks for; None when none."""
    if attempt.kind != attempts.NETWORK or attempt.name not in (
        'inet stream',
        'inet6 stream',
        'tcp',
    ):
        return None
    address, port = attempt.remote if attempt.reaching else attempt.local
    for known in guest.ports:
        if attempt.reaching:
            fits = address == known.address and known.port in (0, port)
        else:
            # a socket that is being made has no port yet
            fits = not port or known.port in (0, port)
        if fits and known.listens != attempt.reaching:
            return Meaning(
                POLICY_GAP,
                MEDIUM,
                f'its own XML asks for that ({known.what}), and its profile '
                'is too tight',
                _port_rule(attempt, ':' in address),
            )
    return None


def _port_rule(attempt: attempts.Attempt, colon: bool) -> str | None:
    if attempt.selinux:
        return None
    six = colon or 'inet6' in attempt.name
    if attempt.reaching:
        need = needs.connect_inet6() if six else needs.connect_inet()
    else:
        need = needs.listen_inet6() if six else needs.listen_inet()
    return need[0].render(rules.Dialect(network_operations=True))


_SHELLS = re.compile(
    '(ba|da|z|k|c|tc|fi)?sh|busybox|python[0-9.]*|perl[0-9.]*|ruby|lua[0-9.]*'
    '|php[0-9.]*|node|awk|gawk|mawk|nc|ncat|netcat|socat|curl|wget|ssh|gdb'
    '|strace|nsenter|unshare|chroot|sudo|su|mount|insmod|modprobe|kmod'
)
_LIBRARIES = ('/usr/lib', '/lib', '/usr/local/lib', '/run/qemu/')


def _execute(attempt: attempts.Attempt) -> Meaning:
    path = attempt.path or ''
    name = path.rpartition('/')[2]
    if not path:
        return Meaning(EXEC, HIGH, 'it tried to make code of its own memory')
    if _SHELLS.fullmatch(name):
        return Meaning(
            EXEC, CRITICAL, f'a shell or tool of an intruder ({name})'
        )
    if 'x' not in attempt.access and not attempt.selinux:
        library = path.startswith(_LIBRARIES)
        return Meaning(
            EXEC, MEDIUM if library else HIGH, 'it tried to map it as code'
        )
    if name.startswith(('qemu-', 'swtpm')):
        return Meaning(EXEC, HIGH, 'libvirt starts it, and nobody after that')
    return Meaning(EXEC, HIGH, "a guest's emulator starts no programs")


_CAPABILITIES = {
    **dict.fromkeys(
        'bpf checkpoint_restore dac_read_search mac_admin mac_override mknod'
        ' perfmon setfcap sys_admin sys_boot sys_module sys_ptrace'
        ' sys_rawio'.split(),
        CRITICAL,
    ),
    **dict.fromkeys(
        'audit_control audit_read chown dac_override fowner fsetid ipc_owner'
        ' kill net_admin net_raw setgid setpcap setuid sys_chroot sys_time'
        ' syslog'.split(),
        HIGH,
    ),
    **dict.fromkeys(
        'block_suspend ipc_lock lease sys_nice sys_resource'
        ' wake_alarm'.split(),
        LOW,
    ),
}
_POWERS = {
    CRITICAL: 'with it, it would control the host',
    HIGH: 'with it, it would get past other protections of the host',
    MEDIUM: 'a right that an emulator does not need',
    LOW: 'it would win little by it',
}


def _capability(attempt: attempts.Attempt) -> Meaning:
    names = attempt.name.split() or ['']
    order = (LOW, MEDIUM, HIGH, CRITICAL)
    severity = max(
        (_CAPABILITIES.get(name, MEDIUM) for name in names), key=order.index
    )
    return Meaning(CAPABILITY, severity, _POWERS[severity])


def _to_network(attempt: attempts.Attempt, target: Target) -> Meaning:
    family = attempt.name.partition(' ')[0]
    if attempt.reaching:
        service = services.of_port(attempt.remote[1])
        if service is not None:
            return Meaning(
                NETWORK, service[1], f'it tried to reach {target.name}'
            )
        return Meaning(
            NETWORK,
            HIGH,
            'it tried to connect to the network of the host'
            + (f' ({target.name})' if attempt.remote[1] else ''),
        )
    if family.startswith('netlink'):
        return Meaning(
            NETWORK, LOW, "the kernel's own sockets, which libraries look at"
        )
    if family in ('inet', 'inet6', 'tcp', 'udp'):
        raw = attempt.name.endswith(' raw')
        return Meaning(
            NETWORK,
            HIGH if raw else MEDIUM,
            "raw packets of the host's network"
            if raw
            else "a socket in the host's network",
        )
    return Meaning(
        NETWORK,
        HIGH,
        'sockets of a family that no emulator uses: a way into the kernel',
    )


def _to_socket(attempt: attempts.Attempt, target: Target) -> Meaning:
    if target.kind == 'host service' and target.path:
        service = services.of_socket(target.path)
        severity = service[1] if service else HIGH
        return Meaning(NETWORK, severity, f'it tried to reach {target.name}')
    if attempt.reaching:
        return Meaning(
            NETWORK, HIGH, 'it tried to connect to a process of the host'
        )
    return Meaning(NETWORK, MEDIUM, 'a unix socket')


def _to_process(attempt: attempts.Attempt, target: Target) -> Meaning:
    if target.owner is not None:
        return Meaning(PROCESS, LOW, 'it reached for a process of its own')
    tracing = attempt.operation == 'ptrace' or 'ptrace' in attempt.name
    if tracing and 'read' not in attempt.access:
        return Meaning(
            PROCESS, CRITICAL, 'it tried to take over a process of the host'
        )
    if tracing:
        return Meaning(PROCESS, HIGH, 'it tried to look into a process')
    if attempt.name in ('exists', '0', 'signull'):
        return Meaning(PROCESS, LOW, 'it asked whether a process exists')
    return Meaning(PROCESS, HIGH, 'it reached for a process of the host')


def _of_the_kernel(attempt: attempts.Attempt) -> Meaning:
    what = f'{attempt.name} {attempt.operation}'
    if re.search('module|bpf|perf|system|security|lockdown', what):
        return Meaning(
            CAPABILITY, CRITICAL, 'with it, it would control the host'
        )
    if re.search('userns|user_namespace|namespace|dbus', what):
        return Meaning(
            CAPABILITY,
            HIGH,
            'a way to more of the kernel, or of other services',
        )
    return Meaning(
        CAPABILITY, MEDIUM, 'a right that an emulator does not need'
    )


# Files, by what gets into the hands of who may read or write them: the first
# that matches counts. Of each: what reading and what writing means.
_PLACES: tuple[tuple[str, str, str, str], ...] = (
    # devices
    (
        '/dev/(mem|kmem|port|core|nvram|cpu/.*|mcelog)|/proc/kcore',
        CRITICAL,
        CRITICAL,
        'the memory or processor of the host',
    ),
    (
        '/dev/(sd|hd|vd|xvd|nvme|dm-|md|mapper/|loop|nbd|rbd|zd|ram|sr|sg|bsg'
        '|disk/|mmcblk|st[0-9]|drbd|block/|bcache).*',
        CRITICAL,
        CRITICAL,
        'a disk of the host',
    ),
    ('/dev/(null|zero|full|u?random|tty)', LOW, LOW, 'a harmless device'),
    (
        '/dev/(vfio|iommu|vhost|net/|bus/usb|input|uinput|uhid|fuse|hidraw'
        '|loop-control|dri|tpm|sev|sgx|userfaultfd|pts/|ptmx|tty|console|vcs'
        '|snd|video|fb|i2c|ipmi|watchdog|btrfs|device-mapper|rfkill).*',
        HIGH,
        HIGH,
        'a device of the host',
    ),
    ('/dev/(?!shm|hugepages|mqueue).*', MEDIUM, HIGH, 'a device of the host'),
    # processes
    (
        '/proc/[0-9]+/(task/[0-9]+/)?(mem|attr/.*)',
        CRITICAL,
        CRITICAL,
        'the memory or label of a process',
    ),
    (
        '/proc/[0-9]+/(task/[0-9]+/)?'
        '(cmdline|comm|status|statm?|mounts|mountinfo|cgroup|limits)?',
        LOW,
        MEDIUM,
        'what /proc says of a process',
    ),
    ('/proc/[0-9]+/.*', HIGH, HIGH, 'the inside of a process'),
    (
        '/proc/(sys/kernel/core_pattern|sysrq-trigger|sys/.*)',
        LOW,
        CRITICAL,
        'a setting of the kernel',
    ),
    ('/proc/(kallsyms|kmsg|keys|kpage.*)', HIGH, HIGH, 'the kernel'),
    ('/proc/.*', LOW, HIGH, 'what the kernel says of the host'),
    (
        '/sys/(kernel/(security|debug|tracing)|fs/(selinux|bpf|cgroup)'
        '|firmware)/.*',
        MEDIUM,
        CRITICAL,
        'a setting of the kernel',
    ),
    ('/sys/.*', LOW, HIGH, 'what the kernel says of the host'),
    # secrets
    (
        '/etc/(g?shadow-?|sudoers.*|krb5.keytab|ssh/.*_key|ssl/private/.*'
        '|pki/.*|libvirt/secrets/.*|ceph/.*|nova/.*|neutron/.*|cinder/.*'
        '|glance/.*|keystone/.*|nova-isolation/.*|kolla/.*|machine-id'
        '|.*\\.(key|pem|keyring))'
        '|/var/lib/libvirt/secrets/.*|/var/lib/ceph/.*|/root(/.*)?'
        '|(/home/.*|/var/lib/[^/]+)/\\.(ssh|config|aws|kube)(/.*)?'
        '|/var/lib/(mysql|rabbitmq|postgresql|etcd|kubelet)/.*',
        HIGH,
        CRITICAL,
        'secrets of the host or of the cloud',
    ),
    # what others execute or obey
    (
        '/(usr|lib|lib64|bin|sbin|boot|opt)(/.*)?',
        LOW,
        CRITICAL,
        'programs that the host executes',
    ),
    (
        '/etc(/.*)?|/var/spool/cron(/.*)?',
        LOW,
        CRITICAL,
        'what the host is configured by',
    ),
    ('/home(/.*)?', HIGH, CRITICAL, 'the files of a user'),
    ('/(tmp|var/tmp|dev/shm)(/.*)?', LOW, MEDIUM, 'a place for all'),
    ('/(run|var/run)(/.*)?', MEDIUM, HIGH, 'what services of the host keep'),
    ('/var/log(/.*)?', MEDIUM, HIGH, 'the logs of the host'),
    ('/var(/.*)?', MEDIUM, HIGH, 'what services of the host keep'),
)
_PLACE = re.compile(
    '|'.join(f'(?P<p{i}>{p[0]})' for i, p in enumerate(_PLACES)), re.DOTALL
)


def _host_file(attempt: attempts.Attempt, target: Target) -> Meaning:
    path, access = attempt.file, attempt.access
    writing = 'w' in access or 'l' in access
    verb = 'change' if writing else 'read'
    if set(access) & set('xm') and not writing:
        return _execute(attempt)
    match target.kind:
        case attribution.IMAGE_CACHE:
            return Meaning(
                HOST_FILE,
                CRITICAL if writing else HIGH,
                f'it tried to {verb} an image that other instances start from',
            )
        case 'host service':
            return _to_socket(attempt, target)
        case attribution.LIBVIRT_STATE if target.owner is None:
            return Meaning(HOST_FILE, HIGH, 'what libvirt keeps')
        case 'unnamed file':
            device = attempt.class_ in ('blk_file', 'chr_file')
            severity = HIGH if writing or device else MEDIUM
            if attempt.name == 'sysfs' and not writing:
                severity = LOW
            return Meaning(
                DEVICE if device else HOST_FILE,
                severity,
                'a file of which the kernel does not tell the whole path',
            )
    if target.owner is not None:
        return Meaning(
            _by_place(path or ''),
            MEDIUM,
            'its own, but nothing that its XML lets it open',
        )
    plain = (path or '').removeprefix(rules.DISCONNECTED)
    found = _PLACE.fullmatch(plain)
    if found is None or found.lastgroup is None:
        category, severity = HOST_FILE, HIGH if writing else MEDIUM
        words = 'a file of the host'
    else:
        _, reading, changing, words = _PLACES[int(found.lastgroup[1:])]
        severity = changing if writing else reading
        category = _by_place(plain)
        if re.match('/proc/[0-9]', plain):
            category = PROCESS
    if target.kind == 'device':
        category = DEVICE
    return Meaning(category, severity, f'it tried to {verb} {words}')
