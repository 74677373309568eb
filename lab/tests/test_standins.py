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

import io
import json
import unittest

import identity
import network
import volume


class IdentityTest(unittest.TestCase):
    def test_names_are_in_the_token(self):
        headers = identity.identify('alice:blue')
        self.assertEqual('alice', headers['X-User-Name'])
        self.assertEqual('blue', headers['X-Project-Name'])
        self.assertEqual('member,reader', headers['X-Roles'])

    def test_projects_have_ids_of_their_own(self):
        blue, red = (
            identity.identify(f'alice:{p}')['X-Project-Id']
            for p in ('blue', 'red')
        )
        self.assertNotEqual(blue, red)

    def test_admin_is_the_administrator(self):
        self.assertIn('admin', identity.identify('admin:lab')['X-Roles'])

    def test_who_shows_no_token_is_refused(self):
        told = []
        application = identity.filter_factory({})(lambda env, start: [b'in'])
        answer = application(
            {'PATH_INFO': '/v2.1/servers'}, lambda *words: told.append(words)
        )
        self.assertEqual('401 Unauthorized', told[0][0])
        self.assertNotEqual([b'in'], answer)


class StandInTestCase(unittest.TestCase):
    """A test of a stand-in that speaks JSON.

    :ivar application: the WSGI application
    """

    def request(self, method, path, body=None, query=''):
        told = []
        content = b'' if body is None else json.dumps(body).encode()
        environment = {
            'REQUEST_METHOD': method,
            'PATH_INFO': f'/{self.application.version}/{path}',
            'QUERY_STRING': query,
            'CONTENT_LENGTH': str(len(content)),
            'wsgi.input': io.BytesIO(content),
            'wsgi.errors': io.StringIO(),
        }
        answer = b''.join(
            self.application(environment, lambda *words: told.append(words))
        )
        return told[0][0], json.loads(answer) if answer else None


class NetworkTest(StandInTestCase):
    def setUp(self):
        self.application = network.Application()

    def test_a_port_with_a_host_is_bound_as_a_tap(self):
        wanted = {'port': {'device_id': 'vm'}}
        port = self.request('POST', 'ports', wanted)[1]['port']
        self.assertEqual('unbound', port['binding:vif_type'])
        path = f'ports/{port["id"]}'
        self.request('PUT', path, {'port': {'binding:host_id': 'node1'}})
        port = self.request('GET', path)[1]['port']
        self.assertEqual('tap', port['binding:vif_type'])
        self.assertEqual('vm', port['device_id'])

    def test_ports_are_listed_by_their_server(self):
        for server in ('one', 'two'):
            self.request('POST', 'ports', {'port': {'device_id': server}})
        listed = self.request('GET', 'ports', query='device_id=two')[1]
        self.assertEqual(['two'], [p['device_id'] for p in listed['ports']])

    def test_a_deleted_port_is_not_found(self):
        port = self.request('POST', 'ports', {'port': {}})[1]['port']
        self.assertEqual(
            ('204 No Content', None),
            self.request('DELETE', f'ports/{port["id"]}'),
        )
        self.assertEqual(
            '404 Not Found', self.request('GET', f'ports/{port["id"]}')[0]
        )


class VolumeTest(StandInTestCase):
    def setUp(self):
        self.application = volume.Application()

    def create(self, **more):
        wanted = {'metadata': {'device_path': '/dev/loop7'}} | more
        answer = self.request('POST', 'volumes', {'volume': wanted})[1]
        return answer['volume']['id']

    def status(self, identity):
        return self.request('GET', f'volumes/{identity}')[1]['volume'][
            'status'
        ]

    def attach(self, identity, server='vm', connector=None):
        wanted = {
            'volume_uuid': identity,
            'instance_uuid': server,
            'connector': connector,
        }
        return self.request('POST', 'attachments', {'attachment': wanted})

    def attached(self, identity, server='vm'):
        """Attach a volume as Nova does."""
        number = self.attach(identity, server)[1]['attachment']['id']
        connector = {'connector': {'mountpoint': '/dev/vdb'}}
        answer = self.request(
            'PUT', f'attachments/{number}', {'attachment': connector}
        )[1]
        self.request(
            'POST', f'attachments/{number}/action', {'os-complete': None}
        )
        return answer['attachment']

    def test_the_root_tells_the_versions(self):
        self.application.version = ''
        versions = self.request('GET', '')[1]['versions']
        self.assertEqual(['3.0'], [v['min_version'] for v in versions])

    def test_a_volume_without_a_device_is_refused(self):
        answer = self.request('POST', 'volumes', {'volume': {'size': 1}})
        self.assertEqual('400 Bad Request', answer[0])
        self.assertIn('device_path', answer[1]['badRequest']['message'])

    def test_a_volume_is_attached_step_by_step(self):
        identity = self.create()
        self.assertEqual('available', self.status(identity))
        number = self.attach(identity)[1]['attachment']['id']
        self.assertEqual('reserved', self.status(identity))
        connector = {'connector': {'mountpoint': '/dev/vdb'}}
        answer = self.request(
            'PUT', f'attachments/{number}', {'attachment': connector}
        )[1]
        self.assertEqual('attaching', self.status(identity))
        info = answer['attachment']['connection_info']
        self.assertEqual('local', info['driver_volume_type'])
        self.assertEqual('/dev/loop7', info['device_path'])
        action = {'os-complete': None}
        self.request('POST', f'attachments/{number}/action', action)
        self.assertEqual('in-use', self.status(identity))
        self.request('DELETE', f'attachments/{number}')
        self.assertEqual('available', self.status(identity))

    def test_a_volume_that_is_attached_is_refused_to_others(self):
        identity = self.create()
        self.attached(identity)
        self.assertEqual('400 Bad Request', self.attach(identity, 'two')[0])
        self.assertEqual(
            '400 Bad Request', self.request('DELETE', f'volumes/{identity}')[0]
        )

    def test_a_volume_for_several_is_in_use_until_the_last_one_goes(self):
        identity = self.create(multiattach=True)
        first = self.attached(identity, 'one')
        second = self.attached(identity, 'two')
        self.request('DELETE', f'attachments/{first["id"]}')
        self.assertEqual('in-use', self.status(identity))
        shown = self.request('GET', f'volumes/{identity}')[1]['volume']
        self.assertEqual(
            ['two'], [a['server_id'] for a in shown['attachments']]
        )
        self.request('DELETE', f'attachments/{second["id"]}')
        self.assertEqual('available', self.status(identity))

    def test_attachments_are_listed_by_their_server(self):
        for server in ('one', 'two'):
            self.attach(self.create(), server)
        listed = self.request('GET', 'attachments', query='instance_id=two')
        self.assertEqual(
            ['two'], [a['instance'] for a in listed[1]['attachments']]
        )

    def test_a_detachment_may_be_taken_back(self):
        identity = self.create()
        self.attached(identity)
        path = f'volumes/{identity}/action'
        self.request('POST', path, {'os-begin_detaching': {}})
        self.assertEqual('detaching', self.status(identity))
        self.request('POST', path, {'os-roll_detaching': None})
        self.assertEqual('in-use', self.status(identity))

    def test_what_is_not_there_is_not_found(self):
        for path in ('volumes/none', 'attachments/none', 'snapshots/none'):
            self.assertEqual('404 Not Found', self.request('GET', path)[0])
