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

"""The table of guests follows libvirt; libvirt's own test driver serves it."""

import os
import pathlib
import tempfile
import threading
import time
from unittest import mock

import libvirt
from oslotest import base

from nova_isolation.agent import domains
from nova_isolation.agent import report
from nova_isolation.agent import verifier
from nova_isolation.audit import attribution
from nova_isolation import domain
from nova_isolation.domain import reader
from nova_isolation import exceptions
from nova_isolation.violations import journal

UUID1 = '5f0a2f0e-90ad-4b5b-8d6e-0d6a1f3b7a01'
UUID2 = '0c7e54b2-7a11-4c2f-9f0e-61b2a3c4d502'
STATE = '/var/lib/libvirt/qemu'
LEVEL = 's0:c504,c872'
LABEL = f"""<seclabel type='static' model='selinux'>
  <label>system_u:system_r:svirt_t:{LEVEL}</label></seclabel>"""


def _xml(uuid, name, disk, more=''):
    return f"""
<domain type='test'>
  <name>{name}</name><uuid>{uuid}</uuid><memory>65536</memory>
  <metadata><nova:instance xmlns:nova='{domain.NOVA_NAMESPACE}'>
    <nova:name>server of {name}</nova:name>
  </nova:instance></metadata>
  <os><type>hvm</type></os>
  <devices><disk type='file'><driver name='qemu' type='qcow2'/>
    <source file='{disk}'/><target dev='vda'/></disk></devices>
  {more}
</domain>"""


class DomainsTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.home = pathlib.Path(temporary.name)
        # a second connection, as nova-compute has one
        self.nova = libvirt.open('test:///default')
        self.addCleanup(self.nova.close)
        self.connections = 0
        self.error = None
        for name, value in (
            ('_SHORTEST', 0.01),
            ('_IDLE', 0.05),
            ('_HANGS', 3600),
            ('_SETTLE', 60),
        ):
            patcher = mock.patch.object(domains, name, value)
            patcher.start()
            self.addCleanup(patcher.stop)

    def _connect(self, uri):
        self.connections += 1
        if self.error:
            raise self.error
        return libvirt.openReadOnly(uri)

    def _start(self):
        self.domains = domains.Domains('test:///default', STATE, self._connect)
        self.domains.start()
        self.addCleanup(self.domains.stop, 10)
        return self.domains

    def _define(self, uuid, name, disk=None, more=''):
        path = disk or f'{self.home}/{uuid}/disk'
        defined = self.nova.defineXML(_xml(uuid, name, path, more))
        self.addCleanup(self._undefine, defined)
        return defined

    @staticmethod
    def _undefine(defined):
        try:
            if defined.isActive():
                defined.destroy()
            defined.undefine()
        except libvirt.libvirtError:
            pass

    def _eventually(self, condition):
        deadline = time.monotonic() + 10
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)


class TableTestCase(DomainsTestCase):
    def test_a_guest_and_its_disk(self):
        self._define(UUID1, 'one').create()
        table = self._start().fresh(10)
        self.assertEqual('server of one', table.guest(UUID1).instance.name)
        self.assertEqual(
            UUID1, table.target(f'{self.home}/{UUID1}/disk').owner
        )

    def test_a_guest_that_was_just_made_is_in_the_fresh_table(self):
        known = self._start()
        self.assertNotIn(UUID1, known.fresh(10))
        self._define(UUID1, 'one')
        self.assertIn(UUID1, known.fresh(10))

    def test_new_guests_are_noticed_without_being_asked_for(self):
        known = self._start()
        known.fresh(10)
        self._define(UUID1, 'one')
        self._eventually(lambda: UUID1 in known.table)

    def test_a_changed_guest_is_in_the_fresh_table(self):
        known = self._start()
        self._define(UUID1, 'one', '/srv/a')
        known.fresh(10)
        self._define(UUID1, 'one', '/srv/b')
        table = known.fresh(10)
        self.assertEqual(UUID1, table.target('/srv/b').owner)
        self.assertIsNone(table.target('/srv/a').owner)

    def test_the_real_path_of_a_directory_counts(self):
        (self.home / 'real').mkdir()
        (self.home / 'link').symlink_to('real')
        self._define(UUID1, 'one', f'{self.home}/link/disk')
        table = self._start().fresh(10)
        real = (self.home / 'real').resolve()
        self.assertEqual(UUID1, table.target(f'{real}/disk').owner)

    def test_a_deleted_guest_is_remembered_for_a_while(self):
        known = self._start()
        guest = self._define(UUID1, 'one')
        self.assertIn(UUID1, known.fresh(10))
        guest.undefine()
        table = known.fresh(10)
        self.assertEqual('server of one', table.guest(UUID1).instance.name)
        with mock.patch.object(domains, '_REMEMBERED', 0.05):
            self._eventually(lambda: UUID1 not in known.fresh(10))

    def test_a_domain_that_is_not_understood_is_named_all_the_same(self):
        strange = self._define(UUID1, 'one', '/srv/../etc/passwd', LABEL)
        strange.create()
        self._define(UUID2, 'two')
        with self.assertLogs(domains.LOG.logger, 'ERROR') as logs:
            known = self._start()
            for _ in range(3):
                table = known.fresh(10)
        self.assertIn(UUID2, table)
        self.assertEqual(1, len(logs.output))
        self.assertIn(UUID1, logs.output[0])
        self.assertIn((UUID1, 'one', strange.ID()), known.running())
        who = report.instance(LEVEL, table)
        self.assertEqual((UUID1, 'server of one'), (who.uuid, who.name))

    def test_nothing_of_it_is_understood(self):
        strange = self._define(UUID1, 'one')
        strange.create()
        read = mock.patch.object(
            reader, 'read_xml', side_effect=exceptions.InvalidDomain('large')
        )
        with read, self.assertLogs(domains.LOG.logger, 'ERROR'):
            known = self._start()
            known.fresh(10)
        self.assertIn((UUID1, 'one', strange.ID()), known.running())

    def test_what_was_understood_of_it_before_stays(self):
        guest = self._define(UUID1, 'one', '/srv/disk')
        guest.create()
        known = self._start()
        known.fresh(10)
        with self.assertLogs(domains.LOG.logger, 'ERROR'):
            self._define(UUID1, 'one', '/srv/../etc/passwd')
            guest.destroy()
            table = known.fresh(10)
        self.assertFalse(table.guest(UUID1).gone)
        self.assertEqual((UUID1,), table.owners('/srv/disk'))

    def test_a_domain_that_is_not_understood_is_verified(self):
        self._define(UUID1, 'one', '/srv/../etc/passwd').create()
        known = self._start()
        known.fresh(10)
        events = []
        looking = verifier.Verifier(
            'cmp1',
            known.running,
            events.append,
            runtime_directory=str(self.home),
            mode='enforce',
            interval=3600,
        )
        with mock.patch.object(verifier, '_GRACE', -1):
            looking.look()
        self.assertTrue(looking.verify(UUID1)['running'])
        self.assertIn(UUID1, [event.instance.uuid for event in events])


class EventsTestCase(DomainsTestCase):
    """libvirt tells what happens; nothing is read without that."""

    def setUp(self):
        super().setUp()
        for name in ('_IDLE', '_IDLE_WITH_EVENTS', '_FULL_WITH_EVENTS'):
            patcher = mock.patch.object(domains, name, 1000)
            patcher.start()
            self.addCleanup(patcher.stop)

    def test_a_guest_that_starts_and_stops(self):
        known = self._start()
        known.fresh(10)
        guest = self._define(UUID1, 'one')
        guest.create()
        # beside the one that the test driver begins with
        self._eventually(lambda: (UUID1, 'one', guest.ID()) in known.running())
        guest.destroy()
        self._eventually(
            lambda: UUID1 not in [uuid for uuid, _, _ in known.running()]
        )
        self.assertIn(UUID1, known.table)
        self.assertEqual(1, self.connections)

    def test_a_guest_that_changes_and_goes(self):
        known = self._start()
        known.fresh(10)
        self._define(UUID1, 'one', '/srv/a')
        self._eventually(lambda: known.table.owners('/srv/a'))
        guest = self._define(UUID1, 'one', '/srv/b')
        self._eventually(lambda: known.table.owners('/srv/b'))
        self.assertEqual((), known.table.owners('/srv/a'))
        guest.undefine()
        self._eventually(lambda: known.table.guest(UUID1).gone)

    def test_it_is_stale_until_what_events_told_was_read(self):
        known = self._start()
        known.fresh(10)
        with mock.patch.object(domains, '_SHORTEST', 0):
            self.assertFalse(known.stale())
        reads, go_on = threading.Event(), threading.Event()
        real = known._describe

        def describe(*args):
            reads.set()
            go_on.wait(20)
            return real(*args)

        with mock.patch.object(known, '_describe', describe):
            self._define(UUID1, 'one', '/srv/a')
            self.assertTrue(reads.wait(20))
            self.assertTrue(known.stale())
            self.assertEqual((), known.table.owners('/srv/a'))
            go_on.set()
            self._eventually(lambda: not known.stale())
        self.assertEqual((UUID1,), known.table.owners('/srv/a'))

    def test_other_guests_are_not_read_again(self):
        self._define(UUID1, 'one')
        known = self._start()
        known.fresh(10)
        before = known._known[UUID1]
        self._define(UUID2, 'two')
        self._eventually(lambda: UUID2 in known.table)
        self.assertIs(before, known._known[UUID1])

    def test_a_lost_connection_is_made_again(self):
        known = self._start()
        known.fresh(10)
        known._closed(known._connection, 0, None)
        self._eventually(lambda: self.connections == 2)
        self._define(UUID1, 'one')
        self._eventually(lambda: UUID1 in known.table)

    def test_without_events_it_asks(self):
        def connect(uri):
            connection = mock.Mock(wraps=libvirt.openReadOnly(uri))
            connection.domainEventRegisterAny.side_effect = (
                libvirt.libvirtError('no events')
            )
            return connection

        with mock.patch.object(domains, '_IDLE', 0.05):
            with self.assertLogs(domains.LOG.logger, 'WARNING') as logs:
                known = domains.Domains('test:///default', STATE, connect)
                known.start()
                self.addCleanup(known.stop, 10)
                known.fresh(10)
            self._define(UUID1, 'one')
            self._eventually(lambda: UUID1 in known.table)
        self.assertIn('no events', logs.output[0])


class RememberTestCase(DomainsTestCase):
    """What is known of the guests outlives the agent."""

    def setUp(self):
        super().setUp()
        self.store = {}
        self.full_disk = False

    def _remember(self, changes):
        if self.full_disk:
            raise OSError('disk full')
        for uuid, text in changes.items():
            if text is None:
                self.store.pop(uuid, None)
            else:
                self.store[uuid] = text

    def _begin(self):
        known = domains.Domains(
            'test:///default',
            STATE,
            self._connect,
            remember=self._remember,
            remembered=list(self.store.values()),
        )
        self.addCleanup(known.stop, 10)
        return known

    def test_a_guest_that_went_while_the_agent_was_away(self):
        guest = self._define(UUID1, 'one')
        known = self._begin()
        known.start()
        known.fresh(10)
        self._eventually(lambda: UUID1 in self.store)
        known.stop(10)
        guest.undefine()
        again = self._begin()
        self.assertFalse(again.table.guest(UUID1).gone)
        again.start()
        table = again.fresh(10)
        self.assertTrue(table.guest(UUID1).gone)
        self.assertEqual('server of one', table.guest(UUID1).instance.name)

    def test_the_level_of_a_guest_that_ended(self):
        guest = self._define(UUID1, 'one', more=LABEL)
        guest.create()
        # it has none any more as soon as it is off
        self._define(UUID1, 'one')
        known = self._begin()
        known.start()
        self.assertEqual(UUID1, known.fresh(10).uuid(LEVEL))
        guest.destroy()
        table = known.fresh(10)
        self.assertIsNone(table.guest(UUID1).id)
        self.assertEqual(UUID1, table.uuid(LEVEL))
        known.stop(10)
        again = self._begin()
        again.start()
        self.assertEqual(UUID1, again.fresh(10).uuid(LEVEL))
        guest.undefine()
        table = again.fresh(10)
        self.assertTrue(table.guest(UUID1).gone)
        self.assertEqual(UUID1, table.uuid(LEVEL))
        again.stop(10)
        self.assertEqual(UUID1, self._begin().table.uuid(LEVEL))

    def test_a_guest_that_is_forgotten_is_forgotten_there_too(self):
        guest = self._define(UUID1, 'one')
        known = self._begin()
        known.start()
        known.fresh(10)
        self._eventually(lambda: UUID1 in self.store)
        guest.undefine()
        with mock.patch.object(domains, '_REMEMBERED', 0.01):
            self._eventually(
                lambda: known.fresh(10) and UUID1 not in self.store
            )

    def test_what_could_not_be_kept_is_kept_later(self):
        self.full_disk = True
        self._define(UUID1, 'one')
        known = self._begin()
        with self.assertLogs(domains.LOG.logger, 'ERROR') as logs:
            known.start()
            known.fresh(10)
            known.fresh(10)
        self.assertEqual(1, len(logs.output))
        self.full_disk = False
        self._eventually(lambda: known.fresh(10) and UUID1 in self.store)

    def test_what_is_not_understood_is_no_fault(self):
        self.store = {UUID1: 'x', UUID2: '{}'}
        with self.assertLogs(domains.LOG.logger, 'WARNING'):
            self.assertEqual(0, len(self._begin().table))

    def test_a_journal_that_is_begun_anew_gets_all_of_them(self):
        kept = journal.Journal(str(self.home), 30, 16, 'cmp1')
        self.addCleanup(kept.close)
        kept.open()
        known = domains.Domains(
            'test:///default',
            STATE,
            self._connect,
            remember=lambda changes: kept.commit(state=changes),
            opened=lambda: kept.opened,
        )
        self.addCleanup(known.stop, 10)
        guest = self._define(UUID1, 'one')
        known.start()
        known.fresh(10)
        guest.undefine()
        self._eventually(
            lambda: (
                known.fresh(10)
                and (text := kept.state(UUID1))
                and attribution.Guest.from_json(text).gone
            )
        )
        os.unlink(kept.path)
        # whoever writes next begins it
        with self.assertLogs(journal.LOG.logger, 'ERROR'):
            kept.commit(state={'position': 'x'})
        self._eventually(lambda: known.fresh(10) and kept.state(UUID1))
        self.assertEqual({'position', *known._known}, set(kept.states('')))

    def test_there_is_a_bound_and_those_that_are_gone_go_first(self):
        for number in range(4):
            uuid = UUID1[:-1] + str(number)
            self._define(uuid, f'guest{number}').undefine()
        known = self._start()
        known.fresh(10)
        guests = [
            self._define(UUID1[:-1] + str(n), f'guest{n}') for n in range(4)
        ]
        known.fresh(10)
        guests[0].undefine()
        known.fresh(10)
        guests[1].undefine()
        with mock.patch.object(domains, '_MOST', len(known._known) - 1):
            table = known.fresh(10)
        self.assertNotIn(UUID1[:-1] + '0', table)
        self.assertTrue(table.guest(UUID1[:-1] + '1').gone)
        self.assertIn(UUID1[:-1] + '3', table)


class AwayTestCase(DomainsTestCase):
    """libvirt is not there, or hangs."""

    def test_without_libvirt_there_is_an_empty_table_and_one_line(self):
        self.error = libvirt.libvirtError('nobody there')
        with self.assertLogs(domains.LOG.logger, 'ERROR') as logs:
            known = self._start()
            begun = time.monotonic()
            for _ in range(3):
                self.assertNotIn(UUID1, known.fresh(60))
        self.assertLess(time.monotonic() - begun, 60)
        self.assertEqual(1, len(logs.output))

    def test_it_connects_when_libvirt_is_there(self):
        self.error = libvirt.libvirtError('nobody there')
        known = self._start()
        known.fresh(10)
        self._define(UUID1, 'one')
        self.error = None
        self.assertIn(UUID1, known.fresh(10))

    def test_a_connection_that_broke_is_made_again_at_once(self):
        known = self._start()
        known.fresh(10)
        self._define(UUID1, 'one')
        broken = mock.Mock()
        broken.listAllDomains.side_effect = libvirt.libvirtError('broken')
        known._connection = broken
        self.assertIn(UUID1, known.fresh(10))
        broken.close.assert_called_once_with()

    def test_what_was_known_stays_known(self):
        self._define(UUID1, 'one')
        known = self._start()
        known.fresh(10)
        self.error = libvirt.libvirtError('nobody there')
        known._connection = None
        self.assertIn(UUID1, known.fresh(10))

    def test_a_libvirt_that_hangs_holds_up_nobody_for_long(self):
        asked, hang = threading.Event(), threading.Event()

        def connect(uri):
            asked.set()
            hang.wait(150)
            raise libvirt.libvirtError('nobody there')

        known = domains.Domains('test:///default', STATE, connect)
        self.addCleanup(known.stop, 10)
        self.addCleanup(hang.set)
        known.start()
        self.assertTrue(asked.wait(60))
        known.fresh(0.01)
        self.assertGreater(known._begun, known._ended)
        with mock.patch.object(domains, '_HANGS', -1):
            begun = time.monotonic()
            known.fresh(150)
            self.assertLess(time.monotonic() - begun, 100)
        known.stop(0.1)
        self.assertTrue(known._thread.is_alive())


class StaleTestCase(DomainsTestCase):
    def test_not_more_than_once_a_second(self):
        with mock.patch.object(domains, '_SHORTEST', 5):
            with mock.patch.object(domains, '_IDLE', 50):
                known = self._start()
                self._eventually(lambda: known._ended == 1)
                self.assertFalse(known.stale())

    def test_a_slow_libvirt_is_asked_less(self):
        known = domains.Domains('test:///default', STATE)
        known._began, known._lasted = time.monotonic() - 5, 1.0
        self.assertFalse(known.stale())
        known._began = time.monotonic() - 11
        self.assertTrue(known.stale())
