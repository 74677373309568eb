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

"""The kernel's audit records: bytes in, typed records out.

Pure, and it never raises: what cannot be read is returned as such, and the
caller counts it. Today the kernel's own form of AppArmor's records is
understood, as netlink carries it; what belongs to SELinux or to no security
module is left to others.
"""

from collections.abc import Mapping
import dataclasses
import datetime
import re

# AppArmor and SELinux share AUDIT_AVC (include/uapi/linux/audit.h).
AVC = 1400

# What the kernel calls its verdict (security/apparmor/audit.c, aa_audit), and
# what an operator calls it. The others (STATUS, AUDIT, HINT, ERROR) tell of
# no attempt that the policy stops or would stop.
DECISIONS: Mapping[str, str] = {
    'DENIED': 'denied',
    'KILLED': 'denied',
    'ALLOWED': 'would_deny',
}

# Longest record of the kernel (MAX_AUDIT_MESSAGE_LENGTH); a longer one is
# cut before it is looked at.
_LONGEST = 8970

# Seconds with eleven digits end in the year 5138, which datetime can hold.
_HEADER = re.compile(rb'audit\(([0-9]{1,11})\.([0-9]{3}):([0-9]{1,20})\): *')
_FIELD = re.compile(rb'([A-Za-z0-9_-]+)=(?:"([^"]*)"(?= |$)|([^ ]*)) *')
_STRAY = re.compile(rb'[^ ]* *')
_HEX = re.compile(rb'(?:[0-9A-F]{2})+')
_NUMBER = re.compile(r'-?[0-9]{1,19}')

# The values that audit_log_untrustedstring() writes: in quotes, or as bare hex
# when they hold a space, a quote, a control character or a byte above 0x7e.
# All other bare values are meant as they stand: ``pid=1234`` is no hex.
_UNTRUSTED = frozenset(
    'addr comm exe label name namespace peer peer_addr peer_label profile'
    ' root_domain srcname target trans'.split()
)


@dataclasses.dataclass(frozen=True)
class Record:
    """An AppArmor record.

    Text that is not UTF-8 carries its bytes as :func:`os.fsdecode` would:
    comparable with paths, but to be made visible before it is shown.

    :ivar serial: the kernel's number of the event
    :ivar time: the kernel's time of it, in UTC, to the millisecond
    :ivar verdict: ``DENIED``, ``ALLOWED`` (complain mode), ``AUDIT``,
        ``STATUS``, …
    :ivar fields: ``{key: value}`` of all other keys, hex values decoded
    :ivar stray: what of the record is not of the form ``key=value``
    """

    serial: int
    time: datetime.datetime
    verdict: str
    fields: Mapping[str, str]
    stray: tuple[str, ...] = ()

    @property
    def decision(self) -> str | None:
        """``denied``, ``would_deny``, or None when nothing was refused."""
        return DECISIONS.get(self.verdict)

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
        if value is None or not _NUMBER.fullmatch(value):
            return None
        return int(value)


@dataclasses.dataclass(frozen=True)
class Unparsable:
    """A record that should be AppArmor's and cannot be read.

    :ivar reason: what is wrong with it, in words
    :ivar payload: its first bytes
    """

    reason: str
    payload: bytes

    def __str__(self) -> str:
        return f'{self.reason}: {self.payload!r}'


def parse(kind: int, payload: bytes) -> Record | Unparsable | None:
    """Read a record.

    :param kind: the numeric type of the record
    :param payload: its text as the kernel sent it, from ``audit(`` on
    :returns: the :class:`Record`; :class:`Unparsable` when it is AppArmor's
        and cannot be understood; None when it is somebody else's
    """
    if kind != AVC:
        return None
    payload = payload[:_LONGEST].rstrip(b'\0\n ')
    header = _HEADER.match(payload)
    if header is None:
        return _unparsable('no audit(TIME:SERIAL) at its beginning', payload)
    if payload.startswith(b'avc:', header.end()):
        return None
    fields, stray = _fields(payload, header.end())
    verdict = fields.pop('apparmor', None)
    if verdict is None:
        return _unparsable('neither AppArmor nor SELinux wrote it', payload)
    record = Record(
        serial=int(header[3]),
        time=datetime.datetime.fromtimestamp(
            int(header[1]), datetime.UTC
        ).replace(microsecond=int(header[2]) * 1000),
        verdict=verdict,
        fields=fields,
        stray=stray,
    )
    if record.decision and not record.text('profile'):
        return _unparsable('a denial that names no profile', payload)
    return record


def _unparsable(reason: str, payload: bytes) -> Unparsable:
    return Unparsable(reason, payload[:256])


def _fields(
    payload: bytes, position: int
) -> tuple[dict[str, str], tuple[str, ...]]:
    fields: dict[str, str] = {}
    stray: list[str] = []
    while position < len(payload):
        found = _FIELD.match(payload, position)
        if found is None:
            # always matches, and eats at least one byte
            found = _STRAY.match(payload, position)
            assert found is not None
            stray.append(_decode(found[0].rstrip(b' ')))
        else:
            key, value = found[1].decode(), _value(found)
            # The kernel writes each key once, and the verdict first: whoever
            # got a second one into the record does not overrule it.
            if fields.setdefault(key, value) is not value:
                stray.append(f'{key}={value}')
        position = found.end()
    return fields, tuple(stray)


def _value(field: re.Match[bytes]) -> str:
    key, quoted, bare = field[1].decode(), field[2], field[3]
    if quoted is not None:
        return _decode(quoted)
    if key in _UNTRUSTED and _HEX.fullmatch(bare):
        return _decode(bytes.fromhex(bare.decode()))
    return _decode(bare)


def _decode(value: bytes) -> str:
    return value.decode('utf-8', 'surrogateescape')
