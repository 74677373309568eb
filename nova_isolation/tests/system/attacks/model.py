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

"""What a run observed, how runs make the matrix, and when it is bad.

Pure: values in, values out.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import pathlib
from typing import Any

from nova_isolation.audit import records

LEGITIMATE = 'legitimate'
DENIED, ALLOWED, NOT_APPLICABLE = 'denied', 'allowed', 'n/a'

#: how many different attempts there must be
LEAST_ATTEMPTS = 100

# Why an action fails that no policy forbids, by the error of the control.
_MISSING = frozenset(
    'EAFNOSUPPORT ECONNREFUSED EINVAL ENODEV ENOENT ENOPROTOOPT ENOSYS'
    ' ENOTTY ENXIO EOPNOTSUPP EPROTONOSUPPORT ESOCKTNOSUPPORT'.split()
)
_DAC = frozenset(['EACCES', 'EPERM', 'EROFS'])

_OPERATIONS = {
    'capable': 'capability',
    'change_hat': 'profile',
    'change_onexec': 'profile',
    'change_profile': 'profile',
    'mount': 'mount',
    'pivotroot': 'mount',
    'ptrace': 'ptrace',
    'setrlimit': 'rlimit',
    'signal': 'signal',
    'umount': 'mount',
    'userns_create': 'userns',
}


@dataclasses.dataclass(frozen=True)
class Observation:
    """What one run observed of an attempt.

    :ivar name: of the attempt
    :ivar kind: its class
    :ivar result: ``denied``, ``allowed`` or ``n/a``
    :ivar by: what denied it, ``apparmor-file`` and such; what made it fail
        where it is n/a: ``dac``, ``seccomp``, ``missing``
    :ivar reported: whether a consumer was told that it was denied
    :ivar inseparable: whether the least profile allows it
    :ivar note: why, where ``result`` is ``n/a`` or it is inseparable
    :ivar quiet: why the profile denies it quietly, where it does
    """

    name: str
    kind: str
    result: str
    by: str = ''
    reported: bool = False
    inseparable: bool = False
    note: str = ''
    quiet: str = ''


@dataclasses.dataclass(frozen=True)
class Part:
    """What one run of the lab contributes.

    :ivar image: the lab's
    :ivar driver: ``stock`` or ``ours``
    :ivar observed: all attempts
    """

    image: str
    driver: str
    observed: tuple[Observation, ...]

    def write(self, path: pathlib.Path) -> None:
        """Write it as JSON.

        :param path: of the file
        """
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, path: pathlib.Path) -> 'Part':
        """Read what :meth:`write` wrote.

        :param path: of the file
        :returns: the part
        """
        data = json.loads(path.read_text())
        observed = [Observation(**o) for o in data['observed']]
        return cls(data['image'], data['driver'], tuple(observed))


Row = dict[str, Any]


def mediation(record: records.Record) -> str:
    """Tell which part of AppArmor's language denied something.

    :param record: a denial
    :returns: e.g. ``apparmor-file``
    """
    operation = record.text('operation') or ''
    if kind := _OPERATIONS.get(operation):
        return f'apparmor-{kind}'
    if operation.startswith(('uring', 'io_uring')):
        return 'apparmor-io_uring'
    if record.text('family') == 'unix':
        return 'apparmor-unix'
    if record.text('family'):
        return 'apparmor-network'
    return 'apparmor-file'


def failure(error: str, words: str) -> str:
    """Tell why an action failed that no policy forbade.

    :param error: the kernel's: ``EACCES``; '' where QEMU only says words
    :param words: what was said
    :returns: ``dac``, ``seccomp`` or ``missing``; '' when it is not known
    """
    if error == 'SIGSYS':
        return 'seccomp'
    if error in _DAC:
        return 'dac'
    if error in _MISSING:
        return 'missing'
    if 'Permission denied' in words:
        return 'dac'
    if 'fork' in words and 'Operation not permitted' in words:
        # nothing else forbids that
        return 'seccomp'
    return 'missing' if words and not error else ''


def rows(image: str, parts: Mapping[str, Sequence[Observation]]) -> list[Row]:
    """Bring an image's runs together.

    :param image: ``bookworm``, ``trixie``
    :param parts: the observations of the runs ``stock`` and ``ours``
    :returns: a row of the matrix for each attempt
    :raises ValueError: when the runs are not of the same attempts
    """
    stock = {o.name: o for o in parts['stock']}
    names = [o.name for o in parts['ours']]
    if sorted(stock) != sorted(names):
        raise ValueError(
            f'{image}: the runs tried different things: '
            f'{sorted(set(stock) ^ set(names))}'
        )
    return [
        {
            'name': ours.name,
            'class': ours.kind,
            'image': image,
            'lsm': 'apparmor',
            'stock': stock[ours.name].result,
            'ours': ours.result,
            'by': ours.by,
            'reported': ours.reported,
            'inseparable': ours.inseparable,
            'note': ours.quiet if ours.result == DENIED else ours.note,
        }
        for ours in parts['ours']
    ]


def faults(observed: Iterable[Observation], driver: str) -> list[str]:
    """Find what must not be.

    :param observed: all of a run
    :param driver: ``stock`` or ``ours``
    :returns: what is wrong, in words; nothing when all is well
    """
    observed = list(observed)
    found = []
    names = [o.name for o in observed if o.kind != LEGITIMATE]
    if len(set(names)) < LEAST_ATTEMPTS:
        found.append(f'only {len(set(names))} attempts')
    found += [f'{n}: twice' for n in set(names) if names.count(n) > 1]
    for o in observed:
        if o.kind == LEGITIMATE and o.result != ALLOWED:
            found.append(f'{o.name}: legitimate, and {o.result}: {o.note}')
        if o.result == NOT_APPLICABLE and not o.by:
            found.append(f'{o.name}: n/a without a known reason: {o.note}')
        if driver != 'ours' or o.kind == LEGITIMATE:
            continue
        if o.result == ALLOWED and not o.inseparable:
            found.append(f'{o.name}: allowed')
        if o.inseparable and not o.note:
            found.append(f'{o.name}: inseparable without a reason')
        if o.result == DENIED and not o.by:
            found.append(f'{o.name}: fails without a known reason: {o.note}')
        if o.by.startswith('apparmor') and not (o.reported or o.quiet):
            found.append(f'{o.name}: denied, and neither reported nor meant')
    return found


def differences(
    committed: Iterable[Row],
    image: str,
    driver: str,
    observed: Iterable[Observation],
) -> list[str]:
    """Compare what a run observed with the published matrix.

    :param committed: the published rows
    :param image: of the run
    :param driver: of the run
    :param observed: all of it
    :returns: what differs, in words; nothing when it agrees
    """
    wanted = {r['name']: r for r in committed if r['image'] == image}
    found = []
    seen = set()
    for o in observed:
        seen.add(o.name)
        row = wanted.get(o.name)
        if row is None:
            found.append(f'{o.name}: not in the published matrix')
            continue
        now: Row = {driver: o.result}
        if driver == 'ours':
            now |= {
                'class': o.kind,
                'by': o.by,
                'reported': o.reported,
                'inseparable': o.inseparable,
            }
        found += [
            f'{o.name}: {key} is {value}, published as {row[key]}'
            for key, value in now.items()
            if row[key] != value
        ]
    found += [f'{name}: published, not tried' for name in set(wanted) - seen]
    return found
