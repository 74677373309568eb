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

"""The agent answers over a real RabbitMQ, whatever happens to that."""

import pathlib
import tempfile
import threading
import time

import fixtures
from oslo_config import cfg
import oslo_messaging
from oslotest import base

from nova_isolation.agent import rpc
from nova_isolation.agent import rpcapi
from nova_isolation import exceptions
from nova_isolation.tests.functional import rabbitmq
from nova_isolation.tests.unit.agent import test_rpc
from nova_isolation.violations import model

UUID = test_rpc.UUID


class RPCTestCase(base.BaseTestCase):
    """Each test has a host of its own, the broker is shared."""

    broker: rabbitmq.RabbitMQ

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.broker = rabbitmq.RabbitMQ()
        cls.addClassCleanup(cls.broker.cleanUp)
        cls.broker.setUp()

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger(format='%(message)s'))
        self.host = f'host-{model.new_id()}'
        self.journal = test_rpc.Journal(
            *(test_rpc.Entry(n, payload={'n': n}) for n in range(1, 8))
        )
        self.gate = threading.Event()
        self.gate.set()
        self.addCleanup(self.gate.set)
        self.inside = 0
        self.most = 0
        self.answered = 0
        self._lock = threading.Lock()

    def _conf(self, url=None, rabbit=''):
        with tempfile.TemporaryDirectory() as home:
            path = pathlib.Path(home) / 'nova.conf'
            path.write_text(
                f'[DEFAULT]\ntransport_url = {url or self.broker.url}\n'
                f'[oslo_messaging_rabbit]\n{rabbit}\n'
            )
            conf = cfg.ConfigOpts()
            conf(['--config-file', str(path)])
        return conf

    def _serve(self, **conf):
        server = rpc.Server(
            rpcapi.connect(self._conf(**conf)),
            self.host,
            rpc.Endpoint(
                self._status, self.journal, self._profile, self._verify
            ),
        )
        server.start()
        self.addCleanup(server.stop, 10)
        return server

    def _serving(self, **conf):
        server = self._serve(**conf)
        self._wait_until(lambda: server.serving, 'it serves')
        return server

    def _wait_until(self, condition, what):
        deadline = time.monotonic() + 120
        while not condition():
            self.assertLess(time.monotonic(), deadline, f'not so: {what}')
            time.sleep(0.02)

    def _client(self, timeout=20, **conf):
        agents = rpcapi.AgentAPI(
            rpcapi.connect(self._conf(**conf)), timeout=timeout
        )
        self.addCleanup(agents.close)
        return agents

    def _status(self):
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.gate.wait(60)
        with self._lock:
            self.inside -= 1
            self.answered += 1
        return {'host': self.host, 'sent': 3}

    def _profile(self, uuid):
        return f'profile libvirt-{uuid} {{\n}}\n'

    def _verify(self, uuid):
        if uuid == UUID:
            return {'instance': uuid, 'confined': True}
        raise exceptions.NotConfined(f'{uuid} runs unconfined')

    def test_the_client_gets_the_agents_answers(self):
        self._serving()
        agents = self._client()
        self.assertEqual(
            {'host': self.host, 'sent': 3}, agents.status(self.host)
        )
        self.assertEqual(
            f'profile libvirt-{UUID} {{\n}}\n',
            agents.profile(self.host, UUID),
        )
        self.assertEqual(
            {'instance': UUID, 'confined': True},
            agents.verify(self.host, UUID),
        )
        told = agents.violations(self.host, limit=3)
        self.assertEqual([1, 2, 3], [e['seq'] for e in told['events']])
        self.assertEqual({'n': 3}, told['events'][2]['payload'])
        told = agents.violations(
            self.host, since=told['cursor'], instance=UUID
        )
        self.assertEqual([4, 5, 6, 7], [e['seq'] for e in told['events']])
        self.assertEqual(7, told['cursor'])

    def test_each_host_answers_for_itself(self):
        self._serving()
        first = self.host
        self.host = f'host-{model.new_id()}'
        self._serving()
        agents = self._client()
        # both have the same callables here: their name is of the last
        self.assertTrue(agents.status(first))
        self.assertTrue(agents.status(self.host))
        self.assertEqual(2, self.answered)

    def test_what_the_agent_refuses_is_said_and_leaves_no_traceback(self):
        self._serving()
        agents = self._client()
        e = self.assertRaises(
            exceptions.InvalidRequest, agents.profile, self.host, '../x'
        )
        self.assertEqual(
            'instance is the uuid of a guest, not "../x"', e.message
        )
        self.assertRaises(
            exceptions.InvalidRequest, agents.violations, self.host, since=-1
        )
        other = UUID.replace('5', '6')
        e = self.assertRaises(
            exceptions.NotConfined, agents.verify, self.host, other
        )
        self.assertEqual(f'{other} runs unconfined', e.message)
        self.assertNotIn('Traceback', self.log.output)

    def test_hostile_messages_are_refused_and_leave_no_traceback(self):
        self._serving()
        transport = rpcapi.connect(self._conf())
        self.addCleanup(transport.cleanup)
        target = oslo_messaging.Target(topic=rpcapi.TOPIC, server=self.host)
        for message in (
            {'method': 'nosuch'},
            {'method': '_status'},
            {'method': 'status', 'args': [1]},
            {'method': 'status', 'args': {'self': 1}},
            {'method': 'status', 'version': 'x' * 100000},
            {'method': 'status', 'version': '2.0'},
            {'method': {}},
            {'method': 'profile', 'args': {'instance': 'x' * 1000000}},
            {'args': {}},
        ):
            self.assertRaises(
                (exceptions.InvalidRequest, oslo_messaging.RemoteError),
                transport._send,
                target,
                {},
                message,
                wait_for_reply=True,
                timeout=20,
                call_monitor_timeout=20,
            )
        self.assertNotIn('Traceback', self.log.output)
        self.assertEqual(self.host, self._client().status(self.host)['host'])

    def test_a_host_without_an_agent_is_named(self):
        e = self.assertRaises(
            exceptions.NoAnswer, self._client(timeout=1).status, self.host
        )
        self.assertIn(self.host, e.message)

    def test_quorum_queues(self):
        rabbit = (
            'rabbit_quorum_queue = true\nrabbit_transient_quorum_queue = true'
        )
        # the topic's own queue is shared with the other tests
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.agent.rpcapi.TOPIC', f't-{model.new_id()}'
            )
        )
        self._serving(rabbit=rabbit, url=self._vhost('quorum'))
        agents = self._client(rabbit=rabbit, url=self._vhost('quorum'))
        self.assertTrue(agents.status(self.host))

    def _vhost(self, name):
        if name not in self.broker.ctl('list_vhosts').splitlines():
            self.broker.ctl('add_vhost', name)
            self.broker.ctl(
                'set_permissions', '-p', name, 'guest', '.*', '.*', '.*'
            )
        return self.broker.url + name

    def test_a_broker_away_at_the_start_holds_nobody_up(self):
        self.broker.stop()
        self.addCleanup(self._with_broker)
        begun = time.monotonic()
        server = self._serve()
        idle = self._serve()
        self.assertLess(time.monotonic() - begun, 30)
        agents = self._client(timeout=1)
        self.assertRaises(exceptions.NoAnswer, agents.status, self.host)
        self.assertLess(time.monotonic() - begun, 30)
        # nor does it at the end
        begun = time.monotonic()
        idle.stop(10)
        self.assertLess(time.monotonic() - begun, 30)
        self.assertFalse(server.serving)
        self._with_broker()
        self.assertTrue(self._answers())

    def test_it_comes_back_with_the_broker(self):
        self._serving()
        self.assertTrue(self._client().status(self.host))
        agents = self._client(timeout=2)
        self.broker.stop()
        self.addCleanup(self._with_broker)
        self.assertRaises(exceptions.NoAnswer, agents.status, self.host)
        self._with_broker()
        self.assertTrue(self._answers())

    def test_it_stops_in_time_without_the_broker(self):
        server = self._serving()
        self.broker.stop()
        self.addCleanup(self._with_broker)
        begun = time.monotonic()
        server.stop(2)
        self.assertLess(time.monotonic() - begun, 30)

    def _answers(self):
        agents = self._client(timeout=5)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                return agents.status(self.host)
            except exceptions.NoAnswer:
                continue
        return None

    def _with_broker(self):
        if not self.broker.running:
            self.broker.start()

    def test_a_stopped_one_answers_nobody(self):
        server = self._serving()
        server.stop(20)
        self.assertFalse(server._thread.is_alive())
        self.assertRaises(
            exceptions.NoAnswer, self._client(timeout=1).status, self.host
        )

    def test_a_flood_of_questions_does_not_pile_up(self):
        self.useFixture(
            fixtures.MonkeyPatch('nova_isolation.agent.rpc._ROOM', 0.05)
        )
        self._serving()
        self.gate.clear()
        transport = rpcapi.connect(self._conf())
        self.addCleanup(transport.cleanup)
        caller = oslo_messaging.get_rpc_client(
            transport,
            oslo_messaging.Target(
                topic=rpcapi.TOPIC, server=self.host, version='1.0'
            ),
        )
        room = rpc._THREADS + rpc._WAITING
        for _ in range(room + 10):
            caller.cast({}, 'status')
        self._wait_until(
            lambda: self.log.output.count('was dropped') == 10, 'ten drop'
        )
        self._wait_until(
            lambda: self.inside == rpc._THREADS, 'all threads are busy'
        )
        self.gate.set()
        # there is room again
        self._wait_until(lambda: self.answered == room, 'all are answered')
        self.assertTrue(self._client().status(self.host))
        self.assertEqual(rpc._THREADS, self.most)
        self.assertEqual(room + 1, self.answered)
