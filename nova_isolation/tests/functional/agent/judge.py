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

"""Judges what became of denials: each was told once, or is announced as lost.

Pure: what the kernel denied, what the consumer got and what the journal has go
in; what is wrong comes out, in words.
"""

import collections
import dataclasses

from nova_isolation.violations import model
from nova_isolation.violations import text

_OUTSIDE = ('unparsable',)


@dataclasses.dataclass
class Verdict:
    """What the judge found.

    :ivar complaints: what is wrong, empty when all is well
    :ivar told: how many denials the consumer was told of
    :ivar lost: ``{stage: how many}`` that were announced as lost
    :ivar unknown: the stages of which the number is not known
    :ivar twice: how many notifications came more than once
    """

    complaints: list = dataclasses.field(default_factory=list)
    told: int = 0
    lost: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )
    unknown: set = dataclasses.field(default_factory=set)
    twice: int = 0


def judge(
    fed, received, entries=None, *, garbage=0, may_lose=(), ordered=False
):
    """Hold what was told against what was denied.

    :param fed: ``{serial: (uuid, name)}`` of each denial
    :param received: tuples as functional.consumer has them, in their order
    :param entries: the journal's, in their order; None when it is damaged and
        only the consumer can know
    :param garbage: how many records cannot be understood
    :param may_lose: the stages at which something may be lost
    :param ordered: whether first events of a guest must come in the order of
        the kernel, those that may wait for libvirt and the others
    :returns: the :class:`Verdict`
    """
    verdict = Verdict()
    complain = verdict.complaints.append
    got = {}
    for priority, _, kind, payload, _ in received:
        event = kind, priority, payload
        before = got.setdefault(payload['id'], event)
        if before is not event:
            verdict.twice += 1
        if before != event:
            complain(f'two events have the id {payload["id"]}')
    if entries is not None:
        _compare(got, entries, complain)
    _judge_losses(verdict, got.values(), garbage, may_lose)
    violations = {
        id_: (priority, payload)
        for id_, (kind, priority, payload) in got.items()
        if kind == model.Violation.event_type
    }
    _judge_violations(verdict, fed, violations, ordered)
    missing = len(fed) - verdict.told
    lost = sum(
        count for stage, count in verdict.lost.items() if stage not in _OUTSIDE
    )
    if missing < 0 or (missing != lost and not verdict.unknown):
        complain(
            f'{len(fed)} denials are not {verdict.told} told and {lost} lost'
        )
    return verdict


def _compare(got, entries, complain):
    """Hold what the consumer has against the journal: all of it, in order."""
    kept = {e.id: (e.event_type, e.priority, e.payload) for e in entries}
    for id_ in got.keys() - kept.keys():
        complain(f'{id_} was sent and is not in the journal')
    for id_ in kept.keys() - got.keys():
        complain(f'{id_} is in the journal and was not sent')
    for id_ in kept.keys() & got.keys():
        if kept[id_] != got[id_]:
            complain(f'{id_} was sent other than it is in the journal')
    for entry in entries:
        if entry.sent is None or entry.failure is not None:
            complain(f'{entry.id} is not confirmed ({entry.failure})')
    sent, written = _by_instance(got.values()), _by_instance(kept.values())
    for queue, ids in written.items():
        for here, there in zip(ids, sent[queue], strict=False):
            if here != there:
                complain(
                    f'the order of the journal was not kept for {queue}: '
                    f'{kept[here][0]} {here} stands before {kept[there][0]} '
                    f'{there}'
                )
                break


def _by_instance(events):
    """Sort into what keeps its order: a guest's events in one queue."""
    ids = collections.defaultdict(list)
    for _, priority, payload in events:
        instance = payload.get('instance') or {}
        ids[instance.get('uuid'), priority].append(payload['id'])
    return ids


def _judge_losses(verdict, events, garbage, may_lose):
    for kind, _, payload in events:
        if kind != model.Lost.event_type:
            continue
        stage, count = payload['stage'], payload['count']
        if count is None:
            verdict.unknown.add(stage)
        else:
            verdict.lost[stage] += count
        if stage not in may_lose and stage not in _OUTSIDE:
            verdict.complaints.append(payload['summary'])
    if verdict.lost['unparsable'] != garbage and not verdict.unknown:
        verdict.complaints.append(
            f'{verdict.lost["unparsable"]} of {garbage} records that cannot '
            f'be understood are announced'
        )


def _judge_violations(verdict, fed, violations, ordered):
    complain = verdict.complaints.append
    names = {
        serial: (uuid, text.visible(name, text.PATH))
        for serial, (uuid, name) in fed.items()
    }
    denied = collections.Counter(names.values())
    by_guest = collections.Counter(uuid for uuid, _ in fed.values())
    told, of_guest = collections.Counter(), collections.Counter()
    firsts, last = {}, {}
    for id_, (priority, payload) in violations.items():
        repeats, serial = payload['repeats'], payload['denial']['serial']
        who = payload['instance']['uuid'], payload['denial']['name']
        verdict.told += repeats['count']
        of_guest[who[0]] += repeats['count']
        if names.get(serial) != who:
            complain(f'{id_} was never denied: {serial} {who}')
        if repeats['of'] is None:
            if firsts.setdefault(serial, id_) != id_:
                complain(f'{id_} and {firsts[serial]} are the same denial')
            if repeats['count'] != 1:
                complain(f'{id_} begins with {repeats}')
            # what is said of a target without an owner may wait for libvirt
            owned = payload['target']['owner'] is not None
            queue = who[0], priority, owned
            if ordered and serial < last.get(queue, 0):
                complain(f'{id_} ({serial}) comes after {last[queue]}')
            last[queue] = serial
            told[who] += 1
        else:
            _, first = violations.get(repeats['of'], ('', None))
            if first is None or first['repeats']['of'] is not None:
                complain(f'{id_} repeats {repeats["of"]}, which nobody knows')
            elif first['denial'] != payload['denial']:
                complain(f'{id_} is no repetition of {repeats["of"]}')
            if not repeats['kinds']:
                told[who] += repeats['count']
    for who in told:
        if told[who] > denied[who]:
            complain(f'{who}: {told[who]} told, {denied[who]} denied')
    for uuid in of_guest:
        if of_guest[uuid] > by_guest[uuid]:
            complain(f'{uuid}: {of_guest[uuid]} told, {by_guest[uuid]} denied')
