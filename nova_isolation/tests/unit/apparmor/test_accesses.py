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

import ddt
from oslotest import base

from nova_isolation.apparmor import accesses
from nova_isolation.apparmor.accesses import Access
from nova_isolation.apparmor import needs
from nova_isolation.apparmor import rules

OLD, NEW = rules.Dialect(), rules.Dialect(True, True)
POLICY = [
    *needs.start(),
    *needs.supervision(),
    *needs.monitor(),
    *needs.noise(),
    *needs.listen_inet(),
    rules.File(('/usr/bin/qemu',), 'rmix', '<emulator>'),
    rules.File(('/i/disk',), 'rwk', '<disk> vda'),
    rules.File(('/i/', rules.Glob.TREE), 'r', 'some directory'),
]


@ddt.ddt
class JudgeTest(base.BaseTestCase):
    def missing(self, access, dialect=NEW):
        return ' '.join(
            sorted(accesses.judge(POLICY, access, dialect).missing)
        )

    @ddt.unpack
    @ddt.data(
        ('file', '/i/disk', 'r w k', ''),
        ('file', '/i/disk', 'r w l', 'l'),
        ('file', '/i/other', 'r w', 'w'),
        ('file', '/etc/passwd', 'r', 'r'),
        ('file', '/usr/bin/qemu', 'ix m', ''),
        ('file', '/bin/sh', 'ix', 'ix'),
        ('capability', 'setuid', 'use', ''),
        ('capability', 'sys_admin', 'use', 'use'),
        ('network', 'inet stream', 'listen accept', ''),
        ('network', 'inet stream', 'connect', 'connect'),
        ('network', 'inet6 stream', 'listen', 'listen'),
        ('unix', 'libvirtd', 'send receive', ''),
        ('unix', 'other', 'send', 'send'),
        ('signal', 'libvirtd', 'receive', ''),
        ('signal', 'libvirtd', 'send', 'send'),
        ('signal', 'other', 'receive', 'receive'),
        ('ptrace', 'unconfined', 'readby', ''),
        ('ptrace', 'unconfined', 'tracedby', 'tracedby'),
        ('mount', '/mnt', 'x', 'x'),
        ('io_uring', '', 'sqpoll', 'sqpoll'),
    )
    def test_what_is_not_granted(self, kind, name, wanted, missing):
        access = Access(kind, name, frozenset(wanted.split()))
        self.assertEqual(missing, self.missing(access))

    def test_what_an_older_language_cannot_tell_apart_is_granted(self):
        access = Access('network', 'inet stream', frozenset(['connect']))
        self.assertEqual('', self.missing(access, OLD))

    def test_what_is_denied_quietly_has_its_reason(self):
        access = Access('file', '/proc/12/status', frozenset('r'))
        answer = accesses.judge(POLICY, access, NEW)
        self.assertEqual(frozenset('r'), answer.missing)
        self.assertIn('quietly denied', answer.quietly[0])

    def test_what_is_denied_quietly_only_in_part_is_not_quiet(self):
        access = Access('file', '/proc/12/status', frozenset('rw'))
        answer = accesses.judge(POLICY, access, NEW)
        self.assertEqual((), answer.quietly)
