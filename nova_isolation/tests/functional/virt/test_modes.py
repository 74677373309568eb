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

"""The modes, and what stops nova-compute at its start."""

import types
from unittest import mock

import fixtures
import nova.conf
from nova.virt.libvirt import driver as libvirt_driver
from nova.virt.libvirt import guest as libvirt_guest
from nova.virt.libvirt import host as libvirt_host

from nova_isolation.tests.functional.virt import base

CONF = nova.conf.CONF


class DriverTest(base.IsolationTestCase):
    def test_nova_loads_the_driver_through_os_vif(self):
        self.start_compute()
        driver = self.computes['compute1'].driver
        self.assertEqual('nova_isolation.virt.driver', type(driver).__module__)
        self.assertIsInstance(driver, libvirt_driver.LibvirtDriver)
        import nova.virt.isolation

        self.assertIs(type(driver), nova.virt.isolation.LibvirtDriver)
        self.assertIn('isolation: mode is enforce', self.stdlog.logger.output)


class OffTest(base.IsolationTestCase):
    isolation = types.MappingProxyType({'mode': 'off'})

    def setUp(self):
        super().setUp()
        # a hook that was asked would object
        for verb in ('check_host', 'judge', 'prepare', 'narrow', 'verify'):
            self.recording.object_at(verb, AssertionError(verb))
        self.start_compute()

    def test_guests_are_as_without_us(self):
        # also where libvirtd has no security driver
        self.connections[0].security_models.clear()
        server = self._create_server(networks='none')
        xml = self.domain(server['id']).XMLDesc(0)
        self.assertNotIn('seclabel', xml)
        self.assertEqual([('release', 'shutoff')], self.verbs(server))
        self.assertEqual(1, self.executions(server))
        self.act(server, pause={})
        self.act(server, unpause={})
        self.act(server, rescue={})
        self.act(server, unrescue=None)
        after = self.act(server, reboot={'type': 'HARD'})
        self.assertEqual('ACTIVE', after['status'])
        self.assertEqual({'release'}, {verb for verb, _ in self.verbs(server)})
        self.delete(server)

    def test_what_is_refused_else_is_nova_s_affair(self):
        server = self.boot()
        self.act(server, createImage={'name': 'copy'})
        self.assertEqual([], self.events())


class SwitchedOffTest(base.IsolationTestCase):
    """Guests that were started confined, isolation being off now."""

    def setUp(self):
        super().setUp()
        self.start_compute()
        self.server = self.boot()
        self.uuid = self.server['id']

    def switch_off(self):
        self.flags(mode='off', group='isolation')
        self.restart_compute_service('compute1')
        self.recording.forget()

    def test_our_label_and_profile_go_at_a_soft_reboot_and_not_before(self):
        before = self.domain(self.uuid).XMLDesc(0)
        self.switch_off()
        self.assertEqual(before, self.domain(self.uuid).XMLDesc(0))
        self.assertEqual([], self.recording.calls)
        self.assertEqual('running', self.state(self.uuid))
        self.act(self.server, reboot={'type': 'SOFT'})
        self.assertEqual(
            [('undefine', 'shutoff'), ('release', 'shutoff')],
            self.verbs(self.server),
        )
        self.assertNotIn('seclabel', self.domain(self.uuid).XMLDesc(0))
        self.assertEqual('running', self.state(self.uuid))

    def test_our_label_and_profile_go_at_a_hard_reboot(self):
        self.switch_off()
        self.act(self.server, reboot={'type': 'HARD'})
        self.assertIn(('release', 'shutoff'), self.verbs(self.server))
        self.assertNotIn('seclabel', self.domain(self.uuid).XMLDesc(0))
        self.assertEqual('running', self.state(self.uuid))

    def test_a_suspended_guest_resumes_with_its_memory(self):
        self.act(self.server, suspend={})
        self.switch_off()
        after = self.act(self.server, resume={})
        self.assertEqual('ACTIVE', after['status'])
        self.assertEqual('running', self.state(self.uuid))
        self.assertIn(('release', 'shutoff'), self.verbs(self.server))

    def test_a_guest_started_without_us_is_confined_at_its_next_start(self):
        self.switch_off()
        self.act(self.server, reboot={'type': 'HARD'})
        self.flags(mode='enforce', group='isolation')
        self.restart_compute_service('compute1')
        self.assertEqual('running', self.state(self.uuid))
        self.recording.forget()
        self.act(self.server, reboot={'type': 'HARD'})
        self.assertIn(('verify', 'paused'), self.verbs(self.server))
        self.assertIn('seclabel', self.domain(self.uuid).XMLDesc(0))


class WrongConfigurationTest(base.IsolationTestCase):
    def configure(self, text):
        """Let nova.conf say something that set_override() would refuse."""
        path = self.useFixture(fixtures.TempDir()).join('nova.conf')
        with open(path, 'w') as f:
            f.write(text)
        CONF(['--config-file', path], project='nova', default_config_dirs=[])
        for name in ('mode', 'security_model', 'hooks'):
            if f'{name} =' in text:
                CONF.clear_override(name, group='isolation')

    def assert_not_started(self, *words):
        error = self.assertRaises(SystemExit, self.start_compute)
        self.assertEqual(1, error.code)
        output = self.stdlog.logger.output
        [line] = [line for line in output.splitlines() if 'CRITICAL' in line]
        for word in words:
            self.assertIn(word, line)
        self.assertNotIn('Traceback', output)

    def test_a_wrong_mode(self):
        self.configure('[isolation]\nmode = enforcing\n')
        self.assert_not_started(
            '[isolation] mode', "'enforcing'", 'enforce, complain, off'
        )

    def test_a_limit_that_is_no_number(self):
        self.configure('[isolation]\nparser_timeout = 0\n')
        self.assert_not_started('[isolation] parser_timeout', '0', '1')

    def test_a_path_that_is_not_absolute(self):
        for text, words in (
            ('apparmor_parser = apparmor_parser', 'apparmor_parser'),
            ('shared_paths = /srv/iso, srv/keys', 'shared_paths'),
        ):
            self.configure(f'[isolation]\n{text}\n')
            self.assert_not_started(
                f'[isolation] {words}', 'is not an absolute path'
            )
            self.stdlog.logger.reset_output()

    def test_nothing_that_makes_profiles(self):
        # said, and not refused: another hook may do it
        self.start_compute()
        self.assertIn(
            '[isolation] hooks = recorder: without apparmor nothing makes',
            self.stdlog.logger.output,
        )

    def test_an_unknown_hook(self):
        self.flags(hooks=['recorder', 'apparmour'], group='isolation')
        self.assert_not_started(
            '[isolation] hooks = recorder,apparmour',
            'no such hook: apparmour;',
            'there are: apparmor, ',
        )

    def test_no_hook_at_all(self):
        self.flags(hooks=[], group='isolation')
        self.assert_not_started('[isolation] hooks is empty', 'apparmor')

    def test_selinux(self):
        self.flags(security_model='selinux', group='isolation')
        self.assert_not_started(
            '[isolation] security_model = selinux', 'auto or apparmor'
        )

    def test_a_nova_that_starts_guests_in_another_way(self):
        def launch(self, flags, pause=False):
            raise AssertionError('nobody starts a guest here')

        with mock.patch.object(libvirt_guest.Guest, 'launch', launch):
            self.assert_not_started(
                'compute_driver = isolation.LibvirtDriver',
                'nova.virt.libvirt.guest.Guest.launch takes flags, pause',
            )

    def test_a_nova_without_a_method_that_is_relied_on(self):
        with mock.patch.object(
            libvirt_host.Host, 'write_instance_config', None
        ):
            self.assert_not_started(
                'nova.virt.libvirt.host.Host.write_instance_config is not '
                'there'
            )
