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

"""Does the attempts on the compute node: ``python3 -m …matrix ARGUMENTS``.

ARGUMENTS is a JSON object with the uuids of the guests ``captured`` and
``neighbour``, the ``driver``, and the device ``unplugged`` that the first one
lost; what was observed goes to standard output as JSON, the denials' serials
with it, by which a consumer's events are known, and the kind of each, by which
the agent sums them up.
"""

import dataclasses
import json
import os
import sys
import traceback
from typing import Any
import uuid as uuid_module

from nova_isolation.apparmor import accesses
from nova_isolation.apparmor import needs
from nova_isolation.apparmor import rules
from nova_isolation.audit import attempts
from nova_isolation.audit import records
from nova_isolation.cli import usage
from nova_isolation.tests.system.attacks import actions
from nova_isolation.tests.system.attacks.attempt import Attempt
from nova_isolation.tests.system.attacks.attempt import Guest
from nova_isolation.tests.system.attacks.attempt import World
from nova_isolation.tests.system.attacks import audit
from nova_isolation.tests.system.attacks import capabilities
from nova_isolation.tests.system.attacks import captured
from nova_isolation.tests.system.attacks import devices
from nova_isolation.tests.system.attacks import files
from nova_isolation.tests.system.attacks import labels
from nova_isolation.tests.system.attacks import least
from nova_isolation.tests.system.attacks import legitimate
from nova_isolation.tests.system.attacks import model
from nova_isolation.tests.system.attacks import monitor
from nova_isolation.tests.system.attacks import names
from nova_isolation.tests.system.attacks import namespaces
from nova_isolation.tests.system.attacks import peers
from nova_isolation.tests.system.attacks import processes
from nova_isolation.tests.system.attacks import programs
from nova_isolation.tests.system.attacks import sharing
from nova_isolation.tests.system.attacks import sockets
from nova_isolation.tests.system.attacks import virsh

TABLES: dict[str, tuple[Attempt, ...]] = {
    'files of others': files.NEIGHBOUR,
    'files of the host': files.HOST,
    'names': names.TABLE,
    'programs': programs.TABLE,
    'processes': processes.TABLE,
    'namespaces and mounts': namespaces.TABLE,
    'capabilities': capabilities.TABLE,
    'sockets': sockets.TABLE,
    'devices': devices.TABLE,
    'shared memory and messages': sharing.TABLE,
    'labels and policy': labels.TABLE,
    'emulator': monitor.TABLE,
    model.LEGITIMATE: legitimate.TABLE + monitor.LEGITIMATE,
}

_QUIET = '/sys/module/apparmor/parameters/audit'
_MARK = 'attacks-mark:'
# so that the agent finds no denial in it, and nothing that it does not know
_MARKED = 'avc:  granted  { none } for  '
_SECCOMP = 1326  # AUDIT_SECCOMP


@dataclasses.dataclass(frozen=True)
class Subject:
    """Who does an attempt.

    :ivar world: as it sees it
    :ivar label: of its processes, None for none
    """

    world: World
    label: str | None


@dataclasses.dataclass
class Tried:
    """An attempt and what came of it."""

    number: int
    kind: str
    attempt: Attempt
    control: captured.Outcome
    attack: captured.Outcome | None = None
    under_least: captured.Outcome | None = None


def _do(attempt: Attempt, subject: Subject, mark: str) -> captured.Outcome:
    world, action = subject.world, attempt.action
    audit.say(f'{_MARKED}{_MARK}{mark}')
    try:
        action.prepare(world)
        if isinstance(action, monitor.Monitor):
            return _command(action, world)
        return captured.run(
            lambda: action.attempt(world),
            lambda got, pid: action.observed(world, got, pid),
            name='captured',
            label=subject.label,
            capabilities=attempt.capabilities,
        )
    except FileNotFoundError as e:
        return captured.Outcome(False, 'ENOENT', str(e))
    except Exception:
        # one that is broken must not hide the others: it fails by itself
        return captured.Outcome(False, 'broken', traceback.format_exc())
    finally:
        action.restore(world)
        audit.say(f'{_MARKED}{_MARK}end')


def _command(action: monitor.Monitor, world: World) -> captured.Outcome:
    answer = action.attempt(world)
    if action.observed(world, answer, world.own.pid):
        return captured.Outcome(True, '', '')
    said = answer.get('error', {}).get('desc', 'not observed')
    # the filter of older QEMUs kills
    error = 'SIGSYS' if _seccomp_killed(world.own.pid) else ''
    return captured.Outcome(False, error, said)


def _seccomp_killed(pid: int) -> bool:
    return not os.path.exists(f'/proc/{pid}') and audit.wait_for(
        f' pid={pid} ', kind=_SECCOMP
    )


def _world(own: Guest, neighbour: Guest, unplugged: str) -> World:
    tcp, udp = peers.start()
    with open('/run/libvirtd.pid') as f:
        libvirtd = int(f.read())
    stand_ins = {
        'neighbour': neighbour.label,
        'libvirtd': captured.label_of(libvirtd),
        'host': None,
    }
    (base,) = {
        name
        for name in os.listdir('/var/lib/nova/instances/_base')
        if not name.endswith('.lock')
    }
    return World(
        own=own,
        neighbour=neighbour,
        base=f'/var/lib/nova/instances/_base/{base}',
        unplugged=unplugged,
        tcp=tcp,
        udp=udp,
        labels=stand_ins,
        processes={
            name: processes.stand_in(label)
            for name, label in stand_ins.items()
        },
    )


def _denials(lines: list[str], label: str) -> dict[str, list[records.Record]]:
    """Sort the denials of a label by the marks between which they stand."""
    found: dict[str, list[records.Record]] = {}
    mark = ''
    for line in lines:
        kind, _, text = line.partition(' ')
        if kind == 'type=0':
            raise RuntimeError(line)
        if _MARK in text:
            mark = text.partition(_MARK)[2].partition("'")[0].strip()
        record = records.parse(int(kind[5:]), text.encode())
        if (
            isinstance(record, records.Record)
            and record.decision == 'denied'
            and record.label == label
        ):
            found.setdefault(mark, []).append(record)
    return found


def _recorded(label: str) -> dict[str, list[records.Record]]:
    end = f'{_MARK}{uuid_module.uuid4()}'
    audit.say(_MARKED + end)
    if not audit.wait_for(end, 20):
        raise RuntimeError('the audit log does not go on')
    return _denials(audit.lines(), label)


def _unconfined(world: World) -> Subject:
    """Start a guest that is not confined."""
    guest = virsh.twin(world.own, str(uuid_module.uuid4()), None)
    if guest.label != 'unconfined':
        raise RuntimeError(f'the control runs as {guest.label}')
    return Subject(dataclasses.replace(world, own=guest), None)


def _try_all(subject: Subject) -> list[Tried]:
    tried: list[Tried] = []
    control = _unconfined(subject.world)
    for kind, table in TABLES.items():
        for attempt in table:
            number = len(tried)
            # QEMU's monitor is another QEMU's, code is a process like it
            beside = (
                control
                if isinstance(attempt.action, monitor.Monitor)
                else Subject(subject.world, None)
            )
            one = Tried(number, kind, attempt, _do(attempt, beside, 'control'))
            if one.control.succeeded:
                one.attack = _do(attempt, subject, _heard(number))
            if not os.path.exists(f'/proc/{control.world.own.pid}'):
                control = _unconfined(subject.world)
            tried.append(one)
    return tried


def _heard(number: int) -> str:
    return f'attempt-{number}'


def _loud(number: int) -> str:
    return f'loud-{number}'


def _least(world: World) -> Subject:
    """Start a guest with the least profile, and see that it is just that."""
    abi, rights = least.choose()
    for right in rights:
        less = tuple(r for r in rights if r != right)
        if _start_least(world, abi, less):
            raise RuntimeError(f'a guest does without: {right}')
    found = _start_least(world, abi, rights)
    if found is None:
        raise RuntimeError(f'the least profile does not suffice: {rights}')
    own = found.world.own
    profile = _write_least(own.uuid, world, abi, least.narrow(rights))
    virsh.reload(own.uuid, profile)
    if not monitor.greets(found.world, own.pid):
        raise RuntimeError(f'the guest does not run with: {profile}')
    return found


def _write_least(
    uuid: str, world: World, abi: str, rights: tuple[str, ...]
) -> str:
    name, directory = virsh.beside(uuid), virsh.place(uuid)
    return least.write(uuid, name, directory, world.base, abi, rights)


def _start_least(
    world: World, abi: str, rights: tuple[str, ...]
) -> Subject | None:
    """Start a guest with certain rights.

    :returns: the guest, or None when it does not start or answer VNC
    """
    uuid = str(uuid_module.uuid4())
    profile = _write_least(uuid, world, abi, rights)
    guest = virsh.try_twin(world.own, uuid, profile)
    if guest is None:
        return None
    if guest.label != f'libvirt-{uuid}':
        raise RuntimeError(f'the least guest runs as {guest.label}')
    subject = Subject(dataclasses.replace(world, own=guest), guest.label)
    return subject if monitor.greets(subject.world, guest.pid) else None


def _listen_closely(
    tried: list[Tried], subject: Subject
) -> dict[str, list[records.Record]]:
    """Do again what was denied without a record, with no denial quiet."""
    with open(_QUIET) as f:
        before = f.read().strip()
    with open(_QUIET, 'w') as f:
        f.write('noquiet')
    try:
        for one in tried:
            _do(one.attempt, subject, _loud(one.number))
    finally:
        with open(_QUIET, 'w') as f:
            f.write(before)
    return _recorded(subject.label or '')


def _judge(
    one: Tried,
    heard: dict[str, list[records.Record]],
    loud: dict[str, list[records.Record]],
) -> model.Observation:
    name = one.attempt.name
    if not one.control.succeeded or one.attack is None:
        return model.Observation(
            name,
            one.kind,
            model.NOT_APPLICABLE,
            by=model.failure(one.control.error, one.control.words),
            note=one.control.words,
        )
    if one.attack.succeeded:
        inseparable = bool(one.under_least and one.under_least.succeeded)
        why = one.attempt.why
        return model.Observation(
            name,
            one.kind,
            model.ALLOWED,
            inseparable=inseparable,
            note=why.value if why and inseparable else '',
        )
    found = heard.get(_heard(one.number)) or loud.get(_loud(one.number)) or []
    by = model.mediation(found[0]) if found else ''
    quiet = _quiet(found) if _heard(one.number) not in heard else ''
    refused = one.attack.error in ('EACCES', 'EPERM') or any(
        words in one.attack.words
        for words in ('Permission denied', 'Operation not permitted')
    )
    if not by and refused:
        by = 'apparmor'
    return model.Observation(
        name,
        one.kind,
        model.DENIED,
        by=by,
        note=one.attack.words,
        quiet=quiet,
    )


def _quiet(found: list[records.Record]) -> str:
    """Tell why the profile of every guest denies something quietly."""
    reasons: dict[str, None] = {}
    for record in found:
        answer = accesses.judge(
            needs.noise(), usage.of_record(record), rules.Dialect()
        )
        reasons |= dict.fromkeys(answer.quietly)
    return '; '.join(reasons)


def main() -> None:
    """Do all attempts."""
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    own = virsh.guest(arguments['captured'])
    neighbour = virsh.guest(arguments['neighbour'])
    world = _world(own, neighbour, arguments['unplugged'])
    subject = Subject(world, own.label)
    # of stock libvirt only the result is published
    ours = arguments['driver'] == 'ours'
    # before all else: without it, nothing can be said of what is allowed
    under_least = _least(world) if ours else None
    tried = _try_all(subject)
    for one in tried:
        allowed = one.attack and one.attack.succeeded
        if under_least and allowed and one.kind != model.LEGITIMATE:
            one.under_least = _do(one.attempt, under_least, 'least')
    heard = _recorded(own.label)
    silent = [
        one
        for one in tried
        if ours
        and one.attack
        and not one.attack.succeeded
        and _heard(one.number) not in heard
    ]
    loud = _listen_closely(silent, subject)
    virsh.end_twins()
    for name in world.labels:
        captured.end(world.processes[name])
    items = [
        {
            'observed': dataclasses.asdict(_judge(one, heard, loud)),
            'serials': [
                record.serial for record in heard.get(_heard(one.number), [])
            ],
        }
        for one in tried
    ]
    kinds = [
        (record.serial, ' '.join(attempts.fingerprint(record)))
        for found in heard.values()
        for record in found
    ]
    json.dump({'items': items, 'kinds': kinds}, sys.stdout)


if __name__ == '__main__':
    actions.reach(actions.PLACE, 0o002)
    main()
