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


"""Each operation calls the hooks as the contract says."""

from lxml import etree

from nova_isolation.tests.functional.virt import base

START = [
    ('prepare', 'shutoff'),
    ('narrow', 'paused'),
    ('verify', 'paused'),
]


class OperationsTest(base.IsolationTestCase):
    def setUp(self):
        super().setUp()
        self.start_compute()

    def test_create_runs_the_vcpus_only_after_all_verbs(self):
        server = self._create_server(networks='none')
        self.assertEqual([('define', 'absent'), *START], self.verbs(server))
        self.assertEqual('running', self.state(server['id']))
