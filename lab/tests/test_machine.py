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

import pathlib
import tempfile
import unittest

from host import guestfiles
from host import machine


class ConfigurationTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)

    def write(self, *, preload=True, conf=()):
        target = self.root / 'guest'
        guestfiles.write(
            target,
            job={'mode': 'nova', 'preload': 'yes'},
            plugins=[],
            conf=conf,
            compute_driver='libvirt.LibvirtDriver',
            preload=preload,
        )
        return target

    def test_given_files_come_last(self):
        extra = self.root / 'extra.conf'
        extra.write_text('[DEFAULT]\n')
        files = sorted(
            p.name for p in (self.write(conf=[extra]) / 'conf').iterdir()
        )
        self.assertEqual('50-extra.conf', files[-1])

    def test_a_helper_reads_all_files(self):
        target = self.write()
        own = (target / 'conf' / '30-run.conf').read_text()
        for file in (target / 'conf').iterdir():
            self.assertIn(f'--config-file /lab/conf/{file.name}', own)

    def test_without_preload_the_helper_is_the_ordinary_one(self):
        own = (self.write(preload=False) / 'conf' / '30-run.conf').read_text()
        self.assertIn(f'helper_command = sudo {guestfiles.HELPER} ', own)
        self.assertNotIn('warm', own)

    def test_the_job_is_what_a_shell_reads(self):
        job = (self.write() / 'job').read_text()
        self.assertEqual('mode=nova\npreload=yes\n', job)


class CommandLineTest(unittest.TestCase):
    def test_a_kernel_without_apparmor_is_told_so(self):
        with tempfile.TemporaryDirectory() as directory:
            linux = pathlib.Path(directory)
            (linux / 'arguments').write_text('seccomp=on\n')
            words = machine.command(
                linux,
                disk='cow,disk',
                lsm='none',
                mounts={'src': pathlib.Path('/checkout')},
                init_arguments={},
                directory=linux,
                cpu=1,
                tap='tap0',
            )
        self.assertIn('security=none', words)
        self.assertIn('seccomp=on', words)
        self.assertIn('lab_src=/checkout', words)
        self.assertEqual(['taskset', '--cpu-list', '1'], words[:3])
