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

"""On a kernel without AppArmor: ``lab/lab run --with nova --lsm none``."""

import lablib

from nova_isolation.tests.system import base
from nova_isolation.tests.system import cloud


class KernelWithoutAppArmorTest(base.CloudTestCase):
    def test_the_service_is_disabled_and_no_guest_starts(self):
        def service():
            _, answer = lablib.call('GET', '/os-services?binary=nova-compute')
            return answer['services'][0]

        cause = 'the kernel runs without AppArmor'
        lablib.wait_for(
            'disabled',
            lambda: cause in (service()['disabled_reason'] or ''),
            60,
        )
        self.assertEqual('disabled', service()['status'])
        # Before that nova-compute does not hear the API.
        lablib.wait_for(
            'nova-compute listens',
            lambda: cloud.node(
                'grep "Join ServiceGroup" /share/log/nova-compute.log || true'
            ),
            60,
        )
        lablib.call(
            'PUT', f'/os-services/{service()["id"]}', {'status': 'enabled'}
        )
        uuid = cloud.boot('late', status='ERROR')['id']
        self.addCleanup(cloud.delete, uuid)
        self.assertIn(cause, lablib.server(uuid)['fault']['message'])
        self.assert_no_process(uuid)
        self.assert_nothing_left(uuid)
