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

"""Devices that come to a running guest and go: the right with the device."""

import json
import re

import lablib

from nova_isolation.tests.system import base
from nova_isolation.tests.system import cloud
from nova_isolation.tests.system import test_cli


# What QEMU asks of a block device before it opens it.
_LIMITS = re.compile(r'"/sys/devices/\*\*/queue/[a-z_]+" r,')


class HotPlugTest(base.PairTestCase):
    """What one test plugs, the others do not touch."""

    def setUp(self):
        super().setUp()
        self.uuid, self.neighbour = self.first, self.second
        self.before = len(cloud.denials())

    # --- what the tests do and look at ------------------------------------

    def volume(self, name, **more):
        made = lablib.create_volume(name, **more)
        return made['id'], made['metadata']['device_path']

    def attach(self, uuid, volume=None):
        self.assertEqual('', lablib.attach(uuid, volume))

    def detach(self, uuid, **what):
        self.assertEqual('', lablib.detach(uuid, **what))

    def assert_volume(self, status, volume):
        found = lablib.volumes('GET', f'/volumes/{volume}')[1]
        self.assertEqual(status, found['volume']['status'])

    def assert_granted(self, uuid, access, path):
        self.assertEqual({path: access}, cloud.granted(uuid, path))

    def assert_grants_more(self, device, before, after):
        """One profile is another one and a block device."""
        fewer, more = before.splitlines(), after.splitlines()
        self.assertLessEqual(set(fewer), set(more))
        added = [
            rule
            for rule in (line.strip() for line in more if line not in fewer)
            if not rule.startswith('#') and not _LIMITS.fullmatch(rule)
        ]
        self.assertEqual(
            [f'"{device}" rwk,'],
            [rule.replace('{,disconnected/}', '') for rule in added],
        )

    def assert_works(self, uuid, volume, device):
        """The guest's disk is the device: what it writes is there."""
        # Nova's alias of it, QEMU's name for its back end
        name = f'/machine/peripheral/ua-{volume}/virtio-backend'
        mark = self.getUniqueInteger() % 255 + 1
        told = cloud.monitor(uuid, f'qemu-io -d {name} "write -P {mark} 0 4k"')
        self.assertEqual('', told.strip())
        self.assertEqual(
            f'{mark:02x}' * 16,
            cloud.node(
                f'blockdev --flushbufs {device}; '
                f'od -An -v -tx1 -N16 {device} | tr -d " \\n"'
            ),
        )

    def assert_console_closed(self):
        """Of the consoles, its own is all that a guest reaches (L13)."""
        own, other = cloud.console(self.uuid), cloud.console(self.neighbour)
        self.assertNotIn('/dev/pts/{', cloud.profile(self.uuid))
        self.assertEqual(
            {own: 'rw', other: '', '/dev/pts/9999': ''},
            cloud.granted(self.uuid, own, other, '/dev/pts/9999'),
        )
        before = len(self.denied(other))
        answer = cloud.open_console(self.uuid, other)
        self.assertNotIn('"return"', answer)
        lablib.wait_for(
            f'the denial of {answer}',
            lambda: len(self.denied(other)) > before,
            30,
        )

    def denied(self, path):
        return [
            d for d in cloud.denials() if self.uuid in d and f'"{path}"' in d
        ]

    def assert_nothing_else_denied(self):
        ours = (self.uuid, self.neighbour)
        log = '/share/log/nova-compute.log'
        for uuid in ours:
            accused = f'isolation: guest {uuid}, an attack'
            self.assertEqual(
                '0', cloud.node(f'grep -c "{accused}" {log} || true').strip()
            )
        new = cloud.denials()[self.before :]
        found = [d for d in new if any(u in d for u in ours)]
        self.assertEqual([], [d for d in found if '"/dev/pts/' not in d])

    @staticmethod
    def enabled():
        _, answer = lablib.call('GET', '/os-services?binary=nova-compute')
        return answer['services'][0]['status'] == 'enabled'

    # --- the tests --------------------------------------------------------

    def test_the_right_comes_and_goes_with_the_device(self):
        uuid = self.uuid
        volume, device = self.volume('comes and goes')
        before = cloud.profile(uuid)
        self.assert_granted(uuid, '', device)

        self.attach(uuid, volume)
        self.assert_volume('in-use', volume)
        self.assert_works(uuid, volume, device)
        self.assertEqual(
            {device: 'rw', '/dev/ubda': ''},
            cloud.granted(uuid, device, '/dev/ubda'),
        )
        self.assert_granted(self.neighbour, '', device)
        plugged = cloud.profile(uuid)
        self.assert_grants_more(device, before, plugged)
        self.assert_confined(uuid)
        told = json.loads(
            test_cli.run(f'profile explain {uuid} {device} -f json')
        )
        self.assertEqual('rwk', told['Allowed'])
        self.assertEqual('<disk> vdb', told['Origins'])
        self.assertEqual('rw', told['Kernel'])

        (first,) = lablib.ports(uuid)
        self.attach(uuid)
        (port,) = set(lablib.ports(uuid)) - {first}
        tap = f'tap{port[:11]}'
        self.assertIn(tap, cloud.domain_xml(uuid))
        self.assertIn(',UP', cloud.node(f'ip link show {tap}'))
        # libvirtd opens the tap and hands it over
        self.assertEqual(plugged, cloud.profile(uuid))
        self.assert_confined(uuid)

        with cloud.Consumer() as consumer:
            self.assert_console_closed()
            # they come in their order: none is on its way any more
            consumer.wait_for('the attempt on the console', self.violated)
            others = [
                event
                for event in consumer.events
                if self.violated(event)
                and not event['target']['path'].startswith('/dev/pts/')
            ]
        self.assertEqual([], others)

        self.detach(uuid, port=port)
        self.assertNotIn(tap, cloud.domain_xml(uuid))
        self.assert_granted(uuid, 'rw', device)
        self.detach(uuid, volume=volume)
        self.assert_volume('available', volume)
        self.assertEqual(before, cloud.profile(uuid))
        self.assert_granted(uuid, '', device)
        self.assert_confined(uuid)
        self.assert_nothing_else_denied()

    def violated(self, event):
        """Tell whether it is of a denial of this test, and no quiet one."""
        return (
            event['event_type'] == 'isolation.violation'
            and event['instance']['uuid'] == self.uuid
            and any(
                f':{event["denial"]["serial"]})' in record
                for record in cloud.denials()[self.before :]
            )
        )

    def test_the_right_stays_as_long_as_the_device(self):
        uuid = self.uuid
        volume, device = self.volume('stays')
        self.attach(uuid, volume)
        # Nova disables the service while libvirtd is away, and the next use
        # of libvirtd enables it
        self.addCleanup(
            lablib.wait_for, 'the service is enabled', self.enabled
        )
        for meet in (
            lambda: cloud.node('lab-service restart libvirtd'),
            lambda: cloud.act(uuid, 'suspend', 'SUSPENDED'),
            lambda: cloud.act(uuid, 'resume', 'ACTIVE'),
            lambda: cloud.act(uuid, {'reboot': {'type': 'SOFT'}}, 'ACTIVE'),
            lambda: cloud.act(uuid, {'reboot': {'type': 'HARD'}}, 'ACTIVE'),
        ):
            meet()
            if cloud.qemu_pids(uuid):
                self.assert_confined(uuid)
                self.assert_works(uuid, volume, device)
                self.assert_granted(uuid, 'rw', device)
                self.assert_console_closed()

        # the guest does not give it up (L10)
        plugged = cloud.profile(uuid)
        refused = lablib.detach(uuid, volume=volume, willing=False)
        self.assertIn('still attached to the guest', refused)
        self.assert_volume('in-use', volume)
        self.assertEqual(plugged, cloud.profile(uuid))
        self.assert_granted(uuid, 'rw', device)
        self.assert_works(uuid, volume, device)
        # QEMU takes away what was asked for when the guest resets
        cloud.node(f'virsh reset {uuid}')
        lablib.wait_for(
            'the right is gone',
            lambda: cloud.granted(uuid, device) == {device: ''},
            20,
        )
        self.assertNotIn(device, cloud.domain_xml(uuid))
        self.assert_grants_more(device, cloud.profile(uuid), plugged)
        self.assert_confined(uuid)
        self.assert_console_closed()
        self.detach(uuid, volume=volume, willing=False)
        self.assert_volume('available', volume)
        self.assert_nothing_else_denied()

    def test_a_neighbours_disk_is_refused_under_any_name(self):
        volume, device = self.volume('coveted')
        self.attach(self.neighbour, volume)
        self.addCleanup(self.detach, self.neighbour, volume=volume)
        alias = '/dev/disk-of-nobody'
        cloud.node(f'ln -sfn {device} {alias}')
        self.addCleanup(cloud.node, f'rm {alias}')
        before = self.seen(self.uuid), self.seen(self.neighbour)
        for path in (device, alias):
            greed, _ = self.volume(f'greed {path[5:]}', device=path)
            with cloud.Consumer() as consumer:
                told = lablib.attach(self.uuid, greed)
                # others were refused before
                event = consumer.wait_for(
                    'the refusal that the user is told of',
                    lambda e, told=told: self.refused(e) and e['id'] in told,
                )
            # the user is not told who else is there
            self.assertIn('isolation: ', told)
            self.assertNotIn(self.neighbour, told)
            self.assertNotIn(device, told)
            self.assertEqual('attaching a volume', event['operation'])
            # under the device's own name, whatever it was asked for by
            self.assertIn(device, event['reason'])
            self.assertIn(self.neighbour, event['reason'])
            cloud.settle(self.uuid, 'ACTIVE')
            self.assert_volume('available', greed)
            self.assertEqual(
                before, (self.seen(self.uuid), self.seen(self.neighbour))
            )
        self.assert_granted(self.uuid, '', device)
        self.assert_works(self.neighbour, volume, device)
        self.assert_nothing_else_denied()

    def test_a_name_of_a_stopped_guest_s_disk_may_be_another_one_s(self):
        volume, device = self.volume('once')
        self.attach(self.neighbour, volume)
        cloud.act(self.neighbour, 'os-stop', 'SHUTOFF')
        # it is connected still
        recycled, _ = self.volume('now', device=device)
        self.assertIn('isolation: ', lablib.attach(self.uuid, recycled))
        # and then the kernel gives the name to what is connected next
        image = cloud.node(
            f'losetup -n -O BACK-FILE {device} && losetup -d {device}'
        ).strip()
        cloud.node(f'losetup {device} {image}')
        self.attach(self.uuid, recycled)
        self.assert_works(self.uuid, recycled, device)
        # who runs has it, whatever the other one's definition says
        lablib.call(
            'POST', f'/servers/{self.neighbour}/action', {'os-start': None}
        )
        self.assertIn('isolation: ', cloud.failure(self.neighbour, 'start'))
        self.assertEqual([], cloud.qemu_pids(self.neighbour))
        self.detach(self.uuid, volume=recycled)
        cloud.settle(self.neighbour, 'SHUTOFF')
        cloud.act(self.neighbour, 'os-start', 'ACTIVE')
        self.assert_works(self.neighbour, volume, device)
        self.detach(self.neighbour, volume=volume)
        self.assert_nothing_else_denied()

    def refused(self, event):
        return (
            event['event_type'] == 'isolation.refused'
            and event['instance']['uuid'] == self.uuid
        )

    @staticmethod
    def seen(uuid):
        """All of a guest that a refused plug leaves as it was."""
        found = cloud.confinement(uuid)
        digest = cloud.node(f'sha256sum {cloud.PROFILES}/libvirt-{uuid}')
        return digest, found.loaded, found.pid, cloud.domain_xml(uuid)

    def test_a_guest_that_keeps_a_disk_is_stopped(self):
        uuid = cloud.boot('keeps')['id']
        self.addCleanup(cloud.delete, uuid)
        volume, device = self.volume('kept')
        self.attach(uuid, volume)
        answer = cloud.qmp(
            uuid,
            'blockdev-add',
            **{
                'driver': 'host_device',
                'node-name': 'kept',
                'filename': device,
                'locking': 'off',
            },
        )
        self.assertIn('"return"', answer)
        with cloud.Consumer() as consumer:
            self.detach(uuid, volume=volume)
            # before Nova gives it to anybody else
            self.assertEqual([], cloud.qemu_pids(uuid))
            self.assert_volume('available', volume)
            event = consumer.wait_for(
                'the finding',
                lambda e: e['event_type'] == 'isolation.finding',
            )
        self.assertEqual(uuid, event['instance']['uuid'])
        self.assertTrue(event['attack'])
        for words in (device, '<disk> vdb', 'the guest was stopped'):
            self.assertIn(words, event['reason'])
        self.attach(self.neighbour, volume)
        self.assert_works(self.neighbour, volume, device)
        self.detach(self.neighbour, volume=volume)
        # Nova believes libvirt's event after 15 s
        lablib.wait_for(
            'Nova knows that it is off',
            lambda: lablib.server(uuid)['status'] == 'SHUTOFF',
        )
        self.assert_nothing_else_denied()

    def test_a_disk_for_several_is_granted_to_each_of_them_alone(self):
        volume, device = self.volume('shared', multiattach=True)
        self.attach(self.uuid, volume)
        self.assert_granted(self.neighbour, '', device)
        self.attach(self.neighbour, volume)
        for guest in (self.uuid, self.neighbour):
            self.assert_works(guest, volume, device)
            self.assert_granted(guest, 'rw', device)
        self.detach(self.uuid, volume=volume)
        self.assert_granted(self.uuid, '', device)
        self.assert_granted(self.neighbour, 'rw', device)
        self.assert_works(self.neighbour, volume, device)
        self.assert_nothing_else_denied()
