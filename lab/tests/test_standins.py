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


class NetworkTest(unittest.TestCase):
    def setUp(self):
        self.application = network.Application()

    def request(self, method, path, body=None, query=''):
        told = []
        content = b'' if body is None else json.dumps(body).encode()
        environment = {
            'REQUEST_METHOD': method,
            'PATH_INFO': '/v2.0/' + path,
            'QUERY_STRING': query,
            'CONTENT_LENGTH': str(len(content)),
            'wsgi.input': io.BytesIO(content),
            'wsgi.errors': io.StringIO(),
        }
        answer = b''.join(
            self.application(environment, lambda *words: told.append(words))
        )
        return told[0][0], json.loads(answer) if answer else None

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
