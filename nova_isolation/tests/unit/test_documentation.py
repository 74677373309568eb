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

"""The guide says what the code does, where both have the same list."""

import ast
import pathlib
import re

from oslotest import base

from nova_isolation.agent import ledger
from nova_isolation.agent import metrics
from nova_isolation.audit import classification
from nova_isolation.audit import services
from nova_isolation.conf import opts
from nova_isolation.violations import model

ROOT = pathlib.Path(__file__).parents[3]
GUIDE = ROOT / 'doc' / 'source'


def tables(page):
    """Read the list-tables of a page.

    :returns: ``[[row]]``, a row being the plain words of its cells
    """
    text = (GUIDE / page).read_text()
    found = []
    for block in re.findall(
        r'^\.\. list-table::\n(.*?)(?=^\S|\Z)', text, re.M | re.S
    ):
        rows = re.split(r'^   \* - ', block, flags=re.M)[1:]
        found.append(
            [
                tuple(
                    ' '.join(cell.replace('``', '').split())
                    for cell in re.split(r'^     - ', row, flags=re.M)
                )
                for row in rows
            ]
        )
    return found


class ViolationsTest(base.BaseTestCase):
    """doc/source/violations.rst, for who is woken."""

    def setUp(self):
        super().setUp()
        self.tables = tables('violations.rst')

    def table(self, *header):
        (found,) = (t for t in self.tables if t[0] == header)
        return found[1:]

    def test_every_category_and_severity_is_explained(self):
        rows = self.table('Category', 'Severity', 'When')
        known = {(row[0], row[1]) for row in rows}
        self.assertEqual(len(rows), len(known))
        constants = vars(classification)
        tree = ast.parse(pathlib.Path(classification.__file__).read_text())
        calls = [
            node.args
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == 'Meaning'
        ]
        made = {
            (constants[category.id], constants[severity.id])
            for category, severity, *_ in calls
            if isinstance(category, ast.Name)
            and category.id.isupper()
            and isinstance(severity, ast.Name)
            and severity.id.isupper()
        }
        self.assertGreater(len(made), 10)
        self.assertEqual(set(), made - known)

    def test_files_by_what_they_are(self):
        rows = self.table(
            'What it tried to read or change',
            'Reading',
            'Changing',
            'For example',
        )
        rest = (
            'a file of the host',
            classification.MEDIUM,
            classification.HIGH,
        )
        self.assertEqual(
            {(words, r, w) for _, r, w, words in classification._PLACES}
            | {rest},
            {row[:3] for row in rows},
        )

    def test_capabilities(self):
        (found,) = (t for t in self.tables if 'sys_admin' in t[0][-1])
        for severity, names in found[:-1]:
            self.assertEqual(
                sorted(
                    name
                    for name, known in classification._CAPABILITIES.items()
                    if known == severity
                ),
                sorted(names.split(', ')),
            )
        self.assertEqual((classification.MEDIUM, 'any other'), found[-1])

    def test_services_of_the_host(self):
        (found,) = (t for t in self.tables if 'RabbitMQ' in t[0][-1])
        known = {}
        for name, severity in [
            *services._BY_PORT.values(),
            *((name, severity) for _, name, severity in services._SOCKETS),
            *((name, 'high') for _, _, name in services._RANGES),
        ]:
            known.setdefault(severity, set()).add(name)
        self.assertEqual(
            known, {row[0]: set(row[1].split(', ')) for row in found}
        )

    def test_every_stage_of_a_loss(self):
        rows = self.table('Stage', 'What happened', 'What to do')
        self.assertEqual(list(ledger.STAGES), [row[0] for row in rows])

    def test_every_metric_with_its_type(self):
        nothing = {
            'result': '',
            'arrived': 0,
            'guests': 0,
            'unconfined': 0,
            'last': 0,
            'seconds': 0,
        }
        sources = metrics.Sources(
            ledger=ledger.Ledger('cmp1').snapshot,
            queue=int,
            journal=int,
            latency=metrics.Latency(),
            canary=lambda: nothing,
            verifier=lambda: nothing,
        )
        made = set()
        for family in metrics._Collector(sources).collect():
            end = '_total' if family.type == 'counter' else ''
            label = '{stage}' if family.samples[0].labels.get('stage') else ''
            made.add((f'{family.name}{end}{label}', family.type))
        rows = self.table('Metric', 'Type', 'Meaning')
        self.assertEqual(
            made | {('process_*', 'various')}, {row[:2] for row in rows}
        )

    def test_every_kind_of_event_has_advice(self):
        rows = self.table('Event', 'What to do')
        told = {row[0].split(',')[0] for row in rows}
        events = (
            model.Violation,
            model.Refused,
            model.Unconfined,
            model.Finding,
            model.Lost,
        )
        self.assertEqual(
            {event.event_type for event in events},
            {words.split(' with ')[0] for words in told},
        )


class ArchitectureTest(base.BaseTestCase):
    def test_every_module_of_the_agent_has_its_place_in_the_map(self):
        (rows,) = (
            table[1:]
            for table in tables('architecture.rst')
            if table[0] == ('Module', 'What is decided or done there')
        )
        told = [name for row in rows for name in row[0].split(', ')]
        made = [
            f'{package}.{path.stem}'
            for package in ('agent', 'audit', 'violations')
            for path in (ROOT / 'nova_isolation' / package).glob('*.py')
            if path.stem != '__init__'
        ]
        self.assertEqual(sorted(made), sorted(told))


class OptionsTest(base.BaseTestCase):
    """What a page calls an option is one."""

    def test_options_that_are_named_exist(self):
        known = {
            option.dest
            for _, options in opts.list_opts()
            for option in options
        }
        pages = [*GUIDE.glob('*.rst'), ROOT / 'README.rst']
        for page in pages:
            named = re.findall(
                r'``\[isolation\]\s+([a-z_]+)', page.read_text()
            )
            self.assertEqual(set(), set(named) - known, page.name)
