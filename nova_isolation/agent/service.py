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

import threading
import time

from oslo_config import cfg
from oslo_log import log
from oslo_messaging import transport as messaging_transport
from oslo_service import service

from nova_isolation.agent import domains as agent_domains
from nova_isolation.agent import intake as agent_intake
from nova_isolation.agent import sender as agent_sender
from nova_isolation.audit import netlink
from nova_isolation.violations import notifier as violations_notifier
from nova_isolation.violations import spool as violations_spool

LOG = log.getLogger(__name__)

# Seconds that all threads together have to end.
_STOP = 3.0


class AgentService(service.ServiceBase):  # type: ignore[misc]
    """Reports what the kernel denies the guests of this host."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        source: netlink.AuditSocket,
        transport: messaging_transport.NotificationTransport,
    ) -> None:
        """Take what was opened before the fork.

        :param conf: the configuration
        :param source: the audit socket
        :param transport: not connected yet
        """
        options = conf.isolation
        self._host = conf.host
        self._topic = options.notification_topics[0]
        self._done = threading.Event()
        self._spool = violations_spool.Spool(
            options.spool_directory, options.spool_limit
        )
        self._domains = agent_domains.Domains(
            options.libvirt_uri, options.libvirt_state_directory
        )
        self._sender = agent_sender.Sender(
            self._spool,
            violations_notifier.Notifier(transport, self._topic, self._host),
        )
        self._intake = agent_intake.Intake(
            source,
            self._domains,
            self._spool,
            self._host,
            self._sender.wake,
        )
        # oslo.service's launcher writes it
        self.backdoor_port: int | None = None

    def start(self) -> None:
        """Start all threads."""
        try:
            self._spool.clean()
        except OSError as e:
            LOG.error(
                'The spool cannot be used, events are lost until it can: %s',
                e,
            )
        self._domains.start()
        self._sender.start()
        self._intake.start()
        LOG.info(
            'Reporting denials of guests of host %s to the topic %s',
            self._host,
            self._topic,
        )

    def stop(self) -> None:
        """Stop all threads, in the order of the flow.

        The launcher calls it from a thread of its own, possibly while or
        before :meth:`start` runs.
        """
        deadline = time.monotonic() + _STOP
        for part in (self._intake, self._sender, self._domains):
            part.stop(max(0.1, deadline - time.monotonic()))
        self._done.set()
        LOG.info('Stopped')

    def wait(self) -> None:
        """Wait until it is stopped."""
        self._done.wait()

    def reset(self) -> None:
        """Nothing: on SIGHUP the launcher starts a new worker."""
