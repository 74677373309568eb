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

"""From a record to the journal: nothing is late, nothing is lost unsaid."""

import dataclasses
import json
import os
import random
import sqlite3
import tempfile
import time
from unittest import mock

import ddt
from oslotest import base

from nova_isolation.agent import catching
from nova_isolation.agent import intake
from nova_isolation.agent import ledger
from nova_isolation.agent import reader
from nova_isolation.agent import report
from nova_isolation.audit import attribution
from nova_isolation.audit import backfill
from nova_isolation.audit import lines
from nova_isolation.audit import records
from nova_isolation.audit import serials
from nova_isolation import exceptions
from nova_isolation.tests.unit.audit import guests
from nova_isolation.violations import coalescing
from nova_isolation.violations import journal
from nova_isolation.violations import model

UUID1 = '5f0a2f0e-90ad-4b5b-8d6e-0d6a1f3b7a01'
UUID2 = '0c7e54b2-7a11-4c2f-9f0e-61b2a3c4d502'
UUID3 = '77777777-7a11-4c2f-9f0e-61b2a3c4d503'
CANARY = 'nova-isolation-canary'
VIOLATION, LOST = 'isolation.violation', 'isolation.lost'
WINDOW = 60
LEVEL = 's0:c1,c2'


def _disk(uuid):
    return f'/i/{uuid}/disk'


def _svirt(uuid, level):
    guest = attribution.describe(
        guests.make(uuid, disks=[_disk(uuid)], nova=(uuid[:4], 'acme'))
    )
    return dataclasses.replace(guest, level=level)


def _table(*uuids):
    return attribution.Table(
        attribution.describe(
            guests.make(uuid, disks=[_disk(uuid)], nova=(uuid[:4], 'acme'))
        )
        for uuid in uuids
    )


class _Reader:
    """Stands for the thread that reads the socket.

    :ivar batches: what it has read; what :meth:`take` gives
    :ivar waits: for how long it was asked to wait, each time
    """

    def __init__(self):
        self.batches = []
        self.waits = []

    def __len__(self):
        return len(self.batches)

    def wake(self):
        pass

    def take(self, timeout):
        self.waits.append(timeout)
        return self.batches.pop(0) if self.batches else ()


class _Guests:
    """Stands for agent.domains; counts the questions."""

    def __init__(self, *uuids):
        self.table = _table(*uuids)
        self.asked = 0
        self.pending = False

    def stale(self):
        return self.pending

    def fresh(self, timeout):
        assert timeout == 0
        self.asked += 1
        return self.table


class _Canary:
    """Stands for agent.canary."""

    def __init__(self):
        self.event = None
        self.in_journal = []

    def heard(self, comm):
        if comm != 'canary-1':
            return None
        self.event = model.Canary('cmp1', comm, model.now())
        return self.event

    def journaled(self, event_id):
        self.in_journal.append(event_id)


class Kernel:
    """Makes records as the kernel does, and keeps them as auditd does."""

    def __init__(self, log):
        self.log = log
        self.serial = 100
        self.time = time.time()

    def event(self):
        """Begin another event."""
        self.serial += 1
        self.time += 0.001

    def record(self, body, kind=records.AVC):
        """Make a record of the event."""
        text = f'audit({self.time:.3f}:{self.serial}): {body}'
        return kind, text.encode()

    def denial(self, name='/etc/shadow', uuid=UUID1, *, keep=False):
        """Deny something.

        :param keep: whether auditd's file has it
        """
        self.event()
        return self.another(name, uuid, keep=keep)

    def another(self, name, uuid=UUID1, *, keep=False):
        """Deny something more of the same event."""
        made = self.record(
            f'apparmor="DENIED" operation="open" class="file" '
            f'profile="libvirt-{uuid}" name="{name}" pid=780 comm="qemu" '
            f'requested_mask="r" denied_mask="r"'
        )
        if keep:
            self.keep(made)
        return made

    def svirt(self, name, level=LEVEL, label='etc_t:s0'):
        """Deny a guest something under SELinux."""
        self.event()
        return self.record(
            f'avc:  denied  {{ read }} for  pid=7 comm="qemu" '
            f'path="{name}" dev="sda1" ino=7 scontext=system_u:system_r:'
            f'svirt_t:{level} tcontext=system_u:object_r:{label} tclass=file '
            f'permissive=0'
        )

    def starts_auditd(self):
        """Let auditd write that it has started."""
        self.keep(
            (None, b'audit(%.3f:4263): op=start' % self.time), 'DAEMON_START'
        )

    def keep(self, made, name='AVC'):
        with open(self.log, 'ab') as f:
            f.write(b'type=%b msg=%b\n' % (name.encode(), made[1]))


@dataclasses.dataclass
class Agent:
    """An agent's pipeline: all but the socket, libvirt and the canary."""

    intake: intake.Intake
    reader: _Reader
    guests: _Guests
    canary: _Canary
    journal: journal.Journal
    coalescer: coalescing.Coalescer
    ledger: ledger.Ledger
    on_status: mock.Mock
    wake: mock.Mock
    # of its clock
    now: float = 1000.0

    def hears(self, *heard, after=0.0):
        """Let it have a turn."""
        self.now += after
        self.intake.turn(heard, self.now)

    def runs(self, *batches):
        """Let its thread begin, read all that there is, and stop."""
        # a turn in any case
        self.reader.batches.extend(batches or [()])
        self.intake.start()
        self.intake.stop(30)
        assert not self.intake.thread.is_alive()
        # the thread's clock is the real one
        self.now = time.monotonic()

    def waits_until(self, condition):
        """Let it have turns with nothing to hear, two of them a second."""
        limit = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < limit, 'it did not come to that'
            # other threads have to get on, too
            time.sleep(0.01)
            self.hears(after=0.5)


class IntakeTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = temporary.name
        self.log = os.path.join(temporary.name, 'audit.log')
        self.kernel = Kernel(self.log)
        self.agent = self.make(UUID1, UUID2)

    def make(self, *uuids, kinds=100, log=None):
        """Start an agent; the one before was killed."""
        made = journal.Journal(self.directory, 30, 64, 'cmp1')
        self.addCleanup(made.close)
        parts = {
            'reader': _Reader(),
            'guests': _Guests(*uuids),
            'journal': made,
            'coalescer': coalescing.Coalescer(WINDOW, kinds),
            'ledger': ledger.Ledger('cmp1'),
            'canary': _Canary(),
            'on_status': mock.Mock(),
            'wake': mock.Mock(),
        }
        return Agent(
            intake.Intake(
                'cmp1',
                history=backfill.Backfill(log or self.log, '', ''),
                judge=None,
                **parts,
            ),
            **parts,
        )

    def entries(self, event_type=VIOLATION):
        found = self.agent.journal.entries(limit=10**6)
        return [e for e in found if e.event_type == event_type]

    def events(self, event_type=VIOLATION):
        return [entry.payload for entry in self.entries(event_type)]

    def paths(self):
        return [event['target']['path'] for event in self.events()]

    def assert_accounted(self):
        self.assertEqual(0, self.agent.ledger.snapshot().unaccounted)


class RecordTest(IntakeTestCase):
    def test_a_denial_is_in_the_journal_and_the_log_and_wakes_the_sender(self):
        with self.assertLogs(intake.LOG.logger, 'INFO') as logs:
            self.agent.hears(self.kernel.denial())
        (event,) = self.events()
        self.assertEqual('5f0a', event['instance']['name'])
        self.assertEqual(1, len(logs.output))
        self.assertIn(event['id'], logs.output[0])
        self.assertIn(event['summary'], logs.output[0])
        self.agent.wake.assert_called_once_with({UUID1})
        self.assert_accounted()

    def test_what_is_not_a_guests_denial_is_left_alone(self):
        for body in (
            'apparmor="DENIED" operation="open" profile="cupsd" name="/x"',
            f'apparmor="AUDIT" operation="open" profile="libvirt-{UUID1}"',
            'avc:  denied  { read } for  pid=1 scontext=a:b:c tcontext=a:b:d'
            ' tclass=file',
        ):
            self.kernel.event()
            self.agent.hears(self.kernel.record(body))
        self.agent.hears(self.kernel.record('proctitle=00', 1327))
        self.assertEqual([], self.agent.journal.entries())
        self.agent.wake.assert_not_called()
        self.assertEqual(0, self.agent.ledger.snapshot().counts['in'])

    def test_what_cannot_be_read_is_counted_and_passed_on_as_it_is(self):
        self.agent.hears((records.AVC, b'\x1b[31m\ngarbage \xff'))
        (event,) = self.events(LOST)
        self.assertEqual('unparsable', event['stage'])
        self.assertEqual(1, event['count'])
        self.assertIn('[31m', event['reason'])
        self.assertIn('garbage', event['reason'])
        self.assertTrue(event['summary'].isprintable())
        self.assert_accounted()

    def test_none_of_what_cannot_be_read_is_lost_behind_another(self):
        found = [f'{letter}{letter} shape ' + 'x' * 300 for letter in 'ABCD']
        for text in found:
            self.kernel.event()
            self.agent.hears(self.kernel.record(text), after=0.5)
        self.agent.hears(after=5)
        events = self.events(LOST)
        self.assertEqual([1, 3], [event['count'] for event in events])
        told = [event['reason'] for event in events]
        for text, where in zip(found, (0, 1, 1, 1), strict=True):
            self.assertIn(text, told[where])

    def test_a_denial_of_a_bus_names_no_profile(self):
        self.kernel.event()
        self.agent.hears(
            self.kernel.denial('/before'),
            self.kernel.record(
                'pid=1 uid=1 auid=1 ses=1 msg=\'apparmor="DENIED" '
                'operation="dbus_method_call" bus="system" path="/org/x" '
                'mask="send" name="org.freedesktop.login1" pid=780 '
                f'label="libvirt-{UUID1}" peer_label="unconfined"\'',
                records.USER_AVC,
            ),
            self.kernel.denial('/after'),
        )
        self.assertEqual(3, len(self.events()))

    def test_a_change_of_profiles_reaches_the_verifier_at_once(self):
        self.kernel.event()
        self.agent.hears(
            self.kernel.record(
                'apparmor="STATUS" operation="profile_remove" '
                f'profile="unconfined" name="libvirt-{UUID1}" pid=5 comm="p"'
            )
        )
        (record,) = self.agent.on_status.call_args.args
        self.assertEqual('profile_remove', record.text('operation'))
        self.assertEqual(f'libvirt-{UUID1}', record.text('name'))

    def _canarys(self, verdict):
        self.kernel.event()
        return self.kernel.record(
            f'apparmor="{verdict}" operation="open" profile="{CANARY}" '
            'name="/" pid=7 comm="canary-1" requested_mask="r" '
            'denied_mask="r"'
        )

    def test_the_canarys_denial_is_an_event_of_its_own(self):
        self.agent.hears(self._canarys('DENIED'))
        (event,) = self.events('isolation.agent.canary')
        self.assertEqual(self.agent.canary.event.id, event['id'])
        self.assertEqual([event['id']], self.agent.canary.in_journal)
        self.assertEqual(0, self.agent.ledger.snapshot().counts['in'])

    def test_what_the_canary_was_allowed_is_no_sign_of_safety(self):
        self.agent.hears(self._canarys('ALLOWED'))
        self.assertIsNone(self.agent.canary.event)
        self.assertEqual([], self.agent.journal.entries())

    def _selinux(self, context, permissive=0):
        self.kernel.event()
        return self.kernel.record(
            'avc:  denied  { create } for  pid=7 comm="canary-1" '
            f'scontext={context} tcontext=system_u:object_r:null_device_t:s0 '
            f'tclass=tcp_socket permissive={permissive}'
        )

    def test_the_canarys_denial_by_selinux(self):
        context = 'system_u:system_r:unconfined_service_t:s0'
        self.agent.hears(self._selinux(context, permissive=1))
        self.assertIsNone(self.agent.canary.event)
        self.agent.hears(self._selinux(context))
        self.assertEqual(1, len(self.events('isolation.agent.canary')))
        self.assertEqual(0, self.agent.ledger.snapshot().counts['in'])

    def test_a_guest_that_calls_itself_a_canary_is_reported(self):
        self.agent.hears(
            self._selinux('system_u:system_r:svirt_t:s0:c1,c2'), after=2
        )
        self.agent.hears(after=2)
        self.assertIsNone(self.agent.canary.event)
        self.assertEqual(1, len(self.events()))

    def test_events_of_other_threads_get_in_with_the_next_turn(self):
        event = model.Agent('cmp1', True, '1', 'boot')
        self.agent.intake.give(event)
        self.agent.hears()
        (entry,) = self.entries('isolation.agent.start')
        self.assertEqual(event.id, entry.id)


class FaultTest(IntakeTestCase):
    """What the agent does with its own faults."""

    def _failing_on(self, path):
        real = report.violation

        def violation(record, *args, **kwargs):
            if record.text('name') == path:
                raise KeyError('a bug')
            return real(record, *args, **kwargs)

        return mock.patch.object(report, 'violation', violation)

    def test_a_fault_in_one_record_stops_no_other(self):
        with self._failing_on('/b'):
            self.agent.hears(*map(self.kernel.denial, ('/a', '/b', '/c')))
        self.assertEqual(['/a', '/c'], self.paths())

    def test_it_is_announced_with_the_record(self):
        with self._failing_on('/b'):
            self.agent.hears(self.kernel.denial('/b'))
        (event,) = self.events(LOST)
        self.assertEqual(('queue', 1), (event['stage'], event['count']))
        self.assertIn('/b', event['reason'])
        self.assert_accounted()

    def test_a_flood_of_faults_does_not_flood_the_log(self):
        with (
            mock.patch.object(
                intake.attempts, 'fingerprint', side_effect=KeyError('a bug')
            ),
            mock.patch.object(intake, '_PAUSE', 3600),
            self.assertLogs(intake.LOG.logger, 'ERROR') as logs,
        ):
            self.agent.hears(*(self.kernel.denial() for _ in range(50)))
        self.assertEqual(
            1, sum('cannot be reported' in o for o in logs.output)
        )
        self.assertEqual(50, self.agent.ledger.snapshot().lost['queue'])
        self.assert_accounted()

    def test_who_is_waited_for_is_no_exception(self):
        with self._failing_on('/b'):
            self.agent.hears(
                self.kernel.denial('/b', UUID3),
                self.kernel.denial('/c', UUID3),
            )
            self.agent.hears(after=2)
        self.assertEqual(['/c'], self.paths())
        self.assert_accounted()

    def test_a_turn_that_fails_forgets_no_denial_that_it_knew(self):
        self.kernel.event()
        status = self.kernel.record('apparmor="STATUS" operation="x"')
        self.agent.on_status.side_effect = [ValueError('a bug')]
        with self.assertLogs(intake.LOG.logger, 'ERROR'):
            self.agent.runs([self.kernel.denial('/a'), status], ())
        self.assertEqual(['/a'], self.paths())
        # of what came behind it, it can only say that there was something
        (event,) = self.events(LOST)
        self.assertEqual(('queue', None), (event['stage'], event['count']))

    def test_an_end_that_nobody_can_read_keeps_no_other_event_back(self):
        self.agent.hears(self.kernel.denial('/a'), self.kernel.denial('/a'))
        self.assertEqual(1, len(self.events()))
        with mock.patch.object(
            coalescing, 'summary', side_effect=TypeError('another version')
        ):
            self.agent.hears(self.kernel.denial('/b'), after=WINDOW + 1)
        self.assertEqual(['/a', '/b'], self.paths())
        self.agent.hears(after=1)
        (event,) = self.events(LOST)
        self.assertEqual(('retention', 1), (event['stage'], event['count']))
        self.assertIn('another version', event['reason'])


class EnrichmentTest(IntakeTestCase):
    """SYSCALL, SOCKADDR … of an event, on hosts that record them."""

    SYSCALL = 'arch=c000003e syscall=257 comm="qemu" exe="/usr/bin/qemu"'
    PROCTITLE = 'proctitle=71656D7500'

    def _end(self):
        return [
            self.kernel.record(self.SYSCALL, records.SYSCALL),
            self.kernel.record(self.PROCTITLE, records.PROCTITLE),
            self.kernel.record('', records.EOE),
        ]

    def _said(self):
        return [
            (event['denial']['exe'], event['denial']['proctitle'])
            for event in self.events()
        ]

    def _learn(self):
        """Let the agent hear that this host records system calls."""
        self.agent.hears(self.kernel.denial('/learn'), *self._end())
        self.agent.reader.waits.clear()

    def test_what_comes_with_it_is_told_with_it(self):
        self.agent.hears(self.kernel.denial(), *self._end())
        self.assertEqual([('/usr/bin/qemu', 'qemu')], self._said())

    def _connects(self, to):
        """Let a guest connect to an address that the kernel tells apart."""
        self.kernel.event()
        self.agent.hears(
            self.kernel.record(
                'apparmor="DENIED" operation="connect" class="net" '
                f'profile="libvirt-{UUID1}" pid=797 comm="qemu" '
                'family="inet" sock_type="stream" protocol=6 '
                'requested_mask="connect" denied_mask="connect"'
            ),
            self.kernel.record(self.SYSCALL, records.SYSCALL),
            self.kernel.record(f'saddr={to}', records.SOCKADDR),
            self.kernel.record('', records.EOE),
        )
        return self.events()[-1]

    def test_the_address_says_which_service_it_was(self):
        event = self._connects('020016280A0000050000000000000000')
        self.assertEqual(
            ('10.0.0.5', 5672),
            (event['denial']['faddr'], event['denial']['fport']),
        )
        self.assertEqual(
            ('host service', 'RabbitMQ at 10.0.0.5 port 5672'),
            (event['target']['kind'], event['target']['name']),
        )
        self.assertEqual('critical', event['classification']['severity'])

    def test_what_was_reached_for_makes_a_kind(self):
        for port in ('0016', '1628', '1628'):
            self._connects(f'0200{port}0A0000050000000000000000')
        self.assertEqual(
            [22, 5672], [e['denial']['fport'] for e in self.events()]
        )

    def test_an_address_of_no_network_says_nothing(self):
        event = self._connects('01002F72756E2F7300')
        self.assertIsNone(event['denial']['faddr'])
        self.assertEqual('network', event['target']['kind'])

    def _signals(self, *processes):
        """Let a guest reach for processes, of which 1002 is UUID2's."""
        guest = dataclasses.replace(
            self.agent.guests.table.guest(UUID2), pids=(1002,)
        )
        self.agent.guests.table = attribution.Table(
            [self.agent.guests.table.guest(UUID1), guest]
        )
        self.kernel.event()
        self.agent.hears(
            self.kernel.record(
                'apparmor="DENIED" operation="ptrace" class="ptrace" '
                f'profile="libvirt-{UUID1}" pid=797 comm="qemu" '
                'requested_mask="trace" denied_mask="trace" peer="unconfined"'
            ),
            self.kernel.record(self.SYSCALL, records.SYSCALL),
            *(
                self.kernel.record(
                    f'opid={process} oauid=-1 ouid=64055 oses=-1 '
                    'obj=unconfined ocomm="qemu-system-x86"',
                    records.OBJ_PID,
                )
                for process in processes
            ),
            self.kernel.record('', records.EOE),
        )
        (event,) = self.events()
        return event

    def test_of_several_processes_none_is_named(self):
        self.assertIsNone(self._signals(1002, 1, 1002)['target']['owner'])

    def test_the_process_says_whose_it_is(self):
        event = self._signals(1002)
        self.assertEqual(UUID2, event['target']['owner']['uuid'])
        self.assertEqual('cross_instance', event['classification']['category'])

    def test_what_comes_within_milliseconds_too_piece_by_piece(self):
        self._learn()
        denial = self.kernel.denial()
        self.agent.reader.batches = [[each] for each in self._end()]
        # the reader here does not wait
        with mock.patch.object(intake, '_AFTERTHOUGHT', 60):
            self.agent.hears(denial)
        self.assertEqual(('/usr/bin/qemu', 'qemu'), self._said()[1])

    def test_what_came_late_once_is_waited_for_the_next_time(self):
        self.agent.hears(self.kernel.denial('/a'))
        self.agent.hears(*self._end())
        denial = self.kernel.denial('/b')
        self.agent.reader.batches = [self._end()]
        self.agent.hears(denial)
        self.assertEqual(
            [(None, None), ('/usr/bin/qemu', 'qemu')], self._said()
        )

    def test_a_denial_alone_does_not_wait(self):
        self.agent.hears(self.kernel.denial())
        self.assertEqual(1, len(self.events()))
        self.assertEqual([], self.agent.reader.waits)

    def test_nobody_waits_for_more_of_an_event_that_is_complete(self):
        self._learn()
        self.agent.hears(self.kernel.denial(), *self._end())
        self.assertEqual([], self.agent.reader.waits)

    def test_what_never_comes_is_waited_for_some_milliseconds(self):
        self._learn()
        self.agent.hears(self.kernel.denial())
        self.assertEqual(2, len(self.events()))
        self.assertLess(sum(self.agent.reader.waits), 0.01)

    def test_another_event_says_nothing_about_it(self):
        denial = self.kernel.denial()
        self.kernel.event()
        self.agent.hears(denial, *self._end())
        self.assertEqual([(None, None)], self._said())

    def test_all_denials_of_one_call_get_it(self):
        one = self.kernel.denial('/a')
        other = one[0], one[1].replace(b'/a', b'/b')
        self.agent.hears(one, other, *self._end())
        self.assertEqual([('/usr/bin/qemu', 'qemu')] * 2, self._said())

    def test_denials_that_come_meanwhile_are_reported_too(self):
        self._learn()
        denial = self.kernel.denial('/a')
        self.agent.reader.batches = [[self.kernel.denial('/b')]]
        self.agent.hears(denial)
        self.assertEqual(['/learn', '/a', '/b'], self.paths())


@ddt.ddt
class RepeatsTest(IntakeTestCase):
    def test_the_first_at_once_the_others_in_one_event(self):
        self.agent.hears(*(self.kernel.denial() for _ in range(5)))
        self.agent.hears(self.kernel.denial(), after=1)
        (first,) = self.events()
        self.assertEqual(1, first['repeats']['count'])
        self.agent.hears(after=WINDOW)
        _, told = self.events()
        self.assertEqual(5, told['repeats']['count'])
        self.assertEqual(first['id'], told['repeats']['of'])
        self.assert_accounted()
        counts = self.agent.ledger.snapshot().counts
        self.assertEqual(
            (6, 1, 5), (counts['in'], counts['out'], counts['folded'])
        )

    def test_who_tries_the_very_same_an_hour_later_is_reported_again(self):
        # but for its number and time the record is the same
        self.agent.hears(self.kernel.denial())
        self.agent.hears(after=3600)
        self.agent.hears(self.kernel.denial())
        first, second = self.events()
        self.assertNotEqual(first['id'], second['id'])
        self.assertIsNone(second['repeats']['of'])

    def test_its_noise_does_not_hide_what_it_tries_on_a_neighbour(self):
        self.agent = self.make(UUID1, UUID2, kinds=3)
        self.agent.hears(*(self.kernel.denial(f'/x{n}') for n in range(50)))
        before = len(self.events())
        self.assertLess(before, 6)
        self.agent.hears(self.kernel.denial(_disk(UUID2)))
        event = self.events()[before]
        self.assertEqual(UUID2, event['target']['owner']['uuid'])
        self.assertEqual('critical', event['classification']['severity'])
        self.assert_accounted()

    @ddt.data(
        # Linux 6.1 says no class
        'operation="capable" capability=21 capname="sys_admin"',
        f'operation="ptrace" peer="libvirt-{UUID2}" denied_mask="trace"',
        'operation="connect" family="inet" sock_type="stream" protocol=6',
        'operation="exec" name="/bin/sh" denied_mask="x"',
        f'operation="open" name="{_disk(UUID2)}" denied_mask="w"',
        # what no XML names
        f'operation="open" name="/i/{UUID2}/console.log" denied_mask="r"',
        f'operation="open" name="/i/{UUID2}_resize/disk" denied_mask="r"',
        'operation="open" name="/proc/4242/mem" denied_mask="r"',
    )
    def test_its_noise_hides_nothing_of_another_sort(self, body):
        self.agent = self.make(UUID1, kinds=3)
        self.agent.guests.table = attribution.Table(
            attribution.describe(
                guests.make(uuid, disks=[_disk(uuid)]), pids=pids
            )
            for uuid, pids in ((UUID1, [4141]), (UUID2, [4242]))
        )
        noise = [f'/x{n}' for n in range(50)]
        # and what nobody has
        noise += [f'/i/{model.new_id()}/disk' for _ in range(50)]
        self.agent.hears(*(self._denied(f'name="{n}"') for n in noise))
        before = len(self.events())
        self.assertLess(before, 6)
        self.agent.hears(self._denied(body))
        told = self.events()[before]
        self.assertEqual(0, told['repeats']['kinds'])
        if UUID2 in body or '4242' in body:
            self.assertEqual(UUID2, told['target']['owner']['uuid'])
        self.assert_accounted()

    @ddt.data(
        'operation="open" name="/i/{uuid}/x{n}"',
        'operation="connect" family="inet" faddr=127.0.0.{n} fport=5901',
        'operation="signal" signal="{n}" peer="libvirt-{uuid}"',
    )
    def test_its_noise_at_a_neighbour_does_not_hide_what_that_has(self, noise):
        self.agent = self.make(UUID1, kinds=3)
        neighbour = dataclasses.replace(
            attribution.describe(guests.make(UUID2, disks=[_disk(UUID2)])),
            ports=(attribution.Port('0.0.0.0', 5901, 'VNC', True),),
            pids=(4242,),
        )
        self.agent.guests.table = attribution.Table(
            [self.agent.guests.table.guest(UUID1), neighbour]
        )
        self.agent.hears(
            *(self._denied(noise.format(uuid=UUID2, n=n)) for n in range(50))
        )
        before = len(self.events())
        self.assertLess(before, 6)
        for path in (
            _disk(UUID2),
            '/proc/4242/mem',
            f'/i/{UUID2}/console.log',
        ):
            self.agent.hears(self._denied(f'name="{path}"'))
            told = self.events()[-1]
            self.assertEqual(
                (path, 0), (told['target']['path'], told['repeats']['kinds'])
            )
            self.assertEqual(UUID2, told['target']['owner']['uuid'])

    def test_under_selinux_likewise(self):
        other = 's0:c3,c4'
        self.agent = self.make(UUID1, kinds=3)
        self.agent.guests.table = attribution.Table(
            [_svirt(UUID1, LEVEL), _svirt(UUID2, other)]
        )
        self.agent.hears(*(self.kernel.svirt(f'/x{n}') for n in range(50)))
        before = len(self.events())
        self.assertLess(before, 6)
        self.agent.hears(
            self.kernel.svirt('/x', label=f'svirt_image_t:{other}')
        )
        told = self.events()[before]
        self.assertEqual(UUID2, told['target']['owner']['uuid'])

    def _denied(self, body):
        self.kernel.event()
        body = body if 'operation=' in body else f'operation="open" {body}'
        return self.kernel.record(
            f'apparmor="DENIED" {body} profile="libvirt-{UUID1}" pid=7 '
            f'comm="qemu"'
        )

    def test_nor_what_another_guest_tries(self):
        self.agent = self.make(UUID1, UUID2, kinds=3)
        self.agent.hears(
            *(self.kernel.denial(f'/x{n}') for n in range(50)),
            self.kernel.denial('/etc/shadow', UUID2),
        )
        self.assertEqual(
            ['/etc/shadow'],
            [
                event['target']['path']
                for event in self.events()
                if event['instance']['uuid'] == UUID2
            ],
        )

    def test_what_is_folded_is_told_with_samples(self):
        self.agent = self.make(UUID1, kinds=3)
        self.agent.hears(*(self.kernel.denial(f'/x{n}') for n in range(50)))
        self.agent.hears(after=WINDOW)
        told = self.events()[-1]['repeats']
        self.assertEqual(46, told['count'])
        self.assertGreaterEqual(told['kinds'], 40)
        self.assertTrue(told['samples'])
        self.assert_accounted()

    def test_repeats_outlive_the_first_event_s_journal(self):
        self.agent.hears(self.kernel.denial(), self.kernel.denial())
        with sqlite3.connect(self.agent.journal.path) as connection:
            connection.execute('DELETE FROM events')
        self.agent.hears(after=WINDOW)
        self.agent.hears(after=1)
        (lost,) = self.events(LOST)
        self.assertEqual(('retention', 1), (lost['stage'], lost['count']))

    def test_they_are_lost_once_however_often_that_cannot_be_written(self):
        self.agent.hears(self.kernel.denial(), self.kernel.denial())
        with sqlite3.connect(self.agent.journal.path) as connection:
            connection.execute('DELETE FROM events')
        with mock.patch.object(
            self.agent.journal,
            'commit',
            autospec=True,
            side_effect=exceptions.JournalUnavailable('the disk is full'),
        ):
            for _ in range(3):
                self.agent.hears(self.kernel.denial(), after=WINDOW)
        self.agent.hears(after=10)
        self.agent.hears(after=10)
        self.assertEqual(4, sum(event['count'] for event in self.events(LOST)))
        self.assert_accounted()

    def test_what_was_counted_outlives_the_agent(self):
        self.agent.hears(self.kernel.denial())
        self.agent.hears(self.kernel.denial(), self.kernel.denial())
        self.agent = self.make(UUID1)
        self.agent.runs()
        first, told = self.events()
        self.assertEqual(2, told['repeats']['count'])
        self.assertEqual(first['id'], told['repeats']['of'])
        # and is told once
        self.agent = self.make(UUID1)
        self.agent.runs()
        self.assertEqual(2, len(self.events()))

    def test_the_equation_holds_whatever_comes(self):
        self.agent = self.make(UUID1, UUID2, kinds=5)
        choice = random.Random(5)
        for _ in range(60):
            heard = [
                choice.choice(
                    [
                        self.kernel.denial(
                            f'/x{choice.randrange(20)}',
                            choice.choice([UUID1, UUID2, UUID3]),
                        ),
                        (records.AVC, choice.randbytes(30)),
                        (1300, choice.randbytes(30)),
                        self.kernel.record('apparmor="STATUS"'),
                    ]
                )
                for _ in range(choice.randrange(30))
            ]
            self.agent.hears(*heard, after=choice.random() * 10)
        self.agent.hears(after=WINDOW)
        snapshot = self.agent.ledger.snapshot()
        self.assertEqual(0, snapshot.unaccounted)
        self.assertEqual(
            snapshot.counts['in'] - snapshot.lost['unparsable'],
            sum(entry.denials for entry in self.entries()),
        )


@ddt.ddt
class TurnsTest(IntakeTestCase):
    """Who is noisy waits, and nobody waits for him."""

    def _flood(self, count=100):
        return [self.kernel.denial(f'/{n}') for n in range(count)]

    def _of(self, uuid):
        return [
            event['target']['path']
            for event in self.events()
            if event['instance']['uuid'] == uuid
        ]

    def _agent_dies(self, *uuids):
        self.agent = self.make(*uuids)

    def test_what_waits_of_one_guest_does_not_delay_another_one(self):
        self.agent.hears(*self._flood(), self.kernel.denial('/other', UUID2))
        self.assertEqual(['/other'], self._of(UUID2))
        noisy = self._of(UUID1)
        self.assertEqual([f'/{n}' for n in range(len(noisy))], noisy)
        self.assertEqual(intake._ATTRIBUTED, len(noisy) + 1)

    def test_nor_when_it_comes_while_others_wait(self):
        self.agent.hears(*self._flood())
        self.agent.hears(self.kernel.denial('/other', UUID2))
        self.assertEqual(['/other'], self._of(UUID2))

    def test_all_is_told_in_order_without_a_pause(self):
        self.agent.runs(self._flood())
        self.assertEqual([f'/{n}' for n in range(100)], self._of(UUID1))
        self.assertEqual({}, self.agent.journal.states(intake.DENIAL))
        self.assert_accounted()

    def test_nobody_pauses_while_something_waits(self):
        self.agent.reader.batches.append(self._flood())
        take, waits = self.agent.reader.take, self.agent.reader.waits

        def taking(timeout):
            if len(waits) == 4:
                self.agent.intake._stopping.set()
            return take(timeout)

        with mock.patch.object(self.agent.reader, 'take', taking):
            self.agent.intake.start()
            self.agent.intake.thread.join(60)
        self.assertEqual([intake._TICK, 0, 0, 0, intake._TICK], waits)
        self.assertEqual(100, len(self.events()))

    def test_what_waits_outlives_the_agent(self):
        self.agent.hears(*self._flood())
        self.assertEqual(intake._ATTRIBUTED, len(self.events()))
        self._agent_dies(UUID1)
        self.agent.runs()
        self.assertEqual([f'/{n}' for n in range(100)], self._of(UUID1))
        self.assertEqual([], self.events(LOST))
        self.assertEqual({}, self.agent.journal.states(intake.DENIAL))
        self.assert_accounted()

    def test_with_all_that_is_known_of_it(self):
        self.agent.hears(
            *self._flood(),
            self.kernel.record('proctitle=71656D75', records.PROCTITLE),
        )
        self._agent_dies(UUID1)
        self.agent.runs()
        self.assertEqual('qemu', self.events()[-1]['denial']['proctitle'])

    def test_a_second_death_changes_nothing(self):
        self.agent.hears(*self._flood())
        for _ in range(2):
            self._agent_dies(UUID1)
            self.agent.intake._recovered = self.agent.intake._recover(0)
            self.agent.hears(self.kernel.denial('/more'))
        self._agent_dies(UUID1)
        self.agent.runs()
        self.assertEqual(
            sorted({f'/{n}' for n in range(100)} | {'/more'}),
            sorted(set(self._of(UUID1))),
        )
        ids = [entry.id for entry in self.entries()]
        self.assertEqual(len(set(ids)), len(ids))
        self.assertEqual([], self.events(LOST))

    def test_repeats_of_what_waits_outlive_the_agent_too(self):
        again = [self.kernel.denial('/99') for _ in range(3)]
        self.agent.hears(*self._flood(), *again)
        self._agent_dies(UUID1)
        self.agent.runs()
        (repeated,) = (e for e in self.events() if e['repeats']['of'])
        self.assertEqual('/99', repeated['target']['path'])
        self.assertEqual(3, repeated['repeats']['count'])
        self.assertEqual(101, len(self.events()))
        self.assertEqual([], self.events(LOST))

    @ddt.data(os.unlink, lambda path: os.truncate(path, 100))
    def test_a_journal_that_is_begun_anew_has_what_waits(self, damage):
        self.agent.hears(*self._flood(), self.kernel.denial('/99'))
        damage(self.agent.journal.path)
        self.agent.hears(self.kernel.denial('/x', UUID2))
        self.agent.hears(after=0.1)
        self.assertLess(0, len(self.agent.journal.states(intake.DENIAL)))
        self._agent_dies(UUID1)
        self.agent.runs()
        wanted = {f'/{n}' for n in range(intake._ATTRIBUTED, 100)}
        self.assertLessEqual(wanted, set(self._of(UUID1)))
        # and what was counted
        (repeated,) = (e for e in self.events() if e['repeats']['of'])
        self.assertEqual('/99', repeated['target']['path'])
        self.assertEqual({}, self.agent.journal.states(intake.DENIAL))

    def test_who_it_was_is_known_when_he_is_gone_before_his_turn(self):
        self.agent.guests.table = attribution.Table([_svirt(UUID1, LEVEL)])
        self.agent.hears(*(self.kernel.svirt(f'/{n}') for n in range(100)))
        guest = self.agent.guests.table.guest(UUID1)
        # and another one has his level by now
        self.agent.guests.table = attribution.Table(
            [guest.left(), _svirt(UUID2, LEVEL)]
        )
        while len(self.events()) < 100:
            self.agent.hears(after=0.01)
        uuids = {event['instance']['uuid'] for event in self.events()}
        self.assertEqual({UUID1}, uuids)
        names = {event['instance']['project_name'] for event in self.events()}
        self.assertEqual({'acme'}, names)

    def test_what_fills_the_memory_does_not_wait(self):
        with mock.patch.object(intake, '_WAITING', 40):
            self.agent.hears(*self._flood())
        self.assertEqual(60, len(self.events()))

    def test_nor_do_long_names(self):
        with mock.patch.object(intake, '_WAITING_BYTES', 10_000):
            self.agent.hears(*self._flood())
        self.assertLess(25, len(self.events()))
        self.assertGreater(100, len(self.events()))
        waits = self.agent.journal.states(intake.DENIAL)
        self.assertLess(sum(map(len, waits.values())), 30_000)

    def test_nor_does_it_wait_for_libvirt(self):
        self.agent.guests.pending = True
        with mock.patch.object(intake, '_WAITING', 40):
            self.agent.hears(*self._flood())
            self.assertEqual(0, len(self.events()))
            self.agent.hears(after=0.01)
        self.assertEqual(60, len(self.events()))


class UnknownGuestTest(IntakeTestCase):
    """Of one that has just been started, libvirt has to be asked."""

    def test_it_is_told_when_its_guest_is_known(self):
        self.agent.hears(self.kernel.denial(uuid=UUID3))
        self.assertEqual([], self.events())
        self.assertEqual(1, self.agent.guests.asked)
        self.agent.guests.table = _table(UUID1, UUID3)
        self.agent.hears(after=0.2)
        (event,) = self.events()
        self.assertEqual('7777', event['instance']['name'])

    def test_it_is_told_after_a_second_all_the_same(self):
        self.agent.hears(self.kernel.denial(uuid=UUID3))
        self.agent.hears(after=0.9)
        self.assertEqual([], self.events())
        self.agent.hears(after=0.2)
        (event,) = self.events()
        self.assertEqual(UUID3, event['instance']['uuid'])
        self.assertEqual('', event['instance']['name'])
        self.assert_accounted()

    def test_it_is_not_taken_for_one_that_has_ended(self):
        # which had its level of SELinux
        ended = _svirt(UUID1, LEVEL).left()
        self.agent.guests.table = attribution.Table([ended])
        self.agent.hears(self.kernel.svirt('/a'))
        self.assertEqual([], self.events())
        self.agent.guests.table = attribution.Table(
            [ended, _svirt(UUID2, LEVEL)]
        )
        self.agent.hears(after=0.2)
        (event,) = self.events()
        self.assertEqual(UUID2, event['instance']['uuid'])

    def test_it_is_one_that_has_ended_if_nobody_else_comes(self):
        self.agent.guests.table = attribution.Table(
            [_svirt(UUID1, LEVEL).left()]
        )
        self.agent.hears(self.kernel.svirt('/a'))
        self.agent.hears(after=2)
        (event,) = self.events()
        self.assertEqual(UUID1, event['instance']['uuid'])
        self.assertEqual('acme', event['instance']['project_name'])

    def test_it_holds_up_nobody_else(self):
        self.agent.hears(
            self.kernel.denial(uuid=UUID3), self.kernel.denial(uuid=UUID1)
        )
        (event,) = self.events()
        self.assertEqual(UUID1, event['instance']['uuid'])

    def test_its_denials_come_in_their_order(self):
        self.agent.hears(
            self.kernel.denial('/a', UUID3), self.kernel.denial('/b', UUID3)
        )
        self.agent.guests.table = _table(UUID3)
        self.agent.hears(self.kernel.denial('/c', UUID3), after=0.2)
        self.assertEqual(['/a', '/b', '/c'], self.paths())

    def test_who_gets_known_in_the_middle_of_a_turn_changes_no_order(self):
        self.agent.hears(self.kernel.denial('/a', UUID3))
        tables = iter([_table(UUID1)])
        newer = _table(UUID3)
        type(self.agent.guests).table = mock.PropertyMock(
            side_effect=lambda: next(tables, newer)
        )
        self.addCleanup(delattr, type(self.agent.guests), 'table')
        self.agent.hears(self.kernel.denial('/b', UUID3), after=0.2)
        self.agent.hears(after=0.2)
        self.assertEqual(['/a', '/b'], self.paths())

    def test_when_the_agent_stops_it_is_not_waited_for(self):
        self.agent.runs([self.kernel.denial(uuid=UUID3)])
        self.assertEqual(1, len(self.events()))

    def test_it_outlives_the_agent(self):
        self.agent.hears(self.kernel.denial('/before'))
        self.agent.hears(self.kernel.denial('/a', UUID3), after=0.1)
        self.assertEqual(['/before'], self.paths())
        self.agent = self.make(UUID3)
        self.agent.runs()
        _, event = self.events()
        self.assertEqual('/a', event['target']['path'])
        self.assertEqual('7777', event['instance']['name'])
        self.assertEqual([], self.events(LOST))
        self.assert_accounted()

    def test_also_when_it_came_from_a_file(self):
        self.agent.hears(self.kernel.denial('/before'))
        self.kernel.denial('/a', UUID3, keep=True)
        self.agent.hears(self.kernel.denial('/after'))
        with mock.patch.object(intake, '_PATIENCE', 3600):
            self.agent.waits_until(lambda: self.agent.guests.asked)
        self.assertEqual(['/before', '/after'], self.paths())
        # the file is gone, the agent too
        os.unlink(self.log)
        self.agent = self.make(UUID3)
        self.agent.runs()
        self.assertEqual(['/before', '/after', '/a'], self.paths())

    def test_its_repeats_never_come_before_it(self):
        with mock.patch.object(intake, '_PATIENCE', 2 * WINDOW):
            self.agent.hears(
                self.kernel.denial(uuid=UUID3), self.kernel.denial(uuid=UUID3)
            )
            self.agent.hears(after=WINDOW + 1)
        first, told = self.events()
        self.assertEqual(first['id'], told['repeats']['of'])
        self.assertEqual([], self.events(LOST))
        self.assert_accounted()


class UnknownTargetTest(IntakeTestCase):
    """What has just been attached to another guest."""

    def setUp(self):
        super().setUp()
        self.agent.guests.pending = True

    def _attach(self):
        self.agent.guests.table = attribution.Table(
            attribution.describe(
                guests.make(uuid, disks=disks, nova=(uuid[:4], 'acme'))
            )
            for uuid, disks in (
                (UUID1, [_disk(UUID1)]),
                (UUID2, [_disk(UUID2), '/srv/new']),
            )
        )

    def test_it_is_told_when_its_owner_is_known(self):
        self.agent.hears(self.kernel.denial('/srv/new'))
        self.assertEqual([], self.events())
        self.assertEqual(1, self.agent.guests.asked)
        # a table that was begun before it was attached
        self.agent.guests.table = _table(UUID1, UUID2)
        self.agent.hears(after=0.01)
        self.assertEqual([], self.events())
        self._attach()
        self.agent.guests.pending = False
        self.agent.hears(after=0.01)
        (event,) = self.events()
        self.assertEqual(UUID2, event['target']['owner']['uuid'])
        self.assertEqual('cross_instance', event['classification']['category'])

    def test_it_is_told_after_a_second_all_the_same(self):
        self.agent.hears(self.kernel.denial('/srv/new'))
        self.agent.hears(after=0.9)
        self.assertEqual([], self.events())
        self.agent.hears(after=0.2)
        self.assertEqual(['/srv/new'], self.paths())

    def test_the_next_does_not_overtake_it_while_the_table_is_made(self):
        self.agent.hears(self.kernel.denial('/srv/new'))
        # which is ready in the middle of the next turn
        answers = iter([True])
        with mock.patch.object(
            self.agent.guests, 'stale', lambda: next(answers, False)
        ):
            self.agent.hears(self.kernel.denial('/srv/other'), after=0.01)
            self.agent.hears(after=0.01)
        self.assertEqual(['/srv/new', '/srv/other'], self.paths())

    def test_what_nobody_can_know_better_does_not_wait(self):
        self.agent.hears(self.kernel.denial(_disk(UUID2)))
        self.assertEqual([_disk(UUID2)], self.paths())

    def test_when_nothing_has_changed_nothing_waits(self):
        self.agent.guests.pending = False
        self.agent.hears(self.kernel.denial('/srv/new'))
        self.assertEqual(['/srv/new'], self.paths())
        self.assertEqual(0, self.agent.guests.asked)


class JournalTest(IntakeTestCase):
    def test_events_windows_and_position_stand_in_one_transaction(self):
        self.agent.hears(self.kernel.denial('/a'))
        with mock.patch.object(
            self.agent.journal, 'commit', wraps=self.agent.journal.commit
        ) as commit:
            self.agent.hears(
                self.kernel.denial('/a'), self.kernel.denial('/b')
            )
        ((events, windows, state), _) = commit.call_args
        self.assertEqual(['/b'], [e.payload['target']['path'] for e in events])
        self.assertEqual([1], [row['count'] for row in windows.values()])
        position = json.loads(state[intake.POSITION])
        self.assertEqual(self.kernel.serial, position['serials']['highest'])
        commit.assert_called_once()

    def test_what_changes_nothing_is_written_every_few_seconds(self):
        with mock.patch.object(
            self.agent.journal, 'commit', wraps=self.agent.journal.commit
        ) as commit:
            for _ in range(20):
                self.kernel.event()
                self.agent.hears(
                    self.kernel.record('x', records.SYSCALL), after=0.5
                )
        self.assertEqual(2, commit.call_count)

    def _unwritable(self, cause='the disk is full'):
        return mock.patch.object(
            self.agent.journal,
            'commit',
            autospec=True,
            side_effect=exceptions.JournalUnavailable(cause),
        )

    def test_events_wait_until_it_can_be_written(self):
        with (
            self._unwritable(),
            self.assertLogs(intake.LOG.logger, 'ERROR') as logs,
        ):
            for name in ('/a', '/b', '/a'):
                self.agent.hears(self.kernel.denial(name), after=2)
        self.assertEqual([], self.agent.journal.entries())
        # it is said once
        self.assertEqual(1, len(logs.output))
        self.assertIn('the disk is full', logs.output[0])
        self.agent.wake.assert_not_called()
        self.agent.hears(after=2)
        self.assertEqual(['/a', '/b'], self.paths())
        self.agent.hears(after=WINDOW)
        self.assertEqual(1, self.events()[2]['repeats']['count'])
        self.assertEqual([], self.events(LOST))
        self.assert_accounted()

    def test_events_of_other_threads_wait_too(self):
        with self._unwritable():
            self.agent.intake.give(model.Agent('cmp1', True, '1', 'boot'))
            self.agent.hears()
        self.agent.hears(after=2)
        self.assertEqual(1, len(self.entries('isolation.agent.start')))

    def test_windows_that_end_meanwhile_are_told_later(self):
        self.agent.hears(self.kernel.denial(), self.kernel.denial())
        with self._unwritable():
            self.agent.hears(self.kernel.denial(), after=WINDOW + 1)
            self.agent.hears(after=10)
        self.agent.hears(after=10)
        _, told = self.events()
        self.assertEqual(2, told['repeats']['count'])
        self.assert_accounted()

    def test_it_is_not_tried_at_each_turn(self):
        # each goes through all that waits
        with self._unwritable() as commit:
            for _ in range(20):
                self.agent.hears(self.kernel.denial(), after=0.1)
        self.assertLessEqual(commit.call_count, 3)

    def test_what_does_not_fit_is_announced(self):
        with self._unwritable(), mock.patch.object(intake, '_WAITING', 10):
            for number in range(14):
                self.agent.hears(self.kernel.denial(f'/x{number}'), after=0.1)
            for _ in range(20):
                self.agent.intake.give(model.Agent('cmp1', True, '1', 'b'))
        self.agent.hears(after=2)
        self.assertEqual([f'/x{number}' for number in range(10)], self.paths())
        self.assertEqual(10, len(self.entries('isolation.agent.start')))
        self.assertEqual(4, self.agent.ledger.snapshot().lost['journal'])
        self.assertEqual(10, self.agent.ledger.snapshot().unknown['journal'])
        self.assertEqual(['journal'], [e['stage'] for e in self.events(LOST)])
        self.assert_accounted()

    def test_what_others_gave_is_written_before_the_end(self):
        for _ in range(3 * intake._GIVEN):
            self.agent.intake.give(model.Agent('cmp1', True, '1', 'b'))
        self.agent.runs()
        self.assertEqual(
            3 * intake._GIVEN, len(self.entries('isolation.agent.start'))
        )

    def test_a_journal_that_was_lost_had_how_far_the_agent_had_come(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.agent.journal.close()
        with open(self.agent.journal.path, 'r+b') as file:
            file.write(b'x' * 4096)
        self.kernel.denial('/b', keep=True)
        self.agent = self.make(UUID1)
        self.agent.runs()
        stages = [(e['stage'], e['count']) for e in self.events(LOST)]
        self.assertEqual([('journal', None), ('agent', None)], stages)

    def test_an_announcement_that_could_not_be_written_is_made_again(self):
        with self._unwritable():
            self.agent.hears((records.AVC, b'garbage'))
        self.agent.hears(after=2)
        (event,) = self.events(LOST)
        self.agent.hears(after=10)
        self.assertEqual(1, len(self.events(LOST)))
        self.assertEqual('unparsable', event['stage'])

    def test_an_agent_that_cannot_read_it_yet_waits_for_it(self):
        self.agent.hears(self.kernel.denial('/a'), self.kernel.denial('/a'))
        self.agent = self.make(UUID1)
        real = self.agent.journal.windows
        failing = [exceptions.JournalUnavailable('hangs')] * 2
        beats = []
        with (
            mock.patch.object(
                self.agent.journal,
                'windows',
                autospec=True,
                side_effect=[*failing, real()],
            ),
        ):
            self.agent.reader.batches = [[self.kernel.denial('/b')]]
            self.agent.intake.start(lambda: beats.append(1))
            limit = time.monotonic() + 30
            while len(self.agent.reader) and time.monotonic() < limit:
                time.sleep(0.01)
            self.agent.intake.stop(30)
        self.assertEqual(
            [('/a', 1), ('/b', 1), ('/a', 1)],
            [
                (e['target']['path'], e['repeats']['count'])
                for e in self.events()
            ],
        )
        # it lives
        self.assertGreaterEqual(len(beats), 2)

    def test_two_agents_make_one_event_of_one_record(self):
        denial = self.kernel.denial()
        self.agent.hears(denial)
        (first,) = self.events()
        self.agent = self.make(UUID1)
        self.agent.hears(denial)
        self.assertEqual([first], self.events())


@ddt.ddt
class PastTest(IntakeTestCase):
    """What was not heard."""

    def _restart(self):
        self.agent = self.make(UUID1, UUID2)
        self.agent.runs()

    def test_what_happened_while_there_was_no_agent_is_reported_once(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.denial('/b', keep=True)
        self._restart()
        self.assertEqual(['/a', '/b'], self.paths())
        self.assert_accounted()
        self._restart()
        self.assertEqual(['/a', '/b'], self.paths())
        self.assertEqual([], self.events(LOST))

    def test_the_next_agent_knows_of_the_first_before_that_reads(self):
        # what it reads is gone from the socket when it is killed
        with mock.patch.object(intake.Intake, '_run', autospec=True):
            self.agent.intake.start()
        self.assertIsNotNone(self.agent.journal.state(intake.POSITION))

    def test_nothing_is_reported_of_the_time_before_the_first_agent(self):
        self.kernel.denial('/a', keep=True)
        self._restart()
        self.assertEqual([], self.events())

    def test_it_comes_before_what_is_heard_now(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.denial('/b', keep=True)
        self.agent = self.make(UUID1)
        self.agent.runs([self.kernel.denial('/c', keep=True)])
        self.assertEqual(['/a', '/b', '/c'], self.paths())

    def test_what_comes_from_file_and_socket_is_one_event(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        # auditd was quicker than the agent
        denial = self.kernel.denial('/b', keep=True)
        self.agent = self.make(UUID1)
        self.agent.runs([denial])
        self.assertEqual(['/a', '/b'], self.paths())
        counts = self.agent.ledger.snapshot().counts
        self.assertEqual((1, 0), (counts['in'], counts['folded']))

    def test_an_event_of_which_the_agent_has_heard_one_part(self):
        denied = [self.kernel.denial('/a', keep=True)]
        denied.append(self.kernel.another('/b', keep=True))
        # of another processor
        others = self.kernel.denial('/c', keep=True)
        self.kernel.serial -= 1
        self.kernel.another('/d', keep=True)
        self.kernel.another('/d', keep=True)
        self.kernel.serial += 1
        self.agent.hears(*denied, others)
        for _ in range(3):
            self._restart()
            self.assertEqual(['/a', '/b', '/c', '/d'], self.paths()[:4])
        repeats = [e['repeats']['count'] for e in self.events()]
        self.assertEqual([1] * 5, repeats)
        self.assertEqual([], self.events(LOST))

    def test_and_the_socket_has_the_rest(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        rest = self.kernel.another('/b', keep=True)
        self.agent = self.make(UUID1)
        self.agent.runs([rest])
        self.assertEqual(['/a', '/b'], self.paths())
        counts = self.agent.ledger.snapshot().counts
        self.assertEqual((1, 0), (counts['in'], counts['folded']))

    def test_a_file_that_ended_within_an_event_and_the_socket(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        denied = [self.kernel.denial('/b', keep=True)]
        denied += [self.kernel.another('/b'), self.kernel.another('/c')]
        self.agent = self.make(UUID1)
        self.agent.runs(denied)
        self.assertEqual(['/a', '/b', '/c'], self.paths())
        counts = self.agent.ledger.snapshot().counts
        self.assertEqual((3, 1), (counts['in'], counts['folded']))
        # nor for the next agent, when the file has all of it
        for each in denied[1:]:
            self.kernel.keep(each)
        self._restart()
        counts = self.agent.ledger.snapshot().counts
        self.assertEqual(0, counts['in'])
        self.assertEqual([], self.events(LOST))

    def test_a_file_that_ended_within_an_event_and_the_next_agent(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.denial('/b', keep=True)
        self._restart()
        self.kernel.another('/c', keep=True)
        self._restart()
        self.assertEqual(['/a', '/b', '/c'], self.paths())
        self._restart()
        self.assertEqual(0, self.agent.ledger.snapshot().counts['in'])
        self.assertEqual([], self.events(LOST))

    def test_what_was_taken_is_forgotten_when_much_else_was_heard(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        missed = self.kernel.denial('/b', keep=True)
        self.agent = self.make(UUID1)
        self.agent.runs()
        self.assertTrue(self.agent.intake._taken)
        # never a turn without anything
        self.agent.hears(self.kernel.denial('/c'))
        self.agent.hears(missed)
        for _ in range(intake._LATE + 1):
            heard = self.kernel.denial('/c')
        self.agent.hears(heard)
        self.agent.hears(self.kernel.denial('/c'))
        self.assertFalse(self.agent.intake._taken)
        self.assertEqual(['/a', '/b', '/c'], self.paths())

    def _catches(self, *lines_):
        """Let it have looked in another source than auditd's file."""
        reading = mock.MagicMock(sources=('other',), found=(), complete=True)
        reading.__iter__.return_value = [
            lines.kernel_line('other', backfill.boot_id(), each)
            for each in lines_
        ]
        with (
            mock.patch.object(
                self.agent.intake._history, 'read', return_value=reading
            ),
            mock.patch.object(catching, '_WAITING', 10_000),
        ):
            self.agent.intake._catch_up('socket', 0, certain=True)
            self.agent.intake._catching._thread.join(60)

    @staticmethod
    def _printed(made):
        return b'audit: type=1400 %b' % made[1]

    def test_a_record_that_was_printed_and_cut_is_one(self):
        self.agent.hears(self.kernel.denial('/a'))
        whole = self.kernel.denial('/' + 'b' * 1500)
        self._catches(self._printed(whole)[:1000])
        self.agent.hears()
        self.agent.hears(whole)
        self.assertEqual(2, self.agent.ledger.snapshot().counts['in'])

    def test_sources_that_are_read_one_after_the_other(self):
        self.agent.hears(self.kernel.denial('/a'))
        made = [self.kernel.denial('/b') for _ in range(intake._LATE + 100)]
        # the oldest one is found last
        self._catches(*map(self._printed, made[1:] + made[:1]))
        self.agent.hears()
        for each in made:
            self.agent.hears(each)
        counts = self.agent.ledger.snapshot().counts
        self.assertEqual(len(made) + 1, counts['in'])

    def test_parts_are_forgotten_by_the_next_agent_too(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.denial('/b', keep=True)
        self._restart()
        self._restart()
        self.assertTrue(self.agent.intake._parts)
        self.agent.hears(self.kernel.denial('/c', keep=True))
        self.agent.hears()
        self.assertFalse(self.agent.intake._parts)

    def test_a_part_of_it_that_nobody_understands_is_counted_once(self):
        self.kernel.event()
        strange = self.kernel.record('apparmor="DENIED')
        self.kernel.keep(strange)
        self.agent.hears(strange)
        (lost,) = self.events(LOST)
        self.assertEqual(('unparsable', 1), (lost['stage'], lost['count']))
        self.kernel.another('/b', keep=True)
        self._restart()
        self.assertEqual(['/b'], self.paths())
        self.assertEqual([lost], self.events(LOST))

    def test_what_an_agent_took_that_died_meanwhile_is_not_taken_again(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        missed = [self.kernel.denial('/b', keep=True) for _ in range(3)]
        self.agent = self.make(UUID1)
        with (
            mock.patch.object(catching.Catching, 'ended', False),
            mock.patch.object(
                catching.Catching, 'join', lambda c, _: c._thread.join(60)
            ),
        ):
            self.agent.runs()
        self.assertEqual(3, self.agent.ledger.snapshot().counts['in'])
        # neither from the file, nor from the socket, which has them still
        self.agent = self.make(UUID1)
        self.agent.runs(missed)
        self.assertEqual(0, self.agent.ledger.snapshot().counts['in'])
        self.assertEqual([], self.events(LOST))

    def test_what_was_taken_is_not_taken_again_when_reading_failed(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.denial('/b', keep=True)
        self.agent.hears(self.kernel.denial('/c', keep=True))
        read = backfill.Reading.__iter__

        def failing(reading):
            yield from read(reading)
            reading._found = serials.Numbers()
            raise OSError('the disk is gone')

        with mock.patch.object(backfill.Reading, '__iter__', failing):
            self.agent.waits_until(lambda: len(self.events()) > 2)
        self.agent.waits_until(lambda: self.agent.now > 1060)
        self.assertEqual(3, self.agent.ledger.snapshot().counts['in'])
        self.assertEqual([], self.events(LOST))

    def test_what_is_heard_before_the_file_is_read_is_not_taken_again(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        missed = self.kernel.denial('/b', keep=True)
        self.agent.hears(self.kernel.denial('/c', keep=True), after=1)
        # late, but it comes
        self.agent.hears(missed, after=1)
        self.agent.waits_until(lambda: self.agent.now > 1060)
        self.assertEqual(['/a', '/c', '/b'], self.paths())
        self.assertEqual(0, self.agent.ledger.snapshot().counts['folded'])

    def test_a_gap_is_filled_from_the_file(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.denial('/b', keep=True)
        self.agent.hears(self.kernel.denial('/c', keep=True))
        self.assertEqual(['/a', '/c'], self.paths())
        self.agent.waits_until(lambda: len(self.events()) > 2)
        self.assertEqual(['/a', '/c', '/b'], self.paths())
        self.agent.waits_until(lambda: self.agent.now > 1060)
        self.assertEqual([], self.events(LOST))

    def test_what_is_missed_while_the_file_is_read_is_looked_for_next(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.denial('/b', keep=True)
        self.agent.hears(self.kernel.denial('/c', keep=True))
        with mock.patch.object(catching.Catching, 'ended', False):
            self.agent.waits_until(lambda: len(self.events()) > 2)
            self.kernel.denial('/d', keep=True)
            self.agent.hears(self.kernel.denial('/e', keep=True), after=1)
            self.agent.hears(after=10)
        self.agent.waits_until(lambda: len(self.events()) > 4)
        self.assertEqual(['/a', '/c', '/b', '/e', '/d'], self.paths())
        self.agent.waits_until(lambda: self.agent.now > 1060)
        self.assertEqual([], self.events(LOST))

    def test_what_no_file_has_is_announced(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.denial('/b')
        self.kernel.denial('/c')
        self.agent.hears(self.kernel.denial('/d', keep=True))
        self.agent.waits_until(lambda: self.events(LOST))
        self.agent.waits_until(lambda: self.agent.now > 1060)
        (event,) = self.events(LOST)
        self.assertEqual(('socket', 2), (event['stage'], event['count']))
        self.assertIn(self.log, event['reason'])

    def test_what_nobody_was_there_to_hear_is_announced_as_that(self):
        self.agent.hears(self.kernel.denial('/a'))
        self.kernel.denial('/b')
        self._restart()
        # only now it can be known
        self.agent.hears(self.kernel.denial('/c'), after=1)
        self.agent.waits_until(lambda: self.events(LOST))
        (event,) = self.events(LOST)
        self.assertEqual(('agent', 1), (event['stage'], event['count']))
        self.assertIn('was not there', event['reason'])
        # and what it does not hear later is another thing
        self.kernel.denial('/d')
        self.agent.hears(self.kernel.denial('/e'), after=10)
        self.agent.waits_until(lambda: len(self.events(LOST)) > 1)
        self.assertEqual('socket', self.events(LOST)[1]['stage'])

    def test_the_end_of_a_flood_that_ran_over_is_taken_from_the_file(self):
        # and nothing comes that would show a gap
        self.agent.hears(self.kernel.denial('/a', keep=True), reader.OVERRUN)
        self.kernel.denial('/b', keep=True)
        self.agent.waits_until(lambda: len(self.events()) > 1)
        self.assertEqual(['/a', '/b'], self.paths())
        self.agent.waits_until(lambda: self.agent.now > 1060)
        self.assertEqual([], self.events(LOST))

    def test_or_it_is_announced(self):
        self.agent.hears(self.kernel.denial('/a'), reader.OVERRUN)
        self.agent.waits_until(lambda: self.events(LOST))
        self.agent.waits_until(lambda: self.agent.now > 1060)
        (event,) = self.events(LOST)
        self.assertEqual(('socket', None), (event['stage'], event['count']))

    def test_a_change_of_profiles_of_the_past_is_no_news(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.event()
        status = self.kernel.record(
            'apparmor="STATUS" operation="profile_remove" '
            f'profile="unconfined" name="libvirt-{UUID1}" pid=5 comm="p"'
        )
        self.kernel.keep(status)
        self.agent = self.make(UUID1)
        self.agent.runs()
        self.agent.on_status.assert_not_called()

    def test_but_one_that_is_heard_is_though_the_file_has_it_too(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.event()
        status = self.kernel.record('apparmor="STATUS" operation="x"')
        self.kernel.keep(status)
        self.agent = self.make(UUID1)
        self.agent.runs([status])
        self.agent.on_status.assert_called_once()

    def test_what_was_taken_is_not_remembered_for_ever(self):
        self.agent.hears(self.kernel.denial('/a', keep=True))
        for number in range(20):
            self.kernel.denial(f'/x{number}', keep=True)
        self.agent = self.make(UUID1)
        self.agent.runs()
        self.assertEqual(21, len(self.events()))
        self.agent.hears(after=1)
        # the socket may still bring it, until it is beyond that
        self.assertTrue(self.agent.intake._taken)
        self.agent.hears(self.kernel.denial('/beyond'))
        self.agent.hears()
        self.assertEqual(set(), self.agent.intake._taken)

    def test_a_history_that_fails_stops_nothing_and_is_announced(self):
        self.agent.hears(self.kernel.denial('/a'))
        self.agent = self.make(UUID1)
        with mock.patch.object(
            intake.catching, 'Catching', side_effect=RuntimeError('no thread')
        ):
            self.agent.runs([self.kernel.denial('/b')])
        self.assertEqual(['/a', '/b'], self.paths())
        (event,) = self.events(LOST)
        self.assertEqual(('agent', None), (event['stage'], event['count']))

    def _of_another_boot(self, **state):
        """Let the agent's position be of another boot."""
        booted = backfill.boot_time()
        self.kernel.time = booted - 100
        with mock.patch.object(backfill, 'boot_id', lambda: 'another boot'):
            self.agent = self.make(UUID1, UUID2)
        return booted

    def test_after_a_reboot_the_end_of_the_last_boot_is_reported_once(self):
        self._of_another_boot()
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.denial('/b', keep=True)
        self._restart()
        self.assertEqual(['/a', '/b'], self.paths())
        # it was no repeat of itself
        self.assertEqual(0, self.agent.ledger.snapshot().counts['folded'])
        self._restart()
        self.assertEqual(['/a', '/b'], self.paths())

    def test_and_the_beginning_of_this_one(self):
        booted = self._of_another_boot()
        self.agent.hears(self.kernel.denial('/a', keep=True))
        # numbers begin anew
        self.kernel.serial, self.kernel.time = 0, booted + 10
        self.kernel.denial('/b', keep=True)
        self.agent = self.make(UUID1)
        self.agent.runs([self.kernel.denial('/c', keep=True)])
        self.assertEqual(['/a', '/b', '/c'], self.paths())

    def test_what_was_missing_in_the_last_boot_is_announced(self):
        self._of_another_boot()
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.serial += 3
        self.agent.hears(self.kernel.denial('/b', keep=True))
        self._restart()
        (event,) = self.events(LOST)
        self.assertEqual(('agent', 3), (event['stage'], event['count']))

    def _boots(self, at, serial=0):
        """Let the kernel begin anew, auditd too."""
        self._set_clock(at)
        self.kernel.time, self.kernel.serial = at + 5, serial
        self.kernel.starts_auditd()

    def _set_clock(self, booted, by=0):
        """Let the host say that it has booted at another time."""
        self.kernel.time += by
        patcher = mock.patch.object(backfill, 'boot_time', lambda: booted)
        self.addCleanup(patcher.stop)
        patcher.start()

    def _assert_told_once(self, *paths, lost=0):
        self.agent.waits_until(lambda: len(self.events()) >= len(paths))
        self.agent.waits_until(lambda: self.agent.now > 1060)
        self.agent.hears(after=WINDOW)
        self.assertEqual(paths, tuple(self.paths()))
        self.assertEqual(lost, len(self.events(LOST)))
        self.assertEqual(0, self.agent.ledger.snapshot().counts['folded'])

    def _misses_one(self):
        """Let the socket miss a denial that the file has."""
        self.kernel.denial('/missed', keep=True)
        self.agent.hears(self.kernel.denial('/next', keep=True))

    def test_forward_what_was_handled_before_is_not_told_again(self):
        self.kernel.denial('/old', keep=True)
        self._boots(10**9)
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self._set_clock(10**9 + 60, by=60)
        self._misses_one()
        self._assert_told_once('/a', '/next', '/missed')

    def test_forward_what_was_not_heard_before_is_told_once(self):
        self.kernel.denial('/old', keep=True)
        self._boots(10**9)
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.denial('/b', keep=True)
        self._set_clock(10**9 + 3600, by=3600)
        # systemd says that it starts the agent
        self.kernel.event()
        self.kernel.keep(self.kernel.record('pid=1'), 'SERVICE_START')
        self._restart()
        self.agent.hears(self.kernel.denial('/c', keep=True), after=1)
        self._misses_one()
        self._assert_told_once('/a', '/b', '/c', '/next', '/missed')

    def test_forward_after_a_boot_with_a_slow_clock(self):
        self._of_another_boot()
        self.kernel.time, self.kernel.serial = 10**9, 900
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.denial('/b', keep=True)
        # numbers and times that the boot before had, too
        self._boots(10**9 - 3600)
        self.kernel.denial('/c', keep=True)
        self._set_clock(10**9 + 30, by=3630)
        self.kernel.denial('/d', keep=True)
        self._restart()
        # that auditd did not run all the time is announced
        self._assert_told_once('/a', '/b', '/c', '/d', lost=1)

    def _was_ahead(self):
        """Boot; the clock of the boot before was half an hour ahead."""
        self._of_another_boot()
        self.kernel.time, self.kernel.serial = 10**9 + 1800, 5000
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.denial('/b', keep=True)
        self._boots(10**9)
        self.kernel.denial('/c', keep=True)

    def test_back_since_the_boot_before(self):
        self._was_ahead()
        self._restart()
        self.agent.hears(self.kernel.denial('/d', keep=True), after=1)
        self.assertEqual(2, self.agent.intake._serials.highest)
        self._misses_one()
        self._assert_told_once(
            '/a', '/b', '/c', '/d', '/next', '/missed', lost=1
        )

    def test_what_auditd_recorded_before_this_boot_is_none_of_it(self):
        # it does not run in this one
        for at in (10**9 - 9000, 10**9 - 5000):
            self._boots(at)
            for number in range(40):
                self.kernel.denial(f'/old{number}', keep=True)
        self._set_clock(10**9)
        self.kernel.time, self.kernel.serial = 10**9 + 5, 9
        self.agent.hears(self.kernel.denial('/a'))
        self._restart()
        self.assertEqual(10, self.agent.intake._serials.highest)
        self.agent.hears(self.kernel.denial('/b'))
        self._assert_told_once('/a', '/b')

    def test_what_a_boot_could_not_look_for_the_next_one_does(self):
        boots = [10**9 - 9000, 10**9 - 5000, 10**9]
        self._boots(boots[0])
        with mock.patch.object(backfill, 'boot_id', lambda: 'first'):
            self.agent = self.make(UUID1, UUID2)
        self.agent.hears(self.kernel.denial('/a', keep=True))
        self.kernel.denial('/b', keep=True)
        self._boots(boots[1])
        with (
            mock.patch.object(backfill, 'boot_id', lambda: 'second'),
            mock.patch.object(catching.Catching, 'take', return_value=[]),
            mock.patch.object(catching.Catching, 'ended', False),
            mock.patch.object(intake, '_FIRST', 0),
        ):
            self.agent = self.make(UUID1, UUID2)
            self.agent.runs([self.kernel.denial('/c', keep=True)])
        self._boots(boots[2])
        self.kernel.denial('/d', keep=True)
        self._restart()
        self.assertEqual({'/a', '/b', '/c', '/d'}, set(self.paths()))

    def test_back_when_the_agent_is_killed_while_it_reads(self):
        self._was_ahead()
        self.agent = self.make(UUID1, UUID2)
        with (
            mock.patch.object(catching.Catching, 'take', return_value=[]),
            mock.patch.object(catching.Catching, 'ended', False),
            mock.patch.object(intake, '_FIRST', 0),
        ):
            self.agent.runs([self.kernel.denial('/d', keep=True)])
        self.assertEqual(['/a', '/d'], self.paths())
        self._restart()
        self._misses_one()
        self._assert_told_once('/a', '/d', '/b', '/c', '/next', '/missed')

    @ddt.data(
        'no JSON',
        '[]',
        '{}',
        '{"serials": null, "seen": 1}',
        '{"serials": {"boot": 5}, "seen": 1}',
        '{"serials": {"boot": "b", "highest": "x", "missing": [[]], '
        '"given_up": 0}, "seen": 1}',
        '{"serials": {"boot": "b", "highest": 1, "missing": [], '
        '"given_up": 0}, "seen": 1e300}',
    )
    def test_a_damaged_position_is_announced_and_the_agent_works(self, text):
        self.agent.journal.commit(state={intake.POSITION: text})
        self.agent = self.make(UUID1)
        self.agent.runs([self.kernel.denial('/a')])
        self.assertEqual(['/a'], self.paths())
        stages = [event['stage'] for event in self.events(LOST)]
        self.assertEqual(['agent'], stages)

    def test_damaged_windows_do_no_more_harm(self):
        self.agent.journal.commit(windows={'x': {'count': 'many'}})
        self.agent = self.make(UUID1)
        with self.assertLogs(intake.LOG.logger, 'ERROR') as logs:
            self.agent.runs([self.kernel.denial('/a')])
        self.assertEqual(['/a'], self.paths())
        self.assertIn("'x'", logs.output[0])
        (event,) = self.events(LOST)
        self.assertEqual(('journal', None), (event['stage'], event['count']))
        # it is not found again
        self.assertEqual({}, self.agent.journal.windows())

    @ddt.data(
        'no JSON',
        '5',
        '[]',
        '{}',
        '{"who": "", "kinds": Infinity, "line": 0, "kind": 1400, "raw": '
        '"audit(1.1:5): apparmor=\\"DENIED\\" operation=\\"open\\" '
        'profile=\\"x\\"", "context": {}}',
        '{"who": "", "kinds": 0, "line": 0, "kind": 1400, "raw": 5, '
        '"context": {}}',
        '{"who": "", "kinds": 0, "line": 0, "kind": 1400, "raw": "\\u1234", '
        '"context": {}}',
        '{"who": "", "kinds": 0, "line": 0, "kind": 1400, "raw": "x", '
        '"context": {}}',
    )
    def test_nor_does_a_damaged_denial(self, row):
        self.agent.hears(self.kernel.denial('/a', UUID3))
        self.agent.journal.commit(
            state={f'{intake.DENIAL}000000000005:x': row}
        )
        self.agent = self.make(UUID1)
        with self.assertLogs(intake.LOG.logger, 'ERROR') as logs:
            self.agent.runs([self.kernel.denial('/b')])
        self.assertEqual(['/a', '/b'], sorted(self.paths()))
        self.assertIn("'denial:000000000005:x'", logs.output[0])
        (event,) = self.events(LOST)
        self.assertEqual(('journal', 1), (event['stage'], event['count']))
        self.assert_accounted()
        # it is not found again
        self.assertEqual({}, self.agent.journal.states(intake.DENIAL))


class LogTest(base.BaseTestCase):
    def test_a_line_per_event_with_its_weight(self):
        events = [
            model.Agent('cmp1', True, '1', 'boot'),
            model.Refused(
                'cmp1', model.Instance(UUID1), 'spawn', 'no\nprofile'
            ),
        ]
        with self.assertLogs(intake.LOG.logger, 'INFO') as logs:
            intake.tell([journal.Entry.of(event) for event in events])
        self.assertEqual(
            ['INFO', 'WARNING'], [record.levelname for record in logs.records]
        )
        for event, line in zip(events, logs.output, strict=True):
            self.assertIn(f'{event.event_type} {event.id}: ', line)
            self.assertTrue(line.isprintable())
