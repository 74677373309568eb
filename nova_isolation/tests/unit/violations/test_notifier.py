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

import tempfile
from unittest import mock

from oslo_config import cfg
from oslotest import base

from nova_isolation import exceptions
from nova_isolation.violations import notifier
from nova_isolation.violations import spool


class NotifierTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.transport = mock.Mock()
        self.notifier = notifier.Notifier(self.transport, 'topic', 'cmp1')
        self.entry = spool.Entry(
            'x.json',
            'an-id',
            1795424098.237,
            'isolation.test',
            'warn',
            {'a': 1},
        )

    def test_the_message_is_that_of_oslo_messagings_own_driver(self):
        self.notifier.send(self.entry)
        ((target, context, message), options) = (
            self.transport._send_notification.call_args
        )
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
        self.assertEqual({'version': 2.0, 'retry': 0}, options)

    def test_whatever_the_transport_raises_is_not_sent_in_one_line(self):
        self.transport._send_notification.side_effect = OSError('a\nb')
        e = self.assertRaises(
            exceptions.NotSent, self.notifier.send, self.entry
        )
        self.assertEqual('OSError: a b', e.message)


class ConnectTestCase(base.BaseTestCase):
    def test_a_wrong_url_names_the_option_and_keeps_the_password(self):
        for url in (
            '://',
            'nosuch://u:secret@host/',
            'rabbit://u:secret@host:port/',
            'rabbit://u:secret/x@host/',
            'rabbit://u:secret@[::1/',
        ):
            with tempfile.NamedTemporaryFile('w', suffix='.conf') as file:
                file.write(f'[DEFAULT]\ntransport_url = {url}\n')
                file.flush()
                conf = cfg.ConfigOpts()
                conf(['--config-file', file.name])
            e = self.assertRaises(
                exceptions.ConfigurationError, notifier.connect, conf
            )
            self.assertIn('transport_url', e.message)
            self.assertNotIn('secret', e.message)
