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

"""What the kernel shows is read as it shows it."""

import errno
import hashlib
import os
from unittest import mock

import ddt
import fixtures
from oslotest import base

from nova_isolation.apparmor import kernel
from nova_isolation import exceptions

ANSWER = b'allow 0x%08x\ndeny 0x00000000\naudit 0x00000000\nquiet 0x00000000\n'
PROFILE = 'libvirt-36a5a3c8-8489-4380-9a87-8a5b4732e00d'


class KernelTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.top = self.useFixture(fixtures.TempDir()).path
        self.profiles = os.path.join(self.top, 'profiles')
        self._patch('_PROFILES', self.profiles)
        self._patch('_ENABLED', os.path.join(self.top, 'enabled'))

    def _patch(self, name, value):
        self.useFixture(
            fixtures.MonkeyPatch(
                f'nova_isolation.apparmor.kernel.{name}', value
            )
        )

    def _loaded(self, name, **digests):
        directory = os.path.join(self.profiles, name)
        os.makedirs(directory)
        for algorithm, compiled in digests.items():
            with open(f'{directory}/raw_{algorithm}', 'w') as f:
                f.write(hashlib.new(algorithm, compiled).hexdigest() + '\n')

    def _enabled(self, text):
        with open(f'{self.top}/enabled', 'w') as f:
            f.write(text)

    def test_it_holds_what_was_compiled(self):
        self._loaded(f'{PROFILE}.42', sha256=b'ours')
        self.assertTrue(kernel.holds(PROFILE, kernel.digests(b'ours')))
        self.assertFalse(
            kernel.holds(PROFILE, kernel.digests(b"libvirt's stock one"))
        )

    def test_a_kernel_before_6_8_has_the_older_digest(self):
        self._loaded(f'{PROFILE}.42', sha1=b'ours')
        self.assertTrue(kernel.holds(PROFILE, kernel.digests(b'ours')))
        self.assertFalse(kernel.holds(PROFILE, kernel.digests(b'other')))

    def test_the_stronger_digest_decides(self):
        self._loaded(f'{PROFILE}.42', sha1=b'ours', sha256=b'other')
        self.assertFalse(kernel.holds(PROFILE, kernel.digests(b'ours')))

    def test_nothing_is_not_ours(self):
        self.assertFalse(kernel.holds(PROFILE, kernel.digests(b'ours')))
        os.makedirs(self.profiles)
        self.assertFalse(kernel.holds(PROFILE, kernel.digests(b'ours')))

    def test_a_name_that_begins_like_ours_is_not_ours(self):
        for name in (f'{PROFILE}x.1', f'{PROFILE}.files.2', f'x{PROFILE}.3'):
            self._loaded(name, sha256=b'ours')
        self.assertFalse(kernel.is_loaded(PROFILE))
        self.assertFalse(kernel.holds(PROFILE, kernel.digests(b'ours')))

    def test_two_of_one_name_prove_nothing(self):
        self._loaded(f'{PROFILE}.1', sha256=b'ours')
        self._loaded(f'{PROFILE}.2', sha256=b'ours')
        self.assertTrue(kernel.is_loaded(PROFILE))
        self.assertFalse(kernel.holds(PROFILE, kernel.digests(b'ours')))

    def test_a_kernel_without_digests_is_the_host_s_fault(self):
        self._loaded(f'{PROFILE}.42')
        error = self.assertRaises(
            exceptions.HostFault,
            kernel.holds,
            PROFILE,
            kernel.digests(b'ours'),
        )
        self.assertIn('CONFIG_SECURITY_APPARMOR_HASH', error.message)

    def test_a_kernel_that_confines(self):
        self._enabled('Y\n')
        os.makedirs(self.profiles)
        kernel.check_enabled()

    def test_a_kernel_without_apparmor(self):
        error = self.assertRaises(exceptions.HostFault, kernel.check_enabled)
        self.assertIn('apparmor=1 security=apparmor', error.message)
        self._enabled('N\n')
        self.assertRaises(exceptions.HostFault, kernel.check_enabled)

    def test_a_kernel_that_does_not_show_its_policy(self):
        self._enabled('Y\n')
        error = self.assertRaises(exceptions.HostFault, kernel.check_enabled)
        self.assertIn('mount securityfs', error.message)


@ddt.ddt
class JudgeTest(base.BaseTestCase):
    """The interface's answers are read as strictly as they are quickly."""

    def setUp(self):
        super().setUp()
        self.asked = []
        self.answer = b''
        path = os.path.join(self.useFixture(fixtures.TempDir()).path, 'access')
        with open(path, 'w'):
            pass
        for name, value in (
            ('_ACCESS', path),
            ('os.write', lambda _, query: self.asked.append(query)),
            ('os.pread', self._answer),
        ):
            self.useFixture(
                fixtures.MonkeyPatch(
                    f'nova_isolation.apparmor.kernel.{name}', value
                )
            )

    def _answer(self, descriptor, length, offset):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer[offset : offset + length]

    def file(self, path='/x', profile=PROFILE):
        with kernel.Judge() as judge:
            return judge.file(profile, path)

    def test_each_profile_and_path_is_asked_for_by_name(self):
        self.answer = ANSWER % 0
        self.file('/a')
        self.file('/b \xe9\udcff')
        self.file('/a', 'other')
        self.file('/a')
        self.assertEqual(
            [
                b'label\0%s\0\x02/a' % PROFILE.encode(),
                b'label\0%s\0\x02/b \xc3\xa9\xff' % PROFILE.encode(),
                b'label\0other\0\x02/a',
                b'label\0%s\0\x02/a' % PROFILE.encode(),
            ],
            self.asked,
        )

    def test_every_answer(self):
        for bits in range(16):
            # attributes, locks and the rest are no access
            for more in (0, 0xB370, 0xFFFFFFF0):
                self.answer = ANSWER % (bits | more)
                expected = {
                    letter
                    for letter, mask in (('r', 4), ('w', 10), ('x', 1))
                    if bits & mask
                }
                found = self.file()
                self.assertEqual(expected, set(found))
                self.assertEqual(found, ''.join(sorted(found, key='rwx'.find)))

    @ddt.data(
        b'',
        b'allow 0x0000000\ndeny 0x00000000\n',
        b'allow 0x0000_004\n',
        b'allow 0x0000000g\n',
        b'allow 0x00000004',
        b'deny 0x00000000\nallow 0x00000000\n',
        b'allow 0x000000004\n',
        b'allow 0x0000000F\n',
    )
    def test_what_is_no_answer_is_not_taken_for_one(self, answer):
        self.answer = answer
        for _ in range(2):
            error = self.assertRaises(exceptions.HostFault, self.file)
            self.assertIn(PROFILE, error.message)

    def test_a_profile_that_is_not_loaded_allows_nothing(self):
        self.answer = FileNotFoundError()
        self.assertEqual('', self.file())
        self.answer = PermissionError(13, 'Permission denied')
        error = self.assertRaises(exceptions.HostFault, self.file)
        self.assertIn('Permission denied', error.message)


class LabelTest(base.BaseTestCase):
    """What the files of a process say, whichever module runs."""

    def _reads(self, **answers):
        real = os.open

        def opened(path, flags):
            answer = answers[os.path.basename(os.path.dirname(path))]
            if isinstance(answer, Exception):
                raise answer
            where = self.useFixture(fixtures.TempDir()).join('current')
            with open(where, 'wb') as f:
                f.write(answer)
            return real(where, flags)

        with mock.patch.object(os, 'open', opened):
            return kernel.label(7)

    def test_apparmor(self):
        label = f'{PROFILE} (enforce)'
        self.assertEqual(
            label, self._reads(apparmor=f'{label}\n'.encode(), attr=b'')
        )

    def test_an_old_kernel_has_no_directory_for_each_module(self):
        self.assertEqual(
            'unconfined',
            self._reads(apparmor=FileNotFoundError(), attr=b'unconfined\n'),
        )

    def test_selinux_in_a_kernel_that_also_has_apparmor(self):
        context = 'system_u:system_r:svirt_t:s0:c1,c2'
        self.assertEqual(
            context,
            self._reads(
                apparmor=OSError(errno.EINVAL, ''),
                attr=f'{context}\0'.encode(),
            ),
        )

    def test_neither(self):
        invalid = OSError(errno.EINVAL, '')
        for apparmor in (invalid, FileNotFoundError()):
            self.assertEqual('', self._reads(apparmor=apparmor, attr=invalid))

    def test_a_thread_that_ends_between_both(self):
        for error in (ProcessLookupError(), FileNotFoundError()):
            self.assertIsNone(
                self._reads(apparmor=OSError(errno.EINVAL, ''), attr=error)
            )

    def test_a_process_that_has_ended(self):
        for error in (ProcessLookupError(), FileNotFoundError()):
            self.assertIsNone(self._reads(apparmor=error, attr=error))


class LabelsTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.labels = {}
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.apparmor.kernel._label', self._label
            )
        )

    def _label(self, directory):
        return self.labels.get(directory)

    def test_every_thread_has_its_label(self):
        pid = os.getpid()
        for thread in os.listdir(f'/proc/{pid}/task'):
            self.labels[f'/proc/{pid}/task/{thread}'] = f'{PROFILE} (enforce)'
        found = kernel.labels(pid)
        self.assertEqual({f'{PROFILE} (enforce)'}, set(found.values()))
        self.assertIn(pid, found)

    def test_a_process_that_is_gone_has_none(self):
        self.assertEqual({}, kernel.labels(2**22 + 1))

    def test_who_holds_a_profile_or_a_child_of_it(self):
        me = f'/proc/{os.getpid()}'
        for label in (
            f'{PROFILE} (enforce)',
            f'{PROFILE} (complain)',
            f'{PROFILE}//child (enforce)',
            f'{PROFILE}//null-/bin/sh (complain)',
            PROFILE,
        ):
            self.labels[me] = label
            self.assertEqual([os.getpid()], kernel.holders(PROFILE), label)
        for label in (f'{PROFILE}x (enforce)', 'unconfined', '', None):
            self.labels[me] = label
            self.assertEqual([], kernel.holders(PROFILE), label)
