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

"""The AppArmor parser, run as a program.

libvirt runs the same program on the same file, and what it compiles is what
the kernel holds: so the proof compares with the parser's own output, never
with our reading of the language.
"""

import dataclasses
import os
import subprocess

from nova_isolation.apparmor import rules
from nova_isolation import exceptions

_PROFILE = 'profile nova-isolation-probe flags=({flags}) {{\n  {rule}\n}}\n'
_FLAGS = 'attach_disconnected'
# Of what the parser prints, the part that an operator can read in a fault.
_MESSAGE = 500


@dataclasses.dataclass(frozen=True)
class Parser:
    """One parser program.

    :param path: of the program, absolute
    :param timeout: seconds that one run may take
    """

    path: str
    timeout: int

    def compile(self, profile: str) -> bytes:
        """Compile a profile without loading it; needs no privilege.

        :param profile: path of the profile's file
        :returns: the policy as the kernel takes it
        :raises ProfileRejected: when it does not compile, with the reason
        :raises HostFault: when the parser cannot be run
        """
        # -Q: do not load; -T: not from the cache; -S: to standard output
        return self._run(['-QTS', profile])

    def check(self) -> None:
        """Check that this parser compiles anything.

        :raises HostFault: when it does not, or cannot be run
        """
        try:
            self._probe()
        except exceptions.ProfileRejected as e:
            raise exceptions.HostFault(
                f'{self.path} compiles no profile, not even an empty one: '
                f'{e.message}'
            ) from e

    def find_dialect(self) -> rules.Dialect:
        """Find out what this parser understands, by asking it.

        :returns: the dialect of its language
        :raises HostFault: when it compiles nothing, or cannot be run
        :raises ParserHangs: when it does not answer: then what it understands
            is not known, and no wider form is chosen for that
        """
        self.check()
        return rules.Dialect(
            network_operations=self._understands(
                rule='network (create) inet stream,'
            ),
            disconnected_path=self._understands(
                flags=f'{_FLAGS}, attach_disconnected.path=/x'
            ),
        )

    def _understands(self, *, rule: str = '', flags: str = _FLAGS) -> bool:
        try:
            self._probe(rule=rule, flags=flags)
        except exceptions.ParserHangs:
            raise
        except exceptions.ProfileRejected:
            return False
        return True

    def _probe(self, *, rule: str = '', flags: str = _FLAGS) -> None:
        profile = _PROFILE.format(rule=rule, flags=flags)
        self._run(['-QTS'], profile.encode())

    def _run(self, arguments: list[str], stdin: bytes | None = None) -> bytes:
        try:
            done = subprocess.run(
                [self.path, *arguments],
                input=stdin or b'',
                capture_output=True,
                timeout=self.timeout,
                check=False,
                env={'PATH': os.defpath, 'LC_ALL': 'C.UTF-8'},
            )
        except OSError as e:
            raise exceptions.HostFault(
                f'the AppArmor parser cannot be run: {self.path}: '
                f'{e.strerror}: install the package apparmor, or set '
                '[isolation] apparmor_parser'
            ) from e
        except subprocess.TimeoutExpired as e:
            raise exceptions.ParserHangs(
                f'{self.path} {arguments[0]} did not end within '
                f'{self.timeout} s, see [isolation] parser_timeout'
            ) from e
        if done.returncode:
            raise exceptions.ProfileRejected(
                f'{self.path} {arguments[0]} ended with {done.returncode}: '
                f'{_readable(done.stderr)}'
            )
        return done.stdout


def _readable(output: bytes) -> str:
    words = ' '.join(output.decode(errors='replace').split())
    return words[:_MESSAGE] or 'without a message'
