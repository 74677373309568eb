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

"""A guest that loses its label or mode on a real kernel is noticed in time.

Runs on the lab's machine: ``lab/lab run``.
"""

import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import time
import unittest

from nova_isolation.agent import verifier as agent_verifier
from nova_isolation.tests.system import following

UUID = '11111111-2222-4333-8444-777777777777'
NAME = 'instance-00000003'
PROFILE = f'libvirt-{UUID}'
POLICY = f'profile {PROFILE} {{ file, signal, unix, }}\n'
COMPLAINING = POLICY.replace('{', 'flags=(complain) {')
WAIT = """
import sys, threading
threading.Thread(target=sys.stdin.read).start()
print(flush=True)
"""
# What the promise allows, in seconds; the option's default for the interval.
LIMIT, INTERVAL = 10, 5


def parse(option, text=POLICY):
    subprocess.run(
        ['apparmor_parser', f'-{option}K'], input=text, text=True, check=True
    )


class VerifierTest(unittest.TestCase):
    def setUp(self):
        parse('r')
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.runtime = pathlib.Path(directory.name)
        self.events = queue.Queue()
        self.verifier = agent_verifier.Verifier(
            'cmp1',
            lambda: [(UUID, NAME, 3)],
            self.events.put,
            runtime_directory=directory.name,
            mode='enforce',
            interval=INTERVAL,
        )

    def start_guest(self, label=PROFILE, more=WAIT):
        """Start a process of two threads with the guest's command line."""
        process = subprocess.Popen(
            [
                'aa-exec',
                '-p',
                label,
                '--',
                sys.executable,
                '-c',
                more,
                '-uuid',
                UUID,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.addCleanup(process.communicate)
        process.stdout.readline()
        (self.runtime / f'{NAME}.pid').write_text(f'{process.pid}\n')
        return process

    def started(self):
        self.verifier.start()
        self.addCleanup(self.verifier.stop, 10)
        # the first look is over, and all was well
        end = time.monotonic() + LIMIT
        while self.verifier.status()['last'] is None:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        self.assertTrue(self.events.empty())

    def assert_noticed(self, found, *words, limit=LIMIT):
        event = self.events.get(timeout=limit)
        self.assertEqual(found, event.found)
        self.assertEqual(UUID, event.instance.uuid)
        for word in words:
            self.assertIn(word, event.reason)

    def test_a_profile_that_was_removed(self):
        process = self.start_guest()
        self.started()
        parse('R')
        self.assert_noticed('unconfined', 'was removed', 'hard')
        # that is no way out
        parse('a')
        answer = self.verifier.verify(UUID)
        self.assertEqual(process.pid, answer['pid'])
        self.assertIs(False, answer['confined'])
        self.assertEqual({'unconfined'}, set(answer['threads'].values()))
        self.assertEqual(2, len(answer['threads']))

    def test_complain_mode_and_back(self):
        self.start_guest()
        self.started()
        # as aa-complain does it, which the lab has not
        parse('r', COMPLAINING)
        self.assert_noticed(f'{PROFILE} (complain)', 'complain mode')
        parse('r')
        end = time.monotonic() + LIMIT
        while self.verifier.status()['unconfined']:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        self.assertIs(True, self.verifier.verify(UUID)['confined'])
        # a second time is told a second time
        parse('r', COMPLAINING)
        self.assert_noticed(f'{PROFILE} (complain)', 'complain mode')

    def test_a_teardown_of_all(self):
        self.start_guest()
        self.started()
        subprocess.run(['aa-teardown'], check=True)
        self.assert_noticed('unconfined', 'aa-teardown')

    def test_by_a_record_it_is_noticed_before_the_next_round(self):
        self.verifier._interval = 3600
        self.start_guest()
        self.started()
        with following.followed(self.verifier):
            parse('R')
            self.assert_noticed('unconfined', 'was removed', limit=60)

    def test_one_that_runs_under_another_label(self):
        parse('r', 'profile other-profile { file, signal, unix, }\n')
        self.start_guest('other-profile')
        self.verifier.look()
        self.assert_noticed('other-profile (enforce)', PROFILE, limit=0)

    def test_one_thread_alone(self):
        parse('r', POLICY.replace('{', '{ change_profile,'))
        parse('r', 'profile other-profile { file, signal, unix, }\n')
        self.start_guest(
            more='import threading, sys\n'
            'def leave():\n'
            '    with open("/proc/thread-self/attr/current", "w") as f:\n'
            '        f.write("changeprofile other-profile")\n'
            '    print(flush=True)\n'
            '    sys.stdin.read()\n'
            'threading.Thread(target=leave).start()\n'
        )
        self.verifier.look()
        self.assert_noticed('other-profile (enforce)', 'thread', limit=0)

    def test_policy_that_is_replaced_by_the_same_is_no_news(self):
        self.start_guest()
        self.started()
        with following.followed(self.verifier):
            for _ in range(5):
                parse('r')
                time.sleep(0.3)
        self.assertTrue(self.events.empty())
        self.assertIs(True, self.verifier.verify(UUID)['confined'])

    def test_guests_that_start_and_end_are_no_news(self):
        self.verifier._interval = 0.05
        self.started()
        for _ in range(5):
            process = self.start_guest()
            time.sleep(0.2)
            process.communicate()
            os.unlink(self.runtime / f'{NAME}.pid')
            time.sleep(0.1)
        self.assertTrue(self.events.empty())
