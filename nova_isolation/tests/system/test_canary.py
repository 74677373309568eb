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

"""The canary on a real kernel: it is heard, and what silences it is named.

Runs on the lab's machine: ``lab/lab run``.
"""

import contextlib
import ctypes
import os
import pathlib
import pwd
import subprocess
import time
import unittest

from nova_isolation.agent import canary as agent_canary
from nova_isolation.audit import netlink
from nova_isolation.tests.system.attacks import audit

FILE = (
    pathlib.Path(__file__).parents[3]
    / 'etc'
    / 'apparmor.d'
    / agent_canary.PROFILE
)
PARAMETERS = pathlib.Path('/sys/module/apparmor/parameters')


def parse(*options):
    subprocess.run(['apparmor_parser', '-K', *options, FILE], check=True)


def unload():
    parse('-R')


@contextlib.contextmanager
def parameter(name, value):
    path = PARAMETERS / name
    before = path.read_text().strip()
    path.write_text(value)
    try:
        yield
    finally:
        path.write_text(before)


class CanaryTest(unittest.TestCase):
    def setUp(self):
        parse('-r')
        self.source = netlink.AuditSocket.open()
        self.addCleanup(self.source.close)
        self.lost = []
        self.canary = agent_canary.Canary(
            'cmp1', 3600, lambda reason, since: self.lost.append(reason)
        )

    def records(self):
        """Read what the kernel has recorded of canaries."""
        # the kernel's own thread hands them out, in their order
        end = f'canary-test-{time.monotonic_ns()}'
        audit.say(end)
        found = []
        while True:
            record = self.source.read(20)
            self.assertIsNotNone(record, 'the end does not come')
            if end.encode() in record[1]:
                return found
            if f'profile="{agent_canary.PROFILE}"'.encode() in record[1]:
                found.append(record[1])

    def assert_lost(self, *words):
        self.assertEqual(1, len(self.lost), self.lost)
        for word in words:
            self.assertIn(word, self.lost[0])

    def test_it_is_heard_once_and_leaves_the_agent_unconfined(self):
        token = self.canary.begin(time.monotonic())
        [record] = self.records()
        self.assertIn(b'apparmor="DENIED"', record)
        self.assertIn(f'comm="{token}"'.encode(), record)
        self.assertIsNotNone(self.canary.heard(token))
        self.assertEqual([], self.lost)
        for thread in os.listdir('/proc/self/task'):
            label = pathlib.Path(f'/proc/self/task/{thread}/attr/current')
            self.assertEqual('unconfined', label.read_text().strip('\n\0'))

    def test_it_needs_no_privilege(self):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                user = pwd.getpwnam('nobody')
                os.setgroups([])
                os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
                os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
                # PR_SET_NO_NEW_PRIVS, as the unit has it
                assert ctypes.CDLL(None).prctl(38, 1, 0, 0, 0) == 0
                agent_canary.attempt('canary-nobody')
                status = 0
            finally:
                os._exit(status)
        self.assertEqual(0, os.waitpid(pid, 0)[1])
        [record] = self.records()
        self.assertIn(b'comm="canary-nobody"', record)

    def test_without_its_profile_the_way_out_is_named(self):
        unload()
        self.canary.begin(time.monotonic())
        self.assertEqual([], self.records())
        self.assert_lost('is not loaded', 'apparmor_parser -r /etc/')

    def test_a_kernel_in_complain_mode_is_noticed(self):
        # a guest's label still says enforce
        with parameter('mode', 'complain'):
            self.canary.begin(time.monotonic())
        self.assert_lost('allowed', str(PARAMETERS / 'mode'))

    def test_a_kernel_that_denies_quietly_is_noticed(self):
        now = time.monotonic()
        with parameter('audit', 'quiet_denied'):
            self.canary.begin(now)
        self.assertEqual([], self.records())
        self.canary.check(now + 9)
        self.assertEqual([], self.lost)
        self.canary.check(now + 11)
        self.assert_lost('no audit record', str(PARAMETERS / 'audit'))

    def test_an_audit_rule_that_excludes_it_is_noticed(self):
        rule = ['always,exclude', '-F', 'msgtype=AVC']
        now = time.monotonic()
        subprocess.run(['auditctl', '-a', *rule], check=True)
        try:
            self.canary.begin(now)
        finally:
            subprocess.run(['auditctl', '-d', *rule], check=True)
        self.assertEqual([], self.records())
        self.canary.check(now + 11)
        self.assert_lost('no audit record', 'auditctl -l')

    def test_a_confined_agent_is_told_which_rule_it_lacks(self):
        text = 'profile confined-agent { file, }\n'
        subprocess.run(
            ['apparmor_parser', '-rK'], input=text, text=True, check=True
        )
        said, their_said = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                current = pathlib.Path('/proc/self/attr/current')
                current.write_text('changeprofile confined-agent')
                agent_canary.attempt('canary-confined')
            except agent_canary.Unheard as e:
                os.write(their_said, str(e).encode())
            finally:
                os._exit(0)
        os.close(their_said)
        os.waitpid(pid, 0)
        self.assertIn(b'change_profile -> nova-', os.read(said, 4096))
        os.close(said)
