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

"""The payloads of versioned notifications, as oslo.versionedobjects.

They have the keys of the plain payloads of
:mod:`nova_isolation.violations.model`, which says what they mean, and are made
from those. What may change, as in Nova: a new field, or a new value of an
enumeration, needs a new minor version; a field that goes or means something
else a new major one. The unit tests hold a fingerprint of each.
"""

from collections.abc import Mapping
import re
from typing import Any

from oslo_versionedobjects import base
from oslo_versionedobjects import fields

from nova_isolation.violations import model


class _Pattern(fields.StringPattern):  # type: ignore[type-arg]
    """Text of one form, and not what could be converted to it."""

    def coerce(self, obj: object, attr: str, value: object) -> str:
        if isinstance(value, str) and re.fullmatch(self.PATTERN, value):
            return value
        raise ValueError(f'{attr} is {value!r}')


class _Uuid(_Pattern):
    PATTERN = r'^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'


class _Time(_Pattern):
    """A time with its microseconds, which fields.DateTime drops."""

    PATTERN = (
        r'^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$'
    )


class _UuidField(fields.AutoTypedField):  # type: ignore[type-arg]
    AUTO_TYPE = _Uuid()


class _TimeField(fields.AutoTypedField):  # type: ignore[type-arg]
    AUTO_TYPE = _Time()


class Payload(base.VersionedObject):
    """What all payloads have in common."""

    OBJ_SERIAL_NAMESPACE = 'nova_isolation_object'
    OBJ_PROJECT_NAMESPACE = 'nova_isolation'

    @classmethod
    def from_plain(cls, plain: object) -> 'Payload':
        """Make it from a plain payload.

        Keys that it does not know, of a newer release, are left out; what an
        older one did not write is null where it may be.

        :param plain: an object of JSON types
        :returns: the versioned object
        :raises ValueError: when a field is missing or not of its type
        :raises TypeError: likewise
        """
        if not isinstance(plain, Mapping):
            raise ValueError(f'{cls.obj_name()} is no object')
        made = cls()
        for name, field in cls.fields.items():
            value = plain.get(name)
            if isinstance(field, _Nested) and value is not None:
                value = field.payload.from_plain(value)
            setattr(made, name, value)
        # else it says which ones were set
        made.obj_reset_changes()
        return made


class _Nested(fields.ObjectField):
    """A payload in a payload."""

    def __init__(self, payload: type[Payload], **options: Any) -> None:
        self.payload = payload
        super().__init__(payload.obj_name(), **options)


def _text(**options: Any) -> fields.Field[Any]:
    return fields.StringField(**options)


def _perhaps() -> fields.Field[Any]:
    return fields.StringField(nullable=True)


def _number(**options: Any) -> fields.Field[Any]:
    return fields.IntegerField(**options)


@base.VersionedObjectRegistry.register
class InstancePayload(Payload):
    """A guest: :class:`nova_isolation.violations.model.Instance`."""

    VERSION = '1.0'
    fields = {
        'uuid': _UuidField(),
        'name': _text(),
        'project_id': _text(),
        'project_name': _text(),
        'user_id': _text(),
        'user_name': _text(),
        'flavor': _text(),
        'image_id': _text(default=''),
    }


@base.VersionedObjectRegistry.register
class DenialPayload(Payload):
    """The kernel's words: :class:`nova_isolation.violations.model.Denial`."""

    VERSION = '1.0'
    fields = {
        'serial': _number(),
        'time': _TimeField(),
        'profile': _text(),
        'module': fields.EnumField(['apparmor', 'selinux']),
        'operation': _perhaps(),
        'class': _perhaps(),
        'name': _perhaps(),
        'requested_mask': _perhaps(),
        'denied_mask': _perhaps(),
        'comm': _perhaps(),
        'pid': _number(nullable=True),
        'capability': _number(nullable=True),
        'capname': _perhaps(),
        'family': _perhaps(),
        'sock_type': _perhaps(),
        'protocol': _number(nullable=True),
        'signal': _perhaps(),
        'peer': _perhaps(),
        'target': _perhaps(),
        'info': _perhaps(),
        'error': _number(nullable=True),
        'laddr': _perhaps(),
        'lport': _number(nullable=True),
        'faddr': _perhaps(),
        'fport': _number(nullable=True),
        'permissions': _perhaps(),
        'tclass': _perhaps(),
        'tcontext': _perhaps(),
        'exe': _perhaps(),
        'proctitle': _perhaps(),
        'syscall': _perhaps(),
        'other': fields.DictOfStringsField(),
    }


@base.VersionedObjectRegistry.register
class TargetPayload(Payload):
    """Its aim: :class:`nova_isolation.violations.model.Target`."""

    VERSION = '1.0'
    fields = {
        'path': _perhaps(),
        'kind': _text(),
        'name': _text(default=''),
        'owner': _Nested(InstancePayload, nullable=True),
    }


@base.VersionedObjectRegistry.register
class ClassificationPayload(Payload):
    """Its meaning: :class:`nova_isolation.violations.model.Classification`."""

    VERSION = '1.0'
    fields = {
        'category': fields.EnumField(
            [
                model.CROSS_INSTANCE,
                model.HOST_FILE,
                model.EXEC,
                model.CAPABILITY,
                model.NETWORK,
                model.PROCESS,
                model.DEVICE,
                model.POLICY_GAP,
            ]
        ),
        'severity': fields.EnumField(
            [model.LOW, model.MEDIUM, model.HIGH, model.CRITICAL]
        ),
        'reason': _text(),
        'rule': _perhaps(),
    }


@base.VersionedObjectRegistry.register
class RepeatsPayload(Payload):
    """How often: :class:`nova_isolation.violations.model.Repeats`."""

    VERSION = '1.0'
    fields = {
        'count': _number(),
        'first': _TimeField(),
        'last': _TimeField(),
        'of': _UuidField(nullable=True),
        'kinds': _number(),
        'samples': fields.ListOfStringsField(),
    }


# What every event has; of a host, instance is null.
_EVENT = {
    'id': _UuidField(),
    'host': _text(),
    'time': _TimeField(),
    'summary': _text(),
}
_OF_A_GUEST = {**_EVENT, 'instance': _Nested(InstancePayload)}
_OF_A_HOST = {**_EVENT, 'instance': _Nested(InstancePayload, nullable=True)}


@base.VersionedObjectRegistry.register
class ViolationPayload(Payload):
    """:class:`nova_isolation.violations.model.Violation`."""

    VERSION = '1.0'
    fields = {
        **_OF_A_GUEST,
        'decision': fields.EnumField(['denied', 'would_deny']),
        'denial': _Nested(DenialPayload),
        'target': _Nested(TargetPayload),
        'classification': _Nested(ClassificationPayload),
        'repeats': _Nested(RepeatsPayload),
    }


@base.VersionedObjectRegistry.register
class FindingPayload(Payload):
    """:class:`nova_isolation.violations.model.Finding`."""

    VERSION = '1.0'
    fields = {
        **_OF_A_GUEST,
        'kind': _text(),
        'reason': _text(),
        'attack': fields.BooleanField(),
    }


@base.VersionedObjectRegistry.register
class RefusedPayload(Payload):
    """:class:`nova_isolation.violations.model.Refused`."""

    VERSION = '1.0'
    fields = {
        **_OF_A_GUEST,
        'operation': _text(),
        'reason': _text(),
        'attack': fields.BooleanField(),
    }


@base.VersionedObjectRegistry.register
class UnconfinedPayload(Payload):
    """:class:`nova_isolation.violations.model.Unconfined`."""

    VERSION = '1.0'
    fields = {
        **_OF_A_GUEST,
        'pid': _number(nullable=True),
        'expected': _text(),
        'found': _text(),
        'reason': _text(),
    }


@base.VersionedObjectRegistry.register
class LostPayload(Payload):
    """:class:`nova_isolation.violations.model.Lost`."""

    VERSION = '1.0'
    fields = {
        **_OF_A_HOST,
        'stage': _text(),
        'count': _number(nullable=True),
        'first': _TimeField(),
        'last': _TimeField(),
        'reason': _text(),
    }


@base.VersionedObjectRegistry.register
class AgentPayload(Payload):
    """:class:`nova_isolation.violations.model.Agent`."""

    VERSION = '1.0'
    fields = {
        **_OF_A_HOST,
        'version': _text(),
        'boot_id': _text(),
    }


@base.VersionedObjectRegistry.register
class CanaryPayload(Payload):
    """:class:`nova_isolation.violations.model.Canary`."""

    VERSION = '1.0'
    fields = {
        **_OF_A_HOST,
        'token': _text(),
        'tried': _TimeField(),
    }


EVENTS: dict[str, type[Payload]] = {
    'isolation.violation': ViolationPayload,
    'isolation.finding': FindingPayload,
    'isolation.refused': RefusedPayload,
    'isolation.unconfined': UnconfinedPayload,
    'isolation.lost': LostPayload,
    'isolation.agent.start': AgentPayload,
    'isolation.agent.stop': AgentPayload,
    'isolation.agent.canary': CanaryPayload,
}


def versioned(event_type: str, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Make the payload of a versioned notification.

    :param event_type: the event's type
    :param plain: its plain payload
    :returns: ``{"nova_isolation_object.name": …, ".namespace": …,
        ".version": …, ".data": {…}}``, of JSON types
    :raises ValueError: when there is no object for that type, or the payload
        does not fit it
    :raises TypeError: likewise
    """
    payload = EVENTS.get(event_type)
    if payload is None:
        raise ValueError(f'the type {event_type!r} has no versioned payload')
    primitive: dict[str, Any] = payload.from_plain(plain).obj_to_primitive()
    return primitive
