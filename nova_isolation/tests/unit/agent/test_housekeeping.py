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

"""The journal stays small, and what the kernel loses is counted."""

import tempfile
import threading
import time
from unittest import mock

from oslotest import base

from nova_isolation.agent import housekeeping
from nova_isolation.agent import ledger
from nova_isolation.audit import backfill
from nova_isolation.audit import kmsg
from nova_isolation.audit import lines
from nova_isolation.audit import netlink
from nova_isolation import exceptions
from nova_isolation.violations import journal

_DAY = 86400.0


class HousekeepingTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.journal = journal.Journal(temporary.name, 30, 16, 'cmp1')
        self.addCleanup(self.journal.close)
        # what the kernel says; None: it does not say it to this process
        self.counter = 7
        self.useKernel()
        self.make()

    def useKernel(self):
        def status():
            if self.counter is None:
                return None
            return netlink.AuditStatus(1, 0, 0, 64, self.counter, 0)

        patcher = mock.patch.object(netlink, 'status', status)
        patcher.start()
        self.addCleanup(patcher.stop)
        # what it prints; None: nobody may read it
        self.printed = None
        outer = self

        class KernelLog:
            def __init__(self):
                if outer.printed == 'forbidden':
                    raise lines.Unavailable('/dev/kmsg: set CAP_SYSLOG')

            def lost(self):
                if isinstance(outer.printed, Exception):
                    raise outer.printed
                return outer.printed

            def close(self):
                pass

        patcher = mock.patch.object(kmsg, 'KernelLog', KernelLog)
        patcher.start()
        self.addCleanup(patcher.stop)

    def make(self):
        """Start another agent."""
        self.ledger = ledger.Ledger('cmp1')
        self.keeper = housekeeping.Housekeeper(self.journal, self.ledger)

    def look(self, counter, times=1):
        self.counter = counter
        for _ in range(times):
            self.keeper.look()

    @property
    def lost(self):
        return self.ledger.snapshot().lost['kernel']


class JournalTestCase(HousekeepingTestCase):
    def _old(self):
        entry = journal.Entry.made(
            'isolation.test', 'info', {'id': 'x'}, time.time() - 31 * _DAY
        )
        self.journal.commit([entry])
        self.journal.mark_sent(
            dict.fromkeys([e.seq for e in self.journal.entries()], time.time())
        )

    def test_what_is_too_old_goes(self):
        self._old()
        self.keeper.look()
        self.assertEqual([], self.journal.entries())

    def test_also_when_the_kernel_cannot_be_asked(self):
        for fault in (lines.Unavailable('no'), ValueError('a bug')):
            self._old()
            with mock.patch.object(netlink, 'status', side_effect=fault):
                self.keeper.look()
            self.assertEqual([], self.journal.entries())

    def test_what_the_journal_itself_announces_is_counted(self):
        with mock.patch.object(
            self.journal,
            'expire',
            autospec=True,
            return_value=journal.Expired(2, 5),
        ):
            self.keeper.look()
        self.assertEqual(5, self.ledger.snapshot().lost['retention'])
        self.assertEqual([], self.ledger.due(0))

    def test_a_journal_that_cannot_be_written_is_said_once(self):
        with (
            mock.patch.object(
                self.journal,
                'expire',
                autospec=True,
                side_effect=exceptions.JournalUnavailable('the disk is full'),
            ),
            self.assertLogs(housekeeping.LOG.logger, 'ERROR') as logs,
        ):
            for _ in range(5):
                self.keeper.look()
        self.assertEqual(1, len(logs.output))
        self.assertIn('the disk is full', logs.output[0])

    def test_nor_does_it_keep_the_kernel_from_being_asked(self):
        self.look(7)
        with mock.patch.object(
            self.journal,
            'expire',
            autospec=True,
            side_effect=exceptions.JournalUnavailable('no'),
        ):
            self.look(9)
        self.assertEqual(2, self.lost)


class KernelTestCase(HousekeepingTestCase):
    def test_what_it_loses_from_now_on_is_announced(self):
        self.look(7)
        self.assertEqual(0, self.lost)
        self.look(7)
        self.look(10)
        self.look(10)
        self.assertEqual(3, self.lost)
        (event,) = self.ledger.due(time.monotonic())
        self.assertEqual(('kernel', 3), (event.stage, event.count))
        self.assertIn('backlog_limit', event.reason)

    def test_the_counter_has_32_bits(self):
        self.look(2**32 - 2)
        self.look(3)
        self.assertEqual(5, self.lost)

    def test_somebody_may_set_it_back(self):
        self.look(100)
        self.look(4)
        self.assertEqual(4, self.lost)

    def test_what_was_lost_while_there_was_no_agent_is_announced(self):
        self.look(7, times=5)
        self.make()
        self.look(12)
        self.assertEqual(5, self.lost)

    def test_what_may_not_be_in_the_journal_yet_is_announced_again(self):
        self.look(7, times=5)
        self.look(12)
        self.assertEqual(5, self.lost)
        # it was killed
        self.make()
        self.look(12)
        self.assertEqual(5, self.lost)

    def test_what_is_in_the_journal_is_not(self):
        self.look(7)
        self.look(12, times=5)
        self.make()
        self.look(12)
        self.assertEqual(0, self.lost)

    def test_after_a_reboot_the_counter_began_with_0(self):
        self.look(7, times=5)
        for boot in ('another', 'and one more'):
            self.make()
            with mock.patch.object(backfill, 'boot_id', lambda b=boot: b):
                # before the agent came to look
                self.look(5)
                self.assertEqual(5, self.lost)
                self.look(6, times=5)
                self.assertEqual(6, self.lost)
                # and what was told is not told again
                self.make()
                self.look(6)
                self.assertEqual(0, self.lost)

    def test_after_a_reboot_without_any_loss_there_is_none(self):
        self.look(7, times=5)
        self.make()
        with mock.patch.object(backfill, 'boot_id', lambda: 'another'):
            self.look(0, times=5)
            self.make()
            self.look(0)
            self.assertEqual(0, self.lost)
            self.look(2)
        self.assertEqual(2, self.lost)

    def test_a_damaged_note_is_none(self):
        self.journal.commit(
            state={housekeeping.LOST: f'{backfill.boot_id()} many'}
        )
        self.look(7)
        self.assertEqual(0, self.lost)

    def test_nothing_is_written_when_nothing_changes(self):
        self.look(7, times=5)
        with mock.patch.object(
            self.journal, 'commit', autospec=True
        ) as commit:
            self.look(7, times=5)
        commit.assert_not_called()


class KernelLogTestCase(HousekeepingTestCase):
    """Without CAP_AUDIT_CONTROL the kernel's log is read."""

    def test_what_it_prints_is_announced(self):
        self.printed = 7
        self.look(None)
        self.printed = 9
        self.look(None)
        self.assertEqual(2, self.lost)

    def test_the_first_that_it_ever_loses_too(self):
        self.look(None)
        self.printed = 4
        self.look(None)
        self.assertEqual(4, self.lost)

    def test_what_is_printed_is_older_than_what_was_said(self):
        self.look(100)
        self.printed = 90
        self.look(None)
        self.assertEqual(0, self.lost)
        self.printed = 101
        self.look(None)
        self.assertEqual(11, self.lost)

    def test_who_may_not_read_it_is_told_once(self):
        self.printed = 'forbidden'
        with self.assertLogs(housekeeping.LOG.logger, 'ERROR') as logs:
            for _ in range(5):
                self.look(None)
        self.assertEqual(1, len(logs.output))
        self.assertIn('CAP_SYSLOG', logs.output[0])

    def test_a_log_that_cannot_be_read_any_more_is_told_once(self):
        self.look(None)
        self.printed = lines.Unavailable('I/O error')
        with self.assertLogs(housekeeping.LOG.logger, 'ERROR') as logs:
            for _ in range(5):
                self.look(None)
        self.assertEqual(1, len(logs.output))


class ThreadTestCase(HousekeepingTestCase):
    def test_it_looks_gives_signs_of_life_and_stops(self):
        beat = threading.Event()
        looked = threading.Event()
        with (
            mock.patch.object(self.keeper, 'look', looked.set),
            mock.patch.object(housekeeping, '_PAUSE', 3600),
        ):
            self.keeper.start(beat.set)
            self.assertTrue(looked.wait(10))
            self.assertTrue(beat.is_set())
            self.keeper.stop(60)
        self.assertFalse(self.keeper.thread.is_alive())
