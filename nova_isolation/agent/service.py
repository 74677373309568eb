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

"""nova-isolation-agent as a service: what it is made of, and its life.

oslo.service's threading backend runs a service in a worker process: it is made
in the parent, which opens what needs a privilege or can be configured wrongly
and so can say so and exit; ``start()`` and all threads come after the fork.
The parent keeps the audit socket open: when the worker dies, records wait in
the kernel's buffer for the next one.
"""

from collections.abc import Mapping, Sequence
import datetime
import os
import sys
import threading
import time
from typing import Any

from oslo_config import cfg
from oslo_log import log
from oslo_messaging import transport as messaging_transport
from oslo_service import service
import pbr.version

from nova_isolation.agent import canary as agent_canary
from nova_isolation.agent import domains as agent_domains
from nova_isolation.agent import housekeeping
from nova_isolation.agent import importer as agent_importer
from nova_isolation.agent import intake as agent_intake
from nova_isolation.agent import ledger as agent_ledger
from nova_isolation.agent import meditation
from nova_isolation.agent import metrics
from nova_isolation.agent import reader as agent_reader
from nova_isolation.agent import readiness
from nova_isolation.agent import report
from nova_isolation.agent import rpc
from nova_isolation.agent import sender as agent_sender
from nova_isolation.agent import verifier as agent_verifier
from nova_isolation.apparmor import grants
from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import policy
from nova_isolation.audit import backfill
from nova_isolation import exceptions
from nova_isolation.violations import coalescing
from nova_isolation.violations import journal as violations_journal
from nova_isolation.violations import model
from nova_isolation.violations import notifier as violations_notifier
from nova_isolation.violations import spool as violations_spool

LOG = log.getLogger(__name__)

PROGRAM = 'nova-isolation-agent'
_VERSION = pbr.version.VersionInfo('nova-isolation')

# Seconds that all threads together have to end.
_STOP = 3.0
# Seconds in which a thread that is well gives a sign of life.
_READER = 30.0
_WORKER = 120.0
# Seconds after which a thread in pure Python gives way to another one: the
# reader has few microseconds of work, and must not wait 5 ms for each.
_SWITCH = 0.001

# The journal's values that say who the guests are.
_GUEST = 'guest:'


class AgentService(service.ServiceBase):  # type: ignore[misc]
    """Reports what the kernel denies the guests of this host."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        source: agent_reader.Source,
        transport: messaging_transport.NotificationTransport,
        rpc_transport: messaging_transport.RPCTransport,
    ) -> None:
        """Take what was opened before the fork.

        :param conf: the configuration
        :param source: the audit socket
        :param transport: for notifications, not connected yet
        :param rpc_transport: for questions, not connected yet
        :raises ConfigurationError: when topics are wrong
        """
        self._conf = conf
        self._source = source
        self._transport = transport
        self._rpc_transport = rpc_transport
        self._routes = violations_notifier.routes(conf)
        self._systemd = readiness.Systemd()
        self._parts: _Parts | None = None
        self._done = threading.Event()
        # oslo.service's launcher writes it
        self.backdoor_port: int | None = None
        meditation.install(
            conf, PROGRAM, _VERSION.version_string(), self._state
        )

    def start(self) -> None:
        """Start all threads."""
        sys.setswitchinterval(_SWITCH)
        self._parts = _Parts(
            self._conf,
            self._source,
            violations_notifier.Notifier(
                self._transport, self._routes, self._conf.host
            ),
            self._rpc_transport,
            self._systemd,
        )
        self._parts.start()
        LOG.info(
            'Reporting denials of guests of host %s to %s',
            self._conf.host,
            ', '.join(route.topic for route in self._routes),
        )

    def stop(self) -> None:
        """Stop all threads, in the order of the flow.

        The launcher calls it from a thread of its own, possibly while or
        before :meth:`start` runs.
        """
        try:
            if self._parts is not None:
                self._parts.stop(time.monotonic() + _STOP)
        finally:
            self._done.set()
        LOG.info('Stopped')

    def wait(self) -> None:
        """Wait until it is stopped."""
        self._done.wait()

    def reset(self) -> None:
        """Nothing: on SIGHUP the launcher starts a new worker.

        It has read the mutable options anew before.
        """

    def _state(self) -> dict[str, Any]:
        return {} if self._parts is None else self._parts.status()


class _Parts:
    """All threads of a worker, and how they are connected."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        source: agent_reader.Source,
        notifier: violations_notifier.Notifier,
        rpc_transport: messaging_transport.RPCTransport,
        systemd: readiness.Systemd,
    ) -> None:
        self._conf = conf
        options = conf.isolation
        self._host: str = conf.host
        self._journal = violations_journal.Journal(
            options.journal_directory,
            options.journal_days,
            options.journal_megabytes,
            self._host,
        )
        self._ledger = agent_ledger.Ledger(self._host)
        self._latency = metrics.Latency()
        self._reader = agent_reader.Reader(source)
        self._domains = agent_domains.Domains(
            options.libvirt_uri,
            options.libvirt_state_directory,
            places=grants.Places.configured(options),
            remember=self._remember,
            remembered=self._remembered(),
            opened=lambda: self._journal.opened,
        )
        self._canary = agent_canary.Canary(
            self._host, options.canary_interval, self._canary_lost
        )
        self._verifier = agent_verifier.Verifier(
            self._host,
            self._domains.running,
            self._give,
            runtime_directory=options.libvirt_runtime_directory,
            mode=options.mode,
            interval=options.verify_interval,
            describe=self._describe,
            table=lambda: self._domains.table,
        )
        self._sender = agent_sender.Sender(
            self._journal, notifier, self._confirmed
        )
        self._judge = _Judge()
        self._intake = agent_intake.Intake(
            self._host,
            self._reader,
            self._domains,
            self._journal,
            coalescing.Coalescer(
                options.repeat_window, options.kinds_per_guest
            ),
            self._ledger,
            backfill.Backfill(options.audit_log),
            self._canary,
            judge=self._judge,
            on_status=self._verifier.on_record,
            wake=self._sender.wake,
        )
        self._importer = agent_importer.Importer(
            violations_spool.Spool(
                options.spool_directory, options.spool_limit
            ),
            self._journal,
            self._imported,
            self._ledger,
            self._host,
        )
        self._housekeeper = housekeeping.Housekeeper(
            self._journal, self._ledger
        )
        self._rpc = rpc.Server(
            rpc_transport,
            self._host,
            rpc.Endpoint(
                self.status,
                self._journal,
                self._profile,
                self._verifier.verify,
            ),
        )
        self._exporter = metrics.Exporter(
            options.metrics_address,
            options.metrics_port,
            metrics.Sources(
                ledger=self._ledger.snapshot,
                queue=self._reader.__len__,
                journal=self._depth,
                latency=self._latency,
                canary=self._canary.status,
                verifier=self._verifier.status,
            ),
        )
        self._health = readiness.Health()
        self._pulse = readiness.Pulse(systemd, self._health.complaint)

    def start(self) -> None:
        """Start all threads."""
        watch = self._health.watch
        self._domains.start()
        self._sender.start()
        self._give(self._event(started=True))
        self._intake.start(watch(self._intake.thread, _WORKER))
        self._reader.start(watch(self._reader.thread, _READER))
        self._importer.start()
        if self._conf.isolation.canary_interval:
            self._canary.start(watch(self._canary.thread, _WORKER))
        self._verifier.start(watch(self._verifier.thread, _WORKER))
        self._housekeeper.start(watch(self._housekeeper.thread, _WORKER))
        self._rpc.start()
        if self._conf.isolation.metrics_port:
            try:
                self._exporter.start()
            except exceptions.ConfigurationError as e:
                # denials are to be reported all the same
                LOG.error('There are no metrics: %s', e.message)
        self._pulse.start()

    def stop(self, deadline: float) -> None:
        """Stop all threads, in the order of the flow.

        :param deadline: of ``time.monotonic()``
        """
        self._give(self._event(started=False))
        beside = (
            self._pulse,
            self._canary,
            self._verifier,
            self._importer,
            self._housekeeper,
        )
        # Told at once, and waited for at the end: one that hangs does not
        # take the time in which the last events are written and sent.
        for each in beside:
            each.stop(0)
        for part in (
            self._reader,
            self._intake,
            self._sender,
            self._domains,
            self._rpc,
            *beside,
        ):
            part.stop(max(0.1, deadline - time.monotonic()))
        self._exporter.stop()
        self._journal.close()

    def status(self) -> dict[str, Any]:
        """Tell how the agent does, without waiting.

        :returns: JSON types
        """
        snapshot = self._ledger.snapshot()
        return {
            'host': self._host,
            'version': _VERSION.version_string(),
            'pid': os.getpid(),
            'guests': len(self._domains.running()),
            'queue': len(self._reader),
            'overruns': self._reader.overruns,
            'counts': snapshot.counts,
            'lost': snapshot.lost,
            'lost_unknown': snapshot.unknown,
            'unsent': self._depth(),
            'canary': self._canary.status(),
            'verifier': self._verifier.status(),
            'complaint': self._health.complaint(),
        }

    def _event(self, *, started: bool) -> model.Agent:
        return model.Agent(
            self._host, started, _VERSION.version_string(), backfill.boot_id()
        )

    def _give(self, event: model.Event) -> None:
        self._intake.give(event)

    def _canary_lost(self, why: str, since: Any) -> None:
        self._ledger.lost('canary', None, why, first=since)

    def _confirmed(self, entry: violations_journal.Entry) -> None:
        self._ledger.count(agent_ledger.SENT)
        self._latency.observe(max(0.0, time.time() - _happened(entry)))
        self._canary.confirmed(entry.id)

    def _imported(self, entries: Sequence[violations_journal.Entry]) -> None:
        agent_intake.tell(entries)
        self._sender.wake({entry.instance for entry in entries})

    def _describe(self, uuid: str) -> model.Instance:
        return report.instance(uuid, self._domains.table)

    def _depth(self) -> int:
        try:
            return self._journal.depth()
        except exceptions.IsolationError:
            return -1

    def _profile(self, uuid: str) -> str:
        """Read a guest's profile, for who asks over the bus."""
        path = os.path.join(
            self._conf.isolation.profile_directory, policy.profile_name(uuid)
        )
        try:
            with open(path, encoding='utf-8', errors='replace') as f:
                return f.read()
        except OSError as e:
            raise exceptions.InvalidRequest(
                f'the guest {uuid} has no profile here: {path}: {e.strerror}'
            ) from e

    # ---- who the guests are, for the next agent ----------------------------

    def _remembered(self) -> Sequence[str]:
        try:
            return tuple(self._journal.states(_GUEST).values())
        except exceptions.IsolationError as e:
            LOG.warning('Guests that are gone are not known: %s', e.message)
            return ()

    def _remember(self, changes: Mapping[str, str | None]) -> None:
        self._journal.commit(
            state={_GUEST + uuid: text for uuid, text in changes.items()}
        )


def _happened(entry: violations_journal.Entry) -> float:
    """Tell when it was: of a denial by the kernel's clock, which is ours."""
    denial = entry.payload.get('denial')
    if denial is None or entry.payload['repeats']['of'] is not None:
        return entry.time
    return datetime.datetime.fromisoformat(denial['time']).timestamp()


class _Judge:
    """Asks the kernel, where it answers; for the worker alone."""

    def __init__(self) -> None:
        self._judge: kernel.Judge | None = None
        self._silent = False
        self._told = False

    def __call__(self, uuid: str, path: str) -> str:
        """Ask what a guest's profile grants: see classification.Judge."""
        if self._silent:
            return ''
        try:
            if self._judge is None:
                self._judge = kernel.Judge().__enter__()
        except exceptions.HostFault as e:
            LOG.warning('Denials are told apart by names alone: %s', e.message)
            self._silent = True
            return ''
        try:
            return self._judge.file(policy.profile_name(uuid), path)
        except exceptions.HostFault as e:
            # That path may be too long for it. A guest has chosen it, and is
            # not to choose for others.
            if not self._told:
                LOG.warning('A denial is told by names alone: %s', e.message)
            self._told = True
            return ''
