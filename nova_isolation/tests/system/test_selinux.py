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

"""Guests under sVirt, on a kernel that enforces Debian's policy of SELinux.

Runs on the lab's machine: ``lab/lab run --lsm selinux --with libvirt``. The
labels are libvirt's; nova-isolation reports, and proves nothing.
"""

import pathlib
import shutil
import subprocess
import time

from nova_isolation.agent import canary
from nova_isolation.agent import verifier
from nova_isolation import selinux
from nova_isolation.tests.system import local

ONE = '11111111-2222-4333-8444-777777777771'
TWO = '11111111-2222-4333-8444-777777777772'
# What a captured QEMU would be: a program that sVirt lets a guest execute.
PROGRAM = '/usr/local/bin/busybox'
# Debian's domain of a service for which the policy has no other.
SERVICE = 'system_u:system_r:initrc_t:s0'
# The default of [isolation] verify_interval.
INTERVAL = 5


def context_of(uuid):
    """Read the context that libvirt gave a guest's process."""
    qemu = f'^/usr/bin/qemu-system-x86_64 .*-uuid {uuid}'
    pid = local.run('pgrep', '-f', qemu).strip()
    return pathlib.Path(f'/proc/{pid}/attr/current').read_text().strip('\0\n')


def attack(uuid, path):
    """Have a guest read something; tell whether it could."""
    done = subprocess.run(
        ['runcon', context_of(uuid), PROGRAM, 'cat', path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return done.returncode == 0


def agent(verb):
    command = f'lab-service {verb} nova-isolation-agent'
    local.run('runcon', SERVICE, 'sh', '-c', command)


def enforce(value):
    pathlib.Path(selinux.ENFORCE).write_text(value)


class SvirtTest(local.JournalTestCase):
    @classmethod
    def setUpClass(cls):
        enforce('1')
        for number, uuid in enumerate((ONE, TWO), 1):
            local.start_guest(number, uuid)
            cls.addClassCleanup(local.run, 'virsh', 'destroy', uuid)
        shutil.copy(shutil.which('busybox'), PROGRAM)
        local.run('chcon', '-t', 'qemu_exec_t', PROGRAM)
        agent('start')
        cls.addClassCleanup(agent, 'stop')

    def test_a_neighbours_disk(self):
        self.wait_for('isolation.agent.start')
        self.assertTrue(attack(ONE, local.disk_of(ONE)))
        self.assertFalse(attack(ONE, local.disk_of(TWO)))
        # SELinux says no more of a file that is opened
        event = self.wait_for_denial('disk')
        self.assertEqual(str(local.disk_of(TWO)), event['target']['path'])
        self.assertEqual(ONE, event['instance']['uuid'])
        self.assertEqual('vm1', event['instance']['name'])
        self.assertEqual('acme', event['instance']['project_name'])
        self.assertEqual(TWO, event['target']['owner']['uuid'])
        self.assertEqual('cross_instance', event['classification']['category'])
        self.assertEqual('denied', event['decision'])
        self.assertEqual('selinux', event['denial']['module'])
        self.assertEqual(context_of(ONE), event['denial']['profile'])

    def test_what_is_denied_while_there_is_no_agent(self):
        self.wait_for('isolation.agent.start')
        agent('stop')
        self.assertFalse(attack(TWO, '/etc/shadow'))
        agent('start')
        event = self.wait_for_denial('shadow')
        self.assertEqual(TWO, event['instance']['uuid'])
        self.assertEqual('host_file', event['classification']['category'])

    def test_the_canary_arrives(self):
        self.wait_for('isolation.agent.canary')
        stages = [e['stage'] for e in self.events('isolation.lost')]
        self.assertNotIn('canary', stages)

    def test_the_canary_says_when_nothing_is_denied(self):
        # the domain of this test is permissive
        with self.assertRaisesRegex(canary.Unheard, 'permissive'):
            canary.attempt('canary-test')

    def test_setenforce_0_is_noticed_at_once_and_so_is_1(self):
        for uuid in (ONE, TWO):
            context = context_of(uuid)
            self.assertIn('svirt_t', context)
            self.assertIsNone(verifier.judge(uuid, [context], enforcing=True))
        self.wait_for('isolation.agent.canary')
        # until the verifier has looked at them again
        time.sleep(INTERVAL + 1)
        self.assertEqual([], self.events('isolation.unconfined'))
        self.addCleanup(enforce, '1')
        for _ in range(2):
            self.since = self.entries()[-1].seq
            begun = time.monotonic()
            enforce('0')
            for uuid in (ONE, TWO):
                event = self.wait_for(
                    'isolation.unconfined',
                    lambda e, uuid=uuid: e['instance']['uuid'] == uuid,
                )
                self.assertIn('permissive', event['found'])
                self.assertIn('setenforce 1', event['reason'])
            # the promise is 10 seconds, of a machine that has nothing else
            self.assertLess(time.monotonic() - begun, 20)
            enforce('1')
            # who is well again, is told of again
            time.sleep(INTERVAL + 1)
