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

"""Whatever fails, each denial is told once or is announced as lost.

The judge is :mod:`.judge`: it holds what the consumer and the journal have
against what was denied. Where auditd's file is there, nothing may be lost.
"""

import contextlib
import json
import os
import random
import resource
import signal
import socket
import sqlite3
import threading
import time

import fixtures

from nova_isolation.agent import intake
from nova_isolation.tests.functional.agent import rig
from nova_isolation.tests.functional.agent import test_agent
from nova_isolation.violations import journal
from nova_isolation.violations import model

UUIDS = [rig.uuid_of(n) for n in range(1, 4)]


class Flood:
    """Guests that try a few names again and again, and many once.

    So that in each second there are first events, repeats and overflows.
    """

    def __init__(self, deny, seed=0, pause=0.01):
        """Take what is done with each.

        :param deny: called with a name and a guest's uuid
        :param seed: of the random choices
        :param pause: seconds between two bursts of ten
        """
        self._deny = deny
        self._random = random.Random(seed)
        self._pause = pause
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def burst(self, count=10):
        """Try some names."""
        for _ in range(count):
            uuid = self._random.choice(UUIDS)
            name = self._random.choice(
                (
                    '/etc/shadow',
                    f'{rig.INSTANCES}/{self._random.choice(UUIDS)}/disk',
                    f'/usual/{self._random.randrange(3)}',
                    f'/random/{self._random.randrange(10**9)}',
                )
            )
            self._deny(name, uuid)

    def _run(self):
        while not self._stopping.wait(self._pause):
            self.burst()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stopping.set()
        self._thread.join(150)
        if self._thread.is_alive():
            raise TimeoutError('the flood does not end')


class FaultsTestCase(test_agent.AgentTestCase):
    def rig(self, **options):
        return super().rig(
            **{
                'guests': 3,
                'repeat_window': 1,
                'kinds_per_guest': 6,
                **options,
            }
        )

    def flood(self, pause=0.01):
        return Flood(self.kernel.deny, pause=pause)

    def wait_for_backlog(self, host):
        """Wait until an event waits for the broker, and others behind it."""
        oldest, since = None, time.monotonic()

        def waits():
            nonlocal oldest, since
            unsent = [e.seq for e in host.entries() if e.sent is None]
            if unsent[:1] != oldest:
                oldest, since = unsent[:1], time.monotonic()
            return len(unsent) > 5 and time.monotonic() - since > 1

        host.wait_until(waits, 'events wait for the broker')


class BrokerTest(FaultsTestCase):
    """RabbitMQ fails in every way; the journal has what it does not take."""

    def test_stopped_and_started(self):
        self.addCleanup(self.with_broker)
        host = self.rig()
        consuming = host.consume()
        host.start()
        with self.flood():
            self.wait_for(consuming, 10)
            self.broker.stop()
            self.wait_for_backlog(host)
            self.broker.start()
        host.account(consuming, ordered=True)

    def test_killed_and_started(self):
        self.addCleanup(self.with_broker)
        host = self.rig()
        consuming = host.consume()
        host.start()
        with self.flood():
            self.wait_for(consuming, 10)
            self.broker.kill()
            self.wait_for_backlog(host)
            self.broker.start()
        host.account(consuming, ordered=True)

    def test_away_when_the_agent_starts_and_stops(self):
        self.addCleanup(self.with_broker)
        host = self.rig()
        consuming = host.consume()
        self.broker.stop()
        with self.flood():
            host.start()
            self.wait_for_backlog(host)
            self.assertEqual(0, host.stop())
            host.start()
            self.broker.start()
        host.account(consuming, ordered=True)

    def test_frozen(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        with self.flood():
            self.wait_for(consuming, 10)
            self.addCleanup(self.broker.thaw)
            self.broker.freeze()
            self.wait_for_backlog(host)
            self.broker.thaw()
        host.account(consuming, ordered=True)

    def test_its_disk_alarm(self):
        self._alarm(
            ('set_disk_free_limit', '10000GB'), ('set_disk_free_limit', '1MB')
        )

    def test_its_memory_alarm(self):
        self._alarm(
            ('set_vm_memory_high_watermark', '0.00001'),
            ('set_vm_memory_high_watermark', '0.6'),
        )

    def _alarm(self, raised, cleared):
        host = self.rig()
        consuming = host.consume()
        host.start()
        with self.flood():
            self.wait_for(consuming, 10)
            self.addCleanup(self.broker.ctl, *cleared)
            self.broker.ctl(*raised)
            self.wait_for_backlog(host)
            self.broker.ctl(*cleared)
        host.account(consuming, ordered=True)

    def test_connections_are_closed_while_it_sends(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        with self.flood():
            for count in range(10, 50, 10):
                self.wait_for(consuming, count)
                self.broker.ctl('close_all_connections', 'a test')
        host.account(consuming, ordered=True)

    def test_the_connection_is_cut_within_a_message(self):
        cutter = self.useFixture(Cutter(self.broker.port))
        host = self.rig(notification_transport_url=cutter.url(self.broker.url))
        consuming = host.consume()
        host.start()
        with self.flood():
            for _ in range(5):
                count = len(self.violations(consuming))
                self.wait_for(consuming, count + 5)
                cutter.cut_requests()
        self.assertEqual(5, cutter.cuts)
        host.account(consuming, ordered=True)

    def test_the_connection_is_cut_before_the_confirmation(self):
        cutter = self.useFixture(Cutter(self.broker.port))
        host = self.rig(notification_transport_url=cutter.url(self.broker.url))
        consuming = host.consume()
        host.start()
        with self.flood():
            for _ in range(5):
                count = len(self.violations(consuming))
                self.wait_for(consuming, count + 5)
                cutter.cut_confirmations()
        self.assertEqual(5, cutter.cuts)
        host.account(consuming, ordered=True)


class Cutter(fixtures.Fixture):
    """Sits before a broker and cuts connections where it hurts.

    :ivar cuts: how many there were
    """

    def __init__(self, port):
        super().__init__()
        self._port = port
        self._armed = ''
        self._changed = threading.Condition()
        self.cuts = 0

    def _setUp(self):
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.addCleanup(self._listener.close)
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, url):
        """Make the URL of a broker lead through here."""
        return url.replace(
            f':{self._port}/', f':{self._listener.getsockname()[1]}/'
        )

    def cut_requests(self):
        """Cut the next message to the broker in its middle."""
        self._cut('requests')

    def cut_confirmations(self):
        """Pass the next message on, and cut before the answer."""
        self._cut('confirmations')

    def _cut(self, where):
        with self._changed:
            before = self.cuts
            self._armed = where
            if not self._changed.wait_for(lambda: self.cuts > before, 120):
                raise TimeoutError(f'nothing was sent to cut {where}')

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(('127.0.0.1', self._port))
            for args in (
                (client, server, 'requests'),
                (server, client, 'confirmations'),
            ):
                threading.Thread(
                    target=self._pass, args=args, daemon=True
                ).start()

    def _pass(self, source, sink, what):
        hit = False
        try:
            while data := source.recv(65536):
                if hit := self._is_hit(what, data):
                    if what == 'requests':
                        sink.sendall(data[: len(data) // 2])
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        if hit:
            with self._changed:
                self.cuts += 1
                self._changed.notify_all()

    def _is_hit(self, what, data):
        with self._changed:
            # heartbeats and handshakes are smaller than a message
            hit = self._armed == what and (
                what == 'confirmations' or len(data) > 500
            )
            if hit:
                self._armed = ''
            return hit


class KillTest(FaultsTestCase):
    """The agent is killed at any point, its parent sometimes with it."""

    HOSTS = 4
    KILLS = 50
    # cotyledon rests for 5 s when it has forked twice within one
    PAIR = 1.05

    def test_200_times_during_a_flood(self):
        seed = int(os.environ.get('SEED', time.time_ns() % 10**9))
        print(f'SEED={seed}')
        hosts = [self.rig(kinds_per_guest=4) for _ in range(self.HOSTS)]
        consuming = [host.consume() for host in hosts]
        faults = []
        threads = [
            threading.Thread(
                target=self._try, args=(host, f'{seed}.{n}', faults)
            )
            for n, host in enumerate(hosts)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([], faults, f'SEED={seed}')
        twice = 0
        for host, consumer in zip(hosts, consuming, strict=True):
            try:
                twice += host.account(consumer).twice
            except AssertionError as e:
                raise AssertionError(f'SEED={seed}\n{e}') from e
        print(f'{twice} events came more than once')

    def _try(self, host, seed, faults):
        try:
            self._kill(host, random.Random(seed))
        except BaseException as e:
            faults.append(e)
            raise

    def _kill(self, host, chance):
        kernel = host.kernel
        kernel.patient = False

        def deny(name, uuid):
            if name.endswith('77'):
                kernel.litter()
            else:
                kernel.deny(name, uuid)

        host.start()
        kernel.deny('/first', UUIDS[0])
        host.wait_until(
            lambda: host.position()['serials']['highest'],
            'it has come to a number',
        )
        with Flood(deny, seed=chance.random(), pause=0.03):
            times = [0.0, 0.0]
            for number in range(self.KILLS):
                time.sleep(chance.uniform(0, 0.8))
                time.sleep(max(0, times[-2] + self.PAIR - time.monotonic()))
                if number % 10 == 9:
                    host.kill()
                    if chance.random() < 0.5:
                        kernel.drain()
                    host.start(wait=False)
                    host.wait_until(host.workers, 'a worker')
                    times = [0.0, time.monotonic()]
                    continue
                host.kill_worker()
                times.append(time.monotonic())


class JournalTest(FaultsTestCase):
    """The journal cannot be written, or is not what it was."""

    def test_the_disk_is_full(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        with self.flood():
            self.wait_for(consuming, 10)
            limit = self.limit(host)
            host.wait_until(
                lambda: host.said('Events wait in memory'), 'the disk is full'
            )
            told = len(self.violations(consuming))
            time.sleep(1)
            self.limit(host, limit)
        self.assertLess(told, len(self.wait_for(consuming, told + 1)))
        host.account(consuming, ordered=True)
        self.assertEqual(1, host.said('The journal is written again'))

    def test_the_disk_is_full_when_the_agent_is_killed(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        with self.flood():
            self.wait_for(consuming, 10)
            self.limit(host)
            host.wait_until(
                lambda: host.said('Events wait in memory'), 'the disk is full'
            )
            # the next one has no limit
            host.kill_worker()
        host.account(consuming)

    def test_the_disk_is_full_for_long(self):
        host = self.rig(kinds_per_guest=10000)
        consuming = host.consume()
        host.start()
        self.kernel.deny('/first', UUIDS[0])
        self.wait_for(consuming, 1)
        limit = self.limit(host)
        for n in range(3000):
            self.kernel.deny(f'/many/{n}', UUIDS[n % 3])
        # what does not fit into memory is counted
        api = host.api()
        self.addCleanup(api.close)
        host.wait_until(
            lambda: api.status('cmp1')['lost']['journal'] > 900,
            'the memory is full',
        )
        self.limit(host, limit)
        found = host.account(consuming, may_lose=('journal',))
        self.assertGreater(found.told, 1900)
        self.assertGreater(found.lost['journal'], 900)

    @staticmethod
    def limit(host, limit=None):
        """Let the journal grow to what it has, as on a full disk.

        :returns: what was the limit before
        """
        pid = host.worker
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        if limit is None:
            limit = (4096, before[1])
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
        return before

    def test_it_is_read_only(self):
        host = self.rig()
        consuming = host.consume()
        # as root, too, it minds what it may not
        prefix = ()
        if os.geteuid() == 0:
            powers = '-dac_override,-dac_read_search'
            prefix = (
                'setpriv',
                f'--inh-caps={powers}',
                f'--bounding-set={powers}',
            )
        host.start(prefix=prefix)
        with self.flood():
            self.wait_for(consuming, 10)
            modes = {
                path: path.stat().st_mode
                for path in (host.journal, *host.journal.iterdir())
            }
            for path in modes:
                path.chmod(0o500 if path.is_dir() else 0o400)
            host.kill_worker()
            host.wait_until(
                lambda: host.said('Events wait in memory'), 'it says so'
            )
            for path, mode in modes.items():
                path.chmod(mode)
        host.account(consuming)

    def test_it_is_damaged_while_the_agent_runs(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        with self.flood():
            self.wait_for(consuming, 10)
            self.damage(host)
            host.wait_until(lambda: self.damaged(host), 'it is put aside')
            told = len(self.violations(consuming))
            self.wait_for(consuming, told + 10)
        found = host.account(
            consuming, may_lose=('journal', 'retention'), kept=False
        )
        self.assertEqual({'journal'}, found.unknown)

    def test_it_is_damaged_between_two_runs(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        with self.flood():
            self.wait_for(consuming, 10)
            host.kill()
            self.damage(host)
            host.start()
            host.wait_until(lambda: self.damaged(host), 'it is put aside')
            told = len(self.violations(consuming))
            self.wait_for(consuming, told + 10)
        found = host.account(
            consuming, may_lose=('journal', 'retention', 'agent'), kept=False
        )
        # how far the agent had come is lost, too
        self.assertEqual({'journal', 'agent'}, found.unknown)

    def test_it_is_removed_while_the_agent_runs(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        with self.flood():
            self.wait_for(consuming, 10)
            for path in host.journal.iterdir():
                path.unlink()
            told = len(self.violations(consuming))
            self.wait_for(consuming, told + 10)
        found = host.account(
            consuming, may_lose=('journal', 'retention'), kept=False
        )
        self.assertEqual({'journal'}, found.unknown)

    @staticmethod
    def damage(host):
        """Write garbage over all of the journal but its beginning."""
        for path in host.journal.iterdir():
            size = path.stat().st_size
            with open(path, 'r+b') as f:
                f.seek(100)
                f.write(os.urandom(max(0, size - 100)))

    @staticmethod
    def damaged(host):
        return list(host.journal.glob(f'{journal.NAME}.damaged-*'))


class SourcesTest(FaultsTestCase):
    """What the agent does not hear, it reads, or says that it is lost."""

    def setUp(self):
        super().setUp()
        self.chance = random.Random(1)

    def drop(self, count):
        """Deny what the agent does not hear, because of an overrun."""
        for n in range(count):
            self.kernel.deny(
                f'/dropped/{n % 7}', self.chance.choice(UUIDS), heard=False
            )
        self.kernel.overrun()

    def more(self, count=30):
        """Deny what the agent hears."""
        Flood(self.kernel.deny, self.chance.random()).burst(count)

    def test_overruns_with_auditd_lose_nothing(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        for _ in range(20):
            self.more()
            self.drop(20)
            self.kernel.login()
        host.account(consuming)

    def test_an_overrun_at_the_end_is_not_waited_for(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        self.more()
        host.account(consuming)
        self.drop(20)
        host.account(consuming)

    def test_an_overrun_without_auditd_is_announced(self):
        host = self.rig(auditd=False)
        consuming = host.consume()
        host.start()
        for _ in range(5):
            self.more()
            self.drop(20)
        self.more()
        found = host.account(consuming, may_lose=('socket',))
        self.assertEqual({'socket': 100}, found.lost)

    def test_killed_without_auditd(self):
        host = self.rig(auditd=False)
        consuming = host.consume()
        host.start()
        with self.flood():
            for _ in range(3):
                told = len(self.violations(consuming))
                self.wait_for(consuming, told + 10)
                host.kill_worker()
        # the next record shows what is missing before it
        self.kernel.login()
        host.account(consuming, may_lose=('agent', 'socket'))

    def test_gone_for_a_while_without_auditd(self):
        host = self.rig(auditd=False)
        consuming = host.consume()
        host.start()
        self.more()
        host.wait_until(host.rests, 'all is told')
        host.kill()
        self.more()
        self.kernel.drain()
        host.start()
        self.more()
        found = host.account(consuming, may_lose=('agent', 'socket'))
        self.assertEqual(30, sum(found.lost.values()))

    def test_gone_before_it_heard_anything(self):
        host = self.rig(auditd=False)
        consuming = host.consume()
        host.start()
        host.wait_until(lambda: host.said('agent.start'), 'it has a journal')
        host.kill()
        self.more()
        self.kernel.drain()
        host.start()
        self.more()
        found = host.account(consuming, may_lose=('agent',))
        self.assertEqual({'agent'}, found.unknown)

    def test_killed_while_it_reads_what_it_missed(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        self.more()
        host.account(consuming)
        host.kill()
        self.drop(20000)
        self.kernel.drain()
        host.start()
        for n in range(4):
            time.sleep(0.6 + n * 0.15)
            self.more()
            host.kill_worker()
        host.account(consuming)

    def test_auditd_starts_rotates_and_stops(self):
        host = self.rig(auditd=False)
        host.configure(audit_log=host.audit_log)
        consuming = host.consume()
        host.start()
        self.more()
        self.drop(10)
        self.more()
        self.kernel.log = host.audit_log
        self.kernel.keep(b'DAEMON_START', b'audit(1795424098.237:52): op=x')
        self.more()
        self.drop(10)
        self.more()
        for _ in range(3):
            self.drop(5)
            self.kernel.rotate()
            self.drop(5)
            self.more()
        self.kernel.keep(b'DAEMON_END', b'audit(1795424098.237:53): op=x')
        self.kernel.log = None
        self.drop(10)
        self.more()
        host.wait_until(host.rests, 'the file is read')
        for path in host.home.glob('audit.log*'):
            path.unlink()
        self.drop(10)
        self.more()
        found = host.account(consuming, may_lose=('socket',))
        self.assertEqual({'socket': 30}, found.lost)

    def test_the_clock_is_stepped_back(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        with open('/proc/uptime') as f:
            uptime = float(f.read().split()[0])
        self.more()
        host.account(consuming)
        # the clock of the test stays, so the boot does, too
        for step in (-min(uptime / 2, 7200.0), 0.0):
            self.kernel.step = step
            self.drop(20)
            self.more()
            host.kill_worker()
            self.more()
            host.kill()
            self.more()
            self.kernel.drain()
            host.start()
            self.more()
        host.account(consuming)

    def test_the_host_is_booted(self):
        host = self.rig()
        consuming = host.consume()
        with open('/proc/uptime') as f:
            self.kernel.step = -float(f.read().split()[0]) - 600
        self.kernel.serial = 10**6
        host.start()
        self.more()
        host.wait_until(host.rests, 'all is told')
        host.kill()
        # nobody hears these, before the end and after the beginning
        self.more()
        self.kernel.drain()
        self.change_boot(host)
        self.kernel.step, self.kernel.serial = 0.0, 0
        self.more()
        self.kernel.drain()
        host.start()
        self.more()
        host.account(consuming)

    @staticmethod
    def change_boot(host):
        """Make a position one of an earlier boot."""
        position = host.position()
        position['serials']['boot'] = model.new_id()
        connection = sqlite3.connect(host.journal / journal.NAME)
        with contextlib.closing(connection), connection:
            connection.execute(
                'UPDATE state SET value = ? WHERE key = ?',
                (json.dumps(position), intake.POSITION),
            )

    def test_it_is_stopped_and_started(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        with self.flood():
            for _ in range(3):
                self.wait_for(consuming, len(self.violations(consuming)) + 10)
                self.assertEqual(0, host.stop())
                host.start()
        host.account(consuming)

    def test_it_is_reloaded(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        with self.flood():
            for _ in range(3):
                self.wait_for(consuming, len(self.violations(consuming)) + 10)
                before = host.worker
                os.kill(host.agent.pid, signal.SIGHUP)
                host.wait_until(
                    lambda before=before: host.workers() not in ([], [before]),
                    'a new worker',
                )
        host.account(consuming)

    def test_libvirtd_hangs_and_ends(self):
        host = self.rig()
        silent = self.hang_libvirt(host)
        consuming = host.consume()
        host.start()
        with self.flood():
            for _ in range(4):
                # while first events wait to be told whose they are
                host.wait_until(lambda: self.held(host), 'an event is held')
                host.kill_worker()
            self.wait_for(consuming, len(self.violations(consuming)) + 10)
            silent.close()
            self.wait_for(consuming, len(self.violations(consuming)) + 10)
        host.account(consuming)

    def test_what_waits_for_libvirtd_is_not_counted_anew_after_a_kill(self):
        self.useFixture(fixtures.EnvironmentVariable('PATIENCE', '10'))
        host = self.rig(repeat_window=10)
        self.hang_libvirt(host)
        consuming = host.consume()
        host.start()
        for _ in range(2):
            self.kernel.deny('/x', UUIDS[0])
        host.wait_until(lambda: self.held(host), 'the first is held')
        host.kill_worker()
        # as many repeats as before: two ends must not look alike
        self.kernel.deny('/x', UUIDS[0])
        host.account(consuming)

    @staticmethod
    def held(host):
        with contextlib.suppress(sqlite3.Error, TypeError):
            return host.held()


class HostileTest(FaultsTestCase):
    """Records that are no records, and names that look like some."""

    FAKE = (
        'x\ntype=AVC msg=audit(1795424098.237:7): apparmor="DENIED" '
        f'operation="open" profile="libvirt-{UUIDS[1]}" name="/fake"'
    )
    NAMES = (
        f'/{FAKE}',
        f'/" name="/other" profile="libvirt-{UUIDS[1]}',
        '/\x1b[2J\x1b]0;owned\x07',
        '/\u202egnp.elbatucexe',
        '/\udcff\udcfe',
        '/' + 'n' * 4094,
        '/\n' * 2047,
        '',
    )

    def test_a_storm(self):
        host = self.rig()
        consuming = host.consume()
        host.start()
        chance = random.Random(2)
        kernel = self.kernel
        whole = kernel.denial('/x', UUIDS[0]).partition(b'): ')[2]
        del kernel.fed[kernel.serial]
        kernel.deny('/first', UUIDS[0])
        host.account(consuming)
        profile = whole.index(b'libvirt-') + 36
        for round_ in range(200):
            kernel.litter(chance.randbytes(60).replace(b'\n', b' '))
            kernel.litter(whole[: chance.randrange(1, profile)])
            kernel.litter(b'A' * 12000)
            kernel.litter(b'\x1b[2J' * 9)
            kernel.litter(self.FAKE.partition('\n')[0].encode())
            for name in self.NAMES:
                kernel.deny(name, chance.choice(UUIDS))
            kernel.deny(
                '/long', chance.choice(UUIDS), more=f' comm="{"c" * 12000}"'
            )
            if round_ == 100:
                host.kill_worker()
        host.account(consuming)
        for event in consuming.received:
            self.assertTrue(event[3]['summary'].isprintable())
        for line in host.log.read_text().splitlines():
            self.assertTrue(line.isprintable(), line)
