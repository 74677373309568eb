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

"""The events that nova-isolation reports, and how they look to a consumer.

Each event is a frozen dataclass with an ``event_type``, a ``priority`` (the
notification's, which is also the end of its topic) and a ``payload()`` of
plain JSON types. Keys are only ever added. Of every event:

``id``
    a uuid of the event: when an event is delivered twice, it has the same
``host``
    the name of the compute host, as Nova's ``[DEFAULT] host``
``time``
    when the event was made, ISO 8601 in UTC: ``2026-11-23T07:54:59.517000Z``
``instance``
    the guest that it is about: ``uuid``, ``name``, ``project_id``,
    ``project_name``, ``user_id``, ``user_name``, ``flavor``, ``image_id``; ''
    where a value is not known; null where an event is about the host

Text that tenants or guests choose is shown by
:func:`nova_isolation.violations.text.visible`.
"""

from collections.abc import Mapping
import dataclasses
import datetime
from typing import Any, ClassVar, Protocol
import uuid as uuid_module

from nova_isolation import domain as domain_module
from nova_isolation.violations import text

# JSON objects
Payload = dict[str, Any]

# of a name and a path inside of a sentence, in characters
_SHORT_NAME = 64
_SHORT_PATH = 256
_REASON = 2048


class Event(Protocol):
    """What can be put into the spool and sent."""

    @property
    def event_type(self) -> str:
        """The notification's event type, ``isolation.*``."""

    @property
    def priority(self) -> str:
        """The notification's priority: ``info``, ``warn`` or ``error``."""

    @property
    def id(self) -> str:
        """Its uuid."""

    @property
    def time(self) -> datetime.datetime:
        """When it was made."""

    def summary(self) -> str:
        """It, in one sentence."""

    def payload(self) -> Payload:
        """The notification's payload."""


def new_id() -> str:
    """Make the id of an event.

    :returns: a random uuid
    """
    return str(uuid_module.uuid4())


def now() -> datetime.datetime:
    """Tell the time of an event.

    :returns: the present time in UTC
    """
    return datetime.datetime.now(datetime.UTC)


def utc(seconds: float) -> datetime.datetime:
    """Read a time as the journal and the spool keep it.

    :param seconds: since the epoch
    :returns: the time in UTC
    :raises ValueError: when there is no such time; OverflowError and OSError
        likewise
    """
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def iso(time: datetime.datetime) -> str:
    """Write a time as the payloads have it.

    :param time: with its time zone
    :returns: e.g. ``2026-11-23T07:54:59.517000Z``
    """
    utc = time.astimezone(datetime.UTC)
    return utc.strftime('%Y-%m-%dT%H:%M:%S.%fZ')


@dataclasses.dataclass(frozen=True)
class Instance:
    """A guest, as people know it.

    :ivar uuid: Nova's instance uuid, also libvirt's
    :ivar name: the display name; like all others '' when not known
    """

    uuid: str
    name: str = ''
    project_id: str = ''
    project_name: str = ''
    user_id: str = ''
    user_name: str = ''
    flavor: str = ''
    image_id: str = ''

    @classmethod
    def of(cls, domain: domain_module.Domain) -> 'Instance':
        """Take it from what Nova wrote into the domain's metadata.

        :param domain: the guest's domain
        :returns: the :class:`Instance`
        """
        known = domain.instance
        return cls(
            uuid=domain.uuid,
            name=known.name,
            project_id=known.project_id,
            project_name=known.project_name,
            user_id=known.user_id,
            user_name=known.user_name,
            flavor=known.flavor,
            image_id=known.image_id,
        )

    def payload(self) -> Payload:
        """Write it as the payloads have it.

        :returns: ``{attribute: visible text}``
        """
        return {
            name: text.visible(value)
            for name, value in dataclasses.asdict(self).items()
        }

    def words(self) -> str:
        """Name it in a sentence.

        :returns: e.g. ``instance vm1 (UUID) of project acme``
        """
        name = text.visible(self.name, _SHORT_NAME)
        project = self.project_name or self.project_id
        words = (
            f'instance {name} ({self.uuid})'
            if name
            else (f'instance {self.uuid}')
        )
        if project:
            words += f' of project {text.visible(project, _SHORT_NAME)}'
        return words


@dataclasses.dataclass(frozen=True)
class Denial:
    """What the kernel said of one attempt; None where it said nothing.

    The keys of the payload are those of the records of AppArmor and SELinux,
    except ``class_`` (``class``), and except these:

    :ivar serial: the kernel's number of the audit event
    :ivar time: the kernel's time of it
    :ivar profile: AppArmor's, or SELinux' ``scontext``
    :ivar module: ``apparmor`` or ``selinux``
    :ivar permissions: of SELinux, what was denied: ``read write``
    :ivar exe, proctitle, syscall: of the syscall's own record, where the host
        has such records
    :ivar other: what the record has beyond the keys that are listed here
    """

    serial: int
    time: datetime.datetime
    profile: str
    module: str = 'apparmor'
    operation: str | None = None
    class_: str | None = None
    name: str | None = None
    requested_mask: str | None = None
    denied_mask: str | None = None
    comm: str | None = None
    pid: int | None = None
    capability: int | None = None
    capname: str | None = None
    family: str | None = None
    sock_type: str | None = None
    protocol: int | None = None
    signal: str | None = None
    peer: str | None = None
    target: str | None = None
    info: str | None = None
    error: int | None = None
    laddr: str | None = None
    lport: int | None = None
    faddr: str | None = None
    fport: int | None = None
    permissions: str | None = None
    tclass: str | None = None
    tcontext: str | None = None
    exe: str | None = None
    proctitle: str | None = None
    syscall: str | None = None
    other: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def payload(self) -> Payload:
        """Write it as the payloads have it.

        :returns: the fields by their names in the record, with ``other`` as
            an object of its own
        """
        shown: Payload = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                value = text.visible(value, text.PATH)
            shown[field.name.rstrip('_')] = value
        shown['time'] = iso(self.time)
        shown['other'] = {
            text.visible(key): text.visible(value, text.PATH)
            for key, value in self.other.items()
        }
        return shown


# What an attempt is, by what it was aimed at and what could have come of it.
CROSS_INSTANCE = 'cross_instance'
HOST_FILE = 'host_file'
EXEC = 'exec'
CAPABILITY = 'capability'
NETWORK = 'network'
PROCESS = 'process'
DEVICE = 'device'
POLICY_GAP = 'policy_gap'

# How bad it is.
LOW = 'low'
MEDIUM = 'medium'
HIGH = 'high'
CRITICAL = 'critical'


@dataclasses.dataclass(frozen=True)
class Classification:
    """What an attempt means.

    :ivar category: one of the categories above
    :ivar severity: ``low``, ``medium``, ``high`` or ``critical``
    :ivar reason: why it is that, in words
    :ivar rule: of a ``policy_gap`` the rule that would grant it, for review
    """

    category: str
    severity: str
    reason: str
    rule: str | None = None

    def payload(self) -> Payload:
        """Write it as the payloads have it.

        :returns: ``category``, ``severity``, ``reason`` and ``rule``
        """
        return {
            'category': self.category,
            'severity': self.severity,
            'reason': text.visible(self.reason, _REASON),
            'rule': None
            if self.rule is None
            else text.visible(self.rule, text.PATH),
        }


@dataclasses.dataclass(frozen=True)
class Repeats:
    """How often it has happened.

    :ivar count: how many denials an event stands for: 1 for the first of a
        kind, for its repeats their number without that
    :ivar first: the kernel's time of the first of these
    :ivar last: the kernel's time of the last of these
    :ivar of: the id of the first event of the kind, None in that
    :ivar kinds: how many kinds are folded into one event because a guest had
        too many, 0 where there is one
    :ivar samples: of these, some, in words
    """

    count: int
    first: datetime.datetime
    last: datetime.datetime
    of: str | None = None
    kinds: int = 0
    samples: tuple[str, ...] = ()

    def payload(self) -> Payload:
        """Write it as the payloads have it.

        :returns: the attributes by their names
        """
        return {
            'count': self.count,
            'first': iso(self.first),
            'last': iso(self.last),
            'of': self.of,
            'kinds': self.kinds,
            'samples': [text.visible(s, text.PATH) for s in self.samples],
        }


# What the event that begins a folding of kinds has at its end.
_TOO_MANY = (
    '; too many kinds for one guest, the next ones are summed up in one event'
)


def repeated(first: str, who: str, repeats: Repeats) -> str:
    """Tell in one sentence how often an attempt was repeated.

    :param first: the summary of the first of the kind
    :param who: the guest, as :meth:`Instance.words` names it
    :param repeats: of which ``of`` is that first event
    :returns: the summary of the repeats
    """
    between = f'from {iso(repeats.first)} to {iso(repeats.last)}'
    if repeats.kinds:
        return (
            f'{who} tried {repeats.count} times more, in at least '
            f'{repeats.kinds} kinds that are not reported one by one, '
            f'{between}'
        )
    return f'{first}; {repeats.count} times more, {between}'


@dataclasses.dataclass(frozen=True)
class Target:
    """What the attempt was aimed at.

    :ivar path: the file, or None when it was none
    :ivar kind: ``disk``, ``volume``, ``image cache``, ``config drive``,
        ``nvram``, ``vtpm``, ``console``, ``vhost-user socket``, ``memory``,
        ``filesystem``, ``instance directory``, ``libvirt state``, ``device``,
        ``host file``, ``unnamed file`` (a file of which the kernel could not
        tell the whole path), or without a path: ``process``, ``socket``,
        ``network``, ``host service``, ``capability``, ``profile``,
        ``unknown``
    :ivar owner: the guest that it belongs to, which may be the very one that
        tried; None when it belongs to none
    :ivar name: of a host service or a process what it is, e.g. ``RabbitMQ at
        10.0.0.5 port 5672``; '' where there is nothing to say
    """

    path: str | None
    kind: str
    owner: Instance | None = None
    name: str = ''

    def payload(self) -> Payload:
        """Write it as the payloads have it.

        :returns: ``path``, ``kind``, ``name`` and ``owner``, which is null or
            has the shape of ``instance``
        """
        path, owner = self.path, self.owner
        return {
            'path': None if path is None else text.visible(path, text.PATH),
            'kind': self.kind,
            'name': text.visible(self.name),
            'owner': None if owner is None else owner.payload(),
        }


@dataclasses.dataclass(frozen=True)
class Violation:
    """A guest's process tried what its profile does not grant.

    Keys of the payload beside those of every event:

    ``decision``
        ``denied``, or ``would_deny`` where the profile is in complain mode
    ``denial``
        what the kernel said: see :class:`Denial`
    ``target``
        ``path``, ``kind``, ``name``, ``owner``: see :class:`Target`
    ``classification``
        ``category``, ``severity``, ``reason``, ``rule``: see
        :class:`Classification`
    ``repeats``
        ``count``, ``first``, ``last``, ``of``, ``kinds``, ``samples``: see
        :class:`Repeats`
    ``summary``
        all of it in one sentence

    :ivar attempt: what it tried, as words after "tried to", without the
        target, e.g. ``open for writing``
    """

    event_type: ClassVar[str] = 'isolation.violation'

    host: str
    decision: str
    instance: Instance
    denial: Denial
    target: Target
    attempt: str
    classification: Classification
    repeats: Repeats
    id: str = dataclasses.field(default_factory=new_id)
    time: datetime.datetime = dataclasses.field(default_factory=now)

    def summary(self) -> str:
        """Tell it in one sentence.

        :returns: e.g. ``instance vm1 (UUID) of project acme tried to open for
            writing the disk PATH of instance vm2 (UUID) of project evil:
            denied``
        """
        words = self._words()
        if self.repeats.of is None:
            return f'{words}{_TOO_MANY}' if self.repeats.kinds else words
        return repeated(words, self.instance.words(), self.repeats)

    @property
    def priority(self) -> str:
        """The notification's priority: ``error`` of what is critical."""
        critical = self.classification.severity == CRITICAL
        return 'error' if critical else 'warn'

    def _words(self) -> str:
        words = ' '.join(
            [
                self.instance.words(),
                'tried to',
                text.visible(self.attempt),
                *self._aim(),
            ]
        )
        if self.decision == 'would_deny':
            return f'{words}: allowed, its profile is in complain mode'
        return f'{words}: denied'

    def _aim(self) -> list[str]:
        target, owner = self.target, self.target.owner
        what = [target.kind]
        if target.path is not None:
            what.append(text.visible(target.path, _SHORT_PATH))
        if owner is not None:
            if owner.uuid == self.instance.uuid:
                return ['its own', *what]
            return ['the', *what, 'of', owner.words()]
        if target.path is not None:
            return ['the', *what]
        if target.name:
            return ['the', *what, text.visible(target.name)]
        if target.kind == 'process':
            peer = text.visible(self.denial.peer or 'unknown', _SHORT_NAME)
            return [f'a process (profile {peer})']
        if target.kind in ('network', 'socket'):
            return ['a socket']
        # the attempt says it all
        return []

    def payload(self) -> Payload:
        """Write the notification's payload.

        :returns: the keys above
        """
        return {
            'id': self.id,
            'host': self.host,
            'time': iso(self.time),
            'decision': self.decision,
            'instance': self.instance.payload(),
            'denial': self.denial.payload(),
            'target': self.target.payload(),
            'classification': self.classification.payload(),
            'repeats': self.repeats.payload(),
            'summary': self.summary(),
        }


@dataclasses.dataclass(frozen=True)
class Finding:
    """What an operator has to know of a guest, where nothing was refused.

    Keys of the payload beside those of every event:

    ``kind``
        ``device kept``: its process had a device open that was taken away;
        ``helper unconfined``: it has started with a process beside it that
        nothing confines, as ``[isolation] unconfined_helpers`` allows
    ``reason``
        what was found, what was done about it, and what is to be done
    ``attack``
        whether that is the guest's own doing
    ``summary``
        all of it in one sentence
    """

    event_type: ClassVar[str] = 'isolation.finding'

    host: str
    instance: Instance
    kind: str
    reason: str
    attack: bool = False
    id: str = dataclasses.field(default_factory=new_id)
    time: datetime.datetime = dataclasses.field(default_factory=now)

    @property
    def priority(self) -> str:
        """The notification's priority: of an attack ``error``."""
        return 'error' if self.attack else 'warn'

    def summary(self) -> str:
        """Tell it in one sentence.

        :returns: e.g. ``instance vm1 (UUID), an attack: REASON``
        """
        attack = ', an attack' if self.attack else ''
        reason = text.visible(self.reason, _REASON)
        return f'{self.instance.words()}{attack}: {reason}'

    def payload(self) -> Payload:
        """Write the notification's payload.

        :returns: the keys above
        """
        return {
            'id': self.id,
            'host': self.host,
            'time': iso(self.time),
            'instance': self.instance.payload(),
            'kind': self.kind,
            'reason': text.visible(self.reason, _REASON),
            'attack': self.attack,
            'summary': self.summary(),
        }


@dataclasses.dataclass(frozen=True)
class Refused:
    """A guest was not started, or an operation on it not done.

    Keys of the payload beside those of every event:

    ``operation``
        what Nova wanted to do, in Nova's words: ``spawn``, ``hard reboot``
    ``reason``
        why it was refused, in an operator's words: also the server's fault,
        as far as no other tenant's server has a part in it
    ``attack``
        whether that is the guest's own doing: its disk's header names what
        Nova never gave it
    ``summary``
        all of it in one sentence
    """

    event_type: ClassVar[str] = 'isolation.refused'
    priority: ClassVar[str] = 'error'

    host: str
    instance: Instance
    operation: str
    reason: str
    attack: bool = False
    id: str = dataclasses.field(default_factory=new_id)
    time: datetime.datetime = dataclasses.field(default_factory=now)

    def summary(self) -> str:
        """Tell it in one sentence.

        :returns: e.g. ``spawn of instance vm1 (UUID) refused: REASON``
        """
        reason = text.visible(self.reason, _REASON)
        operation = text.visible(self.operation)
        words = f'{operation} of {self.instance.words()} refused'
        return (
            f'{words}, an attack: {reason}'
            if self.attack
            else (f'{words}: {reason}')
        )

    def payload(self) -> Payload:
        """Write the notification's payload.

        :returns: the keys above
        """
        return {
            'id': self.id,
            'host': self.host,
            'time': iso(self.time),
            'instance': self.instance.payload(),
            'operation': text.visible(self.operation),
            'reason': text.visible(self.reason, _REASON),
            'attack': self.attack,
            'summary': self.summary(),
        }


@dataclasses.dataclass(frozen=True)
class Unconfined:
    """A running guest has lost its label, its mode, or its policy.

    Keys of the payload beside those of every event:

    ``pid``
        of its QEMU, null when it is not known
    ``expected``
        the label that it should have
    ``found``
        what it has, or what was done to its profile
    ``reason``
        what was found, and what is to be done
    ``summary``
        all of it in one sentence
    """

    event_type: ClassVar[str] = 'isolation.unconfined'
    priority: ClassVar[str] = 'error'

    host: str
    instance: Instance
    pid: int | None
    expected: str
    found: str
    reason: str
    id: str = dataclasses.field(default_factory=new_id)
    time: datetime.datetime = dataclasses.field(default_factory=now)

    def summary(self) -> str:
        """Tell it in one sentence.

        :returns: e.g. ``instance vm1 (UUID) is not confined: REASON``
        """
        reason = text.visible(self.reason, _REASON)
        return f'{self.instance.words()} is not confined: {reason}'

    def payload(self) -> Payload:
        """Write the notification's payload.

        :returns: the keys above
        """
        return {
            'id': self.id,
            'host': self.host,
            'time': iso(self.time),
            'instance': self.instance.payload(),
            'pid': self.pid,
            'expected': text.visible(self.expected),
            'found': text.visible(self.found),
            'reason': text.visible(self.reason, _REASON),
            'summary': self.summary(),
        }


@dataclasses.dataclass(frozen=True)
class Lost:
    """Denials may have happened that nobody is told of.

    It is about the host: ``instance`` is null. Keys of the payload beside
    those of every event:

    ``stage``
        where it was: ``kernel`` (its own counter), ``socket`` (the agent's
        buffer ran over), ``queue``, ``unparsable``, ``journal``, ``agent``
        (it was away, and nothing has kept what happened), ``retention``,
        ``spool``, ``canary`` (the test of the whole way failed)
    ``count``
        how many audit records or events, at most; null when it is not known
    ``first``, ``last``
        of the time in which it was
    ``reason``
        why, and what is to be done
    ``summary``
        all of it in one sentence
    """

    event_type: ClassVar[str] = 'isolation.lost'
    priority: ClassVar[str] = 'error'

    host: str
    stage: str
    count: int | None
    first: datetime.datetime
    last: datetime.datetime
    reason: str
    id: str = dataclasses.field(default_factory=new_id)
    time: datetime.datetime = dataclasses.field(default_factory=now)

    def summary(self) -> str:
        """Tell it in one sentence.

        :returns: e.g. ``up to 12 denials lost (queue): REASON``
        """
        reason = text.visible(self.reason, _REASON)
        count = 'an unknown number of'
        if self.count is not None:
            count = f'up to {self.count}'
        return f'{count} denials lost ({self.stage}): {reason}'

    def payload(self) -> Payload:
        """Write the notification's payload.

        :returns: the keys above
        """
        return {
            'id': self.id,
            'host': self.host,
            'time': iso(self.time),
            'instance': None,
            'stage': self.stage,
            'count': self.count,
            'first': iso(self.first),
            'last': iso(self.last),
            'reason': text.visible(self.reason, _REASON),
            'summary': self.summary(),
        }


@dataclasses.dataclass(frozen=True)
class Agent:
    """The agent has started, or is about to stop.

    It is about the host: ``instance`` is null. Keys of the payload beside
    those of every event:

    ``version``
        of nova-isolation
    ``boot_id``
        the kernel's: serial numbers of audit events begin anew with it
    ``summary``
        all of it in one sentence

    :ivar started: whether it has started
    """

    priority: ClassVar[str] = 'info'

    host: str
    started: bool
    version: str
    boot_id: str
    id: str = dataclasses.field(default_factory=new_id)
    time: datetime.datetime = dataclasses.field(default_factory=now)

    @property
    def event_type(self) -> str:
        """The notification's event type."""
        return f'isolation.agent.{"start" if self.started else "stop"}'

    def summary(self) -> str:
        """Tell it in one sentence.

        :returns: e.g. ``the agent of host cmp1 has started (1.0.0)``
        """
        what = 'has started' if self.started else 'stops'
        return f'the agent of host {self.host} {what} ({self.version})'

    def payload(self) -> Payload:
        """Write the notification's payload.

        :returns: the keys above
        """
        return {
            'id': self.id,
            'host': self.host,
            'time': iso(self.time),
            'instance': None,
            'version': self.version,
            'boot_id': self.boot_id,
            'summary': self.summary(),
        }


@dataclasses.dataclass(frozen=True)
class Canary:
    """The agent's own denial came back from the kernel: the way is open.

    One comes when the agent has started, and then every ``[isolation]
    canary_interval`` seconds. Whoever misses it at the other end knows that
    the silence of this host is none. It is about the host: ``instance`` is
    null. Keys of the payload beside those of every event:

    ``token``
        the word by which the record was recognised
    ``tried``
        when the agent tried what is denied
    ``summary``
        all of it in one sentence
    """

    event_type: ClassVar[str] = 'isolation.agent.canary'
    priority: ClassVar[str] = 'info'

    host: str
    token: str
    tried: datetime.datetime
    id: str = dataclasses.field(default_factory=new_id)
    time: datetime.datetime = dataclasses.field(default_factory=now)

    def summary(self) -> str:
        """Tell it in one sentence.

        :returns: e.g. ``a denial of the agent's own on host cmp1 was heard``
        """
        return f"a denial of the agent's own on host {self.host} was heard"

    def payload(self) -> Payload:
        """Write the notification's payload.

        :returns: the keys above
        """
        return {
            'id': self.id,
            'host': self.host,
            'time': iso(self.time),
            'instance': None,
            'token': self.token,
            'tried': iso(self.tried),
            'summary': self.summary(),
        }
