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

"""What a run is, told by the process outside its namespaces (run.py) to the
one inside (inside.py).
"""

import dataclasses
import json
import pathlib
import typing

SPEC = 'spec.json'
RESULT = 'result.json'
MOUNTS = ('memory', 'src')  # directories that are mounted on inside


@dataclasses.dataclass(frozen=True)
class Spec:
    """A run; the names are those of the command line where there is one."""

    image: str
    kernel: str
    tree: str
    databases: str
    disk: str
    mode: str
    lsm: str
    cpu: int
    share: str
    preload: bool
    glance: str
    command: list[str]

    def write(self, directory: pathlib.Path) -> None:
        """Write it into the run's directory."""
        (directory / SPEC).write_text(
            json.dumps(dataclasses.asdict(self), indent=1)
        )

    @classmethod
    def read(cls, directory: pathlib.Path) -> typing.Self:
        """Read what write() wrote."""
        return cls(**json.loads((directory / SPEC).read_text()))


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended: with its command's exit status, or without having come
    to it.
    """

    status: int | None
    failure: str = ''

    def write(self, directory: pathlib.Path) -> None:
        """Write it into the run's directory."""
        (directory / RESULT).write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, directory: pathlib.Path) -> typing.Self:
        """Read what write() wrote; a failure when nothing is there."""
        try:
            return cls(**json.loads((directory / RESULT).read_text()))
        except (OSError, ValueError) as e:
            return cls(None, f'the run ended without a result: {e}')
