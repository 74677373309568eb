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

"""Runs a fuzzer that is guided by coverage, within a budget."""

import importlib.util
import os
import subprocess
import sys

import fixtures
import testtools


class CoverageGuided:
    """A test case that runs one; mixed into a test case with fixtures.

    :cvar fuzzer: module, a program with the arguments of libFuzzer
    :cvar runs: its budget
    """

    fuzzer: str
    runs = 2000

    @testtools.skipUnless(
        importlib.util.find_spec('atheris') is not None,
        'atheris has no wheel here',
    )
    def test_it_is_taken_or_refused(self):
        done = subprocess.run(
            [
                *(sys.executable, '-W', 'ignore', '-m', self.fuzzer),
                *(f'-runs={self.runs}', '-seed=1'),
                *('-max_len=256', '-timeout=20'),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.useFixture(fixtures.TempDir()).path,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
            timeout=300,
        )
        text = done.stdout.decode(errors='replace')
        self.assertEqual(0, done.returncode, text[-5000:])
        self.assertIn('DONE', text)
