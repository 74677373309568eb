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


"""One nova-compute with our driver, its hooks recorded."""

from collections.abc import Mapping
import itertools
import os
import sys
import time
import types

import fixtures
import nova.conf
from nova import context as nova_context
from nova import objects
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.tests.functional.api import client
from nova.tests.functional.libvirt import base

from nova_isolation.conf import isolation as options
from nova_isolation.tests.functional import fixtures as isolation_fixtures
from nova_isolation.violations import spool

CONF = nova.conf.CONF

#: seconds that an operation may take
_PATIENCE = 60


class IsolationTestCase(base.ServersTestBase):
    """API, conductor, scheduler and a compute node in one process."""

    microversion = 'latest'
    ADMIN_API = True
    # a refusal is an exception on the compute node: nobody hears it there
    CAST_AS_CALL = False

    #: values of the [isolation] group
    isolation: Mapping[str, str] = types.MappingProxyType({})

    def setUp(self):
        self.hooks = self.useFixture(isolation_fixtures.TestHooks())
        self.recording = self.hooks.recording
        # as in a process that has not loaded its driver yet
        sys.modules.pop('nova.virt.isolation', None)
        # Nova's fixture looks for it in a checkout of Nova
        paste = os.path.join(sys.prefix, 'etc/nova/api-paste.ini')
        self.flags(api_paste_config=paste, group='wsgi')
        super().setUp()
        self.useFixture(isolation_fixtures.LibvirtModules())
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova.virt.libvirt.driver.LibvirtDriver._create_image',
                lambda driver, *args, **kwargs: self._create_files(
                    *args, **kwargs
                ),
            )
        )
        options.register_opts(CONF)
        self.spool_directory = os.path.join(
            self.useFixture(fixtures.TempDir()).path, 'spool'
        )
        self.flags(
            hooks=['recorder'],
            spool_directory=self.spool_directory,
            group='isolation',
        )
        self.flags(group='isolation', **self.isolation)
        self.recording.look = self.state
        self.connections = []

    def _setup_compute_service(self):
        self.flags(compute_driver='isolation.LibvirtDriver')

    def _get_connection(self, *hardware_and_hostname):
        connection = isolation_fixtures.Connection(
            'qemu:///system',
            version=fakelibvirt.FAKE_LIBVIRT_VERSION,
            hv_version=fakelibvirt.FAKE_QEMU_VERSION,
            host_info=fakelibvirt.HostInfo(
                cpu_nodes=2, cpu_sockets=1, cpu_cores=2, cpu_threads=2
            ),
            hostname=hardware_and_hostname[-1],
        )
        self.prepare_connection(connection)
        self.connections.append(connection)
        return connection

    def prepare_connection(self, connection):
        """Change a libvirtd before nova-compute sees it."""

    def _create_files(
        self, context, instance, mapping, suffix='', *args, **kwargs
    ):
        # As Nova does, whose images are nothing that is tested here
        directory = self.directory(instance.uuid)
        created = not os.path.exists(directory)
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, f'disk{suffix}'), 'w') as f:
            f.write('tenant data')
        return created, not suffix

    # --- what is there ----------------------------------------------------

    def directory(self, uuid):
        return os.path.join(CONF.instances_path, uuid)

    def files(self, uuid):
        """List an instance's files, or None when there is no directory."""
        try:
            return sorted(os.listdir(self.directory(uuid)))
        except FileNotFoundError:
            return None

    def domain(self, uuid):
        for connection in self.connections:
            domain = connection.domain(uuid)
            if domain is not None:
                return domain
        return None

    def state(self, uuid):
        domain = self.domain(uuid)
        return 'absent' if domain is None else domain.state

    def verbs(self, server):
        """Tell what the hooks were called for, a repetition once."""
        found = self.recording.verbs(server['id'])
        return [call for call, _ in itertools.groupby(found)]

    def executions(self, server):
        """Count how often the vCPUs of a server were let run."""
        return sum(c.executed.count(server['id']) for c in self.connections)

    def events(self):
        """Give what lies in the spool for the agent."""
        return list(spool.Spool(self.spool_directory, 10).entries())

    def fault(self, server, what='message'):
        """Give the last fault of a server, which only some states show.

        :param what: ``details`` is what the API shows to administrators alone
        """
        context = nova_context.get_admin_context()
        uuid = server['id']
        mapping = objects.InstanceMapping.get_by_instance_uuid(context, uuid)
        with nova_context.target_cell(context, mapping.cell_mapping) as cell:
            fault = objects.InstanceFault.get_latest_for_instance(cell, uuid)
        return getattr(fault, what) if fault else None

    def service(self, host='compute1'):
        return self.admin_api.get_services(host=host, binary='nova-compute')[0]

    # --- what is done -----------------------------------------------------

    def boot(self, expected_state='ACTIVE', **kwargs):
        """Create a server and forget what the hooks were called for."""
        server = self._create_server(
            networks='none', expected_state=expected_state, **kwargs
        )
        self.recording.forget()
        return server

    def wait(self, what, condition):
        """Wait until something is so.

        :param what: in words
        :param condition: gives something true when it is
        :returns: what it gave
        """
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            # an answer of the API is work for the processor that others need
            time.sleep(0.1)
        self.fail(f'{what} did not come')

    def _wait_for_state_change(self, server, expected_status, **kwargs):
        # Nova's own looks twice a second
        def reached():
            found = self.admin_api.get_server(server['id'])
            if found['status'] != expected_status:
                return None
            # Nova writes the state before the fault
            return (
                None
                if (expected_status == 'ERROR' and 'fault' not in found)
                else found
            )

        return self.wait(f'the state {expected_status}', reached)

    def act(self, server, **action):
        """Let Nova do something with a server, and wait until it is done.

        :param action: the body of the API's server action
        :returns: the server
        """
        known = {
            a['request_id']
            for a in self.admin_api.get_instance_actions(server['id'])
        }
        self.admin_api.post_server_action(server['id'], action)
        return self.finish(server, known)

    def finish(self, server, known):
        """Wait until the newest operation on a server is over.

        :param known: the requests of the operations before it
        """

        def finished():
            for entry in self.admin_api.get_instance_actions(server['id']):
                if entry['request_id'] not in known:
                    events = self.admin_api.api_get(
                        f'/servers/{server["id"]}/os-instance-actions/'
                        f'{entry["request_id"]}'
                    ).body['instanceAction']['events']
                    return events and all(e['finish_time'] for e in events)
            return False

        def idle():
            found = self.admin_api.get_server(server['id'])
            return not found['OS-EXT-STS:task_state'] and found

        self.wait('the end of the operation', finished)
        return self.wait('the end of the task', idle)

    def delete(self, server):
        self.admin_api.delete_server(server['id'])

        def gone():
            try:
                self.admin_api.get_server(server['id'])
            except client.OpenStackApiNotFoundException:
                return True

        self.wait('the end of the server', gone)
