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

"""The client's side of the agent's RPC, for whoever wants to ask a host.

For example::

    agents = rpcapi.AgentAPI(rpcapi.connect(conf))
    print(agents.status('cmp1'))

The server's side is :mod:`nova_isolation.agent.rpc`.
"""

from collections.abc import Callable
import importlib
from typing import Any, TypeVar

from oslo_config import cfg
import oslo_messaging
from oslo_messaging import transport as messaging_transport

from nova_isolation import exceptions
from nova_isolation.violations import broker
from nova_isolation.violations import text

_T = TypeVar('_T')

TOPIC = 'nova-isolation-agent'
# A method, an argument or a key of a result that comes raises the minor
# version, one that goes or means something else the major one.
VERSION = '1.0'

# Errors that a client gets as what they are: all of the agent's own.
_EXCEPTIONS = ['nova_isolation.exceptions']

# What oslo.messaging asks of the configuration that it was given, and has
# registered with the global one alone: where, and the name of the group.
_GLOBAL = (
    ('oslo_messaging._metrics.client', 'oslo_messaging_metrics'),
    ('oslo_messaging._tracing.client', 'oslo_messaging_tracing'),
)

# Seconds beyond a call's timeout, in which oslo.messaging itself notices.
_GRACE = 2.0
_CLOSE = 3.0
# Characters of an error that came over the bus.
_ERROR = 1024


def connect(conf: cfg.ConfigOpts) -> messaging_transport.RPCTransport:
    """Make the transport of ``[DEFAULT] transport_url``, for either side.

    Nothing is connected yet.

    :param conf: the configuration
    :returns: the transport
    :raises ConfigurationError: when the URL cannot be used
    """
    for module, options in _GLOBAL:
        _register(conf, module, options)
    return broker.transport(
        lambda: oslo_messaging.get_rpc_transport(
            conf, allowed_remote_exmods=_EXCEPTIONS
        ),
        'transport_url',
    )


def _register(conf: cfg.ConfigOpts, module: str, options: str) -> None:
    try:
        found = importlib.import_module(module)
    except ImportError:
        # of another release, which does not ask for them
        return
    conf.register_opts(getattr(found, options, []), group=options)


class AgentAPI:
    """Asks the agents of hosts, one question after the other."""

    def __init__(
        self,
        transport: messaging_transport.RPCTransport,
        timeout: float = 10.0,
    ) -> None:
        """Make a client; nothing is connected yet.

        :param transport: as :func:`connect` makes it
        :param timeout: seconds that an answer may take
        """
        self._transport = transport
        self._timeout = timeout
        self._client = oslo_messaging.get_rpc_client(
            transport,
            oslo_messaging.Target(topic=TOPIC, version=VERSION),
            timeout=timeout,
            # a broker that is away is not waited for
            retry=0,
        )
        self._errands = broker.Errands('rpc client')

    def status(self, host: str) -> dict[str, Any]:
        """Ask how the agent does.

        :param host: the host, as Nova's ``[DEFAULT] host``
        :returns: what the agent tells of itself
        :raises NoAnswer: when there is none in time
        """
        return self._ask(host, dict, 'status')

    def violations(
        self,
        host: str,
        since: int = 0,
        instance: str | None = None,
        limit: int = 100,
    ) -> dict[str, Any]:
        """Ask for the events in the agent's journal, oldest first.

        :param host: the host
        :param since: the ``cursor`` of the answer before; 0: from the start
        :param instance: the uuid of the only guest to tell of
        :param limit: events to tell at most, 1 to 1000; large ones are fewer
        :returns: ``events``, a list of objects with ``seq``, ``id``, ``time``
            (seconds since the epoch), ``event_type``, ``priority``,
            ``instance``, ``sent`` (whether the broker has confirmed it) and
            ``payload``, and ``cursor``, from which to go on
        :raises InvalidRequest: when an argument is not as above
        :raises NoAnswer: when there is none in time
        """
        return self._ask(
            host,
            dict,
            'violations',
            since=since,
            instance=instance,
            limit=limit,
        )

    def profile(self, host: str, instance: str) -> str:
        """Ask for the profile of a guest.

        :param host: the host
        :param instance: the guest's uuid
        :returns: the profile's text
        :raises InvalidRequest: when that is no uuid
        :raises IsolationError: what the agent has to say instead
        :raises NoAnswer: when there is none in time
        """
        return self._ask(host, str, 'profile', instance=instance)

    def verify(self, host: str, instance: str) -> dict[str, Any]:
        """Have a guest verified now.

        :param host: the host
        :param instance: the guest's uuid
        :returns: what was found
        :raises InvalidRequest: when that is no uuid
        :raises IsolationError: what the agent has to say instead
        :raises NoAnswer: when there is none in time
        """
        return self._ask(host, dict, 'verify', instance=instance)

    def close(self) -> None:
        """Close the connections, as far as the broker lets it."""
        try:
            self._errands.do(self._transport.cleanup, _CLOSE)
        except broker.Late:
            pass

    def _ask(
        self, host: str, kind: type[_T], method: str, **arguments: Any
    ) -> _T:
        call: Callable[[], Any] = lambda: self._client.prepare(  # noqa: E731
            server=host
        ).call({}, method, **arguments)
        try:
            answer = self._errands.do(call, self._timeout + _GRACE)
        except (broker.Late, oslo_messaging.MessagingTimeout):
            raise exceptions.NoAnswer(
                f'the agent of host {host} did not answer within '
                f'{self._timeout:g} seconds: is nova-isolation-agent running '
                f'there, with this name ([DEFAULT] host), and connected to '
                f'this RabbitMQ?'
            ) from None
        except exceptions.IsolationError:
            raise
        except oslo_messaging.RemoteError as e:
            # its text has the whole traceback, which is in the agent's log
            words = text.visible(f'{e.exc_type}: {e.value}', _ERROR)
            raise exceptions.NoAnswer(
                f'the agent of host {host} failed, see its log: {words}'
            ) from None
        except Exception as e:
            # not only the driver's own exceptions, but those of kombu, amqp
            # and the sockets
            words = text.visible(f'{type(e).__name__}: {e}', _ERROR)
            raise exceptions.NoAnswer(
                f'the agent of host {host} could not be asked: {words}'
            ) from e
        if not isinstance(answer, kind):
            raise exceptions.NoAnswer(
                f'the agent of host {host} answered {method} with no '
                f'{kind.__name__}'
            )
        return answer
