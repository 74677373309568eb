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

"""What root does for us: one file, complete or as before, and only ours.

The functions run here as in the daemon, with the real parser; only what needs
the kernel is stood in for.
"""

import errno
import hashlib
import os
import pathlib
import stat
import subprocess
import sys
import types
from unittest import mock

import ddt
import fixtures
from oslo_config import cfg
from oslo_config import fixture as config_fixture
from oslo_privsep import capabilities
from oslotest import base

from nova_isolation.apparmor import abi
from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import parser
from nova_isolation.apparmor import policy
from nova_isolation.conf import isolation as options
from nova_isolation import exceptions
from nova_isolation import privileged

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
PROFILE = f'libvirt-{UUID}'
#: what libvirt 11.3 makes of Debian's TEMPLATE.qemu
LIBVIRTS = f"""#
# This profile is for the domain whose UUID matches this file.
#

#include <tunables/global>

profile {PROFILE} flags=(attach_disconnected) {{
  #include <abstractions/libvirt-qemu>
  #include <libvirt/{PROFILE}.files>
}}
"""


class PrivilegedTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        privileged.context.set_client_mode(False)
        self.addCleanup(privileged.context.set_client_mode, True)
        self.directory = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.config = self.useFixture(config_fixture.Config(cfg.CONF))
        options.register_opts(cfg.CONF)
        self.config.config(
            profile_directory=str(self.directory), group='isolation'
        )
        self.path = self.directory / PROFILE
        self.policy = policy.Policy(
            uuid=UUID,
            name='instance-00000001',
            id=None,
            emulator='/usr/bin/qemu-system-x86_64',
            needs=(),
            files=(policy.FileGrant('/i/disk', 'rwk', '<disk> vda'),),
            consoles=True,
            ptys=(),
            complain=False,
            restoring=False,
        )
        self.text = policy.render(
            self.policy,
            abi=str(self.directory / abi.NAME),
            dialect=parser.Parser(
                '/usr/sbin/apparmor_parser', 30
            ).find_dialect(),
            state_directory='/var/lib/libvirt/qemu',
        )

        self.kernel = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.privileged._KERNEL', str(self.kernel)
            )
        )
        self.loaded = self.kernel / '.replace'

    def write(self, how=privileged.write_profile, **changes):
        return how({**self.policy.to_wire(), **changes})

    def names(self):
        """What is there, less what all profiles share."""
        return sorted(set(os.listdir(self.directory)) - {abi.NAME})

    def parser(self, script):
        """Let a program stand in for the parser, which needs a kernel."""
        program = self.directory.parent / f'{self.directory.name}-parser'
        # another file than the one before
        new = program.with_suffix('.new')
        new.write_text(f'#!/bin/sh\n{script}\n')
        new.chmod(0o755)
        new.rename(program)
        self.addCleanup(program.unlink, missing_ok=True)
        self.config.config(apparmor_parser=str(program), group='isolation')
        stat_program = os.stat
        found = stat_program(program)
        status = types.SimpleNamespace(
            st_uid=os.geteuid(),
            st_mode=0o100755,
            st_dev=found.st_dev,
            st_ino=found.st_ino,
            st_ctime_ns=found.st_ctime_ns,
        )

        def as_root_s(path, *args, **kwargs):
            if path == str(program):
                return status
            return stat_program(path, *args, **kwargs)

        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.privileged.os.stat', as_root_s
            )
        )


@ddt.ddt
class WriteTest(PrivilegedTestCase):
    def test_agents_are_those_of_root_s_configuration(self):
        rule = 'ptrace (readby) peer=an-agent,'
        self.config.config(monitoring_labels=['an-agent'], group='isolation')
        self.write()
        self.assertIn(rule, self.path.read_text())
        self.assertNotIn(rule, self.text)

    def test_no_guest_and_no_rule_is_an_agent(self):
        for value in (f'libvirt-{UUID}', 'a, ptrace', 'a b', '**', ''):
            self.assertRaises(
                ValueError,
                self.config.config,
                monitoring_labels=[value],
                group='isolation',
            )

    def test_a_profile_is_what_the_policy_renders_to(self):
        self.write()
        self.assertEqual([PROFILE], self.names())
        self.assertEqual(self.text, self.path.read_text())

    def test_it_can_be_read_by_all_and_written_by_root(self):
        # the daemon's umask
        self.addCleanup(os.umask, os.umask(0))
        self.write()
        self.assertEqual(0o644, stat.S_IMODE(self.path.stat().st_mode))

    def test_it_replaces_the_one_before(self):
        self.write()
        self.write(id=7, ptys=[3])
        self.assertEqual([PROFILE], self.names())
        self.assertIn('"/dev/pts/3" rw,', self.path.read_text())

    def test_it_is_compiled_before_it_is_there(self):
        # never half of a file, and never one that libvirt could not load
        self.parser(
            'case "$1-$2" in\n'
            '-QTS-) exit 0;;\n'
            f'*) grep -q "^}}$" "$2" || exit 5; test ! -e {self.path};;\n'
            'esac'
        )
        self.write()
        self.assertIn('"/i/disk" rwk,', self.path.read_text())

    def test_a_profile_that_does_not_compile_leaves_nothing(self):
        self.parser('test "$2" = "" || { echo "bad rule" >&2; exit 1; }')
        error = self.assertRaises(exceptions.ProfileRejected, self.write)
        self.assertIn('bad rule', error.message)
        self.assertEqual([], self.names())

    def test_a_profile_that_does_not_compile_leaves_the_one_before(self):
        self.write()
        self.parser('test "$2" = "" || exit 1')
        self.assertRaises(exceptions.ProfileRejected, self.write, id=7)
        self.assertEqual([PROFILE], self.names())
        self.assertEqual(self.text, self.path.read_text())

    def test_a_disk_that_is_full_leaves_the_one_before(self):
        self.write()
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.privileged.os.fsync',
                mock.Mock(side_effect=OSError(28, 'No space left on device')),
            )
        )
        self.assertRaises(OSError, self.write, id=7)
        self.assertEqual([PROFILE], self.names())
        self.assertEqual(self.text, self.path.read_text())

    def test_a_draft_is_no_profile_to_whoever_looks_meanwhile(self):
        seen = []
        rename = os.rename

        def record(old, new):
            seen.append(os.path.basename(old))
            rename(old, new)

        self.useFixture(
            fixtures.MonkeyPatch('nova_isolation.privileged.os.rename', record)
        )
        self.write()
        # apparmor_parser and libvirt pass over such names
        for name, made in zip((abi.NAME, PROFILE), seen, strict=True):
            self.assertTrue(made.startswith(f'.{name}.'), seen)

    def test_the_abi_stands_beside_and_is_mended(self):
        self.write()
        path = self.directory / abi.NAME
        self.assertEqual(abi.text(), path.read_text())
        path.write_text('')
        self.write()
        self.assertEqual(abi.text(), path.read_text())

    def test_check_writes_nothing(self):
        privileged.check_profile(self.policy.to_wire())
        self.assertEqual([], self.names())

    def test_check_refuses_what_write_would(self):
        self.path.write_text('# mine\n')
        self.assertRaises(
            exceptions.ForeignProfile,
            privileged.check_profile,
            self.policy.to_wire(),
        )
        self.path.unlink()
        self.parser('test "$2" = "" || exit 1')
        self.assertRaises(
            exceptions.ProfileRejected,
            privileged.check_profile,
            self.policy.to_wire(),
        )
        self.assertEqual([], self.names())

    @ddt.data(
        {},
        None,
        'profile x { /** rwix, }',
        {'uuid': '../../etc/passwd'},
        {'text': 'profile x {}'},
    )
    def test_what_is_no_policy(self, data):
        if isinstance(data, dict) and data:
            data = {**self.policy.to_wire(), **data}
        for call in (
            lambda: privileged.write_profile(data),
            lambda: privileged.widen_profile(data),
            lambda: privileged.narrow_profile(data),
            lambda: privileged.check_profile(data),
        ):
            self.assertRaises(exceptions.InvalidPolicy, call)
        self.assertEqual([], self.names())

    def test_it_is_compiled_once_and_what_came_out_is_told(self):
        log = self.directory.parent / f'{self.directory.name}-log'
        self.addCleanup(log.unlink, missing_ok=True)
        self.parser(
            f'test "$2" = "" || {{ echo "$1" >> {log}; printf policy; }}'
        )
        for how in (
            privileged.write_profile,
            privileged.widen_profile,
            privileged.narrow_profile,
        ):
            text, compiled = self.write(how)
            self.assertEqual('-QTS\n', log.read_text())
            self.assertEqual(
                hashlib.sha256(self.path.read_bytes()).hexdigest(), text
            )
            self.assertEqual(
                {
                    'sha256': hashlib.sha256(b'policy').hexdigest(),
                    'sha1': hashlib.sha1(b'policy').hexdigest(),
                },
                compiled,
            )
            log.unlink()


@ddt.ddt
class LoadTest(PrivilegedTestCase):
    """The kernel gets just what was compiled, and file and kernel agree."""

    def events(self):
        """Record in which order the kernel and the directory change."""
        seen = []
        rename, load = os.rename, privileged._load

        def renamed(old, new):
            rename(old, new)
            if new == str(self.path):
                seen.append('file')

        def loaded(made):
            load(made)
            seen.append('kernel')

        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.privileged.os.rename', renamed
            )
        )
        self.useFixture(
            fixtures.MonkeyPatch('nova_isolation.privileged._load', loaded)
        )
        return seen

    def test_libvirt_loads_what_is_only_written(self):
        seen = self.events()
        self.write()
        self.assertEqual(['file'], seen)
        self.assertFalse(self.loaded.exists())

    def test_the_file_has_all_that_the_kernel_grants(self):
        # at any moment: what the kernel grants too much is seen in the file
        for how, order in (
            (privileged.widen_profile, ['file', 'kernel']),
            (privileged.narrow_profile, ['kernel', 'file']),
        ):
            seen = self.events()
            _, compiled = self.write(how)
            self.assertEqual(order, seen)
            self.assertEqual(
                compiled, kernel.digests(self.loaded.read_bytes())
            )
            self.assertEqual(
                parser.Parser('/usr/sbin/apparmor_parser', 30).compile(
                    str(self.path)
                ),
                self.loaded.read_bytes(),
            )

    def test_libvirt_that_loads_what_was_before_is_overtaken(self):
        shown = self.directory / 'kernel' / f'{PROFILE}.7'
        shown.mkdir(parents=True)
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.apparmor.kernel._PROFILES', str(shown.parent)
            )
        )
        loads = []
        load = privileged._load

        def loaded_meanwhile(made):
            load(made)
            loads.append(made)
            # the first time libvirt comes after us
            held = b'before' if len(loads) == 1 else made.compiled
            digest = kernel.digests(held)['sha256']
            (shown / 'raw_sha256').write_text(f'{digest}\n')

        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.privileged._load', loaded_meanwhile
            )
        )
        self.write(privileged.narrow_profile)
        self.assertEqual(2, len(loads))
        self.write(privileged.widen_profile)
        self.assertEqual(3, len(loads))

    def refuse(self, error):
        real = open

        def refusing(path, *args, **kwargs):
            if path != str(self.loaded):
                return real(path, *args, **kwargs)
            written = mock.MagicMock()
            written.__enter__.return_value.write.side_effect = error
            return written

        self.useFixture(fixtures.MonkeyPatch('builtins.open', refusing))

    @ddt.data(
        (errno.EACCES, 'lock_policy'),
        (errno.EPERM, 'CAP_MAC_ADMIN'),
        (errno.EPROTO, 'does not understand the policy'),
        (errno.EPROTONOSUPPORT, 'does not support the version'),
        (errno.ENOMEM, 'short of memory'),
        (errno.EIO, 'see its log'),
    )
    @ddt.unpack
    def test_a_kernel_that_refuses_it_is_told(self, number, words):
        self.refuse(OSError(number, os.strerror(number)))
        for how in (privileged.widen_profile, privileged.narrow_profile):
            error = self.assertRaises(
                exceptions.ProfileRejected, self.write, how
            )
            for word in (PROFILE, os.strerror(number), words):
                self.assertIn(word, error.message)

    def test_a_kernel_that_refuses_a_narrower_one_leaves_the_wider_file(self):
        self.write()
        self.refuse(OSError(errno.ENOMEM, 'no memory'))
        self.assertRaises(
            exceptions.ProfileRejected,
            self.write,
            privileged.narrow_profile,
            id=7,
        )
        self.assertEqual(self.text, self.path.read_text())
        self.assertEqual([PROFILE], self.names())

    def test_a_part_is_not_taken_for_the_whole(self):
        self.refuse(lambda policy: len(policy) - 1)
        error = self.assertRaises(
            exceptions.ProfileRejected, self.write, privileged.widen_profile
        )
        self.assertIn(PROFILE, error.message)

    def test_a_kernel_without_the_interface(self):
        self.kernel.rmdir()
        error = self.assertRaises(
            exceptions.ProfileRejected, self.write, privileged.widen_profile
        )
        self.assertIn('securityfs', error.message)
        self.kernel.mkdir()


class OwnTest(PrivilegedTestCase):
    """What somebody else wrote is refused by name, and untouched."""

    def assert_foreign(self, *words):
        before = self.path.lstat()
        for call in (
            self.write,
            lambda: self.write(privileged.widen_profile),
            lambda: self.write(privileged.narrow_profile),
            lambda: privileged.check_profile(self.policy.to_wire()),
            lambda: privileged.remove_profile(UUID),
        ):
            error = self.assertRaises(exceptions.ForeignProfile, call)
            for word in (str(self.path), 'is in the way', *words):
                self.assertIn(word, error.message)
        after = self.path.lstat()
        self.assertEqual(
            (before.st_ino, before.st_mode, before.st_mtime_ns),
            (after.st_ino, after.st_mode, after.st_mtime_ns),
        )
        self.assertFalse(self.loaded.exists())
        self.assertEqual([PROFILE], self.names())

    def test_a_file_of_an_operator(self):
        self.path.write_text(f'profile {PROFILE} {{\n}}\n')
        self.assert_foreign('neither nova-isolation nor libvirt wrote it')
        self.assertEqual(f'profile {PROFILE} {{\n}}\n', self.path.read_text())

    def test_a_file_that_mentions_our_mark_elsewhere(self):
        self.path.write_text(f'# mine\n{policy.MARK}\n')
        self.assert_foreign()
        self.path.write_text(f'{policy.MARK} Or not.\n')
        self.assert_foreign()

    def test_a_symbolic_link(self):
        target = self.directory.parent / f'{self.directory.name}-target'
        target.write_text(self.text)
        self.addCleanup(target.unlink)
        self.path.symlink_to(target)
        self.assert_foreign()
        self.assertEqual(self.text, target.read_text())

    def test_a_link_to_nowhere(self):
        self.path.symlink_to('/nonexistent')
        self.assert_foreign()

    def test_a_directory(self):
        self.path.mkdir()
        self.assert_foreign('it is not a regular file')

    def test_a_fifo_is_not_waited_for(self):
        os.mkfifo(self.path)
        self.assert_foreign('it is not a regular file')

    def test_what_libvirt_made_of_its_template_is_replaced(self):
        self.path.write_text(LIBVIRTS)
        self.write()
        self.assertEqual(self.text, self.path.read_text())

    def test_what_libvirt_made_of_its_template_is_removed(self):
        self.path.write_text(LIBVIRTS)
        self.assertTrue(privileged.remove_profile(UUID))
        self.assertEqual([], self.names())

    def test_an_empty_file_is_replaced(self):
        # libvirt would replace it silently, from its template
        self.path.write_text('')
        self.write()
        self.assertEqual(self.text, self.path.read_text())

    def test_our_own_is_known_again(self):
        self.assertTrue(self.text.startswith(policy.MARK + '\n'))
        self.write()
        self.write()


class RemoveTest(PrivilegedTestCase):
    def setUp(self):
        super().setUp()
        self.held = {}
        self.unloaded = []
        profiles = self.directory.parent / f'{self.directory.name}-profiles'
        profiles.mkdir()
        self.profiles = profiles
        self.addCleanup(self._remove_profiles)
        for name, value in (
            ('apparmor.kernel._PROFILES', str(profiles)),
            ('apparmor.kernel._label', self.held.get),
            ('privileged._unload', self.unloaded.append),
        ):
            self.useFixture(
                fixtures.MonkeyPatch(f'nova_isolation.{name}', value)
            )

    def _remove_profiles(self):
        for profile in self.profiles.iterdir():
            profile.rmdir()
        self.profiles.rmdir()

    def test_the_files_go(self):
        self.write()
        (self.directory / f'{PROFILE}.files').write_text('libvirt made it')
        (self.directory / 'TEMPLATE.qemu').write_text('')
        self.assertTrue(privileged.remove_profile(UUID))
        self.assertEqual(['TEMPLATE.qemu'], self.names())
        self.assertEqual([], self.unloaded)

    def test_nothing_to_remove(self):
        self.assertFalse(privileged.remove_profile(UUID))

    def test_it_goes_from_the_kernel(self):
        (self.profiles / f'{PROFILE}.42').mkdir()
        self.write()
        self.assertTrue(privileged.remove_profile(UUID))
        self.assertEqual([PROFILE], self.unloaded)
        self.assertEqual([], self.names())

    def test_it_stays_while_a_live_process_holds_it(self):
        # without it that process would run unconfined
        (self.profiles / f'{PROFILE}.42').mkdir()
        self.write()
        for label in (f'{PROFILE} (enforce)', f'{PROFILE}//child (complain)'):
            self.held[f'/proc/{os.getpid()}'] = label
            error = self.assertRaises(
                exceptions.ProfileInUse, privileged.remove_profile, UUID
            )
            self.assertIn(f'process {os.getpid()} holds it', error.message)
        self.assertEqual([], self.unloaded)
        self.assertEqual([PROFILE], self.names())

    def test_another_guest_s_profile_stays(self):
        other = '8887d9d3-17f8-4388-8771-fab6312518d6'
        self.write()
        self.write(uuid=other)
        (self.profiles / f'libvirt-{other}.7').mkdir()
        self.held[f'/proc/{os.getpid()}'] = f'libvirt-{other} (enforce)'
        self.assertTrue(privileged.remove_profile(UUID))
        self.assertEqual([f'libvirt-{other}'], self.names())
        self.assertEqual([], self.unloaded)

    def test_what_is_no_uuid(self):
        (self.directory / 'libvirt-x').write_text('')
        for uuid in (
            'x',
            '',
            None,
            7,
            UUID.upper(),
            f'{UUID}/../../x',
            f'{UUID}\n',
            [UUID],
        ):
            self.assertRaises(
                exceptions.InvalidPolicy, privileged.remove_profile, uuid
            )
        self.assertEqual(['libvirt-x'], self.names())


@ddt.ddt
class FindOpenTest(PrivilegedTestCase):
    KNOWN = (('file', 1, 2), ('device', 3, 4), ('file', 5, 6))

    def setUp(self):
        super().setUp()
        self.held = {'/proc/1': PROFILE, f'/proc/{os.getpid()}': PROFILE}
        self.open = {1: {self.KNOWN[2], ('file', 7, 7)}}
        self.hiding = set()
        for name, value in (
            ('kernel._label', self.held.get),
            ('kernel.os.listdir', lambda _: ['self', *map(str, self.pids)]),
        ):
            self.useFixture(
                fixtures.MonkeyPatch(f'nova_isolation.apparmor.{name}', value)
            )
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.processes.opened',
                lambda pid, end: (
                    None
                    if pid in self.hiding
                    else frozenset(self.open.get(pid, ()))
                ),
            )
        )

    pids = (1, os.getpid())

    def find(self, wanted=KNOWN, uuid=UUID):
        # as it comes over the wire
        return privileged.find_open(uuid, [list(item) for item in wanted])

    def test_what_each_process_of_the_guest_has(self):
        self.assertEqual([(2, 1)], self.find())
        self.open[os.getpid()] = {self.KNOWN[0], self.KNOWN[2]}
        self.assertEqual(
            sorted([(2, 1), (0, os.getpid()), (2, os.getpid())]), self.find()
        )

    def test_a_process_with_another_profile_is_none_of_it(self):
        self.held['/proc/1'] = f'{PROFILE}0 (enforce)'
        self.assertEqual([], self.find())

    def test_a_process_that_hides_files_may_have_them_all(self):
        self.hiding.add(1)
        self.assertEqual([(0, 1), (1, 1), (2, 1)], self.find())

    def test_a_process_that_may_not_be_looked_at(self):
        with mock.patch(
            'nova_isolation.processes.opened', side_effect=PermissionError
        ):
            error = self.assertRaises(exceptions.HostFault, self.find)
        self.assertIn(PROFILE, error.message)

    @ddt.data(
        None,
        7,
        'file',
        {},
        [None],
        ['file'],
        [['file', 1]],
        [['file', 1, 2, 3]],
        [['path', '/x']],
        [['socket', 1, 2]],
        [['file', '1', 2]],
        [['file', 1, 2]] * 4097,
    )
    def test_what_are_no_identities(self, wanted):
        self.assertRaises(
            exceptions.InvalidPolicy, privileged.find_open, UUID, wanted
        )

    @ddt.data('x', '', None, UUID.upper(), f'{UUID}/..', [UUID])
    def test_what_is_no_uuid(self, uuid):
        self.assertRaises(exceptions.InvalidPolicy, self.find, (), uuid)


class ProbeTest(PrivilegedTestCase):
    def assert_fault(self, *words):
        for anew in (True, False):
            error = self.assertRaises(
                exceptions.HostFault, privileged.probe, anew
            )
            for word in words:
                self.assertIn(word, error.message)

    def test_a_host_in_order(self):
        for anew in (True, False):
            self.assertIsNone(privileged.probe(anew))

    def test_a_program_that_has_worked_runs_only_when_that_is_asked_for(self):
        broken = self.directory.parent / f'{self.directory.name}-broken'
        self.addCleanup(broken.unlink, missing_ok=True)
        self.parser(f'test ! -e {broken}')
        privileged.probe(False)
        # not the program: something that it needs
        broken.write_text('')
        privileged.probe(False)
        self.assertRaises(exceptions.HostFault, privileged.probe, True)

    def test_with_a_parser_that_hangs_at_what_it_may_not_understand(self):
        self.config.config(parser_timeout=1, group='isolation')
        self.parser('read -r line; case $line in *path*) exec sleep 60; esac')
        self.assert_fault('did not end within 1 s')

    def test_another_program_in_its_place_is_asked(self):
        self.parser('exit 0')
        privileged.probe(False)
        self.parser('echo "no such abi" >&2; exit 1')
        self.assert_fault('compiles no profile', 'no such abi')

    def test_without_a_parser(self):
        self.config.config(apparmor_parser='/nonexistent', group='isolation')
        self.assert_fault(
            '/nonexistent', 'No such file', '[isolation] apparmor_parser'
        )

    def test_with_a_parser_that_is_broken(self):
        self.parser('echo "no such abi" >&2; exit 1')
        self.assert_fault('compiles no profile', 'no such abi')

    def test_with_a_parser_that_others_could_have_written(self):
        for status in (
            (0o100755, 0, 0, 1, 1000, 0, 0, 0, 0, 0),
            (0o100775, 0, 0, 1, 0, 0, 0, 0, 0, 0),
            (0o100757, 0, 0, 1, 0, 0, 0, 0, 0, 0),
        ):
            with mock.patch.object(
                privileged.os, 'stat', return_value=os.stat_result(status)
            ):
                self.assert_fault('can be written by others than root')
                self.assertRaises(exceptions.HostFault, self.write)
        self.assertEqual([], self.names())

    def test_without_the_directory(self):
        self.config.config(profile_directory='/nonexistent', group='isolation')
        self.assert_fault('/nonexistent', '[isolation] profile_directory')


class ContextTest(base.BaseTestCase):
    def test_the_daemon_has_the_capabilities_that_it_needs(self):
        # Fresh: oslo.config's fixture forgets what a context is made with.
        program = (
            'from nova_isolation import privileged\n'
            'print(*privileged.context.conf.capabilities)\n'
        )
        output = subprocess.run(
            [sys.executable, '-c', program],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        self.assertEqual(
            {
                capabilities.CAP_MAC_ADMIN,
                capabilities.CAP_SYS_PTRACE,
                capabilities.CAP_DAC_READ_SEARCH,
                capabilities.CAP_CHECKPOINT_RESTORE,
            },
            {int(number) for number in output.split()},
        )

    def test_it_offers_these_calls_and_no_other(self):
        offered = {
            name
            for name, value in vars(privileged).items()
            if callable(value)
            and getattr(value, '__module__', '') == 'nova_isolation.privileged'
            and not name.startswith('_')
            and privileged.context.is_entrypoint(value)
        }
        self.assertEqual(
            {
                'probe',
                'check_profile',
                'write_profile',
                'widen_profile',
                'narrow_profile',
                'remove_profile',
                'find_open',
            },
            offered,
        )
