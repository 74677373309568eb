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

"""The guest's process is found without trusting its label."""

import os
import subprocess
import sys
import time
from unittest import mock

import fixtures
from oslotest import base

from nova_isolation import domain as domain_module
from nova_isolation.domain.devices import Filesystem
from nova_isolation.domain.devices import Tpm
from nova_isolation import exceptions
from nova_isolation import neighbours
from nova_isolation import processes
from nova_isolation.tests import pretender

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
OTHER = '8887d9d3-17f8-4388-8771-fab6312518d6'
NAME = 'instance-00000001'
_WAIT = 'import sys; print(flush=True); sys.stdin.read()'


class ProcessesTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.directory = self.useFixture(fixtures.TempDir()).path

    def start(self, *arguments):
        return pretender.start(self, *arguments)


class ProcessesTest(ProcessesTestCase):
    def write_pid(self, content):
        with open(f'{self.directory}/{NAME}.pid', 'w') as f:
            f.write(str(content))

    def find(self, uuid=UUID):
        return processes.find(self.directory, NAME, uuid)

    def assert_not_found(self, *words):
        error = self.assertRaises(exceptions.NotConfined, self.find)
        for word in words:
            self.assertIn(word, error.message)

    def test_a_guest(self):
        process = self.start('-name', 'guest=x', '-uuid', UUID, '-S')
        self.write_pid(f'{process.pid}\n')
        found = self.find()
        self.assertEqual(process.pid, found.pid)
        self.assertTrue(processes.is_same(found))

    def test_a_guest_that_ended(self):
        process = self.start('-uuid', UUID)
        self.write_pid(process.pid)
        found = self.find()
        process.communicate()
        self.assertFalse(processes.is_same(found))
        self.assert_not_found(NAME)

    def test_a_later_process_with_the_same_number_is_another(self):
        process = self.start('-uuid', UUID)
        self.write_pid(process.pid)
        found = self.find()
        later = processes.Process(found.pid, found.started + 1)
        self.assertFalse(processes.is_same(later))

    def test_another_guest_s_process(self):
        process = self.start('-uuid', OTHER)
        self.write_pid(process.pid)
        self.assert_not_found(str(process.pid), UUID)

    def test_a_uuid_that_stands_elsewhere_on_the_command_line(self):
        # a tenant's name for the guest, say
        for arguments in (
            ('-name', UUID),
            ('-name', f'x -uuid {UUID}'),
            (UUID, '-uuid', OTHER),
            (f'-uuid={UUID}',),
            ('-uuid', f'{UUID}x'),
            ('-uuid',),
        ):
            process = self.start(*arguments)
            self.write_pid(process.pid)
            self.assert_not_found('is not the QEMU of')

    def test_no_pid_file(self):
        self.assert_not_found(f'{self.directory}/{NAME}.pid')

    def test_a_pid_file_that_tells_nothing(self):
        for content in ('', 'x', '-1', '0', '1' * 40, f'{2**22 + 1}'):
            self.write_pid(content)
            self.assert_not_found()

    def test_a_process_whose_name_looks_like_its_state(self):
        directory = self.useFixture(fixtures.TempDir()).path
        program = os.path.join(directory, 'x) S 1 1 (')
        os.symlink('/bin/sleep', program)
        process = subprocess.Popen([program, '60'])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        # as long as it is not executed yet it has our name
        while os.readlink(f'/proc/{process.pid}/exe') == os.readlink(
            '/proc/self/exe'
        ):
            pass
        started = processes._started(process.pid)
        ours = processes._started(os.getpid())
        self.assertGreaterEqual(started, ours)
        self.assertTrue(
            processes.is_same(processes.Process(process.pid, started))
        )


class OpenedTest(ProcessesTestCase):
    """What a process has, by what it is and not by its name."""

    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.directory, 'volume')
        with open(self.path, 'w') as f:
            f.write('x' * 4096)
        # what only root may: see the system tests
        self.mapped = []
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.processes._mapped', lambda pid: self.mapped
            )
        )

    def run_program(self, code):
        process = subprocess.Popen(
            [sys.executable, '-c', f'{code}\n{_WAIT}'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self.directory,
        )
        self.addCleanup(process.communicate)
        process.stdout.readline()
        return process

    @staticmethod
    def opened(pid):
        return processes.opened(pid, time.monotonic() + 60)

    def assert_opened(self, pid):
        self.assertIn(neighbours.identify(self.path), self.opened(pid))

    def test_a_file(self):
        process = self.run_program('f = open("volume")')
        self.assert_opened(process.pid)
        os.rename(self.path, f'{self.path}-renamed')
        with open(self.path, 'w'):
            pass
        self.path += '-renamed'
        self.assert_opened(process.pid)

    def test_a_device(self):
        process = self.run_program('f = open("/dev/full")')
        self.path = os.path.join(self.directory, 'link')
        os.symlink('/dev/full', self.path)
        self.assert_opened(process.pid)

    def test_a_file_that_was_closed(self):
        process = self.run_program('open("volume").close()')
        self.assertNotIn(
            neighbours.identify(self.path), self.opened(process.pid)
        )

    def test_a_thread_with_descriptors_of_its_own(self):
        process = self.run_program(
            'import ctypes, os, threading\n'
            'def keep():\n'
            '    assert ctypes.CDLL(None).unshare(0x400) == 0\n'
            '    os.open("volume", os.O_RDONLY)\n'
            '    done.set()\n'
            '    threading.Event().wait()\n'
            'done = threading.Event()\n'
            'threading.Thread(target=keep, daemon=True).start()\n'
            'done.wait()\n'
        )
        found = set()
        end = time.monotonic() + 60
        processes._look_through(f'/proc/{process.pid}', found, end)
        self.assertNotIn(neighbours.identify(self.path), found)
        self.assert_opened(process.pid)

    def test_a_file_in_a_socket(self):
        keep = (
            'import os, socket\n'
            'one, other = socket.socketpair()\n'
            'fd = os.open("volume", os.O_RDONLY)\n'
            'socket.send_fds(one, [b"x"], [fd])\n'
            'os.close(fd)\n'
        )
        process = self.run_program(keep)
        self.assertIsNone(self.opened(process.pid))
        process = self.run_program(
            keep + '_, [fd], _, _ = socket.recv_fds(other, 1, 1)\n'
        )
        self.assert_opened(process.pid)

    def test_one_who_plays_with_it(self):
        # now in a socket, now open: each look can miss it
        process = self.run_program(
            'import os, socket, threading\n'
            'def play():\n'
            '    one, other = socket.socketpair()\n'
            '    fd = os.open("volume", os.O_RDONLY)\n'
            '    while True:\n'
            '        socket.send_fds(one, [b"x"], [fd])\n'
            '        os.close(fd)\n'
            '        _, [fd], _, _ = socket.recv_fds(other, 1, 1)\n'
            'threading.Thread(target=play, daemon=True).start()\n'
        )
        identity = neighbours.identify(self.path)

        def is_clean():
            found = self.opened(process.pid)
            return found is not None and identity not in found

        # it has begun to play
        limit = time.monotonic() + 60
        while is_clean() and time.monotonic() < limit:
            time.sleep(0.01)
        self.assertLess(sum(is_clean() for _ in range(40)), 6)

    def test_one_who_has_too_many(self):
        process = self.run_program('')
        self.assertRaises(
            TimeoutError, processes.opened, process.pid, time.monotonic() - 1
        )

    def test_threads_with_the_same_descriptors_are_looked_through_once(self):
        process = self.run_program(
            'import threading\n'
            'f = open("volume")\n'
            'for _ in range(20):\n'
            '    wait = threading.Event().wait\n'
            '    threading.Thread(target=wait, daemon=True).start()\n'
        )
        seen = []
        look = processes._look_through
        with mock.patch.object(
            processes,
            '_look_through',
            lambda *args: seen.append(args[0]) or look(*args),
        ):
            self.assert_opened(process.pid)
        self.assertEqual(
            {f'/proc/{process.pid}/task/{process.pid}'}, set(seen)
        )

    def test_the_files_of_an_io_uring(self):
        link = os.path.join(self.directory, 'link')
        description = os.path.join(self.directory, 'description')
        # what comes before is as long as its owner likes
        rings = b'SqMask:\t0x7fff\n' + b'  123: opcode:0, fd:0\n' * 10000
        end = time.monotonic() + 60
        ring = 'anon_inode:[io_uring]'
        for target, content, expected, patience in (
            (ring, rings + b'UserFiles:\t0\n', False, 60),
            (ring, rings + b'UserFiles:\t1\n', True, 60),
            # one that is busy
            (ring, b'pos:\t0\n', True, 0.1),
            ('anon_inode:[eventfd]', b'pos:\t0\n', False, 60),
            ('socket:[7]', b'scm_fds: 0\n', False, 60),
            ('socket:[7]', b'scm_fds: 12\n', True, 60),
        ):
            with open(description, 'wb') as f:
                f.write(content)
            os.symlink(target, link)
            with mock.patch.object(processes, '_BUSY', patience):
                found = processes._hides(description, link, end)
            self.assertEqual(expected, found, (target, content[-20:]))
            os.unlink(link)

    def test_an_io_uring_that_is_busy_for_a_moment(self):
        link = os.path.join(self.directory, 'link')
        os.symlink('anon_inode:[io_uring]', link)
        description = os.path.join(self.directory, 'description')
        with open(description, 'w') as f:
            f.write('pos:\t0\n')

        def tell(_):
            with open(description, 'w') as f:
                f.write('UserFiles:\t0\n')

        end = time.monotonic() + 60
        with mock.patch.object(processes.time, 'sleep', tell):
            self.assertFalse(processes._hides(description, link, end))

    def test_what_is_mapped(self):
        process = self.run_program('')
        self.mapped.append(neighbours.identify(self.path))
        self.assert_opened(process.pid)

    def test_a_process_that_ended(self):
        process = self.run_program('')
        process.communicate()
        self.assertEqual(frozenset(), self.opened(process.pid))


class HelpersTest(ProcessesTestCase):
    TPM = (Tpm('emulator', version='2.0'),)

    def helpers(self, **devices):
        domain = domain_module.Domain(UUID, NAME, 7, **devices)
        return [
            (h.program, h.origin, h.process.pid, h.labelled)
            for h in processes.helpers(self.directory, domain)
        ]

    def assert_not_found(self, *words, **devices):
        error = self.assertRaises(
            exceptions.NotConfined, self.helpers, **devices
        )
        for word in words:
            self.assertIn(word, error.message)

    def start_swtpm(self, name=NAME):
        socket = f'{self.directory}/swtpm/7-{name}-swtpm.sock'
        return self.start(
            *('--ctrl', f'type=unixio,path={socket},mode=0600'),
            *('--tpmstate', 'dir=/x,mode=0600'),
        )

    def share(self, *arguments, index=0):
        """Start a virtiofsd, with libvirt's file of it."""
        process = self.start(*arguments)
        path = f'{self.directory}/7-{NAME}-fs{index}-fs.pid'
        with open(path, 'w') as f:
            f.write(str(process.pid))
        return process.pid

    @staticmethod
    def shares(*sources):
        return tuple(
            Filesystem('mount', 'virtiofs', f't{n}', source)
            for n, source in enumerate(sources)
        )

    def test_a_guest_without_any(self):
        self.start_swtpm()
        self.assertEqual([], self.helpers())
        self.assertEqual([], self.helpers(tpms=(Tpm('external', '/x'),)))
        served = Filesystem('mount', 'virtiofs', 't', socket='/x')
        self.assertEqual([], self.helpers(filesystems=(served,)))

    def test_a_swtpm(self):
        process = self.start_swtpm()
        self.start_swtpm('instance-00000002')
        self.start_swtpm(f'{NAME}0')
        self.assertEqual(
            [('swtpm', '<tpm>', process.pid, True)],
            self.helpers(tpms=self.TPM),
        )

    def test_whatever_calls_itself_the_swtpm_has_to_be_confined(self):
        pids = {self.start_swtpm().pid for _ in range(2)}
        found = self.helpers(tpms=self.TPM)
        self.assertEqual(pids, {pid for _, _, pid, _ in found})

    def test_a_swtpm_of_nobody_s(self):
        self.start_swtpm('instance-00000002')
        self.assert_not_found('swtpm', self.directory, tpms=self.TPM)

    def test_a_virtiofsd_and_what_it_forked(self):
        code = 'import os; os.fork(); print(flush=True); input()'
        process = subprocess.Popen(
            [sys.executable, '-c', code, '--shared-dir', '/srv/a'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(process.communicate)
        process.stdout.readline()
        with open(f'{self.directory}/7-{NAME}-fs0-fs.pid', 'w') as f:
            f.write(str(process.pid))
        first, second = self.helpers(filesystems=self.shares('/srv/a'))
        self.assertEqual(
            ('virtiofsd', '<filesystem> t0', process.pid, False), first
        )
        with open(f'/proc/{second[2]}/status') as f:
            self.assertIn(f'PPid:\t{process.pid}\n', f.read())

    def test_each_share_has_its_own(self):
        # as libvirt starts the one of Rust, and QEMU's
        pids = [
            self.share('--fd=28', '--shared-dir', '/srv/a'),
            self.share('--fd=28', '-o', 'source=/srv/b,,c,xattr', index=1),
        ]
        found = self.helpers(filesystems=self.shares('/srv/a', '/srv/b,c'))
        self.assertEqual(pids, [pid for _, _, pid, _ in found])

    def test_a_file_that_names_another_process(self):
        for arguments in (
            ('--shared-dir', '/srv/b'),
            ('/srv/a',),
            ('-o', 'source=/srv/ab'),
            ('-o', 'cache=x,source=/srv/a'),
        ):
            self.share(*arguments)
            self.assert_not_found(
                'is not the virtiofsd',
                '<filesystem> t0',
                filesystems=self.shares('/srv/a'),
            )

    def test_a_virtiofsd_that_is_not_there(self):
        self.assert_not_found(
            f'7-{NAME}-fs0-fs.pid', filesystems=self.shares('/srv/a')
        )
