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

import ast
import pathlib

from oslotest import base

from nova_isolation.tests import compatibility

_TESTS = pathlib.Path(compatibility.__file__).parent
_RUNS = pathlib.Path('tools/system-runs.txt')


def tests_of(module):
    """The tests of a module, which need not be importable here."""
    path = _TESTS.joinpath(*module.split('.')).with_suffix('.py')
    return {
        f'{module}.{node.name}.{function.name}'
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
        for function in node.body
        if isinstance(function, ast.FunctionDef)
    }


class CompatibilityTest(base.BaseTestCase):
    def parts(self):
        return [(row, p) for row in compatibility.ROWS for p in row.parts]

    def test_every_row_is_there_once(self):
        self.assertEqual(
            list(range(1, 28)), [row.number for row in compatibility.ROWS]
        )
        for row in compatibility.ROWS:
            self.assertTrue(row.parts, row)

    def test_every_test_that_is_named_is_there_and_runs(self):
        runs = _RUNS.read_text()
        for row, part in self.parts():
            for test in part.tests:
                module = test.rpartition('.')[0].rpartition('.')[0]
                self.assertIn(test, tests_of(module), row.number)
                if module.startswith('system.'):
                    self.assertIn(f'nova_isolation.tests.{module}', runs)

    def test_what_is_shown_is_shown_in_the_lab(self):
        for row, part in self.parts():
            shown = [t for t in part.tests if t.startswith('system.')]
            if part.status is not compatibility.Status.OPEN:
                self.assertTrue(shown, row)
            if part.status is compatibility.Status.MODELLED:
                made_up = [t for t in shown if 'made_up' in t]
                stock = [t for t in shown if 'stock' in t]
                self.assertTrue(made_up and stock, row)

    def test_the_page_is_that_of_the_list(self):
        self.assertEqual(compatibility.write(), compatibility.PAGE.read_text())
