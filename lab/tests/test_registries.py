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

import os
import pathlib
import tempfile
import unittest
import unittest.mock

from host import registries


class PipTest(unittest.TestCase):
    def configured(self, text, **environment):
        with (
            tempfile.TemporaryDirectory() as home,
            unittest.mock.patch.dict(os.environ, environment, clear=True),
        ):
            file = pathlib.Path(home) / '.config/pip/pip.conf'
            file.parent.mkdir(parents=True)
            file.write_text(text)
            return registries.pip_environment(pathlib.Path(home))

    def test_the_index_of_this_machine_is_used(self):
        found = self.configured('[global]\nindex-url = https://a/simple\n')
        self.assertEqual('https://a/simple', found['PIP_INDEX_URL'])

    def test_the_environment_goes_before_files(self):
        found = self.configured(
            '[global]\nindex-url = https://a/simple\n',
            PIP_INDEX_URL='https://b/simple',
        )
        self.assertEqual('https://b/simple', found['PIP_INDEX_URL'])

    def test_an_index_on_this_machines_disk_is_left_out(self):
        text = '[global]\nextra-index-url = file:///a https://b/simple\n'
        found = self.configured(text)
        self.assertEqual('https://b/simple', found['PIP_EXTRA_INDEX_URL'])

    def test_a_proxy_is_passed_on(self):
        found = self.configured('', https_proxy='http://proxy:1')
        self.assertEqual({'https_proxy': 'http://proxy:1'}, found)
