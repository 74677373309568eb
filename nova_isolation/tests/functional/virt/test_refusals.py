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


"""A refusal gives the designed fault and costs no tenant anything."""

import os
from unittest import mock

import fixtures
from lxml import etree
import nova.conf
from nova.virt.libvirt import driver

from nova_isolation import exceptions
from nova_isolation import images
from nova_isolation.tests.functional import fixtures as isolation_fixtures
from nova_isolation.tests.functional.virt import base
from nova_isolation.tests import qcow2

CONF = nova.conf.CONF
hard_reboot = driver.LibvirtDriver._hard_reboot
REASON = 'the profile of this guest is not to be had'


class RefusalsTestCase(base.IsolationTestCase):
    def setUp(self):
        super().setUp()
        self.start_compute()

    def refuse(self, verb, **kwargs):
        self.recording.object_at(verb, exceptions.Refusal(REASON), **kwargs)

    def assert_notified(self, server, operation):
        """One event tells of the refusal."""
        [event] = self.events()
        self.assertEqual('isolation.refused', event.event_type)
        self.assertEqual('error', event.priority)
        self.assertEqual(server['id'], event.payload['instance']['uuid'])
        self.assertEqual(server['name'], event.payload['instance']['name'])
        self.assertEqual(
            server['tenant_id'], event.payload['instance']['project_id']
        )
        self.assertEqual('m1.tiny', event.payload['instance']['flavor'])
        self.assertEqual(operation, event.payload['operation'])
        self.assertEqual(REASON, event.payload['reason'])
        self.assertEqual('compute1', event.payload['host'])

    def assert_never_ran_again(self, server):
        self.assertEqual(1, self.executions(server))

    def assert_data_kept(self, server):
        with open(f'{self.directory(server["id"])}/disk') as f:
            self.assertEqual('tenant data', f.read())

    def assert_recovers(self, server):
        """With the cause gone, a hard reboot brings the server back."""
        self.recording.agree()
        server = self.act(server, reboot={'type': 'HARD'})
        self.assertEqual('ACTIVE', server['status'])
        self.assertEqual('running', self.state(server['id']))
        self.assert_data_kept(server)


class RefusedCreationTest(RefusalsTestCase):
    def _refused_at(self, verb):
        self.start_compute('compute2')
        self.refuse(verb)
        server = self.boot_refused()
        self.assertEqual(
            f'Build of instance {server["id"]} aborted: isolation: {REASON}',
            server['fault']['message'],
        )
        calls = self.recording.verbs(server['id'])
        # not tried again, neither here nor on the other host
        self.assertEqual(1, [v for v, _ in calls].count(verb))
        self.assertEqual(('release', 'absent'), calls[-1])
        self.assertEqual('absent', self.state(server['id']))
        self.assertEqual(0, self.executions(server))
        self.assertIsNone(self.files(server['id']))
        [event] = self.events()
        self.assertEqual(server['id'], event.payload['instance']['uuid'])
        self.assertEqual('spawn', event.payload['operation'])
        self.assertEqual(REASON, event.payload['reason'])
        # nothing of it is in the way of its end
        self.delete(server)
        return calls

    def boot_refused(self):
        return self._create_server(networks='auto', expected_state='ERROR')

    def test_when_a_domain_may_not_be_defined(self):
        self._refused_at('define')

    def test_when_a_profile_cannot_be_made(self):
        calls = self._refused_at('prepare')
        self.assertNotIn('paused', [state for _, state in calls])

    def test_when_a_profile_cannot_be_narrowed(self):
        calls = self._refused_at('narrow')
        self.assertIn(('narrow', 'paused'), calls)
        self.assertNotIn('verify', [verb for verb, _ in calls])

    def test_when_a_process_is_not_proven_to_be_confined(self):
        self.assertIn(('verify', 'paused'), self._refused_at('verify'))

    def test_a_hook_that_breaks_stops_the_guest_before_its_vcpus_run(self):
        self.recording.object_at('verify', ZeroDivisionError('a bug'))
        server = self.boot_refused()
        self.assertEqual(0, self.executions(server))
        self.assertEqual('absent', self.state(server['id']))

    def test_the_refusal_stands_when_it_cannot_be_notified(self):
        with open(self.spool_directory, 'w') as f:
            f.write('in the way')
        self.refuse('verify')
        server = self.boot_refused()
        self.assertIn(REASON, server['fault']['message'])
        self.assertIn('is not notified', self.stdlog.logger.output)


class RefusedRestartTest(RefusalsTestCase):
    """Hard and soft reboot, start."""

    def test_hard_reboot_refused_beforehand_leaves_the_guest_running(self):
        server = self.boot()
        self.refuse('judge')
        after = self.act(server, reboot={'type': 'HARD'})
        self.assertEqual('ACTIVE', after['status'])
        self.assertEqual('running', self.state(server['id']))
        self.assertEqual([('judge', 'running')], self.verbs(server))
        self.assertEqual(f'isolation: {REASON}', self.fault(server))
        self.assert_notified(server, 'hard reboot')

    def test_hard_reboot_refused_at_the_start_keeps_the_disks(self):
        server = self.boot()
        self.refuse('verify')
        after = self.act(server, reboot={'type': 'HARD'})
        self.assertEqual('ERROR', after['status'])
        self.assertEqual(f'isolation: {REASON}', after['fault']['message'])
        self.assertEqual('absent', self.state(server['id']))
        self.assert_never_ran_again(server)
        self.assertEqual(('release', 'absent'), self.verbs(server)[-1])
        self.assert_notified(server, 'hard reboot')
        self.assert_data_kept(server)
        self.assert_recovers(server)

    def test_soft_reboot_refused_beforehand_leaves_the_guest_running(self):
        server = self.boot()
        self.refuse('judge')
        after = self.act(server, reboot={'type': 'SOFT'})
        self.assertEqual('ACTIVE', after['status'])
        self.assertEqual('running', self.state(server['id']))
        self.assertEqual(f'isolation: {REASON}', self.fault(server))
        self.assert_never_ran_again(server)
        self.assert_notified(server, 'soft reboot')

    def test_soft_reboot_refused_at_the_start_leaves_the_guest_off(self):
        server = self.boot()
        self.refuse('verify')
        after = self.act(server, reboot={'type': 'SOFT'})
        self.assertEqual('ERROR', after['status'])
        self.assertEqual(f'isolation: {REASON}', after['fault']['message'])
        self.assertEqual('shutoff', self.state(server['id']))
        self.assertEqual(('release', 'shutoff'), self.verbs(server)[-1])
        self.assert_never_ran_again(server)
        self.assert_notified(server, 'soft reboot')
        self.assert_recovers(server)

    def test_start_refused_beforehand_leaves_the_server_as_it_was(self):
        server = self.boot()
        self.act(server, **{'os-stop': None})
        before = self.domain(server['id']).XMLDesc(0)
        self.refuse('judge')
        after = self.act(server, **{'os-start': None})
        self.assertEqual('SHUTOFF', after['status'])
        self.assertEqual('shutoff', self.state(server['id']))
        self.assertEqual(before, self.domain(server['id']).XMLDesc(0))
        self.assertEqual(f'isolation: {REASON}', self.fault(server))
        self.assert_notified(server, 'hard reboot')

    def test_start_refused_at_the_start_leaves_the_server_shut_off(self):
        server = self.boot()
        self.act(server, **{'os-stop': None})
        self.refuse('verify')
        after = self.act(server, **{'os-start': None})
        self.assertEqual('SHUTOFF', after['status'])
        self.assertEqual(f'isolation: {REASON}', self.fault(server))
        self.assert_never_ran_again(server)
        self.assert_notified(server, 'hard reboot')
        self.recording.agree()
        after = self.act(server, **{'os-start': None})
        self.assertEqual('ACTIVE', after['status'])
        self.assert_data_kept(server)

    def test_what_another_tenant_has_is_not_shown(self):
        server = self.boot()
        reason = '/secret is that of guest 8887d9d3-17f8-4388-8771-fab6312518'
        self.recording.object_at('judge', exceptions.NotSeparate(reason))
        for operation in (
            {'reboot': {'type': 'HARD'}},
            {'reboot': {'type': 'SOFT'}},
        ):
            self.act(server, **operation)
        for event in self.events():
            self.assertEqual(reason, event.payload['reason'])
            line = f'{reason} (event {event.id})'
            self.assertIn(line, self.stdlog.logger.output)
        fault = self.fault(server)
        self.assertIn('are not kept apart', fault)
        self.assertIn(event.id, fault)
        self.assertNotIn('secret', fault)
        self.assertNotIn('8887d9d3', fault)
        self.assertIn(reason, self.fault(server, 'details'))

    def test_what_was_refused_is_looked_at_again_by_whoever_starts(self):
        server, other = self.boot(), self.boot()
        self.refuse('verify')
        self.act(server, reboot={'type': 'SOFT'})
        self.assertEqual('shutoff', self.state(server['id']))
        # it had all that it was to have while it started
        self.recording.learned.clear()
        self.recording.agree()
        self.act(other, reboot={'type': 'SOFT'})
        self.assertIsNone(self.recording.learned[server['id']].id)

    def test_what_a_stopped_guest_had_is_no_reason(self):
        # Nova makes its domain anew, of a nova.conf that may have changed
        server = self.boot()
        self.act(server, **{'os-stop': None})
        self.recording.object_at('judge', exceptions.NotCovered('SPICE'))
        after = self.act(server, **{'os-start': None})
        self.assertEqual('ACTIVE', after['status'])

    def test_what_a_running_guest_has_is_one(self):
        server = self.boot()
        self.recording.object_at('judge', exceptions.NotCovered('SPICE'))
        after = self.act(server, reboot={'type': 'HARD'})
        self.assertEqual('ACTIVE', after['status'])
        self.assertEqual('isolation: SPICE', self.fault(server))
        self.assertEqual(1, self.executions(server))

    def test_an_image_that_a_hard_reboot_will_fetch_is_no_reason(self):
        server = self.boot()
        self.recording.object_at(
            'judge', exceptions.MissingBase('the base image is gone')
        )
        after = self.act(server, reboot={'type': 'HARD'})
        self.assertEqual('ACTIVE', after['status'])
        self.assertEqual(2, self.executions(server))

    def test_a_volume_that_a_hard_reboot_will_connect_is_no_reason(self):
        server = self.boot()
        self.act(server, **{'os-stop': None})
        self.recording.object_at(
            'judge', exceptions.MissingVolume('the share is not mounted')
        )
        after = self.act(server, **{'os-start': None})
        self.assertEqual('ACTIVE', after['status'])

    def test_any_other_missing_file_is_one(self):
        server = self.boot()
        self.recording.object_at(
            'judge', exceptions.MissingImage('a disk is gone')
        )
        after = self.act(server, reboot={'type': 'HARD'})
        self.assertEqual('ACTIVE', after['status'])
        self.assertEqual('isolation: a disk is gone', self.fault(server))
        self.assert_never_ran_again(server)


class HeaderTest(RefusalsTestCase):
    """Nova fetches and creates what the headers of disks name."""

    def setUp(self):
        super().setUp()
        self.server = self.boot()
        self.disk = f'{self.directory(self.server["id"])}/disk'
        self.made = []
        info = {
            'type': 'qcow2',
            'path': self.disk,
            'virt_disk_size': 1 << 30,
        }
        for name, value in (
            (
                '_get_instance_disk_info_from_config',
                lambda *a: [{**info, 'backing_file': self.name}],
            ),
            (
                '_try_fetch_image_cache',
                lambda *a: self.made.append(a[4]),
            ),
            ('_hard_reboot', self._hard_reboot),
        ):
            patched = f'nova.virt.libvirt.driver.LibvirtDriver.{name}'
            self.useFixture(fixtures.MonkeyPatch(patched, value))
        # no record is left: its domain is gone
        domain = self.domain(self.server['id'])
        domain.destroy()
        domain.undefine()
        self.recording.forget()

    @staticmethod
    def _hard_reboot(driver, context, *args, **kwargs):
        # a user's; that of these tests has none, and Nova fetches nothing
        context.auth_token = 'token'
        return hard_reboot(driver, context, *args, **kwargs)

    def reboot_with(self, path):
        """Reboot with a header that names a file of the image cache."""
        self.name = os.path.basename(path)
        with open(self.disk, 'wb') as f:
            f.write(qcow2.header(os.fsencode(path), b'raw'))
        return self.act(self.server, reboot={'type': 'HARD'})

    @property
    def cache(self):
        return f'{CONF.instances_path}/{CONF.image_cache.subdirectory_name}'

    def test_what_is_this_guest_s_is_fetched(self):
        image = images.cache_name(self.server['image']['id'])
        after = self.reboot_with(f'{self.cache}/{image}')
        self.assertEqual([image], self.made)
        self.assertEqual('ACTIVE', after['status'])

    def test_nothing_is_made_for_another_one(self):
        other = images.cache_name('0f3d3f9a-a90e-4ee9-9a2e-6e1b9b2f7b11')
        for path in (
            f'{self.cache}/{other}',
            f'{os.path.dirname(self.disk)}/{other}',
            f'{self.cache}/ephemeral_9_default',
        ):
            after = self.reboot_with(path)
            self.assertEqual('ERROR', after['status'])
            self.assertIn(path, after['fault']['message'])
            reset = {'os-resetState': {'state': 'active'}}
            self.admin_api.post_server_action(self.server['id'], reset)
        self.assertEqual([], self.made)
        self.assert_never_ran_again(self.server)


class RefusedResumeTest(RefusalsTestCase):
    def setUp(self):
        super().setUp()
        self.server = self.boot()
        self.act(self.server, suspend={})
        self.recording.forget()
        self.memory = self.domain(self.server['id'])._saved

    def assert_memory_kept(self):
        after = self.admin_api.get_server(self.server['id'])
        self.assertEqual('SUSPENDED', after['status'])
        domain = self.domain(self.server['id'])
        self.assertEqual('shutoff', domain.state)
        self.assertTrue(domain.hasManagedSaveImage(0))
        self.assertEqual(f'isolation: {REASON}', self.fault(self.server))
        self.assert_never_ran_again(self.server)
        self.assert_notified(self.server, 'resume')

    def assert_resumes(self):
        self.recording.agree()
        after = self.act(self.server, resume={})
        self.assertEqual('ACTIVE', after['status'])
        self.assertEqual('running', self.state(self.server['id']))

    def test_refused_beforehand_keeps_the_saved_memory(self):
        self.refuse('judge')
        self.act(self.server, resume={})
        self.assert_memory_kept()
        self.assertEqual(self.memory, self.domain(self.server['id'])._saved)
        self.assertEqual([('judge', 'shutoff')], self.verbs(self.server))
        self.assert_resumes()

    def test_refused_before_the_restore_keeps_the_saved_memory(self):
        self.refuse('prepare')
        self.act(self.server, resume={})
        self.assert_memory_kept()
        self.assertEqual(self.memory, self.domain(self.server['id'])._saved)
        self.assert_resumes()

    def test_refused_after_the_restore_saves_the_memory_again(self):
        self.refuse('verify')
        self.act(self.server, resume={})
        self.assert_memory_kept()
        self.assertIn(('verify', 'paused'), self.verbs(self.server))
        self.assertIn(('release', 'shutoff'), self.verbs(self.server))
        # and it runs when it is restored, as it did when it was suspended
        self.assertTrue(self.domain(self.server['id'])._saved[1])
        self.assert_resumes()

    def test_a_restore_that_libvirt_refuses_keeps_the_saved_memory(self):
        domain = self.domain(self.server['id'])
        with mock.patch.object(
            domain,
            'createWithFlags',
            side_effect=isolation_fixtures.error('no memory'),
        ):
            after = self.act(self.server, resume={})
        # that is Nova's own affair, and its state
        self.assertEqual('ERROR', after['status'])
        self.assertEqual('libvirtError', after['fault']['message'])
        self.assertIs(domain, self.domain(self.server['id']))
        self.assertEqual(self.memory, domain._saved)
        self.assertEqual([], self.events())

    def test_a_guest_that_cannot_be_saved_again_stays_paused(self):
        self.refuse('verify')
        domain = self.domain(self.server['id'])
        with mock.patch.object(
            domain,
            'managedSave',
            side_effect=isolation_fixtures.error('disk is full'),
        ):
            self.act(self.server, resume={})
        self.assertEqual('paused', domain.state)
        # the one copy of the memory: Nova's cleaning up leaves it defined
        self.assertIs(domain, self.domain(self.server['id']))
        self.assert_never_ran_again(self.server)
        [line] = [
            line
            for line in self.stdlog.logger.output.splitlines()
            if 'CRITICAL' in line
        ]
        for word in (self.server['id'], 'disk is full', 'do not resume it'):
            self.assertIn(word, line)

    def test_what_keeps_the_memory_is_not_in_the_way_of_a_deletion(self):
        self.refuse('verify')
        self.act(self.server, resume={})
        self.recording.forget()
        self.delete(self.server)
        self.assertEqual('absent', self.state(self.server['id']))
        self.assertEqual([('release', 'absent')], self.verbs(self.server))


class RefusedRescueTest(RefusalsTestCase):
    def setUp(self):
        super().setUp()
        self.server = self.boot()
        self.uuid = self.server['id']
        self.before = self._defined()

    def _defined(self):
        xml = self.domain(self.uuid).XMLDesc(2)
        return etree.tostring(etree.fromstring(xml), method='c14n')

    def _rescue(self):
        after = self.act(self.server, rescue={})
        self.assertEqual('ERROR', after['status'])
        self.assertIn(f'isolation: {REASON}', after['fault']['message'])
        self.assert_never_ran_again(self.server)
        self.assert_notified(self.server, 'rescue')
        # the domain and the files are those from before
        self.assertEqual('shutoff', self.state(self.uuid))
        self.assertEqual(self.before, self._defined())
        self.assertEqual(['disk'], self.files(self.uuid))
        self.assert_recovers(self.server)

    def test_rescue_refused_beforehand_changes_nothing(self):
        self.refuse('judge')
        self._rescue()

    def test_rescue_that_may_not_be_defined_is_undone(self):
        self.refuse('define', once=True)
        self._rescue()

    def test_rescue_refused_at_the_start_is_undone(self):
        self.refuse('verify')
        self._rescue()

    def test_unrescue_refused_beforehand_leaves_the_rescue_running(self):
        self.act(self.server, rescue={})
        self.refuse('judge')
        after = self.act(self.server, unrescue=None)
        self.assertEqual('ERROR', after['status'])
        self.assertEqual(f'isolation: {REASON}', after['fault']['message'])
        self.assertEqual('running', self.state(self.uuid))
        self.assertEqual(
            ['disk', 'disk.rescue', 'unrescue.xml'], self.files(self.uuid)
        )
        self.assert_notified(self.server, 'unrescue')
        self.assert_recovers(self.server)

    def test_unrescue_refused_at_the_start_keeps_the_disks(self):
        self.act(self.server, rescue={})
        self.refuse('verify')
        after = self.act(self.server, unrescue=None)
        self.assertEqual('ERROR', after['status'])
        self.assertEqual('shutoff', self.state(self.uuid))
        self.assertEqual(2, self.executions(self.server))
        self.assert_notified(self.server, 'unrescue')
        self.assert_recovers(self.server)
