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

import os
import subprocess

from nova_isolation import exceptions

#: The feature ABIs that a profile of ours can name, the preferred one first.
#: It decides what a profile mediates: without one, the distribution does.
ABIS = ('3.0',)

_PROBE = 'abi <abi/{abi}>,\nprofile nova-isolation-probe {{\n}}\n'
# Of what the parser prints, the part that an operator can read in a fault.
_MESSAGE = 500


class Parser:
    """One parser program.

    :param path: of the program, absolute
    :param timeout: seconds that one run may take
    """

    def __init__(self, path: str, timeout: int) -> None:
        self.path = path
        self.timeout = timeout

    def compile(self, profile: str) -> bytes:
        """Compile a profile without loading it; needs no privilege.

        :param profile: path of the profile's file
        :returns: the policy as the kernel takes it
        :raises ProfileRejected: when it does not compile, with the reason
        :raises HostFault: when the parser cannot be run
        """
        # -Q: do not load; -T: not from the cache; -S: to standard output
        return self._run(['-QTS', profile])

    def load(self, profile: str) -> None:
        """Load a profile into the kernel, or replace it there.

        :param profile: path of the profile's file
        :raises ProfileRejected: when it does not compile or the kernel
            refuses it
        :raises HostFault: when the parser cannot be run
        """
        self._run(['-rTK', profile])

    def find_abi(self) -> str:
        """Find the feature ABI that this host's parser knows.

        :returns: one of :data:`ABIS`
        :raises HostFault: when it knows none, or cannot be run
        """
        reason = ''
        for abi in ABIS:
            try:
                self._run(['-QTS'], _PROBE.format(abi=abi).encode())
            except exceptions.ProfileRejected as e:
                reason = e.message
            else:
                return abi
        raise exceptions.HostFault(
            f'{self.path} compiles no profile, not even an empty one: {reason}'
        )

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
            raise exceptions.ProfileRejected(
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
