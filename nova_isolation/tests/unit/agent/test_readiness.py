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

"""systemd hears that the agent works, for as long as it does."""

import os
import socket
import threading
import time

import fixtures
from oslotest import base

from nova_isolation.agent import readiness


class ReadinessTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.address = self.useFixture(fixtures.TempDir()).join('notify')
        self.listen(self.address)

    def listen(self, address):
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.manager.close)
        self.manager.settimeout(10)
        self.manager.bind(address)

    def systemd(self, **environment):
        return readiness.Systemd(
            {'NOTIFY_SOCKET': self.address, **environment}
        )

    def heard(self):
        return self.manager.recv(4096).decode()


class SystemdTest(ReadinessTestCase):
    def test_what_is_told(self):
        systemd = self.systemd()
        systemd.ready()
        self.assertEqual('READY=1', self.heard())
        systemd.alive()
        self.assertEqual('WATCHDOG=1', self.heard())

    def test_a_status_is_one_line(self):
        self.systemd().status('well\nREADY=1')
        self.assertEqual('STATUS=well READY=1', self.heard())

    def test_an_abstract_socket(self):
        name = f'nova-isolation-{os.getpid()}'
        self.listen(f'\0{name}')
        readiness.Systemd({'NOTIFY_SOCKET': f'@{name}'}).ready()
        self.assertEqual('READY=1', self.heard())

    def test_without_systemd_nothing_happens(self):
        for environment in ({}, {'NOTIFY_SOCKET': 'vsock:2:1'}):
            systemd = readiness.Systemd(environment)
            systemd.ready()
            self.assertIsNone(systemd.interval)

    def test_a_systemd_that_is_gone_harms_nobody(self):
        os.unlink(self.address)
        self.systemd().ready()

    def test_the_watchdog_of_this_process_or_its_parent(self):
        for pid in (os.getpid(), os.getppid()):
            systemd = self.systemd(
                WATCHDOG_USEC='30000000', WATCHDOG_PID=str(pid)
            )
            self.assertEqual(30.0, systemd.interval)
        self.assertEqual(30.0, self.systemd(WATCHDOG_USEC='30000000').interval)

    def test_no_watchdog_or_that_of_another(self):
        for environment in (
            {},
            {'WATCHDOG_USEC': '0'},
            {'WATCHDOG_USEC': 'x'},
            {'WATCHDOG_USEC': '30000000', 'WATCHDOG_PID': '1'},
        ):
            self.assertIsNone(self.systemd(**environment).interval)


class HealthTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.health = readiness.Health()
        self.go = threading.Event()
        self.thread = threading.Thread(target=self.go.wait, name='reader')
        self.thread.start()
        self.addCleanup(self.thread.join)
        self.addCleanup(self.go.set)

    def test_threads_that_work(self):
        self.health.watch(self.thread, 60)
        self.assertEqual('', self.health.complaint())

    def test_one_that_is_stuck_until_it_gives_a_sign(self):
        beat = self.health.watch(self.thread, 0.0)
        time.sleep(0.01)
        self.assertIn('reader has been stuck', self.health.complaint())
        self.health._watched[0].limit = 60
        beat()
        self.assertEqual('', self.health.complaint())

    def test_one_that_has_ended(self):
        self.health.watch(self.thread, 60)
        self.go.set()
        self.thread.join()
        self.assertEqual('thread reader has ended', self.health.complaint())


class PulseTest(ReadinessTestCase):
    def setUp(self):
        super().setUp()
        self.wrong = ''

    def pulse(self, microseconds):
        return readiness.Pulse(
            self.systemd(WATCHDOG_USEC=str(microseconds)), lambda: self.wrong
        )

    def start(self, microseconds):
        pulse = self.pulse(microseconds)
        pulse.start()
        self.addCleanup(pulse.stop, 10)
        return pulse

    def test_it_is_ready_and_beats_twice_as_often_as_it_has_to(self):
        began = time.monotonic()
        self.start(200000)
        self.assertEqual('READY=1', self.heard())
        for _ in range(3):
            self.assertEqual('WATCHDOG=1', self.heard())
        # two pauses of half of that
        self.assertGreaterEqual(time.monotonic() - began, 0.15)

    def test_without_a_watchdog_it_is_ready_and_has_no_thread(self):
        pulse = self.start(0)
        self.assertEqual('READY=1', self.heard())
        self.assertIsNone(pulse._thread)

    def test_no_sign_of_life_of_one_that_is_stuck(self):
        pulse = self.pulse(1)
        self.wrong = 'thread sender has ended'
        with self.assertLogs(readiness.LOG.logger, 'ERROR') as logs:
            pulse.look()
            pulse.look()
        self.assertEqual(1, len(logs.output))
        self.assertEqual('STATUS=thread sender has ended', self.heard())
        self.manager.settimeout(0.1)
        self.assertRaises(TimeoutError, self.heard)
        self.wrong = ''
        pulse.look()
        self.assertEqual('WATCHDOG=1', self.heard())
        self.assertEqual('STATUS=working', self.heard())
