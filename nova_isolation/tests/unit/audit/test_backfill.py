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

"""What the kernel recorded while nobody listened is found, or told lost."""

import errno
import gzip
import json
import os
import pathlib
import re
import signal
import stat
import subprocess
import time
from unittest import mock

import fixtures
from oslotest import base

from nova_isolation.audit import auditlog
from nova_isolation.audit import backfill
from nova_isolation.audit import journald
from nova_isolation.audit import kmsg
from nova_isolation.audit import lines

BOOTED = backfill.boot_time()
DENIAL = (
    'apparmor="DENIED" operation="open" profile="libvirt-x" '
    'name="/etc/passwd" pid=1 comm="qemu"'
)


def avc(serial, seconds=100.0, text=DENIAL):
    """Make a line of auditd.

    :param seconds: since the boot
    """
    return (
        f'type=AVC msg=audit({BOOTED + seconds:.3f}:{serial}): {text}\n'
    ).encode()


def other(serial, seconds=100.0, kind='SYSCALL'):
    return (
        f'type={kind} msg=audit({BOOTED + seconds:.3f}:{serial}): '
        f'arch=c000003e syscall=257 success=no exit=-13 comm="qemu"\n'
    ).encode()


def started(seconds):
    """Make the line that auditd writes when it starts."""
    return other(4263, seconds, 'DAEMON_START')


def millis(seconds):
    return round((BOOTED + seconds) * 1000)


class BackfillTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.path = self.directory / 'audit.log'

    def write(self, *parts, name='audit.log', age=0):
        path = self.directory / name
        path.write_bytes(b''.join(parts))
        then = time.time() - age
        os.utime(path, (then, then))

    def reading(self, since=50.0, wanted=lambda millis, serial: True, **more):
        reading = backfill.Backfill(str(self.path), '', '').read(
            millis(since), wanted, **more
        )
        return reading, list(reading)

    def serials(self, *args, **more):
        return [line.serial for line in self.reading(*args, **more)[1]]


class LinesTestCase(BackfillTestCase):
    def test_denials_are_found_among_all_else(self):
        self.write(
            other(1),
            avc(2),
            other(2),
            other(3, kind='USER_AUTH'),
            avc(4, text='avc:  denied  { read } for pid=1'),
            other(5, kind='USER_AVC'),
            other(6, kind='MAC_STATUS'),
            other(7, kind='UNKNOWN[1420]'),
            other(8, kind='PROCTITLE'),
        )
        reading, found = self.reading()
        self.assertEqual([2, 4, 5, 6, 7], [line.serial for line in found])
        self.assertEqual((range(1, 9),), reading.found)
        self.assertEqual((str(self.path),), reading.sources)

    def test_a_line_is_given_as_it_is(self):
        enriched = avc(7)[:-1] + b'\x1dARCH=x86_64 SYSCALL=openat'
        self.write(enriched + b'\n')
        (line,) = self.reading()[1]
        self.assertEqual(
            lines.Line(
                source=str(self.path),
                boot=backfill.boot_id(),
                millis=millis(100),
                serial=7,
                data=enriched,
            ),
            line,
        )

    def test_lines_of_a_host_that_writes_its_name(self):
        self.write(b'node=host.example.org ' + avc(7), b'node=h ' + avc(8))
        self.assertEqual([7, 8], self.serials())

    def test_only_what_is_wanted(self):
        self.write(avc(1), avc(2), avc(3))
        self.assertEqual(
            [2], self.serials(wanted=lambda _, serial: serial == 2)
        )

    def test_a_line_that_is_being_written_is_left_to_the_listener(self):
        self.write(avc(1), avc(2)[:60])
        reading, found = self.reading()
        self.assertEqual([1], [line.serial for line in found])
        self.assertEqual((range(1, 2),), reading.found)

    def test_in_a_complete_file_the_last_line_is_one(self):
        self.write(avc(1), avc(2)[:-1], name='audit.log.1', age=9)
        self.write(avc(3))
        self.assertEqual([1, 2, 3], self.serials())

    def test_garbage_hides_nothing(self):
        self.write(
            avc(1),
            os.urandom(300_000).replace(b'\n', b'') + b'\n',
            avc(2),
            b'\0' * 5000 + avc(3),
            b'type=AVC msg=audit(99999999999999.1:4): x\n',
            b'type=AVC msg=audit(x:4): x\n',
            b'\n\n',
            avc(5),
        )
        self.assertEqual([1, 2, 3, 5], self.serials())

    def test_a_line_longer_than_any_record_is_cut(self):
        self.write(avc(1, text='x' * 9_000_000), avc(2))
        long, short = self.reading()[1]
        self.assertEqual((1, 2), (long.serial, short.serial))
        self.assertEqual(lines.LONGEST, len(long.data))

    def test_a_name_that_looks_like_a_record_is_none(self):
        self.write(
            other(1)[:-1] + b' name="type=AVC msg=audit(1.000:9): x"\n',
            b"type=USER_CMD msg=audit(1.000:9): msg='type=AVC msg=audit("
            b"1.000:8): x'\n",
        )
        self.assertEqual([], self.serials())

    def test_numbers_of_auditd_itself_are_no_events(self):
        self.write(other(4263, kind='DAEMON_ROTATE'), avc(2))
        self.assertEqual((range(2, 3),), self.reading()[0].found)

    def test_several_records_of_an_event(self):
        self.write(avc(2), other(2), avc(2))
        self.assertEqual([2, 2], self.serials())


class BootsTestCase(BackfillTestCase):
    def test_what_is_of_an_earlier_boot_is_wanted_by_its_time(self):
        self.write(avc(900, -5000), avc(901, -1000), avc(1, 3))
        _, found = self.reading(-1001, rebooted=True)
        self.assertEqual(
            [(901, None), (1, backfill.boot_id())],
            [(line.serial, line.boot) for line in found],
        )

    def test_its_numbers_are_not_those_of_this_one(self):
        self.write(avc(901, -1000), avc(1, 3))
        reading, found = self.reading(
            -1001, wanted=lambda *_: False, rebooted=True
        )
        self.assertEqual([901], [line.serial for line in found])
        self.assertEqual((range(1, 2),), reading.found)

    def test_it_is_not_wanted_when_the_time_is_in_this_one(self):
        self.write(avc(901, -10), started(1), avc(1, 3))
        self.assertEqual([1], self.serials(3))


class ClockTestCase(BackfillTestCase):
    """What is of this boot, when its clock was set."""

    def boots(self, *args, **more):
        """Read; tell what was found, and whether it is of this boot."""
        reading, found = self.reading(*args, **more)
        this = backfill.boot_id()
        return (
            [(line.serial, line.boot == this) for line in found],
            [number for each in reading.found for number in each],
        )

    def test_forward_what_was_handled_before_is_not_given_again(self):
        self.write(other(900, -900), started(-58), avc(2, -50), other(3, 20))
        self.assertEqual(
            ([], [2, 3]), self.boots(20, wanted=lambda _, serial: serial > 3)
        )

    def test_forward_what_was_not_heard_before_is_found(self):
        self.write(
            other(900, -9000),
            started(-3595),
            other(2, -3590),
            avc(3, -3580),
            other(4, 30),
        )
        self.assertEqual(
            ([(3, True)], [2, 3, 4]),
            self.boots(
                -3590,
                wanted=lambda _, serial: serial > 2,
                missing=[range(3, 5)],
            ),
        )

    def test_forward_after_a_boot_with_a_slow_clock(self):
        self.write(
            avc(1, -110),
            avc(900, -100),
            started(-3595),
            avc(1, -3590),
            avc(2, 5),
        )
        self.assertEqual(
            ([(1, False), (900, False), (1, True), (2, True)], [1, 2]),
            self.boots(-100, rebooted=True),
        )

    def test_what_is_before_this_boot_is_none_of_it(self):
        # auditd does not run
        self.write(
            started(-9000),
            avc(50, -8900),
            started(-5000),
            other(1, -4990),
            avc(40, -4900),
        )
        self.assertEqual(([], []), self.boots(20, missing=[range(11, 15)]))
        self.assertEqual(([(40, False)], []), self.boots(-4950, rebooted=True))

    def test_back_since_the_boot_before(self):
        self.write(
            avc(1, 1000),
            avc(5000, 1700),
            started(5),
            other(1, 10),
            avc(2, 15),
            other(4, 20),
        )
        self.assertEqual(
            ([(2, True)], [1, 2, 4]), self.boots(20, missing=[range(2, 3)])
        )
        self.assertTrue(self.reading(20)[0].complete)
        # what nobody has handled of the one before is wanted all the same
        self.assertEqual(
            ([(5000, False), (2, True)], [1, 2, 4]),
            self.boots(1700, rebooted=True),
        )

    def test_an_auditd_that_was_started_again_is_no_boot(self):
        self.write(
            other(900, -9000),
            started(-3595),
            avc(2, -3590),
            started(-3585),
            # the end of a system call that took long
            other(1, -3580),
            avc(3, -3580),
            other(4, 20),
            started(30),
            avc(5, 30),
        )
        self.assertEqual([1, 2, 3, 4, 5], self.boots(30)[1])

    def test_a_boot_with_fewer_events_is_told_by_the_clock(self):
        self.write(
            avc(5000, -9000),
            started(-800),
            avc(2, -800),
            started(5),
            avc(40, 6),
        )
        self.assertEqual(
            ([(2, False), (40, True)], [40]), self.boots(-850, rebooted=True)
        )

    def test_where_no_start_is_to_be_found_the_clock_tells_it(self):
        self.write(avc(2, -800), avc(40, 6))
        self.assertEqual(
            ([(2, False), (40, True)], [40]), self.boots(-850, rebooted=True)
        )

    def test_a_file_that_begins_with_a_start(self):
        self.write(started(-3595), avc(2, -3590), avc(3, 5))
        self.assertEqual([2, 3], self.boots(5)[1])

    def test_a_start_at_the_end_of_a_file(self):
        self.write(avc(900, -100), started(-3595), name='audit.log.1', age=9)
        self.write(avc(1, -3590), avc(2, 5))
        self.assertEqual(
            ([(900, False), (1, True), (2, True)], [1, 2]),
            self.boots(-100, rebooted=True),
        )

    def test_a_start_at_the_beginning_of_a_file(self):
        self.write(avc(900, 100), name='audit.log.1', age=9)
        self.write(started(2), avc(1, 3))
        self.assertEqual(
            ([(900, False), (1, True)], [1]), self.boots(100, rebooted=True)
        )

    def test_a_start_in_a_compressed_file(self):
        filling = b''.join(other(i, 3, 'X' * 64) for i in range(800, 860))
        parts = (filling, started(-3595), avc(1, -3590), avc(2, -3590))
        self.write(
            gzip.compress(b''.join(parts)), name='audit.log.1.gz', age=9
        )
        self.write(avc(3, 5))
        # also when it is cut where it is read in pieces
        for size in (200, 4000, 4001, 4002, 4100, 4200):
            with mock.patch.object(auditlog, '_CHUNK', size):
                self.assertEqual([1, 2, 3], self.boots(5)[1], size)

    def test_a_start_that_is_cut_where_it_is_read_in_pieces(self):
        rest = b''.join(other(i, 5, 'X' * 64) for i in range(2, 30))
        self.write(avc(900, 100), started(2), avc(1, 3), rest)
        for back in range(len(started(2) + avc(1, 3)) + 2):
            with mock.patch.object(auditlog, '_CHUNK', len(rest) + back):
                self.assertEqual([*range(1, 30)], self.boots(5)[1], back)

    def test_a_name_that_looks_like_one_is_none(self):
        for name in (started(4)[:-1], b'type=DAEMON_START '):
            self.write(
                avc(900, 100),
                started(2),
                other(1, 3)[:-1] + b' name="' + name + b'"\n',
                avc(2, 5),
            )
            self.assertEqual([1, 2], self.boots(5)[1])

    def test_of_a_host_that_writes_its_name(self):
        parts = (avc(900, 100), started(2), avc(1, 3))
        self.write(*(b'node=host.example.org ' + each for each in parts))
        self.assertEqual([1], self.boots(5)[1])

    def test_forward_what_was_missed_long_before_is_found(self):
        # and nothing tells how far back but the numbers
        filling = b'x' * 3_900
        with self.path.open('wb') as file:
            file.write(other(9000, -9000))
            file.write(started(-4000))
            for i in range(1, 4000):
                seconds = -4000 + i if i < 3500 else 3600
                line = other(i, seconds)[:-1] + filling + b'\n'
                file.write(avc(i, seconds) if i == 20 else line)
        reading, found = self.reading(3600, missing=[range(20, 21)])
        self.assertEqual([20], [line.serial for line in found])
        self.assertTrue(reading.complete)

    def test_back_the_end_of_the_boot_before_is_found_behind_much(self):
        filling = b'x' * 3_900
        with self.path.open('wb') as file:
            file.write(other(8999, 1600) + avc(9000, 1700))
            file.write(started(1))
            for i in range(1, 2500):
                file.write(other(i, i / 10)[:-1] + filling + b'\n')
        self.assertEqual(
            ([(9000, False)], [*range(1, 2500)]),
            self.boots(1650, rebooted=True),
        )


class FilesTestCase(BackfillTestCase):
    def test_rotated_files_come_first_the_oldest_before_all(self):
        self.write(avc(1, 60), name='audit.log.2', age=20)
        self.write(avc(2, 70), name='audit.log.1', age=10)
        self.write(avc(3, 80))
        self.write(avc(9), name='audit.log.old')
        self.write(avc(9), name='other.log.1')
        self.assertEqual([1, 2, 3], self.serials())

    def test_compressed_files_are_read(self):
        self.write(gzip.compress(avc(1, 60)), name='audit.log.2.gz', age=20)
        self.write(
            gzip.compress(avc(2, 70)), name='audit.log-20260101.gz', age=10
        )
        self.write(avc(3, 80))
        self.assertEqual([1, 2, 3], self.serials())

    def test_a_damaged_compressed_file_hides_no_other(self):
        damaged = gzip.compress(os.urandom(50_000) + b'\n')[:-2000]
        self.write(damaged, name='audit.log.2.gz', age=20)
        self.write(avc(1, 10), name='audit.log.1', age=10)
        self.write(avc(2, 80))
        reading, found = self.reading()
        self.assertEqual([1, 2], [line.serial for line in found])
        self.assertFalse(reading.complete)

    def test_older_files_than_needed_are_not_opened(self):
        hour = 3600
        self.write(avc(1, -9 * hour), name='audit.log.3', age=9 * hour)
        self.write(avc(2, -8 * hour), name='audit.log.2', age=hour)
        self.write(started(5), avc(3, 10), name='audit.log.1', age=60)
        self.write(avc(4, 60))
        opened = []
        with mock.patch.object(
            auditlog, '_open', side_effect=auditlog._open
        ) as really:
            self.reading(20)
            opened = [call.args[0] for call in really.call_args_list]
        self.assertEqual(
            ['audit.log', 'audit.log.1', 'audit.log.2'],
            [os.path.basename(name) for name in opened],
        )

    def test_a_symbolic_link_is_read_once(self):
        self.write(avc(1), name='elsewhere')
        self.path.symlink_to(self.directory / 'elsewhere')
        (self.directory / 'audit.log.1').symlink_to(self.path)
        self.assertEqual([1], self.serials())

    def test_a_pipe_is_not_waited_for(self):
        os.mkfifo(self.path)
        self.write(avc(1), name='audit.log.1')
        reading, found = self.reading()
        self.assertEqual([1], [line.serial for line in found])
        self.assertFalse(reading.complete)

    def test_a_rotation_while_it_is_read_loses_nothing(self):
        self.write(avc(1, 10), name='audit.log.2', age=20)
        self.write(avc(2, 60), name='audit.log.1', age=10)
        self.write(avc(3, 70))
        iterator = iter(
            backfill.Backfill(str(self.path), '', '').read(
                millis(20), lambda *_: True
            )
        )
        found = [next(iterator).serial]
        for i in (2, 1):
            (self.directory / f'audit.log.{i}').rename(
                self.directory / f'audit.log.{i + 1}'
            )
        with self.path.open('ab') as file:
            file.write(avc(4, 80))
        self.path.rename(self.directory / 'audit.log.1')
        self.write(avc(5, 90))
        found += [line.serial for line in iterator]
        self.assertEqual([1, 2, 3, 4, 5], found)

    def test_a_file_that_vanishes_is_missed_by_its_numbers(self):
        self.write(avc(1, 60), name='audit.log.1', age=10)
        self.write(avc(5, 70))
        really = auditlog._open

        def vanish(name):
            if name.endswith('.1'):
                os.unlink(name)
            return really(name)

        with mock.patch.object(auditlog, '_open', vanish):
            reading, found = self.reading(missing=[range(1, 6)])
        self.assertEqual([5], [line.serial for line in found])
        self.assertFalse(reading.complete)

    def test_a_file_that_may_not_be_read_is_named_with_the_way_out(self):
        self.write(avc(1))
        refusal = PermissionError(errno.EACCES, 'denied', str(self.path))
        with (
            mock.patch.object(auditlog, '_open', side_effect=refusal),
            self.assertLogs(backfill.__name__, 'INFO') as logs,
        ):
            reading, found = self.reading()
        self.assertEqual([], found)
        self.assertEqual((), reading.sources)
        self.assertFalse(reading.complete)
        self.assertIn('log_group', logs.output[0])

    def test_of_a_huge_file_only_what_is_needed_is_read(self):
        filling = b'x' * 3_900
        with self.path.open('wb') as file:
            for i in range(5000):
                file.write(other(i + 1, i)[:-1] + filling + b'\n')
            file.write(avc(5001, 5000))
        reading, found = self.reading(4999, missing=[range(4990, 5002)])
        self.assertEqual([5001], [line.serial for line in found])
        self.assertTrue(reading.complete)
        # 20 MB, of which the slack of 300 s is 1.2
        self.assertGreater(reading.found[0].start, 2000)

    def test_where_it_begins_in_the_middle_of_a_line_is_no_record(self):
        chunk = 4 * 1024 * 1024
        end = avc(9)[:-1] + b" x'\n"
        rest = b"".join(other(i, 1000 + i) for i in range(10, 50_000))
        rest = end + rest[: chunk - len(end) - 1] + b'\n'
        start = b"type=USER_CMD msg=audit(1.000:1): msg='"
        self.write(other(1, 1), other(2, 2), start, rest)
        self.assertEqual([], self.serials(1999))

    def test_a_clock_that_was_set_back_hides_nothing(self):
        # 5 hours back, when the agent did not run
        filling = b'x' * 3_900
        with self.path.open('wb') as file:
            file.write(avc(1, 30000))
            for i in range(3000):
                seconds = 30000 + i if i < 10 else 12000 + i
                file.write(other(i + 2, seconds)[:-1] + filling + b'\n')
                if i == 20:
                    file.write(avc(i + 2, seconds))
        reading, found = self.reading(
            30000,
            wanted=lambda _, serial: serial > 1,
            missing=[range(2, 3002)],
        )
        self.assertEqual([22], [line.serial for line in found])
        self.assertTrue(reading.complete)

    def test_of_more_than_may_be_read_the_oldest_is_left_out(self):
        self.write(avc(1, 60), name='audit.log.1', age=10)
        self.write(avc(2, 70), avc(3, 80), avc(4, 90))
        size = len(avc(2))
        reading, found = self.reading(limit=size * 2 + 5)
        self.assertEqual([3, 4], [line.serial for line in found])
        self.assertFalse(reading.complete)

    def test_it_ends_when_its_time_is_over(self):
        self.write(avc(1))
        reading, _ = self.reading(seconds=0)
        self.assertFalse(reading.complete)


class CompleteTestCase(BackfillTestCase):
    def test_it_is_when_it_goes_back_to_the_time(self):
        self.write(other(1, 40), avc(2, 60))
        self.assertTrue(self.reading(50)[0].complete)

    def test_it_is_not_when_it_begins_later(self):
        self.write(other(1, 51), avc(2, 60))
        self.assertFalse(self.reading(50)[0].complete)

    def test_it_is_not_when_auditd_did_not_run_all_the_time(self):
        for kind in ('DAEMON_END', 'DAEMON_START', 'DAEMON_ABORT'):
            self.write(other(1, 40), other(77, 55, kind), avc(2, 60))
            self.assertFalse(self.reading(50)[0].complete, kind)
            # before the time it does not matter
            self.assertTrue(self.reading(56)[0].complete, kind)

    def test_numbers_that_were_all_found_are_the_proof(self):
        self.write(other(7, 51), avc(8, 52), other(77, 55, 'DAEMON_START'))
        self.assertTrue(self.reading(50, missing=[range(7, 9)])[0].complete)

    def test_a_number_that_was_not_found_is_a_loss(self):
        self.write(other(1, 40), other(7, 51), avc(9, 52))
        self.assertFalse(self.reading(50, missing=[range(7, 10)])[0].complete)

    def test_of_an_earlier_boot_the_file_has_to_go_back(self):
        self.write(avc(800, -90), other(1, 1), avc(2, 2))
        more = {'missing': [range(1, 3)], 'rebooted': True}
        self.assertTrue(self.reading(-80, **more)[0].complete)
        self.assertFalse(self.reading(-95, **more)[0].complete)

    def test_without_any_source_nothing_is(self):
        reading, found = self.reading()
        self.assertEqual(([], ()), (found, reading.sources))
        self.assertFalse(reading.complete)


JOURNAL = {
    'audit': [
        {
            'MESSAGE': f'AVC {DENIAL}',
            '_TRANSPORT': 'audit',
            '_BOOT_ID': backfill.boot_id().replace('-', ''),
            '_AUDIT_TYPE': '1400',
            '_AUDIT_ID': '7',
            '_SOURCE_REALTIME_TIMESTAMP': str(millis(100) * 1000),
        },
        {
            'MESSAGE': list(b'SYSCALL arch=c000003e \xff'),
            '_BOOT_ID': backfill.boot_id().replace('-', ''),
            '_AUDIT_TYPE': '1300',
            '_AUDIT_ID': '8',
            '_SOURCE_REALTIME_TIMESTAMP': str(millis(100) * 1000),
        },
        {'MESSAGE': None},
        {'MESSAGE': ['a', 'b'], '_BOOT_ID': 5},
        'garbage',
    ],
    'kernel': [
        {
            'MESSAGE': f'audit: type=1400 audit({BOOTED + 60}.000:5): '
            + DENIAL,
            '_BOOT_ID': '0' * 32,
        },
        {
            'MESSAGE': 'usb 1-1: Product: audit: type=1400 audit(1.0:9): x',
            '_BOOT_ID': '0' * 32,
        },
    ],
}


class JournalTestCase(BackfillTestCase):
    def journalctl(self, script):
        """Put a program in the place of journalctl."""
        program = self.directory / 'journalctl'
        program.write_text(f'#!/bin/sh\n{script}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return str(program)

    def with_entries(self):
        for transport, entries in JOURNAL.items():
            (self.directory / transport).write_text(
                ''.join(
                    each if each == 'garbage' else json.dumps(each) + '\n'
                    for each in entries
                )
            )
        return self.journalctl(
            f'for last; do :; done; echo "$@" >> {self.directory}/calls\n'
            f'cat {self.directory}/${{last#_TRANSPORT=}}'
        )

    def read(self, program, **more):
        reading = backfill.Backfill('', program, '').read(
            millis(50), lambda *_: True, **more
        )
        return reading, list(reading)

    def test_what_it_heard_of_the_audit(self):
        reading, (line,) = self.read(
            self.with_entries(), missing=[range(7, 9)]
        )
        self.assertEqual(('journald (audit)',), reading.sources)
        self.assertEqual((range(7, 9),), reading.found)
        self.assertTrue(reading.complete)
        self.assertEqual(backfill.boot_id(), line.boot)
        self.assertEqual((millis(100), 7), (line.millis, line.serial))
        self.assertEqual(
            f'audit: type=1400 audit({BOOTED + 100}.000:7): {DENIAL}',
            line.data.decode(),
        )
        calls = (self.directory / 'calls').read_text()
        self.assertIn(f'--until=@{BOOTED + 50}', calls)
        self.assertIn(f'--since=@{BOOTED + 50 - 300}', calls)

    def test_what_it_kept_of_the_kernels_log(self):
        reading, found = self.read(
            self.with_entries(), missing=[range(7, 10)], rebooted=True
        )
        self.assertEqual(
            ('journald (audit)', 'journald (kernel)'), reading.sources
        )
        self.assertFalse(reading.complete)
        line = found[-1]
        self.assertEqual('00000000-0000-0000-0000-000000000000', line.boot)
        self.assertEqual((millis(60), 5), (line.millis, line.serial))
        self.assertEqual(2, len(found))

    def test_one_that_hangs_is_ended(self):
        program = self.journalctl('exec sleep 60')
        run, started = subprocess.Popen, []

        def start(*args, **kwargs):
            started.append(run(*args, **kwargs))
            return started[-1]

        with mock.patch.object(journald.subprocess, 'Popen', start):
            reading, found = self.read(program, seconds=1)
        self.assertEqual([], found)
        self.assertFalse(reading.complete)
        ended = {process.wait(60) for process in started}
        self.assertEqual({-signal.SIGKILL}, ended)

    def test_one_that_never_ends_is_cut(self):
        reading, found = self.read(
            self.journalctl('exec cat /dev/zero'), limit=10_000_000
        )
        self.assertEqual([], found)
        self.assertFalse(reading.complete)

    def test_one_that_fails_is_named(self):
        program = self.journalctl('echo no such journal >&2; exit 3')
        with self.assertLogs(backfill.__name__, 'INFO') as logs:
            reading, _ = self.read(program)
        self.assertIn('no such journal', logs.output[0])
        self.assertEqual((), reading.sources)

    def test_an_empty_one_is_named_with_the_way_out(self):
        with self.assertLogs(backfill.__name__, 'INFO') as logs:
            self.read(self.journalctl('exit 1'))
        self.assertIn('systemd-journal', logs.output[0])

    def test_none_is_named(self):
        with self.assertLogs(backfill.__name__, 'INFO') as logs:
            self.read('/nonexistent/journalctl')
        self.assertIn('cannot be run', logs.output[0])

    def test_the_real_program_understands_the_options(self):
        if not os.path.exists('/usr/bin/journalctl'):
            self.skipTest('there is no journalctl')
        window = lines.Window(
            millis(50), 'x', 0, None, 1 << 20, time.monotonic() + 20
        )
        try:
            list(journald.Journal('audit').blocks(window))
        except lines.Unavailable as e:
            self.assertIn('no message', str(e))


class KernelLogTestCase(BackfillTestCase):
    RECORDS = (
        b'5,100,2000,-;audit: type=1400 audit(%d.237:2): apparmor="DENIED" '
        b'name="/a\\x5cb"\n SUBSYSTEM=x\n' % (BOOTED + 60),
        b'5,101,2000,-;audit: type=1300 audit(%d.237:3): arch=c000003e\n'
        % (BOOTED + 60),
        # what a process writes has another facility
        b'13,102,2000,-;audit: type=1400 audit(%d.237:4): forged\n'
        % (BOOTED + 60),
        b'6,103,2000,-;usb 1-1: Product: audit: type=1400 audit(1.0:5): x\n',
        b'4,104,2000,-;audit: audit_lost=17 audit_rate_limit=0 '
        b'audit_backlog_limit=64\n',
        b'garbage',
        b'',
    )

    def setUp(self):
        super().setUp()
        self.path.write_bytes(b'')
        results = [
            OSError(errno.EPIPE, 'overwritten'),
            *self.RECORDS[:-1],
            BlockingIOError(),
        ]
        # a device gives one record with each read, a file would not
        patcher = mock.patch.object(kmsg.os, 'read', side_effect=results)
        self.addCleanup(patcher.stop)
        patcher.start()

    def test_what_the_kernel_printed(self):
        reading = backfill.Backfill('', '', str(self.path)).read(
            millis(50), lambda *_: True, [range(2, 4)]
        )
        (line,) = reading
        self.assertEqual(2, line.serial)
        self.assertEqual(millis(60) + 237, line.millis)
        self.assertTrue(line.data.endswith(rb' name="/a\b"'), line.data)
        self.assertEqual((range(2, 4),), reading.found)
        self.assertTrue(reading.complete)

    def test_without_numbers_it_is_never_complete(self):
        reading = backfill.Backfill('', '', str(self.path)).read(
            millis(50), lambda *_: True
        )
        list(reading)
        self.assertFalse(reading.complete)

    def test_how_many_it_lost(self):
        log = kmsg.KernelLog(str(self.path))
        self.addCleanup(log.close)
        self.assertEqual(17, log.lost())

    def test_without_the_capability_it_is_named_with_the_way_out(self):
        refusal = PermissionError(errno.EPERM, 'not permitted')
        with mock.patch.object(kmsg.os, 'open', side_effect=refusal):
            e = self.assertRaises(lines.Unavailable, kmsg.KernelLog)
        self.assertIn('CAP_SYSLOG', str(e))


class BootTestCase(base.BaseTestCase):
    def test_the_id_of_this_boot(self):
        self.assertTrue(
            re.fullmatch(
                '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', backfill.boot_id()
            )
        )

    def test_the_time_of_this_boot(self):
        uptime = float(pathlib.Path('/proc/uptime').read_text().split()[0])
        self.assertAlmostEqual(
            time.time() - uptime, backfill.boot_time(), delta=5
        )
