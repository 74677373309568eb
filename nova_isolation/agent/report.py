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

from nova_isolation.audit import attribution
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
# Of these, ``name`` is no path.
_OF_PROFILES = {
    'change_hat',
    'change_onexec',
    'change_profile',
    'stack',
    'stack_onexec',
}
_KINDS = {
    'capable': 'capability',
    'ptrace': 'process',
    'signal': 'process',
}

# Fields of model.Denial by the names that AppArmor gives them.
_TEXTS = (
    'operation',
    'class',
    'name',
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
)
_NUMBERS = ('pid', 'capability', 'protocol', 'error')


def subject(record: records.Record) -> str | None:
    """Find the guest whose process was refused something.

    :param record: any record
    :returns: the guest's uuid, or None when it is no denial of a guest
    """
    if record.decision is None:
        return None
    return attribution.subject(record.fields['profile'])


def path(record: records.Record) -> str | None:
    """Find the file that the attempt was aimed at.

    :param record: a denial
    :returns: its path, or None when it was no file
    """
    operation = record.text('operation')
    if operation in _OF_PROFILES:
        return None
    # what a link leads to matters more than where it is made
    if operation == 'link' and record.text('target'):
        return record.text('target')
    return record.text('name')


def violation(
    record: records.Record, table: attribution.Table, host: str
) -> model.Violation:
    """Make the event of a denial.

    :param record: one of which :func:`subject` knows the guest
    :param table: the guests of this host
    :param host: the name of this host
    :returns: the event
    """
    uuid = subject(record)
    if uuid is None:
        raise ValueError(f'record {record.serial} is no denial of a guest')
    return model.Violation(
        host=host,
        decision=record.decision or '',
        instance=_instance(uuid, table),
        denial=_denial(record),
        target=_target(record, table, uuid),
        attempt=_attempt(record),
        classification=model.Classification(
            model.HOST_FILE, model.MEDIUM, 'not classified'
        ),
        repeats=model.Repeats(1, record.time, record.time),
    )


def _instance(uuid: str, table: attribution.Table) -> model.Instance:
    domain = table.domain(uuid)
    return (
        model.Instance(uuid) if domain is None else model.Instance.of(domain)
    )


def _denial(record: records.Record) -> model.Denial:
    known = {'profile', *_TEXTS, *_NUMBERS}
    other = {k: v for k, v in record.fields.items() if k not in known}
    if record.stray:
        other['stray'] = ' '.join(record.stray)
    return model.Denial(
        serial=record.serial,
        time=record.time,
        profile=record.fields['profile'],
        operation=record.text('operation'),
        class_=record.text('class'),
        name=record.text('name'),
        requested_mask=record.text('requested_mask'),
        denied_mask=record.text('denied_mask'),
        comm=record.text('comm'),
        pid=record.number('pid'),
        capability=record.number('capability'),
        capname=record.text('capname'),
        family=record.text('family'),
        sock_type=record.text('sock_type'),
        protocol=record.number('protocol'),
        signal=record.text('signal'),
        peer=record.text('peer'),
        target=record.text('target'),
        info=record.text('info'),
        error=record.number('error'),
        other=other,
    )


def _target(
    record: records.Record, table: attribution.Table, uuid: str
) -> model.Target:
    aim = path(record)
    if aim is not None:
        if not aim.startswith('/'):
            return model.Target(aim, 'unnamed file')
        found = table.target(aim, uuid)
        owner = found.owner
        return model.Target(
            aim,
            found.kind,
            None if owner is None else _instance(owner, table),
        )
    operation = record.text('operation') or ''
    peer = attribution.subject(record.text('peer') or '')
    if operation in _OF_PROFILES:
        kind = 'profile'
    elif operation in _KINDS:
        kind = _KINDS[operation]
    elif record.text('family') == 'unix':
        kind = 'socket'
    elif record.text('family'):
        kind = 'network'
    else:
        kind = 'unknown'
    return model.Target(
        None, kind, None if peer is None else _instance(peer, table)
    )


def _attempt(record: records.Record) -> str:
    """What it tried, in words after which the target may follow."""
    operation = record.text('operation') or ''
    mask = record.text('denied_mask') or record.text('requested_mask') or ''
    match operation:
        case _ if operation in _OPENING and path(record) is not None:
            return _opening(operation, mask)
        case 'capable':
            capability = record.text('capname') or record.text('capability')
            return f'use the capability {capability}'
        case 'signal':
            return f'send the signal {record.text("signal")} to'
        case 'ptrace':
            return f'trace ({mask})'
        case _ if operation in _OF_PROFILES:
            return 'change its profile'
        case _ if operation in _FILE_OPERATIONS and path(record) is not None:
            return _FILE_OPERATIONS[operation]
        case _ if record.text('family'):
            family, kind = record.text('family'), record.text('sock_type')
            return f'use ({operation} {family} {kind})'
    return f'do {operation}'


def _opening(operation: str, mask: str) -> str:
    verb = 'open' if operation == 'open' else 'use'
    # AppArmor's letters: "wc" opens for writing and creates
    if set(mask) & set('wacd'):
        return f'{verb} for writing'
    if 'x' in mask:
        return f'{verb} for executing'
    if 'm' in mask:
        return f'{verb} for mapping'
    return f'{verb} for reading'
