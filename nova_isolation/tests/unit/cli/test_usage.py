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

import os
import pathlib
import socket

import ddt
import fixtures
from oslotest import base

from nova_isolation.apparmor.accesses import Access
from nova_isolation.cli import usage

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
HEAD = 'type=AVC msg=audit(1795424098.237:2): '


@ddt.ddt
class RecordedTest(base.BaseTestCase):
    def read(self, *lines):
        recorded = usage.Recorded()
        recorded.read(line.encode() for line in lines)
        return recorded

    @ddt.unpack
    @ddt.data(
        (
            'operation="open" class="file" name="/tmp/a b" '
            'requested_mask="wrc" denied_mask="wrc"',
            Access('file', '/tmp/a b', frozenset('rw')),
        ),
        (
            'operation="exec" name="/bin/sh" requested_mask="x"',
            Access('file', '/bin/sh', frozenset(['ix'])),
        ),
        (
            'operation="capable" class="cap" capability=21 '
            'capname="sys_admin"',
            Access('capability', 'sys_admin', frozenset(['use'])),
        ),
        (
            'operation="connect" class="net" family="inet" '
            'sock_type="stream" protocol=6 requested_mask="connect"',
            Access('network', 'inet stream', frozenset(['connect'])),
        ),
        (
            'operation="sendmsg" class="net" family="unix" '
            'sock_type="stream" requested_mask="send receive" '
            'peer_addr="@x" peer="libvirtd"',
            Access('unix', 'libvirtd', frozenset(['send', 'receive'])),
        ),
        (
            'operation="signal" class="signal" requested_mask="receive" '
            'signal=kill peer="libvirtd"',
            Access('signal', 'libvirtd', frozenset(['receive'])),
        ),
        (
            'operation="mount" class="mount" name="/mnt" fstype="tmpfs"',
            Access('mount', '/mnt', frozenset()),
        ),
    )
    def test_a_record(self, fields, access):
        line = f'{HEAD}apparmor="AUDIT" profile="libvirt-{UUID}" {fields}'
        self.assertEqual({UUID: {access}}, self.read(line).used)

    def test_every_form_of_a_log(self):
        for line in (
            '[    1.2] audit: type=1400 audit(17954240.237:3): {}',
            'type=1400 audit(17954240.237:3): {}',
            'type=AVC msg=audit(17954240.237:3): {}\x1dAUID="unset"',
        ):
            text = line.format(
                f'apparmor="ALLOWED" operation="open" '
                f'profile="libvirt-{UUID}" name="/x" requested_mask="r"'
            )
            self.assertEqual({UUID}, self.read(text).used.keys(), line)

    def test_what_was_denied_or_is_no_guest_s_is_not_used(self):
        fields = 'operation="open" name="/x" requested_mask="r"'
        recorded = self.read(
            f'{HEAD}apparmor="DENIED" profile="libvirt-{UUID}" {fields}',
            f'{HEAD}apparmor="AUDIT" profile="libvirtd" {fields}',
            f'{HEAD}avc:  denied  {{ read }} for pid=1',
            'nothing of this kind',
        )
        self.assertEqual(({}, 0), (recorded.used, recorded.unparsable))

    def test_a_flood_is_counted(self):
        recorded = self.read(
            *(
                f'{HEAD}apparmor="AUDIT" profile="libvirt-{UUID}" '
                f'operation="open" name="/x/{number}" requested_mask="r"'
                for number in range(1010)
            )
        )
        self.assertEqual(1000, len(recorded.used[UUID]))
        self.assertEqual(10, recorded.dropped)


class ProcessTest(base.BaseTestCase):
    """Of this test's own process."""

    def setUp(self):
        super().setUp()
        self.place = pathlib.Path(
            os.path.realpath(self.useFixture(fixtures.TempDir()).path)
        )

    def found(self):
        return list(usage.of_process(os.getpid()))

    def wanted(self, path):
        return {
            ''.join(sorted(a.wanted)) for a in self.found() if a.name == path
        }

    def test_open_files(self):
        path = self.place / 'a b'
        path.touch()
        for flags, wanted in (
            (os.O_RDONLY, 'r'),
            (os.O_WRONLY, 'w'),
            (os.O_RDWR, 'rw'),
        ):
            descriptor = os.open(path, flags)
            self.assertEqual({wanted}, self.wanted(str(path)))
            os.close(descriptor)
        directory = os.open(self.place, os.O_RDONLY)
        self.addCleanup(os.close, directory)
        self.assertEqual({'r'}, self.wanted(f'{self.place}/'))

    def test_what_is_no_use_of_a_name(self):
        path = self.place / 'gone'
        for flags in (os.O_RDWR | os.O_CREAT, os.O_PATH):
            path.touch()
            descriptor = os.open(path, flags)
            self.addCleanup(os.close, descriptor)
            if not flags & os.O_PATH:
                path.unlink()
        self.assertEqual([], [a for a in self.found() if 'gone' in a.name])

    def test_mapped_libraries(self):
        mapped = {a.name for a in self.found() if 'm' in a.wanted}
        self.assertTrue([name for name in mapped if 'libc' in name], mapped)

    def test_sockets(self):
        server = socket.create_server(('127.0.0.1', 0))
        self.addCleanup(server.close)

        def operations():
            return {
                word
                for access in self.found()
                if access.name == 'inet stream'
                for word in access.wanted
            }

        self.assertEqual({'listen'}, operations())
        client = socket.create_connection(server.getsockname())
        self.addCleanup(client.close)
        accepted, _ = server.accept()
        self.addCleanup(accepted.close)
        self.assertEqual({'listen', 'accept', 'connect'}, operations())
