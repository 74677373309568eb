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

"""The policy of one guest: what its domain needs, as typed, checked data.

:func:`compute` makes it from a domain, :func:`render` writes it as a profile.
In between it may cross from nova-compute to the privileged daemon as plain
data (:meth:`Policy.to_wire`); :func:`from_wire` checks every value, so that
whatever a less privileged process sends, only a profile of this shape comes
out of it, named ``libvirt-<uuid>``.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import re
from typing import Any
from typing import TypeVar

from nova_isolation.apparmor import needs
from nova_isolation.apparmor import rules
from nova_isolation import domain as domain_module
from nova_isolation import exceptions

_T = TypeVar('_T')

#: The first line of each file that we write: how we know it again.
MARK = '# Written by nova-isolation. Changes are lost at the next start.'

_ACCESS = frozenset(['r', 'rk', 'rw', 'rwk'])
_EMULATOR = re.compile('/usr/(local/)?(bin|libexec)/[a-z0-9][a-z0-9_.-]*')
# all but printable ASCII, and what begins a directive
_NOT_SHOWN = re.compile('[^ -"$-~]')
_PTY = re.compile('/dev/pts/([0-9]{1,7})')
_MAX_FILES = 4096
# How the origins of devices begin that come and go while a guest runs.
_PLUGGABLE = ('<disk>', '<interface>', '<hostdev>')
# Slashes in the path of a directory of which all may be granted.
_MIN_TREE = 2
_MAX_ID = 10**7 - 1


@dataclasses.dataclass(frozen=True)
class FileGrant:
    """One file of the guest.

    :ivar path: as the kernel sees it: absolute, without symbolic links
    :ivar access: ``r``, ``rk``, ``rw`` or ``rwk``
    :ivar origin: what of the domain's XML asks for it
    :ivar tree: whether it is a directory, and all below it is granted
    :ivar after: when not None, the domain's short name (see
        :func:`short_name`) and then this text follow the path
    """

    path: str
    access: str
    origin: str
    tree: bool = False
    after: str | None = None

    def whole(self, number: int | None, name: str) -> str:
        """Tell the path for a guest that runs.

        :param number: libvirt's id of the domain
        :param name: libvirt's name of it
        :returns: the whole path
        """
        if self.after is None:
            return self.path
        short = domain_module.short_name(str(number), name)
        return f'{self.path}{short}{self.after}'


@dataclasses.dataclass(frozen=True)
class Need:
    """A need of QEMU.

    :ivar name: in :data:`needs.OPTIONAL`
    """

    name: str


@dataclasses.dataclass(frozen=True)
class Policy:
    """All that a guest's profile depends on.

    :ivar uuid: names the profile
    :ivar name: the domain's name; libvirt's files carry it
    :ivar id: libvirt's number of the running domain, or None before the start
    :ivar emulator: absolute path of the one program
    :ivar needs: names in :data:`needs.OPTIONAL`
    :ivar files: the guest's files
    :ivar consoles: whether QEMU opens pseudo terminals
    :ivar ptys: the numbers of those that it holds, known once it runs
    :ivar complain: whether to report what is not granted instead of denying
    :ivar restoring: whether QEMU reads the guest's saved memory
    """

    uuid: str
    name: str
    id: int | None
    emulator: str
    needs: tuple[str, ...]
    files: tuple[FileGrant, ...]
    consoles: bool
    ptys: tuple[int, ...]
    complain: bool
    restoring: bool

    @property
    def profile(self) -> str:
        """The profile's name in the kernel."""
        return profile_name(self.uuid)

    def to_wire(self) -> dict[str, Any]:
        """Give the policy as plain data.

        :returns: dicts, lists, strings, numbers and None
        """
        return dataclasses.asdict(self)


def profile_name(uuid: str) -> str:
    """Tell the name that libvirt gives to a guest's profile.

    :param uuid: the domain's
    :returns: ``libvirt-<uuid>``
    :raises InvalidPolicy: when it is not a uuid in lower case
    """
    if not domain_module.is_uuid(uuid):
        raise exceptions.InvalidPolicy(f'not a uuid: {uuid!r}')
    return f'libvirt-{uuid}'


def compute(
    domain: domain_module.Domain,
    grants: Iterable[FileGrant | Need],
    *,
    complain: bool,
    restoring: bool = False,
) -> Policy:
    """Make the policy of a domain.

    :param domain: as defined, or as it runs: then the policy names its id and
        pseudo terminals, else any
    :param grants: the files that it gets, and the needs of QEMU
    :param complain: whether the profile shall only report
    :param restoring: whether the guest starts from its saved memory
    :returns: the checked policy
    :raises InvalidPolicy: when a value may not stand in a profile
    """
    terminals = [c for c in domain.characters if c.kind == 'pty']
    ptys = []
    for terminal in terminals:
        if terminal.path and domain.id is not None:
            matched = _PTY.fullmatch(terminal.path)
            if not matched:
                raise exceptions.InvalidPolicy(
                    f'a console is at {terminal.path!r}, not below /dev/pts'
                )
            ptys.append(int(matched[1]))
    found = list(grants)
    asked = {grant.name for grant in found if isinstance(grant, Need)}
    return check(
        Policy(
            uuid=domain.uuid,
            name=domain.name,
            id=domain.id,
            emulator=domain.emulator,
            # in the order of the profile
            needs=tuple(n for n in needs.OPTIONAL if n in asked)
            + tuple(sorted(asked - set(needs.OPTIONAL))),
            files=merge(g for g in found if isinstance(g, FileGrant)),
            consoles=bool(terminals),
            ptys=tuple(sorted(set(ptys))),
            complain=complain,
            restoring=restoring,
        )
    )


def merge(grants: Iterable[FileGrant]) -> tuple[FileGrant, ...]:
    """Make one grant of those for the same file.

    :param grants: in any order
    :returns: sorted by path; each with all rights and all origins
    """
    found: dict[tuple[str, bool, str | None], list[FileGrant]] = {}
    for grant in grants:
        key = (grant.path, grant.tree, grant.after)
        found.setdefault(key, []).append(grant)
    return tuple(
        FileGrant(
            path,
            ''.join(c for c in 'rwk' if any(c in g.access for g in same)),
            '; '.join(sorted({grant.origin for grant in same})),
            tree,
            after,
        )
        for (path, tree, after), same in sorted(
            found.items(), key=lambda item: (*item[0][:2], item[0][2] or '')
        )
    )


def check(policy: Policy) -> Policy:
    """Check every value of a policy.

    :param policy: from wherever
    :returns: the same policy
    :raises InvalidPolicy: naming the value that may not stand in a profile
    """
    profile_name(policy.uuid)
    if not policy.name or '/' in policy.name:
        raise exceptions.InvalidPolicy(
            f'not a usable domain name: {policy.name!r}'
        )
    rules.check_path('/' + policy.name)
    if policy.id is not None and not 0 < policy.id <= _MAX_ID:
        raise exceptions.InvalidPolicy(f'not a domain id: {policy.id}')
    if not _EMULATOR.fullmatch(policy.emulator):
        raise exceptions.InvalidPolicy(
            f'the emulator {policy.emulator!r} is not a program in /usr/bin, '
            '/usr/libexec or below /usr/local'
        )
    for need in policy.needs:
        if need not in needs.OPTIONAL:
            raise exceptions.InvalidPolicy(f'no such need: {need!r}')
    if len(policy.files) > _MAX_FILES:
        raise exceptions.InvalidPolicy(
            f'{len(policy.files)} files, more than {_MAX_FILES}'
        )
    for grant in policy.files:
        if grant.after is None:
            rules.check_path(grant.path)
        else:
            rules.check_path(f'{grant.path}0-{policy.name}{grant.after}')
        if grant.tree and grant.path.count('/') < _MIN_TREE:
            raise exceptions.InvalidPolicy(
                f'{grant.path!r} is too high a directory to grant all of it'
            )
        if grant.access not in _ACCESS:
            raise exceptions.InvalidPolicy(
                f'not an access to a file: {grant.access!r}'
            )
    for pty in policy.ptys:
        if not 0 <= pty <= _MAX_ID:
            raise exceptions.InvalidPolicy(f'not a pseudo terminal: {pty}')
    return policy


def from_wire(data: object) -> Policy:
    """Read a policy that came from a less privileged process.

    :param data: what :meth:`Policy.to_wire` made, or anything else
    :returns: the checked policy
    :raises InvalidPolicy: naming what is not as it must be
    """
    fields = _typed(data, dict, 'policy')
    expected = {field.name for field in dataclasses.fields(Policy)}
    if set(fields) != expected:
        raise exceptions.InvalidPolicy(
            f'a policy has {sorted(expected)}, not {sorted(map(str, fields))}'
        )
    grants = []
    for item in _sequence(fields['files'], 'files'):
        grant = _typed(item, dict, 'file')
        if set(grant) != {f.name for f in dataclasses.fields(FileGrant)}:
            raise exceptions.InvalidPolicy(
                f'not a file of a policy: {str(grant)[:80]}'
            )
        grants.append(
            FileGrant(
                path=_typed(grant['path'], str, 'path'),
                access=_typed(grant['access'], str, 'access'),
                origin=_typed(grant['origin'], str, 'origin'),
                tree=_typed(grant['tree'], bool, 'tree'),
                after=None
                if grant['after'] is None
                else _typed(grant['after'], str, 'after'),
            )
        )
    number = fields['id']
    return check(
        Policy(
            uuid=_typed(fields['uuid'], str, 'uuid'),
            name=_typed(fields['name'], str, 'name'),
            id=None if number is None else _typed(number, int, 'id'),
            emulator=_typed(fields['emulator'], str, 'emulator'),
            needs=tuple(
                _typed(n, str, 'need')
                for n in _sequence(fields['needs'], 'needs')
            ),
            files=tuple(grants),
            consoles=_typed(fields['consoles'], bool, 'consoles'),
            ptys=tuple(
                _typed(p, int, 'pty')
                for p in _sequence(fields['ptys'], 'ptys')
            ),
            complain=_typed(fields['complain'], bool, 'complain'),
            restoring=_typed(fields['restoring'], bool, 'restoring'),
        )
    )


def _typed(value: object, kind: type[_T], what: str) -> _T:
    # type() and not isinstance(): True is no number here
    if type(value) is not kind:
        raise exceptions.InvalidPolicy(
            f'{what} of a policy is a {type(value).__name__}, not a '
            f'{kind.__name__}'
        )
    return value


def _sequence(value: object, what: str) -> Sequence[object]:
    # msgpack, which carries a privileged call, turns tuples into lists
    if not isinstance(value, list | tuple):
        raise exceptions.InvalidPolicy(f'{what} of a policy are no list')
    return value


def render(
    policy: Policy,
    *,
    abi: str,
    dialect: rules.Dialect,
    state_directory: str,
    monitors: Iterable[str] = (),
) -> str:
    """Write a policy as a profile: the whole policy, without includes.

    :param policy: a checked policy
    :param abi: path of the file with the feature ABI, see :mod:`.abi`
    :param dialect: what the installed AppArmor understands
    :param state_directory: libvirt's, see ``[isolation]
        libvirt_state_directory``
    :param monitors: see ``[isolation] monitoring_labels``
    :returns: the text of the profile's file
    :raises InvalidPolicy: when a value may not stand in a profile
    """
    flags = ['attach_disconnected']
    if dialect.disconnected_path:
        flags.append(f'attach_disconnected.path={rules.DISCONNECTED}')
    if policy.complain:
        flags.append('complain')
    lines = [
        MARK,
        f'abi "{rules.check_path(abi)}",',
        f'profile {policy.profile} flags=({", ".join(flags)}) {{',
    ]
    origin = None
    for rule in all_rules(policy, state_directory, monitors):
        if rule.origin != origin:
            origin = rule.origin
            lines.append(f'  # {_comment(origin)}')
        lines.append(f'  {rule.render(dialect)}')
    return '\n'.join([*lines, '}', ''])


def _lines(profile: str) -> list[str]:
    # str.splitlines() takes for an end what a name may have, as U+0085
    return profile.split('\n')


def read_files(
    profile: str, origins: tuple[str, ...] = ('',)
) -> list[rules.File]:
    """Read the rules about files back from a profile of ours.

    :param profile: what :func:`render` wrote
    :param origins: how the origins of those begin that are wanted
    :returns: the rules with their origins
    :raises InvalidPolicy: when it is none of ours
    """
    found, origin = [], ''
    for line in _lines(profile):
        if line.startswith('  # '):
            origin = line[4:]
        elif origin.startswith(origins) and (
            rule := rules.read_file(line.strip(), origin)
        ):
            found.append(rule)
    return found


def surplus(profile: str, policy: Policy) -> frozenset[str]:
    """Tell which devices a profile serves and a policy does not know.

    What another version of the profile's base would grant does not count.

    :param profile: what :func:`render` wrote
    :param policy: of the same guest
    :returns: the origins of their rules
    """
    asked: list[str] = []
    unasked: list[str] = []
    for name, need in needs.OPTIONAL.items():
        found = asked if name in policy.needs else unasked
        found += [_comment(rule.origin) for rule in need()]
    known = {*asked, *(_comment(grant.origin) for grant in policy.files)}
    served = {line[4:] for line in _lines(profile) if line.startswith('  # ')}
    return frozenset(
        origin
        for origin in served - known
        if origin in unasked or origin.startswith(_PLUGGABLE)
    )


def lost(profile: str, policy: Policy) -> dict[str, str]:
    """Tell which files a profile grants for devices, and a policy does not.

    What every guest with such a device needs of the host does not count, nor
    what a link led to that leads elsewhere now.

    :param profile: what :func:`render` wrote
    :param policy: of the same guest
    :returns: {path: origin}
    :raises InvalidPolicy: when the profile is none of ours
    """
    linked = {
        _comment(grant.origin)
        for grant in policy.files
        if ' /' in grant.origin
    }
    found = {
        path: rule.origin
        for rule in read_files(profile, _PLUGGABLE)
        if rule.origin not in linked and (path := rules.only_path(rule.path))
    }
    for need in needs.OPTIONAL.values():
        for rule in need():
            if isinstance(rule, rules.File):
                found.pop(rules.only_path(rule.path) or '', None)
    for grant in policy.files:
        found.pop(path_of(policy, grant), None)
    return found


def all_rules(
    policy: Policy, state_directory: str, monitors: Iterable[str] = ()
) -> list[rules.Rule]:
    """List the rules of a policy, each with its origin.

    :param policy: a checked policy
    :param state_directory: libvirt's, an absolute path
    :param monitors: see ``[isolation] monitoring_labels``
    :returns: the rules in the order of the profile
    """
    starting = policy.id is None
    found = needs.start() if starting else needs.modules()
    for always in needs.ALWAYS:
        found += always()
    for label in monitors:
        why = '[isolation] monitoring_labels'
        found.append(rules.Ptrace('readby', label, why))
    # libvirt executes it, and nobody after that
    access = 'rmix' if starting else 'rm'
    found.append(rules.File((policy.emulator,), access, '<emulator>'))
    for need in policy.needs:
        found += needs.OPTIONAL[need]()
    if {'swtpm', 'connect-unix'} & set(policy.needs):
        why = "swtpm has the guest's label; a helper is handed QEMU's sockets"
        own = ('connect', 'send', 'receive')
        found.append(rules.Unix(own, why, policy.profile))
    found += _state(policy, state_directory)
    if policy.consoles:
        found += _consoles(policy)
    for grant in policy.files:
        path: rules.Path = (grant.path,)
        if grant.after is not None:
            path = (grant.path, *short_name(policy), grant.after)
        if grant.path.startswith('/dev/') or grant.access == 'rw':
            # some devices libvirt opens and hands over; a socket is where
            # whoever made it sees it
            path = ('/', rules.Glob.HANDED_OVER, grant.path[1:], *path[1:])
        if grant.tree:
            path = (*path, '/', rules.Glob.TREE)
        found.append(rules.File(path, grant.access, grant.origin))
    return found


def short_name(policy: Policy) -> rules.Path:
    """Give what libvirt calls a domain's own files and directories.

    :param policy: of the domain
    :returns: :func:`nova_isolation.domain.short_name`, with any id as long as
        it is not known
    """
    number = rules.Glob.DIGITS if policy.id is None else str(policy.id)
    return number, domain_module.short_name('', policy.name)


def path_of(policy: Policy, grant: FileGrant) -> str:
    """Tell the path of a file of a guest that runs.

    :param policy: of the guest, with its id
    :param grant: of the policy
    :returns: the whole path
    """
    return grant.whole(policy.id, policy.name)


def _state(policy: Policy, directory: str) -> list[rules.Rule]:
    own = (f'{directory}/domain-', *short_name(policy))
    found: list[rules.Rule] = [
        rules.File(
            (*own, '/monitor.sock'),
            'w',
            'quietly denied: QEMU unlinks at its end what libvirt removes',
            deny=True,
        ),
    ]
    if policy.id is None:
        # QEMU keeps it: secrets that come later are deciphered by what was
        # read at the start
        found.append(
            rules.File(
                (*own, '/master-key.aes'),
                'r',
                'the key with which libvirt hides secrets from the command '
                'line',
            )
        )
    if policy.restoring:
        # the descriptor is inherited, and checked again when it is used: by
        # QEMU, in a mount namespace without the file
        saved = f'{directory[1:]}/save/{policy.name}.save'
        found.append(
            rules.File(
                ('/', rules.Glob.HANDED_OVER, saved),
                'r',
                "restoring the guest's saved memory",
            )
        )
    return found


def _consoles(policy: Policy) -> list[rules.Rule]:
    why = '<serial type=pty>'
    found: list[rules.Rule] = [rules.File(('/dev/ptmx',), 'rw', why)]
    if policy.id is None:
        # Not known before the start. Closed before the guest runs.
        any_pty = ('/dev/pts/', rules.Glob.DIGITS)
        found.append(rules.File(any_pty, 'rw', why))
    for pty in policy.ptys:
        found.append(rules.File((f'/dev/pts/{pty}',), 'rw', why))
    return found


def _comment(text: str) -> str:
    """Make a text safe for a comment: one line of printable ASCII.

    AppArmor's parser still reads ``#include`` in a comment's place.
    """
    return _NOT_SHOWN.sub('?', text[:200])
