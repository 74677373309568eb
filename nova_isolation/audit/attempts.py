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

"""What a denial says was tried: the same words for AppArmor and SELinux.

Pure: a record in, an :class:`Attempt` out. Whose the target is, and what that
means, is decided by :mod:`nova_isolation.audit.attribution` and
:mod:`nova_isolation.audit.classification`.
"""

from collections.abc import Mapping
import dataclasses
import functools
import re
import types
from typing import Protocol

from nova_isolation.audit import attribution

# Kinds of attempts.
FILE = 'file'
EXECUTE = 'execute'
CAPABILITY = 'capability'
NETWORK = 'network'
UNIX = 'unix'
PROCESS = 'process'
PROFILE = 'profile'
MOUNT = 'mount'
OTHER = 'other'

SELINUX = 'selinux'

# Of AppArmor: operations that say what they are (aa_ops[] in
# security/apparmor/audit.c and the functions that use it).
_OPERATIONS = {
    'capable': CAPABILITY,
    'ptrace': PROCESS,
    'signal': PROCESS,
    'exec': EXECUTE,
    **dict.fromkeys(
        (
            'change_hat',
            'change_onexec',
            'change_profile',
            'stack',
            'stack_onexec',
        ),
        PROFILE,
    ),
    **dict.fromkeys(('mount', 'umount', 'pivotroot'), MOUNT),
}
# With these, ``name`` is not all that counts.
_TELLING = frozenset((*_OPERATIONS, 'link'))
# Whose ``name`` is no file.
_NAMELESS = frozenset(
    'dbus io_uring namespace posix_mqueue rlimits sysv_mqueue'.split()
)
# Of SELinux: object classes (security/selinux/include/classmap.h).
_FILES = frozenset(
    'file dir lnk_file chr_file blk_file sock_file fifo_file fd'.split()
)
_CLASSES = {
    **dict.fromkeys(_FILES, FILE),
    **dict.fromkeys(
        ('capability', 'capability2', 'cap_userns', 'cap2_userns'), CAPABILITY
    ),
    **dict.fromkeys(('unix_stream_socket', 'unix_dgram_socket', 'dbus'), UNIX),
    **dict.fromkeys(
        ('process', 'msg', 'msgq', 'sem', 'shm', 'ipc', 'key'), PROCESS
    ),
    'process2': PROFILE,
    'filesystem': MOUNT,
    **dict.fromkeys(
        ('node', 'netif', 'peer', 'packet', 'association'), NETWORK
    ),
}
_EXECUTING = frozenset(
    'entrypoint execheap execmem execmod execstack execute'
    ' execute_no_trans'.split()
)
_CHANGING_LABEL = frozenset(
    'dyntransition noatsecure rlimitinh setcurrent setexec setfscreate'
    ' setkeycreate setsockcreate siginh transition'.split()
)
_READING = frozenset(
    'getattr ioctl map open quotaget read search use watch watch_mount'
    ' watch_reads watch_sb watch_with_perm audit_access'.split()
)

_NUMBER = re.compile('[0-9]{1,5}')
_NOTHING: Mapping[str, str] = types.MappingProxyType({})
# Who connects, sends to somebody or looks for an address that is not his.
_REACHING = frozenset(
    'connect connectto name_connect send send_msg sendmsg sendto'.split()
)


class Record(Protocol):
    """What this module needs of a record, see :mod:`.records`."""

    @property
    def fields(self) -> Mapping[str, str]: ...

    @property
    def decision(self) -> str | None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """What was tried.

    :ivar subject: see :func:`subject`
    :ivar kind: one of this module's
    :ivar operation: AppArmor's operation, or SELinux' permissions
    :ivar class_: AppArmor's or SELinux' class of the object, or ''
    :ivar path: the file or socket; None when there is none. Only what begins
        with ``/`` is a whole path.
    :ivar access: of a file, of ``r``, ``w`` (any change), ``x``, ``m``
        (mapping executable code), ``k`` (locks) and ``l`` (links) what was
        denied
    :ivar peer: label of the process, socket or object at the other end, or
        ''
    :ivar name: of a capability its name; of a socket its family and type;
        of a file the file system, where only SELinux tells it
    :ivar remote: address and port at the other end, '' and 0 where not known
    :ivar local: likewise at this end
    :ivar reaching: of a socket whether it was to reach somebody, rather than
        to be made or to listen
    :ivar process: number of the process that it was aimed at, or None
    :ivar child: whether it was confined by another profile than the guest's
        own one, a child of that or a stack
    :ivar selinux: whether SELinux denied it, and not AppArmor
    """

    subject: str
    kind: str
    operation: str
    class_: str = ''
    path: str | None = None
    access: str = ''
    peer: str = ''
    name: str = ''
    remote: tuple[str, int] = ('', 0)
    local: tuple[str, int] = ('', 0)
    reaching: bool = False
    process: int | None = None
    child: bool = False
    selinux: bool = False

    @property
    def file(self) -> str | None:
        """The whole path of the file or socket, or None."""
        if self.path is not None and self.path.startswith('/'):
            return self.path
        return None


# Characters of the names of profiles that are remembered.
_SHORT = 64
_known_subject = functools.lru_cache(maxsize=4096)(attribution.subject)
_known_level = functools.lru_cache(maxsize=4096)(attribution.level)


def is_selinux(record: Record) -> bool:
    """Tell which security module a record is of.

    :param record: any
    """
    return getattr(record, 'module', '') == SELINUX


def subject(record: Record) -> str | None:
    """Find the guest whose process was refused something.

    :param record: any record
    :returns: what :class:`attribution.Table` knows the guest by: its uuid,
        or of SELinux its level (``s0:c504,c872``); None when it is no denial
        of a guest
    """
    if record.decision is None:
        return None
    context = record.fields.get('scontext')
    if context is not None and is_selinux(record):
        return _known_level(context)
    # dbus-daemon writes the label of who asks it
    fields = record.fields
    profile = fields.get('profile') or fields.get('label') or ''
    # in complain mode, children are named by the programs that a guest runs
    known = len(profile) <= _SHORT
    return (_known_subject if known else attribution.subject)(profile)


def plain_path(record: Record) -> str | None:
    """Find the path of an attempt that is surely one on a file, quickly.

    :param record: a denial of which :func:`subject` knows the guest
    :returns: the whole path; None where :func:`read` has to tell
    """
    get = record.fields.get
    path = get('name')
    if (
        path is None
        or not path.startswith('/')
        or get('operation') in _TELLING
        or get('class', 'file') != 'file'
        or 'family' in record.fields
        or 'peer_addr' in record.fields
        or is_selinux(record)
    ):
        return None
    return path


def read(record: Record, context: Mapping[str, str] = _NOTHING) -> Attempt:
    """Read what was tried.

    :param record: a denial of which :func:`subject` knows the guest
    :param context: what other records of the same event say: ``saddr`` (the
        hexadecimal address of a syscall), ``opid`` (the process it was aimed
        at)
    :returns: the attempt
    """
    who = subject(record) or ''
    if is_selinux(record):
        return _selinux(record.fields, who, context)
    return _apparmor(record.fields, who, context)


def _apparmor(
    fields: Mapping[str, str], who: str, context: Mapping[str, str]
) -> Attempt:
    get = fields.get
    operation, class_ = get('operation', ''), get('class', '')
    name, peer = get('name'), get('peer', '')
    mask = get('denied_mask') or get('requested_mask') or ''
    kind = _OPERATIONS.get(operation, '')
    family = get('family', '')
    remote, local = ('', 0), ('', 0)
    path, reaching, words = None, False, ''
    if kind == CAPABILITY:
        words = get('capname') or get('capability') or ''
    elif kind in (PROCESS, PROFILE):
        # of these, the name is a profile's
        words = get('signal') or name or mask
    elif family == 'unix' or 'peer_addr' in fields:
        kind = UNIX
        words = f'unix {get("sock_type", "")}'.strip()
        path = _unix_path(get('peer_addr')) or _unix_path(get('addr')) or name
        reaching = bool(_REACHING & {operation, *mask.split()}) or bool(
            _unix_path(get('peer_addr'))
        )
    elif family:
        kind = NETWORK
        words = f'{family} {get("sock_type", "")}'.strip()
        remote = (get('faddr', ''), _port(get('fport')))
        local = (get('laddr', ''), _port(get('lport')))
        reaching = operation in _REACHING
    elif name is None or class_ in _NAMELESS:
        kind, words = kind or OTHER, class_ or operation
        path = name if class_ == 'posix_mqueue' else None
    else:
        kind = kind or FILE
        # what a link leads to matters more than where it is made
        path = (operation == 'link' and get('target')) or name
    if kind == NETWORK and not remote[1]:
        remote, local = _completed(remote, local, reaching, context)
    return Attempt(
        who,
        kind,
        operation,
        class_,
        path,
        _letters(mask) if kind in (FILE, EXECUTE, MOUNT) else mask,
        peer,
        words,
        remote,
        local,
        reaching,
        _pid(fields, context),
        # dbus-daemon writes no profile
        child='//' in get('profile', ''),
    )


def _unix_path(address: str | None) -> str | None:
    # "none" stands for an unnamed socket
    return None if address in (None, '', 'none') else address


@functools.lru_cache(maxsize=256)
def _letters(mask: str) -> str:
    """Reduce AppArmor's letters: to append, create, delete is to write."""
    found = set(mask)
    if found & set('acd'):
        found.add('w')
    return ''.join(letter for letter in 'rwxmkl' if letter in found)


def _selinux(
    fields: Mapping[str, str], who: str, context: Mapping[str, str]
) -> Attempt:
    get = fields.get
    class_, perms = get('tclass', ''), get('perms', '')
    wanted = set(perms.split())
    path = get('path') or get('name')
    kind = _CLASSES.get(class_, '')
    if not kind:
        kind = (
            NETWORK
            if class_.endswith('_socket') or class_ == ('socket')
            else OTHER
        )
    words, access, reaching = '', '', bool(wanted & _REACHING)
    remote, local = ('', 0), ('', 0)
    if kind == FILE:
        access, words = _reduced(perms), get('dev', '')
        if wanted & _EXECUTING:
            kind = EXECUTE
    elif kind == PROCESS:
        words, path = perms, None
        if wanted & _EXECUTING:
            # it makes code out of its own memory
            kind = EXECUTE
        elif wanted & _CHANGING_LABEL:
            kind = PROFILE
    elif kind == CAPABILITY:
        words, path = perms, None
    elif kind == NETWORK:
        words, path = class_.removesuffix('_socket'), None
        remote = (
            get('faddr') or get('daddr') or '',
            _port(get('fport') or get('dest')),
        )
        local = (
            get('laddr') or get('saddr') or '',
            _port(get('lport') or get('src')),
        )
        if not remote[1]:
            remote, local = _completed(remote, local, reaching, context)
    elif kind == UNIX:
        words = class_.removesuffix('_socket').replace('_', ' ')
    elif kind == MOUNT and wanted <= {'getattr', 'quotaget'}:
        kind, access = FILE, 'r'
    elif kind == OTHER:
        # which one, of those without a name in the tree of files
        words, path = f'{class_} {get("anonclass", "")}'.strip(), None
    return Attempt(
        who,
        kind,
        perms,
        class_,
        path,
        access,
        get('tcontext', ''),
        words,
        remote,
        local,
        reaching,
        _pid(fields, context),
        selinux=True,
    )


@functools.lru_cache(maxsize=256)
def _reduced(perms: str) -> str:
    """Write SELinux' permissions for files in the letters of AppArmor."""
    wanted = set(perms.split())
    found = set()
    if wanted & _READING:
        found.add('r')
    if wanted & _EXECUTING:
        found.add('x')
    if 'lock' in wanted:
        found.add('k')
    # what is not listed changes something
    if wanted - _READING - _EXECUTING - {'lock'}:
        found.add('w')
    return ''.join(letter for letter in 'rwxmkl' if letter in found)


def _port(text: str | None) -> int:
    return int(text) if text and _NUMBER.fullmatch(text) else 0


def _pid(fields: Mapping[str, str], context: Mapping[str, str]) -> int | None:
    text = fields.get('opid') or context.get('opid') or ''
    if text.isascii() and text.isdigit() and len(text) < 11:
        return int(text)
    return None


def _completed(
    remote: tuple[str, int],
    local: tuple[str, int],
    reaching: bool,
    context: Mapping[str, str],
) -> tuple[tuple[str, int], tuple[str, int]]:
    """Take the address of a syscall, which AppArmor does not say."""
    found = address(context.get('saddr', ''))
    if found is None:
        return remote, local
    return (found, local) if reaching else (remote, found)


def address(text: str) -> tuple[str, int] | None:
    """Read an IP address as the record of a syscall has it.

    :param text: ``struct sockaddr`` in hexadecimal (``saddr`` of SOCKADDR)
    :returns: address and port, or None when it is none of IP
    """
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return None
    # the family in the host's order, the port in the network's
    family, port = raw[:2], int.from_bytes(raw[2:4])
    if family in (b'\2\0', b'\0\2') and len(raw) >= 8:
        return '.'.join(map(str, raw[4:8])), port
    if family in (b'\x0a\0', b'\0\x0a') and len(raw) >= 24:
        return _ipv6(raw[8:24]), port
    return None


def _ipv6(raw: bytes) -> str:
    # imported late: ipaddress is not needed for most records
    import ipaddress

    return str(ipaddress.IPv6Address(raw))


# What differs by chance in a path.
_CHANCE = re.compile('(^/proc/|/task/|/fd/|/fdinfo/)[0-9]+')
_MAPPING = re.compile('(/map_files/)[0-9a-f]+-[0-9a-f]+')
_INODE = re.compile(r'(:\[)[0-9]+(?=\]$)')
# File systems whose inodes and names are numbers of the moment.
_FLEETING = frozenset(
    'anon_inodefs devpts mqueue nsfs pidfs pipefs proc sockfs'.split()
)
_EPHEMERAL = 32768


def fingerprint(
    record: Record,
    table: attribution.Table | None = None,
    context: Mapping[str, str] = _NOTHING,
) -> tuple[str, str, str, str, str]:
    """Tell which kind a denial is of.

    Two denials of one kind are repeats of each other. What differs by chance
    (process ids, descriptors, pseudo terminals, ephemeral ports) makes no new
    kind, unless it is known to be another guest's.

    :param record: a denial of which :func:`subject` knows the guest
    :param table: the guests of this host, to tell whose a process or pseudo
        terminal is; None when that does not matter
    :param context: as for :func:`read`
    :returns: instance, operation, class, target and mask
    """
    get = record.fields.get
    who = subject(record) or ''
    if is_selinux(record):
        return (
            who,
            '',
            get('tclass', ''),
            _kind_of_object(record.fields, who, table, context),
            get('perms', ''),
        )
    operation = get('operation', '')
    name = get('name')
    if name is None:
        target = _kind_of_peer(record.fields, operation, context)
    else:
        if operation == 'link':
            name = get('target') or name
        target = _kind_of_path(name, who, table)
    return (
        who,
        operation,
        get('class', ''),
        target,
        get('denied_mask') or get('requested_mask') or '',
    )


def _kind_of_path(path: str, who: str, table: attribution.Table | None) -> str:
    if path.startswith(('/proc/', '/dev/pts/')):
        if table is not None:
            owner = table.target(path, who).owner
            if owner is not None and owner != table.uuid(who):
                return f'{owner} {_without_chance(path)}'
        return _without_chance(path)
    if path.endswith(']') and ':[' in path:
        return _INODE.sub(r'\1N', path)
    return path


def _without_chance(path: str) -> str:
    if path.startswith('/dev/pts/'):
        return '/dev/pts/N' if path[9:].isdigit() else path
    return _MAPPING.sub(r'\1N', _CHANCE.sub(r'\1N', path))


def _kind_of_peer(
    fields: Mapping[str, str], operation: str, context: Mapping[str, str]
) -> str:
    get = fields.get
    capability = get('capname') or get('capability')
    if capability is not None:
        return capability
    peer = get('peer_addr') or get('peer') or ''
    family = get('family')
    if family is None:
        return f'{peer} {get("signal", "")} {get("target", "")}'
    # of one that connects, its own port is chance
    remote, port = get('faddr') or '', get('fport') or ''
    if not port and operation in _REACHING:
        remote, port = _reached(context) or (remote, port)
    elif not port:
        port = get('lport') or ''
        if _port(port) >= _EPHEMERAL:
            port = 'N'
    if len(peer) == 6 and peer.startswith('@'):
        # autobind of net/unix/af_unix.c
        peer = '@N'
    return (
        f'{family} {get("sock_type", "")} {get("protocol", "")} '
        f'{remote} {port} {peer}'
    )


def _reached(context: Mapping[str, str]) -> tuple[str, str] | None:
    found = address(context.get('saddr', ''))
    return None if found is None else (found[0], str(found[1]))


def _kind_of_object(
    fields: Mapping[str, str],
    who: str,
    table: attribution.Table | None,
    context: Mapping[str, str],
) -> str:
    get = fields.get
    label = get('tcontext', '')
    path = get('path')
    if path is not None:
        return f'{_kind_of_path(path, who, table)} {label}'
    name = get('name')
    if name is None:
        remote = get('daddr') or get('faddr') or ''
        port = get('dest') or get('fport') or ''
        if not port and _REACHING & set(get('perms', '').split()):
            remote, port = _reached(context) or (remote, port)
        return f'{get("capability", "")} {remote} {port} {label}'
    if get('dev') in _FLEETING:
        return f'{"N" if name.isdigit() else name} {label}'
    # the name of a file alone is that of many
    return f'{name} {get("dev", "")} {get("ino", "")} {label}'
