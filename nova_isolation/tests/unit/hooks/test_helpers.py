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

"""The labels of the processes beside a guest's QEMU."""

import os
import pathlib
import shutil
from unittest import mock

import fixtures
from oslotest import base

from nova_isolation.apparmor import kernel
from nova_isolation import domain as domain_module
from nova_isolation.domain.devices import Filesystem
from nova_isolation import exceptions
from nova_isolation.hooks import helpers
from nova_isolation import processes

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
OWN = f'libvirt-{UUID} (enforce)'
OTHER = 'libvirt-8887d9d3-17f8-4388-8771-fab6312518d6 (enforce)'


class HelpersTest(base.BaseTestCase):
    def check(self, labels, *, labelled, lenient=False, started=None):
        """Check one helper, this process, with the labels of its threads."""
        pid = os.getpid()
        process = processes.Process(pid, started or processes._started(pid))
        helper = processes.Helper('program', '<device>', process, labelled)
        with (
            mock.patch.object(processes, 'helpers', return_value=(helper,)),
            mock.patch.object(
                kernel, 'labels', return_value=dict(enumerate(labels))
            ),
        ):
            domain = domain_module.Domain(UUID, 'instance-00000001', 7)
            return helpers.check(domain, OWN, '/run', lenient=lenient)

    def assert_refused(self, *words, labels, **how):
        error = self.assertRaises(
            exceptions.NotConfined, self.check, labels, **how
        )
        for word in ('program', '<device>', str(os.getpid()), *words):
            self.assertIn(word, error.message)

    def test_the_guest_s_own_label(self):
        for labelled in (True, False):
            self.assertEqual((), self.check([OWN, OWN], labelled=labelled))

    def test_what_libvirt_labels_has_the_guest_s_label_whatever_is_set(self):
        for label in ('unconfined', 'own-profile (enforce)', OTHER, ''):
            for lenient in (True, False):
                self.assert_refused(
                    repr(label),
                    repr(OWN),
                    labels=[OWN, label],
                    labelled=True,
                    lenient=lenient,
                )

    def test_what_libvirt_does_not_label_may_have_the_operator_s(self):
        self.check(
            ['own-profile (enforce)', 'libvirt-virtiofsd (enforce)'],
            labelled=False,
        )

    def test_what_libvirt_does_not_label_and_nothing_confines(self):
        for label in (
            'unconfined',
            'own-profile (complain)',
            'virtiofsd (unconfined)',
            'a//&b (mixed)',
            OTHER,
            OTHER.replace(' ', '//child '),
            '',
        ):
            self.assert_refused(
                repr(label),
                'unconfined_helpers',
                labels=['own-profile (enforce)', label],
                labelled=False,
            )

    def test_what_nothing_confines_may_be_reported(self):
        (words,) = self.check(['unconfined'] * 3, labelled=False, lenient=True)
        for word in ('program', "'unconfined'", str(os.getpid())):
            self.assertIn(word, words)

    def test_one_that_ended(self):
        self.assert_refused('ended', labels=[], labelled=True)
        self.assert_refused('ended', labels=[OWN], labelled=True, started=1)


class ForeseeTest(base.BaseTestCase):
    """What is known before the start: whether there is a profile at all."""

    SHARE = Filesystem('mount', 'virtiofs', 'a', '/srv')

    def setUp(self):
        super().setUp()
        self.profiles = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.apparmor.kernel._PROFILES', str(self.profiles)
            )
        )
        self.hold('libvirtd', 'enforce')

    def hold(self, name, mode):
        directory = self.profiles / f'{name}.7'
        directory.mkdir()
        (directory / 'mode').write_text(f'{mode}\n')

    def foresee(self, *shares):
        helpers.foresee(
            domain_module.Domain(UUID, 'instance-1', filesystems=shares)
        )

    def assert_refused(self):
        error = self.assertRaises(
            exceptions.NotConfined, self.foresee, self.SHARE
        )
        for words in ('<filesystem> a', "'unconfined'", 'unconfined_helpers'):
            self.assertIn(words, error.message)

    def test_a_guest_without_one(self):
        self.foresee()
        served = Filesystem('mount', 'virtiofs', 'a', socket='/run/served')
        self.foresee(served)

    def test_a_virtiofsd_that_nothing_will_confine(self):
        self.assert_refused()

    def test_profiles_that_confine_nothing(self):
        for mode in ('complain', 'unconfined', 'prompt'):
            self.hold(f'{mode}-virtiofsd', mode)
        # an unloaded one
        (self.profiles / 'virtiofsd.8').mkdir()
        self.assert_refused()

    def test_a_profile_that_does(self):
        # as the kernel writes what is named as its program
        for name in ('libvirt-virtiofsd', 'usr.libexec.virtiofsd'):
            with self.subTest(name):
                self.hold(name, 'enforce')
                self.foresee(self.SHARE)
                shutil.rmtree(self.profiles / f'{name}.7')
        self.assert_refused()
