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
import socket
import subprocess
import sys
import tempfile
import time

from oslotest import base

from nova_isolation.tests.functional.agent import rig
from nova_isolation.tests.functional import rabbitmq
from nova_isolation.violations import model
from nova_isolation.violations import spool

ROOT = pathlib.Path(__file__).parents[4]
UUID1, UUID2 = rig.uuid_of(1), rig.uuid_of(2)
INSTANCES = rig.INSTANCES
VIOLATION = 'isolation.violation'


class AgentTestCase(base.BaseTestCase):
    """An agent on a host of its own, and a broker for the class."""

    broker: rabbitmq.RabbitMQ

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.broker = rabbitmq.RabbitMQ()
        cls.addClassCleanup(cls.broker.cleanUp)
        cls.broker.setUp()

    def rig(self, **options):
        made = self.useFixture(rig.Rig(self.broker.url, **options))
        self.kernel = made.kernel
        return made

    @staticmethod
    def violations(consuming):
        return [r[3] for r in consuming.received if r[2] == VIOLATION]

    def wait_for(self, consuming, count, timeout=120):
        """Wait for violations."""
        self.assertTrue(
            consuming.wait_for(
                lambda r: len(self.violations(consuming)) >= count, timeout
            ),
            consuming.received,
        )
        return self.violations(consuming)

    def with_broker(self):
        if not self.broker.running:
            self.broker.start()

    def assert_stops(self, host):
        worker = host.worker
        begun = time.monotonic()
        self.assertEqual(0, host.stop())
        self.assertLess(time.monotonic() - begun, 25)
        self.assertFalse(os.path.exists(f'/proc/{worker}'))
        self.assertNotIn('Traceback', host.log.read_text())

    def hang_libvirt(self, host):
        """Have it ask a libvirtd that never answers.

        :returns: the socket of that; when it is closed, it has ended
        """
        silent = socket.socket(socket.AF_UNIX)
        self.addCleanup(silent.close)
        silent.bind(f'{host.home}/silent')
        silent.listen()
        host.configure(
            libvirt_uri=f'qemu+unix:///system?socket={host.home}/silent'
        )
        return silent


class MainJobTest(AgentTestCase):
    def test_the_main_job(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        path = f'{INSTANCES}/{UUID2}/disk'
        self.kernel.send(1327, b'audit(1795424098.237:52): proctitle=00')
        self.kernel.deny(path, UUID1, 'wr')
        (payload,) = self.wait_for(consuming, 1)
        priority, publisher = next(
            r[:2] for r in consuming.received if r[2] == VIOLATION
        )
        # it is critical
        self.assertEqual('error', priority)
        self.assertEqual('nova-isolation:cmp1', publisher)
        self.assertEqual('cmp1', payload['host'])
        self.assertEqual('denied', payload['decision'])
        self.assertEqual(
            {
                'uuid': UUID1,
                'name': 'vm1',
                'project_id': 'p-p1',
                'project_name': 'p1',
                'user_id': 'u-p1',
                'user_name': 'alice',
                'flavor': 'm1.tiny',
                'image_id': '',
            },
            payload['instance'],
        )
        self.assertEqual('disk', payload['target']['kind'])
        self.assertEqual(path, payload['target']['path'])
        self.assertEqual(UUID2, payload['target']['owner']['uuid'])
        self.assertEqual('vm2', payload['target']['owner']['name'])
        self.assertEqual('p2', payload['target']['owner']['project_name'])
        self.assertEqual(
            ('cross_instance', 'critical'),
            (
                payload['classification']['category'],
                payload['classification']['severity'],
            ),
        )
        self.assertEqual(
            f'instance vm1 ({UUID1}) of project p1 tried to open for '
            f'writing the disk {path} of instance vm2 ({UUID2}) of project '
            f'p2: denied',
            payload['summary'],
        )
        # the same words, once, in the log of the host
        host.wait_until(lambda: host.said(payload['id']), 'the log has it')
        self.assertEqual(1, host.said(payload['summary']))
        self.assertEqual(1, host.said(payload['id']))

    def test_start_and_stop_are_told(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        self.assertTrue(consuming.wait(1))
        self.assert_stops(host)
        self.assertTrue(consuming.wait(2))
        self.assertEqual(
            ['isolation.agent.start', 'isolation.agent.stop'],
            [r[2] for r in consuming.received],
        )

    def test_what_nova_compute_left_is_sent(self):
        host = self.rig()
        consuming = host.consume()
        event = model.Refused(
            host='cmp1',
            instance=model.Instance(UUID1),
            operation='spawn',
            reason='not confined',
        )
        host.start()
        left = spool.Spool(str(host.home / 'spool'), 1000)
        left.put_event(event)
        self.assertTrue(
            consuming.wait_for(
                lambda received: [
                    r for r in received if r[3] == event.payload()
                ]
            )
        )
        host.wait_until(lambda: not list(left.entries()), 'it left the spool')

    def test_repeats_are_one_event_with_their_number(self):
        host = self.rig(repeat_window=2)
        consuming = host.consume()
        host.start()
        with host.halted_worker():
            for _ in range(50):
                self.kernel.deny('/etc/shadow', UUID1)
        first, repeats = self.wait_for(consuming, 2)
        self.assertEqual(1, first['repeats']['count'])
        self.assertEqual(49, repeats['repeats']['count'])
        self.assertEqual(first['id'], repeats['repeats']['of'])
        self.assertNotEqual(first['id'], repeats['id'])

    def test_a_flood_of_names_does_not_hide_another_guests_first(self):
        host = self.rig(repeat_window=3600, kinds_per_guest=10)
        consuming = host.consume()
        host.start()
        for n in range(3000):
            self.kernel.deny(f'/etc/{n}', UUID1)
        self.kernel.deny('/etc/shadow', UUID2)
        # nor the same guest's reach for its neighbour's disk
        self.kernel.deny(f'{INSTANCES}/{UUID2}/disk', UUID1)
        # 10 kinds, the overflow's beginning, and these two
        found = self.wait_for(consuming, 13)
        self.assertIn(UUID2, [v['instance']['uuid'] for v in found])
        self.assertIn(
            'cross_instance', [v['classification']['category'] for v in found]
        )
        # at the end of the window: what was folded
        host.wait_until(
            lambda: (
                host.position()['serials']['highest'] == self.kernel.serial
                and all(e.sent for e in host.entries())
            ),
            'all is folded, and what was sent is marked',
        )
        # the next worker ends all windows
        host.kill_worker()
        found = self.wait_for(consuming, 14)
        (folded,) = (v for v in found if v['repeats']['of'] is not None)
        self.assertEqual(3000 - 11, folded['repeats']['count'])
        self.assertGreater(folded['repeats']['kinds'], 1000)
        self.assertTrue(folded['repeats']['samples'])
        self.assertEqual(
            self.kernel.denied, sum(v['repeats']['count'] for v in found)
        )

    def test_who_asks_over_the_bus_gets_answers(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        self.kernel.deny('/etc/shadow', UUID1)
        self.wait_for(consuming, 1)
        api = host.api()
        self.addCleanup(api.close)
        # it is counted after it is sent
        host.wait_until(
            lambda: api.status('cmp1')['counts']['out'] == 1, 'it is counted'
        )
        self.assertEqual(2, api.status('cmp1')['guests'])
        found = api.violations('cmp1', instance=UUID1)
        self.assertEqual(
            ['/etc/shadow'],
            [e['payload']['target']['path'] for e in found['events']],
        )

    def test_hostile_records_stay_in_their_line(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        name = b'/x\n2026-11-23 INFO Violation of nobody\x1b[2J'
        body = self.kernel.denial('@', UUID1)
        self.kernel.send(
            1400, body.replace(b'"@"', name.hex().upper().encode())
        )
        self.kernel.send(1400, b'\x1b[2J\ngarbage')
        self.kernel.deny('/y', UUID1)
        found = self.wait_for(consuming, 2)
        self.assertTrue(found[0]['summary'].isprintable())
        log = host.log.read_text()
        self.assertNotIn('\x1b', log)
        for line in log.splitlines():
            self.assertFalse(line.startswith('2026-11-23 INFO Violation'))
        # what is not understood is announced, as it is
        host.wait_until(
            lambda: [
                e
                for e in host.entries()
                if e.event_type == 'isolation.lost'
                and e.payload['stage'] == 'unparsable'
                and 'garbage' in e.payload['reason']
            ],
            'the garbage is announced',
        )


class LibvirtTest(AgentTestCase):
    """libvirtd may be away, hang, or come back."""

    def test_without_libvirt_it_is_reported_by_uuid_and_in_time(self):
        host = self.rig()
        host.configure(
            libvirt_uri=f'qemu+unix:///system?socket={host.home}/nobody'
        )
        consuming = host.consume()
        host.start()
        begun = time.monotonic()
        self.kernel.deny('/etc/shadow', UUID1)
        (payload,) = self.wait_for(consuming, 1)
        self.assertLess(time.monotonic() - begun, 25)
        self.assertEqual(UUID1, payload['instance']['uuid'])
        self.assertEqual('', payload['instance']['name'])

    def test_a_libvirt_that_hangs_delays_it_by_little(self):
        host = self.rig(guests=30)
        self.hang_libvirt(host)
        consuming = host.consume()
        host.start()
        begun = time.monotonic()
        for n in range(1, 21):
            self.kernel.deny('/etc/shadow', rig.uuid_of(n))
        self.wait_for(consuming, 20)
        self.assertLess(time.monotonic() - begun, 25)
        self.assert_stops(host)

    def test_who_it_was_is_known_when_libvirt_is_away_after_a_restart(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        self.kernel.deny('/x', UUID1)
        self.wait_for(consuming, 1)
        self.assert_stops(host)
        host.configure(
            libvirt_uri=f'qemu+unix:///system?socket={host.home}/nobody'
        )
        host.start()
        self.kernel.deny('/y', UUID1)
        found = self.wait_for(consuming, 2)
        self.assertEqual(['vm1'] * 2, [v['instance']['name'] for v in found])


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
                '[isolation]\nnotification_topics =\n',
                ('notification_topics', 'empty'),
            ),
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
