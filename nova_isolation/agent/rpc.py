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

"""The agent's RPC: it tells of itself and its guests to who asks over the bus.

An RPC server of oslo.messaging, with the topic ``nova-isolation-agent`` and
the host's name as the server. It changes nothing. Everything that arrives is
taken for hostile: whoever can write to the bus can send anything.
:mod:`nova_isolation.agent.rpcapi` is the client.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import re
import threading
from typing import Any, cast, Protocol, TypeVar

from oslo_log import log
import oslo_messaging
from oslo_messaging.rpc import server as rpc_server
from oslo_messaging import transport as messaging_transport

from nova_isolation.agent import rpcapi
from nova_isolation import domain
from nova_isolation import exceptions
from nova_isolation.violations import journal as violations_journal
from nova_isolation.violations import text

LOG = log.getLogger(__name__)

# Questions that are answered at a time, and that wait for that. One whose
# sender does not wait for the answer any more holds a thread for a minute
# (kombu_missing_consumer_retry_timeout).
_THREADS = 8
_WAITING = 16
# Seconds after which one that finds no room is dropped: well below the
# heartbeat's, which the same thread answers.
_ROOM = 5.0

# Seconds between two attempts to start after one that failed.
_PAUSE = 10.0

# SQLite's largest rowid.
_LARGEST_SEQ = 2**63 - 1
_LARGEST_LIMIT = 1000
_LIMIT = 100
# Events that are read from the journal at a time, and bytes of an answer.
_PAGE = 50
_LARGEST_ANSWER = 1024 * 1024

_VERSION = re.compile(r'[0-9]{1,9}(\.[0-9]{1,9}){1,2}')


class Journal(Protocol):
    """Where the events are."""

    def entries(
        self, since: int = 0, *, instance: str | None = None, limit: int = 100
    ) -> Sequence[violations_journal.Entry]:
        """Read events with a larger number, in the order of their numbers."""


_Method = TypeVar('_Method', bound=Callable[..., Any])


def _answer(method: _Method) -> _Method:
    """Let clients call it, and have its errors as answers."""
    expected = oslo_messaging.expected_exceptions(exceptions.IsolationError)
    return cast(_Method, oslo_messaging.expose(expected(method)))


class Endpoint:
    """Checks what is asked, and answers.

    Several threads are in here at a time, and so in what it was given.
    """

    target = oslo_messaging.Target(version=rpcapi.VERSION)

    def __init__(
        self,
        status: Callable[[], dict[str, Any]],
        journal: Journal,
        profile: Callable[[str], str],
        verify: Callable[[str], dict[str, Any]],
    ) -> None:
        """Take who knows the answers.

        Each of them may raise an :class:`IsolationError`, which goes to who
        asked; anything else is logged as a fault.

        :param status: tells of the agent, in JSON types
        :param journal: where the events are
        :param profile: tells the text of the profile of a guest, by its uuid
        :param verify: verifies a guest, by its uuid
        """
        self._status = status
        self._journal = journal
        self._profile = profile
        self._verify = verify

    # The arguments come as they are: oslo.messaging would log a traceback
    # of one that a signature does not have.

    @_answer
    def status(self, context: object, /, **given: object) -> dict[str, Any]:
        """Tell how the agent does; takes no arguments."""
        _only(given)
        return self._status()

    @_answer
    def violations(
        self, context: object, /, **given: object
    ) -> dict[str, Any]:
        """Tell events since a cursor; see the client's method."""
        _only(given, 'since', 'instance', 'limit')
        cursor = _number(given, 'since', 0, 0, _LARGEST_SEQ)
        limit = _number(given, 'limit', _LIMIT, 1, _LARGEST_LIMIT)
        instance = None
        if given.get('instance') is not None:
            instance = _uuid(given)
        events: list[dict[str, Any]] = []
        size = 0
        while len(events) < limit:
            wanted = min(_PAGE, limit - len(events))
            page = self._journal.entries(
                cursor, instance=instance, limit=wanted
            )
            for entry in page:
                event = _event(entry)
                size += len(json.dumps(event))
                # one is told however large it is, or nobody gets past it
                if events and size > _LARGEST_ANSWER:
                    return {'events': events, 'cursor': cursor}
                events.append(event)
                cursor = entry.seq
            if len(page) < wanted:
                break
        return {'events': events, 'cursor': cursor}

    @_answer
    def profile(self, context: object, /, **given: object) -> str:
        """Tell the profile of a guest; see the client's method."""
        _only(given, 'instance')
        return self._profile(_uuid(given))

    @_answer
    def verify(self, context: object, /, **given: object) -> dict[str, Any]:
        """Verify a guest now; see the client's method."""
        _only(given, 'instance')
        return self._verify(_uuid(given))


def _only(given: Mapping[str, object], *known: str) -> None:
    for name in given:
        if name not in known:
            raise exceptions.InvalidRequest(
                f'the argument {_shown(name)} is not known'
            )


def _number(
    given: Mapping[str, object], name: str, default: int, low: int, high: int
) -> int:
    value = given.get(name)
    if value is None:
        return default
    # True is an int, too
    if type(value) is not int or not low <= value <= high:
        raise exceptions.InvalidRequest(
            f'{name} is a number from {low} to {high}, not {_shown(value)}'
        )
    return value


def _uuid(given: Mapping[str, object]) -> str:
    value = given.get('instance')
    if not isinstance(value, str) or not domain.UUID_RE.fullmatch(value):
        raise exceptions.InvalidRequest(
            f'instance is the uuid of a guest, not {_shown(value)}'
        )
    return value


def _shown(value: object) -> str:
    # no repr() of what may be huge
    if isinstance(value, str):
        return f'"{text.visible(value, 64)}"'
    if value is None or isinstance(value, bool | float):
        return repr(value)
    return f'a {type(value).__name__}'


def _event(entry: violations_journal.Entry) -> dict[str, Any]:
    return {
        'seq': entry.seq,
        'id': entry.id,
        'time': entry.time,
        'event_type': entry.event_type,
        'priority': entry.priority,
        'instance': entry.instance,
        'sent': bool(entry.sent),
        'payload': dict(entry.payload),
    }


class _Dispatcher(oslo_messaging.RPCDispatcher):  # type: ignore[misc]
    """Refuses what oslo.messaging would stumble over, with a traceback."""

    def dispatch(self, incoming: Any) -> Any:
        # The sender's wish for signs of life: they would come from a thread
        # that never ends when the version does not fit. Ours answer soon.
        incoming.client_timeout = None
        try:
            _check(incoming.message)
            return super().dispatch(incoming)
        except (
            exceptions.InvalidRequest,
            oslo_messaging.NoSuchMethod,
            oslo_messaging.UnsupportedVersion,
        ):
            raise oslo_messaging.ExpectedException() from None


def _check(message: Mapping[str, object]) -> None:
    if not isinstance(message.get('method'), str):
        raise exceptions.InvalidRequest('there is no method')
    if not isinstance(message.get('args', {}), dict):
        raise exceptions.InvalidRequest('the arguments are no object')
    if not isinstance(message.get('namespace'), str | None):
        raise exceptions.InvalidRequest('the namespace is no text')
    version = message.get('version', rpcapi.VERSION)
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise exceptions.InvalidRequest('the version has not the form 1.0')


class _Server(rpc_server.RPCServer):  # type: ignore[misc]
    """Takes as many questions at a time as there is room for."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._room = threading.BoundedSemaphore(_THREADS + _WAITING)

    def _on_incoming(self, incoming: Any) -> None:
        # The queue behind the threads has no limit. While this waits, it
        # takes nothing more from the broker.
        if not self._room.acquire(timeout=_ROOM):
            LOG.warning(
                'A question over RPC was dropped, %d are under way',
                _THREADS + _WAITING,
            )
            return
        super()._on_incoming(incoming)

    def _process_incoming(self, incoming: Any) -> None:
        try:
            super()._process_incoming(incoming)
        finally:
            self._room.release()


class Server:
    """The RPC server, whose start and end do not wait for the broker."""

    def __init__(
        self,
        transport: messaging_transport.RPCTransport,
        host: str,
        endpoint: Endpoint,
    ) -> None:
        """Name what is served; nothing is connected yet.

        :param transport: as :func:`rpcapi.connect` makes it
        :param host: the name of this host
        :param endpoint: who answers
        """
        self._transport = transport
        self._target = oslo_messaging.Target(topic=rpcapi.TOPIC, server=host)
        self._endpoint = endpoint
        self._stopping = threading.Event()
        self._serving = False
        # oslo.messaging's server starts when the broker is there, and waits
        # for it without end: this thread may end with the process
        self._thread = threading.Thread(
            target=self._run, name='rpc', daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def serving(self) -> bool:
        """Whether it has been connected: from then on it reconnects."""
        return self._serving

    def stop(self, timeout: float) -> None:
        """Stop; no question is taken any more.

        :param timeout: seconds to wait at most: a broker that is away holds
            the thread, which then ends with the process
        """
        self._stopping.set()
        if self._thread.is_alive() and self._serving:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            server = _Server(
                self._transport,
                self._target,
                _Dispatcher(
                    [self._endpoint],
                    None,
                    oslo_messaging.ExplicitRPCAccessPolicy,
                ),
            )
            try:
                server.start(override_pool_size=_THREADS)
            except Exception as e:
                # a wrong password, a queue that has other properties: what
                # waiting alone does not mend
                LOG.error(
                    'The RPC server cannot start, and tries again in %d '
                    'seconds: %s: %s',
                    _PAUSE,
                    type(e).__name__,
                    ' '.join(str(e).split()),
                )
                self._stopping.wait(_PAUSE)
                continue
            self._serving = True
            LOG.info('The RPC server of %s is up', self._target.server)
            self._stopping.wait()
            server.stop()
            server.wait()
            self._transport.cleanup()
