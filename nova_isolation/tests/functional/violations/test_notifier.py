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

import contextlib
import dataclasses
import json
import pathlib
import re
import shlex
import subprocess
import tempfile
import threading
import time

import fixtures
from oslo_config import cfg
from oslotest import base

from nova_isolation.agent import sender
from nova_isolation.conf import agent as agent_options
from nova_isolation import exceptions
from nova_isolation.tests.functional import consumer
from nova_isolation.tests.functional import rabbitmq
from nova_isolation.tests.unit.violations import samples
from nova_isolation.violations import journal
from nova_isolation.violations import model
from nova_isolation.violations import notifier
from nova_isolation.violations import objects


GUESTS = [model.new_id() for _ in range(3)]


def _refused(reason='it is not confined', guest=0):
    return model.Refused(
        host='cmp1',
        instance=model.Instance(GUESTS[guest], name=f'vm{guest}'),
        operation='spawn',
        reason=reason,
    )


def _violation(number):
    event = samples.EVENTS['isolation-violation']
    return dataclasses.replace(event, id=model.new_id(), host=f'cmp{number}')


class BrokerTestCase(base.BaseTestCase):
    """Each test has topics and a journal of its own, the broker is shared."""

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
        self.topic = f'topic-{model.new_id()}'
        # Durable queues outlive the broker: that what arrives after a restart
        # was sent once is then seen, too.
        self._configure('amqp_durable_queues = true')
        self.notifier = self._notifier()
        self.journal = journal.Journal(
            str(self.home / 'journal'), 30, 64, 'cmp1'
        )
        self.addCleanup(self.journal.close)

    def _configure(self, rabbit='', isolation='', url=None):
        self.conf_file.write_text(
            f'[DEFAULT]\ntransport_url = {url or self.broker.url}\n'
            f'[oslo_messaging_rabbit]\n{rabbit}\n'
            f'[isolation]\nnotification_topics = {self.topic}\n{isolation}\n'
        )

    def _notifier(self, **options):
        conf = cfg.ConfigOpts()
        agent_options.register_opts(conf)
        conf(['--config-file', str(self.conf_file)])
        made = notifier.Notifier(
            notifier.connect(conf), notifier.routes(conf), 'cmp1', **options
        )
        self.addCleanup(made.close)
        return made

    def _consume(self, topic=None):
        return self.useFixture(
            consumer.Consumer(self.conf_file, topic or self.topic)
        )

    def _put(self, event):
        self.journal.commit([journal.Entry.of(event)])
        (entry,) = (e for e in self._unsent() if e.id == event.id)
        return entry

    def _unsent(self):
        return [e for e in self.journal.entries() if e.sent is None]

    def _without_broker(self):
        self.broker.stop()
        self.addCleanup(self._with_broker)

    def _with_broker(self):
        if not self.broker.running:
            self.broker.start()

    def _start_sender(self):
        sending = sender.Sender(self.journal, self.notifier)
        sending.start()
        self.addCleanup(sending.stop, 10)
        return sending


class NotifierTestCase(BrokerTestCase):
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
            made = journal.Entry.made(
                'isolation.test',
                priority,
                {'id': model.new_id()},
                time.time(),
            )
            self.journal.commit([made])
        for entry in self._unsent():
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

    def test_without_a_broker_each_send_raises_soon(self):
        # over a connection that was good, and over none
        self.notifier.send(self._put(_refused()))
        entry = self._put(_refused())
        self._without_broker()
        for _ in range(3):
            begun = time.monotonic()
            self.assertRaises(exceptions.NotSent, self.notifier.send, entry)
            # two attempts, and oslo.messaging's pauses between them
            self.assertLess(time.monotonic() - begun, 60)

    def test_the_sender_delivers_what_is_put_at_once(self):
        # and not when it would look for itself
        self.useFixture(
            fixtures.MonkeyPatch('nova_isolation.agent.sender._POLL', 3600)
        )
        consuming = self._consume()
        sending = self._start_sender()
        for count in (1, 2):
            self.journal.commit([journal.Entry.of(_refused())])
            sending.wake()
            self.assertTrue(consuming.wait(count))

    def test_events_outlive_the_broker_and_arrive_in_order(self):
        sending = self._start_sender()
        before = [_refused(str(n), n % 3) for n in range(5)]
        for event in before:
            self.journal.commit([journal.Entry.of(event)])
        sending.wake()
        self._wait_until_empty()
        self._without_broker()
        during = [_refused(str(n), n % 3) for n in range(5, 25)]
        for event in during:
            self.journal.commit([journal.Entry.of(event)])
            sending.wake()
        # several attempts fail, nothing is forgotten
        time.sleep(2)
        self.assertEqual(
            [e.id for e in during], [e.id for e in self._unsent()]
        )
        self._with_broker()
        consuming = self._consume()
        self.assertTrue(consuming.wait(25))
        self._wait_until_empty()
        ids = [r[3]['id'] for r in consuming.received]
        self._assert_in_order(before + during, ids)

    def test_a_broker_killed_during_a_flood_loses_nothing(self):
        sending = self._start_sender()
        events = [_refused(str(n), n % 3) for n in range(300)]
        timer = threading.Timer(0.3, self.broker.kill)
        timer.start()
        self.addCleanup(self._with_broker)
        for event in events:
            self.journal.commit([journal.Entry.of(event)])
            sending.wake()
            time.sleep(0.003)
        timer.join()
        self.assertFalse(self.broker.running)
        self._with_broker()
        consuming = self._consume()
        self._wait_until_empty()
        self.assertTrue(consuming.wait(300))
        arrived = [r[3]['id'] for r in consuming.received]
        # The one in flight may have arrived twice, with the same id.
        self._assert_in_order(events, list(dict.fromkeys(arrived)))
        self.assertLessEqual(len(arrived), 301)

    def _assert_in_order(self, events, ids):
        """Each guest's are in their order, and none is missing."""
        self.assertEqual(len(events), len(ids))
        for guest in GUESTS:
            made = [e.id for e in events if e.instance.uuid == guest]
            self.assertEqual(made, [each for each in ids if each in made])

    def _wait_until_empty(self):
        deadline = time.monotonic() + 120
        while self.journal.depth():
            self.assertLess(time.monotonic(), deadline, 'events stay')
            time.sleep(0.05)


class FormatTestCase(BrokerTestCase):
    def test_each_form_goes_to_each_of_its_topics(self):
        others = [f'topic-{model.new_id()}' for _ in range(3)]
        self._configure(
            'amqp_durable_queues = true',
            f'notification_format = both\n'
            f'notification_topics = {self.topic},{others[0]}\n'
            f'versioned_notification_topics = {others[1]},{others[2]}\n',
        )
        event = _violation(1)
        self._notifier().send(samples.entry(event))
        received = []
        for topic in (self.topic, *others):
            consuming = self._consume(topic)
            self.assertTrue(consuming.wait(1))
            received += consuming.received
        self.assertEqual(4, len(received))
        self.assertEqual({'isolation.violation'}, {r[2] for r in received})
        self.assertEqual({event.id}, {r[4]['message_id'] for r in received})
        plain = event.payload()
        versioned = objects.versioned(event.event_type, plain)
        self.assertEqual(
            [plain, plain, versioned, versioned], [r[3] for r in received]
        )

    def test_every_sample_arrives_as_it_is(self):
        consuming = self._consume()
        for event in samples.EVENTS.values():
            self.notifier.send(samples.entry(event))
        self.assertTrue(consuming.wait(len(samples.EVENTS)))
        # one queue for each priority
        self.assertEqual(
            {e.id: e.payload() for e in samples.EVENTS.values()},
            {r[4]['message_id']: r[3] for r in consuming.received},
        )

    def test_a_broker_of_its_own(self):
        self._configure(
            'amqp_durable_queues = true',
            f'notification_transport_url = {self.broker.url}\n',
            url='rabbit://guest:guest@127.0.0.1:1/',
        )
        self._notifier().send(samples.entry(_violation(1)))
        self._configure('amqp_durable_queues = true')
        self.assertTrue(self._consume().wait(1))


class OptionsTestCase(BrokerTestCase):
    """What oslo.messaging offers works by its own options."""

    def _queue(self, *columns):
        name = f'{self.topic}.error'
        for line in self.broker.ctl(
            'list_queues', 'name', *columns
        ).splitlines():
            fields = line.split('\t')
            if fields[0] == name:
                return fields[1:]
        self.fail(f'there is no queue {name}')

    def test_quorum_queues(self):
        self._configure('rabbit_quorum_queue = true')
        sending = self._notifier()
        events = [_violation(n) for n in range(3)]
        for event in events:
            sending.send(samples.entry(event))
        self.assertEqual(['quorum'], self._queue('type'))
        consuming = self._consume()
        self.assertTrue(consuming.wait(3))
        self.assertEqual(
            [e.id for e in events],
            [r[4]['message_id'] for r in consuming.received],
        )

    def test_of_several_hosts_one_is_enough(self):
        # they are tried in an order of chance
        good = self.broker.url.removeprefix('rabbit://').rstrip('/')
        bad = 'guest:guest@127.0.0.1:1'
        self._configure(
            'amqp_durable_queues = true', url=f'rabbit://{bad},{good}/'
        )
        for _ in range(4):
            self._notifier().send(samples.entry(_violation(1)))

    def test_a_full_queue_refuses_and_nothing_is_lost(self):
        policy = {'max-length': 2, 'overflow': 'reject-publish'}
        self.broker.ctl(
            'set_policy',
            '--apply-to',
            'queues',
            self.topic,
            f'^{self.topic}',
            json.dumps(policy),
        )
        events = [_violation(n) for n in range(5)]
        for event in events[:2]:
            self.notifier.send(samples.entry(event))
        # more than once: kombu's channel has to survive it
        for _ in range(3):
            e = self.assertRaises(
                exceptions.NotSent,
                self.notifier.send,
                samples.entry(events[2]),
            )
            self.assertIn('is its queue full', e.message)
        consuming = self._consume()
        self.assertTrue(consuming.wait(2))
        for event in events[2:]:
            self._send_until_taken(event)
        self.assertTrue(consuming.wait(5))
        self.assertEqual(
            [e.id for e in events],
            [r[4]['message_id'] for r in consuming.received],
        )

    def _send_until_taken(self, event):
        for _ in range(10):
            with contextlib.suppress(exceptions.NotSent):
                self.notifier.send(samples.entry(event))
                return
        self.fail('the queue stays full')

    def test_the_policies_of_the_documentation_apply(self):
        page = pathlib.Path(__file__).parents[4]
        text = (page / 'doc/source/notifications.rst').read_text()
        commands = re.findall(r'^   # rabbitmqctl (.*)$', text, re.MULTILINE)
        self.assertEqual(2, len(commands))
        self.topic = 'nova_isolation'
        self._configure('amqp_durable_queues = true')
        self._notifier().send(samples.entry(_violation(1)))
        for command in commands:
            arguments = shlex.split(command)
            self.broker.ctl(*arguments)
            # RabbitMQ refuses a definition that it does not know
            self.assertEqual(['nova-isolation'], self._queue('policy'))
            self.broker.ctl('clear_policy', 'nova-isolation')


class UnsendableTestCase(BrokerTestCase):
    def test_what_the_broker_takes_from_nobody_is_told_apart(self):
        self.broker.ctl(
            'eval', 'application:set_env(rabbit, max_message_size, 20000).'
        )
        self.addCleanup(
            self.broker.ctl,
            'eval',
            'application:set_env(rabbit, max_message_size, 134217728).',
        )
        sending = self._notifier()
        large = dataclasses.replace(
            samples.entry(_violation(1)), payload={'x': 'x' * 30000}
        )
        # each closes a channel; what comes after has one all the same
        for _ in range(3):
            e = self.assertRaises(exceptions.CannotBeSent, sending.send, large)
            self.assertIn('larger than', e.message)
            sending.send(samples.entry(_violation(1)))
        self.assertTrue(self._consume().wait(3))

    def test_a_queue_of_another_kind_is_not_the_events_fault(self):
        self.notifier.send(samples.entry(_violation(1)))
        self._configure('rabbit_quorum_queue = true')
        e = self.assertRaises(
            exceptions.NotSent,
            self._notifier().send,
            samples.entry(_violation(1)),
        )
        self.assertIn('PRECONDITION_FAILED', e.message)

    def test_a_wrong_password_is_not_the_events_fault(self):
        self._configure(url=self.broker.url.replace('guest@', 'secret@'))
        e = self.assertRaises(
            exceptions.NotSent,
            self._notifier().send,
            samples.entry(_violation(1)),
        )
        self.assertNotIn('secret', e.message)


class HangTestCase(BrokerTestCase):
    """A broker that is up and takes nothing."""

    def setUp(self):
        super().setUp()
        # shorter than the default of 60, so that the end of it is seen
        self._configure(
            'amqp_durable_queues = true\nheartbeat_timeout_threshold = 6'
        )
        self.sending = self._notifier(patience=2)

    def _refuse(self, event):
        begun = time.monotonic()
        e = self.assertRaises(
            exceptions.NotSent, self.sending.send, samples.entry(event)
        )
        self.assertLess(time.monotonic() - begun, 30)
        self.assertIn('alarm', e.message)

    def _send_again(self, event):
        deadline = time.monotonic() + 120
        while True:
            try:
                self.sending.send(samples.entry(event))
                return
            except exceptions.NotSent:
                self.assertLess(time.monotonic(), deadline, 'it stays hung')

    def _with_watermark(self, value):
        self.broker.ctl('set_vm_memory_high_watermark', value)

    def test_an_alarm_holds_nobody_up_and_what_was_sent_arrives_once(self):
        events = [_violation(n) for n in range(3)]
        self.sending.send(samples.entry(events[0]))
        self.addCleanup(self._with_watermark, '0.4')
        self._with_watermark('0')
        # longer than the heartbeat's timeout: those go on during an alarm
        begun = time.monotonic()
        while time.monotonic() - begun < 15:
            self._refuse(events[1])
        self._refuse(events[2])
        self._with_watermark('0.4')
        for event in events[1:]:
            self._send_again(event)
        consuming = self._consume()
        self.assertTrue(consuming.wait(3))
        self.assertEqual(
            [e.id for e in events],
            [r[4]['message_id'] for r in consuming.received],
        )

    def test_a_frozen_broker_holds_nobody_up(self):
        events = [_violation(n) for n in range(2)]
        self.sending.send(samples.entry(events[0]))
        self.addCleanup(self.broker.thaw)
        self.broker.freeze()
        self._refuse(events[1])
        self._refuse(events[1])
        self.broker.thaw()
        self._send_again(events[1])
        consuming = self._consume()
        self.assertTrue(consuming.wait(2))
        arrived = [r[4]['message_id'] for r in consuming.received]
        self.assertEqual([e.id for e in events], list(dict.fromkeys(arrived)))

    def test_nor_does_its_end(self):
        self.sending.send(samples.entry(_violation(1)))
        self.addCleanup(self.broker.thaw)
        self.broker.freeze()
        self._refuse(_violation(2))
        begun = time.monotonic()
        self.sending.close()
        self.assertLess(time.monotonic() - begun, 30)


class TLSTestCase(base.BaseTestCase):
    def test_the_broker_is_reached_over_tls_and_has_to_prove_itself(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        home = pathlib.Path(temporary.name)
        for name in ('its', 'another'):
            subprocess.run(
                [
                    *'openssl req -x509 -newkey rsa:2048 -nodes'.split(),
                    *'-days 1 -subj /CN=localhost'.split(),
                    *'-addext subjectAltName=DNS:localhost'.split(),
                    *f'-keyout {home}/{name}.key -out {home}/{name}'.split(),
                ],
                check=True,
                capture_output=True,
            )
        (port,) = rabbitmq.free_ports(1)
        self.useFixture(
            rabbitmq.RabbitMQ(
                f'listeners.ssl.1 = 127.0.0.1:{port}\n'
                f'ssl_options.certfile = {home}/its\n'
                f'ssl_options.keyfile = {home}/its.key\n'
            )
        )
        for authority in ('its', 'another'):
            path = home / 'nova.conf'
            path.write_text(
                f'[DEFAULT]\n'
                f'transport_url = rabbit://guest:guest@localhost:{port}/\n'
                f'[oslo_messaging_rabbit]\n'
                f'ssl = true\nssl_ca_file = {home}/{authority}\n'
            )
            conf = cfg.ConfigOpts()
            agent_options.register_opts(conf)
            conf(['--config-file', str(path)])
            sending = notifier.Notifier(
                notifier.connect(conf), notifier.routes(conf), 'cmp1'
            )
            self.addCleanup(sending.close)
            entry = samples.entry(_violation(1))
            if authority == 'its':
                sending.send(entry)
            else:
                e = self.assertRaises(exceptions.NotSent, sending.send, entry)
                self.assertIn('CERTIFICATE_VERIFY_FAILED', e.message)
