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

"""Sends events over oslo.messaging, and knows whether they arrived.

oslo.messaging's own Notifier is not used: it, and its drivers below it, catch
every exception, so with the broker away an event is gone with a line in the
log. One step deeper, where its ``messagingv2`` driver calls the transport, a
failed send raises, and with RabbitMQ a send only returns when the broker has
confirmed the message. The message is the one that the driver makes, so any
notification listener receives it.
"""

import contextlib
import dataclasses
import json
import re
from typing import Any

from oslo_config import cfg
import oslo_messaging
from oslo_messaging import transport as messaging_transport

from nova_isolation import exceptions
from nova_isolation.violations import broker
from nova_isolation.violations import journal
from nova_isolation.violations import model
from nova_isolation.violations import objects

# The format with an envelope: what the driver messagingv2 sends.
_VERSION = 2.0

# A second attempt: at another host where there are several, and over a new
# channel where the broker has closed the old one. Without it, kombu gives out
# the closed one for ever after the broker's second refusal. More than that
# is the patience of who sends.
_RETRY = 1

# Seconds that the broker has to confirm an event.
_PATIENCE = 30.0
# Seconds for closing the connections.
_CLOSE = 3.0

# A topic is also the key by which its queue is bound, where * and # stand for
# others' messages; RabbitMQ keeps names with "amq." for itself, and takes 255
# bytes with the priority.
_TOPIC = re.compile(r'(?!amq\.)[A-Za-z0-9_.:-]{1,240}')
_PRIORITIES = ('info', 'warn', 'error')

# What RabbitMQ says of a message beyond its max_message_size.
_TOO_LARGE = re.compile(r'message size [0-9]+ is larger than [a-z ]*[0-9]+')


@dataclasses.dataclass(frozen=True)
class Route:
    """Where each event goes, and in which form.

    :ivar topic: the topic, to which the priority is appended
    :ivar versioned: whether the payload is a versioned object
    """

    topic: str
    versioned: bool = False


def connect(conf: cfg.ConfigOpts) -> messaging_transport.NotificationTransport:
    """Make the transport that ``nova.conf`` describes.

    That is ``[isolation] notification_transport_url``, else
    ``[oslo_messaging_notifications] transport_url``, else ``[DEFAULT]
    transport_url``. Nothing is connected yet.

    :param conf: the configuration
    :returns: the transport
    :raises ConfigurationError: when the transport's URL cannot be used
    """
    url = conf.isolation.notification_transport_url or None
    return broker.transport(
        lambda: oslo_messaging.get_notification_transport(conf, url=url),
        'transport_url'
        if url is None
        else '[isolation] notification_transport_url',
    )


def routes(conf: cfg.ConfigOpts) -> tuple[Route, ...]:
    """Tell where events go, from the options that say it.

    :param conf: the configuration
    :returns: the routes, without repetition
    :raises ConfigurationError: when the format needs a topic that is not
        there, or one has a name that cannot be used
    """
    wanted = conf.isolation.notification_format
    found: dict[str, Route] = {}
    for format_, option in (
        ('unversioned', 'notification_topics'),
        ('versioned', 'versioned_notification_topics'),
    ):
        if wanted not in (format_, 'both'):
            continue
        topics = conf.isolation[option]
        if not topics:
            raise exceptions.ConfigurationError(
                f'[isolation] notification_format = {wanted} needs a topic in '
                f'the option {option}, which is empty'
            )
        for topic in topics:
            if not _TOPIC.fullmatch(topic):
                raise exceptions.ConfigurationError(
                    f'[isolation] {option} has {topic!r}: a topic has 1 to '
                    f'240 of the characters A-Z a-z 0-9 _ . : - and does not '
                    f'begin with "amq."'
                )
            route = Route(topic, format_ == 'versioned')
            if found.setdefault(topic, route) != route:
                raise exceptions.ConfigurationError(
                    f'the topic {topic} is in [isolation] notification_topics '
                    f'and in versioned_notification_topics: who reads it '
                    f'could not tell both forms of an event apart'
                )
    return tuple(found.values())


def publisher_id(host: str) -> str:
    """Name the sender of this host's events.

    :param host: the name of the host
    :returns: the notification's ``publisher_id``
    """
    return f'nova-isolation:{host}'


def message(
    entry: journal.Entry, host: str, *, versioned: bool
) -> dict[str, Any]:
    """Make the message that goes to the broker.

    :param entry: the event
    :param host: the name of this host
    :param versioned: whether its payload is to be a versioned object
    :returns: what a notification listener receives, of JSON types
    :raises CannotBeSent: when there is no such message
    """
    try:
        if entry.priority not in _PRIORITIES:
            raise ValueError(f'its priority is {entry.priority!r}')
        sent = model.utc(entry.time)
        payload = dict(entry.payload)
        if versioned:
            payload = objects.versioned(entry.event_type, payload)
        made = {
            # not a new one for each attempt: duplicates can be told
            'message_id': entry.id,
            'publisher_id': publisher_id(host),
            'event_type': entry.event_type,
            'priority': entry.priority.upper(),
            'payload': payload,
            # as the Notifier writes it: UTC without saying so
            'timestamp': str(sent.replace(tzinfo=None)),
        }
        # oslo.messaging would make something of what is not JSON, and of NaN
        # what no other language reads
        json.dumps(made, allow_nan=False)
    except (
        TypeError,
        ValueError,
        OverflowError,
        OSError,
        RecursionError,
    ) as e:
        words = 'versioned' if versioned else 'unversioned'
        raise exceptions.CannotBeSent(
            f'event {entry.id} cannot be a {words} notification: '
            f'{_in_one_line(e)}'
        ) from e
    return made


class Notifier:
    """Sends events to the broker, each to every route."""

    def __init__(
        self,
        transport: messaging_transport.NotificationTransport,
        routes: tuple[Route, ...],
        host: str,
        patience: float = _PATIENCE,
    ) -> None:
        """Make a notifier.

        :param transport: as :func:`connect` makes it
        :param routes: as :func:`routes` tells them
        :param host: the name of this host, for ``publisher_id``
        :param patience: seconds that one event may take
        """
        self._transport = transport
        self._routes = routes
        self._host = host
        self._patience = patience
        self._errands = broker.Errands('notifier')

    def send(self, entry: journal.Entry) -> None:
        """Send an event; when this returns, the broker has it.

        That is all messages of it, one for each route. After an error some of
        them may have arrived, and arrive once more with the next attempt: with
        the same ``message_id``. One that takes longer than the patience goes
        on; when it is sent again, its end is waited for.

        :param entry: the event
        :raises NotSent: when the broker did not confirm it, for whatever
            reason: it may have it all the same
        :raises CannotBeSent: when no attempt can succeed; what can be sent
            of it, e.g. one of two forms, was
        """
        try:
            refusals = self._errands.do(
                lambda: self._deliver(entry), self._patience, entry.id
            )
        except broker.Late:
            raise exceptions.NotSent(
                f'no confirmation within {self._patience:g} seconds: the '
                f'broker hangs, or takes no messages because of its memory or '
                f'disk alarm (rabbitmq-diagnostics alarms)'
            ) from None
        except Exception as e:
            # What the driver lets through is not only its own exceptions,
            # but those of kombu, amqp and the sockets.
            raise exceptions.NotSent(_cause(e)) from e
        if refusals:
            raise exceptions.CannotBeSent('; '.join(refusals))

    def _deliver(self, entry: journal.Entry) -> list[str]:
        """Send it to every route.

        :returns: why it can not be sent, where it can not
        """
        refusals = []
        for route in self._routes:
            try:
                made = message(entry, self._host, versioned=route.versioned)
                self._publish(f'{route.topic}.{entry.priority}', made)
            except exceptions.CannotBeSent as e:
                refusals.append(e.message)
        return refusals

    def _publish(self, topic: str, made: dict[str, Any]) -> None:
        target = oslo_messaging.Target(topic=topic)
        try:
            self._transport._send_notification(
                target, {}, made, version=_VERSION, retry=_RETRY
            )
        except Exception as e:
            if too_large := _TOO_LARGE.search(str(e)):
                raise exceptions.CannotBeSent(
                    f'event {made["message_id"]} is more than the broker '
                    f'takes: {too_large[0]}'
                ) from e
            raise

    def close(self) -> None:
        """Close the connections, as far as the broker lets it."""
        with contextlib.suppress(broker.Late):
            self._errands.do(self._transport.cleanup, _CLOSE)


def _cause(error: BaseException) -> str:
    words = f'{type(error).__name__}: {_in_one_line(error)}'
    inner: BaseException | None = error
    while inner is not None:
        # oslo.messaging calls this an empty failure to connect
        if type(inner).__name__ == 'MessageNacked':
            return f'the broker refuses it, is its queue full? ({words})'
        inner = inner.__cause__ or inner.__context__
    return words


def _in_one_line(error: BaseException) -> str:
    return ' '.join(str(error).split())
