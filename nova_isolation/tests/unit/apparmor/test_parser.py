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

"""The parser's answer is its own; what it cannot do is told apart."""

import os
from unittest import mock

import fixtures
from oslotest import base

from nova_isolation.apparmor import parser
from nova_isolation.apparmor import rules
from nova_isolation import exceptions

REAL = '/usr/sbin/apparmor_parser'


class ParserTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.directory = self.useFixture(fixtures.TempDir()).path
        self.profile = self._write('profile', 'profile p {\n  /x r,\n}\n')

    def _write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, 'w') as f:
            f.write(text)
        return path

    def _program(self, text, timeout=60):
        path = self._write('parser', f'#!/bin/sh\n{text}\n')
        os.chmod(path, 0o755)
        return parser.Parser(path, timeout)

    def test_it_compiles(self):
        compiled = parser.Parser(REAL, 30).compile(self.profile)
        self.assertIn(b'profile', compiled)
        # the same each time: what the kernel holds is compared with it
        again = parser.Parser(REAL, 30).compile(self.profile)
        self.assertEqual(compiled, again)

    def test_what_it_understands_is_found_by_asking(self):
        found = parser.Parser(REAL, 30).find_dialect()
        for known, line in (
            (
                found.network_operations,
                'profile p { network (bind, listen) inet stream, }',
            ),
            (
                found.disconnected_path,
                'profile p flags=(attach_disconnected.path=/y) { }',
            ),
        ):
            self._write('profile', f'{line}\n')
            compiles = True
            try:
                parser.Parser(REAL, 30).compile(self.profile)
            except exceptions.ProfileRejected:
                compiles = False
            self.assertEqual(compiles, known, line)

    def test_of_a_parser_that_takes_all_the_most_is_believed(self):
        self.assertEqual(
            rules.Dialect(network_operations=True, disconnected_path=True),
            self._program('exit 0').find_dialect(),
        )

    def test_a_word_that_is_refused_is_not_used(self):
        script = 'read -r line; case $line in *path*) exit 1; esac'
        self.assertEqual(
            rules.Dialect(network_operations=True),
            self._program(script).find_dialect(),
        )

    def test_what_is_not_answered_is_not_taken_for_a_no(self):
        hangs = self._program('exec sleep 60', timeout=1)
        with mock.patch.object(parser.Parser, 'check'):
            self.assertRaises(exceptions.ParserHangs, hangs.find_dialect)
        self.assertRaises(
            exceptions.HostFault, self._program('exit 1').find_dialect
        )

    def test_a_profile_that_does_not_compile_is_the_guest_s_fault(self):
        self._write('profile', 'profile p {\n  /x rubbish,\n}\n')
        error = self.assertRaises(
            exceptions.ProfileRejected,
            parser.Parser(REAL, 30).compile,
            self.profile,
        )
        self.assertIn(self.profile, error.message)
        self.assertIn('syntax error', error.message)
        self.assertNotIn('\n', error.message)

    def test_a_parser_that_is_not_there_is_the_host_s_fault(self):
        error = self.assertRaises(
            exceptions.HostFault,
            parser.Parser('/nonexistent', 30).compile,
            self.profile,
        )
        self.assertIn('/nonexistent', error.message)
        self.assertIn('No such file', error.message)
        self.assertIn('apparmor_parser', error.message)

    def test_a_parser_that_compiles_nothing_is_the_host_s_fault(self):
        error = self.assertRaises(
            exceptions.HostFault,
            self._program('echo broken >&2; exit 3').check,
        )
        self.assertIn('ended with 3: broken', error.message)

    def test_a_parser_that_hangs_is_given_up(self):
        error = self.assertRaises(
            exceptions.ProfileRejected,
            self._program('exec sleep 60', timeout=1).compile,
            self.profile,
        )
        self.assertIn('did not end within 1 s', error.message)
        self.assertIn('parser_timeout', error.message)

    def test_a_flood_of_messages_is_cut(self):
        error = self.assertRaises(
            exceptions.ProfileRejected,
            self._program('yes message | head -c 100000 >&2; exit 1').compile,
            self.profile,
        )
        self.assertLess(len(error.message), 1000)

    def test_a_parser_without_a_word(self):
        error = self.assertRaises(
            exceptions.ProfileRejected,
            self._program('exit 1').compile,
            self.profile,
        )
        self.assertIn('without a message', error.message)

    def test_it_inherits_nothing_of_ours(self):
        self.useFixture(fixtures.EnvironmentVariable('LD_PRELOAD', ''))
        self.useFixture(fixtures.EnvironmentVariable('SECRET', 'x'))
        output = self._program('env').compile(self.profile).decode()
        names = {line.partition('=')[0] for line in output.splitlines()}
        self.assertEqual({'PATH', 'LC_ALL', 'PWD'}, names | {'PWD'})
