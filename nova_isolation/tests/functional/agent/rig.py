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

"""The agent as a program on a host of its own: records in, events out.

Its kernel is a socket, its auditd a file, its libvirt the test driver; its
journal and its broker are real.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

import fixtures
from oslo_config import cfg

from nova_isolation.agent import intake
from nova_isolation.agent import rpcapi
from nova_isolation import domain
from nova_isolation.tests.functional.agent import judge
from nova_isolation.tests.functional import consumer
from nova_isolation.violations import journal
from nova_isolation.violations import model

ROOT = pathlib.Path(__file__).parents[4]
INSTANCES = '/var/lib/nova/instances'


def uuid_of(number):
    """Give the uuid of one of the host's guests."""
    return f'{number:08x}-90ad-4b5b-8d6e-0d6a1f3b7a01'


# in the journal: denials that are to be events, and are none yet
_HELD = f'{intake.DENIAL}*'


def domain_xml(uuid, name, project):
    """Describe a guest as libvirt and Nova do."""
    return f"""
<domain type='test'>
  <name>instance-{name}</name><uuid>{uuid}</uuid><memory>65536</memory>
  <metadata><nova:instance xmlns:nova='{domain.NOVA_NAMESPACE}'>
    <nova:name>{name}</nova:name><nova:flavor name='m1.tiny'/>
    <nova:owner><nova:user uuid='u-{project}'>alice</nova:user>
    <nova:project uuid='p-{project}'>{project}</nova:project></nova:owner>
  </nova:instance></metadata>
  <os><type>hvm</type></os>
  <devices><disk type='file'><driver name='qemu' type='qcow2'/>
    <source file='{INSTANCES}/{uuid}/disk'/><target dev='vda'/>
  </disk></devices>
</domain>"""


class Kernel:
    """What the kernel and auditd do with a denial.

    :ivar socket: where the agent's end of the audit socket is
    :ivar log: auditd's file, or None while there is none
    :ivar serial: of the last event
    :ivar fed: ``{serial: (uuid, name)}`` of each denial
    :ivar garbage: how many records were sent that nobody can understand
    :ivar step: seconds by which the clock was stepped
    :ivar patient: whether it waits while the socket is full; else it drops
        what is recorded then, as the kernel does
    """

    def __init__(self, log=None):
        self.socket, self.agents_end = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        # as much as anybody may have: some hundred records
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**24)
        self.socket.settimeout(120)
        self.log = log
        self.serial = 100
        self.fed = {}
        self.garbage = 0
        self.step = 0.0
        self.patient = True
        self._full = False

    @property
    def denied(self):
        """How many denials there were."""
        return len(self.fed)

    def close(self):
        self.socket.close()
        self.agents_end.close()

    def rotate(self):
        """Begin a new file, as auditd does when one is full."""
        for number in range(9, 0, -1):
            older = self.log.with_name(f'audit.log.{number}')
            if older.exists():
                older.rename(self.log.with_name(f'audit.log.{number + 1}'))
        self.log.rename(self.log.with_name('audit.log.1'))
        self.log.touch()

    def stamp(self):
        """Begin a record, with the time of now."""
        self.serial += 1
        return f'audit({time.time() + self.step:.3f}:{self.serial}): '

    def denial(self, name, uuid, mask='r', more=''):
        """Make a record, with the time of now."""
        stamp = self.stamp()
        self.fed[self.serial] = uuid, name
        return (
            f'{stamp}apparmor="DENIED" '
            f'operation="open" class="file" profile="libvirt-{uuid}" '
            f'name={_untrusted(name)} pid=780 comm="qemu-system-x86" '
            f'requested_mask="{mask}" denied_mask="{mask}" fsuid=64055 '
            f'ouid=64055{more}'
        ).encode()

    def deny(self, name, uuid, mask='r', *, heard=True, more=''):
        """Deny something: auditd keeps it, and the agent hears it.

        :param heard: False when the socket's buffer has run over
        :param more: what the record has at its end
        """
        body = self.denial(name, uuid, mask, more)
        self._record(b'AVC', 1400, body, heard)

    def login(self):
        """Record what is no denial."""
        body = f"{self.stamp()}pid=1 uid=0 msg='op=login res=success'"
        self._record(b'USER_LOGIN', 1112, body.encode())

    def litter(self, text=b'litter'):
        """Record what nobody can understand."""
        self.garbage += 1
        self._record(b'AVC', 1400, self.stamp().encode() + text)

    def _record(self, name, kind, body, heard=True):
        self.keep(name, body)
        if not heard:
            return
        if self.patient:
            self.send(kind, body)
            return
        self.socket.setblocking(False)
        try:
            if self._full:
                self.overrun()
            self._full = False
            self.send(kind, body)
        except BlockingIOError:
            self._full = True
        finally:
            self.socket.settimeout(120)

    def overrun(self):
        """Tell the agent that records were dropped before what follows."""
        self.send(0, b'')

    def drain(self):
        """Drop what the agent did not read yet.

        As the kernel does when the process ends that had the socket.
        """
        self.agents_end.setblocking(False)
        try:
            while self.agents_end.recv(16384):
                pass
        except BlockingIOError:
            pass
        finally:
            self.agents_end.setblocking(True)

    def keep(self, kind, body):
        """Write a record as auditd does."""
        if self.log is not None:
            with open(self.log, 'ab', 0) as f:
                f.write(b'type=%s msg=%s\n' % (kind, body))

    def send(self, kind, body):
        """Send a record as the kernel does."""
        self.socket.send(b'%d %s' % (kind, body))


def _untrusted(name):
    """Write a value as audit_log_untrustedstring() does."""
    raw = os.fsencode(name)
    if any(byte in b'"' or not 0x20 < byte < 0x7F for byte in raw):
        return raw.hex().upper()
    return f'"{name}"'


class Rig(fixtures.Fixture):
    """A host with an agent.

    :ivar kernel: its :class:`Kernel`
    :ivar agent: the process, once it was started
    :ivar log: the agent's
    """

    def __init__(self, url, guests=2, *, auditd=True, **options):
        """Describe it.

        :param url: of the broker
        :param guests: how many there are: ``vm1`` of project ``p1`` …
        :param auditd: whether there is one
        :param options: of [isolation]
        """
        super().__init__()
        self._url = url
        self._guests = guests
        self._auditd = auditd
        self.options = options
        self.agent = None

    def _setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.home = pathlib.Path(temporary.name)
        self.journal = self.home / 'journal'
        self.topic = f'topic-{model.new_id()}'
        self.log = self.home / 'agent.log'
        guests = ''.join(
            domain_xml(uuid_of(n), f'vm{n}', f'p{n}')
            for n in range(1, self._guests + 1)
        )
        (self.home / 'node.xml').write_text(f'<node>{guests}</node>')
        self.audit_log = self.home / 'audit.log'
        if self._auditd:
            self.audit_log.touch()
        self.kernel = Kernel(self.audit_log if self._auditd else None)
        self.addCleanup(self.kernel.close)
        self.conf_file = self.home / 'nova.conf'
        self.configure()
        self.addCleanup(self.stop)

    def configure(self, **options):
        """Write its configuration.

        :param options: of [isolation], beside those that it has
        """
        self.options.update(options)
        ours = {
            'spool_directory': self.home / 'spool',
            'journal_directory': self.journal,
            'audit_log': self.audit_log if self._auditd else '',
            'notification_topics': self.topic,
            'canary_interval': 0,
            'libvirt_uri': self.libvirt_uri,
            'libvirt_runtime_directory': self.home / 'run',
            **self.options,
        }
        lines = [f'{name} = {value}' for name, value in ours.items()]
        # as nova.conf is: full of options that the agent does not know
        self.conf_file.write_text(
            '\n'.join(
                [
                    '[DEFAULT]',
                    'host = cmp1',
                    'compute_driver = isolation.LibvirtDriver',
                    f'transport_url = {self._url}',
                    '[libvirt]',
                    'virt_type = qemu',
                    '[oslo_messaging_rabbit]',
                    'amqp_durable_queues = true',
                    '[isolation]',
                    *lines,
                    '',
                ]
            )
        )

    def start(self, *, wait=True, prefix=()):
        """Start the agent.

        :param wait: until it hears the kernel and knows the guests
        :param prefix: of its command
        """
        before = self.said('Reporting denials')
        program = pathlib.Path(__file__).parent / 'fed_agent.py'
        end = self.kernel.agents_end.fileno()
        with open(self.log, 'ab') as output:
            # as the systemd journal: a limit on the agent's files is none on
            # what it says
            self._logger = subprocess.Popen(
                ['cat'], stdin=subprocess.PIPE, stdout=output
            )
        with self._logger.stdin as output:
            self.agent = subprocess.Popen(
                [
                    *prefix,
                    sys.executable,
                    str(program),
                    str(end),
                    '--config-file',
                    str(self.conf_file),
                ],
                pass_fds=[end],
                env={**os.environ, 'PYTHONPATH': str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if wait:
            self.wait_until(
                lambda: self.said('Reporting denials') > before, 'it starts'
            )
            if 'libvirt_uri' not in self.options:
                self.wait_until(self.knows_guests, 'it knows the guests')
        return self.agent

    def stop(self):
        """Stop the agent as its service does.

        :returns: its exit status, None when it does not run
        """
        if self.agent is None:
            return None
        self.agent.terminate()
        try:
            return self.agent.wait(120)
        finally:
            self.kill()

    def kill(self):
        """End the agent, the parent and the worker, without asking them."""
        if self.agent is not None:
            try:
                os.killpg(self.agent.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.agent.wait()
            self._logger.wait(30)
            self.agent = None

    @property
    def worker(self):
        """The worker's process id."""
        self.wait_until(lambda: len(self.workers()) == 1, 'one worker')
        (pid,) = self.workers()
        return pid

    def kill_worker(self):
        """End the worker without asking it, and wait for the next one.

        :returns: the process id of the next one
        """
        before = self.worker
        os.kill(before, signal.SIGKILL)
        self.wait_until(
            lambda: self.workers() not in ([], [before]), 'a new worker'
        )
        return self.worker

    @contextlib.contextmanager
    def halted_worker(self):
        """Stop the worker where it is; what comes meanwhile is one batch."""
        pid = self.worker
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def workers(self):
        """List the workers' process ids: one, or none for a moment."""
        found = []
        # the launcher forks from a thread, which may end meanwhile
        for task in pathlib.Path(f'/proc/{self.agent.pid}/task').iterdir():
            with contextlib.suppress(OSError):
                found += (task / 'children').read_text().split()
        return [int(pid) for pid in found]

    def knows_guests(self):
        """Tell whether libvirt has told the agent of all guests."""
        with contextlib.suppress(sqlite3.Error):
            (count,) = self.query(
                'SELECT count(*) FROM state WHERE key GLOB ?', 'guest:*'
            )
            return count >= self._guests

    def said(self, text):
        """Count how often the agent's log has a text."""
        if not self.log.exists():
            return 0
        return self.log.read_text(errors='replace').count(text)

    def wait_until(self, condition, what, timeout=120):
        """Wait until something is so; the log is shown when it is not."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                tail = self.log.read_text(errors='replace')[-6000:]
                raise TimeoutError(f'not so: {what}\n{tail}')
            time.sleep(0.02)

    def consume(self):
        """Listen to what it sends."""
        return self.useFixture(consumer.Consumer(self.conf_file, self.topic))

    def api(self):
        """Make a client of the agent's."""
        conf = cfg.ConfigOpts()
        conf(['--config-file', str(self.conf_file)], project='nova')
        return rpcapi.AgentAPI(rpcapi.connect(conf), timeout=60)

    @property
    def libvirt_uri(self):
        """Where its libvirt is."""
        return f'test://{self.home}/node.xml'

    def entries(self):
        """Read all that is in its journal."""
        reader = journal.Reader(str(self.journal))
        try:
            return reader.entries(0, limit=10**9)
        finally:
            reader.close()

    def position(self):
        """Read how far it has come: the journal's value."""
        (text,) = self.query(
            'SELECT value FROM state WHERE key = ?', intake.POSITION
        )
        return json.loads(text)

    def held(self):
        """Count the denials that are to be events, and are none yet."""
        (count,) = self.query(
            'SELECT count(*) FROM state WHERE key GLOB ?', _HELD
        )
        return count

    def query(self, text, *values):
        """Read a row of its journal."""
        path = self.journal / journal.NAME
        connection = sqlite3.connect(f'file:{path}?mode=ro', uri=True)
        with contextlib.closing(connection):
            return connection.execute(text, values).fetchone()

    def rests(self):
        """Tell whether the agent has nothing more to do.

        It has come to the kernel's last record, misses none, counts none, and
        the broker has all.
        """
        try:
            # of one moment
            busy, text = self.query(
                'SELECT (SELECT count(*) FROM windows) '
                '+ (SELECT count(*) FROM events WHERE sent IS NULL) '
                '+ (SELECT count(*) FROM state WHERE key GLOB ?), '
                '(SELECT value FROM state WHERE key = ?)',
                _HELD,
                intake.POSITION,
            )
            state = json.loads(text)
        except (sqlite3.Error, TypeError):
            return False
        serials = state['serials']
        return (
            not busy
            and not state['lost']
            and not serials['missing']
            and serials['highest'] == self.kernel.serial
        )

    def account(
        self, consuming, *, may_lose=(), kept=True, ordered=False, timeout=120
    ):
        """Wait until every denial is accounted for, and hold it to that.

        :param consuming: the consumer
        :param may_lose: the stages at which something may be lost
        :param kept: False when the journal was damaged meanwhile: then the
            consumer alone has all
        :param ordered: whether the kernel's order is kept among first events
        :param timeout: seconds until it has to be so
        :returns: the judge's verdict, which has no complaints
        """

        def verdict():
            return judge.judge(
                self.kernel.fed,
                list(consuming.received),
                self.entries() if kept else None,
                garbage=self.kernel.garbage,
                may_lose=may_lose,
                ordered=ordered,
            )

        deadline = time.monotonic() + timeout
        # at rest, well, and still well: what is counted twice comes late
        while time.monotonic() < deadline:
            if self.rests() and not verdict().complaints and self.rests():
                break
            time.sleep(0.1)
        found = verdict()
        if found.complaints or not self.rests():
            tail = self.log.read_text(errors='replace')[-2000:]
            raise AssertionError(
                '\n'.join([*found.complaints[:20], repr(found)[-500:], tail])
            )
        return found
