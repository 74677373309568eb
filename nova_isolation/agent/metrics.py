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

"""Prometheus metrics on a port of this host, when one is configured.

=============================================  ==========================
``nova_isolation_records_total``               audit records about guests
``nova_isolation_events_total``                first events of a kind
``nova_isolation_folded_total``                records that an event sums up
``nova_isolation_sent_total``                  of them confirmed by the broker
``nova_isolation_lost_total{stage}``           lost, as far as it is counted
``nova_isolation_losses_unknown_total{stage}`` times that it is not known how
                                               many
``nova_isolation_unaccounted``                 on their way: records - events -
                                               folded - lost
``nova_isolation_queue_records``               read, not yet worked on
``nova_isolation_journal_events``              in the journal, not confirmed
``nova_isolation_send_seconds``                histogram: until the broker's
                                               confirm, of a denial from the
                                               kernel's record on
``nova_isolation_canary_ok``                   1 when the last one arrived;
                                               absent before, and when it is
                                               off
``nova_isolation_canary_last_ok_seconds``      when one last arrived, since
                                               1970; absent before
``nova_isolation_guests``                      running guests looked at
``nova_isolation_guests_unconfined``           those that are not confined
``nova_isolation_verifier_last_seconds``       when they were last looked at
``nova_isolation_verifier_round_seconds``      how long that took
``process_*``                                  memory, CPU, descriptors
=============================================  ==========================

All are read when somebody asks. prometheus-client, which takes 1 MB, is
imported only where a port is set.
"""

import bisect
from collections.abc import Callable, Iterator
import dataclasses
import http.server
import socket
import socketserver
import sys
import threading
from typing import Any

from oslo_log import log

from nova_isolation.agent import ledger as agent_ledger
from nova_isolation import exceptions

LOG = log.getLogger(__name__)

# Seconds; the last is that of a broker that was away.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)

# Who asks at once, and the seconds that each may take.
_CLIENTS = 4
_PATIENCE = 5.0


class Latency:
    """How long events took, in buckets; for all threads."""

    def __init__(self) -> None:
        """Start at zero."""
        self._lock = threading.Lock()
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count an event.

        :param seconds: that it took; a clock that was stepped back makes them
            negative, which counts as nothing
        """
        seconds = max(0.0, seconds)
        with self._lock:
            self._counts[bisect.bisect_left(BUCKETS, seconds)] += 1
            self._sum += seconds

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Tell the histogram, as Prometheus has it.

        :returns: ``(le, events that took at most that)``, the last ``+Inf``;
            and the sum of all seconds
        """
        with self._lock:
            counts, total = list(self._counts), self._sum
        found, so_far = [], 0
        for bound, count in zip((*BUCKETS, '+Inf'), counts, strict=True):
            so_far += count
            found.append((str(bound), float(so_far)))
        return found, total


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where the values come from; each is asked without waiting.

    :ivar ledger: the counts
    :ivar queue: how many records wait for the worker
    :ivar journal: how many events wait for the broker's confirm
    :ivar latency: until the broker's confirm, from a denial's record on, of
        other events from their making
    :ivar canary: :meth:`nova_isolation.agent.canary.Canary.status`
    :ivar verifier: :meth:`nova_isolation.agent.verifier.Verifier.status`
    """

    ledger: Callable[[], agent_ledger.Snapshot]
    queue: Callable[[], int]
    journal: Callable[[], int]
    latency: Latency
    canary: Callable[[], dict[str, Any]]
    verifier: Callable[[], dict[str, Any]]


class _Collector:
    """Reads the values when Prometheus asks."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Any]:
        from prometheus_client import core

        sources = self._sources
        now = sources.ledger()
        for name, what, words in (
            ('records', agent_ledger.IN, 'Audit records about guests'),
            (
                'events',
                agent_ledger.OUT,
                'First events of a kind that are in the journal',
            ),
            ('folded', agent_ledger.FOLDED, 'Records that events sum up'),
            ('sent', agent_ledger.SENT, 'Events that the broker confirmed'),
        ):
            yield core.CounterMetricFamily(
                f'nova_isolation_{name}', words, value=now.counts[what]
            )
        for name, counts, words in (
            ('lost', now.lost, 'Records or events lost, by stage'),
            (
                'losses_unknown',
                now.unknown,
                'Times that it is not known how many were lost, by stage',
            ),
        ):
            lost = core.CounterMetricFamily(
                f'nova_isolation_{name}', words, labels=['stage']
            )
            for stage, count in counts.items():
                lost.add_metric([stage], count)
            yield lost
        buckets, total = sources.latency.buckets()
        yield core.HistogramMetricFamily(
            'nova_isolation_send_seconds',
            "From the kernel's record of a denial, or another event's making, "
            "to the broker's confirm",
            buckets=buckets,
            sum_value=total,
        )
        for name, words, value in self._gauges(now):
            if value is not None:
                yield core.GaugeMetricFamily(
                    f'nova_isolation_{name}', words, value=value
                )

    def _gauges(
        self, now: agent_ledger.Snapshot
    ) -> Iterator[tuple[str, str, float | None]]:
        sources = self._sources
        canary, verifier = sources.canary(), sources.verifier()
        yield (
            'unaccounted',
            'Records on their way: records - events - folded - lost',
            now.unaccounted,
        )
        yield 'queue_records', 'Records not worked on', sources.queue()
        yield 'journal_events', 'Events not confirmed', sources.journal()
        yield (
            'canary_ok',
            'Whether the last canary arrived',
            None
            if canary['result'] in ('none yet', 'off')
            else canary['result'] == 'ok',
        )
        yield (
            'canary_last_ok_seconds',
            'When a canary last arrived, since 1970',
            canary['arrived'],
        )
        yield 'guests', 'Running guests looked at', verifier['guests']
        yield (
            'guests_unconfined',
            'Running guests that are not confined',
            verifier['unconfined'],
        )
        yield (
            'verifier_last_seconds',
            'When the guests were last looked at, since 1970',
            verifier['last'],
        )
        yield (
            'verifier_round_seconds',
            'How long looking at all guests took',
            verifier['seconds'],
        )


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET /metrics, and nothing else."""

    server: '_Server'
    server_version = 'nova-isolation-agent'
    sys_version = ''

    def do_GET(self) -> None:
        if self.path.partition('?')[0] not in ('/', '/metrics'):
            self.send_error(404)
            return
        kind, body = self.server.metrics()
        self.send_response(200)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        # what it says contains what the client has sent
        LOG.debug('A request for metrics from %s', self.client_address[0])


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A server of few clients, each of whom has little time."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 16

    def __init__(
        self,
        family: socket.AddressFamily,
        address: tuple[str, int],
        metrics: Callable[[], tuple[str, bytes]],
    ) -> None:
        self.address_family = family
        self.metrics = metrics
        self._free = threading.BoundedSemaphore(_CLIENTS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # not HTTPServer's, which asks the name service for this host's name
        socketserver.TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(
        self, request: Any, client_address: Any
    ) -> None:
        # ends whatever it does then, one byte at a time too
        limit = threading.Timer(_PATIENCE, _cut, (request,))
        limit.daemon = True
        limit.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        LOG.debug(
            'Answering a request for metrics failed: %r', sys.exception()
        )


def _cut(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        # it was quicker
        return


class Exporter:
    """Serves the metrics."""

    def __init__(self, address: str, port: int, sources: Sources) -> None:
        """Name the parts; nothing is opened yet.

        :param address: ``[isolation] metrics_address``
        :param port: ``[isolation] metrics_port``; 0: any that is free
        :param sources: where the values come from
        """
        self._address = address
        self._wanted = port
        self._sources = sources
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port that is open, 0 when none is."""
        return self._server.server_port if self._server else 0

    def start(self) -> None:
        """Open the port and serve, in daemon threads: four clients at most.

        :raises ConfigurationError: when it cannot be opened
        """
        from prometheus_client import exposition
        from prometheus_client import process_collector
        from prometheus_client import registry

        collectors = registry.CollectorRegistry()
        collectors.register(_Collector(self._sources))
        process_collector.ProcessCollector(registry=collectors)

        def metrics() -> tuple[str, bytes]:
            return (
                exposition.CONTENT_TYPE_LATEST,
                exposition.generate_latest(collectors),
            )

        try:
            family, _, _, _, address = socket.getaddrinfo(
                self._address,
                self._wanted,
                type=socket.SOCK_STREAM,
                flags=socket.AI_PASSIVE,
            )[0]
            self._server = _Server(
                family, (str(address[0]), int(address[1])), metrics
            )
        except OSError as e:
            raise exceptions.ConfigurationError(
                f'[isolation] metrics_address = {self._address} and '
                f'metrics_port = {self._wanted} cannot be opened: {e}'
            ) from e
        threading.Thread(
            target=self._server.serve_forever, name='metrics', daemon=True
        ).start()

    def stop(self) -> None:
        """Close the port."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
