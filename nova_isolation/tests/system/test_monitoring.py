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

"""Which agents may look at a guest's process.

Runs on the lab's machine: ``lab/lab run``.
"""

import os
import subprocess
import unittest

from nova_isolation.apparmor import policy as policy_module
from nova_isolation.tests.system.attacks import captured
from nova_isolation.tests.system.attacks import processes
from nova_isolation.tests.system.attacks import syscalls
from nova_isolation.tests.system import loading

AGENTS = ('named-agent', 'other-agent')
PROFILES = ''.join(
    f'profile {name} {{ file, capability, ptrace, signal, unix, }}\n'
    for name in AGENTS
)
POLICY = policy_module.Policy(
    uuid='11111111-2222-4333-8444-555555555555',
    name='instance-00000001',
    id=1,
    emulator='/usr/bin/qemu-system-x86_64',
    needs=(),
    files=(),
    consoles=False,
    ptys=(),
    complain=False,
    restoring=False,
)


class MonitoringTest(unittest.TestCase):
    def setUp(self):
        subprocess.run(
            ['apparmor_parser', '-rK'],
            input=PROFILES,
            text=True,
            check=True,
        )
        label = loading.load(policy_module.check(POLICY), ['named-agent'])
        self.guest = processes.stand_in(label)
        self.addCleanup(captured.end, self.guest)

    def tried(self, label, attempt):
        outcome = captured.run(
            attempt,
            lambda got, pid: got,
            name='agent',
            label=label,
            capabilities=('sys_ptrace',),
        )
        return 'done' if outcome.succeeded else outcome.error

    def read(self):
        """Read what needs the right to look into a process."""
        return bool(os.listdir(f'/proc/{self.guest}/fd')) and bool(
            os.readlink(f'/proc/{self.guest}/exe')
        )

    def attach(self):
        syscalls.call('ptrace', 0x4206, self.guest, 0, 0)  # PTRACE_SEIZE
        return True

    def test_an_agent_that_is_named_or_not_confined_reads(self):
        for label in (None, 'named-agent'):
            self.assertEqual('done', self.tried(label, self.read), label)

    def test_another_one_does_not(self):
        self.assertEqual('EACCES', self.tried('other-agent', self.read))

    def test_no_agent_with_a_profile_traces(self):
        for label in AGENTS:
            self.assertEqual('EACCES', self.tried(label, self.attach), label)
