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

"""What the journal has taken it keeps; what it cannot keep it announces."""

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import time

from oslotest import base

from nova_isolation import exceptions
from nova_isolation.violations import journal
from nova_isolation.violations import model

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
OTHER = '8887d9d3-17f8-4388-8771-fab6312518d6'
HOST = 'cmp1'
DAY = 86400


def finding(instance=UUID, reason='r', name='web1'):
    return model.Finding(
        HOST, model.Instance(instance, name), 'device kept', reason
    )


def entry(**kwargs):
    return journal.Entry.of(finding(**kwargs))


class JournalTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = os.path.join(temporary.name, 'journal')
        self.journal = self.open()

    def open(self, days=30, megabytes=16):
        opened = journal.Journal(self.directory, days, megabytes, HOST)
        self.addCleanup(opened.close)
        return opened

    def reopened(self):
        self.journal.close()
        self.journal = self.open()
        return self.journal

    def put(self, *entries):
        self.assertEqual(len(entries), self.journal.commit(entries))
        return self.journal.entries(limit=100_000)[-len(entries) :]

    def lost(self):
        return [
            e.payload
            for e in self.journal.entries(limit=100_000)
            if e.event_type == 'isolation.lost'
        ]

    @contextlib.contextmanager
    def announcing(self):
        """The log has each loss as it has other events, with the same id."""
        before = len(self.lost())
        with self.assertLogs(journal.LOG.logger, 'ERROR') as logs:
            yield
        told = [line for line in logs.output if 'denials lost' in line]
        self.assertEqual(
            [
                f'ERROR:{journal.__name__}:isolation.lost {lost["id"]}: '
                f'{lost["summary"]}'
                for lost in self.lost()[before:]
            ],
            told,
        )

    def unsent(self):
        kept = self.journal.entries(limit=100_000)
        return [e for e in kept if e.sent is None]


class EventsTest(JournalTestCase):
    def test_an_event_comes_back_as_it_went_in(self):
        event = finding(reason='a\\b \u202e ü')
        (kept,) = self.put(journal.Entry.of(event))
        self.assertEqual(event.payload(), kept.payload)
        self.assertEqual(
            (event.id, 'isolation.finding', 'warn', UUID, None, None),
            (
                kept.id,
                kept.event_type,
                kept.priority,
                kept.instance,
                kept.sent,
                kept.failure,
            ),
        )
        self.assertAlmostEqual(event.time.timestamp(), kept.time, 5)
        self.assertEqual(kept, self.journal.event(event.id))
        self.assertIsNone(self.journal.event(OTHER))

    def test_text_that_is_none_comes_back(self):
        payload = {'id': OTHER, 'name': '\udcff\0'}
        self.put(journal.Entry.made('isolation.x', 'warn', payload, 1.0))
        self.assertEqual(payload, self.journal.event(OTHER).payload)

    def test_an_event_about_the_host_has_no_instance(self):
        event = model.Agent(HOST, True, '1', 'boot')
        (kept,) = self.put(journal.Entry.of(event))
        self.assertEqual('', kept.instance)

    def test_text_that_is_none_keeps_nothing_from_getting_in(self):
        # JSON can hold half a character, and a spool is JSON
        entry = journal.Entry.made(
            'isolation.\udc80',
            'warn\ud800',
            {'id': model.new_id(), 'instance': {'uuid': '\ud800'}, 'x': '\0'},
            1.0,
        )
        self.journal.commit([entry])
        (found,) = self.journal.entries()
        self.assertEqual(entry.payload, found.payload)
        self.assertEqual('?', found.instance)

    def test_an_id_is_taken_once(self):
        first, second = entry(), entry()
        self.assertEqual(2, self.journal.commit([first, second]))
        again = dataclasses.replace(first, priority='error')
        self.assertEqual(1, self.journal.commit([again, entry(), second]))
        self.assertEqual(3, self.journal.depth())
        self.assertEqual('warn', self.journal.event(first.id).priority)

    def test_they_are_sent_in_their_order_and_marked(self):
        kept = self.put(*[entry() for _ in range(5)])
        self.assertEqual(kept[0], self.journal.next_unsent(''))
        # nobody else has anything
        self.assertEqual(kept[0], self.journal.next_unsent(UUID))
        self.journal.mark_sent(
            dict.fromkeys([kept[0].seq, kept[2].seq], time.time())
        )
        self.assertEqual(3, self.journal.depth())
        again = self.reopened()
        self.assertEqual(kept[1].id, again.next_unsent('').id)
        left = [e.id for e in self.unsent()]
        self.assertEqual([kept[i].id for i in (1, 3, 4)], left)
        self.assertLess(time.time() - self.journal.entries()[0].sent, 60)

    def test_what_is_confirmed_and_not_marked_yet_is_left_out(self):
        one, two = self.put(entry(), entry())
        self.assertEqual(two, self.journal.next_unsent('', [one.seq]))
        self.assertEqual(two, self.journal.unsent_of(UUID, {one.seq: 0.0}))
        both = [one.seq, two.seq]
        self.assertIsNone(self.journal.next_unsent('', both))
        self.assertIsNone(self.journal.unsent_of(UUID, both))

    def test_the_next_of_a_certain_guest(self):
        one, _, other = self.put(
            entry(),
            entry(),
            dataclasses.replace(entry(), instance=OTHER),
        )
        self.assertEqual(one, self.journal.unsent_of(UUID))
        self.assertEqual(other, self.journal.unsent_of(OTHER))
        self.assertIsNone(self.journal.unsent_of(''))

    def test_the_guests_have_their_turns(self):
        one, two, none = (
            [dataclasses.replace(entry(), instance=uuid) for _ in range(3)]
            for uuid in (UUID, OTHER, '')
        )
        self.put(*one, *two, *none)
        found, after = [], ''
        while (kept := self.journal.next_unsent(after)) is not None:
            found.append(kept.id)
            after = kept.instance
            self.journal.mark_sent(dict.fromkeys([kept.seq], time.time()))
        first, second = sorted((one, two), key=lambda guest: guest[0].instance)
        wanted = zip(first, second, none, strict=True)
        self.assertEqual([e.id for turns in wanted for e in turns], found)

    def test_a_turn_costs_no_more_when_much_waits(self):
        self.put(*[entry() for _ in range(300)])
        connection = sqlite3.connect(self.journal.path)
        self.addCleanup(connection.close)
        for more in ('AND instance > ?', 'AND ? IS NOT NULL'):
            plan = connection.execute(
                f'EXPLAIN QUERY PLAN SELECT seq, payload FROM events '
                f'WHERE sent IS NULL {more} ORDER BY instance, seq LIMIT 1',
                ('',),
            ).fetchall()
            self.assertIn('events_waiting', str(plan))
            self.assertNotIn('TEMP B-TREE', str(plan))

    def test_what_is_given_up_is_announced_and_kept(self):
        (kept,) = self.put(entry())
        with self.announcing():
            self.journal.give_up(kept, 'it is a pear')
        (announced,) = self.unsent()
        self.assertEqual('isolation.lost', announced.event_type)
        self.assertEqual(1, announced.payload['count'])
        self.assertIn(kept.id, announced.payload['reason'])
        self.assertIn('it is a pear', announced.payload['reason'])
        self.assertEqual('it is a pear', self.journal.event(kept.id).failure)
        # not for ever
        with self.assertLogs(journal.LOG.logger, 'ERROR') as logs:
            self.journal.give_up(announced, 'no')
        self.assertIn(announced.id, logs.output[0])
        self.assertEqual([], self.unsent())

    def test_how_many_denials_an_event_stands_for(self):
        def made(event_type, **payload):
            return journal.Entry.made(
                event_type, 'warn', {'id': OTHER, **payload}, 0
            ).denials

        violation, lost = 'isolation.violation', 'isolation.lost'
        self.assertEqual(7, made(violation, repeats={'count': 7}))
        self.assertEqual(12, made(lost, count=12))
        self.assertIsNone(made(lost, count=None))
        self.assertEqual(1, made('isolation.refused'))

    def test_reading_on_from_a_place(self):
        kept = self.put(*[entry() for _ in range(10)])
        read = self.journal.entries(kept[3].seq, limit=2)
        self.assertEqual(kept[4:6], read)
        self.assertEqual(kept[-2:], self.journal.entries(limit=2, newest=True))
        self.assertEqual([], self.journal.entries(kept[-1].seq))

    def test_reading_of_a_guest_and_of_a_time(self):
        old, new = entry(), entry(instance=OTHER, name='db')
        self.put(dataclasses.replace(old, time=1.0), new)
        self.assertEqual(
            [new.id], [e.id for e in self.journal.entries(instance=OTHER)]
        )
        self.assertEqual(
            [new.id], [e.id for e in self.journal.entries(after=2.0)]
        )
        self.assertEqual(
            {(UUID, 'web1'), (OTHER, 'db')},
            {(g['uuid'], g['name']) for g in self.journal.guests()},
        )

    def test_windows_and_state(self):
        window = {'count': 3, 'samples': ['\udcff']}
        self.journal.commit(
            windows={'a': window, 'b': {}}, state={'position': '1', 'x': 'y'}
        )
        self.journal.commit(
            windows={'b': None, 'c': {}, 'gone': None},
            state={'position': '2', 'x': None},
        )
        again = self.reopened()
        self.assertEqual({'a': window, 'c': {}}, again.windows())
        self.assertEqual('2', again.state('position'))
        self.assertIsNone(again.state('x'))

    def test_all_of_a_commit_or_nothing(self):
        bad = dataclasses.replace(entry(), time=None)
        self.assertRaises(
            exceptions.JournalUnavailable,
            self.journal.commit,
            [entry(), bad],
            {'a': {}},
            {'position': '1'},
        )
        self.assertEqual([], self.journal.entries())
        self.assertEqual({}, self.journal.windows())
        self.assertIsNone(self.journal.state('position'))
        self.put(entry())

    def test_several_threads(self):
        def work(number):
            self.journal.commit([entry() for _ in range(5)], {}, {'k': 'v'})
            for _ in range(3):
                if (waiting := self.journal.next_unsent('')) is not None:
                    self.journal.mark_sent(
                        dict.fromkeys([waiting.seq], time.time())
                    )
            self.journal.expire(time.time())
            return len(self.journal.entries(limit=1000))

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(40)))
        self.assertEqual(200, len(self.journal.entries(limit=1000)))


class FileTest(JournalTestCase):
    def test_nothing_is_touched_before_it_is_used(self):
        self.assertFalse(os.path.exists(self.directory))
        self.assertEqual(0, self.journal.size())

    def test_only_owner_and_group_may_read_it(self):
        mask = os.umask(0o077)
        self.addCleanup(os.umask, mask)
        self.put(entry())
        for suffix in ('', '-wal', '-shm'):
            mode = os.stat(self.journal.path + suffix).st_mode
            self.assertEqual(0o640, stat.S_IMODE(mode), suffix)
        os.umask(mask)

    def test_odd_directories(self):
        self.directory += ' %20?mode=memory#ü'
        self.reopened()
        self.put(entry())
        self.assertTrue(os.path.exists(self.journal.path))

    def test_what_is_committed_is_synchronised_with_the_disk(self):
        self.journal.open()
        levels = []
        self.journal._write(
            lambda c: levels.append(
                c.execute('PRAGMA synchronous').fetchone()[0]
            )
        )
        self.journal.commit([entry()])
        # 2: FULL; in a WAL each commit waits for the disk
        self.assertEqual([2], levels)

    def test_a_newer_schema_is_refused_and_left_alone(self):
        self.put(entry())
        self.journal.close()
        with sqlite3.connect(self.journal.path) as connection:
            connection.execute('PRAGMA user_version = 99')
        connection.close()
        for call in (self.open().open, journal.Reader(self.directory).entries):
            error = self.assertRaises(exceptions.IncompatibleJournal, call)
            self.assertIn('version 99', error.message)
            self.assertIn(self.journal.path, error.message)
        self.assertNotIn('damaged', ' '.join(os.listdir(self.directory)))

    def test_an_older_schema_is_brought_to_ours(self):
        self.put(entry())
        self.journal.close()
        released = journal._MIGRATIONS
        self.addCleanup(setattr, journal, '_MIGRATIONS', released)
        journal._MIGRATIONS = (
            *released,
            ('ALTER TABLE events ADD COLUMN more TEXT',),
        )
        self.put(entry())
        self.assertEqual(2, len(self.journal.entries()))
        self.journal.close()
        with sqlite3.connect(self.journal.path) as connection:
            (version,) = connection.execute('PRAGMA user_version').fetchone()
            connection.execute('SELECT more FROM events')
        connection.close()
        self.assertEqual(len(released) + 1, version)

    def test_a_migration_that_fails_changes_nothing(self):
        self.put(entry())
        self.journal.close()
        released = journal._MIGRATIONS
        self.addCleanup(setattr, journal, '_MIGRATIONS', released)
        journal._MIGRATIONS = (*released, ('DROP TABLE windows', 'NONSENSE'))
        self.assertRaises(exceptions.JournalUnavailable, self.journal.open)
        journal._MIGRATIONS = released
        self.put(entry())
        self.assertEqual({}, self.journal.windows())

    def test_a_file_that_was_emptied(self):
        self.put(entry())
        self.journal.close()
        os.truncate(self.journal.path, 0)
        self.put(entry())
        (lost,) = self.lost()
        self.assertIn('emptied', lost['reason'])

    def test_the_first_journal_announces_nothing(self):
        self.put(entry())
        self.assertEqual([], self.lost())

    def test_a_directory_that_cannot_be_made(self):
        pathlib.Path(self.directory).touch()
        error = self.assertRaises(
            exceptions.JournalUnavailable, self.journal.commit, [entry()]
        )
        self.assertIn(self.journal.path, error.message)
        os.unlink(self.directory)
        self.put(entry())

    def test_another_process_that_keeps_it_locked(self):
        self.put(entry())
        self.addCleanup(setattr, journal, '_BUSY', journal._BUSY)
        journal._BUSY = 0.05
        self.reopened().open()
        other = sqlite3.connect(self.journal.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute('BEGIN IMMEDIATE')
        error = self.assertRaises(
            exceptions.JournalUnavailable, self.journal.commit, [entry()]
        )
        self.assertIn('locked', error.message)
        self.assertEqual(1, self.journal.depth())
        other.execute('ROLLBACK')
        self.assertEqual(1, self.journal.commit([entry()]))


class DamageTest(JournalTestCase):
    def damaged(self):
        return sorted(
            name
            for name in os.listdir(self.directory)
            if 'damaged' in name and not name.endswith('-wal')
        )

    def overwrite(self, where, count, what=b'\xa5'):
        with open(self.journal.path, 'r+b') as file:
            file.seek(where)
            file.write(what * count)

    def fill(self):
        self.put(*[entry(reason='r' * 2000) for _ in range(300)])
        self.journal.commit(windows={'w': {}}, state={'position': '1'})
        newest = self.journal.entries(newest=True, limit=1)[0].seq
        self.journal.close()
        return newest

    def assert_new(self, before):
        """A new journal was begun, the old one is kept, the loss told."""
        (aside,) = self.damaged()
        (lost,) = self.lost()
        self.assertEqual('journal', lost['stage'])
        self.assertIsNone(lost['count'])
        self.assertIn(os.path.join(self.directory, aside), lost['reason'])
        self.assertIn(lost['id'], [e.id for e in self.unsent()])
        # a reader's cursor goes on
        self.assertGreater(self.journal.entries()[0].seq, before)

    def test_a_file_that_is_no_database(self):
        before = self.fill()
        self.overwrite(0, 4096)
        (kept,) = self.put(entry())
        self.assertEqual(2, self.journal.depth())
        self.assert_new(before)
        self.assertIsNone(self.journal.state('position'))
        # it is told once
        self.reopened()
        self.assert_new(before)
        self.assertIsNotNone(self.journal.event(kept.id))

    def test_malformed_pages_are_found_when_it_is_opened(self):
        before = self.fill()
        size = os.path.getsize(self.journal.path)
        self.overwrite(size // 4, size // 2)
        self.reopened().open()
        self.assert_new(before)

    def test_malformed_pages_are_found_when_they_are_read(self):
        before = self.fill()
        self.journal.open()
        size = os.path.getsize(self.journal.path)
        self.overwrite(size // 4, size // 2)
        self.journal.entries(limit=1000)
        self.assert_new(before)
        self.put(entry())

    def test_malformed_pages_are_found_when_they_are_written(self):
        before = self.fill()
        self.journal.open()
        size = os.path.getsize(self.journal.path)
        self.overwrite(size // 4, size // 2)
        # the index of the ids is somewhere there
        for _ in range(100):
            self.journal.commit([entry() for _ in range(10)])
            if self.damaged():
                break
        self.assert_new(before)

    def test_a_bit_that_flips_inside_an_event(self):
        self.put(entry(reason='the needle'))
        newest = self.journal.entries()[0].seq
        self.journal.close()
        content = pathlib.Path(self.journal.path).read_bytes()
        # the end of a JSON string
        self.overwrite(content.index(b'the needle"') + 10, 1, b'\xff')
        self.assertEqual(1, len(self.unsent()))
        self.assert_new(newest)

    def test_a_truncated_file(self):
        before = self.fill()
        os.truncate(self.journal.path, 3 * 8192 + 17)
        self.journal.open()
        self.assert_new(before)

    def test_somebody_else_s_database(self):
        os.makedirs(self.directory)
        with sqlite3.connect(self.journal.path) as connection:
            connection.execute('CREATE TABLE events (precious)')
        connection.close()
        self.put(entry())
        self.assert_new(0)
        aside = os.path.join(self.directory, *self.damaged())
        with sqlite3.connect(aside) as connection:
            connection.execute('SELECT precious FROM events')
        connection.close()

    def test_what_is_only_in_the_log_of_a_damaged_one_is_kept_too(self):
        before = self.fill()
        self.put(entry(reason='only in the log'))
        # as after SIGKILL: the log is not brought into the file
        left = {
            path: pathlib.Path(path).read_bytes()
            for path in (self.journal.path, self.journal.path + '-wal')
        }
        self.journal.close()
        for path, content in left.items():
            pathlib.Path(path).write_bytes(content)
        size = os.path.getsize(self.journal.path)
        self.overwrite(size // 4, size // 2)
        self.put(entry())
        self.assert_new(before)
        (aside,) = self.damaged()
        # SQLite may have brought it into the file
        kept = b''.join(
            path.read_bytes()
            for path in pathlib.Path(self.directory).glob(f'{aside}*')
        )
        self.assertIn(b'only in the log', kept)

    def test_an_agent_that_dies_before_it_begins_the_new_one(self):
        before = self.fill()
        aside = f'{self.journal.path}.damaged-20261123T075459.000000Z'
        os.rename(self.journal.path, aside)
        self.put(entry())
        self.assert_new(before)

    def test_only_so_many_are_kept(self):
        for _ in range(5):
            self.put(entry())
            self.journal.close()
            self.overwrite(0, 100)
        self.put(entry())
        self.assertEqual(3, len(self.damaged()))

    def test_a_file_that_was_removed_while_it_was_written(self):
        before = self.put(entry())[0].seq
        with self.announcing():
            os.unlink(self.journal.path)
            self.put(entry())
        (lost,) = self.lost()
        self.assertIn('removed', lost['reason'])
        self.assertGreater(self.journal.entries()[0].seq, before)
        self.assertEqual(2, len(self.reopened().entries()))

    def test_who_reads_while_it_is_begun_takes_it_for_no_other_version(self):
        faults = []

        def read(reader):
            with contextlib.closing(reader):
                while True:
                    try:
                        reader.entries()
                    except exceptions.JournalUnavailable:
                        # not there yet
                        continue
                    except exceptions.IncompatibleJournal as e:
                        faults.append(e.message)
                    return

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            for number in range(60):
                directory = os.path.join(self.directory, str(number))
                for _ in range(3):
                    pool.submit(read, journal.Reader(directory))
                begun = journal.Journal(directory, 30, 16, HOST)
                with contextlib.closing(begun):
                    begun.open()
        self.assertEqual([], faults)

    def test_both_sides_find_the_damage_at_once(self):
        self.fill()
        self.journal.open()
        size = os.path.getsize(self.journal.path)
        self.overwrite(size // 4, size // 2)

        def work(number):
            try:
                self.journal.entries(limit=1000)
                self.journal.commit([entry()])
            except exceptions.JournalUnavailable:
                # between the one and the other
                self.journal.commit([entry()])

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        self.assertEqual(1, len(self.damaged()))
        self.assertEqual(9, self.journal.depth())


class RetentionTest(JournalTestCase):
    def setUp(self):
        super().setUp()
        self.journal = self.open(megabytes=2)

    def fill(self, count, at=None, size=1000, **kwargs):
        at = time.time() if at is None else at
        entries = [
            dataclasses.replace(entry(reason='r' * size, **kwargs), time=at)
            for _ in range(count)
        ]
        return self.put(*entries)

    def test_old_ones_go_when_they_are_confirmed(self):
        now = time.time()
        old = self.fill(2, now - 31 * DAY)
        young = self.fill(1, now - 29 * DAY)
        self.journal.mark_sent(
            dict.fromkeys([old[0].seq, young[0].seq], time.time())
        )
        expired = self.journal.expire(now)
        self.assertEqual(journal.Expired(1, 0), expired)
        left = [e.id for e in self.journal.entries()]
        self.assertEqual([old[1].id, young[0].id], left)

    def test_the_file_becomes_smaller(self):
        kept = self.fill(1000)
        self.journal.mark_sent(
            dict.fromkeys([e.seq for e in kept], time.time())
        )
        before = self.journal.size()
        self.journal.expire(time.time() + 31 * DAY)
        self.assertEqual([], self.journal.entries())
        self.reopened().open()
        self.assertLess(self.journal.size(), before / 4)

    def test_too_much_costs_the_oldest_confirmed_ones_first(self):
        oldest = self.fill(200)
        confirmed = self.fill(1000)
        self.journal.mark_sent(
            dict.fromkeys([e.seq for e in confirmed], time.time())
        )
        expired = self.journal.expire(time.time())
        self.assertEqual(0, expired.lost)
        self.assertGreater(expired.confirmed, 0)
        self.assertLess(expired.confirmed, 1000)
        self.assertEqual(200, self.journal.depth())
        left = self.journal.entries(limit=100_000)
        self.assertEqual(oldest[0].id, left[0].id)
        self.assertEqual(confirmed[-1].id, left[-1].id)
        self.assertEqual([], self.lost())

    def test_then_the_oldest_of_all_and_that_is_announced(self):
        kept = self.fill(1200)
        with self.announcing():
            expired = self.journal.expire(time.time())
        self.assertEqual(0, expired.confirmed)
        lost = self.lost()
        self.assertEqual(expired.lost, sum(e['count'] for e in lost))
        self.assertEqual({'retention'}, {e['stage'] for e in lost})
        self.assertIn('journal_megabytes', lost[0]['reason'])
        # in = out + announced
        waiting = self.unsent()
        self.assertEqual(1200, len(waiting) - len(lost) + expired.lost)
        self.assertEqual(kept[-1].id, waiting[-1 - len(lost)].id)
        self.assertEqual(journal.Expired(0, 0), self.journal.expire(0))

    def test_what_was_announced_and_is_lost_too_is_announced_again(self):
        now = model.now()
        entries = [
            model.Lost(HOST, 'queue', 7, now, now, 'r' * 1000)
            for _ in range(1200)
        ]
        self.put(*map(journal.Entry.of, entries))
        self.journal.expire(time.time())
        self.assertEqual(8400, sum(e['count'] for e in self.lost()))

    def test_a_flood_while_the_broker_is_away_keeps_to_the_limit(self):
        for _ in range(5):
            self.fill(800)
            self.journal.expire(time.time())
            pages = os.path.getsize(self.journal.path)
            self.assertLess(pages, 8 * 1024**2)
        gone = sum(e['count'] for e in self.lost())
        self.assertEqual(4000, gone + self.journal.depth() - len(self.lost()))


class ReaderTest(JournalTestCase):
    def setUp(self):
        super().setUp()
        self.reader = journal.Reader(self.directory)
        self.addCleanup(self.reader.close)

    def test_there_is_none(self):
        error = self.assertRaises(
            exceptions.JournalUnavailable, self.reader.entries
        )
        self.assertIn('[isolation] journal_directory', error.message)
        self.assertFalse(os.path.exists(self.directory))

    def test_it_reads_while_another_writes(self):
        self.put(entry())
        self.assertEqual(1, len(self.reader.entries()))
        self.put(entry())
        self.assertEqual(2, len(self.reader.entries()))

    def test_it_goes_on_in_a_new_journal(self):
        before = self.put(entry())[0].seq
        self.reader.entries()
        self.journal.close()
        os.unlink(self.journal.path)
        self.put(entry())
        self.assertEqual(1, len(self.reader.entries(before)))

    def test_it_neither_writes_nor_puts_aside(self):
        self.put(entry())
        self.journal.close()
        pathlib.Path(self.journal.path).write_bytes(b'x' * 9999)
        error = self.assertRaises(
            exceptions.JournalUnavailable, self.reader.entries
        )
        self.assertIn('damaged', error.message)
        self.assertEqual(9999, os.path.getsize(self.journal.path))
        self.assertNotIn('damaged', ' '.join(os.listdir(self.directory)))

    def read_as_nobody(self):
        if os.geteuid():
            self.skipTest('only root can become somebody else')
        directory = pathlib.Path(self.directory)
        for path in (directory, *directory.parents[:2]):
            os.chmod(path, 0o755)
        for name in os.listdir(self.directory):
            os.chown(os.path.join(self.directory, name), 0, 65534)
        root = pathlib.Path(journal.__file__).parents[2]
        script = (
            f'import os, sys; sys.path.insert(0, {str(root)!r})\n'
            'from nova_isolation.violations import journal\n'
            'os.setgroups([]); os.setgid(65534); os.setuid(65534)\n'
            f'reader = journal.Reader({self.directory!r})\n'
            'print(len(reader.entries()))'
        )
        return int(
            subprocess.run(
                [sys.executable, '-c', script],
                check=True,
                stdout=subprocess.PIPE,
                timeout=60,
            ).stdout
        )

    def test_a_member_of_the_group_reads_what_an_agent_writes(self):
        self.put(entry())
        self.assertEqual(1, self.read_as_nobody())

    def test_a_member_of_the_group_reads_when_no_agent_runs(self):
        self.put(entry())
        self.journal.close()
        self.assertEqual(1, self.read_as_nobody())
        self.assertEqual(['journal.sqlite'], os.listdir(self.directory))

    def test_a_frozen_view_sees_what_an_agent_begins_to_write(self):
        self.put(entry())
        self.journal.close()
        self.reader._reader, self.reader._frozen = (
            journal._connect(self.reader.path, 'frozen'),
            True,
        )
        self.reader._read_from = journal._identity(self.reader.path)
        self.assertEqual(1, len(self.reader.entries()))
        self.put(entry())
        self.assertEqual(2, len(self.reader.entries()))


_FLOOD = """
import sys
sys.path.insert(0, {root!r})
from nova_isolation.violations import journal, model
kept = journal.Journal({directory!r}, 30, 16, 'cmp1')
number = int(kept.state('position') or 0)
while True:
    batch = []
    for _ in range(7):
        number += 1
        batch.append(journal.Entry.of(model.Finding(
            'cmp1', model.Instance({uuid!r}), 'device kept', str(number))))
    window = {{'count': number}}
    kept.commit(batch, {{'w': window}}, {{'position': str(number)}})
    kept.mark_sent({{kept.next_unsent('').seq: 5.0}})
    print(number, flush=True)
"""


class KilledTest(JournalTestCase):
    def test_killed_at_any_moment_it_has_all_that_was_committed(self):
        script = _FLOOD.format(
            root=str(pathlib.Path(journal.__file__).parents[2]),
            directory=self.directory,
            uuid=UUID,
        )
        told = 0
        for _ in range(8):
            with subprocess.Popen(
                [sys.executable, '-c', script], stdout=subprocess.PIPE
            ) as agent:
                told = int(agent.stdout.readline())
                time.sleep(random.uniform(0, 0.05))
                agent.send_signal(signal.SIGKILL)
                told = int(([told, *agent.stdout.read().split()])[-1])
            number = int(self.journal.state('position'))
            self.assertGreaterEqual(number, told)
            # one transaction: all three say the same
            self.assertEqual(
                [str(n + 1) for n in range(number)],
                [
                    e.payload['reason']
                    for e in self.journal.entries(limit=10**6)
                ],
            )
            self.assertEqual({'w': {'count': number}}, self.journal.windows())
            self.journal.close()


_DISK = """
import errno, os, sqlite3, subprocess, sys
sys.path.insert(0, {root!r})
from nova_isolation import exceptions
from nova_isolation.violations import journal, model

def entry():
    return journal.Entry.of(model.Finding(
        'cmp1', model.Instance({uuid!r}), 'device kept', 'r' * 2000))

def remount(options):
    subprocess.run(['mount', '-o', 'remount,' + options, {directory!r}],
                   check=True)

kept = journal.Journal({directory!r}, 30, 16, 'cmp1')
stored = 0
try:
    while True:
        stored += kept.commit([entry() for _ in range(10)])
        assert stored < 100000
except exceptions.JournalUnavailable as e:
    assert 'disk is full' in e.message, e.message
assert kept.depth() == stored, (kept.depth(), stored)
try:
    kept.mark_sent({{kept.next_unsent('').seq: 5.0}})
except exceptions.JournalUnavailable:
    pass
remount('size=8m')
stored += kept.commit([entry()])
assert kept.depth() in (stored, stored - 1)
kept.close()
remount('ro')
try:
    kept.commit([entry()])
    raise AssertionError('written')
except exceptions.JournalUnavailable as e:
    assert 'ReadWritePaths=' + {directory!r} in e.message, e.message
try:
    journal.Journal({directory!r} + '/sub', 30, 16, 'cmp1').open()
    raise AssertionError('made')
except exceptions.JournalUnavailable as e:
    assert 'ReadWritePaths=' + {directory!r} + '/sub' in e.message, e.message
reader = journal.Reader({directory!r})
assert len(reader.entries(limit=10**6)) == stored
reader.close()
remount('rw')
stored += kept.commit([entry()])
assert len(kept.entries(limit=10**6)) == stored
assert sorted(os.listdir({directory!r})) == [
    'journal.sqlite', 'journal.sqlite-shm', 'journal.sqlite-wal']
print('all is well')
"""


class DiskTest(JournalTestCase):
    def test_a_full_and_a_read_only_disk(self):
        os.makedirs(self.directory)
        script = textwrap.dedent(_DISK).format(
            root=str(pathlib.Path(journal.__file__).parents[2]),
            directory=self.directory,
            uuid=UUID,
        )
        command = (
            f'mount -t tmpfs -o size=2m tmpfs "{self.directory}" || exit 77; '
            'exec "$0" -c "$1"'
        )
        ended = subprocess.run(
            [
                'unshare',
                '--mount',
                '--map-root-user',
                'sh',
                '-c',
                command,
                sys.executable,
                script,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if ended.returncode in (1, 77) and 'Traceback' not in ended.stderr:
            self.skipTest(f'no file system of its own: {ended.stderr}')
        self.assertEqual('all is well\n', ended.stdout, ended.stderr)
