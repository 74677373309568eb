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

"""A RabbitMQ of one's own, on loopback, with nothing left behind.

Needs Debian's package rabbitmq-server; the service that it installs, running
or not, is not touched: the node has its own name, ports, directories, cookie
and port mapper, and runs as whoever runs the tests.
"""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import fixtures

# not the wrapper of the package, which becomes the user rabbitmq
_SERVER = '/usr/lib/rabbitmq/bin/rabbitmq-server'
_CONTROL = '/usr/lib/rabbitmq/bin/rabbitmqctl'
# Seconds; some four on a machine with nothing else to do.
_START = 120
_STOP = 120
_CONTROLLED = 120
# Below those that the kernel gives to who asks for any.
_PORTS = range(20000, 32000)
# While this process lives, no other one takes the same ports.
_CLAIMS: list[socket.socket] = []


class RabbitMQ(fixtures.Fixture):
    """A broker that can be stopped, killed and started again.

    What durable queues hold outlives a stop.

    :ivar url: the transport URL for oslo.messaging
    :ivar port: where it listens on loopback
    """

    def __init__(self, configuration=''):
        """Name what the broker's configuration has.

        :param configuration: lines of rabbitmq.conf
        """
        super().__init__()
        self._configuration = configuration

    def _setUp(self):
        if not os.path.exists(_SERVER):
            raise RuntimeError(
                f'{_SERVER} is missing: install the package rabbitmq-server'
            )
        self._home = pathlib.Path(tempfile.mkdtemp(prefix='rabbitmq-'))
        self.addCleanup(shutil.rmtree, self._home, ignore_errors=True)
        self.port, distribution, mapper = free_ports(3)
        self.url = f'rabbit://guest:guest@127.0.0.1:{self.port}/'
        (self._home / 'plugins').write_text('[].\n')
        (self._home / 'environment').touch()
        (self._home / 'rabbitmq.conf').write_text(self._configuration)
        self._environ = {
            'PATH': os.environ['PATH'],
            'LANG': 'C.UTF-8',
            # holds the cookie
            'HOME': str(self._home),
            'ERL_EPMD_ADDRESS': '127.0.0.1',
            'ERL_EPMD_PORT': str(mapper),
            'RABBITMQ_CONF_ENV_FILE': str(self._home / 'environment'),
            'RABBITMQ_CONFIG_FILE': str(self._home / 'rabbitmq.conf'),
            'RABBITMQ_DIST_PORT': str(distribution),
            'RABBITMQ_ENABLED_PLUGINS_FILE': str(self._home / 'plugins'),
            'RABBITMQ_LOGS': '-',
            'RABBITMQ_LOG_BASE': str(self._home / 'log'),
            'RABBITMQ_MNESIA_BASE': str(self._home / 'db'),
            'RABBITMQ_NODENAME': f'test{self.port}@localhost',
            'RABBITMQ_NODE_IP_ADDRESS': '127.0.0.1',
            'RABBITMQ_NODE_PORT': str(self.port),
            'RABBITMQ_PID_FILE': str(self._home / 'pid'),
            'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS': (
                '-kernel inet_dist_use_interface {127,0,0,1} +S 1:1'
            ),
        }
        self._start_port_mapper(mapper)
        self._server: subprocess.Popen[bytes] | None = None
        self.addCleanup(self.kill)
        self.start()

    def _start_port_mapper(self, port):
        # else the server starts one that outlives it
        process = subprocess.Popen(
            ['epmd', '-port', str(port), '-address', '127.0.0.1'],
            env=self._environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

    def start(self):
        """Start the broker and wait until it takes connections."""
        log = self._home / 'output'
        with open(log, 'wb') as output:
            # a process group of its own: shell, Erlang and its helpers
            self._server = subprocess.Popen(
                [_SERVER],
                env=self._environ,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START
        while b'Server startup complete' not in log.read_bytes():
            if self._server.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(errors='replace')[-4000:]
                self.kill()
                raise RuntimeError(f'RabbitMQ did not start:\n{text}')
            time.sleep(0.05)

    def stop(self):
        """Stop the broker as its service does."""
        if self._server is None:
            return
        self._server.terminate()
        try:
            self._server.wait(_STOP)
        finally:
            self.kill()

    def ctl(self, *arguments):
        """Run rabbitmqctl for this broker.

        :param arguments: its command and what belongs to it
        :returns: what it printed, in tables without decoration
        """
        done = subprocess.run(
            [_CONTROL, '--quiet', *arguments],
            env=self._environ,
            cwd=self._home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CONTROLLED,
        )
        if done.returncode:
            raise RuntimeError(
                f'rabbitmqctl {" ".join(arguments)}: {done.stdout}'
                f'{done.stderr}'
            )
        return done.stdout

    def freeze(self):
        """Stop all its processes where they are; connections stay open."""
        os.killpg(self._server.pid, signal.SIGSTOP)

    def thaw(self):
        """Let it go on after :meth:`freeze`."""
        os.killpg(self._server.pid, signal.SIGCONT)

    @property
    def running(self):
        """Whether it was started and neither stopped nor killed."""
        return self._server is not None

    def kill(self):
        """End the broker without asking it."""
        if self._server is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        self._server = None


def free_ports(count):
    """Find ports of loopback that nobody listens to, nor will.

    :param count: how many
    :returns: a list of them
    """
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        # an abstract name can be taken once, as a port, and leaves nothing
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f'\0nova-isolation-test-port-{port}')
            socket.create_server(('127.0.0.1', port)).close()
        except OSError:
            claim.close()
            continue
        _CLAIMS.append(claim)
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f'no ports are free of {_PORTS}')
