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
