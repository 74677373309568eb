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

"""A host that cannot confine guests gets none, and says why."""

import threading
from unittest import mock

import fixtures
from nova import context as nova_context
from nova import exception as nova_exception
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.virt.libvirt import driver as libvirt_driver

from nova_isolation import exceptions
from nova_isolation.tests.functional.virt import base

FAULT = 'libvirtd runs without its driver'


class ConnectionTest(base.IsolationTestCase):
    def test_a_libvirtd_that_ends_while_it_is_asked_stops_nobody(self):
        self.start_compute()
        host = self.computes['compute1'].driver._host

        class Ending:
            # libvirt calls back from inside the call that fails
            def getLibVersion(self):
                host._connection_closed(self, False, 'lost')
                raise fakelibvirt.make_libvirtError(
                    fakelibvirt.libvirtError,
                    'End of file while reading data',
                    error_code=fakelibvirt.VIR_ERR_SYSTEM_ERROR,
                    error_domain=fakelibvirt.VIR_FROM_RPC,
                )

        host._wrapped_conn = Ending()
        anew = object()
        self.useFixture(
            fixtures.MockPatchObject(
                host, '_get_new_connection', return_value=anew
            )
        )
        found = []
        # as Nova does where its own fixtures leave it to
        asking = threading.Thread(
            target=lambda: found.append(host._get_connection()), daemon=True
        )
        asking.start()
        asking.join(10)
        self.assertEqual([anew], found)


class HostFaultTest(base.IsolationTestCase):
    def setUp(self):
        super().setUp()
        self.start_compute()
        self.compute = self.computes['compute1']
        self.driver = self.compute.driver
        [self.connection] = self.connections

    def check_now(self):
        """What Nova does every [DEFAULT] update_resources_interval."""
        self.compute.manager.update_available_resource(
            nova_context.get_admin_context()
        )

    def lose_driver(self):
        self.connection.security_models.clear()

    def regain_driver(self):
        self.connection.security_models.add('apparmor')

    def assert_service(self, status, reason):
        service = self.service()
        self.assertEqual(
            (status, reason), (service['status'], service['disabled_reason'])
        )

    def set_service(self, **values):
        self.admin_api.put_service(self.service()['id'], values)

    def test_the_service_is_disabled_with_the_cause_and_comes_back(self):
        self.assert_service('enabled', None)
        self.lose_driver()
        self.check_now()
        self.assert_service('disabled', f'AUTO: isolation: {FAULT}')
        self.regain_driver()
        self.check_now()
        self.assert_service('enabled', None)
        server = self._create_server(networks='none')
        self.assertEqual('running', self.state(server['id']))

    def test_another_fault_is_told_in_place_of_the_first(self):
        self.lose_driver()
        self.check_now()
        self.recording.object_at(
            'check_host', exceptions.HostFault('no parser')
        )
        self.check_now()
        self.assert_service('disabled', 'AUTO: isolation: no parser')
        # what is too long for the database is cut
        self.recording.object_at('check_host', exceptions.HostFault('x' * 999))
        self.check_now()
        self.assert_service('disabled', 'AUTO: isolation: '.ljust(255, 'x'))

    def test_what_the_operator_disabled_stays_disabled(self):
        maintenance = {'status': 'disabled', 'disabled_reason': 'maintenance'}
        # before the fault, and after it
        for disable_first in (True, False):
            if disable_first:
                self.set_service(**maintenance)
            self.lose_driver()
            self.check_now()
            self.set_service(**maintenance)
            self.check_now()
            self.assert_service('disabled', 'maintenance')
            self.regain_driver()
            self.check_now()
            self.assert_service('disabled', 'maintenance')
            self.set_service(status='enabled')

    def test_nova_does_not_enable_it_when_libvirtd_is_there_again(self):
        self.lose_driver()
        self.check_now()
        self.driver._handle_conn_event(False, 'libvirtd is gone')
        self.driver._handle_conn_event(True, None)
        self.assert_service('disabled', f'AUTO: isolation: {FAULT}')

    def test_nova_enables_it_when_libvirtd_is_there_again_and_sound(self):
        # also after a restart of nova-compute, which remembers no fault
        self.lose_driver()
        self.check_now()
        self.regain_driver()
        self.driver._host_fault = None
        self.driver._handle_conn_event(True, None)
        self.assert_service('enabled', None)

    def test_a_libvirtd_that_went_away_does_not_end_the_fault(self):
        self.lose_driver()
        self.check_now()
        gone = nova_exception.HypervisorUnavailable(host='compute1')
        with mock.patch.object(
            self.driver._host, 'get_connection', side_effect=gone
        ):
            self.driver._watch_host()
        self.assert_service('disabled', f'AUTO: isolation: {FAULT}')
        self.regain_driver()
        self.check_now()
        self.assert_service('enabled', None)

    def test_a_spawn_that_still_arrives_fails_with_the_cause(self):
        self.lose_driver()
        self.driver._isolation._sound_until = 0
        server = self._create_server(networks='none', expected_state='ERROR')
        self.assertEqual(
            f'Build of instance {server["id"]} aborted: isolation: {FAULT}',
            server['fault']['message'],
        )
        self.assertNotIn('define', [v for v, _ in self.verbs(server)])
        self.assertEqual('absent', self.state(server['id']))
        self.assertEqual('spawn', self.events()[0].payload['operation'])

    def test_a_spawn_that_libvirt_refuses_fails_with_the_cause(self):
        # lost since the host was looked at some seconds ago
        self.driver._isolation._sound_until = float('inf')
        self.lose_driver()
        server = self._create_server(networks='none', expected_state='ERROR')
        self.assertEqual(
            f'Build of instance {server["id"]} aborted: isolation: {FAULT}',
            server['fault']['message'],
        )
        self.assertIn(('define', 'absent'), self.verbs(server))
        self.assertEqual('absent', self.state(server['id']))
        self.assertEqual(0, self.executions(server))

    def test_only_who_starts_a_guest_leaves_to_it_what_it_will_find(self):
        hosts = self.recording.hosts
        self.assertEqual({False}, {host.starting for host in hosts})
        hosts.clear()
        self.check_now()
        self.assertEqual([False], [host.starting for host in hosts])
        hosts.clear()
        self.driver._isolation._sound_until = 0
        server = self._create_server(networks='none')
        self.assertEqual([True], [host.starting for host in hosts])
        hosts.clear()
        self.act(server, reboot={'type': 'HARD'})
        self.assertEqual({True}, {host.starting for host in hosts})
        # what is missing will be there when the domain is made anew: nothing
        # is found out by this one
        self.recording.object_at('judge', exceptions.MissingBase('gone'))
        hosts.clear()
        self.act(server, reboot={'type': 'HARD'})
        self.assertEqual(
            [True, False, True, False], [host.starting for host in hosts]
        )

    def test_guests_that_run_are_left_alone(self):
        server = self.boot()
        self.lose_driver()
        self.check_now()
        after = self.act(server, reboot={'type': 'HARD'})
        self.assertEqual('ACTIVE', after['status'])
        self.assertEqual('running', self.state(server['id']))
        self.assertEqual(f'isolation: {FAULT}', self.fault(server))
        self.assertEqual([], self.verbs(server))


class HostFaultAtTheStartTest(base.IsolationTestCase):
    def prepare_connection(self, connection):
        connection.security_models.clear()

    def test_the_service_never_is_enabled(self):
        seen = []
        enable = libvirt_driver.LibvirtDriver._set_host_enabled

        # with Nova's own signature, which is checked
        def record(self, enabled, disable_reason=None):
            seen.append(enabled)
            enable(self, enabled, disable_reason)

        self.useFixture(
            fixtures.MonkeyPatch(
                'nova.virt.libvirt.driver.LibvirtDriver._set_host_enabled',
                record,
            )
        )
        self.start_compute()
        self.assertEqual({False}, set(seen))
        service = self.service()
        self.assertEqual('disabled', service['status'])
        self.assertEqual(
            f'AUTO: isolation: {FAULT}', service['disabled_reason']
        )
