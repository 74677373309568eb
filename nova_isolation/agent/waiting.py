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

"""Denials that are the first of their kind, and no events yet.

To attribute one takes ten times as long as to count a repeat. So a turn of the
agent attributes some only, and the guests have their turns in a ring: whoever
begins to try a thousand names waits for himself, and for one denial of each
other. What waits is in the journal meanwhile, as the kernel wrote it.

Pure: what has to be kept is given away as plain data, see
:meth:`Waiting.changes`.
"""

import collections
from collections.abc import Callable, Collection, Iterator, Mapping
import dataclasses
import json
import sys

from nova_isolation.audit import records
from nova_isolation.violations import model


@dataclasses.dataclass(slots=True)
class Denied:
    """A denial on its way.

    :ivar who: what a table knows the guest by: its uuid, as soon as that is
        known; it may be gone when it has its turn
    :ivar line: whether the record came from a file, not from the kernel
    :ivar context: what other records of the same event say
    :ivar id: of its event, when it is the first of a kind
    :ivar repeats: likewise
    :ivar until: when it is reported whatever is known by then
    :ivar unsure: whether a newer table may know the target's owner
    """

    record: records.Record
    who: str
    line: bool = False
    context: dict[str, str] = dataclasses.field(default_factory=dict)
    id: str = ''
    repeats: model.Repeats | None = None
    until: float = 0.0
    unsure: bool = False

    def row(self) -> str:
        """Write down what a later agent needs to report it.

        :returns: what :meth:`Waiting.restore` reads
        """
        return json.dumps(
            {
                'who': self.who,
                'kinds': 0 if self.repeats is None else self.repeats.kinds,
                'line': self.line,
                'kind': self.record.kind,
                # bytes
                'raw': self.record.raw.decode('latin-1'),
                'context': self.context,
            }
        )

    @classmethod
    def of_row(cls, identity: str, row: str) -> 'Denied':
        """Read what was written down.

        :param identity: of its event
        :param row: what :meth:`row` gave
        :returns: the denial
        :raises ValueError: when it is damaged; ArithmeticError,
            AttributeError, LookupError and TypeError likewise
        """
        data = json.loads(row)
        raw = data['raw'].encode('latin-1')
        record = records.parse(int(data['kind']), raw)
        if not isinstance(record, records.Record):
            raise ValueError(f'no denial: {record}')
        return cls(
            record,
            str(data['who']),
            bool(data['line']),
            {str(key): str(value) for key, value in data['context'].items()},
            identity,
            model.Repeats(
                1, record.time, record.time, kinds=int(data['kinds'])
            ),
        )


class Waiting:
    """Gives the denials of all guests in turn, those of each in order."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._number = 0
        # by keys, in order: what is held until more is known
        self._held: dict[str, Denied] = {}
        # {guest: {key: denial}}; the guest whose turn is next stands first.
        # There may be many: of one that is kept elsewhere there is the row.
        self._ready: collections.OrderedDict[str, dict[str, Denied | str]] = (
            collections.OrderedDict()
        )
        self._kept: set[str] = set()
        self._anew = False

    def __len__(self) -> int:
        """Count them."""
        return len(self._held) + sum(map(len, self._ready.values()))

    @property
    def is_ready(self) -> bool:
        """Whether one can be taken."""
        return bool(self._ready)

    @property
    def is_holding(self) -> bool:
        """Whether one is held."""
        return bool(self._held)

    @property
    def size(self) -> int:
        """Bytes that those have which are not held, as they were recorded."""
        return sum(
            len(d) if isinstance(d, str) else len(d.record.raw)
            for denials in self._ready.values()
            for d in denials.values()
        )

    def add(self, denied: Denied) -> None:
        """Let one wait for its turn.

        :param denied: the first of a kind
        """
        self._enter(self._key(denied), denied)

    def hold(self, denied: Denied) -> None:
        """Hold one.

        :param denied: the first of a kind, until :meth:`release`
        """
        self._held[self._key(denied)] = denied

    def release(self, is_known: Callable[[Denied], bool]) -> None:
        """Let those that were held wait for their turn.

        :param is_known: tells of which nothing more is waited for
        """
        for key, denied in [*self._held.items()]:
            if is_known(denied):
                del self._held[key]
                self._enter(key, denied)

    def take(self, most: int = sys.maxsize) -> Iterator[Denied]:
        """Take the next ones, a guest after the other.

        :param most: how many
        :returns: an iterator: what it has given waits no more
        """
        for _ in range(most):
            if not self._ready:
                return
            guest, denials = self._ready.popitem(last=False)
            key = next(iter(denials))
            denied = denials.pop(key)
            if denials:
                self._ready[guest] = denials
            yield _whole(key, denied)

    def pick(self, ids: Collection[str]) -> list[Denied]:
        """Take some out of turn.

        :param ids: of their events
        :returns: those that wait or are held, in order of each guest
        """
        found = [
            self._held.pop(key) for key in [*self._held] if _id(key) in ids
        ]
        for guest, denials in [*self._ready.items()]:
            for key in [key for key in denials if _id(key) in ids]:
                found.append(_whole(key, denials.pop(key)))
            if not denials:
                del self._ready[guest]
        return found

    def changes(self) -> dict[str, str | None]:
        """Tell what has changed since the last :meth:`committed`.

        :returns: by its key each that waits; None for one that does no more
        """
        changed: dict[str, str | None] = dict.fromkeys(self._kept)
        for key, held in self._held.items():
            if key not in self._kept or self._anew:
                changed[key] = held.row()
            else:
                del changed[key]
        for denials in self._ready.values():
            for key, denied in denials.items():
                if isinstance(denied, Denied):
                    denials[key] = denied = denied.row()
                if key not in self._kept or self._anew:
                    changed[key] = denied
                else:
                    del changed[key]
        return changed

    def committed(self) -> None:
        """Note that the changes are kept."""
        self._kept = set(self._held).union(*self._ready.values())
        self._anew = False

    def forget(self) -> None:
        """Note that nothing may be kept: :meth:`changes` gives all anew."""
        self._anew = True

    def restore(self, rows: Mapping[str, str], until: float) -> list[str]:
        """Take over what an agent that died had waiting.

        They are held, and are not folded again: what repeats them was counted
        then.

        :param rows: by their keys what :meth:`changes` gave
        :param until: when they are reported whatever is known by then
        :returns: the keys of those that cannot be read: they are forgotten
            with the next :meth:`changes`
        """
        damaged = []
        self._kept = set(rows)
        for key, row in sorted(rows.items()):
            try:
                self._number = max(self._number, int(key.partition(':')[0]))
                denied = Denied.of_row(_id(key), row)
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                TypeError,
                ValueError,
            ):
                damaged.append(key)
            else:
                denied.until = until
                self._held[key] = denied
        return damaged

    def _key(self, denied: Denied) -> str:
        # so that sorting keeps their order
        self._number += 1
        return f'{self._number:012d}:{denied.id}'

    def _enter(self, key: str, denied: Denied) -> None:
        self._ready.setdefault(denied.who, {})[key] = denied


def _id(key: str) -> str:
    """Tell the id of the event whose denial has that key."""
    return key.partition(':')[2]


def _whole(key: str, denied: Denied | str) -> Denied:
    if isinstance(denied, str):
        return Denied.of_row(_id(key), denied)
    return denied
