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

"""Turns what the kernel recorded into what people are told.

Pure: a record and the table of guests in, an event out.
"""

from collections.abc import Mapping
import dataclasses
import types

from nova_isolation.audit import attempts
from nova_isolation.audit import attribution
from nova_isolation.audit import classification
from nova_isolation.audit import records
from nova_isolation.violations import model

# AppArmor's names of operations on files that say what they do, in words.
_FILE_OPERATIONS = {
    'chmod': 'change the mode of',
    'chown': 'change the owner of',
    'exec': 'execute',
    'file_inherit': 'inherit',
    'file_lock': 'lock',
    'file_mmap': 'map',
    'getattr': 'look at',
    'link': 'link to',
    'mkdir': 'create',
    'mknod': 'create',
    'mount': 'mount on',
    'open': 'open',
    'pivotroot': 'change its root to',
    'rename_dest': 'rename something to',
    'rename_src': 'rename',
    'rmdir': 'remove',
    'setattr': 'change the attributes of',
    'symlink': 'create',
    'truncate': 'truncate',
    'umount': 'unmount',
    'unlink': 'remove',
}
# With these, the mask says more than the operation.
_OPENING = {'open', 'file_perm', 'file_receive', 'file_inherit'}
# SELinux' permissions that say what they do; the first that is denied counts.
_PERMISSIONS = {
    'create': 'create',
    'unlink': 'remove',
    'rmdir': 'remove',
    'rename': 'rename',
    'link': 'link to',
    'setattr': 'change the attributes of',
    'relabelfrom': 'change the label of',
    'relabelto': 'change the label of',
    'mounton': 'mount on',
    'mount': 'mount',
    'unmount': 'unmount',
    'execute': 'execute',
    'execute_no_trans': 'execute',
    'ptrace': 'trace',
    'signal': 'send a signal to',
    'sigkill': 'send the signal kill to',
    'sigstop': 'send the signal stop to',
    'connectto': 'connect to',
    'name_connect': 'connect to',
}
# Those that only come with others say nothing beside them.
_LESSER_PERMISSIONS = {
    'map': 'map',
    'lock': 'lock',
    'getattr': 'look at',
}

_NOTHING: Mapping[str, str] = types.MappingProxyType({})

# Fields of model.Denial by the names that the kernel gives them.
_TEXTS = (
    'operation',
    'class',
    'requested_mask',
    'denied_mask',
    'comm',
    'capname',
    'family',
    'sock_type',
    'signal',
    'peer',
    'target',
    'info',
    'laddr',
    'faddr',
    'tclass',
    'tcontext',
)
_NUMBERS = ('pid', 'capability', 'protocol', 'error', 'lport', 'fport')
_KNOWN = frozenset(
    ('profile', 'scontext', 'perms', 'name', *_TEXTS, *_NUMBERS)
)


def is_certain(record: records.Record, table: attribution.Table) -> bool:
    """Tell whether a newer table would not know more of the target.

    :param record: a denial of a guest
    :param table: the guests of this host
    :returns: see :class:`attribution.Target`
    """
    return classification.target(attempts.read(record), table).certain


def violation(
    record: records.Record,
    table: attribution.Table,
    host: str,
    *,
    judge: classification.Judge | None = None,
    context: Mapping[str, str] = _NOTHING,
    who: str | None = None,
) -> model.Violation:
    """Make the event of a denial.

    :param record: one of which :func:`.attempts.subject` knows the guest
    :param table: the guests of this host
    :param host: the name of this host
    :param judge: asks the kernel what a guest's profile grants, see
        :data:`classification.Judge`; None where it cannot be asked
    :param context: what other records of the same event say: ``exe``,
        ``proctitle``, ``syscall`` (its name), ``saddr``, ``opid``
    :param who: the guest's uuid where it is known; else the table knows it,
        or not any more
    :returns: the event
    """
    attempt = attempts.read(record, context)
    if who:
        attempt = dataclasses.replace(attempt, subject=who)
    if not attempt.subject:
        raise ValueError(f'record {record.serial} is no denial of a guest')
    target = classification.target(attempt, table)
    meaning = classification.classify(attempt, target, table, judge)
    owner = meaning.owner or target.owner
    return model.Violation(
        host=host,
        decision=record.decision or '',
        instance=instance(attempt.subject, table),
        denial=_denial(record, attempt, context),
        target=model.Target(
            target.path,
            target.kind,
            None if owner is None else instance(owner, table),
            target.name,
        ),
        attempt=_words(attempt, target),
        classification=model.Classification(
            meaning.category, meaning.severity, meaning.reason, meaning.rule
        ),
        repeats=model.Repeats(1, record.time, record.time),
    )


def instance(subject: str, table: attribution.Table) -> model.Instance:
    """Describe a guest.

    :param subject: what the table knows it by; one that is known by its level
        under SELinux alone is called by that
    :param table: the guests of this host
    :returns: who it is, as far as that is known
    """
    guest = table.guest(subject)
    if guest is None:
        return model.Instance(subject)
    return model.Instance(guest.uuid, **vars(guest.instance))


def _denial(
    record: records.Record,
    attempt: attempts.Attempt,
    context: Mapping[str, str],
) -> model.Denial:
    fields = record.fields
    # SELinux has the whole path or the last name
    name = fields.get('name')
    other = {k: v for k, v in fields.items() if k not in _KNOWN}
    if attempt.selinux and 'path' in fields:
        if name is not None:
            other['name'] = name
        name = other.pop('path')
    if record.stray:
        other['stray'] = ' '.join(record.stray)
    (faddr, fport), (laddr, lport) = attempt.remote, attempt.local
    return model.Denial(
        serial=record.serial,
        time=record.time,
        profile=record.label,
        module='selinux' if attempt.selinux else 'apparmor',
        operation=fields.get('operation'),
        class_=fields.get('class'),
        name=name,
        requested_mask=fields.get('requested_mask'),
        denied_mask=fields.get('denied_mask'),
        comm=fields.get('comm'),
        pid=record.number('pid'),
        capability=record.number('capability'),
        capname=fields.get('capname'),
        family=fields.get('family'),
        sock_type=fields.get('sock_type'),
        protocol=record.number('protocol'),
        signal=fields.get('signal'),
        peer=fields.get('peer'),
        target=fields.get('target'),
        info=fields.get('info'),
        error=record.number('error'),
        laddr=fields.get('laddr') or laddr or None,
        lport=record.number('lport') or lport or None,
        faddr=fields.get('faddr') or faddr or None,
        fport=record.number('fport') or fport or None,
        permissions=fields.get('perms'),
        tclass=fields.get('tclass'),
        tcontext=fields.get('tcontext'),
        exe=context.get('exe'),
        proctitle=context.get('proctitle'),
        syscall=context.get('syscall'),
        other=other,
    )


def _words(attempt: attempts.Attempt, target: classification.Target) -> str:
    """What it tried, in words after which the target may follow."""
    operation = attempt.operation
    match attempt.kind:
        case attempts.CAPABILITY:
            return f'use the capability {attempt.name}'
        case attempts.PROFILE:
            return 'change its profile'
        case attempts.NETWORK | attempts.UNIX if attempt.reaching and (
            target.owner or target.name or target.path
        ):
            return 'connect to'
        case attempts.NETWORK | attempts.UNIX:
            return f'use ({operation} {attempt.name})'
    if attempt.selinux:
        return _by_permissions(attempt)
    match operation:
        case 'signal':
            return f'send the signal {attempt.name} to'
        case 'ptrace':
            return f'trace ({attempt.access})'
        case _ if operation in _OPENING and attempt.path is not None:
            return _opening(operation, attempt.access)
        case _ if operation in _FILE_OPERATIONS and attempt.path is not None:
            return _FILE_OPERATIONS[operation]
    return f'do {operation}'


def _by_permissions(attempt: attempts.Attempt) -> str:
    if attempt.kind == attempts.OTHER:
        return f'do {attempt.operation} ({attempt.name})'
    denied = attempt.operation.split()
    for name in denied:
        if name in _PERMISSIONS:
            return _PERMISSIONS[name]
    if len(denied) == 1 and denied[0] in _LESSER_PERMISSIONS:
        return _LESSER_PERMISSIONS[denied[0]]
    if attempt.kind == attempts.FILE:
        opening = 'open' if 'open' in denied else 'use'
        return _opening(opening, attempt.access)
    return f'do {attempt.operation}'


def _opening(operation: str, access: str) -> str:
    verb = 'open' if operation == 'open' else 'use'
    if 'w' in access:
        return f'{verb} for writing'
    if 'x' in access:
        return f'{verb} for executing'
    if 'm' in access:
        return f'{verb} for mapping'
    return f'{verb} for reading'
