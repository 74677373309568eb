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

"""From a record to the spool: nothing is late, nothing is lost unannounced."""

import tempfile
import threading
import time
from unittest import mock

from oslotest import base

from nova_isolation.agent import intake
from nova_isolation.audit import attribution
from nova_isolation.audit import records
from nova_isolation import exceptions
from nova_isolation.tests.unit.audit import guests
from nova_isolation.violations import spool

UUID = '5f0a2f0e-90ad-4b5b-8d6e-0d6a1f3b7a01'
HEADER = b'audit(1795424098.237:52): '


def _denial(name='/etc/shadow', uuid=UUID):
    return (
        HEADER
        + (
            f'apparmor="DENIED" operation="open" profile="libvirt-{uuid}" '
            f'name="{name}" pid=780 comm="qemu" requested_mask="r" '
            f'denied_mask="r"'
        ).encode()
    )


def _table(*uuids):
    return attribution.Table(
        attribution.describe(
            guests.make(uuid, disks=[f'/i/{uuid}/disk'], nova=('vm', 'acme'))
        )
        for uuid in uuids
    )


class _Domains:
    """Stands for agent.domains: two tables, and counts the questions."""

    def __init__(self, now, later=None):
        self.table = now
        self.later = later if later is not None else now
        self.is_stale = True
        self.asked = 0

    def stale(self):
        return self.is_stale

    def fresh(self, timeout):
        self.asked += 1
        self.table = self.later
        return self.table


class _Source:
    """Stands for the audit socket."""

    def __init__(self):
        self.overruns = 0
        self.records = []
        self.exhausted = threading.Event()

    def read(self, timeout):
        if self.records:
            return self.records.pop(0)
        self.exhausted.set()
        time.sleep(0.01)
        return None


class IntakeTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.spool = spool.Spool(temporary.name, 100)
        self.domains = _Domains(_table(UUID))
        self.source = _Source()
        self.wake = mock.Mock()
        self.intake = intake.Intake(
            self.source, self.domains, self.spool, 'cmp1', self.wake
        )

    def _events(self):
        return [entry.payload for entry in self.spool.entries()]


class HandleTestCase(IntakeTestCase):
    def _handle(self, payload):
        self.intake.handle(records.AVC, payload)

    def test_a_denial_is_in_the_log_and_the_spool_and_wakes_the_sender(self):
        with self.assertLogs(intake.LOG.logger, 'WARNING') as logs:
            self._handle(_denial())
        (event,) = self._events()
        self.assertEqual('vm', event['instance']['name'])
        self.assertEqual(1, len(logs.output))
        self.assertIn(event['id'], logs.output[0])
        self.assertIn(event['summary'], logs.output[0])
        self.wake.assert_called_once_with()

    def test_what_is_not_a_guests_denial_is_left_alone(self):
        for body in (
            b'apparmor="DENIED" operation="open" profile="cupsd" name="/x"',
            b'apparmor="STATUS" operation="profile_load" profile="unconfined"',
            f'apparmor="AUDIT" profile="libvirt-{UUID}"'.encode(),
            b'avc:  denied  { read } for  pid=1',
        ):
            self._handle(HEADER + body)
        self.assertEqual([], self._events())
        self.assertEqual(0, self.intake.unparsable.total)

    def test_garbage_is_counted_and_logged_in_one_line(self):
        with self.assertLogs(intake.LOG.logger, 'WARNING') as logs:
            self._handle(b'\x1b[31m\ngarbage')
        self.assertEqual(1, self.intake.unparsable.total)
        for line in logs.output:
            self.assertTrue(line.isprintable(), line)

    def test_a_guest_that_was_just_started_is_asked_for(self):
        self.domains.table = _table()
        self.domains.later = _table(UUID)
        self._handle(_denial())
        self.assertEqual('vm', self._events()[0]['instance']['name'])

    def test_a_guest_that_nobody_knows_is_asked_for_once(self):
        self.domains.table = self.domains.later = _table()
        for _ in range(5):
            self._handle(_denial())
        self.assertEqual(1, self.domains.asked)
        self.assertEqual(5, len(self._events()))
        self.assertEqual(UUID, self._events()[0]['instance']['uuid'])

    def test_unknown_guests_do_not_fill_the_memory(self):
        self.domains.table = self.domains.later = _table()
        self.spool.put_event = mock.Mock()
        for number in range(intake._UNKNOWNS + 50):
            self._handle(
                _denial(uuid=f'5f0a2f0e-90ad-4b5b-8d6e-{number:012x}')
            )
        self.assertEqual(intake._UNKNOWNS, len(self.intake._unknown))

    def test_a_disk_that_was_just_attached_is_asked_for(self):
        other = '0c7e54b2-7a11-4c2f-9f0e-61b2a3c4d502'
        self.domains.later = _table(UUID, other)
        self._handle(_denial(f'/i/{other}/disk'))
        self.assertEqual(other, self._events()[0]['target']['owner']['uuid'])

    def test_a_flood_of_host_files_does_not_ask_each_time(self):
        self.domains.is_stale = False
        for _ in range(5):
            self._handle(_denial())
        self.assertEqual(0, self.domains.asked)

    def test_a_known_file_asks_nobody(self):
        self._handle(_denial(f'/i/{UUID}/disk'))
        self.assertEqual(0, self.domains.asked)

    def test_what_the_spool_does_not_take_is_counted_and_in_the_log(self):
        for fault in (exceptions.SpoolFull('full'), OSError('no space')):
            self.intake.lost._last = float('-inf')
            with (
                mock.patch.object(
                    self.spool, 'put_event', autospec=True, side_effect=fault
                ),
                self.assertLogs(intake.LOG.logger, 'WARNING') as logs,
            ):
                self._handle(_denial())
            self.assertIn('/etc/shadow', logs.output[0])
            self.assertIn(f'spool: {fault}', logs.output[1])
        self.assertEqual(2, self.intake.lost.total)
        self.wake.assert_not_called()


class ThreadsTestCase(IntakeTestCase):
    def _run(self):
        self.intake.start()
        self.assertTrue(self.source.exhausted.wait(10))
        self.intake.stop(10)

    def test_all_that_was_read_is_in_the_spool_when_it_has_stopped(self):
        self.source.records = [
            (records.AVC, _denial(f'/x{number}')) for number in range(20)
        ]
        self._run()
        self.assertEqual(
            [f'/x{number}' for number in range(20)],
            [event['target']['path'] for event in self._events()],
        )

    def test_other_record_types_never_reach_the_queue(self):
        self.source.records = [(1300, _denial())] * 5
        with mock.patch.object(self.intake, 'handle', autospec=True) as handle:
            self._run()
        handle.assert_not_called()

    def test_a_fault_with_one_record_does_not_stop_the_next(self):
        self.source.records = [
            (records.AVC, _denial('/a')),
            (records.AVC, _denial('/b')),
        ]
        with mock.patch.object(
            self.spool,
            'put_event',
            autospec=True,
            side_effect=[ValueError('bug'), None],
        ) as put:
            self._run()
        self.assertEqual(2, put.call_count)

    def test_a_full_queue_drops_counts_and_tells(self):
        with mock.patch.object(intake, '_QUEUE', 3):
            self.intake = intake.Intake(
                self.source, self.domains, self.spool, 'cmp1', self.wake
            )
        go = threading.Event()
        self.source.records = [(records.AVC, _denial())] * 50
        with (
            mock.patch.object(
                self.intake,
                'handle',
                autospec=True,
                side_effect=lambda *a: go.wait(10),
            ),
            self.assertLogs(intake.LOG.logger, 'ERROR') as logs,
        ):
            self.intake.start()
            self.assertTrue(self.source.exhausted.wait(10))
            go.set()
            self.intake.stop(10)
        self.assertIn(self.intake.dropped.total, (46, 47))
        self.assertIn('were dropped', logs.output[0])
        # fewer lines than drops: it is told once a second
        self.assertLess(len(logs.output), 5)

    def test_what_the_kernel_dropped_is_told(self):
        self.source.overruns = 7
        with self.assertLogs(intake.LOG.logger, 'ERROR') as logs:
            self._run()
        self.assertIn('7 times', logs.output[0])
        self.assertEqual(7, self.intake.overruns.total)


class TallyTestCase(base.BaseTestCase):
    def test_at_most_one_line_per_second_and_none_forgotten(self):
        tally = intake.Tally('%d new, %d in all')
        now = 100.0
        with (
            mock.patch.object(time, 'monotonic', lambda: now),
            self.assertLogs(intake.LOG.logger, 'ERROR') as logs,
        ):
            for _ in range(10):
                tally.add()
            now = 101.5
            tally.tell()
            tally.tell()
        self.assertEqual(2, len(logs.output))
        self.assertIn('1 new, 1 in all', logs.output[0])
        self.assertIn('9 new, 10 in all', logs.output[1])
