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

"""nova-isolation-agent: reports what the kernel denies the guests."""

import sys

from oslo_service import backend

# futurist and others import eventlet wherever it is installed, with all that
# it imports in turn: 20 MB, for what the agent never uses. They do without.
sys.modules['eventlet'] = None  # type: ignore[assignment]
# Comes before all other imports of oslo: oslo.messaging would choose eventlet.
backend.init_backend(backend.BackendType.THREADING)

# ruff: noqa: E402
from collections.abc import Sequence
import gc
import re
import socket
from typing import Any

from oslo_config import cfg
from oslo_log import log
from oslo_service import service

from nova_isolation.agent import rpcapi
from nova_isolation.agent import service as agent_service
from nova_isolation.audit import netlink
from nova_isolation.conf import agent as agent_options
from nova_isolation.conf import isolation
from nova_isolation import exceptions
from nova_isolation.violations import notifier

LOG = log.getLogger(__name__)

PROGRAM = agent_service.PROGRAM

# Nova's own option: both have to name this host alike.
_HOST = cfg.StrOpt(
    'host',
    default=socket.gethostname(),
    sample_default='<current_hostname>',
    help='The name of this host, as nova-compute has it.',
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent until it is told to stop.

    :param argv: the arguments, by default those of the process
    :returns: its exit status: 0 after SIGTERM, 1 when it cannot start
    """
    try:
        conf = _configure(sys.argv[1:] if argv is None else argv)
        transport = notifier.connect(conf)
        rpc_transport = rpcapi.connect(conf)
        source = netlink.AuditSocket.open(conf.isolation.audit_buffer)
        agent = agent_service.AgentService(
            conf, source, transport, rpc_transport
        )
    except (exceptions.IsolationError, cfg.Error) as e:
        print(f'{PROGRAM}: {_in_one_line(e)}', file=sys.stderr)
        return 1
    # What is there now stays in memory that parent and worker share: the
    # garbage collector would write into each object of it.
    gc.collect()
    gc.freeze()
    status = service.launch(conf, agent, restart_method='mutate').wait()
    return int(status or 0)


class _Configuration(cfg.ConfigOpts):
    """The configuration, in which nothing wrong comes to count at SIGHUP."""

    def read(self, argv: Sequence[str]) -> None:
        """Read the files, and look at all values of ours.

        :param argv: the arguments of the program
        :raises ConfigurationError: when they do not fit; cfg.Error likewise
        """
        self._arguments = argv
        log.register_options(self)
        isolation.register_opts(self)
        agent_options.register_opts(self)
        self.register_opt(_HOST)
        self(list(argv), project='nova', prog=PROGRAM)
        # oslo.config looks at a value when it is used: look at all now
        ours = isolation.OPTS + agent_options.OPTS
        for group, options in ((self, [_HOST]), (self.isolation, ours)):
            for option in options:
                getattr(group, option.dest)
        if self.isolation.security_model == 'selinux':
            raise exceptions.ConfigurationError(
                '[isolation] security_model = selinux is not available yet: '
                'use auto or apparmor'
            )

    def mutate_config_files(self) -> dict[Any, Any]:
        """Read the files anew, when all that they say can be used.

        :returns: what has changed
        """
        try:
            _Configuration().read(self._arguments)
        except (exceptions.IsolationError, cfg.Error) as e:
            LOG.error(
                'The configuration is not read anew, what was read before '
                'stays: %s',
                _in_one_line(e),
            )
            return {}
        changed: dict[Any, Any] = super().mutate_config_files()
        return changed


def _configure(argv: Sequence[str]) -> cfg.ConfigOpts:
    conf = _Configuration()
    conf.read(argv)
    log.setup(conf, PROGRAM)
    return conf


def _in_one_line(error: Exception) -> str:
    # oslo.config shows where a value comes from as an object's repr
    words = re.sub(r"LocationInfo\(.*?, detail='(.*?)'\)", r'\1', str(error))
    return ' '.join(words.split())


if __name__ == '__main__':
    sys.exit(main())
