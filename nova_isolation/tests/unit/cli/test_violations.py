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

"""An operator sees what the journal has, and nothing that deceives."""

import argparse
import csv
import datetime
from importlib import metadata
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from unittest import mock

from oslo_config import cfg
from oslotest import base

from nova_isolation.cli import app
from nova_isolation.cli import violations
from nova_isolation import exceptions
from nova_isolation.violations import journal
from nova_isolation.violations import model

FIRST = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
SECOND = '8887d9d3-17f8-4388-8771-fab6312518d6'
THIRD = '0b2f6d0e-6a55-4c0b-8f53-5b0b1b1d2c33'
# Of what is started in the background a shell may have SIGINT ignored.
_PROGRAM = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from nova_isolation.cli import app, violations
program = app.Application()
program.command_manager.add_command('violations', violations.Violations)
sys.exit(program.run(sys.argv[1:]))
"""
TIME = datetime.datetime(2026, 11, 23, 7, 54, 59, tzinfo=datetime.UTC)


def violation(instance=FIRST, name='web1', count=1, time=TIME):
    return model.Violation(
        host='cmp1',
        decision='denied',
        instance=model.Instance(instance, name),
        denial=model.Denial(1, time, f'libvirt-{instance}'),
        target=model.Target('/etc/shadow', 'host file'),
        attempt='open',
        classification=model.Classification('host_file', 'high', 'why'),
        repeats=model.Repeats(count, time, time),
        time=time,
    )


class ViolationsTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = os.path.join(temporary.name, 'journal')
        self.conf = os.path.join(temporary.name, 'nova.conf')
        with open(self.conf, 'w', encoding='utf-8') as f:
            f.write(f'[isolation]\njournal_directory = {self.directory}\n')
        self.journal = journal.Journal(self.directory, 30, 16, 'cmp1')
        self.addCleanup(self.journal.close)

    def put(self, *events):
        self.journal.commit([journal.Entry.of(event) for event in events])

    def run_it(self, *arguments, status=0):
        """Run the program in this process.

        :param arguments: those of the command
        :param status: its exit status
        :returns: what it printed
        """
        program = app.Application()
        # not the process' own, which other tests use
        program.conf = cfg.ConfigOpts()
        # whatever of ours is installed in this environment
        program.command_manager.add_command(
            'violations', violations.Violations
        )
        program.stdout = io.StringIO()
        with mock.patch.object(program, 'configure_logging', lambda: None):
            ended = program.run(
                ['--config-file', self.conf, 'violations', *arguments]
            )
        self.assertEqual(status, ended, program.stdout.getvalue())
        return program.stdout.getvalue()

    def start(self, *arguments):
        """Run the program in its own process."""
        return subprocess.Popen(
            [
                sys.executable,
                '-c',
                _PROGRAM,
                '--config-file',
                self.conf,
                'violations',
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def rows(self, *arguments):
        return json.loads(self.run_it('-f', 'json', *arguments))


class ListTest(ViolationsTestCase):
    def test_for_people(self):
        event = violation(count=7)
        self.put(event)
        shown = ' '.join(self.run_it('--fit-width').split())
        for words in (
            '2026-11-23T07:54:59.000000Z',
            'high',
            'violation',
            FIRST,
            '7',
            'instance web1',
        ):
            self.assertIn(words, shown)
        self.assertNotIn('Payload', shown)

    def test_for_programs(self):
        event = violation()
        lost = model.Lost('cmp1', 'queue', 3, TIME, TIME, 'why', time=TIME)
        self.put(event, lost)
        self.journal.mark_sent(
            dict.fromkeys([self.journal.entries()[0].seq], time.time())
        )
        first, second = self.rows()
        self.assertEqual(event.payload(), first['Payload'])
        self.assertEqual(event.id, first['Id'])
        self.assertEqual(event.summary(), first['Summary'])
        self.assertTrue(first['Sent'].endswith('Z'))
        self.assertEqual(
            ('error', 'lost', '', None, None),
            tuple(
                second[column]
                for column in (
                    'Severity',
                    'Event',
                    'Instance',
                    'Repeats',
                    'Sent',
                )
            ),
        )
        (title, *told) = csv.reader(io.StringIO(self.run_it('-f', 'csv')))
        payload = json.loads(told[0][title.index('Payload')])
        self.assertEqual(event.payload(), payload)

    def test_nothing_yet(self):
        self.journal.open()
        self.assertEqual([], self.rows())

    def test_the_newest_at_the_end(self):
        events = [violation() for _ in range(5)]
        self.put(*events)
        ids = [row['Id'] for row in self.rows('--limit', '2')]
        self.assertEqual([events[3].id, events[4].id], ids)

    def test_of_one_guest(self):
        mine, other = violation(), violation(SECOND, 'db')
        self.put(mine, other)
        for wanted in (FIRST, FIRST.upper(), 'web1'):
            (row,) = self.rows('--instance', wanted)
            self.assertEqual(mine.id, row['Id'])

    def test_a_guest_whose_name_is_escaped(self):
        self.put(violation(name='a\\b\x1b'))
        self.assertEqual(1, len(self.rows('--instance', 'a\\b\x1b')))

    def test_a_name_that_is_not_one_guest_s(self):
        self.put(violation(), violation(SECOND, 'web1'))
        reader = journal.Reader(self.directory)
        self.addCleanup(reader.close)
        error = self.assertRaises(
            exceptions.InvalidDomain, violations.guest, reader, 'web1'
        )
        self.assertIn(FIRST, error.message)
        self.assertIn(SECOND, error.message)
        self.assertRaises(
            exceptions.InvalidDomain, violations.guest, reader, 'db'
        )
        # it had another name before
        self.put(violation(SECOND, 'db'))
        self.assertEqual(FIRST, violations.guest(reader, 'web1'))

    def test_since(self):
        now = model.now()
        old, new = violation(), violation(time=now)
        self.put(old, new)
        for words in ('1h', '2026-11-23T07:55'):
            ids = [row['Id'] for row in self.rows('--since', words)]
            self.assertEqual([new.id], ids)
        self.assertEqual(2, len(self.rows('--since', '2026-11-23')))

    def test_times(self):
        at = violations.since('2026-11-23T07:54:59')
        self.assertEqual(TIME.timestamp(), at)
        self.assertEqual(at, violations.since('2026-11-23T08:54:59+01:00'))
        self.assertEqual(at, violations.since('2026-11-23T07:54:59Z'))
        ago = time.time() - violations.since('2d')
        self.assertAlmostEqual(2 * 86400, ago, delta=60)
        for words in ('', 'yesterday', '5', '-1h', '1e9d', '٣h', '1h30m'):
            self.assertRaises(
                argparse.ArgumentTypeError, violations.since, words
            )

    def test_what_is_not_ours_reaches_no_terminal(self):
        # a journal that somebody else has written
        payload = {
            'id': THIRD,
            'summary': '\x1b[2J\nroot logged in',
            'classification': {'severity': '\u202e'},
            'instance': {'uuid': '\r'},
        }
        self.journal.commit(
            [journal.Entry.made('isolation.\x07', 'warn', payload, 1.0)]
        )
        for form in ('table', 'csv', 'value', 'json', 'yaml'):
            shown = self.run_it('-f', form)
            for character in '\x1b\x07\r\u202e':
                self.assertNotIn(character, shown, form)
            self.assertNotIn('\nroot', shown, form)
        for write in (violations.as_line, violations.as_json):
            self.assertTrue(write(self.journal.entries()[0]).isprintable())


class EntryPointTest(base.BaseTestCase):
    def test_the_program_has_the_command(self):
        root = pathlib.Path(violations.__file__).parents[2]
        project = tomllib.loads((root / 'pyproject.toml').read_text())
        points = project['project']['entry-points'][app.NAMESPACE]
        self.assertEqual(
            violations.Violations,
            metadata.EntryPoint('', points['violations'], '').load(),
        )


class ErrorTest(ViolationsTestCase):
    def run_program(self, *arguments):
        with self.start(*arguments) as program:
            stdout, stderr = program.communicate(timeout=60)
        return subprocess.CompletedProcess(
            program.args, program.returncode, stdout, stderr
        )

    def test_without_a_journal(self):
        for arguments in ((), ('--follow',)):
            ended = self.run_program(*arguments)
            self.assertEqual(1, ended.returncode)
            self.assertIn(self.directory, ended.stderr)
            self.assertIn('[isolation] journal_directory', ended.stderr)
            self.assertNotIn('Traceback', ended.stderr)
            self.assertEqual('', ended.stdout)

    def test_arguments_that_mean_nothing(self):
        for arguments in (
            ('--limit', '0'),
            ('--limit', 'x'),
            ('--since', 'x'),
        ):
            ended = self.run_program(*arguments)
            self.assertEqual(2, ended.returncode)
            self.assertIn(arguments[0], ended.stderr)

    def test_a_directory_that_is_no_path(self):
        with open(self.conf, 'w', encoding='utf-8') as f:
            f.write('[isolation]\njournal_directory = here\n')
        ended = self.run_program()
        self.assertEqual(1, ended.returncode)
        self.assertIn('journal_directory', ended.stderr)


class FollowTest(ViolationsTestCase):
    def follow(self, *arguments):
        program = self.start('--follow', *arguments)
        self.addCleanup(program.communicate)
        self.addCleanup(program.kill)
        # a test that hangs says less than one that fails
        watch = threading.Timer(60, program.kill)
        watch.start()
        self.addCleanup(watch.cancel)
        return program

    def test_line_by_line_as_they_come(self):
        first, second = violation(), violation(SECOND, 'db')
        self.put(violation(), first)
        program = self.follow('--limit', '1')
        line = program.stdout.readline()
        self.assertEqual(
            f'2026-11-23T07:54:59.000000Z high violation {first.summary()}\n',
            line,
        )
        self.put(second)
        self.assertIn(second.summary(), program.stdout.readline())

    def test_json_of_one_guest_also_in_a_new_journal(self):
        self.put(violation())
        program = self.follow('-f', 'json', '--instance', 'web1')
        self.assertEqual(
            FIRST, json.loads(program.stdout.readline())['Instance']
        )
        self.journal.close()
        os.unlink(self.journal.path)
        mine = violation()
        self.put(violation(SECOND, 'db'), mine)
        told = json.loads(program.stdout.readline())
        self.assertEqual(mine.payload(), told['Payload'])

    def test_it_ends_quietly(self):
        self.put(violation())
        program = self.follow()
        program.stdout.readline()
        program.send_signal(2)
        _, errors = program.communicate(timeout=30)
        self.assertEqual(130, program.returncode)
        self.assertNotIn('Traceback', errors)
