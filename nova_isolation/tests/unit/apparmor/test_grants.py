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

"""What no rule covers is refused by name."""

import ddt
from oslotest import base

from nova_isolation.apparmor import grants
from nova_isolation import domain
from nova_isolation import exceptions
from nova_isolation.tests.unit.domain import xml
from nova_isolation.tests.unit import samples


@ddt.ddt
class CheckCoveredTest(base.BaseTestCase):
    def _refusal(self, **parts):
        found = domain.parse(xml.make(**parts))
        self.assertEqual((), found.unknown)
        error = self.assertRaises(
            exceptions.NotCovered, grants.check_covered, found, unknown=False
        )
        return error.message

    @ddt.data('libvirt-11.3-defined', 'libvirt-11.3-running')
    def test_what_is_covered_is_not_refused(self, name):
        found = domain.parse(samples.domain(name))
        grants.check_covered(found, unknown=True)

    def test_what_is_unknown_is_refused_unless_it_is_to_be_reported(self):
        found = domain.parse(xml.make(devices='<new/>'))
        grants.check_covered(found, unknown=False)
        error = self.assertRaises(
            exceptions.NotCovered, grants.check_covered, found, unknown=True
        )
        self.assertIn('unknown: <new>', error.message)

    @ddt.data(
        ("<tpm><backend type='emulator'/></tpm>", '<tpm> Tpm'),
        ("<vsock model='virtio'/>", '<vsock>'),
        ("<serial type='stdio'/>", "<serial> of type 'stdio'"),
        (
            "<channel type='unix'><source path='/c'/></channel>",
            "<channel> of type 'unix'",
        ),
        ("<graphics type='sdl'/>", "<graphics> of type 'sdl'"),
        (
            "<interface type='user'><mac address='m'/></interface>",
            '<interface> m of type UserNetwork',
        ),
        ("<shmem name='s'/>", '<shmem> SharedMemory'),
        ("<audio id='1' type='alsa'/>", "<audio> of type 'alsa'"),
        (
            "<rng><backend model='random'>/dev/sda</backend></rng>",
            "<rng> with backend 'random' '/dev/sda'",
        ),
        (
            "<disk type='file'><source file='/d'/><mirror type='file'>"
            "<source file='/m'/></mirror><target dev='vda'/></disk>",
            '<disk> vda with mirror',
        ),
        (
            "<disk type='dir'><source dir='/d'/><target dev='vda'/></disk>",
            '<disk> vda with a source of type DirectorySource',
        ),
    )
    @ddt.unpack
    def test_a_device(self, text, name):
        self.assertIn(f'{name} cannot be granted', self._refusal(devices=text))

    @ddt.data(
        ("<seclabel type='none'/>", "<seclabel> type='none'"),
        (
            "<seclabel type='static' model='apparmor'/>",
            "<seclabel> type='static' model='apparmor'",
        ),
        ("<seclabel type='dynamic' model='selinux'/>", "model='selinux'"),
        (
            "<qemu:commandline><qemu:arg value='-s'/></qemu:commandline>",
            "the argument '-s'",
        ),
    )
    @ddt.unpack
    def test_an_element_of_the_domain(self, text, name):
        self.assertIn(name, self._refusal(top=text))

    def test_a_hypervisor_that_is_not_qemu(self):
        self.assertIn("domain type 'lxc'", self._refusal(kind='lxc'))
