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

"""Who could reach what of whom: the kernel's own answers, guest by guest.

Neither the text of a profile nor our reading of it is trusted here.
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
from typing import Protocol

from nova_isolation.apparmor import needs
from nova_isolation.apparmor import policy
from nova_isolation.apparmor import rules
from nova_isolation import neighbours

#: guests with what they have: (uuid, resources)
Guests = Iterable[tuple[str, tuple[neighbours.Resource, ...]]]


class Judge(Protocol):
    """Answers like :class:`nova_isolation.apparmor.kernel.Judge`."""

    def file(self, profile: str, path: str) -> str: ...


@dataclasses.dataclass(frozen=True)
class Reach:
    """What one guest could do to another's resource.

    :ivar uuid: of the guest that could do it
    :ivar owner: uuid of the other guest
    :ivar resource: the other guest's
    :ivar access: of ``r``, ``w`` and ``x`` what it could do
    """

    uuid: str
    owner: str
    resource: neighbours.Resource
    access: str

    def words(self) -> str:
        """Tell it in a sentence.

        :returns: e.g. ``guest U may r of /i/V/disk (<disk> vda), …``
        """
        return (
            f'guest {self.uuid} may {self.access!r} of {self.resource.path} '
            f'({self.resource.origin}), which is that of guest {self.owner}'
        )


def reaches(
    judge: Judge,
    uuid: str,
    mine: Iterable[neighbours.Resource],
    others: Guests,
    shared: Sequence[str] = (),
) -> Iterator[Reach]:
    """Ask what one guest's profile allows of what other guests have.

    :param judge: who answers
    :param uuid: of the guest; a profile that is not loaded allows nothing
    :param mine: what that guest has itself
    :param others: the other guests
    :param shared: ``[isolation] shared_paths``
    :returns: all that is not intended: neither is it the guest's as well, nor
        what every guest may read
    """
    profile = policy.profile_name(uuid)
    own = _Own(mine)
    # many guests have the same backing files
    known: dict[str, str] = {}
    for owner, resources in others:
        for resource in resources:
            path = resource.sample
            if path not in known:
                known[path] = judge.file(profile, path)
            access = known[path]
            if not access:
                continue
            if neighbours.is_below(resource.path, shared):
                continue
            found = own.find(resource.path)
            if found is None:
                intended = access == 'r' and _is_everybodys(resource.path)
            else:
                could = dataclasses.replace(found, access=access)
                intended = neighbours.is_intended(could, resource, shared)
            if not intended:
                yield Reach(uuid, owner, resource, access)


class _Own:
    """What a guest has itself.

    :param mine: its resources
    """

    def __init__(self, mine: Iterable[neighbours.Resource]) -> None:
        self._named = {resource.path: resource for resource in mine}
        self._identified: dict[neighbours.Identity, neighbours.Resource] = {}

    def find(self, path: str) -> neighbours.Resource | None:
        """Find the one that a path is, or is below."""
        # Guests of one image have the same files by the same name: to look at
        # each of them costs more than the kernel's answer.
        if path in self._named:
            return self._named[path]
        self._identified = self._identified or {
            neighbours.identify(name): resource
            for name, resource in self._named.items()
        }
        found = self._identified.get(neighbours.identify(path))
        trees = (r for r in self._named.values() if r.tree)
        return found or next(
            (r for r in trees if neighbours.is_below(path, [r.path])), None
        )


def _is_everybodys(path: str) -> bool:
    """Tell whether every profile grants a file: libraries, firmware."""
    return any(
        isinstance(rule, rules.File) and rule.matches(path)
        for need in needs.ALWAYS
        for rule in need()
    )
