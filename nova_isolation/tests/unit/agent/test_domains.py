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

import pathlib
import tempfile
import threading
import time
from unittest import mock

import libvirt
from oslotest import base

from nova_isolation.agent import domains
from nova_isolation import domain

UUID1 = '5f0a2f0e-90ad-4b5b-8d6e-0d6a1f3b7a01'
UUID2 = '0c7e54b2-7a11-4c2f-9f0e-61b2a3c4d502'
STATE = '/var/lib/libvirt/qemu'


def _xml(uuid, name, disk):
    return f"""
<domain type='test'>
  <name>{name}</name><uuid>{uuid}</uuid><memory>65536</memory>
  <metadata><nova:instance xmlns:nova='{domain.NOVA_NAMESPACE}'>
    <nova:name>server of {name}</nova:name>
  </nova:instance></metadata>
  <os><type>hvm</type></os>
  <devices><disk type='file'><driver name='qemu' type='qcow2'/>
    <source file='{disk}'/><target dev='vda'/></disk></devices>
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
        for name, value in (('_SHORTEST', 0.01), ('_IDLE', 0.05)):
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

    def _define(self, uuid, name, disk=None):
        path = disk or f'{self.home}/{uuid}/disk'
        defined = self.nova.defineXML(_xml(uuid, name, path))
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
        self.assertEqual('server of one', table.domain(UUID1).instance.name)
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
        self.assertEqual('server of one', table.domain(UUID1).instance.name)
        with mock.patch.object(domains, '_REMEMBERED', 0.05):
            self._eventually(lambda: UUID1 not in known.table)

    def test_a_domain_that_is_not_understood_is_logged_once_and_skipped(self):
        self._define(UUID1, 'one', '/srv/../etc/passwd')
        self._define(UUID2, 'two')
        with self.assertLogs(domains.LOG.logger, 'ERROR') as logs:
            known = self._start()
            for _ in range(3):
                table = known.fresh(10)
        self.assertNotIn(UUID1, table)
        self.assertIn(UUID2, table)
        self.assertEqual(1, len(logs.output))
        self.assertIn(UUID1, logs.output[0])


class AwayTestCase(DomainsTestCase):
    """libvirt is not there, or hangs."""

    def test_without_libvirt_there_is_an_empty_table_and_one_line(self):
        self.error = libvirt.libvirtError('nobody there')
        with self.assertLogs(domains.LOG.logger, 'ERROR') as logs:
            known = self._start()
            begun = time.monotonic()
            for _ in range(3):
                self.assertNotIn(UUID1, known.fresh(10))
        self.assertLess(time.monotonic() - begun, 2)
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
        hang = threading.Event()

        def connect(uri):
            hang.wait(30)
            raise libvirt.libvirtError('nobody there')

        known = domains.Domains('test:///default', STATE, connect)
        self.addCleanup(known.stop, 10)
        self.addCleanup(hang.set)
        with mock.patch.object(domains, '_HANGS', 0.1):
            known.start()
            begun = time.monotonic()
            known.fresh(0.2)
            self.assertLess(time.monotonic() - begun, 1)
            begun = time.monotonic()
            for _ in range(100):
                known.fresh(5)
            self.assertLess(time.monotonic() - begun, 1)
        begun = time.monotonic()
        known.stop(0.1)
        self.assertLess(time.monotonic() - begun, 1)


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
