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

"""The AppArmor hook makes the profile of a guest, and proves it.

The privileged calls run in this process, on a directory of the test's, with
the real parser. What the kernel and libvirtd would show is given as they show
it; that they do is tested in the lab.
"""

import dataclasses
import hashlib
import os
import pathlib
from unittest import mock

import fixtures
from lxml import etree
from oslo_config import cfg
from oslo_config import fixture as config_fixture
from oslotest import base

from nova_isolation.apparmor import abi
from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import parser
from nova_isolation.apparmor import policy
from nova_isolation import chains
from nova_isolation.conf import isolation as options
from nova_isolation import domain
from nova_isolation.domain.characters import Character
from nova_isolation.domain.devices import Filesystem
from nova_isolation.domain.disks import BlockSource
from nova_isolation.domain.disks import Disk
from nova_isolation.domain.disks import Layer
from nova_isolation import exceptions
from nova_isolation.hooks import apparmor
from nova_isolation.hooks import base as hooks_base
from nova_isolation import images
from nova_isolation import neighbours
from nova_isolation import privileged
from nova_isolation import processes
from nova_isolation.tests.unit.apparmor import compiled
from nova_isolation.tests.unit import samples

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
OTHER = '8887d9d3-17f8-4388-8771-fab6312518d6'
PROFILE = f'libvirt-{UUID}'
BASE = '407f778cec1c0f3f6b62f8e45bc3da5a26fb89ce'
INSTANCES = '/var/lib/nova/instances'
PARSER = parser.Parser('/usr/sbin/apparmor_parser', 30)
#: as the hook is configured
PARSER_OF_HOOK = parser.Parser('/usr/sbin/apparmor_parser', 10)
PID = 4711
CAPABILITIES = """
<capabilities><host>
  <secmodel><model>{model}</model><doi>0</doi></secmodel>
  <secmodel><model>dac</model><doi>0</doi></secmodel>
</host></capabilities>
"""


class CompiledJudge:
    """Answers by what the real parser compiled, as the kernel would."""

    def __init__(self, profiles):
        self.profiles = profiles

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def file(self, profile, path):
        try:
            compiled_profile = PARSER.compile(str(self.profiles / profile))
        except exceptions.ProfileRejected:
            return ''
        access = compiled.Files(compiled_profile).access(path)
        return ''.join(letter for letter in 'rwx' if letter in access)


class AppArmorTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        privileged.context.set_client_mode(False)
        self.addCleanup(privileged.context.set_client_mode, True)
        top = pathlib.Path(
            os.path.realpath(self.useFixture(fixtures.TempDir()).path)
        )
        self.profiles = top / 'apparmor.d'
        self.instances = top / 'instances'
        self.held = top / 'kernel'
        for directory in (
            self.profiles,
            self.held,
            self.instances / UUID,
            self.instances / '_base',
        ):
            directory.mkdir(parents=True)
        self.directories = images.Directories(
            str(self.instances / UUID), str(self.instances / '_base')
        )
        self.disk = self.instances / UUID / 'disk'
        self.disk.write_bytes(samples.image('on-raw'))
        (self.instances / UUID / 'base').write_bytes(b'')
        (self.instances / UUID / 'disk.config').write_bytes(b'')
        self.config = self.useFixture(config_fixture.Config(cfg.CONF))
        options.register_opts(cfg.CONF)
        self.config.config(
            profile_directory=str(self.profiles), group='isolation'
        )
        self.hook = apparmor.AppArmorHook(cfg.CONF)
        self.loaded = []
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.privileged._load',
                lambda made: self.loaded.append(made.compiled),
            )
        )
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.apparmor.kernel.Judge',
                lambda: CompiledJudge(self.profiles),
            )
        )
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.apparmor.kernel._PROFILES', str(self.held)
            )
        )

    def xml(self, name):
        """One of the samples, its files in the test's directory."""
        text = samples.domain(name).replace(INSTANCES, str(self.instances))
        # the sample of the image names another one than that of the domain
        return text.replace(f'_base/{BASE}', f'{UUID}/base')

    def guest(self, name):
        return hooks_base.Guest(domain.parse(self.xml(name)), self.directories)

    def stated(self, name):
        """The same with its backing chains, as Nova defines it."""
        root = etree.fromstring(self.xml(name))
        chains.state(root, self.directories)
        text = etree.tostring(root, encoding='unicode')
        return hooks_base.Guest(domain.parse(text), self.directories)

    def written(self):
        """What stands in the directory of profiles, of guests."""
        return [p for p in self.profiles.iterdir() if p.name != abi.NAME]

    @property
    def starting(self):
        return self.stated('libvirt-11.3-defined')

    @property
    def running(self):
        return self.guest('libvirt-11.3-running')

    @property
    def path(self):
        return self.profiles / PROFILE

    def access(self, path):
        """What the profile that stands there grants on a path."""
        policy = parser.Parser('/usr/sbin/apparmor_parser', 30).compile(
            str(self.path)
        )
        return compiled.Files(policy).access(str(path))


class DefineTest(AppArmorTestCase):
    def setUp(self):
        super().setUp()
        self.xml = etree.fromstring(
            '<domain><name>x</name>'
            '<seclabel type="static" model="apparmor"/>'
            '<seclabel type="dynamic" model="dac" relabel="yes"/></domain>'
        )

    def _labels(self):
        return [dict(label.attrib) for label in self.xml.findall('seclabel')]

    def test_libvirt_is_to_confine_the_guest_or_not_to_start_it(self):
        for _ in range(2):
            self.hook.define(self.xml)
            self.assertEqual(
                [
                    {'type': 'dynamic', 'model': 'dac', 'relabel': 'yes'},
                    {'type': 'dynamic', 'model': 'apparmor', 'relabel': 'yes'},
                ],
                self._labels(),
            )

    def test_switched_off_libvirt_decides_as_without_us(self):
        self.hook.define(self.xml)
        self.hook.undefine(self.xml)
        self.assertEqual(
            [{'type': 'dynamic', 'model': 'dac', 'relabel': 'yes'}],
            self._labels(),
        )


class PolicyTest(AppArmorTestCase):
    def test_the_disks_with_their_backing_files(self):
        found = self.hook.policy(self.starting)
        self.assertEqual(
            {
                (str(self.disk), 'rwk', '<disk> vda'),
                (
                    str(self.instances / UUID / 'base'),
                    'rk',
                    '<disk> vda, backing file',
                ),
                (
                    str(self.instances / UUID / 'disk.config'),
                    'rk',
                    '<disk> hda',
                ),
            },
            {(f.path, f.access, f.origin) for f in found.files},
        )
        self.assertFalse(found.complain)

    def test_in_complain_mode_it_complains(self):
        self.config.config(mode='complain', group='isolation')
        self.assertTrue(self.hook.policy(self.starting).complain)

    def _with_unknown(self):
        return hooks_base.Guest(
            dataclasses.replace(
                self.starting.domain, unknown=('<disk> vda <new>',)
            ),
            self.directories,
        )

    def test_what_is_unknown_is_refused_by_name(self):
        error = self.assertRaises(
            exceptions.NotCovered, self.hook.prepare, self._with_unknown()
        )
        self.assertIn('unknown: <disk> vda <new>', error.message)
        self.assertEqual([], list(self.profiles.iterdir()))

    def test_what_is_unknown_may_be_reported_and_gets_nothing(self):
        self.config.config(unknown_device='report', group='isolation')
        log = self.useFixture(fixtures.FakeLogger())
        self.hook.prepare(self._with_unknown())
        self.assertIn('<disk> vda <new>', log.output)
        self.assertEqual(
            self.hook.policy(self.starting),
            self.hook.policy(self._with_unknown()),
        )

    def test_a_running_guest_has_no_word_in_what_it_is_granted(self):
        # else it would keep a right by what it writes into its header
        before = self.hook.policy(self.running)
        self.disk.write_bytes(samples.image('on-json'))
        self.assertEqual(before, self.hook.policy(self.running))

    def test_a_link_in_a_disk_s_place_is_not_followed(self):
        # a running guest may be let write where its disk is
        running = self.guest('libvirt-11.3-running')
        before = self.hook.policy(running)
        self.disk.unlink()
        self.disk.symlink_to(self.instances / OTHER / 'disk')
        self.assertEqual(before, self.hook.policy(running))

    def test_a_console_s_file_is_granted_in_the_instance_s_directory(self):
        inside = str(self.instances / UUID / 'console.log')
        for path, granted in ((inside, True), ('/etc/shadow', False)):
            console = Character('serial', 'file', path)
            guest = hooks_base.Guest(
                dataclasses.replace(
                    self.starting.domain, characters=(console,)
                ),
                self.directories,
            )
            if granted:
                found = self.hook.policy(guest).files
                self.assertIn(
                    (path, 'rw'), [(f.path, f.access) for f in found]
                )
            else:
                self.assertRaises(
                    exceptions.UntrustedImage, self.hook.policy, guest
                )

    def test_a_chain_that_may_not_be_followed_is_refused(self):
        starting = self.starting
        self.disk.write_bytes(samples.image('on-json'))
        for verb in (self.hook.judge, self.hook.prepare, self.hook.narrow):
            self.assertRaises(exceptions.DeceivingImage, verb, starting)
        self.assertEqual([], self.written())


class StartTest(AppArmorTestCase):
    def test_without_a_stated_chain_libvirt_would_read_the_header(self):
        guest = self.guest('libvirt-11.3-defined')
        self.hook.judge(guest)
        error = self.assertRaises(
            exceptions.UntrustedImage, self.hook.prepare, guest
        )
        self.assertIn('does not state the backing chain', error.message)
        self.assertEqual([], self.written())

    def test_nor_may_it_read_that_of_the_last_layer(self):
        root = etree.fromstring(self.xml('libvirt-11.3-defined'))
        chains.state(root, self.directories)
        for last in root.xpath('//backingStore[not(*)]'):
            last.getparent().remove(last)
        text = etree.tostring(root, encoding='unicode')
        guest = hooks_base.Guest(domain.parse(text), self.directories)
        error = self.assertRaises(
            exceptions.UntrustedImage, self.hook.prepare, guest
        )
        self.assertIn('does not state the backing chain', error.message)

    def test_a_header_that_changed_since_is_an_attack(self):
        guest = self.starting
        self.disk.write_bytes(samples.image('plain'))
        self.assertRaises(exceptions.DeceivingImage, self.hook.prepare, guest)
        self.assertEqual([], self.written())

    def test_a_disk_that_vanishes_meanwhile(self):
        starting, running = self.starting, self.running
        self.hook.judge(starting)
        kept = self.disk.rename(self.disk.with_name('kept'))
        self.assertRaises(exceptions.MissingImage, self.hook.prepare, starting)
        self.assertEqual([], self.written())
        kept.rename(self.disk)
        self.hook.prepare(starting)
        # QEMU has it open by now
        self.disk.unlink()
        self.hook.narrow(running)
        self.assertEqual('wrk', self.access(self.disk))

    def test_a_helper_that_nothing_will_confine_is_foreseen(self):
        share = Filesystem('mount', 'virtiofs', 'a', '/srv')
        domain = dataclasses.replace(
            self.starting.domain, filesystems=(share,)
        )
        start = hooks_base.Guest(domain, self.directories)
        self.config.config(unix_connections='allow', group='isolation')
        for verb in (self.hook.judge, self.hook.prepare):
            error = self.assertRaises(exceptions.NotConfined, verb, start)
            self.assertIn('<filesystem> a', error.message)
        self.assertFalse(self.path.exists())
        for option, value in (
            ('unconfined_helpers', 'report'),
            ('mode', 'complain'),
        ):
            before = self.hook.conf.isolation[option]
            self.config.config(**{option: value}, group='isolation')
            self.hook.judge(start)
            self.hook.prepare(start)
            self.config.config(**{option: before}, group='isolation')

    def test_a_judgement_changes_nothing(self):
        self.hook.judge(self.starting)
        self.assertEqual([], self.written())
        self.path.write_text('# mine\n')
        self.assertRaises(
            exceptions.ForeignProfile, self.hook.judge, self.starting
        )

    def test_before_the_start_the_profile_stands_there(self):
        self.hook.prepare(self.starting)
        self.assertEqual([self.path], self.written())
        self.assertEqual('wrk', self.access(self.disk))
        self.assertEqual('rk', self.access(self.disk.parent / 'base'))
        self.assertEqual('rk', self.access(self.disk.parent / 'disk.config'))
        self.assertEqual('', self.access(self.instances / '_base' / 'x'))
        self.assertEqual('wr', self.access('/dev/pts/5'))

    def test_after_the_start_it_is_narrowed_and_loaded(self):
        self.hook.prepare(self.starting)
        self.assertEqual([], self.loaded)
        self.hook.narrow(self.running)
        self.assertEqual([PARSER.compile(str(self.path))], self.loaded)
        self.assertEqual('wr', self.access('/dev/pts/0'))
        self.assertEqual('', self.access('/dev/pts/5'))
        self.assertEqual('wrk', self.access(self.disk))


class DevicesTest(AppArmorTestCase):
    """What comes to a running guest, and goes."""

    def setUp(self):
        super().setUp()
        self.added = self.instances / UUID / 'added'
        self.added.write_bytes(b'')

    def with_device(self, device):
        root = etree.fromstring(self.xml('libvirt-11.3-running'))
        root.find('devices').append(etree.fromstring(device))
        text = etree.tostring(root, encoding='unicode')
        return hooks_base.Guest(domain.parse(text), self.directories)

    @property
    def wider(self):
        return self.with_device(
            "<disk type='file'><driver name='qemu' type='raw'/>"
            f"<source file='{self.added}'/><target dev='vdx' bus='virtio'/>"
            '</disk>'
        )

    def test_the_right_is_in_the_file_and_in_the_kernel_and_no_more(self):
        self.hook.narrow(self.running)
        before = self.path.read_text().splitlines()
        self.hook.widen(self.wider)
        self.assertEqual(2, len(self.loaded))
        self.assertEqual(PARSER.compile(str(self.path)), self.loaded[-1])
        self.assertEqual('wrk', self.access(self.added))
        self.assertEqual('wrk', self.access(self.disk))
        self.assertEqual('', self.access('/dev/pts/5'))
        after = self.path.read_text().splitlines()
        self.assertEqual(set(), set(before) - set(after))
        self.assertEqual(
            {'  # <disk> vdx', f'  "{self.added}" rwk,'},
            set(after) - set(before),
        )

    def test_a_device_that_is_gone_leaves_nothing(self):
        self.hook.narrow(self.running)
        before = self.path.read_text()
        self.hook.widen(self.wider)
        self.hook.narrow(self.running)
        self.assertEqual(before, self.path.read_text())

    def test_what_another_guest_has_is_refused_and_nothing_changes(self):
        self.hook.narrow(self.running)
        before = self.path.read_text()
        (self.instances / OTHER).mkdir()
        os.link(self.added, self.instances / OTHER / 'disk')
        text = self.xml('libvirt-11.3-running').replace(UUID, OTHER)
        self.hook.learn(domain.parse(text))
        error = self.assertRaises(
            exceptions.NotSeparate, self.hook.widen, self.wider
        )
        self.assertIn(str(self.added), error.message)
        self.assertEqual(before, self.path.read_text())

    def test_it_is_compared_in_the_other_direction_too(self):
        self.hook.widen(self.wider)
        known = self.hook._register.others(OTHER)
        self.assertIn(
            str(self.added), [r.path for _, all in known for r in all]
        )

    def test_a_profile_that_serves_a_lost_device_exceeds(self):
        self.hook.widen(self.wider)
        self.assertFalse(self.hook.exceeds(self.wider))
        self.assertTrue(self.hook.exceeds(self.running))
        self.hook.narrow(self.running)
        self.assertFalse(self.hook.exceeds(self.running))

    def test_so_does_one_of_which_the_kernel_holds_another_policy(self):
        # libvirt loaded what was there before ours was installed
        self.hook.narrow(self.running)
        held = self.held / f'{PROFILE}.7'
        held.mkdir()
        for policy_held, exceeds in (
            (self.loaded[-1], False),
            (b'what was before', True),
        ):
            digest = kernel.digests(policy_held)['sha256']
            (held / 'raw_sha256').write_text(digest)
            self.assertEqual(exceeds, self.hook.exceeds(self.running))

    def test_so_does_one_that_serves_a_lost_need(self):
        tap = self.with_device(
            "<interface type='ethernet'><mac address='fa:16:3e:00:00:09'/>"
            "<target dev='tap9'/></interface>"
        )
        alone = hooks_base.Guest(
            dataclasses.replace(self.running.domain, interfaces=()),
            self.directories,
        )
        self.hook.narrow(tap)
        self.assertTrue(self.hook.exceeds(alone))
        self.hook.narrow(alone)
        self.assertFalse(self.hook.exceeds(alone))

    def assert_looked_for(self, *paths):
        asked = []

        def find_open(uuid, wanted):
            asked.extend(wanted)
            return [(place, PID) for place in range(len(wanted))]

        self.config.config(close_timeout=1, group='isolation')
        with (
            mock.patch.object(privileged, 'find_open', find_open),
            mock.patch('nova_isolation.hooks.withdrawn._PAUSE', 1),
        ):
            found = self.hook.wait_closed(UUID)
        expected = {neighbours.identify(str(path)) for path in paths}
        self.assertEqual(expected, set(asked))
        self.assertEqual(len(paths), len(found))
        return found

    def test_what_is_gone_is_looked_for_in_the_guest_s_processes(self):
        self.hook.narrow(self.running)
        self.hook.widen(self.wider)
        self.assert_looked_for()
        self.hook.narrow(self.running)
        [told] = self.assert_looked_for(self.added)
        for words in (str(self.added), '<disk> vdx', f'process {PID}'):
            self.assertIn(words, told)
        # until somebody has closed it
        self.assert_looked_for(self.added)
        self.hook.prepare(self.stated('libvirt-11.3-running'))
        self.assert_looked_for()

    def test_what_goes_while_another_one_comes_is_looked_for(self):
        self.hook.narrow(self.wider)
        self.hook.widen(
            self.with_device(
                "<interface type='ethernet'>"
                "<mac address='fa:16:3e:00:00:09'/><target dev='tap9'/>"
                '</interface>'
            )
        )
        self.assert_looked_for(self.added)

    def test_what_was_to_be_withdrawn_and_could_not_be_is_looked_for(self):
        self.hook.narrow(self.wider)
        with mock.patch.object(
            privileged, 'narrow_profile', side_effect=OSError
        ):
            self.assertRaises(OSError, self.hook.narrow, self.running)
        self.hook.narrow(self.running)
        self.assert_looked_for(self.added)

    def test_what_everybody_has_is_not_looked_for(self):
        self.config.config(shared_paths=[str(self.added)], group='isolation')
        self.hook.narrow(self.wider)
        cached = self.instances / '_base' / 'image'
        cached.write_bytes(b'')
        text = self.path.read_text().replace(
            '\n}',
            f'\n  # <disk> vdy, backing file\n  "{cached}" rk,\n'
            '  # <hostdev> usb\n  "/dev/vfio/vfio" rw,\n}',
        )
        self.path.write_text(text)
        self.hook.narrow(self.running)
        self.assert_looked_for()

    def test_in_complain_mode_it_is_told_once(self):
        self.config.config(mode='complain', group='isolation')
        self.hook.narrow(self.wider)
        self.hook.narrow(self.running)
        self.assert_looked_for(self.added)
        self.assert_looked_for()

    def test_what_another_version_grants_to_all_does_not_exceed(self):
        # a running guest keeps the rest of its profile, whatever it is
        self.hook.narrow(self.running)
        text = self.path.read_text().replace(
            '\n}', '\n  # an old need of QEMU\n  "/etc/old" r,\n}'
        )
        self.path.write_text(text)
        self.assertFalse(self.hook.exceeds(self.running))


class SeparateTest(AppArmorTestCase):
    """What two guests have, compared by us and asked of the kernel."""

    def setUp(self):
        super().setUp()
        self.directory = self.instances / OTHER
        self.directory.mkdir()
        self.their_disk = self.directory / 'disk'
        self.their_disk.write_bytes(b'')

    def learn_other(self, disk=None):
        text = self.xml('libvirt-11.3-running').replace(UUID, OTHER)
        text = text.replace('instance-00000001', 'instance-00000002')
        text = text.replace('/dev/pts/0', '/dev/pts/1')
        if disk:
            text = text.replace(str(self.their_disk), str(disk))
        self.hook.learn(domain.parse(text))

    def assert_refused(self, verb, guest, *words):
        error = self.assertRaises(exceptions.NotSeparate, verb, guest)
        for word in (UUID, OTHER, *words):
            self.assertIn(word, error.message)

    def test_guests_with_files_of_their_own(self):
        self.learn_other()
        self.hook.prepare(self.starting)
        self.hook.prepare(self.running)
        self.hook._ask_kernel(self.running)

    def test_the_same_disk_by_another_name(self):
        os.unlink(self.their_disk)
        os.link(self.disk, self.their_disk)
        self.learn_other()
        self.assert_refused(
            self.hook.prepare,
            self.starting,
            str(self.disk),
            str(self.their_disk),
            'shared_paths',
        )
        self.assertEqual([], self.written())
        self.hook.forget(OTHER)
        self.hook.prepare(self.starting)

    def on_device(self, uuid, number=None):
        """A guest that has a device by the name that the kernel gave it."""
        disk = Disk('vdz', 'disk', Layer(BlockSource('/dev/sdz'), 'raw'))
        parsed = domain.Domain(uuid, uuid[:8], number, disks=(disk,))
        return hooks_base.Guest(parsed, self.directories)

    def compare(self, guest):
        self.hook._compare(guest.domain)

    def test_a_device_of_a_guest_that_does_not_run_is_another_one_s(self):
        self.hook.learn(self.on_device(OTHER).domain)
        self.compare(self.on_device(UUID))

    def test_it_is_its_own_as_long_as_it_is_the_one_that_it_had(self):
        numbers = {'/dev/sdz': 17}
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.hostfacts.HostFacts.sequence',
                lambda facts, path: numbers.get(path),
            )
        )
        self.hook.learn(self.on_device(OTHER, 7).domain)
        # a start that failed does not change that
        self.hook.release(OTHER)
        self.hook.learn(self.on_device(OTHER).domain)
        for number, refused in ((17, True), (18, False), (None, False)):
            numbers['/dev/sdz'] = number
            guest = self.on_device(UUID)
            if refused:
                self.assert_refused(self.compare, guest, '/dev/sdz')
            else:
                self.compare(guest)
            self.hook.release(UUID)
            self.hook.forget(UUID)

    def test_a_device_of_a_guest_that_runs_is_its_own(self):
        self.hook.learn(self.on_device(OTHER, 7).domain)
        for number in (None, 8):
            guest = self.on_device(UUID, number)
            self.assert_refused(self.compare, guest, '/dev/sdz')
        self.hook.learn(self.on_device(OTHER).domain)
        self.compare(self.on_device(UUID))

    def test_a_device_of_a_guest_that_starts_is_its_own(self):
        self.compare(self.on_device(OTHER))
        # another start learns of all guests meanwhile
        self.hook.learn(self.on_device(OTHER).domain)
        self.assert_refused(self.compare, self.on_device(UUID), '/dev/sdz')

    def test_a_device_of_a_guest_whose_start_failed_is_another_one_s(self):
        self.compare(self.on_device(OTHER))
        self.hook.release(OTHER)
        self.hook.learn(self.on_device(OTHER).domain)
        self.compare(self.on_device(UUID))

    def test_so_it_is_when_another_start_learns_of_it_meanwhile(self):
        self.compare(self.on_device(OTHER))
        put = self.hook._register.put

        def failing(uuid, found):
            self.hook.release(OTHER)
            put(uuid, found)

        with mock.patch.object(self.hook._register, 'put', failing):
            self.hook.learn(self.on_device(OTHER).domain)
        self.compare(self.on_device(UUID))

    def test_a_device_of_a_guest_that_has_run_is_another_one_s(self):
        self.compare(self.on_device(OTHER))
        self.hook.learn(self.on_device(OTHER, 7).domain)
        self.hook.learn(self.on_device(OTHER).domain)
        self.compare(self.on_device(UUID))

    def test_the_same_disk_in_complain_mode_is_only_reported(self):
        self.config.config(mode='complain', group='isolation')
        self.learn_other(disk=self.disk)
        with self.assertLogs('nova_isolation.hooks.apparmor') as logs:
            self.hook.prepare(self.starting)
        self.assertIn(OTHER, logs.output[0])

    def test_what_is_declared_shared(self):
        self.learn_other(disk=self.disk)
        self.config.config(
            shared_paths=[str(self.instances)], group='isolation'
        )
        self.hook.prepare(self.starting)

    def test_a_profile_that_grants_more_than_its_rules(self):
        self.learn_other()
        self.hook.prepare(self.starting)
        self.hook.prepare(self.running)
        text = self.path.read_text()
        self.path.write_text(
            text.replace('\n}', f'\n  "{self.directory}/**" rwk,\n}}')
        )
        self.assert_refused(
            self.hook._ask_kernel,
            self.running,
            str(self.their_disk),
            'by no rule of the profile',
        )

    def test_a_profile_that_grants_less_than_its_rules(self):
        self.hook.prepare(self.starting)
        self.hook.prepare(self.running)
        text = self.path.read_text()
        self.path.write_text(
            text.replace('\n}', f'\n  deny "{self.disk}" w,\n}}')
        )
        error = self.assertRaises(
            exceptions.NotSeparate, self.hook._ask_kernel, self.running
        )
        self.assertIn('a defect of nova-isolation', error.message)

    def let_other_reach_all(self, mark):
        self.learn_other()
        self.hook.prepare(self.starting)
        self.hook.prepare(self.running)
        (self.profiles / f'libvirt-{OTHER}').write_text(
            f'{mark}\nprofile libvirt-{OTHER} {{ "{self.instances}/**" r, }}'
        )

    def test_another_guest_s_profile_that_reaches_this_one(self):
        self.let_other_reach_all(policy.MARK)
        self.assert_refused(
            self.hook._ask_kernel, self.running, str(self.disk)
        )

    def test_a_stock_profile_that_reaches_this_one_is_only_reported(self):
        self.let_other_reach_all('# by libvirt')
        with self.assertLogs('nova_isolation.hooks.apparmor') as logs:
            self.hook._ask_kernel(self.running)
        self.assertIn(f'guest {OTHER} may', logs.output[0])
        self.assertIn('restart it', logs.output[0])

    def test_a_neighbour_without_a_profile_is_reported(self):
        self.learn_other()
        self.hook.prepare(self.starting)
        self.hook.prepare(self.running)
        # it has ended meanwhile
        with self.assertNoLogs('nova_isolation.hooks.apparmor'):
            self.hook._ask_kernel(self.running)
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.processes.find', lambda *arguments: None
            )
        )
        with self.assertLogs('nova_isolation.hooks.apparmor') as logs:
            self.hook._ask_kernel(self.running)
        [line] = logs.output
        for word in (UUID, OTHER, 'without a profile'):
            self.assertIn(word, line)
        for mend in (
            (self.held / f'libvirt-{OTHER}.3').mkdir,
            lambda: self.hook.forget(OTHER),
        ):
            mend()
            with self.assertNoLogs('nova_isolation.hooks.apparmor'):
                self.hook._ask_kernel(self.running)
            for path in self.held.iterdir():
                path.rmdir()


class VerifyTest(AppArmorTestCase):
    def setUp(self):
        super().setUp()
        self.hook.prepare(self.starting)
        self.labels = dict.fromkeys((PID, 4712, 4713), f'{PROFILE} (enforce)')
        self.same = True
        for module, name, value in (
            (
                processes,
                'find',
                lambda *arguments: processes.Process(PID, 42),
            ),
            (processes, 'is_same', lambda process: self.same),
            (kernel, 'labels', lambda pid: self.labels),
        ):
            self.useFixture(
                fixtures.MonkeyPatch(f'{module.__name__}.{name}', value)
            )
        self.shown = self.held / f'{PROFILE}.7'
        self.shown.mkdir()
        self._hold(self.path)

    def _hold(self, path):
        """Let the kernel hold what a file compiles to."""
        self._hold_policy(PARSER.compile(str(path)))

    def _hold_policy(self, policy):
        (self.shown / 'raw_sha256').write_text(
            hashlib.sha256(policy).hexdigest()
        )

    def parser_runs(self):
        """Count the runs of the parser from now on."""
        runs = []
        run = parser.Parser.compile

        def count(*arguments):
            runs.append(arguments)
            return run(*arguments)

        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.apparmor.parser.Parser.compile', count
            )
        )
        # which would itself compile to answer
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.hooks.apparmor.AppArmorHook._ask_kernel',
                lambda hook, guest: None,
            )
        )
        return runs

    def restart(self):
        """Go on as a nova-compute that has remembered nothing."""
        self.hook = apparmor.AppArmorHook(cfg.CONF)

    def assert_refused(self, *words):
        error = self.assertRaises(
            exceptions.NotConfined, self.hook.verify, self.running
        )
        for word in words:
            self.assertIn(word, error.message)

    def test_a_guest_that_is_confined(self):
        self.hook.verify(self.running)

    def test_a_start_compiles_twice(self):
        runs = self.parser_runs()
        self.hook.prepare(self.starting)
        self.hook.narrow(self.running)
        self.assertEqual(2, len(runs))
        self._hold_policy(self.loaded[-1])
        self.hook.verify(self.running)
        self.assertEqual(2, len(runs))

    def test_what_was_not_narrowed_in_the_kernel_is_refused(self):
        # it holds what was written and loaded before, and remembered then
        self.hook.verify(self.running)
        self.hook.narrow(self.running)
        self.assert_refused('another policy')
        self._hold_policy(self.loaded[-1])
        self.hook.verify(self.running)

    def test_what_was_not_narrowed_in_the_file_is_refused(self):
        wider = self.path.read_bytes()
        self.hook.narrow(self.running)
        self._hold_policy(self.loaded[-1])
        self.hook.verify(self.running)
        self.path.write_bytes(wider)
        self.assert_refused('another policy', str(self.path))

    def test_one_more_byte_in_the_file_is_compiled(self):
        runs = self.parser_runs()
        with self.path.open('a') as f:
            f.write('\n')
        self.hook.verify(self.running)
        self.assertEqual(1, len(runs))
        with self.path.open('a') as f:
            f.write('nonsense {\n')
        self.assertRaises(exceptions.Refusal, self.hook.verify, self.running)

    def test_what_another_parser_made_of_the_file_is_compiled(self):
        # libvirt has loaded the same file since, by a parser that is new
        self.parser_runs()
        self._hold_policy(b'as the new one compiles it')
        self.assert_refused('another policy')
        with mock.patch.object(
            parser.Parser,
            'compile',
            return_value=b'as the new one compiles it',
        ):
            self.hook.verify(self.running)

    def test_what_is_not_remembered_is_compiled(self):
        runs = self.parser_runs()
        self.hook.verify(self.running)
        self.assertEqual([], runs)
        for forget in (
            self.restart,
            lambda: self.hook.forget(UUID),
        ):
            forget()
            self.hook.verify(self.running)
            self.assertEqual([(PARSER_OF_HOOK, str(self.path))], runs)
            runs.clear()
            self.hook.narrow(self.running)
            self._hold_policy(self.loaded[-1])
            runs.clear()
        self.restart()
        stock = self.profiles / 'stock'
        stock.write_text(f'profile {PROFILE} {{\n  /** rw,\n}}\n')
        self._hold(stock)
        self.assert_refused('another policy')

    def test_nothing_is_remembered_of_guests_that_are_gone(self):
        self.hook.forget(UUID)
        self.assertEqual({}, self.hook._written)
        self.hook.prepare(self.starting)
        self.assertEqual({UUID}, self.hook._written.keys())
        self.shown.joinpath('raw_sha256').unlink()
        self.shown.rmdir()
        self.hook.release(UUID)
        self.assertEqual({}, self.hook._written)

    def test_one_thread_with_another_label(self):
        for label in (
            'unconfined',
            f'{PROFILE} (complain)',
            f'{PROFILE} (unconfined)',
            f'{PROFILE}',
            'libvirt-8887d9d3-17f8-4388-8771-fab6312518d6 (enforce)',
            f'{PROFILE}//null-/usr/bin/x (enforce)',
            '',
        ):
            self.labels[4713] = label
            self.assert_refused('thread 4713', repr(label), '(enforce)')

    def test_in_complain_mode_an_enforced_label_is_not_the_expected_one(self):
        self.config.config(mode='complain', group='isolation')
        self.assert_refused('(complain)')

    def test_a_process_without_any_label(self):
        self.labels = {}
        self.assert_refused('gone')

    def test_a_process_whose_first_thread_is_gone(self):
        del self.labels[PID]
        self.assert_refused(f'thread {PID}', 'gone')

    def test_another_policy_under_the_right_name(self):
        stock = self.profiles / 'stock'
        stock.write_text(f'profile {PROFILE} {{\n  /** rw,\n}}\n')
        self._hold(stock)
        self.assert_refused('another policy', str(self.path))

    def test_no_policy_under_the_name(self):
        (self.shown / 'raw_sha256').unlink()
        self.shown.rmdir()
        self.assert_refused('another policy')

    def test_a_file_that_is_not_there(self):
        self.path.unlink()
        self.assertRaises(exceptions.Refusal, self.hook.verify, self.running)

    def test_a_process_that_ended_meanwhile(self):
        self.same = False
        self.assert_refused(f'process {PID}', 'ended')


class ReleaseTest(AppArmorTestCase):
    def test_what_was_made_is_removed(self):
        self.hook.prepare(self.starting)
        self.hook.release(UUID)
        self.assertEqual([], self.written())

    def test_nothing_made_needs_no_privilege(self):
        with mock.patch.object(privileged, 'remove_profile') as remove:
            self.hook.release(UUID)
        remove.assert_not_called()

    def test_a_policy_in_the_kernel_alone_is_enough(self):
        (self.held / f'{PROFILE}.7').mkdir()
        with mock.patch.object(privileged, 'remove_profile') as remove:
            self.hook.release(UUID)
        remove.assert_called_once_with(UUID)


class CheckHostTest(AppArmorTestCase):
    def setUp(self):
        super().setUp()
        self.host = hooks_base.Host(CAPABILITIES.format(model='apparmor'))
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.apparmor.kernel.check_enabled', lambda: None
            )
        )

    def assert_fault(self, *words):
        error = self.assertRaises(
            exceptions.HostFault, self.hook.check_host, self.host
        )
        for word in words:
            self.assertIn(word, error.message)

    def test_a_host_in_order(self):
        self.hook.check_host(self.host)

    def test_before_a_start_the_parser_does_not_run_for_nothing(self):
        for starting in (False, True):
            host = dataclasses.replace(self.host, starting=starting)
            with mock.patch.object(privileged, 'probe') as probe:
                self.hook.check_host(host)
            probe.assert_called_once_with(anew=not starting)

    def test_a_libvirtd_without_its_driver(self):
        for model in ('selinux', 'none', 'apparmor2', ''):
            self.host = hooks_base.Host(CAPABILITIES.format(model=model))
            self.assert_fault('security_driver = "apparmor"', 'qemu.conf')

    def test_no_parser(self):
        self.config.config(apparmor_parser='/nonexistent', group='isolation')
        self.assert_fault('/nonexistent')

    def test_a_privileged_helper_that_does_not_start(self):
        with mock.patch.object(
            privileged, 'probe', side_effect=OSError('sudo: not allowed')
        ):
            self.assert_fault('sudo: not allowed', 'helper_command')

    def test_a_kernel_without_apparmor(self):
        fault = exceptions.HostFault('no AppArmor')
        with mock.patch.object(kernel, 'check_enabled', side_effect=fault):
            self.assert_fault('no AppArmor')
