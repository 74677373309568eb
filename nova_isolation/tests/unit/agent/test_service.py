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

"""The agent's parts together, without its process, its kernel and libvirt."""

import collections
import dataclasses
import os
import tempfile
import threading
import time
from unittest import mock

import fixtures
from oslo_config import cfg
import oslo_messaging
from oslo_messaging import conffixture
from oslotest import base

from nova_isolation.agent import canary
from nova_isolation.agent import domains
from nova_isolation.agent import meditation
from nova_isolation.agent import service
from nova_isolation.apparmor import kernel
from nova_isolation.audit import attribution
from nova_isolation.audit import netlink
from nova_isolation.conf import agent as agent_options
from nova_isolation.conf import isolation
from nova_isolation import exceptions
from nova_isolation.tests.unit.audit import guests
from nova_isolation.violations import journal
from nova_isolation.violations import model
from nova_isolation.violations import notifier
from nova_isolation.violations import spool

UUID1 = '5f0a2f0e-90ad-4b5b-8d6e-0d6a1f3b7a01'
START, STOP = 'isolation.agent.start', 'isolation.agent.stop'


class _Socket:
    """Stands for the audit socket."""

    def __init__(self):
        self.overruns = 0
        self.records = collections.deque()

    def read_many(self, timeout, limit):
        if self.records:
            return [self.records.popleft()]
        time.sleep(0.01)
        return []


class _Domains:
    """Stands for agent.domains."""

    def __init__(self, *arguments, remember, remembered, opened, **places):
        self.remember = remember
        self.opened = opened
        self.remembered = list(remembered)
        self.guest = attribution.describe(
            guests.make(UUID1, disks=['/i/disk'], nova=('vm1', 'acme'))
        )
        self.table = attribution.Table([self.guest])

    def start(self):
        self.remember({UUID1: self.guest.to_json()})

    def stop(self, timeout):
        pass

    def running(self):
        return [(UUID1, 'instance', 1)]

    def stale(self):
        return False

    def fresh(self, timeout):
        return self.table


class _Broker:
    """Stands for the notifier."""

    def __init__(self):
        self.received = []

    def send(self, entry):
        self.received.append(entry)


class _Systemd:
    interval = None

    def ready(self):
        pass


class PartsTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.home = temporary.name
        self.conf = cfg.ConfigOpts()
        isolation.register_opts(self.conf)
        agent_options.register_opts(self.conf)
        self.conf.register_opt(cfg.StrOpt('host', default='cmp1'))
        self.useFixture(conffixture.ConfFixture(self.conf, 'fake:/'))
        self.conf([], project='nova')
        for name, value in {
            'journal_directory': f'{self.home}/journal',
            'spool_directory': f'{self.home}/spool',
            'profile_directory': self.home,
            'audit_log': '',
            'libvirt_runtime_directory': self.home,
            'canary_interval': 0,
            'verify_interval': 3600,
        }.items():
            self.conf.set_override(name, value, 'isolation')
        for owner, name, value in (
            (domains, 'Domains', _Domains),
            # it needs a profile in the kernel
            (canary, 'attempt', mock.Mock()),
            (netlink, 'status', lambda: None),
        ):
            patcher = mock.patch.object(owner, name, value)
            patcher.start()
            self.addCleanup(patcher.stop)
        self.socket, self.broker = _Socket(), _Broker()

    def make(self):
        parts = service._Parts(
            self.conf,
            self.socket,
            self.broker,
            oslo_messaging.get_rpc_transport(self.conf),
            _Systemd(),
        )
        self.addCleanup(self.stop, parts)
        return parts

    def stop(self, parts, seconds=10.0):
        parts.stop(time.monotonic() + seconds)

    def wait_for(self, condition):
        limit = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), limit)
            time.sleep(0.01)

    def types(self):
        found = journal.Reader(f'{self.home}/journal')
        self.addCleanup(found.close)
        return [entry.event_type for entry in found.entries()]

    def deny(self, name='/x', serial=5):
        self.socket.records.append(
            (
                1400,
                f'audit({time.time():.3f}:{serial}): apparmor="DENIED" '
                f'operation="open" class="file" profile="libvirt-{UUID1}" '
                f'name="{name}" pid=780 comm="qemu" requested_mask="r" '
                f'denied_mask="r"'.encode(),
            )
        )


class LifeTestCase(PartsTestCase):
    def test_a_denial_gets_from_the_socket_to_the_broker(self):
        parts = self.make()
        parts.start()
        self.deny()
        self.wait_for(lambda: len(self.broker.received) == 2)
        start, denial = self.broker.received
        self.assertEqual(START, start.event_type)
        self.assertEqual('vm1', denial.payload['instance']['name'])
        counts = {'in': 1, 'out': 1, 'folded': 0, 'sent': 2}
        self.wait_for(lambda: parts.status()['counts'] == counts)
        self.wait_for(lambda: not parts.status()['unsent'])
        status = parts.status()
        self.assertEqual((1, 0), (status['guests'], status['queue']))
        self.assertEqual('', status['complaint'])

    def test_what_nova_compute_left_gets_there_too(self):
        event = model.Refused('cmp1', model.Instance(UUID1), 'spawn', 'no')
        spool.Spool(f'{self.home}/spool', 10).put_event(event)
        self.make().start()
        self.wait_for(lambda: len(self.broker.received) == 2)
        self.assertIn(event.id, [entry.id for entry in self.broker.received])

    def test_what_was_read_when_it_stops_is_written(self):
        parts = self.make()
        parts.start()
        self.deny()
        self.wait_for(lambda: not self.socket.records)
        self.stop(parts)
        self.assertEqual(
            {START, STOP, 'isolation.violation'}, set(self.types())
        )

    def test_that_it_stops_is_sent_as_the_last(self):
        parts = self.make()
        parts.start()
        self.stop(parts)
        self.assertEqual(
            [START, STOP], [entry.event_type for entry in self.broker.received]
        )
        self.assertEqual(0, parts.status()['unsent'])

    def test_it_stops_when_it_has_not_started(self):
        self.stop(self.make())
        self.assertEqual([], self.types())

    def test_what_hangs_does_not_take_the_time_of_the_last_events(self):
        parts = self.make()
        hang = threading.Event()
        self.addCleanup(hang.set)
        seen = []

        def stop_domains(timeout):
            # after the sender, before those that hang are waited for
            seen.append((timeout, self.types()))
            hang.set()

        with (
            mock.patch.object(parts._domains, 'stop', stop_domains),
            mock.patch.object(parts._housekeeper, 'look', hang.wait),
            mock.patch.object(parts._verifier, 'look', hang.wait),
            mock.patch.object(parts._importer, 'run_once', hang.wait),
        ):
            parts.start()
            self.wait_for(lambda: self.types() == [START])
            self.deny()
            self.wait_for(lambda: not self.socket.records)
            self.stop(parts, 60)
        ((timeout, types),) = seen
        # there was time left
        self.assertGreater(timeout, 0.1)
        self.assertIn('isolation.violation', types)
        self.assertIn(STOP, types)

    def test_who_its_guests_were_the_next_agent_knows(self):
        parts = self.make()
        self.assertEqual([], parts._domains.remembered)
        parts.start()
        self.stop(parts)
        self.assertEqual(parts._journal.opened, parts._domains.opened())
        (text,) = self.make()._domains.remembered
        self.assertEqual(
            'vm1', attribution.Guest.from_json(text).instance.name
        )

    def test_without_a_journal_it_starts_and_says_so(self):
        with open(f'{self.home}/journal', 'w'):
            pass
        parts = self.make()
        # one part that it needs for that
        with mock.patch.object(parts._domains, 'start'):
            parts.start()
        self.assertEqual(-1, parts.status()['unsent'])
        os.unlink(f'{self.home}/journal')
        self.deny()
        self.wait_for(lambda: len(self.broker.received) == 2)

    def test_a_port_that_is_taken_costs_the_metrics_alone(self):
        self.conf.set_override('metrics_address', '192.0.2.1', 'isolation')
        self.conf.set_override('metrics_port', 9, 'isolation')
        parts = self.make()
        with self.assertLogs(service.LOG.logger, 'ERROR') as logs:
            parts.start()
        self.assertIn('metrics_port = 9', logs.output[0])
        self.deny()
        self.wait_for(lambda: len(self.broker.received) == 2)


class VerifyTestCase(PartsTestCase):
    def test_under_selinux_the_level_is_that_of_libvirts_label(self):
        with open(f'{self.home}/enforce', 'w') as f:
            f.write('1')
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.selinux.ENFORCE', f'{self.home}/enforce'
            )
        )
        parts = self.make()
        guest = parts._domains.guest
        parts._domains.table = attribution.Table(
            [dataclasses.replace(guest, level='s0:c5,c6')]
        )
        answer = parts._verifier.verify(UUID1)
        self.assertIn('s0:c5,c6', answer['expected'])


class ProfileTestCase(PartsTestCase):
    def test_a_profile_is_shown(self):
        with open(f'{self.home}/libvirt-{UUID1}', 'wb') as f:
            f.write(b'profile \xff')
        self.assertEqual('profile \ufffd', self.make()._profile(UUID1))

    def test_who_has_none_is_told(self):
        error = self.assertRaises(
            exceptions.InvalidRequest, self.make()._profile, UUID1
        )
        self.assertIn(UUID1, error.message)
        self.assertIn('No such file', error.message)


class ServiceTestCase(PartsTestCase):
    def setUp(self):
        super().setUp()
        patcher = mock.patch.object(meditation, 'install')
        patcher.start()
        self.addCleanup(patcher.stop)

    def _service(self):
        return service.AgentService(
            self.conf,
            self.socket,
            notifier.connect(self.conf),
            oslo_messaging.get_rpc_transport(self.conf),
        )

    def test_it_starts_waits_and_stops(self):
        agent = self._service()
        agent.start()
        waiting = threading.Thread(target=agent.wait, daemon=True)
        waiting.start()
        self.assertTrue(waiting.is_alive())
        with mock.patch.object(service, '_STOP', 60):
            agent.stop()
        waiting.join(10)
        self.assertFalse(waiting.is_alive())
        self.assertEqual([START, STOP], self.types())

    def test_nobody_waits_for_one_that_was_stopped_before(self):
        agent = self._service()
        agent.stop()
        agent.wait()

    def test_nor_for_one_that_cannot_stop_well(self):
        agent = self._service()
        agent._parts = mock.Mock()
        agent._parts.stop.side_effect = ValueError('a bug')
        self.assertRaises(ValueError, agent.stop)
        agent.wait()

    def test_topics_that_cannot_be_used_are_refused_before_it_starts(self):
        path = f'{self.home}/nova.conf'
        with open(path, 'w') as f:
            f.write('[isolation]\nnotification_topics = a*\n')
        self.conf(['--config-file', path], project='nova')
        self.assertRaises(exceptions.ConfigurationError, self._service)


class JudgeTestCase(base.BaseTestCase):
    def _patched(self, **methods):
        judge = mock.Mock(spec=['__enter__', 'file'], **methods)
        judge.__enter__ = mock.Mock(return_value=judge)
        patcher = mock.patch.object(kernel, 'Judge', return_value=judge)
        self.opened = patcher.start()
        self.addCleanup(patcher.stop)
        return judge

    def test_the_kernel_is_asked_about_the_guest_s_profile(self):
        judge = self._patched(file=mock.Mock(return_value='rw'))
        asked = service._Judge()
        self.assertEqual('rw', asked(UUID1, '/x'))
        self.assertEqual('rw', asked(UUID1, '/y'))
        judge.file.assert_called_with(f'libvirt-{UUID1}', '/y')
        self.opened.assert_called_once_with()

    def test_a_kernel_that_does_not_answer_is_asked_once(self):
        self._patched()
        self.opened.side_effect = exceptions.HostFault('no securityfs')
        asked = service._Judge()
        with self.assertLogs(service.LOG.logger, 'WARNING') as logs:
            for _ in range(5):
                self.assertEqual('', asked(UUID1, '/x'))
        self.assertEqual(1, len(logs.output))
        self.opened.assert_called_once_with()

    def test_a_path_that_it_cannot_be_asked_about_silences_nobody(self):
        def file(profile, path):
            if len(path) > 4000:
                raise exceptions.HostFault('File too large')
            return 'r'

        self._patched(file=file)
        asked = service._Judge()
        with self.assertLogs(service.LOG.logger, 'WARNING') as logs:
            for _ in range(5):
                self.assertEqual('', asked(UUID1, '/' + 4090 * 'x'))
                self.assertEqual('r', asked(UUID1, '/x'))
        # nor does it flood the log
        self.assertEqual(1, len(logs.output))
