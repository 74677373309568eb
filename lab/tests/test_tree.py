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

import unittest
import unittest.mock

from host import registries
from host import tree


class PackagesTest(unittest.TestCase):
    TEXT = '# comment\nqemu\n\nvirtiofsd trixie sid  # of QEMU before\n'

    def test_a_package_without_images_is_in_all(self):
        self.assertEqual(['qemu'], tree.packages(self.TEXT, 'bookworm'))

    def test_a_package_is_in_the_images_it_names(self):
        for image in ('trixie', 'sid'):
            self.assertEqual(
                ['qemu', 'virtiofsd'], tree.packages(self.TEXT, image)
            )


class SourcesTest(unittest.TestCase):
    def sources(self, image):
        with unittest.mock.patch.object(
            registries, 'debian_mirror', lambda label: f'http://mirror/{label}'
        ):
            return tree.sources(image)

    def test_a_stable_suite_comes_with_its_fixes(self):
        self.assertEqual(
            [
                'deb http://mirror/Debian trixie main',
                'deb http://mirror/Debian trixie-updates main',
                'deb http://mirror/Debian-Security trixie-security main',
            ],
            self.sources('trixie'),
        )

    def test_the_rolling_suite_alone_may_be_out_of_date(self):
        (line,) = self.sources('sid')
        self.assertRegex(line, r'\[.*check-valid-until=no\] \S+ sid main$')
