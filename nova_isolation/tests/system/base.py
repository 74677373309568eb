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

"""What the system tests share."""

from typing import ClassVar

import lablib
import testtools

from nova_isolation.tests.system import cloud


class CloudTestCase(testtools.TestCase):
    """A test on the lab's cloud, which deletes the servers it made."""

    def boot(self, name, **more):
        server = cloud.boot(name, **more)
        self.addCleanup(cloud.delete, server['id'])
        return server['id']

    def assert_confined(self, uuid, mode='enforce'):
        found = cloud.confinement(uuid)
        self.assertEqual({f'libvirt-{uuid} ({mode})'}, found.labels)
        self.assertEqual(found.compiled, found.loaded)

    def assert_no_process(self, uuid):
        self.assertEqual([], cloud.qemu_pids(uuid))

    def assert_nothing_left(self, uuid):
        self.assertEqual([], cloud.leftovers(uuid))

    def assert_not_denied(self, uuid):
        self.assertEqual([], [d for d in cloud.denials() if uuid in d])


class PairTestCase(CloudTestCase):
    """A test on two servers, which all such tests of a lab share.

    Starting one is most of what a test costs. What a test did to a server it
    undoes; one that neither runs nor is off is replaced.

    :cvar statuses: that the test needs, of the first and of the second
    :ivar first: uuid of one with a config drive and an interface
    :ivar second: uuid of one without
    """

    statuses = ('ACTIVE', 'ACTIVE')
    _shared: ClassVar[dict[str, str]] = {}

    def setUp(self):
        super().setUp()
        first, second = self.statuses
        self.first = self._ready(
            'first', first, config_drive=True, network=True
        )
        self.second = self._ready('second', second)

    def _ready(self, name, wanted, **more):
        uuid = self._shared.get(name)
        # the test before may have made Nova stop it
        now = uuid and lablib.wait_for(
            f'{name} at rest', lambda: self._status_at_rest(uuid), 60
        )
        if now not in ('ACTIVE', 'SHUTOFF'):
            if uuid:
                cloud.delete(uuid)
            uuid = cloud.boot(name, **more)['id']
            self._shared[name] = uuid
            now = 'ACTIVE'
        if now != wanted:
            action = 'os-start' if wanted == 'ACTIVE' else 'os-stop'
            cloud.act(uuid, action, wanted)
        return uuid

    @staticmethod
    def _status_at_rest(uuid):
        server = lablib.server(uuid)
        return not server['OS-EXT-STS:task_state'] and server['status']
