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

import datetime

from oslo_config import cfg
import oslo_messaging
from oslo_messaging import transport as messaging_transport

from nova_isolation import exceptions
from nova_isolation.violations import spool

# The format with an envelope: what the driver messagingv2 sends.
_VERSION = 2.0

# One attempt: who sends has its own patience (and oslo.messaging's would hold
# its caller up for seconds between two attempts).
_RETRY = 0


def connect(conf: cfg.ConfigOpts) -> messaging_transport.NotificationTransport:
    """Make the transport that ``nova.conf`` describes.

    That is ``[oslo_messaging_notifications] transport_url``, else
    ``[DEFAULT] transport_url``. Nothing is connected yet.

    :param conf: the configuration
    :returns: the transport
    :raises ConfigurationError: when the transport's URL cannot be used
    """
    try:
        return oslo_messaging.get_notification_transport(conf)
    except (
        oslo_messaging.InvalidTransportURL,
        oslo_messaging.DriverLoadFailure,
    ) as e:
        # neither message holds the URL's password
        raise exceptions.ConfigurationError(
            f'the option transport_url cannot be used: {e}'
        ) from e
    except ValueError:
        # a port that is no number, an IPv6 address without its end: the
        # message may hold a part of the password
        raise exceptions.ConfigurationError(
            'the option transport_url is no URL of the form '
            'rabbit://USER:PASSWORD@HOST:PORT/VHOST (special characters in '
            'it are to be percent-encoded)'
        ) from None


class Notifier:
    """Sends events to one topic."""

    def __init__(
        self,
        transport: messaging_transport.NotificationTransport,
        topic: str,
        host: str,
    ) -> None:
        """Make a notifier.

        :param transport: as :func:`connect` makes it
        :param topic: the topic, to which the priority is appended
        :param host: the name of this host, for ``publisher_id``
        """
        self._transport = transport
        self._topic = topic
        self._publisher_id = f'nova-isolation:{host}'

    def send(self, entry: spool.Entry) -> None:
        """Send an event; when this returns, the broker has it.

        A broker that refuses the connection fails at once, one that hangs
        within ``[oslo_messaging_rabbit] heartbeat_timeout_threshold``
        (60 seconds).

        :param entry: the event
        :raises NotSent: when the broker did not confirm it, for whatever
            reason: it may have it all the same
        """
        target = oslo_messaging.Target(topic=f'{self._topic}.{entry.priority}')
        sent = datetime.datetime.fromtimestamp(entry.time, datetime.UTC)
        message = {
            # not a new one for each attempt: duplicates can be told
            'message_id': entry.id,
            'publisher_id': self._publisher_id,
            'event_type': entry.event_type,
            'priority': entry.priority.upper(),
            'payload': entry.payload,
            # as the Notifier writes it: UTC without saying so
            'timestamp': str(sent.replace(tzinfo=None)),
        }
        try:
            self._transport._send_notification(
                target, {}, message, version=_VERSION, retry=_RETRY
            )
        except Exception as e:
            # What the driver lets through is not only its own exceptions,
            # but those of kombu, amqp and the sockets.
            raise exceptions.NotSent(
                f'{type(e).__name__}: {" ".join(str(e).split())}'
            ) from e

    def close(self) -> None:
        """Close the connections."""
        self._transport.cleanup()
