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

"""What is not covered yet is refused by name, and changes nothing."""

from nova import context as nova_context
from nova import objects

from nova_isolation import exceptions
from nova_isolation.tests.functional.virt import base
from nova_isolation.virt import driver as isolation_driver


class NotCoveredTest(base.IsolationTestCase):
    def setUp(self):
        super().setUp()
        self.start_compute()
        self.server = self.boot()
        self.uuid = self.server['id']
        self.before = self._guest()

    def _guest(self):
        domain = self.domain(self.uuid)
        return (
            domain.state,
            domain.XMLDesc(0),
            domain.XMLDesc(2),
            self.files(self.uuid),
        )

    def assert_refused(self, operation, status='ACTIVE', requests=1):
        """The guest is as before, and one event says what was refused."""
        after = self.admin_api.get_server(self.uuid)
        self.assertEqual(status, after['status'])
        self.assertIsNone(after['OS-EXT-STS:task_state'])
        self.assertEqual(self.before, self._guest())
        self.assertEqual([], self.verbs(self.server))
        events = self.events()
        self.assertEqual(
            [operation] * requests, [e.payload['operation'] for e in events]
        )
        self.assertEqual(
            f'{operation} is not covered by nova-isolation yet',
            events[0].payload['reason'],
        )

    def assert_fault(self, *words):
        fault = self.wait('the fault', lambda: self.fault(self.server))
        for word in words:
            self.assertIn(word, fault)

    def _snapshot(self, status):
        images = set(self.glance.images)
        self.act(self.server, createImage={'name': 'copy'})
        self.assert_refused('a snapshot', status)
        self.assert_fault('isolation: a snapshot is not covered')
        # Nova takes away the image that it had begun
        self.assertEqual(images, set(self.glance.images))

    def test_snapshot_of_a_running_server(self):
        self._snapshot('ACTIVE')

    def test_snapshot_of_a_stopped_server(self):
        self.act(self.server, **{'os-stop': None})
        self.before = self._guest()
        self._snapshot('SHUTOFF')

    def test_shelving(self):
        # Nova would stop the guest, and only then take the snapshot
        self.act(self.server, shelve=None)
        self.assert_refused('shelving')
        self.assert_fault('isolation: shelving is not covered')

    def test_rebuild(self):
        # Nova would destroy the disks, and only then spawn the server anew
        image = self.admin_api.get_server(self.uuid)['image']['id']
        self.act(self.server, rebuild={'imageRef': image})
        self.assert_refused('rebuild')
        self.assert_fault('isolation: rebuild is not covered')

    def test_what_changes_a_volume_s_file_under_a_guest(self):
        driver = self.computes['compute1'].driver
        context = nova_context.get_admin_context()
        instance = objects.Instance.get_by_uuid(
            self._cell(context), self.uuid, expected_attrs=['flavor']
        )
        for operation, method, arguments in (
            ('swapping a volume', driver.swap_volume, ({}, {}, instance)),
            (
                'a snapshot of a volume',
                driver.volume_snapshot_create,
                (instance, 'volume', {}),
            ),
            (
                'deleting a snapshot of a volume',
                driver.volume_snapshot_delete,
                (instance, 'volume', 'snapshot', {}),
            ),
        ):
            error = self.assertRaises(
                isolation_driver.Refused, method, context, *arguments
            )
            self.assertIn(operation, error.format_message())
            self.assertIn(
                operation, [e.payload['operation'] for e in self.events()]
            )
        self.assertEqual(self.before, self._guest())

    def _cell(self, context):
        """Give a context that reaches the database of the server's cell."""
        mapping = objects.InstanceMapping.get_by_instance_uuid(
            context, self.uuid
        )
        nova_context.set_target_cell(context, mapping.cell_mapping)
        return context

    def _move(self, **action):
        self.start_compute('compute2')
        self.admin_api.post_server_action(self.uuid, action)
        self._wait_for_migration_status(self.server, ['error'])
        self.wait(
            'the end of the task',
            lambda: (
                not self.admin_api.get_server(self.uuid)[
                    'OS-EXT-STS:task_state'
                ]
            ),
        )
        after = self.admin_api.get_server(self.uuid)
        self.assertEqual('compute1', after['OS-EXT-SRV-ATTR:host'])

    def test_resize(self):
        # a root disk of the same size: as it is, only elsewhere
        flavor = self._create_flavor(disk=1)
        self._move(resize={'flavorRef': flavor})
        self.assert_refused('resize or cold migration')
        self.assert_fault('isolation: resize or cold migration')

    def test_cold_migration_of_a_stopped_server(self):
        self.act(self.server, **{'os-stop': None})
        self.before = self._guest()
        self._move(migrate=None)
        self.assert_refused('resize or cold migration', 'SHUTOFF')

    def test_live_migration(self):
        self._move(
            **{'os-migrateLive': {'host': None, 'block_migration': 'auto'}}
        )
        self.assert_refused('live migration to this host')

    def test_live_migration_to_a_host_without_isolation(self):
        self.start_compute('compute2')
        self.computes['compute2'].driver._isolation.mode = 'off'
        self.admin_api.post_server_action(
            self.uuid,
            {'os-migrateLive': {'host': None, 'block_migration': 'auto'}},
        )
        self._wait_for_migration_status(self.server, ['error'])
        self.wait('the refusal', self.events)
        self.assert_refused('live migration from this host')


class LastLineTest(base.IsolationTestCase):
    """What the driver did not stop, the guest does."""

    def test_a_running_guest_takes_no_overlay_and_no_journey(self):
        self.start_compute()
        self.boot()
        host = self.computes['compute1'].driver._host
        [guest] = host.list_guests()
        for operation, call in (
            ('a snapshot of a running guest', guest.snapshot),
            ('live migration', guest.migrate),
        ):
            error = self.assertRaises(exceptions.NotCovered, call, None)
            self.assertEqual(
                f'{operation} is not covered by nova-isolation yet',
                str(error),
            )
