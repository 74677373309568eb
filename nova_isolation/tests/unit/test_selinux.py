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

"""What the kernel says of SELinux is understood, and its silence is not."""

import os

import fixtures
from oslotest import base

from nova_isolation import exceptions
from nova_isolation import selinux


class EnforcingTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.path = f'{self.useFixture(fixtures.TempDir()).path}/enforce'
        self.useFixture(
            fixtures.MonkeyPatch('nova_isolation.selinux.ENFORCE', self.path)
        )

    def test_what_it_says(self):
        for text, enforcing in (('1', True), ('0', False)):
            with open(self.path, 'w') as f:
                f.write(text)
            self.assertIs(enforcing, selinux.enforcing())

    def test_a_kernel_without_it(self):
        self.assertIsNone(selinux.enforcing())

    def test_one_that_does_not_say_is_not_without_it(self):
        os.mkdir(self.path)
        error = self.assertRaises(exceptions.HostFault, selinux.enforcing)
        self.assertIn(self.path, error.message)
