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

"""A header that lies succeeds without us: the attack is one.

``lab/lab run --with nova --compute-driver libvirt.LibvirtDriver``, for an
image that is not in the published matrix, where all attacks are tried.
"""

from nova_isolation.tests.system.attacks import model
from nova_isolation.tests.system.attacks import next_start
from nova_isolation.tests.system import base
from nova_isolation.tests.system import cloud


class StockHeaderTest(base.CloudTestCase):
    def test_what_a_header_names_is_opened(self):
        neighbour = cloud.boot(
            'neighbour', token=cloud.ALICE, config_drive=True
        )['id']
        captured = cloud.boot('captured', token=cloud.MALLORY)['id']
        self.addCleanup(cloud.delete, captured, neighbour)
        with cloud.Consumer() as consumer:
            found = next_start.attempts('stock', captured, neighbour, consumer)
        self.assertEqual(
            {observation.name: model.ALLOWED for observation in found},
            {observation.name: observation.result for observation in found},
        )
