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

"""The audit records of AppArmor and SELinux: bytes in, typed records out.

In the kernel's form, as netlink carries it (:func:`parse`), and in whatever
form a log has them (:func:`parse_line`): auditd's file, raw or enriched,
dmesg, /dev/kmsg, the journal. No I/O, and it never raises: what should be
ours and cannot be read is returned as such, and the caller counts it.

What a text says can be trusted as far as its source: the kernel writes a
value in hex when it holds a space, a quote or a control character, so a name
is never mistaken for more than a name; but whoever may write into a log file
may write a record.
"""

from collections.abc import Mapping
import dataclasses
import datetime
import hashlib
import re

# include/uapi/linux/audit.h. AppArmor and SELinux share AUDIT_AVC, and a
# user_avc comes from a program that asks the kernel's policy: dbus-daemon,
# systemd.
USER_AVC = 1107
SYSCALL = 1300
PATH = 1302
SOCKADDR = 1306
CWD = 1307
OBJ_PID = 1318
EOE = 1320
PROCTITLE = 1327
AVC = 1400
SELINUX_ERR = 1401
MAC_POLICY_LOAD = 1403
MAC_STATUS = 1404
MAC_CONFIG_CHANGE = 1405
# AppArmor had types of its own before Linux took it in, in 2.6.36; libaudit.h
# has them still.
_OLD_APPARMOR: Mapping[int, str] = {
    1501: 'AUDIT',
    1502: 'ALLOWED',
    1503: 'DENIED',
    1504: 'HINT',
    1505: 'STATUS',
    1506: 'ERROR',
    1507: 'KILLED',
}

#: The types that may be ours; of others :func:`parse` gives None.
KINDS = frozenset(
    [
        *(USER_AVC, AVC, SELINUX_ERR),
        *(MAC_POLICY_LOAD, MAC_STATUS, MAC_CONFIG_CHANGE),
        *_OLD_APPARMOR,
    ]
)
#: The types of which :func:`enrichment` can tell something.
ENRICHING = frozenset([SYSCALL, PATH, SOCKADDR, CWD, OBJ_PID, PROCTITLE])

# What auditd and the journal call them.
_NAMES: Mapping[bytes, int] = {
    b'USER_AVC': USER_AVC,
    b'SYSCALL': SYSCALL,
    b'PATH': PATH,
    b'SOCKADDR': SOCKADDR,
    b'CWD': CWD,
    b'OBJ_PID': OBJ_PID,
    b'PROCTITLE': PROCTITLE,
    b'AVC': AVC,
    b'SELINUX_ERR': SELINUX_ERR,
    b'MAC_POLICY_LOAD': MAC_POLICY_LOAD,
    b'MAC_STATUS': MAC_STATUS,
    b'MAC_CONFIG_CHANGE': MAC_CONFIG_CHANGE,
    b'APPARMOR_AUDIT': 1501,
    b'APPARMOR_ALLOWED': 1502,
    b'APPARMOR_DENIED': 1503,
    b'APPARMOR_HINT': 1504,
    b'APPARMOR_STATUS': 1505,
    b'APPARMOR_ERROR': 1506,
    b'APPARMOR_KILL': 1507,
}

# What AppArmor calls its verdict (security/apparmor/audit.c, aa_audit), and
# what an operator calls it. The others (STATUS, AUDIT, HINT, ERROR) tell of
# no attempt that the policy stops or would stop.
DECISIONS: Mapping[str, str] = {
    'DENIED': 'denied',
    'KILLED': 'denied',
    'ALLOWED': 'would_deny',
}

#: All of them, with SELinux' own (the values of ``Record.verdict``): another
#: one is cut off, or of a kernel to come.
VERDICTS = frozenset(
    [
        *(*_OLD_APPARMOR.values(), 'AUTO'),
        *('denied', 'granted', 'error'),
        *('policy_load', 'setenforce', 'config_change'),
    ]
)

# Longest record of the kernel (MAX_AUDIT_MESSAGE_LENGTH); a longer one is
# cut before it is looked at. In a file something stands before it, and its
# enrichment after it.
_LONGEST = 8970
_LONGEST_LINE = 2 * _LONGEST
# auditd writes what it adds to a record behind this
_ENRICHED = '\x1d'

# Seconds with eleven digits end in the year 5138, which datetime can hold.
_HEADER = re.compile(
    r'audit\(([0-9]{1,11})\.([0-9]{3}):([0-9]{1,20})\): *', re.ASCII
)
_STAMP = re.compile(rb'audit\(([0-9]{1,11})\.([0-9]{3}):([0-9]{1,20})\)')
# A field, or a word that is none: that one has no key. Each match but the
# first follows the one before it, so nothing is left out. A value is in
# quotes only when they are all there: `"a"b` is a bare one.
_FIELD = re.compile(
    r'(?:([A-Za-z0-9_-]++)=|(?! |\Z))(?:"([^"]*+)"(?= |\Z)|([^ ]*+)) *+'
)
_HEX = re.compile(r'(?:[0-9A-F]{2})++')
_NUMBER = re.compile(r'-?[0-9]{1,19}').fullmatch
# security/selinux/avc.c (avc_audit_pre_callback), libselinux' avc.c
_AVC = re.compile(r'avc: *+([a-z]++) +(?:\{([^{}]*+)\}|null\b)(?: +for\b)? *')
_NOTICE = re.compile(r'avc: *+(?:received (\w+) notice \((\w+)=(\w+)\) *)?')
_NOTICES = {
    'policyload': 'policy_load',
    'load_policy': 'policy_load',
    'setenforce': 'setenforce',
}
# What SELinux' own records tell of.
_OF_ITSELF: Mapping[int, str] = {
    SELINUX_ERR: 'error',
    MAC_POLICY_LOAD: 'policy_load',
    MAC_STATUS: 'setenforce',
    MAC_CONFIG_CHANGE: 'config_change',
}
# What other records of an event add to it: {our name: the record's}.
_ADDS: Mapping[int, Mapping[str, str]] = {
    SYSCALL: {'exe': 'exe', 'comm': 'comm', 'syscall': 'syscall'},
    PATH: {
        'path': 'name',
        'dev': 'dev',
        'inode': 'inode',
        'nametype': 'nametype',
    },
    SOCKADDR: {'saddr': 'saddr'},
    CWD: {'cwd': 'cwd'},
    OBJ_PID: {'opid': 'opid'},
    PROCTITLE: {'proctitle': 'proctitle'},
}

# The values that audit_log_untrustedstring() and audit_log_d_path() write: in
# quotes, or as bare hex when they hold a space, a quote, a control character
# or a byte above 0x7e. All other bare values are meant as they stand:
# ``pid=1234`` is no hex.
_UNTRUSTED = frozenset(
    'addr comm cwd dev exe execpath fstype invalid_context key_desc kmod label'
    ' name name2 namespace ns ocomm options path peer peer_addr peer_label'
    ' proctitle profile root_domain srawcon srcname target trans'
    ' trawcon'.split()
)

# A line's beginning. Where the name of a program may stand before the text
# that it wrote, only the kernel's and the audit system's own will do.
_WORDS = rb'(?:[^ ]*+(?<!:) ++){1,6}'
_SINCE_BOOT = rb'(?:\[[^\]]{1,40}\] )?'
_FILE, _PRINTED, _JOURNAL = 1, 2, 3
_LINE = re.compile(
    # auditd's
    rb'(?:node=[^ ]+ )?type=([A-Z_]+) msg=(?=audit\()'
    # dmesg, /dev/kmsg, or what syslog and the journal make of these
    rb'|(?:<[0-9]{1,3}>|[0-9]+,[0-9]+,[0-9]+,[^;]{1,80};'
    rb'|[0-9]{4}-[0-9T:,.+-]+ |'
    + _WORDS
    + rb'kernel: )?'
    + _SINCE_BOOT
    + rb'audit: type=([0-9]{4}) (?=audit\()'
    # the journal's own: by journalctl, or its field MESSAGE alone
    rb'|(?:' + _WORDS + rb'audit(?:\[[0-9]+\])?: )?'
    rb'([A-Z_]+) '
)
_KMSG = re.compile(rb'[0-9]+,[0-9]+,[0-9]+,')
_ESCAPE = re.compile(rb'\\x([0-9a-f]{2})')


@dataclasses.dataclass(slots=True)
class Record:
    """A record of AppArmor or SELinux.

    Text that is not UTF-8 carries its bytes as :func:`os.fsdecode` would:
    comparable with paths, but to be made visible before it is shown.

    :ivar kind: the numeric type of the record
    :ivar serial: the kernel's number of the event; 0 where the line has none
    :ivar millis: the kernel's time of it, milliseconds since the epoch; 0
        where the line has none
    :ivar module: ``apparmor`` or ``selinux``
    :ivar verdict: of AppArmor ``DENIED``, ``ALLOWED`` (complain mode),
        ``AUDIT``, ``STATUS``, …; of SELinux ``denied``, ``granted``,
        ``policy_load``, ``setenforce``, ``config_change`` (a boolean),
        ``error``
    :ivar fields: ``{key: value}`` of all other keys, hex values decoded. Of
        SELinux ``perms`` are the permissions that were asked for, with a
        space between; of a user_avc the fields that the kernel put before the
        program's message begin with ``sender_``
    :ivar stray: what of the record is not of the form ``key=value``, or is a
        second value of a key
    :ivar raw: the record as it came
    """

    kind: int
    serial: int
    millis: int
    module: str
    verdict: str
    fields: Mapping[str, str]
    stray: tuple[str, ...]
    raw: bytes

    @property
    def time(self) -> datetime.datetime:
        """The kernel's time of the event, in UTC, to the millisecond."""
        seconds, millis = divmod(self.millis, 1000)
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(
            microsecond=millis * 1000
        )

    @property
    def decision(self) -> str | None:
        """``denied``, ``would_deny``, or None when nothing was refused."""
        if self.module == 'apparmor':
            return DECISIONS.get(self.verdict)
        if self.verdict != 'denied':
            return None
        permissive = self.fields.get('permissive') == '1'
        return 'would_deny' if permissive else 'denied'

    @property
    def label(self) -> str:
        """What confines the process: a profile, or SELinux' context.

        Empty where the record names none, as SELinux' own changes do.
        """
        get = self.fields.get
        return (
            get('profile')
            or get('label')
            or get('scontext')
            or get('oldcontext')
            or ''
        )

    def text(self, key: str) -> str | None:
        """Read a value.

        :param key: as the kernel writes it, e.g. ``requested_mask``
        :returns: the value, or None when the record has no such key
        """
        return self.fields.get(key)

    def number(self, key: str) -> int | None:
        """Read a value that is a number.

        :param key: as the kernel writes it, e.g. ``pid``
        :returns: the number, or None when there is none
        """
        value = self.fields.get(key)
        return int(value) if value and _NUMBER(value) else None


@dataclasses.dataclass(frozen=True, slots=True)
class Unparsable:
    """A record that should be ours and cannot be read.

    :ivar reason: what is wrong with it, in words
    :ivar payload: as it came, at most the kernel's longest
    :ivar kind: its numeric type
    """

    reason: str
    payload: bytes
    kind: int = AVC

    def __str__(self) -> str:
        return f'{self.reason}: {self.payload!r}'


def parse(kind: int, payload: bytes) -> Record | Unparsable | None:
    """Read a record.

    :param kind: the numeric type of the record
    :param payload: its text as the kernel sent it, from ``audit(`` on; what
        auditd adds to it is not looked at
    :returns: the :class:`Record`; :class:`Unparsable` when it is ours and
        cannot be understood; None when it is somebody else's
    """
    if kind not in KINDS:
        return None
    payload = payload[:_LONGEST]
    text = payload.decode('utf-8', 'surrogateescape')
    if _ENRICHED in text:
        text = text.partition(_ENRICHED)[0]
    text = text.rstrip('\0\n ')
    if kind == AVC:
        operation = text.partition(' operation="')[2][:8]
        for shape in _shapes.get(operation, ()):
            if record := shape.read(text, payload):
                return record
    header = _HEADER.match(text)
    if header is None:
        return Unparsable(
            'no audit(TIME:SERIAL) at its beginning', payload, kind
        )
    body = _read(kind, text, header.end())
    if body is None:
        return None
    if isinstance(body, str):
        return Unparsable(body, payload, kind)
    seconds, millis, serial = header.groups()
    record = Record(kind, int(serial), int(seconds + millis), *body, payload)
    if record.decision and not record.label:
        return Unparsable(
            'a denial that names neither profile nor context', payload, kind
        )
    if kind == AVC and record.module == 'apparmor' and not record.stray:
        _learn(operation, _FIELD.findall(text, header.end()))
    return record


def parse_line(
    line: bytes, stamp: tuple[int, int] = (0, 0)
) -> Record | Unparsable | None:
    """Read a record from a line of a log.

    :param line: of auditd's file, dmesg, /dev/kmsg, syslog or journalctl, or
        the field MESSAGE of a journal entry of the transport ``audit``
    :param stamp: milliseconds since the epoch and serial, for the forms that
        do not have them: a journal entry has them as
        _SOURCE_REALTIME_TIMESTAMP and _AUDIT_ID
    :returns: as :func:`parse`
    """
    found = locate(line, stamp)
    return None if found is None else parse(*found)


def locate(
    line: bytes, stamp: tuple[int, int] = (0, 0)
) -> tuple[int, bytes] | None:
    """Find the record in a line of a log.

    :param line: as for :func:`parse_line`
    :param stamp: as for :func:`parse_line`
    :returns: its numeric type and its text, as :func:`parse` and
        :func:`enrichment` take them; None when the line has none, or one of a
        type that neither of them reads
    """
    # a crash may leave zeros in a file
    line = line[:_LONGEST_LINE].lstrip(b'\0')
    found = _LINE.match(line)
    if found is None:
        return None
    form = found.lastindex or 0
    name = found[form]
    kind = int(name) if form == _PRINTED else _NAMES.get(name, 0)
    if kind not in KINDS and kind not in ENRICHING:
        return None
    payload = line[found.end() :]
    if form == _PRINTED and _KMSG.match(line):
        # what follows the first line tells of a device
        payload = _ESCAPE.sub(
            lambda escape: bytes.fromhex(escape[1].decode()),
            payload.partition(b'\n')[0],
        )
    elif form == _JOURNAL:
        millis, serial = stamp
        time = b'%d.%03d' % divmod(millis, 1000)
        payload = b'audit(%b:%d): %b' % (time, serial, payload)
    return kind, payload


def serial_of(payload: bytes) -> tuple[int, int] | None:
    """Tell which event a record belongs to, whatever its type.

    :param payload: as for :func:`parse`
    :returns: milliseconds since the epoch and serial; None when it does not
        say
    """
    found = _STAMP.match(payload)
    if found is None:
        return None
    seconds, millis, serial = found.groups()
    return int(seconds + millis), int(serial)


def identity(record: Record) -> str:
    """Tell a record from others of its event.

    The same for one record in all its forms: auditd replaces line breaks, and
    adds an enrichment. The kernel cuts what it prints, to some 1,000 bytes:
    a longer record has another identity in dmesg than it has elsewhere.

    :param record: the record
    :returns: a digest of its text, without time and serial; 32 characters
    """
    body = record.raw.partition(b'): ')[2].partition(b'\x1d')[0]
    words = b' '.join(body.rstrip(b'\0\n ').split())
    return hashlib.blake2b(words, digest_size=16).hexdigest()


def enrichment(
    kind: int, payload: bytes
) -> tuple[int, Mapping[str, str]] | None:
    """Read what another record of an event adds to it.

    :param kind: the numeric type of the record
    :param payload: its text, as for :func:`parse`
    :returns: the serial, and of a SYSCALL ``exe``, ``comm`` and ``syscall``
        (its name where auditd adds it, else its number), of a PATH ``path``,
        ``dev``, ``inode`` and ``nametype``, of a SOCKADDR ``saddr`` (in hex),
        of a CWD ``cwd``, of an OBJ_PID ``opid``, of a PROCTITLE ``proctitle``,
        the arguments with a space between; only those that the record has.
        None when it is of another type or cannot be read
    """
    if kind not in ENRICHING:
        return None
    text = payload[:_LONGEST_LINE].decode('utf-8', 'surrogateescape')
    header = _HEADER.match(text)
    if header is None:
        return None
    own, _, added = text[header.end() :].partition(_ENRICHED)
    read, _stray = _collect(_FIELD.findall(own.rstrip('\0\n ')))
    found = {ours: read.get(theirs) for ours, theirs in _ADDS[kind].items()}
    if kind == SYSCALL:
        names, _stray = _collect(_FIELD.findall(added.rstrip('\0\n ')))
        found['syscall'] = names.get('SYSCALL') or found['syscall']
    elif kind == PROCTITLE:
        title = found['proctitle'] or ''
        found['proctitle'] = title.rstrip('\0').replace('\0', ' ')
    return int(header[3]), {
        key: value
        for key, value in found.items()
        if value and value != '(null)'
    }


_Field = tuple[str, str, str]
# module, verdict, fields and stray words
_Body = tuple[str, str, Mapping[str, str], tuple[str, ...]]


def _read(kind: int, text: str, at: int) -> _Body | str | None:
    """Read what follows the header.

    :returns: the body, why it cannot be read, or None when it is not ours
    """
    if kind == USER_AVC:
        return _message(text, at)
    if kind == AVC and text.startswith('avc:', at):
        return _avc(text, at, [])
    found = _FIELD.findall(text, at)
    if kind == AVC or kind in _OLD_APPARMOR:
        return _apparmor(kind, found)
    return _selinux(kind, found)


class _Shape:
    """The keys of a record of AppArmor in their order, and which have quotes.

    There are few, because the kernel has few formats, and one regular
    expression for all of a record is twice as quick as one for each field.
    What it matches, :func:`_collect` would read the same way.
    """

    def __init__(self, found: list[_Field]) -> None:
        self._keys = [key for key, _quoted, _bare in found[1:]]
        self._hex = [
            key for key, _quoted, bare in found if bare and key in _UNTRUSTED
        ]
        fields = ' ++'.join(
            f'{key}="([^"]++)"' if quoted else f'{key}=([^ "]++)'
            for key, quoted, _bare in found
        )
        self._match = re.compile(_HEADER.pattern + fields).fullmatch

    def read(self, text: str, payload: bytes) -> Record | None:
        """Read a record of this shape.

        :param text: of the record
        :param payload: from which it was made
        :returns: the record, or None when it is of another shape
        """
        found = self._match(text)
        if found is None:
            return None
        seconds, millis, serial, verdict, *values = found.groups()
        fields = dict(zip(self._keys, values, strict=True))
        for key in self._hex:
            fields[key] = _unhex(fields[key])
        return Record(
            AVC,
            int(serial),
            int(seconds + millis),
            'apparmor',
            verdict,
            fields,
            (),
            payload,
        )


# {how an operation's name begins: its shapes}, learned from its records. Who
# may choose names chooses among few, too: in quotes or in hex.
_shapes: dict[str, list[_Shape]] = {}
_MOST_OPERATIONS = 64
_MOST_SHAPES = 8


def _learn(operation: str, found: list[_Field]) -> None:
    """Remember the shape of a record that has each key once."""
    if len(_shapes) >= _MOST_OPERATIONS and operation not in _shapes:
        return
    shapes = _shapes.setdefault(operation, [])
    keys = [key for key, _quoted, _bare in found]
    if (
        len(shapes) < _MOST_SHAPES
        and keys[0] == 'apparmor'
        and not {'profile', 'label'}.isdisjoint(keys)
        and all(quoted or bare for _key, quoted, bare in found)
        and not any('"' in bare for _key, _quoted, bare in found)
    ):
        shapes.append(_Shape(found))


def _apparmor(kind: int, found: list[_Field]) -> _Body | str:
    fields, stray = _collect(found)
    verdict = fields.pop('apparmor', None) or _OLD_APPARMOR.get(kind)
    if verdict is None:
        return 'neither AppArmor nor SELinux wrote it'
    return 'apparmor', verdict, fields, stray


def _avc(text: str, at: int, sender: list[_Field]) -> _Body | str:
    """Read what SELinux was asked and answered."""
    found = _AVC.match(text, at)
    if found is None:
        return _notice(text, at, sender)
    verdict, perms = found.groups(default='')
    start = found.end()
    # What a program asked for comes first and may be a guest's choice (the
    # command line that systemd quotes); the contexts are the policy's.
    middle = text.rfind(' scontext=', start - 1)
    if middle < 0:
        middle = start
    fields, stray = _collect(
        [
            *sender,
            ('perms', ' '.join(perms.split()), ''),
            *_FIELD.findall(text, middle),
            *_FIELD.findall(text, start, max(start, middle)),
        ]
    )
    return 'selinux', verdict, fields, stray


def _notice(text: str, at: int, sender: list[_Field]) -> _Body | str:
    """Read what a program says of the policy that it uses."""
    found = _NOTICE.match(text, at)
    assert found is not None
    what, key, value = found.groups()
    more = [(key, value, '')] if key else []
    fields, stray = _collect(
        [*sender, *more, *_FIELD.findall(text, found.end())]
    )
    verdict = _NOTICES.get(what or fields.get('op', ''))
    if verdict is None:
        return 'SELinux wrote it, and nothing that is known'
    return 'selinux', verdict, fields, stray


def _selinux(kind: int, found: list[_Field]) -> _Body | str | None:
    """Read what SELinux tells of itself."""
    fields, stray = _collect(found)
    # ipe has modes and policies, too
    if fields.get('lsm', 'selinux') != 'selinux':
        return None
    if kind == MAC_STATUS and 'enforcing' not in fields:
        return 'a change of mode that does not say to which'
    if kind == SELINUX_ERR and fields.get('seresult') == 'denied':
        return 'selinux', 'denied', fields, stray
    return 'selinux', _OF_ITSELF[kind], fields, stray


def _message(text: str, at: int) -> _Body | str:
    """Read the message of a program, which the kernel puts in quotes."""
    start = text.find(" msg='", at)
    if start < 0:
        return 'a user_avc without a message'
    end = text.rfind("'")
    begin = start + len(" msg='")
    # where it was cut off, the last quote is the first
    message = text[begin : end if end >= begin else None].replace('\n', ' ')
    sender = [
        (f'sender_{key}' if key else '', quoted, bare)
        for key, quoted, bare in _FIELD.findall(text, at, start)
    ]
    if message.startswith('avc:'):
        return _avc(message, 0, sender)
    return _apparmor(USER_AVC, [*sender, *_FIELD.findall(message)])


def _collect(found: list[_Field]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Make fields of what was found, and leave over what is none."""
    fields = {
        key: quoted or (_unhex(bare) if key in _UNTRUSTED else bare)
        for key, quoted, bare in found
    }
    if len(fields) == len(found) and '' not in fields:
        return fields, ()
    # The kernel writes each key once, and the verdict first: whoever got a
    # second one into the record does not overrule it.
    fields = {}
    stray = []
    for key, quoted, bare in found:
        value = quoted or (_unhex(bare) if key in _UNTRUSTED else bare)
        if not key:
            stray.append(value)
        elif key in fields:
            stray.append(f'{key}={value}')
        else:
            fields[key] = value
    return fields, tuple(stray)


def _unhex(value: str) -> str:
    if _HEX.fullmatch(value):
        return bytes.fromhex(value).decode('utf-8', 'surrogateescape')
    return value
