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

"""Devices that come and go while a server exists."""

import json
import os
import time
import types
from unittest import mock

import fixtures
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.tests.functional.api import client
from nova import utils
from nova.virt.libvirt import config
from nova.virt.libvirt import event as libvirt_event

from nova_isolation import exceptions
from nova_isolation.tests.functional import fixtures as isolation_fixtures
from nova_isolation.tests.functional.virt import base
from nova_isolation.tests.unit import samples

REASON = 'another guest has it'
PLUG = [('judge', 'running'), ('widen', 'running')]
PROOF = [('narrow', 'running'), ('verify', 'running')]


def paused(calls):
    return [(verb, 'paused') for verb, _ in calls]


class DevicesTestCase(base.IsolationTestCase):
    def setUp(self):
        super().setUp()
        self.flags(
            device_detach_attempts=1, device_detach_timeout=1, group='libvirt'
        )
        self.volume = self.cinder.IMAGE_BACKED_VOL
        self.cinder.VOLUME_CONNECTION_INFO = {
            **self.cinder.VOLUME_CONNECTION_INFO,
            self.volume: self.local('/dev/mapper/volume'),
        }
        self.start_compute()
        self.server = self.boot()
        self.uuid = self.server['id']

    def local(self, path):
        """What Cinder says of a volume that is a device of the host."""
        return {'driver_volume_type': 'local', 'data': {'device_path': path}}

    def prepare_connection(self, connection):
        connection.removed = self.removed

    def removed(self, domain, alias):
        # as Nova's thread for libvirt's events does
        self.driver._host._event_emit_delayed(
            libvirt_event.DeviceRemovedEvent(domain.UUIDString(), alias)
        )

    @property
    def driver(self):
        return self.computes['compute1'].driver

    @property
    def connection(self):
        return self.connections[0]

    def granted(self):
        """What the guest's rights are made of: volumes and interfaces."""
        return self.devices(self.recording.granted[self.uuid])

    def known(self):
        """What other guests are compared with."""
        return self.devices(self.recording.learned[self.uuid])

    @staticmethod
    def devices(domain):
        return (
            [d.path for d in domain.disks if d.path.startswith('/dev/')],
            [i.link.mac for i in domain.interfaces],
        )

    def live(self):
        return self.driver._isolation.guest(
            self.domain(self.uuid).XMLDesc(0)
        ).domain

    def defined(self):
        return self.driver._isolation.guest(
            self.domain(self.uuid).XMLDesc(2)
        ).domain

    def attach_volume(self):
        self.admin_api.post_server_volume(
            self.uuid, {'volumeAttachment': {'volumeId': self.volume}}
        )

    def attach_volume_and_wait(self):
        before = len(self.actions())
        self.attach_volume()
        self.wait('the end of the attachment', lambda: self.ended(before + 1))

    def detach_volume_and_wait(self):
        before = len(self.actions())
        self.admin_api.delete_server_volume(self.uuid, self.volume)
        self.wait('the end of the detachment', lambda: self.ended(before + 1))

    def actions(self):
        return self.admin_api.get_instance_actions(self.uuid)

    def ended(self, count):
        found = self.actions()
        if len(found) < count:
            return False
        events = self.admin_api.api_get(
            f'/servers/{self.uuid}/os-instance-actions/'
            f'{found[0]["request_id"]}'
        ).body['instanceAction']['events']
        return events and all(event['finish_time'] for event in events)

    def attach_interface(self):
        return self.admin_api.attach_interface(
            self.uuid,
            {'interfaceAttachment': {'net_id': self.neutron.network_1['id']}},
        )

    def settled(self):
        """Wait until nothing is done any more about an event."""
        worker = self.driver._removals
        self.wait('the end of the events', lambda: not worker._runs)

    def assert_unharmed(self):
        after = self.admin_api.get_server(self.uuid)
        self.assertEqual('ACTIVE', after['status'])
        self.assertIsNone(after['OS-EXT-STS:task_state'])
        self.assertEqual('running', self.state(self.uuid))
        self.assertEqual(1, self.executions(self.server))

    def assert_nothing_attached(self):
        self.assertEqual([], self.admin_api.get_server_volumes(self.uuid))
        self.assertEqual([], self.admin_api.get_port_interfaces(self.uuid))
        self.assertEqual(
            [], list(self.cinder.volume_ids_for_instance(self.uuid))
        )
        for domain in (self.live(), self.defined()):
            self.assertEqual(([], []), self.devices(domain))
        self.assertEqual(([], []), self.granted())
        self.assertEqual(([], []), self.known())

    def assert_notified(self, operation, reason):
        [event] = self.events()
        self.assertEqual('isolation.refused', event.event_type)
        self.assertEqual(operation, event.payload['operation'])
        self.assertEqual(reason, event.payload['reason'])


class PlugTest(DevicesTestCase):
    """What is plugged and unplugged when nobody objects."""

    def test_the_right_to_a_volume_is_there_before_libvirt_s_call(self):
        seen = []
        self.connection.attaching = lambda domain: seen.append(
            (self.granted(), self.devices(self.live()))
        )
        self.attach_volume_and_wait()
        volume = (['/dev/mapper/volume'], [])
        self.assertEqual([(volume, ([], []))], seen)
        self.assertEqual([*PLUG, *PROOF], self.verbs(self.server))
        self.assertEqual(volume, self.devices(self.live()))
        self.assertEqual(volume, self.devices(self.defined()))
        self.assertEqual(volume, self.granted())
        self.assert_unharmed()
        self.assertEqual([], self.events())

    def test_what_is_judged_is_the_guest_with_the_device(self):
        self.attach_volume_and_wait()
        guests = self.recording.guests
        self.assertEqual(
            [(1, ['/dev/mapper/volume'])] * 4,
            [(g.domain.id, self.devices(g.domain)[0]) for g in guests],
        )

    def test_the_right_to_a_volume_goes_with_it(self):
        self.attach_volume_and_wait()
        self.recording.forget()
        self.detach_volume_and_wait()
        self.settled()
        self.assertEqual([('narrow', 'running')], self.verbs(self.server))
        self.assert_nothing_attached()
        self.assert_unharmed()

    def test_the_right_goes_before_nova_disconnects_the_volume(self):
        self.attach_volume_and_wait()
        # nor is it the event that does it
        self.connection.removed = lambda domain, alias: None
        seen = []
        disconnect = self.driver._disconnect_volume
        self.driver._disconnect_volume = lambda *args, **kwargs: seen.append(
            (self.granted(), disconnect(*args, **kwargs))
        )
        self.detach_volume_and_wait()
        self.assertEqual([(([], []), None)], seen)

    def test_an_interface_comes_and_goes(self):
        self.attach_interface()
        self.assertEqual([*PLUG, *PROOF], self.verbs(self.server))
        _, [mac] = self.granted()
        self.assertEqual(([], [mac]), self.devices(self.live()))
        [port] = self.admin_api.get_port_interfaces(self.uuid)
        self.admin_api.detach_interface(self.uuid, port['port_id'])
        self.wait(
            'the end of the interface',
            lambda: not self.admin_api.get_port_interfaces(self.uuid),
        )
        self.settled()
        self.assert_nothing_attached()
        self.assert_unharmed()

    def test_a_vhost_user_interface_comes_and_goes(self):
        path = '/run/vhost-user/socket'
        self.neutron.default_port = {
            **self.neutron.default_port,
            'binding:vif_type': 'vhostuser',
            'binding:vif_details': {
                'vhostuser_mode': 'server',
                'vhostuser_socket': path,
            },
        }
        self.attach_interface()
        self.assertEqual([*PLUG, *PROOF], self.verbs(self.server))
        [found] = self.recording.granted[self.uuid].interfaces
        self.assertEqual((path, True), (found.link.path, found.link.listens))
        [port] = self.admin_api.get_port_interfaces(self.uuid)
        self.admin_api.detach_interface(self.uuid, port['port_id'])
        self.wait('the end of its right', lambda: self.granted() == ([], []))
        self.assert_unharmed()

    def test_a_paused_guest_takes_a_device_and_stays_paused(self):
        self.act(self.server, pause={})
        self.recording.forget()
        self.attach_volume_and_wait()
        self.assertEqual(paused([*PLUG, *PROOF]), self.verbs(self.server))
        self.assertEqual('paused', self.state(self.uuid))

    def test_a_stopped_guest_gets_its_right_when_it_starts(self):
        self.act(self.server, **{'os-stop': None})
        self.recording.forget()
        self.attach_volume_and_wait()
        volume = (['/dev/mapper/volume'], [])
        self.assertEqual([], self.verbs(self.server))
        self.assertEqual(volume, self.devices(self.defined()))
        # and others are compared with it from now on
        self.assertEqual(volume, self.known())
        self.act(self.server, **{'os-start': None})
        self.assertEqual(volume, self.granted())

    def test_a_stopped_guest_has_no_more_what_is_detached(self):
        self.attach_volume_and_wait()
        self.act(self.server, **{'os-stop': None})
        self.detach_volume_and_wait()
        self.assertEqual(([], []), self.known())

    def disk_in_a_file(self, sample):
        path = f'{self.directory(self.uuid)}/volume'
        with open(path, 'wb') as f:
            f.write(samples.image(sample))
        return path, isolation_fixtures.Device(
            "<disk type='file'><driver type='qcow2'/>"
            f"<source file='{path}'/><target dev='vdx'/></disk>"
        )

    def test_the_chain_of_a_disk_in_a_file_is_stated(self):
        path, device = self.disk_in_a_file('plain')
        [guest] = self.driver._host.list_guests()
        guest.attach_device(device, persistent=True, live=True)
        for domain in (self.live(), self.defined()):
            [disk] = [d for d in domain.disks if d.path == path]
            self.assertEqual((), disk.backing)

    def test_a_volume_in_a_file_of_a_share(self):
        base = self.useFixture(fixtures.TempDir()).path
        self.flags(nfs_mount_point_base=base, group='libvirt')
        for name in ('mount', 'umount'):
            self.useFixture(
                fixtures.MonkeyPatch(
                    f'nova.virt.libvirt.volume.mount.{name}',
                    lambda *args, **kwargs: None,
                )
            )
        share = os.path.join(base, utils.get_hash_str('server:/export'))
        os.mkdir(share)
        for name, image in (('volume-1', 'on-json'), ('volume-1.9', 'plain')):
            with open(os.path.join(share, name), 'wb') as f:
                f.write(samples.image(image))
        data = {'export': 'server:/export', 'format': 'qcow2', 'options': None}
        for name, attached in (('volume-1', False), ('volume-1.9', True)):
            self.cinder.VOLUME_CONNECTION_INFO[self.volume] = {
                'driver_volume_type': 'nfs',
                'data': {**data, 'name': name},
            }
            self.attach_volume_and_wait()
            path = os.path.join(share, name)
            found = [d for d in self.live().disks if d.path == path]
            self.assertEqual([()] * attached, [d.backing for d in found])
        [event] = self.events()
        self.assertTrue(event.payload['attack'])

    def test_a_header_that_names_another_file_is_refused(self):
        _, device = self.disk_in_a_file('on-json')
        [guest] = self.driver._host.list_guests()
        for live in (True, False):
            self.assertRaises(
                exceptions.DeceivingImage,
                guest.attach_device,
                device,
                persistent=True,
                live=live,
            )
        self.assertEqual([], self.verbs(self.server))

    def test_libvirt_s_choice_of_the_domain_is_ours(self):
        # as Nova attaches host devices when it resumes a server
        [guest] = self.driver._host.list_guests()
        guest.attach_device(
            isolation_fixtures.Device(
                "<disk type='block'><driver type='raw'/>"
                "<source dev='/dev/mapper/other'/><target dev='vdx'/></disk>"
            )
        )
        self.assertEqual([*PLUG, *PROOF], self.verbs(self.server))
        self.assertEqual((['/dev/mapper/other'], []), self.granted())


class RefusedPlugTest(DevicesTestCase):
    def refuse(self, verb, error=None, **kwargs):
        self.recording.object_at(
            verb, error or exceptions.Refusal(REASON), **kwargs
        )

    def test_a_volume_refused_beforehand_changes_nothing(self):
        before = self.domain(self.uuid).XMLDesc(0)
        self.refuse('judge')
        self.attach_volume_and_wait()
        self.assertEqual([('judge', 'running')], self.verbs(self.server))
        self.assertEqual(before, self.domain(self.uuid).XMLDesc(0))
        self.assert_unharmed()
        self.assert_notified('attaching a volume', REASON)
        self.assertEqual(f'isolation: {REASON}', self.fault(self.server))

    def test_a_refused_volume_leaves_no_right(self):
        self.refuse('widen')
        self.attach_volume_and_wait()
        self.assertNotIn('verify', [v for v, _ in self.verbs(self.server)])
        self.assert_nothing_attached()
        self.assert_unharmed()
        self.assert_notified('attaching a volume', REASON)

    def test_a_refused_interface_leaves_no_port_and_no_right(self):
        unplugged = []
        unplug = self.driver.vif_driver.unplug
        self.driver.vif_driver.unplug = lambda *args: unplugged.append(
            unplug(*args)
        )
        self.refuse('widen')
        self.assertRaises(client.OpenStackApiException, self.attach_interface)
        self.assert_nothing_attached()
        self.assertEqual(1, len(unplugged))
        self.assert_unharmed()
        self.assert_notified('attaching an interface', REASON)

    def test_a_volume_that_is_not_proven_is_taken_out_again(self):
        self.refuse('verify')
        self.attach_volume_and_wait()
        self.settled()
        self.assert_nothing_attached()
        self.assert_unharmed()
        self.assert_notified('attaching a volume', REASON)

    def test_a_guest_has_time_to_give_up_what_is_refused(self):
        # Nova disconnects the volume as soon as the refusal is raised
        seen = []

        def give_up(_):
            domain.give_up(None)
            seen.append(self.devices(self.live()))

        domain = self.domain(self.uuid)
        domain.obeys = False
        self.useFixture(
            # not for the threads of Nova
            fixtures.MonkeyPatch(
                'nova_isolation.virt.guest.time',
                types.SimpleNamespace(sleep=give_up, monotonic=time.monotonic),
            )
        )
        self.refuse('verify')
        [guest] = self.driver._host.list_guests()
        device = isolation_fixtures.Device(
            "<disk type='block'><driver type='raw'/>"
            "<source dev='/dev/mapper/other'/><target dev='vdx'/></disk>"
        )
        self.assertRaises(exceptions.Refusal, guest.attach_device, device)
        self.assertEqual([([], [])], seen)
        self.assertEqual(([], []), self.granted())

    def test_a_volume_that_cannot_be_taken_out_keeps_its_right(self):
        self.useFixture(
            fixtures.MonkeyPatch('nova_isolation.virt.guest._PATIENCE', 0)
        )
        self.domain(self.uuid).obeys = False
        self.refuse('verify')
        self.attach_volume_and_wait()
        self.assertEqual((['/dev/mapper/volume'], []), self.granted())
        self.domain(self.uuid).give_up(None)
        self.settled()
        self.assert_nothing_attached()

    def test_when_libvirt_fails_there_is_no_right(self):
        def fail(domain):
            raise isolation_fixtures.error('no PCI slot')

        self.connection.attaching = fail
        self.attach_volume_and_wait()
        self.assertIn(('widen', 'running'), self.verbs(self.server))
        self.assert_nothing_attached()
        self.assert_unharmed()
        # that is Nova's own affair
        self.assertEqual([], self.events())

    def test_when_libvirt_fails_and_the_device_is_there_its_right_stays(self):
        domain = self.domain(self.uuid)
        attach = domain.attachDeviceFlags

        def late(xml, flags):
            attach(xml, flags)
            raise isolation_fixtures.error('connection reset')

        domain.attachDeviceFlags = late
        self.attach_volume_and_wait()
        self.assertEqual((['/dev/mapper/volume'], []), self.granted())
        self.assertEqual(self.granted(), self.known())

    def test_a_guest_started_without_us_is_not_made_ours(self):
        self.recording.granted.clear()
        self.attach_volume_and_wait()
        self.driver._settle(self.uuid)
        self.driver.get_available_resource('compute1')
        self.assertEqual([], self.verbs(self.server))
        self.assertEqual(([], []), self.devices(self.live()))
        self.assert_unharmed()
        self.assertIn('reboot the server hard', self.fault(self.server))
        # with what the reason says it works
        self.act(self.server, reboot={'type': 'HARD'})
        self.attach_volume_and_wait()
        self.assertEqual((['/dev/mapper/volume'], []), self.granted())

    def test_a_hook_that_breaks_leaves_the_guest_as_it_was(self):
        self.refuse('widen', ZeroDivisionError('a bug'))
        self.attach_volume_and_wait()
        self.assert_nothing_attached()
        self.assert_unharmed()


class LateTest(DevicesTestCase):
    """The guest takes its time, or nobody hears of it."""

    def setUp(self):
        super().setUp()
        self.attach_volume_and_wait()
        self.has = self.granted()
        self.domain(self.uuid).obeys = False
        self.recording.forget()
        self.detach_volume_and_wait()

    def give_up(self, **kwargs):
        self.domain(self.uuid).give_up(None, **kwargs)
        self.assertEqual(([], []), self.devices(self.live()))

    def assert_withdrawn(self):
        self.settled()
        self.assertEqual(([], []), self.granted())
        self.assertEqual(([], []), self.known())

    def assert_kept(self):
        self.assertEqual(self.has, self.granted())

    def periodic_task(self):
        self.driver.get_available_resource('compute1')

    def test_the_right_stays_until_the_device_is_gone(self):
        self.assertEqual(self.has, self.devices(self.live()))
        for guest in self.recording.guests:
            self.assertEqual(self.has, self.devices(guest.domain))
        self.assert_kept()
        self.periodic_task()
        self.assert_kept()
        self.give_up()
        self.assert_withdrawn()

    def test_an_event_that_was_missed_is_made_up_for_periodically(self):
        self.give_up(heard=False)
        self.assert_kept()
        self.periodic_task()
        self.assert_withdrawn()

    def test_an_event_that_a_restart_missed_is_made_up_for(self):
        self.give_up(heard=False)
        self.restart_compute_service('compute1')
        self.assert_withdrawn()

    def test_an_event_that_was_missed_is_made_up_for_by_the_next_plug(self):
        self.give_up(heard=False)
        self.attach_interface()
        volumes, macs = self.granted()
        self.assertEqual(([], 1), (volumes, len(macs)))

    def test_what_fails_is_tried_again(self):
        self.recording.object_at('narrow', exceptions.Refusal('busy'))
        self.give_up()
        self.settled()
        self.assert_kept()
        self.assertIn('may still reach', self.stdlog.logger.output)
        self.periodic_task()
        self.assert_kept()
        self.recording.agree()
        self.periodic_task()
        self.assert_withdrawn()

    def test_what_was_written_and_not_loaded_is_tried_again(self):
        self.recording.object_at('narrow', exceptions.Refusal('busy'))
        self.give_up()
        self.settled()
        # the file tells nothing now of what the kernel grants
        self.recording.granted[self.uuid] = self.live()
        self.recording.agree()
        self.recording.forget()
        self.periodic_task()
        self.assertEqual([('narrow', 'running')], self.verbs(self.server))
        self.periodic_task()
        self.assertEqual([('narrow', 'running')], self.verbs(self.server))

    def test_what_cannot_be_checked_is_said_once_until_it_changes(self):
        def said():
            return self.stdlog.logger.output.count('cannot be checked')

        for cause, times in (('a', 1), ('a', 1), ('b', 2), ('a', 3)):
            self.recording.object_at('exceeds', exceptions.Refusal(cause))
            self.periodic_task()
            self.assertEqual(times, said(), cause)
        self.recording.agree()
        self.periodic_task()
        self.recording.object_at('exceeds', exceptions.Refusal('a'))
        self.periodic_task()
        self.assertEqual(4, said())

    def test_a_guest_that_is_not_to_run_yet_keeps_what_it_has(self):
        # nova-compute may have died between its start and its proof
        self.domain(self.uuid).suspend()
        self.give_up(heard=False)
        self.periodic_task()
        self.assert_kept()
        self.recording.forget()
        [guest] = self.driver._host.list_guests()
        guest.resume()
        self.assertEqual(paused(PROOF), self.verbs(self.server))
        self.assertEqual(([], []), self.granted())

    def test_a_guest_that_is_gone_is_no_fault(self):
        self.delete(self.server)
        self.driver._settle(self.uuid)
        self.assertNotIn(self.uuid, self.recording.granted)
        self.assertNotIn('may still reach', self.stdlog.logger.output)

    def test_switched_off_nobody_looks(self):
        self.driver._isolation.mode = 'off'
        self.recording.forget()
        self.give_up()
        self.periodic_task()
        self.assertEqual([], self.verbs(self.server))


class KeptTest(DevicesTestCase):
    """A captured QEMU has a disk open that it has lost."""

    KEPT = '/dev/mapper/volume (<disk> vdb) by process 7'

    def setUp(self):
        super().setUp()
        self.attach_volume_and_wait()
        self.recording.forget()
        self.seen = []
        disconnect = self.driver._disconnect_volume
        self.driver._disconnect_volume = lambda *args, **kwargs: (
            self.seen.append(
                (self.state(self.uuid), disconnect(*args, **kwargs))
            )
        )
        self.recording.kept = (self.KEPT,)

    def assert_found(self, *words):
        [event] = [
            e for e in self.events() if e.event_type == 'isolation.finding'
        ]
        self.assertEqual('error', event.priority)
        found = event.payload
        self.assertTrue(found['attack'])
        self.assertEqual('device kept', found['kind'])
        self.assertEqual(self.uuid, found['instance']['uuid'])
        self.assertEqual(self.server['name'], found['instance']['name'])
        for word in (self.KEPT, *words):
            self.assertIn(word, found['reason'])
        self.assertIn(found['reason'], self.stdlog.logger.output)

    def cannot_be_stopped(self):
        def destroy():
            raise isolation_fixtures.error('it is busy')

        domain = self.domain(self.uuid)
        self.useFixture(fixtures.MockPatchObject(domain, 'destroy', destroy))

    def volumes(self):
        return self.admin_api.get_server_volumes(self.uuid)

    def test_it_is_stopped_before_the_volume_can_go_to_another_one(self):
        self.detach_volume_and_wait()
        self.assertEqual([('shutoff', None)], self.seen)
        self.assertEqual([], self.volumes())
        self.settled()
        self.assertEqual('shutoff', self.state(self.uuid))
        self.assert_found('was stopped')

    def test_one_that_cannot_be_stopped_keeps_the_volume_for_nova_too(self):
        self.cannot_be_stopped()
        # nor is it the event that sees to it
        self.connection.removed = lambda domain, alias: None
        self.detach_volume_and_wait()
        self.assertEqual([], self.seen)
        self.assertEqual(1, len(self.volumes()))
        self.assert_found('could not be stopped', 'it is busy')
        self.assertIn('still has open', self.fault(self.server))

    def test_who_could_not_be_stopped_is_looked_at_again(self):
        self.cannot_be_stopped()
        self.connection.removed = lambda domain, alias: None
        self.detach_volume_and_wait()
        self.recording.kept = ()
        self.recording.forget()
        self.driver.get_available_resource('compute1')
        self.assertEqual([('narrow', 'running')], self.verbs(self.server))
        # and Nova's user, too
        self.detach_volume_and_wait()
        self.assertEqual([('running', None)], self.seen)
        self.assertEqual([], self.volumes())

    def test_it_is_stopped_also_when_it_gives_it_up_late(self):
        self.domain(self.uuid).obeys = False
        self.recording.kept = ()
        self.detach_volume_and_wait()
        self.assertEqual('running', self.state(self.uuid))
        self.recording.kept = (self.KEPT,)
        self.domain(self.uuid).give_up(None)
        self.settled()
        self.assertEqual('shutoff', self.state(self.uuid))
        self.assert_found('was stopped')

    def test_it_gets_no_other_device(self):
        self.assertRaises(client.OpenStackApiException, self.attach_interface)
        self.assertEqual('shutoff', self.state(self.uuid))
        self.assert_found('was stopped')
        self.assertNotIn('verify', [v for v, _ in self.verbs(self.server)])

    def test_in_complain_mode_that_is_reported_only(self):
        self.driver._isolation.mode = 'complain'
        self.connection.removed = lambda domain, alias: None
        self.detach_volume_and_wait()
        self.assertEqual([('running', None)], self.seen)
        self.assert_found('reported only')

    def test_nova_does_not_overtake_who_withdraws_the_right(self):
        turns = self.driver._isolation.turns
        self.recording.kept = ()
        with (
            mock.patch.object(turns, 'patience', 0.1),
            turns.take(self.uuid),
        ):
            self.detach_volume_and_wait()
        self.assertEqual([], self.seen)
        self.assertEqual(1, len(self.volumes()))
        self.assertIn('has not ended', self.fault(self.server))
        self.detach_volume_and_wait()
        self.assertEqual([('running', None)], self.seen)


class AtOnceTest(DevicesTestCase):
    """Changes that meet."""

    def setUp(self):
        super().setUp()
        self.attach_interface()
        [port] = self.admin_api.get_port_interfaces(self.uuid)
        self.domain(self.uuid).obeys = False
        before = len(self.actions())
        self.admin_api.detach_interface(self.uuid, port['port_id'])
        self.wait('the end of the detachment', lambda: self.ended(before + 1))

    def test_a_plug_in_flight_keeps_its_right_while_another_device_goes(self):
        seen = []

        def meanwhile(domain):
            domain.give_up(None)
            self.settled()
            # nobody waited, and nothing was withdrawn
            seen.append(self.granted())

        self.connection.attaching = meanwhile
        self.attach_volume_and_wait()
        [(volumes, _)] = seen
        self.assertEqual(['/dev/mapper/volume'], volumes)
        self.assertEqual((['/dev/mapper/volume'], []), self.granted())
        self.assertEqual(self.granted(), self.known())

    def test_what_goes_during_a_failing_plug_goes(self):
        def meanwhile(domain):
            domain.give_up(None)
            raise isolation_fixtures.error('no PCI slot')

        self.connection.attaching = meanwhile
        self.attach_volume_and_wait()
        self.settled()
        self.assertEqual(([], []), self.granted())

    def test_a_plug_waits_for_its_turn_and_not_for_ever(self):
        turns = self.driver._isolation.turns
        with (
            mock.patch.object(turns, 'patience', 0.1),
            turns.take(self.uuid),
        ):
            self.recording.forget()
            self.attach_volume_and_wait()
            self.assertEqual([], self.verbs(self.server))
        self.assert_unharmed()
        self.assertIn('has not ended', self.fault(self.server))
        self.attach_volume_and_wait()
        self.assertEqual(['/dev/mapper/volume'], self.granted()[0])

    def test_a_start_under_way_loses_nothing(self):
        with self.driver._isolation.turns.take(self.uuid):
            self.recording.forget()
            self.domain(self.uuid).give_up(None)
            self.settled()
            self.driver.get_available_resource('compute1')
            self.assertEqual([], self.verbs(self.server))


class HostDevicesTest(base.IsolationTestCase):
    """Nova takes host devices out to suspend, and puts them in to resume."""

    def setUp(self):
        super().setUp()
        device = {
            'vendor_id': fakelibvirt.PCI_VEND_ID,
            'product_id': fakelibvirt.PCI_PROD_ID,
        }
        self.flags(
            device_spec=[json.dumps(device)],
            alias=[json.dumps({**device, 'name': 'gpu'})],
            group='pci',
        )
        self.start_compute()
        flavor = self._create_flavor(
            extra_spec={'pci_passthrough:alias': 'gpu:1'}
        )
        self.server = self.boot(flavor_id=flavor)
        self.uuid = self.server['id']
        self.assertEqual(1, self.granted())

    def prepare_connection(self, connection):
        connection.pci_info = fakelibvirt.HostPCIDevicesInfo(
            num_pci=1, num_pfs=0, num_vfs=0
        )
        connection.removed = self.removed

    def removed(self, domain, alias):
        self.computes['compute1'].driver._host._event_emit_delayed(
            libvirt_event.DeviceRemovedEvent(domain.UUIDString(), alias)
        )

    def granted(self):
        return len(self.recording.granted[self.uuid].host_devices)

    def live(self):
        domain = self.domain(self.uuid)
        return domain.XMLDesc(0).count('<hostdev')

    def suspend(self):
        self.act(self.server, suspend={})
        self.recording.forget()

    def test_the_device_goes_and_comes(self):
        self.suspend()
        after = self.act(self.server, resume={})
        self.assertEqual('ACTIVE', after['status'])
        self.assertEqual(
            [('widen', 'running'), *PROOF], self.verbs(self.server)[-3:]
        )
        self.assertEqual((1, 1), (self.live(), self.granted()))

    def test_its_end_withdraws_the_right(self):
        driver = self.computes['compute1'].driver
        [guest] = driver._host.list_guests()
        [device] = guest.get_all_devices(config.LibvirtConfigGuestHostdevPCI)
        guest.detach_device(device, live=True)
        self.wait('the end of the right', lambda: not self.granted())

    def test_a_refusal_is_no_roll_back_of_a_server_that_runs(self):
        self.suspend()
        self.recording.object_at('widen', exceptions.Refusal(REASON))
        after = self.act(self.server, resume={})
        # it has its memory again: not SUSPENDED any more
        self.assertEqual('ERROR', after['status'])
        self.assertEqual(f'isolation: {REASON}', after['fault']['message'])
        self.assertEqual('running', self.state(self.uuid))
        self.assertEqual((0, 0), (self.live(), self.granted()))


class OtherModesTest(DevicesTestCase):
    def test_complain_is_as_enforce(self):
        self.driver._isolation.mode = 'complain'
        self.attach_volume_and_wait()
        self.assertEqual([*PLUG, *PROOF], self.verbs(self.server))

    def test_off_is_as_without_us(self):
        self.driver._isolation.mode = 'off'
        self.attach_volume_and_wait()
        self.detach_volume_and_wait()
        self.settled()
        self.assertEqual([], self.verbs(self.server))
        self.assertEqual(([], []), self.devices(self.live()))
