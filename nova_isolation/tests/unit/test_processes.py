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

"""The guest's process is found without trusting its label."""

import os
import subprocess
import sys

import fixtures
from oslotest import base

from nova_isolation import exceptions
from nova_isolation import processes

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
OTHER = '8887d9d3-17f8-4388-8771-fab6312518d6'
NAME = 'instance-00000001'


class ProcessesTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.directory = self.useFixture(fixtures.TempDir()).path

    def start(self, *arguments):
        """Start what looks like QEMU to whoever reads its command line."""
        process = subprocess.Popen(
            [
                sys.executable,
                '-c',
                'import sys; print(flush=True); sys.stdin.read()',
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.addCleanup(process.communicate)
        process.stdout.readline()
        return process

    def write_pid(self, content):
        with open(f'{self.directory}/{NAME}.pid', 'w') as f:
            f.write(str(content))

    def find(self, uuid=UUID):
        return processes.find(self.directory, NAME, uuid)

    def assert_not_found(self, *words):
        error = self.assertRaises(exceptions.NotConfined, self.find)
        for word in words:
            self.assertIn(word, error.message)

    def test_a_guest(self):
        process = self.start('-name', 'guest=x', '-uuid', UUID, '-S')
        self.write_pid(f'{process.pid}\n')
        found = self.find()
        self.assertEqual(process.pid, found.pid)
        self.assertTrue(processes.is_same(found))

    def test_a_guest_that_ended(self):
        process = self.start('-uuid', UUID)
        self.write_pid(process.pid)
        found = self.find()
        process.communicate()
        self.assertFalse(processes.is_same(found))
        self.assert_not_found(NAME)

    def test_a_later_process_with_the_same_number_is_another(self):
        process = self.start('-uuid', UUID)
        self.write_pid(process.pid)
        found = self.find()
        later = processes.Process(found.pid, found.started + 1)
        self.assertFalse(processes.is_same(later))

    def test_another_guest_s_process(self):
        process = self.start('-uuid', OTHER)
        self.write_pid(process.pid)
        self.assert_not_found(str(process.pid), UUID)

    def test_a_uuid_that_stands_elsewhere_on_the_command_line(self):
        # a tenant's name for the guest, say
        for arguments in (
            ('-name', UUID),
            ('-name', f'x -uuid {UUID}'),
            (UUID, '-uuid', OTHER),
            (f'-uuid={UUID}',),
            ('-uuid', f'{UUID}x'),
            ('-uuid',),
        ):
            process = self.start(*arguments)
            self.write_pid(process.pid)
            self.assert_not_found('is not the QEMU of')

    def test_no_pid_file(self):
        self.assert_not_found(f'{self.directory}/{NAME}.pid')

    def test_a_pid_file_that_tells_nothing(self):
        for content in ('', 'x', '-1', '0', '1' * 40, f'{2**22 + 1}'):
            self.write_pid(content)
            self.assert_not_found()

    def test_a_process_whose_name_looks_like_its_state(self):
        directory = self.useFixture(fixtures.TempDir()).path
        program = os.path.join(directory, 'x) S 1 1 (')
        os.symlink('/bin/sleep', program)
        process = subprocess.Popen([program, '60'])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        # as long as it is not executed yet it has our name
        while os.readlink(f'/proc/{process.pid}/exe') == os.readlink(
            '/proc/self/exe'
        ):
            pass
        started = processes._started(process.pid)
        ours = processes._started(os.getpid())
        self.assertGreaterEqual(started, ours)
        self.assertTrue(
            processes.is_same(processes.Process(process.pid, started))
        )
