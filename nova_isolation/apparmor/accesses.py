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

"""What a guest did, compared with what a policy would let it do.

Only for advice before the policy is in force: what is in force is the
kernel's to judge.
"""

from collections.abc import Iterable
import dataclasses

from nova_isolation.apparmor import rules

FILE, CAPABILITY, NETWORK, UNIX, SIGNAL, PTRACE = (
    'file',
    'capability',
    'network',
    'unix',
    'signal',
    'ptrace',
)


@dataclasses.dataclass(frozen=True)
class Access:
    """Something that a process did.

    :ivar kind: of this module's, or the kernel's name of another one, which
        no policy of ours grants
    :ivar name: the path; the capability; the family and type of the socket;
        the label at the other end
    :ivar wanted: of a file the letters of a rule (``r``, ``w``, ``m``, ``k``,
        ``ix``, and ``l``, which we never grant); else the operations
    """

    kind: str
    name: str
    wanted: frozenset[str]

    def words(self) -> str:
        """Tell it in words.

        :returns: e.g. ``file /tmp/x: r``
        """
        return f'{self.kind} {self.name}: {" ".join(sorted(self.wanted))}'


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a policy says to an access.

    :ivar missing: what of it the policy does not grant
    :ivar quietly: the reasons why it denies that on purpose, when it does so
        with all of it
    """

    missing: frozenset[str]
    quietly: tuple[str, ...] = ()


def judge(
    policy: Iterable[rules.Rule], access: Access, dialect: rules.Dialect
) -> Answer:
    """Compare an access with a policy.

    :param policy: its rules
    :param access: what was done
    :param dialect: that the rules will be rendered for
    :returns: the answer
    """
    granted: set[str] = set()
    denied: set[str] = set()
    reasons: dict[str, None] = {}
    for rule in policy:
        spoken = _speaks_of(rule, access, dialect)
        if spoken and getattr(rule, 'deny', False):
            denied |= spoken
            reasons[rule.origin] = None
        else:
            granted |= spoken
    missing = access.wanted - (granted - denied)
    return Answer(missing, tuple(reasons) if missing <= denied else ())


def _speaks_of(
    rule: rules.Rule, access: Access, dialect: rules.Dialect
) -> frozenset[str]:
    """Tell which part of an access a rule grants or denies."""
    nothing: frozenset[str] = frozenset()
    match rule:
        case rules.File() if access.kind == FILE:
            return (
                access.wanted & rule.letters
                if rule.matches(access.name)
                else nothing
            )
        case rules.Capability() if access.kind == CAPABILITY:
            return access.wanted if rule.name == access.name else nothing
        case rules.Network() if access.kind == NETWORK:
            if access.name != f'{rule.family} {rule.type}':
                return nothing
            if rule.operations and dialect.network_operations:
                return access.wanted & set(rule.operations)
            return access.wanted
        case rules.Unix() if access.kind == UNIX:
            if rule.peer not in ('', access.name):
                return nothing
            if dialect.network_operations:
                return access.wanted & set(rule.access)
            return access.wanted
        case rules.Signal() if access.kind == SIGNAL:
            pass
        case rules.Ptrace() if access.kind == PTRACE:
            pass
        case _:
            return nothing
    return access.wanted & {rule.access if rule.peer == access.name else ''}
