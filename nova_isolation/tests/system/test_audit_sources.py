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

"""What a real kernel denies is heard, or found again.

Runs on the lab's machine: ``lab/lab run``.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

from nova_isolation.audit import backfill
from nova_isolation.audit import journald
from nova_isolation.audit import kmsg
from nova_isolation.audit import lines
from nova_isolation.audit import netlink
from nova_isolation.audit import serials

PROFILE = """
profile audit-sources {
  /usr/** rmix,
  /{,usr/}lib{,64}/** rm,
  /etc/ld.so.* r,
}
"""
AUDITD = """
local_events = yes
write_logs = yes
log_file = {directory}/audit.log
log_group = root
log_format = ENRICHED
flush = SYNC
max_log_file = 8
num_logs = 5
max_log_file_action = ROTATE
name_format = HOSTNAME
space_left = 2
space_left_action = IGNORE
admin_space_left = 1
admin_space_left_action = IGNORE
disk_full_action = IGNORE
disk_error_action = IGNORE
"""
# AUDIT_USER_AVC: recorded also when the audit of system calls is off
USER_AVC = 1107
LIMIT = 20


def _deny(path):
    """Let a confined process be denied a file."""
    subprocess.run(
        ['aa-exec', '-p', 'audit-sources', '--', 'cat', path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _say(count, text=b'x' * 150):
    """Let the kernel record messages of a process."""
    text += b'\0'
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as sock:
        for i in range(count):
            head = struct.pack('=IHHII', 16 + len(text), USER_AVC, 1, i, 0)
            sock.send(head + text)


def _serial(payload):
    return int(payload.partition(b':')[2].partition(b')')[0])


def _until(tell):
    """Wait until something is true."""
    end = time.monotonic() + LIMIT
    while not (found := tell()):
        if time.monotonic() > end:
            raise AssertionError('it does not come')
        time.sleep(0.2)
    return found


class SourcesTest(unittest.TestCase):
    def setUp(self):
        subprocess.run(
            ['apparmor_parser', '-rK'], input=PROFILE, text=True, check=True
        )
        self.directory = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)

    def listen(self, megabytes=32):
        audit = netlink.AuditSocket.open(megabytes)
        self.addCleanup(audit.close)
        return audit

    def drain(self, audit):
        """Read what was recorded until now, and the end that is told here."""
        found = []
        limit = time.monotonic() + LIMIT
        some = []
        while time.monotonic() < limit:
            if not some:
                # what comes after an overrun is dropped, an end too
                end = f'end-{time.monotonic_ns()}'.encode()
                _say(1, end)
            some = audit.read_many(1)
            found += some
            if any(end in payload for _, payload in some):
                return found
        raise AssertionError('the end does not come')

    def denied(self, name):
        """Be denied a file.

        :returns: the number and the time (ms) of the record, as heard
        """
        path = f'/tmp/{name}'
        pathlib.Path(path).write_text('')
        with contextlib.closing(netlink.AuditSocket.open(1)) as audit:
            _deny(path)
            for kind, payload in self.drain(audit):
                if kind == 1400 and path.encode() in payload:
                    seconds = float(payload[6:].partition(b':')[0])
                    return _serial(payload), round(seconds * 1000)
        raise AssertionError('no record of it')

    def reading(self, fill, serial, millis):
        """Read what is of one number."""
        reading = fill.read(
            millis - 1000,
            lambda _, number: number == serial,
            [range(serial, serial + 1)],
        )
        return reading, list(reading)

    def assert_found(self, fill, name, source):
        serial, millis = self.denied(name)

        def read():
            reading, found = self.reading(fill, serial, millis)
            # another source may be quicker
            here = any(line.source == source for line in found)
            return here and (reading, found)

        reading, (line,) = _until(read)
        self.assertTrue(reading.complete)
        self.assertEqual(backfill.boot_id(), line.boot)
        self.assertEqual((millis, serial), (line.millis, line.serial))
        self.assertIn(b'apparmor="DENIED"', line.data)
        self.assertIn(f'name="/tmp/{name}"'.encode(), line.data)
        return line

    def test_a_denial_is_heard(self):
        serial, millis = self.denied('heard')
        self.assertLess(abs(time.time() * 1000 - millis), 60_000)
        self.assertGreater(serial, 0)

    def test_each_record_is_heard_or_counted(self):
        audit = self.listen(1)
        heard = serials.Serials(backfill.boot_id())
        _say(1)
        found = self.drain(audit)
        for kind, payload in found:
            heard.see(_serial(payload), 0, kind)
        first = heard.highest
        _say(4000)
        # the kernel's own thread hands them out
        _until(lambda: netlink.status().backlog == 0)
        found = self.drain(audit)
        # it hears again; and what comes shows the gap before it
        _say(5)
        found += self.drain(audit)
        for kind, payload in found:
            heard.see(_serial(payload), 0, kind)
        self.assertEqual(1, audit.overruns)
        self.assertEqual(heard.highest - first, len(found) + audit.dropped())
        self.assertGreater(audit.dropped(), 0)
        self.assertEqual(audit.dropped(), heard.settle(60))
        print(
            f'audit socket: {len(found)} records heard, '
            f'{audit.dropped()} dropped of a buffer of 1 MB'
        )

    def test_a_larger_buffer_takes_what_a_smaller_one_does_not(self):
        audit = self.listen(32)
        _say(4000)
        begun = time.monotonic()
        self.assertGreaterEqual(len(self.drain(audit)), 4000)
        print(
            'audit socket: 4000 records read in '
            f'{time.monotonic() - begun:.3f} s'
        )
        self.assertEqual(0, audit.overruns)
        self.assertEqual(0, audit.dropped())

    def test_the_kernel_tells_how_its_audit_is(self):
        status = netlink.status()
        self.assertIsInstance(status.lost, int)
        shown = subprocess.run(
            ['auditctl', '-s'], capture_output=True, text=True, check=True
        ).stdout
        self.assertIn(f'lost {status.lost}\n', shown)
        self.assertIn(f'enabled {status.enabled}\n', shown)
        self.assertIn(f'rate_limit {status.rate_limit}\n', shown)
        self.assertIn(f'backlog_limit {status.backlog_limit}\n', shown)

    def test_it_tells_nobody_who_may_not_control_it(self):
        told = subprocess.run(
            [
                'python3',
                '-c',
                'import logging\n'
                'from nova_isolation.audit import netlink\n'
                'logging.basicConfig(level=logging.INFO)\n'
                'print(netlink.status())\n',
            ],
            user='nobody',
            capture_output=True,
            text=True,
        )
        self.assertEqual('None\n', told.stdout, told.stderr)
        self.assertIn('CAP_AUDIT_CONTROL', told.stderr)

    def limit_rate(self, records):
        subprocess.run(
            ['auditctl', '-r', str(records)],
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def test_what_the_rate_limit_drops_is_a_gap_and_in_the_log(self):
        audit = self.listen()
        before = netlink.status().lost
        log = kmsg.KernelLog()
        self.addCleanup(log.close)
        self.limit_rate(5)
        try:
            heard = serials.Serials(backfill.boot_id())
            _say(200)
            # the limit is per second
            time.sleep(1.2)
            self.limit_rate(0)
            _say(1)
        finally:
            self.limit_rate(0)
        for kind, payload in self.drain(audit):
            heard.see(_serial(payload), 0, kind)
        lost = netlink.status().lost
        self.assertGreater(lost - before, 150)
        self.assertEqual(lost - before, heard.settle(60))
        self.assertEqual(0, audit.dropped())
        # the last that the kernel printed is not the last that it lost
        self.assertGreater(log.lost(), before)
        self.assertLessEqual(log.lost(), lost)

    def test_the_kernels_log_has_it_while_no_auditd_runs(self):
        self.assert_found(
            backfill.Backfill('', ''), 'in-the-kernels-log', '/dev/kmsg'
        )

    def test_what_no_source_has_is_told(self):
        serial, millis = self.denied('nowhere')
        reading, found = self.reading(
            backfill.Backfill('', ''), serial + 100_000, millis
        )
        self.assertEqual([], found)
        self.assertFalse(reading.complete)

    @contextlib.contextmanager
    def auditd(self):
        configuration = self.directory / 'auditd.conf'
        configuration.write_text(AUDITD.format(directory=self.directory))
        configuration.chmod(0o640)
        # -s nochange: the audit of system calls stays as it is
        process = subprocess.Popen(
            ['auditd', '-n', '-s', 'nochange', '-c', str(self.directory)]
        )
        try:
            _until(lambda: netlink.status().pid)
            yield process
        finally:
            process.terminate()
            process.wait(LIMIT)
            _until(lambda: not netlink.status().pid)

    def test_auditds_file_has_it_also_when_it_was_rotated(self):
        path = str(self.directory / 'audit.log')
        fill = backfill.Backfill(path, '', '')
        with self.auditd() as process:
            serial, millis = self.denied('rotated')
            self.assert_found(fill, 'in-auditds-file', path)
            process.send_signal(signal.SIGUSR1)
            _until(lambda: os.path.exists(path + '.1'))
            line = self.assert_found(fill, 'after-the-rotation', path)
        self.assertTrue(line.data.startswith(b'node='), line.data)
        reading, found = self.reading(fill, serial, millis)
        self.assertTrue(reading.complete)
        self.assertEqual([serial], [line.serial for line in found])

    def test_the_kernels_log_has_what_auditd_has_not(self):
        path = str(self.directory / 'audit.log')
        with self.auditd():
            pass
        serial, millis = self.denied('after-auditd')
        reading, found = self.reading(
            backfill.Backfill(path, ''), serial, millis
        )
        self.assertTrue(reading.complete)
        self.assertEqual((path, '/dev/kmsg'), reading.sources)
        self.assertEqual(['/dev/kmsg'], [line.source for line in found])

    @contextlib.contextmanager
    def journald(self):
        """Run one that hears the audit, and reads the kernel's log."""
        enabled = netlink.status().enabled
        for directory in ('/run/systemd/journal', '/run/log/journal'):
            os.makedirs(directory, exist_ok=True)
        if not os.path.exists('/etc/machine-id'):
            pathlib.Path('/etc/machine-id').write_text('1' * 32 + '\n')
        process = subprocess.Popen(['/lib/systemd/systemd-journald'])
        try:
            _until(lambda: list(pathlib.Path('/run/log/journal').glob('*/*')))
            yield
        finally:
            process.terminate()
            process.wait(LIMIT)
            # it switches the audit of system calls on
            subprocess.run(
                ['auditctl', '-e', str(enabled)],
                stdout=subprocess.DEVNULL,
                check=True,
            )

    def test_the_journal_has_it(self):
        with self.journald():
            self.assert_found(
                backfill.Backfill('', kernel_log=''),
                'in-the-journal',
                'journald (audit)',
            )
            serial, millis = self.denied('printed')
            found = _until(lambda: self.printed(serial, millis))
        self.assertEqual(1, len(found))
        self.assertEqual(millis, found[0].millis)
        self.assertEqual(backfill.boot_id(), found[0].boot)
        self.assertIn(b'name="/tmp/printed"', found[0].data)

    def printed(self, serial, millis):
        """Read what the journal has of the kernel's log."""
        window = lines.Window(
            since=millis - 1000,
            boot=backfill.boot_id(),
            booted=backfill.boot_time() * 1000,
            lowest=None,
            room=1 << 30,
            deadline=time.monotonic() + LIMIT,
        )
        return [
            line
            for block in journald.Journal('kernel').blocks(window)
            for line in block.lines
            if line.serial == serial
        ]
