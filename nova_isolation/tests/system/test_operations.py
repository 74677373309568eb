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

"""What Nova does to a guest works, stays confined, and meets no denial."""

import re

import lablib

from nova_isolation.tests.system import base
from nova_isolation.tests.system import cloud


class OperationsTest(base.PairTestCase):
    def test_the_life_of_a_guest(self):
        uuid = self.first
        self.assert_confined(uuid)
        for action, status in (
            ('suspend', 'SUSPENDED'),
            ('resume', 'ACTIVE'),
            ('os-stop', 'SHUTOFF'),
            ('os-start', 'ACTIVE'),
            ({'reboot': {'type': 'SOFT'}}, 'ACTIVE'),
            ({'reboot': {'type': 'HARD'}}, 'ACTIVE'),
            ('pause', 'PAUSED'),
            ('unpause', 'ACTIVE'),
            ('rescue', 'RESCUE'),
            ('unrescue', 'ACTIVE'),
        ):
            cloud.act(uuid, action, status)
            if status in ('ACTIVE', 'PAUSED', 'RESCUE'):
                self.assert_confined(uuid)
                # of what a start needs nothing is left
                self.assertNotIn('.save"', cloud.profile(uuid))
            else:
                self.assert_no_process(uuid)
        self.assert_not_denied(uuid)

    def test_the_guest_has_what_its_profile_grants(self):
        uuid = self.first
        xml = cloud.domain_xml(uuid)
        for device in (
            "<interface type='ethernet'>",
            'disk.config',
            "<graphics type='vnc'",
            "<serial type='pty'>",
            'console.log',
            "<backingStore type='file'",
        ):
            self.assertIn(device, xml)
        # VNC answers
        (port,) = re.findall("graphics type='vnc' port='([0-9]+)'", xml)
        greeting = cloud.node(
            'python3 -c "import socket; '
            f"print(socket.create_connection(('127.0.0.1', {port}), 10)"
            '.recv(12))"'
        )
        self.assertIn('RFB 003', greeting)
        # what the guest writes to its serial port arrives in the log
        for letter in b'hello':
            cloud.monitor(uuid, f'o /1 0x3f8 {letter}')
        log = f'{cloud.INSTANCES}/{uuid}/console.log'
        lablib.wait_for(
            'console.log', lambda: 'hello' in cloud.node(f'cat {log}'), 30
        )
        self.assert_not_denied(uuid)

    def test_only_this_guests_console_is_open_once_it_runs(self):
        pty = cloud.console(self.first)
        self.assertNotIn('/dev/pts/{', cloud.profile(self.second))
        answer = cloud.open_console(self.second, pty)
        self.assertNotIn('"return"', answer)
        lablib.wait_for(
            f'the denial of {answer}',
            lambda: [
                d
                for d in cloud.denials()
                if self.second in d and f'"{pty}"' in d
            ],
            30,
        )

    def test_a_stock_profile_left_by_libvirt_is_replaced(self):
        uuid = self.second
        cloud.act(uuid, 'os-stop', 'SHUTOFF')
        cloud.node(
            f'sed s/LIBVIRT_TEMPLATE/libvirt-{uuid}/ '
            f'{cloud.PROFILES}/TEMPLATE.qemu > {cloud.PROFILES}/libvirt-{uuid}'
        )
        cloud.act(uuid, 'os-start', 'ACTIVE')
        self.assert_confined(uuid)
        self.assertNotIn('libvirt-qemu>', cloud.profile(uuid))
        self.assertNotIn('.files', cloud.profile(uuid))


class RefusedOperationsTest(base.PairTestCase):
    def test_what_is_not_covered_is_refused_by_name_and_changes_nothing(self):
        uuid = self.first
        before = cloud.profile(uuid)
        pids = cloud.qemu_pids(uuid)
        with cloud.Consumer() as consumer:
            lablib.call(
                'POST',
                f'/servers/{uuid}/action',
                {'createImage': {'name': 'copy'}},
            )
            consumer.wait_for(
                'the refusal',
                lambda e: (
                    e['event_type'] == 'isolation.refused'
                    and e['instance']['uuid'] == uuid
                    and 'a snapshot' in e['reason']
                ),
            )
            cloud.settle(uuid, 'ACTIVE')
        self.assertEqual(before, cloud.profile(uuid))
        self.assertEqual(pids, cloud.qemu_pids(uuid))
        self.assert_confined(uuid)
