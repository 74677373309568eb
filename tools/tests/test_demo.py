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


import contextlib
import io
import json
import pathlib
import sys
import tempfile
import time
import unittest
from unittest import mock

# beside the lab it comes from the lab's own programs
sys.path.append(str(pathlib.Path(__file__).parents[2] / 'lab' / 'bin'))

from tools import demo


BEFORE = {'name': 'before', 'ok': True, 'seconds': 2, 'evidence': 'x'}


class Job:
    """A main job of which a step may fail."""

    def __init__(self, failing=None):
        self.failing = failing
        self.closed = False

    def steps(self):
        for number in range(3):
            yield f'step {number}', lambda number=number: self.step(number)

    def step(self, number):
        if number == self.failing:
            raise AssertionError('nobody was denied')
        return f'evidence {number}'

    def close(self):
        self.closed = True


class DemoTest(unittest.TestCase):
    def tell(self, job):
        with tempfile.TemporaryDirectory() as place:
            report, steps = (pathlib.Path(place, n) for n in ('r', 's'))
            steps.write_text(json.dumps(BEFORE) + '\n')
            with (
                mock.patch.object(demo.main_job, 'MainJob', lambda: job),
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                status = demo.main([str(report), str(steps), str(time.time())])
            self.assertTrue(job.closed)
            return status, json.loads(report.read_text())

    def test_every_step_is_observed(self):
        status, report = self.tell(Job())
        self.assertEqual(0, status)
        self.assertTrue(report['ok'])
        self.assertEqual({'ok', 'seconds', 'steps'}, set(report))
        self.assertEqual(BEFORE, report['steps'][0])
        for number, step in enumerate(report['steps'][1:]):
            self.assertEqual(f'step {number}', step['name'])
            self.assertEqual(f'evidence {number}', step['evidence'])
            self.assertTrue(step['ok'])

    def test_a_step_that_is_not_observed_is_the_last(self):
        status, report = self.tell(Job(failing=1))
        self.assertEqual(1, status)
        self.assertFalse(report['ok'])
        self.assertEqual(
            [True, True, False], [s['ok'] for s in report['steps']]
        )
        self.assertIn('nobody was denied', report['steps'][-1]['evidence'])
