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

"""What a real kernel denies a guest reaches those who must know.

From the record to a consumer at RabbitMQ, with who tried what on whose
resource; also what happened while the agent was away, or libvirtd.
"""

import contextlib
import datetime
import itertools
import json
import re
import shlex
import statistics
import tempfile
import time

import lablib
from oslo_config import cfg

from nova_isolation.agent import rpcapi
from nova_isolation import exceptions
from nova_isolation.tests.system import base
from nova_isolation.tests.system import cloud
from nova_isolation.tests.system import test_cli

HOST = 'node1'
AGENT = 'nova-isolation-agent'
LOG = f'/share/log/{AGENT}.log'
# Seconds in which a guest that is not confined any more has to be noticed.
UNCONFINED = 10
# Seconds in which a denial has to arrive, whatever libvirtd does.
SOON = 5

# Hostile code under a guest's label, as QEMU's user; it says what was not
# denied.
CAPTURED = """
import json, os, signal, socket, sys, time
from nova_isolation.tests.system.attacks import captured, syscalls
does = {
    'open': lambda path: os.open(path, os.O_RDWR),
    'write': lambda path: os.open(path, os.O_WRONLY),
    'trace': lambda pid: syscalls.call('ptrace', 0x4206, pid, 0, 0),
    'kill': lambda pid: os.kill(pid, signal.SIGTERM),
    'name the host': lambda: socket.sethostname('captured'),
    'use packets': lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    'execute': lambda path: os.execv(path, [path]),
    'wait': lambda seconds: time.sleep(seconds),
}
captured.become(sys.argv[1], ('sys_admin',))
for verb, *what in json.loads(sys.argv[2]):
    try:
        does[verb](*what)
    except PermissionError:
        continue
    if verb != 'wait':
        print(verb, what)
"""
AUDITD = """
log_file = /var/log/audit/audit.log
log_group = nova
log_format = ENRICHED
flush = SYNC
max_log_file = 8
max_log_file_action = ROTATE
space_left = 2
space_left_action = IGNORE
admin_space_left = 1
admin_space_left_action = IGNORE
disk_full_action = IGNORE
disk_error_action = IGNORE
"""


def begin(service):
    cloud.node(f'lab-service start {service}')


def end(service):
    cloud.node(f'lab-service stop {service}')


class ViolationsTestCase(base.PairTestCase):
    _numbers = itertools.count()

    def setUp(self):
        super().setUp()
        self.consumer = cloud.Consumer()
        self.consumer.__enter__()
        self.addCleanup(self.consumer.__exit__, None, None, None)

    def try_all(self, uuid, *attempts):
        """Let a captured process of a guest be denied what it tries."""
        words = [
            'python3',
            '-c',
            CAPTURED,
            f'libvirt-{uuid}',
            json.dumps(attempts),
        ]
        self.assertEqual('', cloud.node(shlex.join(words)))

    def new_file(self):
        """Make a file of the host that nothing was ever denied about."""
        path = f'/srv/violations-{next(self._numbers)}'
        cloud.node(f'echo > {path}; chmod 666 {path}')
        return path

    def violations(self, uuid, **denial):
        """Pick events about what was denied a guest, but of no repeats."""
        return [
            event
            for event in list(self.consumer.events)
            if event['event_type'] == 'isolation.violation'
            and event['instance']['uuid'] == uuid
            and event['repeats']['of'] is None
            and all(event['denial'][key] == denial[key] for key in denial)
        ]

    def violation(self, uuid, timeout=20, **denial):
        """Wait for an event about what was denied a guest."""
        self.consumer.wait_for(
            f'the violation {denial}',
            lambda e: bool(self.violations(uuid, **denial)),
            timeout,
        )
        return self.violations(uuid, **denial)[0]

    def assert_named(self, event, uuid, name):
        known = event['instance']
        self.assertEqual(uuid, known['uuid'])
        self.assertEqual(name, known['name'])
        for key in ('project_id', 'user_id', 'flavor', 'image_id'):
            self.assertTrue(known[key], event)

    def assert_means(self, event, category, severity):
        found = event['classification']
        self.assertEqual(
            (category, severity), (found['category'], found['severity']), event
        )
        self.assertTrue(found['reason'])
        self.assertEqual(
            'error' if severity == 'critical' else 'warn', event['priority']
        )


class AttributionTest(ViolationsTestCase):
    def test_a_neighbours_disk_and_qemu_itself(self):
        path = f'{cloud.INSTANCES}/{self.second}/disk'
        answer = cloud.open_file(self.first, path)
        self.assertIn('Permission denied', answer)
        event = self.violation(self.first, name=path)
        self.assert_named(event, self.first, 'first')
        self.assert_means(event, 'cross_instance', 'critical')
        self.assertEqual('denied', event['decision'])
        self.assertEqual(('disk', path), self.aim(event))
        self.assertEqual(self.second, event['target']['owner']['uuid'])
        self.assertEqual('second', event['target']['owner']['name'])
        self.assertIn('tried to open', event['summary'])
        # what the kernel itself has said
        denial = event['denial']
        self.assertTrue(denial['comm'].startswith('qemu-'), denial)
        self.assertEqual(cloud.qemu_pids(self.first), [denial['pid']])
        (record,) = lablib.wait_for(
            'the record',
            lambda: [
                record
                for record in cloud.denials()
                if f':{denial["serial"]})' in record
            ],
            30,
        )
        self.assertIn(f'name="{path}"', record)
        # in the log of the host, too
        log = cloud.node(f'grep {event["id"]} {LOG}')
        self.assertIn(f'isolation.violation {event["id"]}: ', log)
        self.assertIn(event['summary'], log)

    @staticmethod
    def aim(event):
        return event['target']['kind'], event['target']['path']

    def test_what_is_no_file(self):
        (neighbour,) = cloud.qemu_pids(self.second)
        victim = cloud.node(
            'setpriv --reuid libvirt-qemu --clear-groups sleep 300 '
            '> /dev/null 2>&1 & echo $!'
        ).strip()
        self.addCleanup(cloud.node, f'kill {victim}')
        self.try_all(
            self.first,
            ('trace', neighbour),
            ('kill', int(victim)),
            ('name the host',),
            ('use packets',),
            ('execute', '/usr/bin/dash'),
        )

        event = self.violation(self.first, operation='ptrace')
        self.assert_means(event, 'cross_instance', 'critical')
        self.assertEqual(self.second, event['target']['owner']['uuid'])
        self.assertEqual(f'libvirt-{self.second}', event['denial']['peer'])

        event = self.violation(self.first, operation='signal')
        self.assert_means(event, 'process', 'high')
        self.assertEqual('term', event['denial']['signal'])

        event = self.violation(self.first, capname='sys_admin')
        self.assert_means(event, 'capability', 'critical')

        event = self.violation(self.first, family='packet')
        self.assert_means(event, 'network', 'high')

        event = self.violation(self.first, operation='exec')
        self.assert_means(event, 'exec', 'critical')
        self.assertEqual('/usr/bin/dash', event['target']['path'])
        self.assert_named(event, self.first, 'first')

    def test_a_device_that_was_just_plugged(self):
        for prepare in (lambda: None, self.restart_libvirtd):
            prepare()
            made = lablib.create_volume('coveted')
            volume, device = made['id'], made['metadata']['device_path']
            self.assertEqual('', lablib.attach(self.second, volume))
            # so that nothing but the profile is in the way
            cloud.node(f'chmod 666 {device}')
            self.try_all(self.first, ('open', device))
            event = self.violation(self.first, name=device)
            self.assert_means(event, 'cross_instance', 'critical')
            self.assertEqual(('volume', device), self.aim(event))
            self.assertEqual(self.second, event['target']['owner']['uuid'])
            self.assertEqual('', lablib.detach(self.second, volume=volume))

    @staticmethod
    def restart_libvirtd():
        """Restart it, and wait until the agent follows it again."""

        def back():
            return int(cloud.node(f'grep -c "libvirt is back" {LOG} || true'))

        before = back()
        cloud.node('lab-service restart libvirtd')
        lablib.wait_for('the agent is connected', lambda: back() > before, 30)

    def test_a_profile_that_is_too_tight(self):
        guest, neighbour = self.first, self.second
        path = f'{cloud.INSTANCES}/{guest}/disk'
        for each in (guest, neighbour):
            cloud.act(each, 'pause', 'PAUSED')
            self.addCleanup(cloud.act, each, 'unpause', 'ACTIVE')
            self.addCleanup(cloud.reload, each)
        lines = cloud.profile(guest).splitlines(keepends=True)
        own = [line for line in lines if f'"{path}"' in line]
        self.assertTrue(own)
        cloud.hold(guest, ''.join(line for line in lines if line not in own))

        self.assertIn('Permission denied', cloud.open_file(guest, path))
        event = self.violation(guest, name=path)
        self.assert_means(event, 'policy_gap', 'medium')
        rule = event['classification']['rule']
        self.assertRegex(rule, f'^"{re.escape(path)}" rw?k?,$')
        self.assertEqual(guest, event['target']['owner']['uuid'])

        # the same name, and only the kernel knows whose it is by now
        cloud.widen(neighbour, f'"{path}" rwk,')
        self.try_all(guest, ('write', path))
        event = self.violation(guest, name=path, requested_mask='w')
        self.assert_means(event, 'cross_instance', 'critical')
        self.assertEqual(neighbour, event['target']['owner']['uuid'])
        self.assertIn(
            'the kernel grants it', event['classification']['reason']
        )


class ConfinementLostTest(ViolationsTestCase):
    def unconfined(self, uuid, found):
        """Wait as long as is promised."""
        begun = time.monotonic()
        event = self.consumer.wait_for(
            'isolation.unconfined',
            lambda e: (
                e['event_type'] == 'isolation.unconfined'
                and e['instance']['uuid'] == uuid
                and e['found'] == found
            ),
            UNCONFINED,
        )
        print(f'{found}: told after {time.monotonic() - begun:.1f} s')
        self.assertEqual('error', event['priority'])
        self.assertEqual(f'libvirt-{uuid} (enforce)', event['expected'])
        self.assertEqual(cloud.qemu_pids(uuid), [event['pid']])
        return event

    def test_complain_mode_and_a_profile_that_was_removed(self):
        uuid = self.boot('looser')
        file = f'{cloud.PROFILES}/libvirt-{uuid}'
        cloud.node(f'apparmor_parser -C -rTK {file}')
        event = self.unconfined(uuid, f'libvirt-{uuid} (complain)')
        self.assertEqual('looser', event['instance']['name'])
        self.assertIn('complain mode', event['reason'])
        cloud.reload(uuid)
        cloud.node(f'apparmor_parser -R {file}')
        event = self.unconfined(uuid, 'unconfined')
        self.assertIn('was removed', event['reason'])
        cloud.act(uuid, {'reboot': {'type': 'HARD'}}, 'ACTIVE')
        self.assert_confined(uuid)


class AgentAwayTest(ViolationsTestCase):
    """Nobody listens for a while, and nothing is missing."""

    def setUp(self):
        super().setUp()
        self.addCleanup(begin, AGENT)

    def start(self):
        """Start it, and wait until it has gone through what it missed."""
        at = time.time()
        begin(AGENT)
        self.wait_until_it_works(at)

    def wait_until_it_works(self, since):
        """Wait for a canary that was heard since a time."""
        self.consumer.wait_for(
            'the canary of the new agent',
            lambda e: (
                e['event_type'] == 'isolation.agent.canary'
                and e['received'] > since
            ),
            60,
        )

    def assert_told_once(self, *paths):
        for path in paths:
            event = self.violation(self.first, name=path)
            self.assert_named(event, self.first, 'first')
        lost = [
            event
            for event in self.consumer.events
            if event['event_type'] == 'isolation.lost'
            and event['stage'] in ('agent', 'journal', 'queue')
        ]
        self.assertEqual([], lost)
        rows = json.loads(
            test_cli.run(f'violations -f json --instance {self.first}')
        )
        for path in paths:
            (row,) = [
                row
                for row in rows
                if row['Event'] == 'violation'
                and row['Payload']['denial']['name'] == path
            ]
            self.assertEqual(
                {row['Id']},
                {e['id'] for e in self.violations(self.first, name=path)},
            )

    def last_source(self):
        """Tell what the agent's log says of records of the past."""
        return cloud.node(f'grep "of the past from" {LOG} | tail -1')

    def test_stopped(self):
        here, away, again = (self.new_file() for _ in range(3))
        self.try_all(self.first, ('open', here))
        cloud.open_file(self.first, again)
        end(AGENT)
        self.try_all(self.first, ('open', away))
        self.start()
        self.assert_told_once(here, away)
        self.assertIn('/dev/kmsg', self.last_source())
        # what the kernel says is all the same but for the number
        cloud.open_file(self.first, again)
        lablib.wait_for(
            'the second attempt is told, too',
            lambda: self.serials(again) and len(set(self.serials(again))) == 2,
            20,
        )

    def serials(self, path):
        """Tell of which records events about writing a file are."""
        return [
            event['denial']['serial']
            for event in self.violations(self.first, name=path)
            if 'w' in event['denial']['requested_mask']
        ]

    def test_killed(self):
        here, away = self.new_file(), self.new_file()
        self.try_all(self.first, ('open', here))
        # of its session: the launcher and the worker
        cloud.node(f'pkill -KILL -s $(lab-service status {AGENT})')
        self.try_all(self.first, ('open', away))
        self.start()
        self.assert_told_once(here, away)
        self.assertIn('/dev/kmsg', self.last_source())

    def test_its_worker_killed(self):
        here, away = self.new_file(), self.new_file()
        self.try_all(self.first, ('open', here))
        # the kernel keeps what comes until there is another worker
        at = time.time()
        cloud.node(f'pkill -KILL -P $(lab-service status {AGENT})')
        self.try_all(self.first, ('open', away))
        self.wait_until_it_works(at)
        self.assert_told_once(here, away)

    @contextlib.contextmanager
    def auditd(self):
        words = shlex.quote(AUDITD)
        cloud.node(
            'mkdir -p /run/auditd; '
            f'printf %s {words} > /run/auditd/auditd.conf; '
            'chmod 640 /run/auditd/auditd.conf; '
            'install -d -m 750 -g nova /var/log/audit; '
            'auditd -s nochange -c /run/auditd'
        )
        try:
            yield
        finally:
            cloud.node('kill $(cat /run/auditd.pid)')

    def test_stopped_while_auditd_runs(self):
        here, away = self.new_file(), self.new_file()
        with self.auditd():
            self.try_all(self.first, ('open', here))
            end(AGENT)
            self.try_all(self.first, ('open', away))
            self.assertNotIn(away, cloud.node('dmesg'))
            self.start()
        self.assert_told_once(here, away)
        self.assertIn('/var/log/audit/audit.log', self.last_source())


class LibvirtdAwayTest(ViolationsTestCase):
    def setUp(self):
        super().setUp()
        # Nova disables the service while libvirtd is away
        self.addCleanup(
            lablib.wait_for, 'the service is enabled', self.enabled, 90, 0.5
        )

    @staticmethod
    def enabled():
        _, answer = lablib.call('GET', '/os-services?binary=nova-compute')
        return answer['services'][0]['status'] == 'enabled'

    def assert_told(self):
        own, other = self.new_file(), f'{cloud.INSTANCES}/{self.first}/disk'
        self.try_all(self.second, ('open', own), ('open', other))
        self.violation(self.second, SOON, name=own)
        event = self.violation(self.second, SOON, name=other)
        self.assert_named(event, self.second, 'second')
        self.assert_means(event, 'cross_instance', 'critical')
        self.assertEqual('first', event['target']['owner']['name'])
        late = event['received'] - _seconds(event['denial']['time'])
        self.assertLess(late, SOON)

    def test_stopped(self):
        self.addCleanup(begin, 'libvirtd')
        end('libvirtd')
        self.assert_told()

    def test_hung(self):
        pid = cloud.node('lab-service status libvirtd').strip()
        self.addCleanup(cloud.node, f'kill -CONT {pid}')
        cloud.node(f'kill -STOP {pid}')
        self.assert_told()


def _seconds(time):
    return datetime.datetime.fromisoformat(time).timestamp()


class AskingTest(ViolationsTestCase):
    def client(self):
        file = tempfile.NamedTemporaryFile('w', suffix='.conf')
        self.addCleanup(file.close)
        url = cloud.transport_url()
        file.write(f'[DEFAULT]\ntransport_url = {url}\n')
        file.flush()
        conf = cfg.ConfigOpts()
        conf(['--config-file', file.name])
        client = rpcapi.AgentAPI(rpcapi.connect(conf))
        self.addCleanup(client.close)
        return client

    def test_over_the_bus(self):
        client = self.client()
        path = self.new_file()
        self.try_all(self.first, ('open', path))
        event = self.violation(self.first, name=path)

        status = lablib.wait_for(
            'the canary',
            lambda: (
                (s := client.status(HOST))['canary']['result'] == 'ok' and s
            ),
            30,
        )
        self.assertEqual(HOST, status['host'])
        self.assertGreaterEqual(status['guests'], 2)
        self.assertEqual(0, status['verifier']['unconfined'])
        self.assertGreater(status['counts']['in'], 0)
        self.assertEqual('', status['complaint'])

        found, cursor = [], 0
        while page := client.violations(
            HOST, since=cursor, instance=self.first
        )['events']:
            found += page
            cursor = page[-1]['seq']
        self.assertEqual({self.first}, {e['instance'] for e in found})
        (told,) = [e for e in found if e['id'] == event['id']]
        self.assertEqual(event['summary'], told['payload']['summary'])

        self.assertEqual(
            cloud.profile(self.first), client.profile(HOST, self.first)
        )
        verified = client.verify(HOST, self.first)
        self.assertIs(True, verified['confined'], verified)
        self.assertEqual(cloud.qemu_pids(self.first), [verified['pid']])
        self.assertEqual(
            {f'libvirt-{self.first} (enforce)'},
            set(verified['threads'].values()),
        )
        self.assertRaises(
            exceptions.InvalidRequest, client.profile, HOST, '../etc/passwd'
        )

    def test_on_the_host(self):
        paths = [self.new_file() for _ in range(20)]
        self.try_all(
            self.second,
            *(step for p in paths for step in (('open', p), ('wait', 0.1))),
        )
        last = self.violation(self.second, name=paths[-1])

        def told():
            rows = json.loads(
                test_cli.run(f'violations -f json --instance {self.second}')
            )
            found = [
                row
                for row in rows
                if row['Event'] == 'violation'
                and row['Payload']['denial']['name'] in paths
                and row['Payload']['repeats']['of'] is None
            ]
            return all(row['Sent'] for row in found) and found

        rows = lablib.wait_for('all are sent', told, 20)
        self.assertEqual(
            paths, [row['Payload']['denial']['name'] for row in rows]
        )
        self.assertEqual(last['id'], rows[-1]['Id'])
        self.assertEqual(last['summary'], rows[-1]['Summary'])
        took = sorted(
            1000
            * (
                _seconds(row['Sent'])
                - _seconds(row['Payload']['denial']['time'])
            )
            for row in rows
        )
        print(
            "kernel's stamp to broker's confirm, first of a kind: median "
            f'{statistics.median(took):.1f} ms, most {took[-1]:.1f} ms of '
            f'{len(took)}'
        )
