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

"""Events in the spool are complete, in order, bounded, and never block."""

import errno
import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import threading
import time
from unittest import mock

from oslotest import base

from nova_isolation import exceptions
from nova_isolation.violations import model
from nova_isolation.violations import spool as spool_module

ID = '11111111-2222-3333-4444-555555555555'


class SpoolTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = pathlib.Path(temporary.name) / 'a' / 'spool'
        self.spool = self._spool()

    def _spool(self, limit=100):
        return spool_module.Spool(str(self.directory), limit)

    def _put(self, number=0, spool=None):
        return (spool or self.spool).put(
            'isolation.test', 'warn', {'number': number}
        )

    def _numbers(self):
        return [e.payload['number'] for e in self.spool.entries()]

    def _names(self):
        return sorted(p.name for p in self.directory.iterdir())


class PutTestCase(SpoolTestCase):
    def test_nothing_is_touched_before_the_first_event(self):
        self.assertEqual([], list(self.spool.entries()))
        self.assertFalse(self.directory.exists())

    def test_an_event_comes_back_as_it_was(self):
        before = time.time()
        payload = {
            'id': model.new_id(),
            'text': 'h\u00e9 \u65e5\n"',
            'number': 1,
            'nothing': None,
        }
        identity = self.spool.put('isolation.test', 'error', payload)
        (entry,) = self.spool.entries()
        self.assertEqual(payload['id'], identity)
        self.assertEqual(identity, entry.id)
        self.assertEqual(payload, entry.payload)
        self.assertEqual('isolation.test', entry.event_type)
        self.assertEqual('error', entry.priority)
        self.assertTrue(before - 1 <= entry.time <= time.time() + 1)

    def test_an_event_of_the_model(self):
        refused = model.Refused(
            host='h',
            instance=model.Instance(model.new_id()),
            operation='spawn',
            reason='why',
        )
        self.assertEqual(refused.id, self.spool.put_event(refused))
        (entry,) = self.spool.entries()
        self.assertEqual('isolation.refused', entry.event_type)
        self.assertEqual('error', entry.priority)
        self.assertEqual(refused.payload(), entry.payload)

    def test_others_of_the_host_cannot_read_it(self):
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        self._put()
        (file,) = self.directory.iterdir()
        self.assertEqual(0o640, stat.S_IMODE(file.stat().st_mode))
        self.assertEqual(0o750, stat.S_IMODE(self.directory.stat().st_mode))

    def test_the_group_can_whatever_the_umask(self):
        old = os.umask(0o077)
        self.addCleanup(os.umask, old)
        self._put()
        (file,) = self.directory.iterdir()
        self.assertEqual(0o640, stat.S_IMODE(file.stat().st_mode))

    def test_a_file_system_that_knows_no_modes_takes_it_all_the_same(self):
        denied = PermissionError(errno.EPERM, 'Operation not permitted')
        with mock.patch.object(
            os, 'fchmod', autospec=True, side_effect=denied
        ):
            self._put(1)
        self.assertEqual([1], self._numbers())

    def test_content_then_name_then_directory_reach_the_disk(self):
        calls = []
        fsync, rename = os.fsync, os.rename

        def note_fsync(fd):
            calls.append(
                'directory' if stat.S_ISDIR(os.fstat(fd).st_mode) else 'file'
            )
            fsync(fd)

        def note_rename(*args, **kwargs):
            calls.append('rename')
            rename(*args, **kwargs)

        with (
            mock.patch.object(os, 'fsync', note_fsync),
            mock.patch.object(os, 'rename', note_rename),
        ):
            self._put()
        self.assertEqual(['file', 'rename', 'directory'], calls)

    def test_a_disk_that_is_full_leaves_nothing_and_says_so(self):
        self._put(1)
        full = OSError(errno.ENOSPC, 'No space left on device')
        with mock.patch.object(os, 'fsync', autospec=True, side_effect=full):
            self.assertRaises(OSError, self._put, 2)
        self.assertEqual([1], self._numbers())
        self.assertEqual(1, len(self._names()))

    def test_a_read_only_file_system_is_told_with_the_way_out(self):
        error = OSError(errno.EROFS, 'Read-only file system', '/srv')
        with mock.patch.object(
            os, 'makedirs', autospec=True, side_effect=error
        ):
            for call in (self._put, self.spool.clean):
                told = self.assertRaises(OSError, call)
                self.assertEqual(errno.EROFS, told.errno)
                self.assertIn(f'ReadWritePaths={self.directory}', str(told))

    def test_an_id_that_is_no_uuid_makes_no_path(self):
        self.assertRaises(
            ValueError, self.spool.put, 'x', 'warn', {'id': '../../etc/x'}
        )
        self.assertEqual([], self._names())

    def test_an_event_that_nobody_could_read_back_is_not_taken(self):
        self.assertRaises(
            ValueError, self.spool.put, 'x', 'warn', {'x': 'x' * 1000000}
        )
        self.assertEqual([], self._names())


class OrderTestCase(SpoolTestCase):
    def test_oldest_first(self):
        for number in range(20):
            self._put(number)
        self.assertEqual(list(range(20)), self._numbers())

    def test_a_clock_that_is_set_back_reorders_nothing(self):
        self._put(1)
        with mock.patch.object(time, 'time_ns', autospec=True, return_value=1):
            self._put(2)
            self._put(3)
        self.assertEqual([1, 2, 3], self._numbers())

    def test_two_processes_in_turn(self):
        self._put(1)
        subprocess.run(
            [
                sys.executable,
                '-c',
                'import sys\n'
                'from nova_isolation.violations import spool\n'
                's = spool.Spool(sys.argv[1], 100)\n'
                's.put("isolation.test", "warn", {"number": 2})\n',
                str(self.directory),
            ],
            check=True,
            cwd=pathlib.Path(spool_module.__file__).parents[2],
        )
        self._put(3)
        self.assertEqual([1, 2, 3], self._numbers())

    def test_threads_lose_nothing(self):
        threads = [
            threading.Thread(target=self._put, args=(number,))
            for number in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(set(range(20)), set(self._numbers()))

    def test_what_is_removed_is_gone_and_the_rest_stays(self):
        for number in range(3):
            self._put(number)
        entries = self.spool.entries()
        self.spool.remove(next(entries))
        entries.close()
        self.assertEqual([1, 2], self._numbers())

    def test_removing_twice_is_no_fault(self):
        self._put()
        (entry,) = self.spool.entries()
        self.spool.remove(entry)
        self.spool.remove(entry)


class LimitTestCase(SpoolTestCase):
    def test_a_full_spool_takes_no_more(self):
        spool = self._spool(5)
        for number in range(5):
            self._put(number, spool)
        e = self.assertRaises(exceptions.SpoolFull, self._put, 9, spool)
        self.assertIn(str(self.directory), e.message)
        self.assertEqual([0, 1, 2, 3, 4], self._numbers())

    def test_it_takes_again_when_the_broker_took_some(self):
        spool = self._spool(2)
        self._put(0, spool)
        self._put(1, spool)
        self.assertRaises(exceptions.SpoolFull, self._put, 9, spool)
        self.spool.remove(next(self.spool.entries()))
        time.sleep(spool_module._FULL + 0.05)
        self._put(2, spool)
        self.assertEqual([1, 2], self._numbers())

    def test_two_writers_share_the_limit(self):
        one, two = self._spool(20), self._spool(20)
        taken = 0
        for number in range(30):
            for spool in (one, two):
                try:
                    self._put(number, spool)
                except exceptions.SpoolFull:
                    continue
                taken += 1
        self.assertIn(taken, (20, 21))
        self.assertEqual(taken, len(self._numbers()))

    def test_it_does_not_read_the_directory_for_each_event(self):
        spool = self._spool(10000)
        self._put(0, spool)
        with mock.patch.object(os, 'listdir', autospec=True) as listdir:
            for number in range(200):
                self._put(number, spool)
        listdir.assert_not_called()

    def test_a_full_spool_costs_next_to_nothing(self):
        spool = self._spool(1)
        self._put(0, spool)
        with mock.patch.object(spool_module, '_FULL', 3600):
            self.assertRaises(exceptions.SpoolFull, self._put, 9, spool)
            with mock.patch.object(os, 'listdir', autospec=True) as listdir:
                self.assertRaises(exceptions.SpoolFull, self._put, 9, spool)
        listdir.assert_not_called()


class HostileTestCase(SpoolTestCase):
    """What else may stand in the directory."""

    def setUp(self):
        super().setUp()
        self._put(1)
        (self.good,) = self._names()

    def _name(self, number):
        # older than the good one: it comes first
        return f'{number:020d}-1-{ID}.json'

    def _assert_put_aside(self, name):
        with self.assertLogs(spool_module.LOG.logger, 'ERROR') as logs:
            self.assertEqual([1], self._numbers())
        self.assertIn(name, logs.output[0])
        self.assertEqual([name + '.bad', self.good], self._names())
        # once
        with self.assertNoLogs(spool_module.LOG.logger, 'ERROR'):
            self.assertEqual([1], self._numbers())

    def test_broken_content(self):
        good = json.loads((self.directory / self.good).read_text())
        good['id'] = ID
        for number, content in enumerate(
            [
                b'',
                b'\xff\xfe',
                b'[]',
                b'{"id": 1}',
                b'[' * 100000,
                b'9' * 10000,
                json.dumps({**good, 'payload': 'x'}).encode(),
                json.dumps({**good, 'priority': '../x'}).encode(),
                json.dumps({**good, 'time': float('nan')}).encode(),
                json.dumps({**good, 'time': 1e300}).encode(),
                # not that of the name; no text at all
                json.dumps({**good, 'id': ID[::-1]}).encode(),
                json.dumps({**good, 'id': '\ud800'}).encode(),
                b' ' * 300000,
            ]
        ):
            name = self._name(number)
            (self.directory / name).write_bytes(content)
            self._assert_put_aside(name)
            (self.directory / f'{name}.bad').unlink()

    def test_a_symlink_is_not_followed(self):
        elsewhere = self.directory.parent / 'elsewhere'
        (self.directory / self.good).rename(elsewhere)
        self._put(1)
        (self.good,) = self._names()
        (self.directory / self._name(1)).symlink_to(elsewhere)
        self._assert_put_aside(self._name(1))

    def test_a_directory(self):
        (self.directory / self._name(1)).mkdir()
        self._assert_put_aside(self._name(1))

    def test_a_fifo_does_not_hang(self):
        os.mkfifo(self.directory / self._name(1))
        self._assert_put_aside(self._name(1))

    def test_a_huge_file_is_not_read(self):
        with open(self.directory / self._name(1), 'wb') as stream:
            stream.truncate(1 << 40)
        self._assert_put_aside(self._name(1))

    def test_a_name_that_we_do_not_make(self):
        (self.directory / '0.json').write_text('{}')
        self._assert_put_aside('0.json')

    def test_other_files_are_left_alone(self):
        (self.directory / 'README').write_text('x')
        (self.directory / 'x.new').write_text('x')
        self.assertEqual([1], self._numbers())
        self.assertEqual(3, len(self._names()))

    def test_a_shortage_of_descriptors_condemns_no_event(self):
        real = os.open
        none = OSError(errno.EMFILE, 'Too many open files')

        def fail(path, *args, **kwargs):
            if str(path).endswith('.json'):
                raise none
            return real(path, *args, **kwargs)

        with mock.patch.object(os, 'open', fail):
            self.assertRaises(OSError, self._numbers)
        self.assertEqual([1], self._numbers())

    def test_what_cannot_even_be_renamed_holds_nothing_up(self):
        (self.directory / self._name(1)).mkdir()
        denied = PermissionError(errno.EACCES, 'Permission denied')
        with mock.patch.object(
            os, 'rename', autospec=True, side_effect=denied
        ):
            self.assertEqual([1], self._numbers())

    def test_half_written_files_of_dead_processes_go(self):
        old = self.directory / (self._name(1) + '.new')
        young = self.directory / (self._name(2) + '.new')
        old.write_text('x')
        young.write_text('x')
        os.utime(old, (1, 1))
        self.spool.clean()
        self.assertEqual([young.name, self.good], self._names())
