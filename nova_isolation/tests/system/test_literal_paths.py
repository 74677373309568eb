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

"""A path stands in a profile only for itself: the kernel is asked.

Runs on the lab's machine, with its kernel and its parser: ``lab/lab run``.
"""

import os
import random
import unittest

from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import policy as policy_module
from nova_isolation import exceptions
from nova_isolation.tests.system import loading

UUID = '11111111-2222-4333-8444-555555555555'
DIRECTORY = '/srv/paths'

# What means something to AppArmor's language, to its globs, or to the regular
# expressions that they become.
NASTY = ' "\'*?[]{}^,\\@#()+|.$-!~&;`<>=%:/é€x'


class LiteralPathsTest(unittest.TestCase):
    def load(self, paths):
        return loading.load(
            policy_module.check(
                policy_module.Policy(
                    uuid=UUID,
                    name='instance-00000001',
                    id=1,
                    emulator='/usr/bin/qemu-system-x86_64',
                    needs=(),
                    files=tuple(
                        policy_module.FileGrant(path, 'rwk', f'<disk> {path}')
                        for path in paths
                    ),
                    consoles=False,
                    ptys=(),
                    complain=False,
                    restoring=False,
                )
            )
        )

    def test_a_name_grants_itself_and_nothing_else(self):
        chance = random.Random(20261123)
        names = {f'{DIRECTORY}/{c}' for c in NASTY if c not in './'}
        names |= {f'{DIRECTORY}/a{c}b' for c in NASTY if c != '/'}
        names |= {f'{DIRECTORY}/a{c}{c}b' for c in NASTY if c != '/'}
        names |= {
            f'{DIRECTORY}/@{{PROC}}/x',
            f'{DIRECTORY}/**',
            f'{DIRECTORY}/a b[1]/disk',
            f'{DIRECTORY}/{{a,b}}',
            f'{DIRECTORY}/[^a]',
            f'{DIRECTORY}/\\052',
            f'{DIRECTORY}/\\x2a',
            f'{DIRECTORY}/"}} /** rwk, "',
        }
        while len(names) < 400:
            word = ''.join(chance.choices(NASTY, k=chance.randint(1, 12)))
            name = os.path.normpath(f'{DIRECTORY}/x{word}')
            if name.startswith(f'{DIRECTORY}/'):
                names.add(name)
        profile = self.load(sorted(names))
        judge = self.enterContext(kernel.Judge())
        for name in sorted(names):
            self.assertEqual('rw', judge.file(profile, name), name)
        for name in sorted(names):
            for _ in range(8):
                at = chance.randrange(len(DIRECTORY) + 1, len(name))
                other = chance.choice(
                    (
                        name[:at] + name[at + 1 :],
                        name[:at] + chance.choice(NASTY) + name[at + 1 :],
                        name[:at] + chance.choice(NASTY) + name[at:],
                        name[:at],
                        name + chance.choice(NASTY),
                    )
                )
                if other not in names:
                    self.assertEqual(
                        '', judge.file(profile, other), (name, other)
                    )

    def test_what_cannot_be_granted_literally_is_refused(self):
        for name in ('a\nb', 'a\tb', 'a\0b', '\x7f', '\udc80', 'a' * 5000):
            with self.assertRaises(exceptions.InvalidPolicy):
                self.load([f'{DIRECTORY}/{name}'])
