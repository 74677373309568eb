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

"""A policy grants what its domain names, whatever its values contain."""

import dataclasses
import os
import re

import ddt
import fixtures
import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_isolation.apparmor import abi
from nova_isolation.apparmor import needs
from nova_isolation.apparmor import parser
from nova_isolation.apparmor import policy
from nova_isolation.apparmor import rules
from nova_isolation import domain
from nova_isolation.domain.characters import Character
from nova_isolation import exceptions
from nova_isolation.tests.unit.apparmor import compiled
from nova_isolation.tests.unit import samples

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
STATE = '/var/lib/libvirt/qemu'
DISK = policy.FileGrant('/i/disk', 'rwk', '<disk> vda')
BASE = policy.FileGrant('/i/_base/sha1', 'rk', '<disk> vda, backing file')
PARSER = parser.Parser('/usr/sbin/apparmor_parser', 30)
#: what the parser of this machine understands
DIALECT = PARSER.find_dialect()
ABI = os.path.join(os.path.dirname(abi.__file__), 'abi-1')

POLICY = policy.Policy(
    uuid=UUID,
    name='instance-00000001',
    id=None,
    emulator='/usr/bin/qemu-system-x86_64',
    needs=(),
    files=(DISK,),
    consoles=False,
    ptys=(),
    complain=False,
    restoring=False,
)
#: one rule of a profile of ours, as each line has to be
RULE = re.compile(
    r'  (deny )?("(/|[^"\\\n]|\\[0-7]{3})+" r?w?m?k?(ix)?'
    r'|capability [a-z_]+'
    r'|network (\([a-z, ]+\) )?[a-z0-9]+ [a-z]+'
    r'|unix \([a-z, ]+\) type=stream( peer=\(label=[a-z/]+\))?'
    r'|(signal|ptrace) \([a-z]+\) peer=[a-z/]+),'
)


def _file(**changes):
    return {'path': '/x', 'access': 'r', 'origin': '', 'tree': False} | changes


class PolicyTestCase(base.BaseTestCase):
    def render(self, **fields):
        return policy.render(
            policy.check(dataclasses.replace(POLICY, **fields)),
            abi=ABI,
            dialect=DIALECT,
            state_directory=STATE,
        )

    def compile(self, text):
        path = os.path.join(self.useFixture(fixtures.TempDir()).path, 'p')
        with open(path, 'w', encoding='utf-8') as f:
            f.write(text)
        return compiled.Files(PARSER.compile(path))

    def granted(self, **fields):
        return self.compile(self.render(**fields))


@ddt.ddt
class ComputeTest(PolicyTestCase):
    def _compute(self, name, *grants, complain=False, **changes):
        parsed = dataclasses.replace(
            domain.parse(samples.domain(name)), **changes
        )
        return policy.compute(parsed, grants, complain=complain)

    def test_a_guest_that_is_to_start(self):
        self.assertEqual(
            policy.Policy(
                uuid=UUID,
                name='instance-00000001',
                id=None,
                emulator='/usr/bin/qemu-system-x86_64',
                needs=(),
                files=(BASE, DISK),
                consoles=True,
                ptys=(),
                complain=False,
                restoring=False,
            ),
            self._compute('libvirt-11.3-defined', DISK, BASE),
        )

    def test_a_guest_that_runs(self):
        found = self._compute('libvirt-11.3-running', DISK, complain=True)
        self.assertEqual((1, (0,)), (found.id, found.ptys))
        self.assertTrue(found.complain)

    def test_what_two_elements_ask_for_is_one_grant(self):
        found = policy.merge(
            [
                policy.FileGrant('/i/b', 'rk', '<disk> vdb'),
                policy.FileGrant('/i/a', 'rwk', '<disk> vda'),
                policy.FileGrant('/i/b', 'rw', '<disk> vda'),
                policy.FileGrant('/i/b', 'r', '<disk> vda', tree=True),
            ]
        )
        self.assertEqual(
            (
                policy.FileGrant('/i/a', 'rwk', '<disk> vda'),
                policy.FileGrant('/i/b', 'rwk', '<disk> vda; <disk> vdb'),
                policy.FileGrant('/i/b', 'r', '<disk> vda', tree=True),
            ),
            found,
        )

    def test_a_tree_is_all_below_and_not_the_directory(self):
        grant = policy.FileGrant('/i/pages', 'rw', '<hugepages>', tree=True)
        files = self.granted(files=(grant,))
        self.assertEqual('wr', files.access('/i/pages/a/b'))
        for other in ('/i/pages', '/i/pages/', '/i/pagesx', '/i/x'):
            self.assertEqual('', files.access(other), other)

    def test_what_libvirt_names_by_the_domain_is_this_domain_s(self):
        grants = (
            policy.FileGrant('/run/tpm/', 'rw', '<tpm>', after='-t.sock'),
            policy.FileGrant('/pages/', 'rw', '<p>', tree=True, after=''),
        )
        files = self.granted(files=grants)
        self.assertEqual(
            'wr', files.access('/run/tpm/7-instance-00000001-t.sock')
        )
        self.assertEqual('wr', files.access('/pages/7-instance-00000001/a/b'))
        files = self.granted(files=grants, id=3)
        self.assertEqual(
            'wr', files.access('/run/tpm/3-instance-00000001-t.sock')
        )
        for other in (
            '/run/tpm/7-instance-00000001-t.sock',
            '/run/tpm/3-instance-00000002-t.sock',
            '/run/tpm/3-instance-00000001-t.sockx',
            '/pages/7-instance-00000001/a',
            '/pages/3-instance-00000001',
        ):
            self.assertEqual('', files.access(other), other)

    def test_the_path_of_what_libvirt_names_by_a_domain_that_runs(self):
        running = dataclasses.replace(POLICY, id=3, name='n' * 30)
        own = policy.FileGrant('/run/tpm/', 'rw', '<tpm>', after='-t.sock')
        self.assertEqual(
            f'/run/tpm/3-{"n" * 20}-t.sock', policy.path_of(running, own)
        )
        self.assertEqual('/i/disk', policy.path_of(running, DISK))

    @ddt.data('/x', '/../x', '-\0')
    def test_what_follows_a_domain_s_name_is_checked(self, after):
        grant = policy.FileGrant('/run/', 'rw', '<tpm>', after=f'/..{after}')
        self.assertRaises(
            exceptions.InvalidPolicy, self.render, files=(grant,)
        )

    @ddt.data('/', '/usr', '/var')
    def test_a_tree_so_high_is_refused(self, path):
        grant = policy.FileGrant(path, 'r', '<filesystem>', tree=True)
        self.assertRaises(
            exceptions.InvalidPolicy, self.render, files=(grant,)
        )

    def test_each_need_is_there_once_in_the_profile_s_order(self):
        found = self._compute(
            'libvirt-11.3-defined',
            policy.Need('listen-inet6'),
            policy.Need('tap'),
            DISK,
            policy.Need('kvm'),
            policy.Need('tap'),
        )
        self.assertEqual(('kvm', 'tap', 'listen-inet6'), found.needs)
        self.assertEqual((DISK,), found.files)

    def test_a_need_that_nobody_knows_is_refused(self):
        self.assertRaises(
            exceptions.InvalidPolicy,
            self._compute,
            'libvirt-11.3-defined',
            policy.Need('everything'),
        )

    def test_the_same_file_twice_is_one_file(self):
        found = self._compute('libvirt-11.3-defined', DISK, DISK)
        self.assertEqual((DISK,), found.files)

    def test_a_console_s_file_needs_no_terminal(self):
        found = self._compute(
            'libvirt-11.3-defined',
            characters=(Character('serial', 'file', '/i/console.log'),),
        )
        self.assertFalse(found.consoles)
        self.assertEqual((), found.ptys)

    def test_the_log_of_a_console_is_virtlogd_s(self):
        found = self._compute('libvirt-11.3-running')
        self.assertEqual((), found.files)

    def test_a_terminal_that_is_not_known_to_be_the_guest_s_is_not_named(self):
        found = self._compute(
            'libvirt-11.3-defined',
            characters=(Character('serial', 'pty', '/dev/pts/3'),),
        )
        self.assertEqual((), found.ptys)

    def test_a_console_elsewhere_is_refused(self):
        for path in (
            '/dev/ttyS0',
            '/dev/pts/../tty',
            '/dev/pts/x',
            '/dev/pts/12345678',
            '/dev/pts/1\n',
        ):
            self.assertRaises(
                exceptions.InvalidPolicy,
                self._compute,
                'libvirt-11.3-running',
                characters=(Character('serial', 'pty', path),),
            )

    def test_a_domain_without_an_emulator_is_refused(self):
        self.assertRaises(exceptions.InvalidPolicy, self._compute, 'nova-34')


class RenderTest(PolicyTestCase):
    def test_the_profile_is_libvirt_s_name_and_the_whole_policy(self):
        lines = self.render().splitlines()
        self.assertEqual([policy.MARK, f'abi "{ABI}",'], lines[:2])
        self.assertRegex(
            lines[2],
            f'profile libvirt-{UUID} flags='
            r'\(attach_disconnected(, [a-z_.=/]+)?\) {',
        )
        self.assertEqual('}', lines[-1])
        for line in lines[3:-1]:
            if not line.startswith('  # '):
                self.assertRegex(line, RULE)
        self.assertNotIn('include', self.render())

    def test_complain_is_a_flag_and_nothing_else(self):
        self.assertEqual(
            self.render().replace(') {', ', complain) {', 1),
            self.render(complain=True),
        )

    def test_the_narrowest_form_that_the_parser_has(self):
        def lines(**known):
            text = policy.render(
                dataclasses.replace(POLICY, needs=('listen-inet',)),
                abi=ABI,
                dialect=rules.Dialect(**known),
                state_directory=STATE,
            )
            return text.splitlines()

        self.assertIn('  network inet stream,', lines())
        self.assertIn('flags=(attach_disconnected) {', lines()[2])
        (rule,) = [
            line
            for line in lines(network_operations=True)
            if line.endswith(' inet stream,')
        ]
        self.assertIn('listen', rule)
        self.assertNotIn('connect,', rule)
        self.assertIn(
            'flags=(attach_disconnected, '
            'attach_disconnected.path=/disconnected) {',
            lines(disconnected_path=True)[2],
        )

    def test_every_rule_has_its_reason(self):
        lines = self.render(files=(DISK, BASE)).splitlines()
        at = lines.index('  "/i/disk" rwk,')
        self.assertEqual('  # <disk> vda', lines[at - 1])
        at = lines.index('  "/i/_base/sha1" rk,')
        self.assertEqual('  # <disk> vda, backing file', lines[at - 1])

    def test_a_reason_is_no_directive(self):
        # the parser reads "#include" where other comments stand
        for origin in (
            '#include </etc/passwd>',
            '\n#include </etc/passwd>',
            'x #include </etc/passwd>',
            'include </etc/passwd>',
            '\n  /** rw,',
            '\r  /** rw,',
            '}',
            'x' * 10**5,
        ):
            grant = policy.FileGrant('/i/disk', 'rwk', origin)
            text = self.render(files=(grant,))
            self.assertEqual(
                self.render().count('\n'), text.count('\n'), origin
            )
            self.assertNotIn('#include', text)
            files = self.compile(text)
            self.assertEqual('wrk', files.access('/i/disk'))
            self.assertEqual('', files.access('/etc/passwd'))

    def test_files_are_granted_as_asked(self):
        files = self.granted(files=(DISK, BASE))
        self.assertEqual('wrk', files.access('/i/disk'))
        self.assertEqual('rk', files.access('/i/_base/sha1'))
        self.assertEqual('', files.access('/i/_base/sha2'))
        self.assertEqual('', files.access('/j/disk'))

    def test_one_emulator(self):
        emulator = '/usr/bin/qemu-system-x86_64'
        files = self.granted()
        self.assertEqual('xrm', files.access(emulator))
        # started once
        self.assertEqual('rm', self.granted(id=7).access(emulator))
        for other in ('/usr/bin/qemu-system-arm', '/bin/sh', '/usr/bin/sh'):
            self.assertEqual('', files.access(other))

    def test_it_may_change_its_user_until_it_runs(self):
        for number, words in ((None, ['setgid', 'setuid']), (7, [])):
            granted = policy.all_rules(
                dataclasses.replace(POLICY, id=number), STATE
            )
            found = [r for r in granted if isinstance(r, rules.Capability)]
            self.assertEqual(words, [r.name for r in found])

    def test_nothing_of_the_host(self):
        files = self.granted(
            needs=tuple(needs.OPTIONAL), consoles=True, id=7, ptys=(3,)
        )
        for path in (
            '/etc/passwd',
            '/etc/libvirt/qemu.conf',
            '/root/.ssh/id_rsa',
            '/dev/sda',
            '/dev/mem',
            '/dev/vfio/1',
            '/proc/1/environ',
            '/proc/7/cmdline',
            '/proc/7/status',
            '/proc/self/mem',
            '/run/libvirt/libvirt-sock',
            '/sys/kernel/security/apparmor/.load',
            '/var/lib/nova/instances/other/disk',
            '/var/lib/libvirt/qemu/nvram/other_VARS.fd',
            '/dev/pts/4',
            '/tmp/x',
        ):
            self.assertEqual('', files.access(path), path)

    def test_the_terminal_is_any_before_the_start_and_then_its_own(self):
        before = self.granted(consoles=True)
        self.assertEqual('wr', before.access('/dev/ptmx'))
        for path in ('/dev/pts/0', '/dev/pts/42'):
            self.assertEqual('wr', before.access(path))
        after = self.granted(consoles=True, id=7, ptys=(42,))
        self.assertEqual('wr', after.access('/dev/pts/42'))
        self.assertEqual('', after.access('/dev/pts/0'))
        self.assertEqual('', after.access('/dev/pts/421'))

    def test_without_a_console_there_is_no_terminal(self):
        files = self.granted()
        for path in ('/dev/ptmx', '/dev/pts/0'):
            self.assertEqual('', files.access(path))

    def test_libvirt_s_key_is_read_at_the_start_only(self):
        key = f'{STATE}/domain-{{}}-{{}}/master-key.aes'
        before = self.granted()
        name = POLICY.name
        self.assertEqual('r', before.access(key.format(3, name)))
        self.assertEqual('', before.access(key.format(3, f'{name}2')))
        self.assertEqual('', before.access(key.format(3, f'x-{name}')))
        after = self.granted(id=3)
        for number in (3, 4, 33):
            self.assertEqual('', after.access(key.format(number, name)))

    def test_the_state_of_a_domain_is_named_by_its_id_when_it_runs(self):
        before, after = self.granted(), self.granted(id=3)
        quiet = f'{STATE}/domain-{{}}-{POLICY.name}/monitor.sock'
        for number in (3, 4, 33):
            path = quiet.format(number)
            self.assertEqual('', before.access(path))
            self.assertEqual('', after.access(path))
        self.assertIn(f'deny "{quiet.format(3)}" w,', self.render(id=3))

    def test_the_saved_memory_is_read_while_it_is_restored(self):
        name = POLICY.name
        saved = f'{STATE}/save/{name}.save'
        restoring = self.granted(restoring=True)
        self.assertEqual('r', restoring.access(saved))
        self.assertEqual('r', restoring.access(f'/disconnected{saved}'))
        self.assertEqual('', restoring.access(f'{STATE}/save/other.save'))
        for granted in (self.granted(), self.granted(id=3)):
            self.assertEqual('', granted.access(saved))

    def test_a_long_name_is_cut_as_libvirt_cuts_it(self):
        files = self.granted(name='instance-0123456789abcdef')
        self.assertEqual(
            'r',
            files.access(
                f'{STATE}/domain-3-instance-0123456789a/master-key.aes'
            ),
        )

    def test_each_need_grants_its_own(self):
        paths = {
            'kvm': '/dev/kvm',
            'tap': '/dev/net/tun',
        }
        for need, path in paths.items():
            self.assertEqual('wr', self.granted(needs=(need,)).access(path))
            self.assertEqual('', self.granted().access(path))
        for need, line in (
            ('listen-inet', '  network inet stream,'),
            ('listen-inet6', '  network inet6 stream,'),
        ):
            self.assertIn(line, self.render(needs=(need,)).splitlines())
            self.assertNotIn(line, self.render().splitlines())


#: letters that mean something, more often than others
TEXT = strategies.text(
    strategies.one_of(
        strategies.sampled_from('*?[]{}^,\\"@#\n\r\0 /.ab'),
        strategies.characters(),
    ),
    max_size=30,
)


class SurplusTest(PolicyTestCase):
    """What a profile serves that a policy does not know."""

    ALL = tuple(needs.OPTIONAL)
    FILES = (
        DISK,
        policy.FileGrant('/dev/x', 'rw', '<hostdev> usb'),
        policy.FileGrant('/i/x', 'rwk', '<disk> vdx; <disk> vdy'),
        policy.FileGrant('/i/log', 'rw', '<console type=file>'),
    )

    def surplus(self, profile, **fields):
        return policy.surplus(profile, dataclasses.replace(POLICY, **fields))

    def test_a_policy_s_own_profile_has_none(self):
        fields = {'needs': self.ALL, 'files': self.FILES, 'consoles': True}
        for number in (None, 7):
            fields['id'] = number
            self.assertEqual(
                set(), self.surplus(self.render(**fields), **fields)
            )

    def test_each_need_that_is_gone(self):
        profile = self.render(needs=self.ALL)
        for name, need in needs.OPTIONAL.items():
            left = tuple(n for n in self.ALL if n != name)
            self.assertEqual(
                {rule.origin for rule in need()},
                self.surplus(profile, needs=left),
            )

    def test_each_device_that_is_gone(self):
        profile = self.render(files=self.FILES)
        for grant in self.FILES[1:3]:
            left = tuple(g for g in self.FILES if g != grant)
            self.assertEqual({grant.origin}, self.surplus(profile, files=left))

    def test_what_does_not_come_and_go_is_left_alone(self):
        profile = self.render(files=self.FILES)
        self.assertEqual(set(), self.surplus(profile, files=self.FILES[:3]))
        self.assertEqual({}, self.lost(profile, files=self.FILES[:3]))

    def lost(self, profile, **fields):
        return policy.lost(profile, dataclasses.replace(POLICY, **fields))

    def test_the_files_of_devices_that_are_gone(self):
        profile = self.render(files=self.FILES)
        self.assertEqual({}, self.lost(profile, files=self.FILES))
        self.assertEqual(
            {'/dev/x': '<hostdev> usb', '/i/x': '<disk> vdx; <disk> vdy'},
            self.lost(profile, files=(DISK,)),
        )

    def test_a_file_that_another_device_has_is_not_lost(self):
        profile = self.render(files=self.FILES)
        other = policy.FileGrant('/i/x', 'rk', '<disk> vdz')
        self.assertEqual(
            {'/dev/x': '<hostdev> usb'},
            self.lost(profile, files=(DISK, other)),
        )

    def test_what_a_link_leads_to_no_more_is_not_lost(self):
        # the guest has its device still, and somebody moved the name
        origin = '<disk> vdx /dev/disk/by-id/x'
        before, after, other = (
            policy.FileGrant(path, 'rwk', origin)
            for path, origin in (
                ('/dev/sda', origin),
                ('/dev/sdb', origin),
                ('/dev/sdb', origin.replace('vdx', 'vdy')),
            )
        )
        profile = self.render(files=(DISK, before))
        self.assertEqual({}, self.lost(profile, files=(DISK, after)))
        for files in ((DISK,), (DISK, other)):
            self.assertEqual(
                {'/dev/sda': origin}, self.lost(profile, files=files)
            )

    @hypothesis.settings(max_examples=40, derandomize=True)
    @hypothesis.given(TEXT)
    @hypothesis.example('a\x85b\u2028c')
    def test_the_path_of_what_is_lost_is_that_which_was_granted(self, name):
        grant = policy.FileGrant(f'/dev/{name}', 'rwk', '<disk> vdx')
        try:
            profile = self.render(files=(DISK, grant))
        except exceptions.InvalidPolicy:
            return
        self.assertEqual(
            {grant.path: grant.origin}, self.lost(profile, files=(DISK,))
        )


class HostileTest(PolicyTestCase):
    """Whatever crosses to the privileged side, only such a profile results."""

    @hypothesis.settings(max_examples=40, derandomize=True)
    @hypothesis.given(TEXT, TEXT, TEXT, TEXT)
    def test_any_text_is_refused_or_the_profile_has_the_same_lines(
        self, name, path, origin, emulator
    ):
        data = dataclasses.replace(
            POLICY,
            name=name,
            files=(
                policy.FileGrant('/i/' + path, 'rwk', origin),
                policy.FileGrant('/after', 'r', 'after'),
            ),
            restoring=True,
        ).to_wire()
        try:
            checked = policy.from_wire(data)
        except exceptions.InvalidPolicy:
            return
        text = policy.render(
            checked, abi=ABI, dialect=DIALECT, state_directory=STATE
        )
        plain = self.render(files=(DISK, DISK), restoring=True).split('\n')
        lines = text.split('\n')
        self.assertEqual(len(plain) + 1, len(lines))
        for line in lines[3:-2]:
            if line.startswith('  # '):
                self.assertTrue(line.isascii() and line.isprintable(), line)
                self.assertNotIn('#', line[3:])
            else:
                self.assertRegex(line, RULE)
        files = self.compile(text)
        self.assertEqual('wrk', files.access('/i/' + path))
        self.assertEqual('r', files.access('/after'))
        self.assertEqual('r', files.access(f'{STATE}/save/{name}.save'))
        for other in ('/i/', '/i/x', '/etc/passwd', f'{STATE}/save/x.save'):
            if other not in ('/i/' + path, f'{STATE}/save/{name}.save'):
                self.assertEqual('', files.access(other), other)
        # and no emulator but a program where programs are
        data['emulator'] = '/usr/bin/' + emulator
        try:
            found = policy.from_wire(data).emulator
        except exceptions.InvalidPolicy:
            return
        self.assertRegex(found, r'\A/usr/bin/[a-z0-9][a-z0-9_.-]*\Z')


@ddt.ddt
class FromWireTest(PolicyTestCase):
    def setUp(self):
        super().setUp()
        self.data = dataclasses.replace(
            POLICY, id=7, needs=('kvm',), consoles=True, ptys=(1, 2)
        ).to_wire()

    def _assert_refused(self, *words):
        error = self.assertRaises(
            exceptions.InvalidPolicy, policy.from_wire, self.data
        )
        for word in words:
            self.assertIn(word, error.message)

    def test_what_goes_in_comes_out(self):
        found = policy.from_wire(self.data)
        self.assertEqual(self.data, found.to_wire())
        # as msgpack has it
        self.data = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self.data.items()
        }
        self.assertEqual(found, policy.from_wire(self.data))

    @ddt.data(None, 'text', 7, [], (), {}, {'uuid': UUID}, b'')
    def test_another_thing(self, data):
        self.data = data
        self._assert_refused()

    def test_a_field_too_many(self):
        self.data['include'] = '/etc/passwd'
        self._assert_refused('include')

    def test_a_field_too_few(self):
        for field in list(self.data):
            data, self.data = self.data, dict(self.data)
            del self.data[field]
            self._assert_refused(field)
            self.data = data

    @ddt.data(
        ('uuid', UUID.upper()),
        ('uuid', f'{UUID}\n'),
        ('uuid', f'../{UUID}'),
        ('uuid', ''),
        ('uuid', '*'),
        ('uuid', UUID.encode()),
        ('uuid', None),
        ('name', ''),
        ('name', '.'),
        ('name', '..'),
        ('name', 'a/b'),
        ('name', '../x'),
        ('name', 'a\nb'),
        ('name', 'a\0'),
        ('name', '\ud800'),
        ('name', 'x' * 5000),
        ('name', None),
        ('name', ['x']),
        ('id', 0),
        ('id', -1),
        ('id', 10**7),
        ('id', True),
        ('id', 1.0),
        ('id', '1'),
        ('emulator', ''),
        ('emulator', '/bin/sh'),
        ('emulator', '/usr/bin/'),
        ('emulator', '/usr/bin/.hidden'),
        ('emulator', '/usr/bin/../../tmp/x'),
        ('emulator', '/usr/bin/a*'),
        ('emulator', '/usr/bin/qemu\n'),
        ('emulator', '/usr/bin/a b'),
        ('emulator', '/usr/bin/sub/qemu'),
        ('emulator', '/tmp/usr/bin/qemu'),
        ('emulator', None),
        ('needs', ['tun']),
        ('needs', ['']),
        ('needs', ['start']),
        ('needs', [None]),
        ('needs', [['kvm']]),
        ('needs', 'kvm'),
        ('needs', {'kvm': 1}),
        ('needs', None),
        ('files', None),
        ('files', '/x'),
        ('files', ['/x']),
        ('files', [['/x', 'r', '']]),
        ('files', [{}]),
        ('files', [_file(deny=1)]),
        ('files', [_file(path=b'/x')]),
        ('files', [_file(path='x')]),
        ('files', [_file(path='/x\n')]),
        ('files', [_file(access='rix')]),
        ('files', [_file(access='m')]),
        ('files', [_file(access='')]),
        ('files', [_file(access='r,\n/** rw')]),
        ('files', [_file(origin=None)]),
        ('files', [_file()] * 4097),
        ('files', [_file(tree=1)]),
        ('files', [_file(tree=True)]),
        ('files', [{'path': '/x', 'access': 'r', 'origin': ''}]),
        ('consoles', 1),
        ('consoles', None),
        ('ptys', [-1]),
        ('ptys', [10**7]),
        ('ptys', [True]),
        ('ptys', ['1']),
        ('ptys', '12'),
        ('ptys', 1),
        ('complain', 0),
        ('complain', 'no'),
    )
    @ddt.unpack
    def test_a_value_that_may_not_stand_in_a_profile(self, field, value):
        self.data[field] = value
        self._assert_refused()

    def test_an_error_does_not_repeat_a_huge_value(self):
        self.data['files'] = [_file(path='/' + 'x' * 10**6)]
        error = self.assertRaises(
            exceptions.InvalidPolicy, policy.from_wire, self.data
        )
        self.assertLess(len(error.message), 1000)


class ProfileNameTest(base.BaseTestCase):
    def test_it_is_libvirt_s(self):
        self.assertEqual(f'libvirt-{UUID}', policy.profile_name(UUID))

    def test_nothing_but_a_uuid_makes_one(self):
        for other in (UUID.upper(), f'{UUID}.files', '../x', '', None, 7):
            self.assertRaises(
                exceptions.InvalidPolicy, policy.profile_name, other
            )
