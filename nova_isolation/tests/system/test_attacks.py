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

"""A captured QEMU is stopped, and what a guest needs is not.

Against nova-isolation, and with ``--compute-driver libvirt.LibvirtDriver``
against stock libvirt: nova_isolation/tests/system/attacks.
"""

import json

import testtools

from nova_isolation.tests.system.attacks import model
from nova_isolation.tests.system.attacks import observe
from nova_isolation.tests.system.attacks import page


class AttackMatrixTest(testtools.TestCase):
    def test_every_attack_comes_to_what_is_published(self):
        part = observe.observe()
        published = json.loads(page.MATRIX.read_text())
        self.assertEqual([], model.faults(part.observed, part.driver))
        self.assertEqual(
            [],
            model.differences(
                published, part.image, part.driver, part.observed
            ),
        )
