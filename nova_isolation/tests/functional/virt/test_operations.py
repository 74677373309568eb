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


"""Each operation calls the hooks as their contract says."""

from nova_isolation import images
from nova_isolation.tests.functional.virt import base

START = [('prepare', 'shutoff'), ('narrow', 'paused'), ('verify', 'paused')]
#: a start that Nova makes of nothing, what was there being torn down before
REBUILT = [('release', 'absent'), ('define', 'absent'), *START]


class OperationsTest(base.IsolationTestCase):
    def setUp(self):
        super().setUp()
        self.start_compute()

    def assert_running(self, server, executions):
        self.assertEqual('running', self.state(server['id']))
        self.assertEqual(executions, self.executions(server))

    def test_the_vcpus_of_a_new_server_run_only_after_all_verbs(self):
        server = self._create_server(networks='auto')
        self.assertEqual([('define', 'absent'), *START], self.verbs(server))
        self.assert_running(server, 1)
        # and libvirt itself is asked to confine it
        self.assertIn(
            '<seclabel type="dynamic" model="apparmor" relabel="yes"',
            self.domain(server['id']).XMLDesc(0),
        )

    def test_who_starts_a_guest_ends_it_and_nobody_else(self):
        # what it keeps of devices is asked when one has gone
        self.recording.kept = ('/dev/mapper/x',)
        self.assert_running(self._create_server(networks='none'), 1)

    def test_of_a_guest_that_has_run_the_hooks_learn_that_it_does_not(self):
        # its terminal may be the next one's
        server = self.boot()
        self.act(server, **{'os-stop': None})
        self.recording.learned.clear()
        self.boot()
        self.assertIsNone(self.recording.learned[server['id']].id)

    def test_a_start_learns_of_guests_that_changed_and_of_no_others(self):
        first, second = self.boot(), self.boot()
        self.boot()
        self.recording.learned.clear()
        third = self.boot()
        self.assertNotIn(first['id'], self.recording.learned)
        self.assertNotIn(second['id'], self.recording.learned)
        self.assertIn(third['id'], self.recording.learned)

    def test_a_hook_is_told_what_nova_and_libvirt_know_at_that_moment(self):
        server = self._create_server(name='web', networks='none')
        directory = self.directory(server['id'])
        # the image of a guest's domain is its own, whatever Nova says later
        isolation = self.computes['compute1'].driver._isolation
        self.assertIn(
            images.cache_name(server['image']['id']),
            isolation.recorded(self.domain(server['id']).XMLDesc(0)),
        )
        for guest in self.recording.guests:
            self.assertEqual('web', guest.domain.instance.name)
            self.assertEqual('m1.tiny', guest.domain.instance.flavor)
            self.assertEqual((), guest.domain.unknown)
            self.assertEqual(directory, guest.directories.instance)
            self.assertEqual(
                [f'{directory}/disk'], [d.path for d in guest.domain.disks]
            )
        before, narrowed, verified = [
            guest.domain for guest in self.recording.guests
        ]
        self.assertIsNone(before.id)
        self.assertEqual([None], [c.path for c in before.consoles])
        self.assertEqual(1, narrowed.id)
        self.assertEqual(['/dev/pts/1'], [c.path for c in narrowed.consoles])
        self.assertEqual(narrowed, verified)

    def test_delete_releases_after_the_domain_is_gone(self):
        server = self.boot()
        self.delete(server)
        self.assertEqual([('release', 'absent')], self.verbs(server))
        self.assertIsNone(self.files(server['id']))

    def test_a_domain_that_is_undefined_is_released(self):
        # on the ways out that are no deletion of the instance
        server = self.boot()
        self.domain(server['id']).destroy()
        host = self.computes['compute1'].driver._host
        [guest] = host.list_guests(only_running=False)
        guest.delete_configuration()
        self.assertEqual([('release', 'absent')], self.verbs(server))

    def test_delete_of_a_suspended_server_leaves_no_saved_memory(self):
        server = self.boot()
        self.act(server, suspend={})
        self.delete(server)
        self.assertEqual([('release', 'absent')], self.verbs(server))

    def test_hard_reboot_is_judged_while_the_guest_still_runs(self):
        server = self.boot()
        server = self.act(server, reboot={'type': 'HARD'})
        self.assertEqual('ACTIVE', server['status'])
        # and again when it can no longer write to its disks
        self.assertEqual(
            [('judge', 'running'), ('judge', 'shutoff'), *REBUILT],
            self.verbs(server),
        )
        self.assert_running(server, 2)

    def test_soft_reboot_starts_what_is_defined(self):
        server = self.boot()
        server = self.act(server, reboot={'type': 'SOFT'})
        self.assertEqual('ACTIVE', server['status'])
        self.assertEqual([('judge', 'running'), *START], self.verbs(server))
        self.assert_running(server, 2)

    def test_stop_needs_no_hook_and_start_is_a_start(self):
        server = self.boot()
        server = self.act(server, **{'os-stop': None})
        self.assertEqual('SHUTOFF', server['status'])
        self.assertEqual([], self.verbs(server))
        server = self.act(server, **{'os-start': None})
        self.assertEqual('ACTIVE', server['status'])
        self.assertEqual([('judge', 'shutoff'), *REBUILT], self.verbs(server))
        self.assert_running(server, 2)

    def test_pause_needs_no_hook_and_unpause_proves_the_guest_again(self):
        server = self.boot()
        self.act(server, pause={})
        self.assertEqual('paused', self.state(server['id']))
        self.assertEqual([], self.verbs(server))
        self.act(server, unpause={})
        self.assert_running(server, 2)
        self.assertEqual(
            [('narrow', 'paused'), ('verify', 'paused')], self.verbs(server)
        )

    def test_what_is_let_pass_is_told_once_for_each_start(self):
        self.recording.reported = ('the virtiofsd runs', 'another one')
        server = self.boot()
        [event] = self.events()
        self.assertEqual('isolation.finding', event.event_type)
        self.assertEqual('warn', event.priority)
        self.assertEqual('helper unconfined', event.payload['kind'])
        self.assertEqual(
            'the virtiofsd runs; another one', event.payload['reason']
        )
        self.assertFalse(event.payload['attack'])
        self.assertEqual(server['id'], event.payload['instance']['uuid'])
        self.assertEqual(server['name'], event.payload['instance']['name'])
        self.assertIn('the virtiofsd runs; an', self.stdlog.logger.output)
        self.act(server, pause={})
        self.act(server, unpause={})
        self.assertEqual(1, len(self.events()))
        self.act(server, reboot={'type': 'SOFT'})
        self.assertEqual(2, len(self.events()))

    def test_suspend_needs_no_hook_and_resume_restores_a_paused_guest(self):
        server = self.boot()
        server = self.act(server, suspend={})
        self.assertEqual('SUSPENDED', server['status'])
        self.assertEqual([], self.verbs(server))
        server = self.act(server, resume={})
        self.assertEqual('ACTIVE', server['status'])
        self.assertEqual(
            [('judge', 'shutoff'), ('define', 'shutoff'), *START],
            self.verbs(server),
        )
        self.assertFalse(self.domain(server['id']).hasManagedSaveImage(0))
        self.assert_running(server, 2)

    def test_resume_is_judged_by_what_libvirt_will_restore(self):
        server = self.boot()
        self.act(server, suspend={})
        domain = self.domain(server['id'])
        xml, running = domain._saved
        domain._saved = (xml.replace('/disk"', '/other"'), running)
        self.act(server, resume={})
        self.assertEqual(
            {f'{self.directory(server["id"])}/other'},
            {g.domain.disks[0].path for g in self.recording.guests},
        )

    def test_rescue_and_unrescue_are_starts(self):
        server = self.boot()
        uuid = server['id']
        server = self.act(server, rescue={})
        self.assertEqual('RESCUE', server['status'])
        self.assertEqual(
            [('judge', 'shutoff'), ('define', 'shutoff'), *START],
            self.verbs(server),
        )
        self.assertEqual(
            {
                f'{self.directory(uuid)}/{name}'
                for name in ('disk', 'disk.rescue')
            },
            {d.path for d in self.recording.guests[-1].domain.disks},
        )
        self.recording.forget()
        server = self.act(server, unrescue=None)
        self.assertEqual('ACTIVE', server['status'])
        self.assertEqual(
            [('judge', 'running'), ('define', 'shutoff'), *START],
            self.verbs(server),
        )
        self.assertEqual(['disk'], self.files(uuid))
        # judged, too, is what will start, and not the rescue
        for guest in self.recording.guests:
            self.assertEqual(
                [f'{self.directory(uuid)}/disk'],
                [d.path for d in guest.domain.disks],
            )
        self.assert_running(server, 3)

    def test_a_start_that_shall_stay_paused_stays_paused(self):
        # as Nova starts a guest whose ports are not plugged yet
        server = self.boot()
        domain = self.domain(server['id'])
        domain.destroy()
        host = self.computes['compute1'].driver._host
        [guest] = host.list_guests(only_running=False)
        guest.launch(pause=True)
        self.assertEqual(START, self.verbs(server))
        self.assertEqual('paused', domain.state)
        self.assertEqual(1, self.executions(server))
