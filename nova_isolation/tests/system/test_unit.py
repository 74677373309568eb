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

"""The agent as its unit runs it: nothing that it does breaks in the sandbox.

Runs on the lab's machine: ``lab/lab run --systemd --with libvirt``. There is
no broker: what is reported is in the journal.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

from nova_isolation.tests.system import local


ETC = pathlib.Path(__file__).parents[3] / 'etc'
UNIT = 'nova-isolation-agent.service'
UNITS = pathlib.Path('/run/systemd/system')
CANARY = 'nova-isolation-canary'
UUID = '11111111-2222-4333-8444-777777777771'
PROFILE = f'libvirt-{UUID}'
DISK = local.disk_of(UUID)
# Takes the guest's profile and tries to open something; 0: it was denied.
ATTEMPT = """
import os, sys
with open('/proc/self/attr/apparmor/current', 'w') as f:
    f.write(f'changeprofile {sys.argv[1]}')
try:
    os.open(sys.argv[2], os.O_RDONLY)
except PermissionError:
    os._exit(0)
os._exit(1)
"""
# CAP_AUDIT_READ and CAP_SYSLOG
CAPABILITIES = 1 << 37 | 1 << 34
# seccomp(2) with a filter
FILTERED = '2'


def attempt(path):
    """Have the guest denied something."""
    local.run(sys.executable, '-c', ATTEMPT, PROFILE, path)


def load(rules, mode='enforce'):
    """Give the guest another policy."""
    policy = f'profile {PROFILE} flags=({mode}) {{ {rules} }}'
    local.run('apparmor_parser', '-rK', input=policy)


def shown(name):
    return local.run('systemctl', 'show', '-p', name, '--value', UNIT).strip()


def children(pid):
    done = subprocess.run(
        ['pgrep', '-P', pid], stdout=subprocess.PIPE, text=True
    )
    return [int(child) for child in done.stdout.split()]


def status_of(pid):
    lines = pathlib.Path(f'/proc/{pid}/status').read_text().splitlines()
    return {
        key: value.strip()
        for key, _, value in (line.partition(':') for line in lines)
    }


def agents_log():
    lines = local.run(
        'journalctl', '-u', UNIT, '-b', '--no-pager'
    ).splitlines()
    # there is no broker
    return '\n'.join(line for line in lines if 'impl_rabbit' not in line)


class UnitTest(local.JournalTestCase):
    @classmethod
    def setUpClass(cls):
        # as doc/source/install.rst says
        shutil.copy(ETC / 'systemd' / UNIT, UNITS)
        local.run('apparmor_parser', '-rK', ETC / 'apparmor.d' / CANARY)
        os.symlink(
            '/lab/bin/nova-isolation-agent', '/usr/bin/nova-isolation-agent'
        )
        conf = shutil.copytree('/lab/conf', '/etc/nova/nova.conf.d')
        # the lab's is shorter than an agent takes whose broker is away
        pathlib.Path(conf, '99.conf').write_text(
            '[DEFAULT]\ngraceful_shutdown_timeout = 15\n'
        )
        local.start_guest(1, UUID)
        cls.addClassCleanup(local.run, 'virsh', 'destroy', UUID)
        cls.addClassCleanup(load, 'file, signal, unix, capability,')
        local.run('systemctl', 'daemon-reload')

    def setUp(self):
        super().setUp()
        load('')
        # waits for READY=1
        local.run('systemctl', 'start', UNIT)
        self.addCleanup(local.run, 'systemctl', 'stop', UNIT)
        self.since = max(
            (
                e.seq
                for e in self.entries()
                if e.event_type == 'isolation.agent.stop'
            ),
            default=0,
        )

    def explain(self):
        return agents_log()

    def worker(self):
        (pid,) = self.wait_until(
            'a worker', lambda: children(shown('MainPID'))
        )
        return pid

    def test_it_reports_whose_guest_it_was(self):
        attempt('/etc/shadow')
        event = self.wait_for_denial('/etc/shadow')
        self.assertEqual('vm1', event['instance']['name'])

    def test_the_canary_arrives(self):
        self.wait_for('isolation.agent.canary')

    def test_it_sees_the_labels_of_guests(self):
        self.wait_for('isolation.agent.start')
        load('', 'complain')
        event = self.wait_for('isolation.unconfined')
        self.assertEqual(f'{PROFILE} (complain)', event['found'])

    def test_it_reads_the_past_and_asks_the_kernel(self):
        self.wait_for('isolation.agent.start')
        load('')
        local.run('systemctl', 'stop', UNIT)
        attempt(str(DISK))
        load('/** rwk,')
        local.run('systemctl', 'start', UNIT)
        event = self.wait_for_denial(str(DISK))
        self.assertIn(
            'which its profile grants', event['classification']['reason']
        )

    def test_it_has_the_least_privilege(self):
        worker = self.worker()
        for pid in (int(shown('MainPID')), worker):
            status = status_of(pid)
            self.assertNotIn('0', status['Uid'].split())
            for kind in ('CapPrm', 'CapEff', 'CapBnd', 'CapAmb'):
                self.assertEqual(CAPABILITIES, int(status[kind], 16), kind)
            self.assertEqual('1', status['NoNewPrivs'])
            self.assertEqual(FILTERED, status['Seccomp'])

    def test_a_reload_replaces_the_worker_and_nothing_is_lost(self):
        main, worker = shown('MainPID'), self.worker()
        local.run('systemctl', 'reload', UNIT)
        attempt('/etc/gshadow')
        self.wait_until('a new worker', lambda: self.worker() != worker)
        self.assertEqual(main, shown('MainPID'))
        self.wait_for_denial('/etc/gshadow')

    def test_it_stops_in_time_and_says_so(self):
        self.wait_for('isolation.agent.start')
        local.run('systemctl', 'stop', UNIT)
        self.assertEqual('success', shown('Result'))
        # setUp() looks from there on
        newest = self.journal.entries(limit=1, newest=True)
        self.assertEqual('isolation.agent.stop', newest[0].event_type)

    def test_it_writes_a_report(self):
        self.worker()
        local.run('systemctl', 'kill', '--signal=USR2', UNIT)
        self.wait_until(
            'a report',
            lambda: 'Guru Meditation' in agents_log(),
        )

    def test_one_that_is_stuck_is_started_anew(self):
        more = UNITS / f'{UNIT}.d' / 'quick.conf'
        more.parent.mkdir()
        self.addCleanup(local.run, 'systemctl', 'daemon-reload')
        self.addCleanup(shutil.rmtree, more.parent)
        more.write_text('[Service]\nWatchdogSec=5\nTimeoutAbortSec=1\n')
        local.run('systemctl', 'daemon-reload')
        local.run('systemctl', 'restart', UNIT)
        before = shown('MainPID')
        os.kill(self.worker(), signal.SIGSTOP)
        self.wait_until(
            'another one',
            lambda: (
                shown('MainPID') not in (before, '0')
                and shown('ActiveState') == 'active'
            ),
        )
        attempt('/etc/passwd-')
        self.wait_for_denial('/etc/passwd-')

    def test_nothing_of_it_is_refused(self):
        """A sandbox that is too tight says so in the agent's log."""
        self.wait_for('isolation.agent.canary')
        attempt('/etc/shadow-')
        self.wait_for_denial('/etc/shadow-')
        said = [
            line
            for line in agents_log().splitlines()
            if ' WARNING ' in line or ' ERROR ' in line
        ]
        for refused in ('Permission denied', 'Read-only file system'):
            self.assertEqual([], [line for line in said if refused in line])
