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

"""What comes over the bus is checked before anybody acts on it."""

import dataclasses
import json
from unittest import mock

import oslo_messaging
from oslotest import base

from nova_isolation.agent import rpc
from nova_isolation.agent import rpcapi
from nova_isolation import exceptions
from nova_isolation.violations import broker

UUID = '5f0a2f0e-90ad-4b5b-8d6e-0d6a1f3b7a01'


@dataclasses.dataclass(frozen=True)
class Entry:
    seq: int
    instance: str | None = UUID
    payload: dict = dataclasses.field(default_factory=dict)
    sent: bool = False
    time: float = 1795424098.237
    event_type: str = 'isolation.violation'
    priority: str = 'warn'

    @property
    def id(self):
        return f'id-{self.seq}'


class Journal:
    def __init__(self, *entries):
        self.all = entries
        self.limits = []

    def entries(self, since_seq, instance, limit):
        self.limits.append(limit)
        return [
            e
            for e in self.all
            if e.seq > since_seq and instance in (None, e.instance)
        ][:limit]


def _endpoint(journal=None, **callables):
    known = {
        'status': lambda: {'ok': True},
        'profile': lambda uuid: f'profile of {uuid}',
        'verify': lambda uuid: {'verified': uuid},
    }
    return rpc.Endpoint(journal=journal or Journal(), **{**known, **callables})


class DispatcherTestCase(base.BaseTestCase):
    """Through oslo.messaging's own dispatcher, as over the bus."""

    def _dispatch(self, message, endpoint=None):
        incoming = mock.Mock(message=message, ctxt={})
        return rpc._Dispatcher(
            [endpoint or _endpoint()],
            None,
            oslo_messaging.ExplicitRPCAccessPolicy,
        ).dispatch(incoming)

    def _call(self, method, endpoint=None, **arguments):
        return self._dispatch({'method': method, 'args': arguments}, endpoint)

    def _refused(self, message, endpoint=None, kind=exceptions.InvalidRequest):
        # what oslo.messaging answers without a traceback in the log
        try:
            self._dispatch(message, endpoint)
        except oslo_messaging.ExpectedException as e:
            self.assertIsInstance(e.exc_info[1], kind)
            return str(e.exc_info[1])
        self.fail('it was taken')


class EndpointTestCase(DispatcherTestCase):
    def test_the_questions_are_answered(self):
        self.assertEqual({'ok': True}, self._call('status'))
        self.assertEqual(
            f'profile of {UUID}', self._call('profile', instance=UUID)
        )
        self.assertEqual(
            {'verified': UUID}, self._call('verify', instance=UUID)
        )
        self.assertEqual(
            {'events': [], 'cursor': 7}, self._call('violations', since=7)
        )

    def test_what_has_not_the_shape_is_refused(self):
        for message in (
            {},
            {'method': None},
            {'method': 5},
            {'method': ['status']},
            {'method': 'status', 'args': None},
            {'method': 'status', 'args': [1]},
            {'method': 'status', 'args': 'x'},
            {'method': 'status', 'namespace': {}},
            {'method': 'status', 'version': None},
            {'method': 'status', 'version': 1.0},
            {'method': 'status', 'version': 'x'},
            {'method': 'status', 'version': '1'},
            {'method': 'status', 'version': '1.x'},
            {'method': 'status', 'version': '9' * 5000},
            {'method': 'status', 'args': {'x': 1}},
            {'method': 'status', 'args': {'self': 1}},
            {'method': 'status', 'args': {'context': 1}},
            {'method': 'profile', 'args': {}},
            {'method': 'verify', 'args': {'instance': UUID, 'x': 1}},
        ):
            self._refused(message)

    def test_only_the_questions_can_be_asked(self):
        for method in (
            '__init__',
            '_status',
            '_journal',
            'target',
            'nosuch',
            '',
            'status\n',
        ):
            self._refused({'method': method}, kind=oslo_messaging.NoSuchMethod)

    def test_another_version_is_refused(self):
        for version in (
            '2.0',
            '0.9',
            '1.1',
            '1.0.1',
        ):
            self._refused(
                {'method': 'status', 'version': version},
                kind=oslo_messaging.UnsupportedVersion,
            )

    def test_another_namespace_is_refused(self):
        self._refused(
            {'method': 'status', 'namespace': 'x'},
            kind=oslo_messaging.UnsupportedVersion,
        )

    def test_no_sign_of_life_is_promised(self):
        # oslo.messaging's thread for it would never end after a refusal
        incoming = mock.Mock(
            message={'method': 'status', 'version': '9.0'},
            ctxt={},
            client_timeout=2,
        )
        dispatcher = rpc._Dispatcher(
            [_endpoint()], None, oslo_messaging.ExplicitRPCAccessPolicy
        )
        self.assertRaises(
            oslo_messaging.ExpectedException, dispatcher.dispatch, incoming
        )
        self.assertIsNone(incoming.client_timeout)

    def test_a_guest_is_named_by_its_uuid(self):
        for instance in (
            None,
            '',
            5,
            True,
            [UUID],
            {'uuid': UUID},
            UUID.upper(),
            UUID + '\n',
            f'../{UUID}',
            f'libvirt-{UUID}',
            'x' * 1000000,
        ):
            for method in ('profile', 'verify', 'violations'):
                if method == 'violations' and instance is None:
                    continue
                words = self._refused(
                    {'method': method, 'args': {'instance': instance}},
                    _endpoint(
                        mock.Mock(), profile=self.fail, verify=self.fail
                    ),
                )
                self.assertTrue(words.isprintable())
                self.assertLess(len(words), 200)

    def test_numbers_have_ranges(self):
        for name, value in (
            ('since', -1),
            ('since', 2**63),
            ('since', 1.5),
            ('since', '1'),
            ('since', True),
            ('since', [1]),
            ('since', float('nan')),
            ('limit', 0),
            ('limit', 1001),
            ('limit', 10**5000),
            ('limit', {}),
        ):
            words = self._refused(
                {'method': 'violations', 'args': {name: value}},
                _endpoint(mock.Mock()),
            )
            self.assertTrue(
                words.startswith(f'{name} is a number from '), words
            )

    def test_what_the_agent_has_to_say_is_an_answer(self):
        def verify(uuid):
            raise exceptions.NotConfined('it is not')

        self.assertEqual(
            'it is not',
            self._refused(
                {'method': 'verify', 'args': {'instance': UUID}},
                _endpoint(verify=verify),
                exceptions.NotConfined,
            ),
        )

    def test_a_fault_of_the_agent_is_none(self):
        def status():
            raise OSError('disk')

        self.assertRaises(
            OSError, self._call, 'status', _endpoint(status=status)
        )


class ViolationsTestCase(DispatcherTestCase):
    def test_an_event_is_told_with_all_that_the_journal_has(self):
        entry = Entry(3, payload={'a': [1]}, sent=True)
        self.assertEqual(
            {
                'events': [
                    {
                        'seq': 3,
                        'id': 'id-3',
                        'time': 1795424098.237,
                        'event_type': 'isolation.violation',
                        'priority': 'warn',
                        'instance': UUID,
                        'sent': True,
                        'payload': {'a': [1]},
                    }
                ],
                'cursor': 3,
            },
            self._call('violations', _endpoint(Journal(entry))),
        )

    def test_the_cursor_leads_through_all_of_them_once(self):
        journal = Journal(*(Entry(n) for n in range(1, 512, 2)))
        seqs, cursor = [], 0
        while True:
            told = self._call(
                'violations', _endpoint(journal), since=cursor, limit=70
            )
            if not told['events']:
                break
            seqs += [e['seq'] for e in told['events']]
            cursor = told['cursor']
        self.assertEqual(list(range(1, 512, 2)), seqs)
        self.assertLessEqual(max(journal.limits), 50)

    def test_of_one_guest_only(self):
        journal = Journal(Entry(1), Entry(2, None), Entry(3))
        told = self._call('violations', _endpoint(journal), instance=UUID)
        self.assertEqual([1, 3], [e['seq'] for e in told['events']])

    def test_an_answer_has_an_end(self):
        large = {'x': 'x' * 300000}
        journal = Journal(*(Entry(n, payload=large) for n in range(1, 20)))
        told = self._call('violations', _endpoint(journal), limit=1000)
        self.assertLess(len(json.dumps(told)), 1100000)
        self.assertEqual([1, 2, 3], [e['seq'] for e in told['events']])
        self.assertEqual(3, told['cursor'])

    def test_one_that_is_too_large_is_told_alone(self):
        huge = {'x': 'x' * 2000000}
        journal = Journal(Entry(1, payload=huge), Entry(2))
        told = self._call('violations', _endpoint(journal))
        self.assertEqual([1], [e['seq'] for e in told['events']])


class ClientTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        patch = mock.patch('oslo_messaging.get_rpc_client')
        self.call = patch.start().return_value.prepare.return_value.call
        self.addCleanup(patch.stop)
        self.agents = rpcapi.AgentAPI(mock.Mock(), timeout=0.1)

    def _no_answer(self):
        e = self.assertRaises(exceptions.NoAnswer, self.agents.status, 'cmp1')
        self.assertIn('cmp1', e.message)
        self.assertTrue(e.message.isprintable(), e.message)
        return e.message

    def test_no_answer(self):
        self.call.side_effect = oslo_messaging.MessagingTimeout
        self.assertIn('is nova-isolation-agent running', self._no_answer())

    def test_a_fault_of_the_agent(self):
        self.call.side_effect = oslo_messaging.RemoteError(
            'KeyError', 'x\x1b', ['Traceback\n']
        )
        words = self._no_answer()
        self.assertIn('KeyError', words)
        self.assertNotIn('Traceback', words)

    def test_whatever_the_driver_raises(self):
        for error in (OSError('a\nb'), ValueError('x' * 100000)):
            self.call.side_effect = error
            self.assertLess(len(self._no_answer()), 2000)

    def test_an_answer_of_another_kind_is_none(self):
        self.call.return_value = ['x']
        self._no_answer()

    def test_what_the_agent_has_to_say_is_raised(self):
        self.call.side_effect = exceptions.InvalidRequest('no')
        self.assertRaises(
            exceptions.InvalidRequest, self.agents.verify, 'cmp1', 'x'
        )

    def test_a_broker_that_is_away_is_not_waited_for(self):
        errands = mock.patch.object(
            self.agents._errands, 'do', side_effect=broker.Late
        )
        with errands as do:
            self._no_answer()
        (_, limit), _ = do.call_args
        self.assertLess(limit, 5)
