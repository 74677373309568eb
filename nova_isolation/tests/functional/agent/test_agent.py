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

"""The agent as a program: from the kernel's record to the consumer's hands."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

from oslotest import base

from nova_isolation import domain
from nova_isolation.tests.functional import consumer
from nova_isolation.tests.functional import rabbitmq
from nova_isolation.violations import model
from nova_isolation.violations import spool

ROOT = pathlib.Path(__file__).parents[4]
UUID1 = '5f0a2f0e-90ad-4b5b-8d6e-0d6a1f3b7a01'
UUID2 = '0c7e54b2-7a11-4c2f-9f0e-61b2a3c4d502'
INSTANCES = '/var/lib/nova/instances'


def _domain_xml(uuid, name, project):
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


def _denial(path, uuid=UUID1, serial=52):
    return (
        f'1400 audit(1795424098.237:{serial}): apparmor="DENIED" '
        f'operation="open" class="file" profile="libvirt-{uuid}" '
        f'name="{path}" pid=780 comm="qemu-system-x86" '
        f'requested_mask="wr" denied_mask="wr" fsuid=64055 ouid=64055'
    ).encode()


class AgentTestCase(base.BaseTestCase):
    """An agent with a libvirt of its own, and a broker for the class."""

    broker: rabbitmq.RabbitMQ

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.broker = rabbitmq.RabbitMQ()
        cls.addClassCleanup(cls.broker.cleanUp)
        cls.broker.setUp()

    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.home = pathlib.Path(temporary.name)
        self.topic = f'topic-{model.new_id()}'
        (self.home / 'node.xml').write_text(
            f'<node>{_domain_xml(UUID1, "vm1", "acme")}'
            f'{_domain_xml(UUID2, "vm2", "globex")}</node>'
        )
        self.conf_file = self.home / 'nova.conf'
        self._configure(f'test://{self.home}/node.xml')
        self.spool = spool.Spool(str(self.home / 'spool'), 1000)
        self.kernel, self.agents_end = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_DGRAM
        )
        self.addCleanup(self.kernel.close)
        self.addCleanup(self.agents_end.close)
        self.kernel.settimeout(10)

    def _configure(self, libvirt_uri):
        # as nova.conf is: full of options that the agent does not know
        self.conf_file.write_text(
            f'[DEFAULT]\n'
            f'host = cmp1\n'
            f'compute_driver = isolation.LibvirtDriver\n'
            f'transport_url = {self.broker.url}\n'
            f'[libvirt]\nvirt_type = qemu\n'
            f'[oslo_messaging_rabbit]\namqp_durable_queues = true\n'
            f'[isolation]\n'
            f'spool_directory = {self.home}/spool\n'
            f'notification_topics = {self.topic}\n'
            f'libvirt_uri = {libvirt_uri}\n'
        )

    def _start(self):
        log = self.home / 'agent.log'
        self.log = log
        with open(log, 'ab') as output:
            agent = subprocess.Popen(
                [
                    sys.executable,
                    str(pathlib.Path(__file__).parent / 'fed_agent.py'),
                    str(self.agents_end.fileno()),
                    '--config-file',
                    str(self.conf_file),
                ],
                pass_fds=[self.agents_end.fileno()],
                env={**os.environ, 'PYTHONPATH': str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.addCleanup(self._end, agent)
        self._wait_for_log('Reporting denials')
        return agent

    @staticmethod
    def _end(agent):
        if agent.poll() is None:
            agent.terminate()
            agent.wait(30)

    def _wait_for_log(self, text, count=1):
        deadline = time.monotonic() + 30
        while self.log.read_text(errors='replace').count(text) < count:
            self.assertLess(
                time.monotonic(), deadline, f'{text} not in the log'
            )
            time.sleep(0.02)

    def _consume(self):
        return self.useFixture(consumer.Consumer(self.conf_file, self.topic))

    @staticmethod
    def _worker(agent):
        # the launcher forks from a thread
        tasks = pathlib.Path(f'/proc/{agent.pid}/task').iterdir()
        (pid,) = ' '.join(
            (task / 'children').read_text() for task in tasks
        ).split()
        return int(pid)

    def test_the_main_job(self):
        consuming = self._consume()
        self._start()
        path = f'{INSTANCES}/{UUID2}/disk'
        self.kernel.send(b'1327 audit(1795424098.237:52): proctitle=00')
        self.kernel.send(_denial(path))
        self.assertTrue(consuming.wait(1))
        ((priority, publisher, event_type, payload, _metadata),) = (
            consuming.received
        )
        self.assertEqual('warn', priority)
        self.assertEqual('nova-isolation:cmp1', publisher)
        self.assertEqual('isolation.violation', event_type)
        self.assertEqual('cmp1', payload['host'])
        self.assertEqual('denied', payload['decision'])
        self.assertEqual(
            {
                'uuid': UUID1,
                'name': 'vm1',
                'project_id': 'p-acme',
                'project_name': 'acme',
                'user_id': 'u-acme',
                'user_name': 'alice',
                'flavor': 'm1.tiny',
            },
            payload['instance'],
        )
        self.assertEqual('disk', payload['target']['kind'])
        self.assertEqual(path, payload['target']['path'])
        self.assertEqual(UUID2, payload['target']['owner']['uuid'])
        self.assertEqual('vm2', payload['target']['owner']['name'])
        self.assertEqual('globex', payload['target']['owner']['project_name'])
        self.assertEqual(
            f'instance vm1 ({UUID1}) of project acme tried to open for '
            f'writing the disk {path} of instance vm2 ({UUID2}) of project '
            f'globex: denied',
            payload['summary'],
        )
        # the same words, once, in the log of the host
        log = self.log.read_text()
        self.assertEqual(1, log.count(payload['summary']))
        self.assertEqual(1, log.count(payload['id']))

    def test_what_nova_compute_left_is_sent(self):
        consuming = self._consume()
        event = model.Refused(
            host='cmp1',
            instance=model.Instance(UUID1),
            operation='spawn',
            reason='not confined',
        )
        self._start()
        self.spool.put_event(event)
        self.assertTrue(consuming.wait(1, timeout=10))
        self.assertEqual(event.payload(), consuming.received[0][3])

    def test_without_libvirt_it_is_reported_by_uuid_and_in_time(self):
        self._configure(f'qemu+unix:///system?socket={self.home}/nobody')
        consuming = self._consume()
        self._start()
        begun = time.monotonic()
        self.kernel.send(_denial('/etc/shadow'))
        self.assertTrue(consuming.wait(1))
        self.assertLess(time.monotonic() - begun, 5)
        payload = consuming.received[0][3]
        self.assertEqual(UUID1, payload['instance']['uuid'])
        self.assertEqual('', payload['instance']['name'])

    def test_a_libvirt_that_hangs_delays_it_by_little(self):
        silent = socket.socket(socket.AF_UNIX)
        self.addCleanup(silent.close)
        silent.bind(f'{self.home}/silent')
        silent.listen()
        self._configure(f'qemu+unix:///system?socket={self.home}/silent')
        consuming = self._consume()
        agent = self._start()
        begun = time.monotonic()
        for serial in range(20):
            self.kernel.send(_denial('/etc/shadow', serial=serial))
        self.assertTrue(consuming.wait(20))
        self.assertLess(time.monotonic() - begun, 8)
        self._assert_stops(agent)

    def test_events_outlive_broker_and_agent(self):
        consuming = self._consume()
        agent = self._start()
        self.kernel.send(_denial('/x0', serial=0))
        self.assertTrue(consuming.wait(1))
        self.broker.stop()
        self.addCleanup(self._with_broker)
        for serial in range(1, 6):
            self.kernel.send(_denial(f'/x{serial}', serial=serial))
        self._wait_for_log('Violation', 6)
        self._assert_stops(agent)
        self.assertEqual(5, len(list(self.spool.entries())))
        self._with_broker()
        self._start()
        self.assertTrue(consuming.wait(6))
        self.assertEqual(
            [f'/x{n}' for n in range(6)],
            [r[3]['target']['path'] for r in consuming.received],
        )
        deadline = time.monotonic() + 10
        while list(self.spool.entries()):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)

    def test_what_comes_while_the_worker_is_dead_is_reported_by_the_next(self):
        consuming = self._consume()
        agent = self._start()
        os.kill(self._worker(agent), signal.SIGKILL)
        self.kernel.send(_denial('/x0'))
        self.assertTrue(consuming.wait(1))
        self._wait_for_log('Reporting denials', 2)
        self._assert_stops(agent)

    def test_sighup_starts_a_new_worker(self):
        consuming = self._consume()
        agent = self._start()
        agent.send_signal(signal.SIGHUP)
        self._wait_for_log('Reporting denials', 2)
        self.kernel.send(_denial('/x0'))
        self.assertTrue(consuming.wait(1))
        self._assert_stops(agent)

    def test_hostile_records_stay_in_their_line(self):
        consuming = self._consume()
        self._start()
        name = b'/x\n2026-11-23 INFO Violation of nobody\x1b[2J'
        self.kernel.send(
            _denial('@').replace(b'"@"', name.hex().upper().encode())
        )
        self.kernel.send(b'1400 \x1b[2J\ngarbage')
        self.kernel.send(_denial('/y'))
        self.assertTrue(consuming.wait(2))
        self.assertTrue(consuming.received[0][3]['summary'].isprintable())
        log = self.log.read_text()
        self.assertNotIn('\x1b', log)
        for line in log.splitlines():
            self.assertFalse(line.startswith('2026-11-23 INFO Violation'))

    def _assert_stops(self, agent):
        begun = time.monotonic()
        worker = self._worker(agent)
        agent.terminate()
        self.assertEqual(0, agent.wait(20))
        self.assertLess(time.monotonic() - begun, 5)
        self.assertFalse(os.path.exists(f'/proc/{worker}'))
        self.assertNotIn('Traceback', self.log.read_text())

    def _with_broker(self):
        if not self.broker.running:
            self.broker.start()


class StartTestCase(base.BaseTestCase):
    """What it cannot work with, it says in one line."""

    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.conf_file = pathlib.Path(temporary.name) / 'nova.conf'

    def _run(self, conf, prefix=()):
        self.conf_file.write_text(conf)
        return subprocess.run(
            [
                *prefix,
                sys.executable,
                '-m',
                'nova_isolation.cmd.agent',
                '--config-file',
                str(self.conf_file),
            ],
            cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def _assert_one_line(self, done, *words):
        self.assertEqual(1, done.returncode, done.stderr)
        self.assertEqual(1, len(done.stderr.splitlines()), done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def test_a_wrong_value_of_an_option(self):
        for conf, words in (
            ('[isolation]\nmode = on\n', ('mode', 'enforce', "'on'")),
            ('[isolation]\nspool_limit = 0\n', ('spool_limit', '1')),
            (
                '[isolation]\nsecurity_model = selinux\n',
                ('security_model', 'apparmor'),
            ),
            (
                '[DEFAULT]\ntransport_url = nosuch://u:secret@h/\n',
                ('transport_url', 'nosuch'),
            ),
        ):
            done = self._run(conf)
            self._assert_one_line(done, 'nova-isolation-agent:', *words)
            self.assertNotIn('secret', done.stderr)

    def test_without_the_capability(self):
        # root has it, anybody else has not
        prefix = (
            ('setpriv', '--inh-caps=-audit_read', '--bounding-set=-audit_read')
            if os.geteuid() == 0
            else ()
        )
        done = self._run('[DEFAULT]\n', prefix)
        self._assert_one_line(done, 'CAP_AUDIT_READ', 'AmbientCapabilities')
