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
"""What a captured QEMU has open the privileged daemon finds.

Runs on the lab's machine: ``lab/lab run``.
"""

import ctypes
import functools
import mmap
import multiprocessing
import os
import pathlib
import signal
import socket
import subprocess
import threading
import unittest

from oslo_privsep import capabilities

from nova_isolation.apparmor import policy as policy_module
from nova_isolation import neighbours
from nova_isolation import privileged
from nova_isolation.tests.system.attacks import captured
from nova_isolation.tests.system import loading

UUID = '11111111-2222-4333-8444-666666666666'
FILE = pathlib.Path('/srv/volume')


def be_the_daemon(asked):
    """Answer with what privsep's daemon may do, and no more."""
    privileged.context.set_client_mode(False)
    kept = privileged.context.conf.capabilities
    capabilities.drop_all_caps_except(kept, kept, [])
    while arguments := asked.recv():
        asked.send(privileged.find_open(*arguments))


def keep_open(path):
    return os.open(path, os.O_RDWR)


def keep_mapped(path):
    descriptor = os.open(path, os.O_RDWR)
    kept.append(mmap.mmap(descriptor, 4096))
    os.close(descriptor)


def keep_in_a_thread(path):
    def keep():
        # CLONE_FILES
        assert ctypes.CDLL(None).unshare(0x400) == 0
        keep_open(path)
        done.set()
        threading.Event().wait()

    done = threading.Event()
    threading.Thread(target=keep, daemon=True).start()
    done.wait()


def keep_in_a_child(path):
    descriptor = os.open(path, os.O_RDWR)
    if os.fork() == 0:
        signal.pause()
    os.close(descriptor)


def keep_in_a_socket(path):
    kept.extend(socket.socketpair())
    descriptor = os.open(path, os.O_RDWR)
    socket.send_fds(kept[-1], [b'x'], [descriptor])
    os.close(descriptor)


kept: list[object] = []
WAYS = (
    keep_open,
    keep_mapped,
    keep_in_a_thread,
    keep_in_a_child,
    keep_in_a_socket,
)


class OpenFilesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # without threads: the tests fork
        context = multiprocessing.get_context('spawn')
        cls.daemon, theirs = context.Pipe()
        process = context.Process(target=be_the_daemon, args=(theirs,))
        process.start()
        cls.addClassCleanup(process.join)
        cls.addClassCleanup(cls.daemon.send, None)
        FILE.write_bytes(b'x' * 4096)
        FILE.chmod(0o666)
        cls.addClassCleanup(FILE.unlink)
        image = FILE.with_suffix('.img')
        image.write_bytes(b'x' * 65536)
        cls.addClassCleanup(image.unlink)
        subprocess.run(['modprobe', 'loop'], check=True)
        made = subprocess.run(
            ['losetup', '--find', '--show', image],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        cls.device = made.stdout.strip()
        cls.addClassCleanup(
            subprocess.run, ['losetup', '--detach', cls.device], check=True
        )
        os.chmod(cls.device, 0o666)
        cls.label = loading.load(
            policy_module.check(
                policy_module.Policy(
                    uuid=UUID,
                    name='instance-00000002',
                    id=2,
                    emulator='/usr/bin/qemu-system-x86_64',
                    needs=(),
                    files=tuple(
                        policy_module.FileGrant(str(path), 'rwk', '<disk>')
                        for path in (cls.device, FILE)
                    ),
                    consoles=False,
                    ptys=(),
                    complain=False,
                    restoring=False,
                )
            )
        )

    def find(self, path):
        self.daemon.send((UUID, [list(neighbours.identify(str(path)))]))
        self.assertTrue(self.daemon.poll(60))
        return self.daemon.recv()

    def run_captured(self, attempt, observed):
        return captured.run(
            attempt,
            lambda got, pid: observed(),
            name='keeps',
            label=self.label,
            capabilities=(),
        )

    def test_whatever_way_it_is_kept(self):
        for path in (self.device, FILE):
            for keep in WAYS:
                with self.subTest(path=str(path), way=keep.__name__):
                    outcome = self.run_captured(
                        functools.partial(keep, path),
                        functools.partial(self.find, path),
                    )
                    self.assertTrue(outcome.succeeded, outcome)

    def test_who_has_it_no_more_or_is_another_guest(self):
        def is_not_found():
            # but this process has it
            with open(FILE):
                return self.find(FILE) == []

        outcome = self.run_captured(
            lambda: os.close(os.open(FILE, os.O_RDWR)), is_not_found
        )
        self.assertTrue(outcome.succeeded, outcome)
