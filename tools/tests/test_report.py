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

import json
import pathlib
import tempfile
import unittest

from tools.runner import report

NONE = report.AllowedSkips('')


def result(status, test='a.b.c', detail=''):
    return report.Result('', test, status, detail)


class TestJudge(unittest.TestCase):
    def test_all_passed(self):
        tier = report.judge('unit', 1.26, [result(report.PASSED)], NONE)
        self.assertTrue(tier.ok)
        self.assertEqual(
            {
                'name': 'unit',
                'run': 1,
                'passed': 1,
                'failed': 0,
                'skipped': 0,
                'seconds': 1.3,
            },
            tier.as_json(),
        )

    def test_a_skip_is_a_failure_and_tells_its_reason(self):
        results = [
            result(report.PASSED),
            result(report.SKIPPED, detail='no kernel'),
        ]
        tier = report.judge('unit', 1, results, NONE)
        self.assertFalse(tier.ok)
        self.assertIn('no kernel', tier.failures[0].detail)
        self.assertEqual(0, tier.count(report.SKIPPED))

    def test_an_allowed_skip_is_none(self):
        allowed = report.AllowedSkips('# comment\n\na.*.c  not here\n')
        results = [result(report.PASSED), result(report.SKIPPED)]
        tier = report.judge('unit', 1, results, allowed)
        self.assertTrue(tier.ok)
        self.assertEqual(1, tier.count(report.SKIPPED))

    def test_an_empty_tier_fails(self):
        tier = report.judge('unit', 1, [], NONE)
        self.assertFalse(tier.ok)
        self.assertEqual('unit: no test was run', tier.failures[0].test)

    def test_a_tier_of_allowed_skips_alone_fails(self):
        allowed = report.AllowedSkips('* whatever')
        tier = report.judge('unit', 1, [result(report.SKIPPED)], allowed)
        self.assertFalse(tier.ok)


class TestAllowedSkips(unittest.TestCase):
    def test_the_reason_is_required(self):
        self.assertRaises(ValueError, report.AllowedSkips, 'a.b.c \n')

    def test_a_dot_is_a_dot(self):
        self.assertNotIn('aXb', report.AllowedSkips('a.b why'))

    def test_the_whole_id_is_compared(self):
        self.assertNotIn('a.b.c', report.AllowedSkips('a.b why'))

    def test_parameters_in_brackets_are_literal(self):
        self.assertIn('a(b)[c]', report.AllowedSkips('a(b)[c] why'))


class TestOutput(unittest.TestCase):
    def setUp(self):
        good = report.judge('unit', 2, [result(report.PASSED)], NONE)
        bad = report.judge(
            'style', 75.4, [result(report.FAILED, detail='Traceback')], NONE
        )
        self.tiers = [good, bad]

    def test_the_table(self):
        self.assertEqual(
            'tier   tests run  passed  failed  skipped  seconds\n'
            '-----  ---------  ------  ------  -------  -------\n'
            'unit           1       1       0        0        2\n'
            'style          1       0       1        0       75',
            report.table(self.tiers),
        )

    def test_the_last_line(self):
        self.assertEqual('1 passed, 1 failed', report.totals(self.tiers))

    def test_failures_show_id_and_traceback(self):
        text = report.failures_text(self.tiers)
        self.assertIn('FAILED style a.b.c', text)
        self.assertIn('Traceback', text)

    def test_the_report(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, 'test-report.json')
            report.write_json(self.tiers, path)
            content = json.loads(path.read_text())
            self.assertEqual([path], list(path.parent.iterdir()))
        self.assertFalse(content['ok'])
        self.assertEqual(
            ['unit', 'style'], [t['name'] for t in content['tiers']]
        )

    def test_no_tier_is_not_ok(self):
        self.assertFalse(report.ok([]))
