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

"""The matrix of attacks is bad when it must be, and says what was observed."""

import dataclasses
import json

from oslotest import base

from nova_isolation.audit import records
from nova_isolation.tests.system.attacks import model
from nova_isolation.tests.system.attacks import page

TRY = model.Observation(
    'read a disk', 'files', model.DENIED, by='apparmor-file', reported=True
)
NEED = model.Observation('own disk', model.LEGITIMATE, model.ALLOWED)


def enough(*observed):
    """As many attempts as there must be, all well, and these."""
    return [
        *(
            dataclasses.replace(TRY, name=f'attempt {number}')
            for number in range(model.LEAST_ATTEMPTS)
        ),
        NEED,
        *observed,
    ]


class FaultsTest(base.BaseTestCase):
    def faults(self, *observed, driver='ours'):
        return model.faults(enough(*observed), driver)

    def test_all_is_well(self):
        self.assertEqual([], self.faults(TRY))

    def test_an_attack_that_is_allowed(self):
        allowed = dataclasses.replace(TRY, result=model.ALLOWED, by='')
        self.assertEqual(['read a disk: allowed'], self.faults(allowed))
        self.assertEqual([], self.faults(allowed, driver='stock'))

    def test_what_the_least_profile_allows_has_a_reason(self):
        allowed = dataclasses.replace(
            TRY, result=model.ALLOWED, by='', inseparable=True
        )
        self.assertEqual(
            ['read a disk: inseparable without a reason'],
            self.faults(allowed),
        )
        self.assertEqual(
            [], self.faults(dataclasses.replace(allowed, note='no hook'))
        )

    def test_something_legitimate_that_is_denied(self):
        for driver in ('ours', 'stock'):
            for result in (model.DENIED, model.NOT_APPLICABLE):
                denied = dataclasses.replace(
                    NEED, name='pty', result=result, by='dac', note='why'
                )
                self.assertEqual(
                    [f'pty: legitimate, and {result}: why'],
                    self.faults(denied, driver=driver),
                )

    def test_a_failure_that_nobody_can_explain(self):
        for result in (model.DENIED, model.NOT_APPLICABLE):
            found = self.faults(
                dataclasses.replace(TRY, result=result, by='', note='why')
            )
            self.assertEqual(1, len(found), found)
            self.assertIn('without a known reason: why', found[0])

    def test_too_few_attempts(self):
        self.assertEqual(
            ['only 1 attempts'], model.faults([TRY, NEED], 'ours')
        )

    def test_two_attempts_of_one_name(self):
        self.assertEqual(['read a disk: twice'], self.faults(TRY, TRY))


class MediationTest(base.BaseTestCase):
    def test_the_part_of_the_language_is_told_from_the_record(self):
        for fields, expected in (
            ('operation="open" class="file" name="/x"', 'apparmor-file'),
            ('operation="open" name="/x"', 'apparmor-file'),
            ('operation="capable" capname="net_raw"', 'apparmor-capability'),
            ('operation="create" family="inet"', 'apparmor-network'),
            ('operation="connect" family="unix"', 'apparmor-unix'),
            ('operation="ptrace" peer="x"', 'apparmor-ptrace'),
            ('operation="mount" name="/x"', 'apparmor-mount'),
            ('operation="change_profile" name="x"', 'apparmor-profile'),
            ('operation="userns_create"', 'apparmor-userns'),
        ):
            record = records.parse(
                records.AVC,
                f'audit(1.000:1): apparmor="DENIED" {fields} '
                'profile="x" pid=1 comm="y"'.encode(),
            )
            self.assertEqual(expected, model.mediation(record), fields)

    def test_why_the_control_failed(self):
        for error, words, expected in (
            ('EACCES', '', 'dac'),
            ('ENOSYS', '', 'missing'),
            ('', 'Failed to fork (Operation not permitted)', 'seccomp'),
            ('', "'x' does not accept value 'y'", 'missing'),
            ('broken', 'Traceback', ''),
            ('ETIMEDOUT', 'hangs', ''),
        ):
            self.assertEqual(expected, model.failure(error, words), words)


class PublishedTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        stock = dataclasses.replace(
            TRY, result=model.ALLOWED, by='', reported=False
        )
        self.rows = page.merge(
            [
                model.Part('trixie', 'ours', (TRY, NEED)),
                model.Part('trixie', 'stock', (stock, NEED)),
            ]
        )

    def test_a_row_has_both_drivers(self):
        self.assertEqual(
            {
                'name': 'read a disk',
                'class': 'files',
                'image': 'trixie',
                'lsm': 'apparmor',
                'stock': 'allowed',
                'ours': 'denied',
                'by': 'apparmor-file',
                'reported': True,
                'inseparable': False,
                'note': '',
            },
            self.rows[0],
        )
        self.assertEqual(self.rows, json.loads(page.to_json(self.rows)))

    def test_runs_of_different_attempts_make_no_matrix(self):
        self.assertRaisesRegex(
            ValueError,
            'own disk',
            page.merge,
            [
                model.Part('trixie', 'ours', (TRY, NEED)),
                model.Part('trixie', 'stock', (TRY,)),
            ],
        )

    def differences(self, *observed, driver='ours'):
        return model.differences(self.rows, 'trixie', driver, observed)

    def test_what_agrees(self):
        self.assertEqual([], self.differences(TRY, NEED))

    def test_every_column_is_compared(self):
        for change in (
            {'result': model.ALLOWED},
            {'by': 'dac'},
            {'reported': False},
            {'inseparable': True},
            {'kind': 'names'},
        ):
            other = dataclasses.replace(TRY, **change)
            self.assertEqual(1, len(self.differences(other, NEED)), change)

    def test_of_stock_the_result_is_compared(self):
        self.assertEqual(
            ['read a disk: stock is denied, published as allowed'],
            self.differences(TRY, NEED, driver='stock'),
        )

    def test_what_is_new_and_what_is_gone(self):
        new = dataclasses.replace(TRY, name='new')
        self.assertEqual(
            [
                'new: not in the published matrix',
                'read a disk: published, not tried',
            ],
            self.differences(new, NEED),
        )


class QuietTest(base.BaseTestCase):
    def test_what_is_denied_is_reported_or_quiet_for_a_reason(self):
        def faults(**change):
            other = dataclasses.replace(TRY, **change)
            found = model.faults([other], 'ours')
            return [f for f in found if 'neither' in f]

        self.assertEqual([], faults())
        self.assertEqual([], faults(reported=False, quiet='noise'))
        self.assertEqual([], faults(reported=False, by='nova-isolation'))
        [fault] = faults(reported=False)
        self.assertIn(TRY.name, fault)


class CommittedTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.rows = json.loads(page.MATRIX.read_text())

    def test_the_page_is_that_of_the_file(self):
        self.assertEqual(page.write(self.rows), page.PAGE.read_text())

    def test_nothing_is_allowed_that_could_be_denied(self):
        for row in self.rows:
            if row['class'] == model.LEGITIMATE:
                self.assertEqual(model.ALLOWED, row['ours'], row)
            elif row['ours'] == model.ALLOWED:
                self.assertTrue(row['inseparable'] and row['note'], row)

    def test_each_image_has_enough_attempts(self):
        for image in ('bookworm', 'trixie'):
            names = {
                row['name']
                for row in self.rows
                if row['image'] == image and row['class'] != model.LEGITIMATE
            }
            self.assertGreaterEqual(len(names), model.LEAST_ATTEMPTS)
