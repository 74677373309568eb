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

"""SIGUSR2 tells what the agent does, and no secret."""

import os
import subprocess
import sys

import fixtures
from oslotest import base

# As the agent does it: installed before the fork, asked in the worker.
PROGRAM = """
import os, signal, sys, threading
from oslo_config import cfg
from nova_isolation.agent import meditation

conf = cfg.ConfigOpts()
conf.register_opts([cfg.StrOpt('shown'), cfg.StrOpt('kept', secret=True)])
conf(sys.argv[1:], project='none')
meditation.install(conf, 'agent', '1.2.3', lambda: {'queue': os.getpid()})
if os.fork():
    os.wait()
else:
    at = threading.Event()

    def read():
        at.set()
        signal.pause()

    threading.Thread(target=read, name='reader', daemon=True).start()
    at.wait()
    os.kill(os.getpid(), signal.SIGUSR2)
    print(os.getpid(), flush=True)
"""


class MeditationTest(base.BaseTestCase):
    def report(self, *lines):
        directory = self.useFixture(fixtures.TempDir())
        path = directory.join('agent.conf')
        with open(path, 'w') as f:
            f.write('\n'.join(['[DEFAULT]', 'shown = word', 'kept = 1q2w3e']))
            f.write('\n' + '\n'.join(lines))
        return subprocess.run(
            [sys.executable, '-c', PROGRAM, '--config-file', path],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    def test_the_report_of_a_worker(self):
        done = self.report()
        # also what another thread does
        for words in (
            '1.2.3',
            'self._target(',
            f'queue = {done.stdout.strip()}',
        ):
            self.assertIn(words, done.stderr)
        self.assertIn('shown = word', done.stderr)
        self.assertNotIn('1q2w3e', done.stderr)

    def test_into_a_directory(self):
        directory = self.useFixture(fixtures.TempDir()).path
        done = self.report('[oslo_reports]', f'log_dir = {directory}')
        [name] = os.listdir(directory)
        self.assertTrue(name.startswith('agent_gurumeditation_'), name)
        with open(os.path.join(directory, name)) as f:
            self.assertIn(f'queue = {done.stdout.strip()}', f.read())
