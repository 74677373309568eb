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

"""Prometheus gets every figure, and nobody who asks can do harm."""

import http.client
import socket
import threading
import time

import fixtures
from oslotest import base
from prometheus_client import parser

from nova_isolation.agent import ledger as agent_ledger
from nova_isolation.agent import metrics
from nova_isolation import exceptions


class LatencyTest(base.BaseTestCase):
    def test_each_bucket_has_all_below_it(self):
        latency = metrics.Latency()
        for seconds in (0.005, 0.006, 3, 10000, -5):
            latency.observe(seconds)
        found, total = latency.buckets()
        buckets = dict(found)
        self.assertEqual(2, buckets['0.005'])
        self.assertEqual(3, buckets['0.01'])
        self.assertEqual(4, buckets['5'])
        self.assertEqual(4, buckets['600'])
        self.assertEqual(5, buckets['+Inf'])
        self.assertEqual(10003.011, total)


class ExporterTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.ledger = agent_ledger.Ledger('cmp1')
        self.latency = metrics.Latency()
        self.canary = {'result': 'ok', 'arrived': 1795000000.5}
        self.verifier = {
            'guests': 7,
            'unconfined': 1,
            'last': 1795000001.5,
            'seconds': 0.01,
        }
        self.exporter = self.start()

    def start(self, **more):
        exporter = metrics.Exporter(
            more.get('address', '127.0.0.1'),
            more.get('port', 0),
            metrics.Sources(
                ledger=self.ledger.snapshot,
                queue=lambda: 3,
                journal=lambda: 4,
                latency=self.latency,
                canary=lambda: self.canary,
                verifier=lambda: self.verifier,
            ),
        )
        exporter.start()
        self.addCleanup(exporter.stop)
        return exporter

    def ask(self, method='GET', path='/metrics', exporter=None):
        port = (exporter or self.exporter).port
        connection = http.client.HTTPConnection('localhost', port, timeout=20)
        self.addCleanup(connection.close)
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()

    def samples(self):
        status, text = self.ask()
        self.assertEqual(200, status)
        return {
            (s.name, *s.labels.values()): s.value
            for family in parser.text_string_to_metric_families(text)
            for s in family.samples
        }

    def connect(self):
        client = socket.create_connection(
            ('127.0.0.1', self.exporter.port), 20
        )
        self.addCleanup(client.close)
        return client

    def test_all_figures(self):
        self.ledger.count('in', 10)
        self.ledger.count('out', 5)
        self.ledger.count('folded', 2)
        self.ledger.count('sent', 4)
        self.ledger.lost('queue', 1)
        self.ledger.lost('socket', None)
        self.latency.observe(0.02)
        found = self.samples()
        for name, value in {
            ('records_total',): 10,
            ('events_total',): 5,
            ('folded_total',): 2,
            ('sent_total',): 4,
            ('lost_total', 'queue'): 1,
            ('lost_total', 'kernel'): 0,
            ('losses_unknown_total', 'socket'): 1,
            ('unaccounted',): 2,
            ('queue_records',): 3,
            ('journal_events',): 4,
            ('send_seconds_bucket', '0.01'): 0,
            ('send_seconds_bucket', '0.025'): 1,
            ('send_seconds_bucket', '+Inf'): 1,
            ('send_seconds_count',): 1,
            ('send_seconds_sum',): 0.02,
            ('canary_ok',): 1,
            ('canary_last_ok_seconds',): 1795000000.5,
            ('guests',): 7,
            ('guests_unconfined',): 1,
            ('verifier_last_seconds',): 1795000001.5,
            ('verifier_round_seconds',): 0.01,
        }.items():
            with self.subTest(name):
                name = (f'nova_isolation_{name[0]}', *name[1:])
                self.assertEqual(value, found.pop(name))
        self.assertGreater(found['process_resident_memory_bytes',], 0)

    def test_every_figure_is_documented(self):
        names = {
            name.partition('_bucket')[0]
            for name, *_ in self.samples()
            if name.startswith('nova_isolation_')
        }
        for name in names:
            base = name.removesuffix('_sum').removesuffix('_count')
            self.assertIn(f'``{base}', metrics.__doc__)

    def test_what_is_counted_is_said_in_its_help(self):
        helps = {
            family.name: family.documentation
            for family in parser.text_string_to_metric_families(self.ask()[1])
        }
        self.assertIn('First events', helps['nova_isolation_events'])
        self.assertIn('denial', helps['nova_isolation_send_seconds'])

    def test_what_is_not_known_is_not_there(self):
        self.verifier['last'] = None
        for result in ('none yet', 'off'):
            self.canary = {'result': result, 'arrived': None}
            found = self.samples()
            for name in (
                'canary_ok',
                'canary_last_ok_seconds',
                'verifier_last_seconds',
            ):
                self.assertNotIn((f'nova_isolation_{name}',), found)

    def test_a_canary_that_did_not_arrive(self):
        self.canary['result'] = 'tried: no audit record of it was read'
        self.assertEqual(0, self.samples()['nova_isolation_canary_ok',])

    def test_nothing_else_is_answered(self):
        self.assertEqual(404, self.ask(path='/../etc/passwd')[0])
        self.assertEqual(501, self.ask('POST')[0])

    def test_a_taken_port_is_named(self):
        error = self.assertRaises(
            exceptions.ConfigurationError,
            self.start,
            port=self.exporter.port,
        )
        self.assertIn(str(self.exporter.port), error.message)

    def test_an_address_that_is_none_is_named(self):
        error = self.assertRaises(
            exceptions.ConfigurationError, self.start, address='300.1.1.1'
        )
        self.assertIn('300.1.1.1', error.message)

    def test_who_says_nothing_or_little_is_cut_off(self):
        self.useFixture(
            fixtures.MonkeyPatch('nova_isolation.agent.metrics._PATIENCE', 0.3)
        )
        silent, slow = self.connect(), self.connect()
        began = time.monotonic()
        with self.assertRaises(OSError):
            while time.monotonic() - began < 60:
                slow.sendall(b'x')
                time.sleep(0.05)
        self.assertEqual(b'', silent.recv(100))
        self.samples()

    def test_however_many_come_there_are_few_threads(self):
        before = threading.active_count()
        clients = [self.connect() for _ in range(30)]
        # those beyond the limit are closed, which comes last
        self.assertEqual(b'', clients[-1].recv(100))
        self.assertLessEqual(
            threading.active_count() - before, 2 * metrics._CLIENTS
        )
        for client in clients:
            client.close()
        # and then there is room again
        end = time.monotonic() + 10
        while True:
            try:
                return self.samples()
            except (OSError, http.client.HTTPException):
                self.assertLess(time.monotonic(), end)
                time.sleep(0.05)

    def test_a_fault_in_a_source_harms_only_the_answer(self):
        good, self.canary = self.canary, {}
        self.assertRaises(http.client.HTTPException, self.ask)
        self.canary = good
        self.samples()
