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

"""Events reach a consumer over a real RabbitMQ, or the sender knows."""

import pathlib
import tempfile
import threading
import time

import fixtures
from oslo_config import cfg
from oslotest import base

from nova_isolation.agent import sender
from nova_isolation import exceptions
from nova_isolation.tests.functional import consumer
from nova_isolation.tests.functional import rabbitmq
from nova_isolation.violations import model
from nova_isolation.violations import notifier
from nova_isolation.violations import spool


def _refused(reason='it is not confined'):
    return model.Refused(
        host='cmp1',
        instance=model.Instance(model.new_id(), name='vm1'),
        operation='spawn',
        reason=reason,
    )


class NotifierTestCase(base.BaseTestCase):
    """Each test has topics and a spool of its own, the broker is shared."""

    broker: rabbitmq.RabbitMQ

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.broker = rabbitmq.RabbitMQ()
        cls.addClassCleanup(cls.broker.cleanUp)
        cls.broker.setUp()

    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.home = pathlib.Path(temporary.name)
        self.conf_file = self.home / 'nova.conf'
        # Durable queues outlive the broker: that what arrives after a restart
        # was sent once is then seen, too.
        self.conf_file.write_text(
            f'[DEFAULT]\ntransport_url = {self.broker.url}\n'
            f'[oslo_messaging_rabbit]\namqp_durable_queues = true\n'
        )
        self.topic = f'topic-{model.new_id()}'
        conf = cfg.ConfigOpts()
        conf(['--config-file', str(self.conf_file)])
        self.notifier = notifier.Notifier(
            notifier.connect(conf), self.topic, 'cmp1'
        )
        self.addCleanup(self.notifier.close)
        self.spool = spool.Spool(str(self.home / 'spool'), 1000)

    def _consume(self):
        return self.useFixture(consumer.Consumer(self.conf_file, self.topic))

    def _put(self, event):
        self.spool.put_event(event)
        (entry,) = (e for e in self.spool.entries() if e.id == event.id)
        return entry

    def _without_broker(self):
        self.broker.stop()
        self.addCleanup(self._with_broker)

    def _with_broker(self):
        if not self.broker.running:
            self.broker.start()

    def _start_sender(self):
        sending = sender.Sender(self.spool, self.notifier)
        sending.start()
        self.addCleanup(sending.stop, 10)
        return sending

    def test_a_stock_listener_receives_exactly_the_event(self):
        consuming = self._consume()
        event = _refused('h\u00e9 \u65e5 "quoted"\n\x1b[0m')
        entry = self._put(event)
        self.notifier.send(entry)
        self.assertTrue(consuming.wait(1))
        ((priority, publisher, event_type, payload, metadata),) = (
            consuming.received
        )
        self.assertEqual('error', priority)
        self.assertEqual('nova-isolation:cmp1', publisher)
        self.assertEqual('isolation.refused', event_type)
        self.assertEqual(event.payload(), payload)
        self.assertEqual(event.id, metadata['message_id'])

    def test_each_priority_has_its_topic(self):
        consuming = self._consume()
        for priority in ('info', 'warn', 'error'):
            self.spool.put('isolation.test', priority, {})
        for entry in self.spool.entries():
            self.notifier.send(entry)
        self.assertTrue(consuming.wait(3))
        self.assertEqual(
            {'info', 'warn', 'error'}, {r[0] for r in consuming.received}
        )

    def test_an_event_without_a_consumer_waits_for_one(self):
        event = _refused()
        self.notifier.send(self._put(event))
        consuming = self._consume()
        self.assertTrue(consuming.wait(1))
        self.assertEqual(event.id, consuming.received[0][3]['id'])

    def test_without_a_broker_each_send_raises_at_once(self):
        # over a connection that was good, and over none
        self.notifier.send(self._put(_refused()))
        entry = self._put(_refused())
        self._without_broker()
        for _ in range(3):
            begun = time.monotonic()
            self.assertRaises(exceptions.NotSent, self.notifier.send, entry)
            self.assertLess(time.monotonic() - begun, 5)

    def test_the_sender_delivers_what_is_put_at_once(self):
        # and not when it would look for itself
        self.useFixture(
            fixtures.MonkeyPatch('nova_isolation.agent.sender._POLL', 3600)
        )
        consuming = self._consume()
        sending = self._start_sender()
        for count in (1, 2):
            self.spool.put_event(_refused())
            sending.wake()
            self.assertTrue(consuming.wait(count))

    def test_events_outlive_the_broker_and_arrive_in_order(self):
        sending = self._start_sender()
        before = [_refused(str(n)) for n in range(5)]
        for event in before:
            self.spool.put_event(event)
        sending.wake()
        self._wait_until_empty()
        self._without_broker()
        during = [_refused(str(n)) for n in range(5, 25)]
        for event in during:
            self.spool.put_event(event)
            sending.wake()
        # several attempts fail, nothing is forgotten
        time.sleep(2)
        self.assertEqual(
            [e.id for e in during], [e.id for e in self.spool.entries()]
        )
        self._with_broker()
        consuming = self._consume()
        self.assertTrue(consuming.wait(25))
        self._wait_until_empty()
        ids = [r[3]['id'] for r in consuming.received]
        self.assertEqual([e.id for e in before + during], ids)

    def test_a_broker_killed_during_a_flood_loses_nothing(self):
        sending = self._start_sender()
        events = [_refused(str(n)) for n in range(300)]
        threading.Timer(0.3, self.broker.kill).start()
        self.addCleanup(self._with_broker)
        for event in events:
            self.spool.put_event(event)
            sending.wake()
            time.sleep(0.003)
        self.assertFalse(self.broker.running)
        self._with_broker()
        consuming = self._consume()
        self._wait_until_empty()
        self.assertTrue(consuming.wait(300))
        arrived = [r[3]['id'] for r in consuming.received]
        # The one in flight may have arrived twice, with the same id.
        self.assertEqual([e.id for e in events], list(dict.fromkeys(arrived)))
        self.assertLessEqual(len(arrived), 301)

    def _wait_until_empty(self):
        deadline = time.monotonic() + 40
        while list(self.spool.entries()):
            self.assertLess(time.monotonic(), deadline, 'the spool fills')
            time.sleep(0.05)
