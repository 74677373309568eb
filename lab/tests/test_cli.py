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

import contextlib
import io
import pathlib
import tempfile
import unittest
import unittest.mock

from host import cli
from host.errors import LabError
from host import paths
from host import run


class ArgumentsTest(unittest.TestCase):
    def parse(self, *words):
        return cli.parser().parse_args(words)

    def refused(self, *words):
        output = io.StringIO()
        with contextlib.redirect_stderr(output), self.assertRaises(SystemExit):
            self.parse(*words)
        return output.getvalue()

    def test_the_command_keeps_its_own_options(self):
        arguments = self.parse('run', '--', 'ls', '--all', '-l')
        self.assertEqual(['ls', '--all', '-l'], arguments.command)

    def test_what_a_run_is_without_options(self):
        arguments = self.parse('run', '--', 'true')
        self.assertEqual('trixie', arguments.image)
        self.assertEqual('apparmor', arguments.lsm)
        self.assertEqual('none', arguments.mode)
        self.assertEqual('isolation.LibvirtDriver', arguments.compute_driver)
        self.assertTrue(arguments.preload)

    def test_files_and_plugins_add_up(self):
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory).resolve() / 'a.conf'
            file.touch()
            options = ['--conf', str(file)] * 2 + ['--plugin', directory]
            arguments = self.parse('run', *options, '--', 'true')
        self.assertEqual([file, file], arguments.conf)
        self.assertEqual([file.parent], arguments.plugin)

    def test_a_file_that_is_not_there_is_named(self):
        message = self.refused('run', '--conf', '/nowhere', '--', 'true')
        self.assertIn('/nowhere: no such file', message)

    def test_a_run_without_a_command_is_refused(self):
        self.assertIn('CMD', self.refused('run'))

    def test_what_is_built_without_a_name_is_stable(self):
        for words, wanted in {
            (): ['bookworm', 'trixie'],
            ('sid',): ['sid'],
        }.items():
            with (
                unittest.mock.patch('sys.argv', ['lab', 'build', *words]),
                unittest.mock.patch.object(cli, 'as_root'),
                unittest.mock.patch.object(cli, 'build') as build,
            ):
                self.assertEqual(0, cli.main())
            build.assert_called_once_with(wanted)

    def test_an_unknown_image_is_refused(self):
        self.refused('run', '--image', 'sarge', '--', 'true')
        with self.assertRaisesRegex(LabError, 'sarge'):
            cli.build(['sarge'])


class AuditTest(unittest.TestCase):
    def arguments(self, *words):
        return cli.parser().parse_args(['run', *words, '--', 'true'])

    def test_a_mode_of_the_kernel_is_taken(self):
        for mode in ('normal', 'quiet_denied', 'quiet', 'noquiet', 'all'):
            arguments = self.arguments('--audit', mode)
            self.assertEqual(mode, arguments.audit)
            run.check_audit(arguments)

    def test_another_mode_is_refused(self):
        with (
            contextlib.redirect_stderr(io.StringIO()) as output,
            self.assertRaises(SystemExit),
        ):
            self.arguments('--audit', 'loud')
        self.assertIn('loud', output.getvalue())

    def test_without_apparmor_there_is_none(self):
        run.check_audit(self.arguments('--lsm', 'none'))
        with self.assertRaisesRegex(LabError, '--audit noquiet'):
            run.check_audit(
                self.arguments('--lsm', 'none', '--audit', 'noquiet')
            )

    def test_without_a_policy_there_are_no_guests_under_selinux(self):
        wanted = '--lsm', 'selinux', '--with', 'libvirt'
        run.check_policy(self.arguments(*wanted))
        run.check_policy(self.arguments('--lsm', 'selinux', '--image', 'sid'))
        with self.assertRaisesRegex(LabError, 'sid has no policy'):
            run.check_policy(self.arguments(*wanted, '--image', 'sid'))


class DriverTest(unittest.TestCase):
    def test_a_driver_that_no_plugin_brings_is_refused(self):
        arguments = cli.parser().parse_args(
            ['run', '--with', 'nova', '--', 'true']
        )
        nowhere = pathlib.Path('/nowhere')
        with (
            unittest.mock.patch.object(paths, 'CHECKOUT', nowhere),
            self.assertRaisesRegex(LabError, 'os_vif'),
        ):
            run.check_driver(arguments)

    def test_stock_nova_needs_no_plugin(self):
        driver = ['--compute-driver', 'libvirt.LibvirtDriver']
        run.check_driver(
            cli.parser().parse_args(
                ['run', '--with', 'nova', *driver, '--', 'true']
            )
        )
