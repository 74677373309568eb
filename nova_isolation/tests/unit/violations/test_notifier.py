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

"""What goes over the wire; the broker's part is in the functional tests."""

import dataclasses
import tempfile
import threading
from typing import Any
from unittest import mock

import ddt
from oslo_config import cfg
from oslotest import base

from nova_isolation.conf import agent as agent_options
from nova_isolation import exceptions
from nova_isolation.tests.unit.violations import samples
from nova_isolation.violations import journal
from nova_isolation.violations import notifier


def _conf(section='isolation', **options):
    # a file: the group's object, and so an override, is shared by all tests
    lines = [f'{name} = {value}\n' for name, value in options.items()]
    with tempfile.NamedTemporaryFile('w', suffix='.conf') as file:
        file.write(f'[{section}]\n{"".join(lines)}')
        file.flush()
        conf = cfg.ConfigOpts()
        agent_options.register_opts(conf)
        conf(['--config-file', file.name])
    return conf


def _entry(**changes: Any) -> journal.Entry:
    entry = journal.Entry(
        id='an-id',
        time=1795424098.237,
        event_type='isolation.test',
        priority='warn',
        instance='',
        payload={'a': 1},
    )
    return dataclasses.replace(entry, **changes)


class NotifierTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.transport = mock.Mock()
        self.send = self.transport._send_notification

    def _notifier(self, *routes, patience=10):
        return notifier.Notifier(
            self.transport,
            routes or (notifier.Route('topic'),),
            'cmp1',
            patience,
        )

    def test_the_message_is_that_of_oslo_messagings_own_driver(self):
        self._notifier().send(_entry())
        ((target, context, message), options) = self.send.call_args
        self.assertEqual('topic.warn', target.topic)
        self.assertEqual({}, context)
        self.assertEqual(
            {
                'message_id': 'an-id',
                'publisher_id': 'nova-isolation:cmp1',
                'event_type': 'isolation.test',
                'priority': 'WARN',
                'payload': {'a': 1},
                'timestamp': '2026-11-23 08:54:58.237000',
            },
            message,
        )
        self.assertEqual({'version': 2.0, 'retry': 1}, options)

    def test_each_route_gets_its_form_with_the_same_id(self):
        entry = samples.entry(samples.EVENTS['isolation-refused'])
        self._notifier(
            notifier.Route('a'),
            notifier.Route('b'),
            notifier.Route('v', versioned=True),
        ).send(entry)
        sent = [call.args for call in self.send.call_args_list]
        self.assertEqual(
            ['a.error', 'b.error', 'v.error'], [t.topic for t, _, _ in sent]
        )
        plain, other, versioned = (m for _, _, m in sent)
        self.assertEqual(entry.payload, plain['payload'])
        # oslo.messaging writes into what it is given
        self.assertIsNot(plain, other)
        self.assertEqual(plain, other)
        self.assertEqual(
            'RefusedPayload',
            versioned['payload']['nova_isolation_object.name'],
        )
        for key in plain.keys() - {'payload'}:
            self.assertEqual(plain[key], versioned[key])

    def test_whatever_the_transport_raises_is_not_sent_in_one_line(self):
        self.send.side_effect = OSError('a\nb')
        e = self.assertRaises(
            exceptions.NotSent, self._notifier().send, _entry()
        )
        self.assertEqual('OSError: a b', e.message)

    def test_after_the_first_failure_nothing_more_is_tried(self):
        self.send.side_effect = OSError
        sending = self._notifier(notifier.Route('a'), notifier.Route('b'))
        self.assertRaises(exceptions.NotSent, sending.send, _entry())
        self.assertEqual(1, self.send.call_count)

    def test_a_value_error_of_the_driver_is_no_fault_of_the_event(self):
        # e.g. of ssl, when the options do not fit together
        self.send.side_effect = ValueError
        self.assertRaises(exceptions.NotSent, self._notifier().send, _entry())

    def test_what_is_no_message_cannot_be_sent(self):
        deep: list[Any] = []
        for _ in range(5000):
            deep = [deep]
        for changes in (
            {'payload': {'a': object()}},
            {'payload': {'a': b'bytes'}},
            {'payload': {'a': {1, 2}}},
            {'payload': {'a': float('nan')}},
            {'payload': {'a': deep}},
            {'payload': 5},
            {'time': 1e20},
            {'time': float('nan')},
            {'priority': 'critical'},
            {'priority': '#'},
        ):
            e = self.assertRaises(
                exceptions.CannotBeSent,
                self._notifier().send,
                _entry(**changes),
            )
            self.assertIn('an-id', e.message)
        self.send.assert_not_called()

    def test_what_has_one_form_only_is_sent_in_that(self):
        sending = self._notifier(
            notifier.Route('v', versioned=True), notifier.Route('plain')
        )
        e = self.assertRaises(exceptions.CannotBeSent, sending.send, _entry())
        self.assertIn('isolation.test', e.message)
        ((target, _, _),) = (call.args for call in self.send.call_args_list)
        self.assertEqual('plain.warn', target.topic)

    def test_a_broker_that_hangs_is_not_waited_for(self):
        sends, gate = threading.Event(), threading.Event()
        self.addCleanup(gate.set)

        def send(*args, **kwargs):
            sends.set()
            gate.wait(60)

        self.send.side_effect = send
        sending = self._notifier(patience=0.05)
        for id_ in ('one', 'one', 'two'):
            e = self.assertRaises(
                exceptions.NotSent, sending.send, _entry(id=id_)
            )
            self.assertIn('alarm', e.message)
        self.assertTrue(sends.wait(30))
        self.assertEqual(1, self.send.call_count)


@ddt.ddt
class RoutesTestCase(base.BaseTestCase):
    def test_by_default_one_plain_form_to_a_topic_of_its_own(self):
        self.assertEqual(
            (notifier.Route('nova_isolation', versioned=False),),
            notifier.routes(_conf()),
        )

    def test_what_the_format_does_not_need_is_not_used(self):
        conf = _conf(
            notification_format='versioned',
            notification_topics='',
            versioned_notification_topics='a, b, a',
        )
        self.assertEqual(
            (notifier.Route('a', True), notifier.Route('b', True)),
            notifier.routes(conf),
        )

    def test_both(self):
        conf = _conf(
            notification_format='both',
            notification_topics='notifications, own',
        )
        self.assertEqual(
            (
                notifier.Route('notifications', False),
                notifier.Route('own', False),
                notifier.Route('nova_isolation_versioned', True),
            ),
            notifier.routes(conf),
        )

    @ddt.data('notification_topics', 'versioned_notification_topics')
    def test_a_form_without_a_topic_is_refused(self, option):
        conf = _conf(notification_format='both', **{option: ''})
        e = self.assertRaises(
            exceptions.ConfigurationError, notifier.routes, conf
        )
        self.assertIn(f' {option}', e.message)

    # the wildcards would bind the queue to everything in the exchange
    @ddt.data('#', 'a.*', 'a b', 'amq.x', 'x' * 241, 'caf\u00e9', 'a\t1')
    def test_a_name_that_cannot_be_used_is_refused(self, topic):
        conf = _conf(notification_topics=f'good,{topic}')
        e = self.assertRaises(
            exceptions.ConfigurationError, notifier.routes, conf
        )
        self.assertIn('notification_topics', e.message)

    def test_one_topic_for_both_forms_is_refused(self):
        conf = _conf(
            notification_format='both',
            versioned_notification_topics='nova_isolation',
        )
        self.assertRaises(exceptions.ConfigurationError, notifier.routes, conf)


@ddt.ddt
class ConnectTestCase(base.BaseTestCase):
    @ddt.data(
        '://',
        'nosuch://u:secret@host/',
        'rabbit://u:secret@host:port/',
        'rabbit://u:secret/x@host/',
        'rabbit://u:secret@[::1/',
    )
    def test_a_wrong_url_names_the_option_and_keeps_the_password(self, url):
        for section, option in (
            ('DEFAULT', 'transport_url'),
            ('isolation', '[isolation] notification_transport_url'),
        ):
            conf = _conf(section, **{option.split()[-1]: url})
            e = self.assertRaises(
                exceptions.ConfigurationError, notifier.connect, conf
            )
            self.assertIn(f'option {option} ', e.message)
            self.assertNotIn('secret', e.message)
