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

import importlib.metadata
import pathlib
import subprocess
import sys
import tempfile
import unittest

from host import distinfo
from host.errors import LabError

PYPROJECT = """
[project]
name = "some-project"
[project.scripts]
some-program = "some_project.cmd:main"
[project.entry-points."some.group"]
one = "some_project.module:One"
two = "some_project.module:Two"
"""


class InstallTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        root = pathlib.Path(directory.name)
        self.source, self.site, self.programs = (
            root / name for name in ('source', 'site', 'bin')
        )
        for path in (self.source, self.site):
            path.mkdir()
        (self.source / 'pyproject.toml').write_text(PYPROJECT)

    def install(self, seen_as=None):
        distinfo.install(
            self.source, seen_as or str(self.source), self.site, self.programs
        )

    def test_entry_points_are_found(self):
        self.install()
        found = {
            (point.group, point.name, point.value)
            for distribution in importlib.metadata.distributions(
                path=[str(self.site)]
            )
            for point in distribution.entry_points
        }
        self.assertEqual(
            {
                ('some.group', 'one', 'some_project.module:One'),
                ('some.group', 'two', 'some_project.module:Two'),
                ('console_scripts', 'some-program', 'some_project.cmd:main'),
            },
            found,
        )

    def test_a_project_that_leaves_its_version_to_git_has_one(self):
        self.install()
        (found,) = importlib.metadata.distributions(path=[str(self.site)])
        self.assertEqual('some-project', found.metadata['Name'])
        self.assertEqual(distinfo.VERSION, found.version)

    def test_a_program_calls_its_entry_point(self):
        package = self.source / 'some_project'
        package.mkdir()
        (package / '__init__.py').touch()
        (package / 'cmd.py').write_text('def main():\n    return 7\n')
        self.install()
        code = (
            f'import runpy, site; site.addsitedir({str(self.site)!r});'
            f'runpy.run_path({str(self.programs / "some-program")!r})'
        )
        self.assertEqual(
            7, subprocess.run([sys.executable, '-c', code]).returncode
        )

    def test_modules_are_found_where_the_machine_sees_them(self):
        self.install('/src')
        self.assertEqual(
            '/src\n', (self.site / 'some_project.pth').read_text()
        )

    def test_a_directory_without_a_project_is_passed_over(self):
        (self.source / 'pyproject.toml').unlink()
        self.install()
        self.assertEqual([], list(self.site.iterdir()))

    def test_a_file_that_is_no_toml_is_named(self):
        (self.source / 'pyproject.toml').write_text('[project')
        with self.assertRaisesRegex(LabError, 'pyproject.toml'):
            self.install()
