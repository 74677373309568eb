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

"""All hooks are called in their order; who fails, objects."""

from unittest import mock

from lxml import etree
from oslo_config import cfg
from oslo_config import fixture as config_fixture
from oslotest import base
import stevedore

from nova_isolation.conf import isolation as options
from nova_isolation import exceptions
from nova_isolation.hooks import apparmor
from nova_isolation.hooks import base as hooks_base
from nova_isolation.hooks import manager

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'


class Hook(hooks_base.Hook):
    """Writes down what it is called for."""

    def __init__(self, name, calls, errors=None):
        self.name = name
        self.calls = calls
        self.errors = errors or {}

    def _note(self, verb):
        self.calls.append((self.name, verb))
        if verb in self.errors:
            raise self.errors[verb]

    def check_host(self, host):
        self._note('check_host')

    def define(self, xml):
        self._note('define')

    def undefine(self, xml):
        self._note('undefine')

    def judge(self, guest):
        self._note('judge')

    def prepare(self, guest):
        self._note('prepare')

    def widen(self, guest):
        self._note('widen')

    def narrow(self, guest):
        self._note('narrow')

    def verify(self, guest):
        self._note('verify')

    def release(self, uuid):
        self._note('release')


class Silent(hooks_base.Hook):
    """Has nothing to say to most verbs."""

    def check_host(self, host):
        pass


class ManagerTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.conf = cfg.ConfigOpts()
        self.conf([])
        options.register_opts(self.conf)
        self.calls = []

    def manager(self, *hooks):
        with mock.patch.object(stevedore, 'NamedExtensionManager') as loaded:
            loaded.return_value = [mock.Mock(obj=hook) for hook in hooks]
            return manager.HookManager(self.conf)


class LoadTest(ManagerTestCase):
    def _load(self, *names):
        # undone at the end: the group's options are shared by all ConfigOpts
        config = self.useFixture(config_fixture.Config(self.conf))
        config.config(hooks=list(names), group='isolation')
        return manager.HookManager(self.conf)

    def assert_refused(self, *names):
        return self.assertRaises(
            exceptions.ConfigurationError, self._load, *names
        ).message

    def test_the_default_is_apparmor(self):
        [hook] = manager.HookManager(self.conf)._hooks
        self.assertIsInstance(hook, apparmor.AppArmorHook)
        self.assertIs(self.conf, hook.conf)

    def test_a_hook_that_does_not_exist(self):
        message = self.assert_refused('apparmor', 'apparmour')
        self.assertIn('[isolation] hooks = apparmor,apparmour', message)
        self.assertIn('no such hook: apparmour; there are: apparmor', message)

    def test_a_hook_that_cannot_be_loaded(self):
        with mock.patch.object(
            apparmor.AppArmorHook, '__init__', side_effect=ValueError('broken')
        ):
            message = self.assert_refused('apparmor')
        self.assertIn('cannot be loaded: broken', message)

    def test_no_hook_would_confine_nobody(self):
        self.assertIn('hooks is empty', self.assert_refused())

    def test_a_hook_has_to_look_at_the_host(self):
        class Lazy(hooks_base.Hook):
            pass

        self.assertRaises(TypeError, Lazy, self.conf)


class CallTest(ManagerTestCase):
    VERBS = ('define', 'judge', 'prepare', 'widen', 'narrow', 'verify')

    def test_each_verb_in_the_order_of_the_option(self):
        hooks = self.manager(Hook('a', self.calls), Hook('b', self.calls))
        for verb in ('check_host', *self.VERBS):
            self.calls.clear()
            getattr(hooks, verb)(mock.sentinel.argument)
            self.assertEqual([('a', verb), ('b', verb)], self.calls)

    def test_a_hook_may_have_nothing_to_say(self):
        hooks = self.manager(Silent(self.conf), Hook('b', self.calls))
        for verb in self.VERBS:
            getattr(hooks, verb)(etree.Element('domain'))
        self.assertEqual([('b', verb) for verb in self.VERBS], self.calls)
        self.assertEqual([], hooks.release(UUID))

    def test_an_objection_is_heard_and_nobody_else_asked(self):
        for verb in ('check_host', *self.VERBS, 'undefine'):
            self.calls.clear()
            objection = exceptions.Refusal('no')
            hooks = self.manager(
                Hook('a', self.calls, {verb: objection}),
                Hook('b', self.calls, {verb: objection}),
            )
            error = self.assertRaises(
                exceptions.Refusal, getattr(hooks, verb), None
            )
            self.assertIs(objection, error)
            self.assertEqual(1, len(self.calls))

    def test_a_hook_that_fails_objects(self):
        for verb in self.VERBS:
            hooks = self.manager(
                Hook('a', self.calls, {verb: KeyError('bug')}),
                Hook('b', self.calls),
            )
            self.calls.clear()
            error = self.assertRaises(
                exceptions.Refusal, getattr(hooks, verb), None
            )
            for word in (verb, 'Hook', 'KeyError', 'bug'):
                self.assertIn(word, error.message)
            self.assertEqual([('a', verb)], self.calls)

    def test_what_is_to_be_reported_comes_from_all_of_them(self):
        class Telling(Silent):
            def verify(self, guest):
                return ('one', 'two')

            wait_closed = verify

        told = [Telling(self.conf), Silent(self.conf), Telling(self.conf)]
        hooks = self.manager(*told, Hook('says None', self.calls))
        for verb in (hooks.verify, hooks.wait_closed):
            self.assertEqual(('one', 'two') * 2, verb(None))

    def test_a_hook_that_cannot_look_at_the_host_is_a_fault_of_the_host(self):
        hooks = self.manager(
            Hook('a', self.calls, {'check_host': KeyError('bug')})
        )
        self.assertRaises(exceptions.HostFault, hooks.check_host, None)

    def test_what_is_taken_back_is_taken_back_in_reverse(self):
        hooks = self.manager(Hook('a', self.calls), Hook('b', self.calls))
        hooks.release(UUID)
        self.assertEqual([('b', 'release'), ('a', 'release')], self.calls)

    def test_release_goes_on_after_an_error(self):
        error = exceptions.ProfileInUse('held')
        bug = KeyError('bug')
        hooks = self.manager(
            Hook('a', self.calls),
            Hook('b', self.calls, {'release': error}),
            Hook('c', self.calls, {'release': bug}),
        )
        self.assertEqual([bug, error], hooks.release(UUID))
        self.assertEqual([(name, 'release') for name in 'cba'], self.calls)
