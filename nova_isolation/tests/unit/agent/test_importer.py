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

"""What nova-compute has left is in the journal before it leaves the spool."""

import json
import os
import tempfile
import threading
from unittest import mock

from oslotest import base

from nova_isolation.agent import importer
from nova_isolation.agent import ledger
from nova_isolation import exceptions
from nova_isolation.violations import journal
from nova_isolation.violations import model
from nova_isolation.violations import spool

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'


class ImporterTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.spool = spool.Spool(os.path.join(temporary.name, 'spool'), 1000)
        self.journal = journal.Journal(
            os.path.join(temporary.name, 'journal'), 30, 16, 'cmp1'
        )
        self.addCleanup(self.journal.close)
        self.told = []
        self.ledger = ledger.Ledger('cmp1')
        self.importer = importer.Importer(
            *(self.spool, self.journal, self.told.extend),
            *(self.ledger, 'cmp1'),
        )

    def put(self):
        event = model.Refused('cmp1', model.Instance(UUID), 'spawn', 'no')
        self.spool.put_event(event)
        return event

    def in_spool(self):
        return [entry.id for entry in self.spool.entries()]

    def in_journal(self):
        return [entry.id for entry in self.journal.entries(limit=1000)]

    def test_each_event_moves_as_it_is(self):
        event = self.put()
        self.assertEqual(1, self.importer.run_once())
        self.assertEqual([], self.in_spool())
        (kept,) = self.journal.entries()
        self.assertEqual(event.payload(), kept.payload)
        self.assertEqual(
            ('isolation.refused', 'error', UUID),
            (kept.event_type, kept.priority, kept.instance),
        )
        self.assertEqual([event.id], [entry.id for entry in self.told])
        self.assertEqual(0, self.importer.run_once())

    def test_one_whose_id_is_no_text_holds_up_no_other(self):
        broken, event = self.put(), self.put()
        (path,) = [
            os.path.join(self.spool.directory, name)
            for name in os.listdir(self.spool.directory)
            if broken.id in name
        ]
        with open(path) as f:
            content = {**json.load(f), 'id': '\ud800'}
        with open(path, 'w') as f:
            json.dump(content, f)
        self.assertEqual(1, self.importer.run_once())
        self.assertEqual([event.id], self.in_journal())
        self.assertTrue(os.path.exists(path + '.bad'))

    def test_many_keep_their_order(self):
        events = [self.put().id for _ in range(250)]
        self.assertEqual(250, self.importer.run_once())
        self.assertEqual(events, self.in_journal())
        self.assertEqual(250, self.importer.imported)

    def test_an_agent_that_died_in_between_imports_it_once(self):
        event = self.put()
        with mock.patch.object(
            self.spool, 'remove', autospec=True, side_effect=OSError('dead')
        ):
            self.assertRaises(OSError, self.importer.run_once)
        self.assertEqual([event.id], self.in_spool())
        self.assertEqual(1, self.importer.run_once())
        self.assertEqual([event.id], self.in_journal())
        self.assertEqual([], self.in_spool())
        self.assertEqual(1, self.importer.imported)

    def _fill(self):
        self.spool = spool.Spool(self.spool.directory, 2)
        kept = [self.put().id for _ in range(2)]
        for _ in range(3):
            self.assertRaises(exceptions.SpoolFull, self.put)
        self.importer = importer.Importer(
            *(self.spool, self.journal, self.told.extend),
            *(self.ledger, 'cmp1'),
        )
        return kept

    def test_what_did_not_fit_is_announced_once(self):
        kept = self._fill()
        with mock.patch.object(
            self.spool, 'forget', autospec=True, side_effect=OSError('dead')
        ):
            self.importer.run_once()
            self.assertRaises(OSError, self.importer.run_once)
        for _ in range(3):
            self.importer.run_once()
        *before, lost = self.journal.entries()
        self.assertEqual(kept, [entry.id for entry in before])
        self.assertEqual(
            ('isolation.lost', 'spool', 3),
            (lost.event_type, lost.payload['stage'], lost.payload['count']),
        )
        self.assertIn(self.spool.directory, lost.payload['reason'])
        self.assertLess(lost.payload['first'], lost.payload['last'])
        self.assertEqual(3, self.ledger.snapshot().lost['spool'])
        self.assertEqual([*kept, lost.id], [entry.id for entry in self.told])
        self.assertEqual([], os.listdir(self.spool.directory))
        self.assertEqual([], self.ledger.due(0))

    def test_what_does_not_fit_any_more_is_told_without_a_number(self):
        with mock.patch.object(spool, '_MOST_DROPPED', 30):
            self._fill()
            for _ in range(2):
                self.importer.run_once()
        lost = self.journal.entries()[-1]
        self.assertIsNone(lost.payload['count'])
        self.assertEqual(1, self.ledger.snapshot().unknown['spool'])

    def test_without_the_journal_nothing_leaves_the_spool(self):
        event = self.put()
        with mock.patch.object(
            self.journal,
            'commit',
            autospec=True,
            side_effect=exceptions.JournalUnavailable('the disk is full'),
        ):
            self.assertRaises(
                exceptions.JournalUnavailable, self.importer.run_once
            )
        self.assertEqual([event.id], self.in_spool())
        self.assertEqual([], self.told)

    def test_what_a_dead_writer_left_half_written_goes(self):
        event = self.put()
        left = os.path.join(self.spool.directory, 'left.json.new')
        young = os.path.join(self.spool.directory, 'young.json.new')
        for path in (left, young):
            with open(path, 'w') as f:
                f.write('{"id": ')
        os.utime(left, (1, 1))
        done = threading.Event()
        running = importer.Importer(
            *(self.spool, self.journal, lambda entries: done.set()),
            *(self.ledger, 'cmp1'),
        )
        running.start()
        self.addCleanup(running.stop, 10)
        self.assertTrue(done.wait(20))
        running.stop(10)
        self.assertEqual([event.id], self.in_journal())
        self.assertFalse(os.path.exists(left))
        self.assertTrue(os.path.exists(young))

    def test_a_spool_that_cannot_be_cleaned_is_read_all_the_same(self):
        event = self.put()
        done = threading.Event()
        running = importer.Importer(
            *(self.spool, self.journal, lambda entries: done.set()),
            *(self.ledger, 'cmp1'),
        )
        with (
            mock.patch.object(
                self.spool, 'clean', autospec=True, side_effect=OSError('no')
            ),
            self.assertLogs(importer.LOG.logger, 'ERROR'),
        ):
            running.start()
            self.addCleanup(running.stop, 10)
            self.assertTrue(done.wait(20))
            running.stop(10)
        self.assertEqual([event.id], self.in_journal())

    def test_it_goes_on_by_itself_when_the_journal_is_back(self):
        event = self.put()
        done = threading.Event()
        running = importer.Importer(
            *(self.spool, self.journal, lambda entries: done.set()),
            *(self.ledger, 'cmp1'),
        )
        real = self.journal.commit
        errors = [exceptions.JournalUnavailable('full'), ValueError('bug')]

        def commit(entries):
            if errors:
                raise errors.pop(0)
            return real(entries)

        with (
            mock.patch.object(importer, '_POLL', 0.01),
            mock.patch.object(self.journal, 'commit', commit),
            self.assertLogs(importer.LOG.logger, 'ERROR') as logs,
        ):
            running.start()
            self.addCleanup(running.stop, 10)
            self.assertTrue(done.wait(20))
            running.stop(10)
        self.assertEqual([event.id], self.in_journal())
        waits = [line for line in logs.output if 'waits in the spool' in line]
        self.assertEqual(1, len(waits))
        self.assertIn(self.spool.directory, waits[0])
