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

"""What an installation of a checkout would give: its entry points and its
programs, made from its pyproject.toml.

The checkout itself is used where it is; so a change in it counts at the next
run, without a build.
"""

import pathlib
import re
import tomllib
import typing

from host.errors import LabError

VERSION = '0.0.0.dev0'  # of a project that leaves its version to git
PROGRAM = """#!/opt/nova/bin/python
import sys

from {module} import {attribute}

sys.exit({attribute}())
"""


def project(source: pathlib.Path) -> dict[str, typing.Any]:
    """The [project] table of a directory's pyproject.toml, empty without one.

    :raises LabError: if the file cannot be read.
    """
    try:
        with (source / 'pyproject.toml').open('rb') as f:
            table = tomllib.load(f).get('project', {})
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as e:
        raise LabError(f'{source}/pyproject.toml: {e}') from e
    if not isinstance(table, dict) or 'name' not in table:
        raise LabError(f'{source}/pyproject.toml: no [project] with a name')
    return table


def entry_points(table: dict[str, typing.Any]) -> dict[str, dict[str, str]]:
    """All entry points by group, the scripts among them."""
    groups = dict(table.get('entry-points', {}))
    if table.get('scripts'):
        groups['console_scripts'] = table['scripts']
    return groups


def install(
    source: pathlib.Path,
    seen_as: str,
    site: pathlib.Path,
    programs: pathlib.Path,
) -> None:
    """Make a project known to the Python that has `site` as one of its site
    directories.

    :param source: the project's directory.
    :param seen_as: the same directory's name where that Python runs.
    :param site: gets the project's metadata, and its directory on the path.
    :param programs: gets its programs.
    """
    table = project(source)
    if not table:
        return
    name = re.sub(r'[-_.]+', '_', table['name']).lower()
    version = table.get('version', VERSION)
    info = site / f'{name}-{version}.dist-info'
    info.mkdir(parents=True, exist_ok=True)
    (info / 'METADATA').write_text(
        f'Metadata-Version: 2.1\nName: {table["name"]}\nVersion: {version}\n'
    )
    groups = entry_points(table)
    (info / 'entry_points.txt').write_text(
        '\n'.join(
            f'[{group}]\n'
            + ''.join(f'{key} = {value}\n' for key, value in points.items())
            for group, points in groups.items()
        )
    )
    (site / f'{name}.pth').write_text(seen_as + '\n')
    programs.mkdir(parents=True, exist_ok=True)
    for script, target in table.get('scripts', {}).items():
        module, _, attribute = target.partition(':')
        path = programs / script
        path.write_text(PROGRAM.format(module=module, attribute=attribute))
        path.chmod(0o755)
