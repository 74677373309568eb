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

"""SELinux' mode, on a kernel that has it.

Runs on the lab's machine: ``lab/lab run --lsm selinux``. There is no policy,
so nobody has a context of its own; what is shown is where the mode is read and
that a change of it is heard.
"""

import os
import pathlib
import queue
import subprocess
import tempfile
import time
import unittest

from nova_isolation.agent import verifier as agent_verifier
from nova_isolation.tests.system import following

UUID = '11111111-2222-4333-8444-777777777777'
NAME = 'instance-00000003'
SELINUX = '/sys/fs/selinux'
LIMIT = 10


def setenforce(value):
    pathlib.Path(SELINUX, 'enforce').write_text(value)


class ModeTest(unittest.TestCase):
    def setUp(self):
        if not os.path.ismount(SELINUX):
            subprocess.run(
                ['mount', '-t', 'selinuxfs', 'selinuxfs', SELINUX], check=True
            )
        setenforce('1')
        self.addCleanup(setenforce, '0')
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        guest = subprocess.Popen(
            ['sh', '-c', 'read line', '-uuid', UUID], stdin=subprocess.PIPE
        )
        self.addCleanup(guest.communicate)
        pathlib.Path(directory.name, f'{NAME}.pid').write_text(f'{guest.pid}')
        self.events = queue.Queue()
        self.verifier = agent_verifier.Verifier(
            'cmp1',
            lambda: [(UUID, NAME, 3)],
            self.events.put,
            runtime_directory=directory.name,
            mode='enforce',
            interval=3600,
        )
        self.addCleanup(self.verifier.stop, LIMIT)

    def test_setenforce_0_is_noticed_at_once_and_so_is_1(self):
        self.enterContext(following.followed(self.verifier))
        self.verifier.start()
        # this kernel has no policy: no context is right
        before = self.events.get(timeout=LIMIT)
        self.assertIn('svirt_t', before.expected)
        self.assertNotIn('permissive', before.found)
        begun = time.monotonic()
        setenforce('0')
        permissive = self.events.get(timeout=LIMIT)
        self.assertLess(time.monotonic() - begun, LIMIT)
        self.assertEqual(UUID, permissive.instance.uuid)
        self.assertIn('permissive', permissive.found)
        self.assertIn('setenforce 1', permissive.reason)
        setenforce('1')
        self.assertEqual(before.found, self.events.get(timeout=LIMIT).found)
