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

"""AppArmor's and SELinux' records say in the same words what was tried."""

import dataclasses
import itertools

import ddt
from hypothesis import given
from hypothesis import strategies
from oslotest import base

from nova_isolation.audit import attempts
from nova_isolation.audit import attribution
from nova_isolation.tests.unit.audit import denials
from nova_isolation.tests.unit.audit import guests

UUID1 = '5f0a2f0e-90ad-4b5b-8d6e-0d6a1f3b7a01'
UUID2 = '0c7e54b2-7a11-4c2f-9f0e-61b2a3c4d502'
PROFILE = f'libvirt-{UUID1}'
LEVEL = 's0:c504,c872'
QEMU = f'scontext=system_u:system_r:svirt_t:{LEVEL}'


def _apparmor(body, **kwargs):
    return denials.apparmor(body, kwargs.pop('profile', PROFILE), **kwargs)


def _selinux(perms, body):
    return denials.selinux(
        f'audit(1795424739.225:89): avc:  denied  {{ {perms} }} for  pid=879 '
        f'comm="qemu-system-x86" {QEMU} {body} permissive=0'
    )


@ddt.ddt
class SubjectTest(base.BaseTestCase):
    @ddt.data(
        ('system_u:system_r:svirt_t:s0:c504,c872', 's0:c504,c872'),
        ('system_u:system_r:svirt_tcg_t:s0:c1,c2', 's0:c1,c2'),
        ('system_u:system_r:passt_t:s0:c1,c2', 's0:c1,c2'),
        ('system_u:system_r:svirt_lxc_net_t:s0:c1,c2', None),
        ('system_u:system_r:container_t:s0:c1,c2', None),
        ('system_u:object_r:svirt_image_t:s0:c1,c2', None),
        ('system_u:system_r:virtd_t:s0-s0:c0.c1023', None),
        ('svirt_t:s0:c1,c2', None),
        ('', None),
    )
    @ddt.unpack
    def test_a_context(self, context, level):
        self.assertEqual(level, attribution.level(context))

    def test_a_denial_of_a_guest(self):
        self.assertEqual(
            UUID1, attempts.subject(_apparmor('operation="open"'))
        )
        self.assertEqual(
            LEVEL, attempts.subject(_selinux('read', 'tclass=file'))
        )


@ddt.ddt
class ReadTest(base.BaseTestCase):
    @ddt.data(
        ('operation="open" name="/a" denied_mask="wc"', 'file', '/a', 'w'),
        ('operation="open" name="/a" denied_mask="r"', 'file', '/a', 'r'),
        ('operation="file_lock" name="/a" denied_mask="k"', 'file', '/a', 'k'),
        (
            'operation="file_mmap" name="/a" denied_mask="rm"',
            'file',
            '/a',
            'rm',
        ),
        ('operation="exec" name="/a" denied_mask="x"', 'execute', '/a', 'x'),
        (
            'operation="link" name="/a" target="/b" denied_mask="l"',
            'file',
            '/b',
            'l',
        ),
        ('operation="mount" name="/m/" srcname="/t"', 'mount', '/m/', ''),
        ('operation="capable" capname="sys_admin"', 'capability', None, ''),
        (
            'operation="ptrace" denied_mask="read" peer="x"',
            'process',
            None,
            'read',
        ),
        ('operation="change_profile" name="x"', 'profile', None, ''),
        ('operation="uring_sqpoll" class="io_uring"', 'other', None, ''),
        (
            'operation="create" family="inet" sock_type="stream"',
            'network',
            None,
            '',
        ),
        (
            'operation="connect" class="net" family="unix" '
            'sock_type="stream" addr=none peer_addr="/run/s"',
            'unix',
            '/run/s',
            '',
        ),
        (
            'operation="connect" family="unix" peer_addr="@abstract"',
            'unix',
            '@abstract',
            '',
        ),
    )
    @ddt.unpack
    def test_apparmor(self, body, kind, path, access):
        found = attempts.read(_apparmor(body))
        self.assertEqual(
            (kind, path, access), (found.kind, found.path, found.access)
        )
        self.assertEqual((UUID1, False), (found.subject, found.selinux))

    @ddt.data(
        ('read write', 'name="disk" tclass=file', 'file', 'disk', 'rw'),
        ('open', 'path="/a" tclass=file', 'file', '/a', 'r'),
        ('append', 'path="/a" tclass=file', 'file', '/a', 'w'),
        ('something_new', 'path="/a" tclass=file', 'file', '/a', 'w'),
        ('map', 'path="/a" tclass=file', 'file', '/a', 'r'),
        ('link', 'path="/a" tclass=file', 'file', '/a', 'w'),
        (
            'create',
            'anonclass=[io_uring] tclass=anon_inode',
            'other',
            None,
            '',
        ),
        ('execute', 'path="/a" tclass=file', 'execute', '/a', 'x'),
        ('search', 'name="1" dev="proc" tclass=dir', 'file', '1', 'r'),
        (
            'sys_admin',
            'capability=21 tclass=capability',
            'capability',
            None,
            '',
        ),
        ('ptrace', 'tclass=process', 'process', None, ''),
        ('execmem', 'tclass=process', 'execute', None, ''),
        ('dyntransition', 'tclass=process', 'profile', None, ''),
        ('name_connect', 'dest=5672 tclass=tcp_socket', 'network', None, ''),
        ('create', 'tclass=netlink_route_socket', 'network', None, ''),
        (
            'connectto',
            'path="/run/s" tclass=unix_stream_socket',
            'unix',
            '/run/s',
            '',
        ),
        ('mount', 'tclass=filesystem', 'mount', None, ''),
        ('prog_load', 'tclass=bpf', 'other', None, ''),
        ('a_new_one', 'tclass=a_new_class', 'other', None, ''),
    )
    @ddt.unpack
    def test_selinux(self, perms, body, kind, path, access):
        found = attempts.read(_selinux(perms, body))
        self.assertEqual(
            (kind, path, access), (found.kind, found.path, found.access)
        )
        self.assertEqual((LEVEL, True), (found.subject, found.selinux))

    def test_where_a_connection_went(self):
        ports = attempts.read(
            _apparmor(
                'operation="sendmsg" family="inet" sock_type="stream" '
                'laddr=10.0.0.1 lport=4711 faddr=10.0.0.5 fport=3306'
            )
        )
        self.assertEqual(('10.0.0.5', 3306), ports.remote)
        self.assertEqual(('10.0.0.1', 4711), ports.local)
        named = attempts.read(
            _selinux('name_connect', 'dest=5672 tclass=tcp_socket')
        )
        self.assertEqual(('', 5672), named.remote)

    def test_the_syscall_tells_what_apparmor_does_not(self):
        record = _apparmor(
            'operation="connect" family="inet" sock_type="stream"'
        )
        saddr = '020016280A0000050000000000000000'
        found = attempts.read(record, {'saddr': saddr})
        self.assertEqual(('10.0.0.5', 5672), found.remote)

    @ddt.data(
        ('020016280A000005', ('10.0.0.5', 5672)),
        ('000216280A000005', ('10.0.0.5', 5672)),
        (f'0A00162800000000{"00" * 15}0100000000', ('::1', 5672)),
        ('01002F72756E2F73', None),
        ('0200', None),
        ('zz', None),
        ('', None),
    )
    @ddt.unpack
    def test_an_address(self, text, expected):
        self.assertEqual(expected, attempts.address(text))

    @given(
        strategies.dictionaries(
            strategies.sampled_from(
                'operation class name target denied_mask peer family'
                ' sock_type peer_addr addr faddr fport lport capname signal'
                ' opid path tclass tcontext perms dest dev ino'.split()
            ),
            strategies.text(max_size=20),
        ),
        strategies.booleans(),
        strategies.dictionaries(
            strategies.sampled_from(['saddr', 'opid']), strategies.text()
        ),
    )
    def test_nothing_that_a_record_says_is_a_fault(self, said, mac, context):
        template = _selinux('read', 'tclass=file')
        fields = {**said, 'scontext': template.fields['scontext']}
        if not mac:
            fields = {**said, 'profile': PROFILE}
        record = dataclasses.replace(
            template,
            module='selinux' if mac else 'apparmor',
            verdict='denied' if mac else 'DENIED',
            fields=fields,
        )
        found = attempts.read(record, context)
        self.assertIn(found.subject, (UUID1, LEVEL))
        self.assertTrue(attempts.fingerprint(record)[0])

    @given(
        strategies.sampled_from(
            [
                *('open', 'link', 'exec', 'mount', 'mknod', 'capable'),
                *('connect', 'signal', 'change_onexec', 'dbus_method_call'),
            ]
        ),
        strategies.sampled_from([None, 'file', 'net', 'posix_mqueue', 'cap']),
        strategies.dictionaries(
            strategies.sampled_from('name target family peer_addr'.split()),
            strategies.sampled_from(['/etc/shadow', '/x', 'x', 'unix', '']),
        ),
    )
    def test_a_plain_path_is_what_the_whole_record_says(self, op, kind, said):
        classed = {} if kind is None else {'class': kind}
        fields = {'profile': PROFILE, 'operation': op, **classed, **said}
        record = dataclasses.replace(
            _apparmor('operation="open"'), fields=fields
        )
        path = attempts.plain_path(record)
        found = attempts.read(record)
        if path is not None:
            self.assertEqual((attempts.FILE, path), (found.kind, found.file))

    def test_the_usual_ones_have_a_plain_path(self):
        for body in (
            'operation="open" class="file" name="/a"',
            'operation="open" name="/a"',
        ):
            self.assertEqual('/a', attempts.plain_path(_apparmor(body)))


@ddt.ddt
class FingerprintTest(base.BaseTestCase):
    """What is a repeat of what."""

    def _all(self, bodies):
        return {attempts.fingerprint(_apparmor(body)) for body in bodies}

    @ddt.data(
        [f'operation="open" name="/proc/{n}/mem"' for n in (1, 4711)],
        [f'operation="open" name="/proc/{n}/task/{n}/comm"' for n in (1, 47)],
        [f'operation="open" name="/proc/8/fd/{n}"' for n in (1, 47)],
        [f'operation="open" name="/dev/pts/{n}"' for n in (1, 47)],
        [f'operation="getattr" name="/x/socket:[{n}]"' for n in (1, 47)],
        [
            f'operation="connect" family="inet" lport={n} fport=5672'
            for n in (50001, 50002)
        ],
        [f'operation="bind" family="inet" lport={n}' for n in (50001, 50002)],
        [
            f'operation="connect" family="unix" peer_addr="@0000{n}"'
            for n in (1, 7)
        ],
        [f'operation="open" name="/a" pid={n}' for n in (1, 7)],
    )
    def test_what_differs_by_chance_is_one_kind(self, bodies):
        self.assertEqual(1, len(self._all(bodies)))

    def test_what_was_meant_otherwise_is_another_kind(self):
        bodies = [
            'operation="open" class="file" name="/a" denied_mask="r"',
            'operation="open" class="file" name="/a" denied_mask="w"',
            'operation="open" class="file" name="/b" denied_mask="w"',
            'operation="mknod" class="file" name="/b" denied_mask="w"',
            'operation="open" name="/proc/1/mem"',
            'operation="open" name="/proc/1/maps"',
            'operation="open" name="/srv/1/mem"',
            'operation="capable" capname="sys_admin"',
            'operation="capable" capname="kill"',
            'operation="signal" signal=kill peer="a"',
            'operation="signal" signal=term peer="a"',
            'operation="signal" signal=kill peer="b"',
            'operation="create" family="inet" sock_type="stream"',
            'operation="create" family="inet" sock_type="dgram"',
            'operation="connect" family="inet" faddr=1.1.1.1 fport=1',
            'operation="connect" family="inet" faddr=1.1.1.2 fport=1',
            'operation="connect" family="inet" faddr=1.1.1.1 fport=2',
            'operation="bind" family="inet" lport=80',
        ]
        self.assertEqual(len(bodies), len(self._all(bodies)))

    def test_selinux(self):
        label = 'tcontext=system_u:object_r:svirt_image_t:s0:c'
        bodies = [
            f'name="disk" dev="sda" ino=1 {label}1,c2 tclass=file',
            f'name="disk" dev="sda" ino=2 {label}1,c2 tclass=file',
            f'name="disk" dev="sda" ino=2 {label}1,c3 tclass=file',
            f'name="disk" dev="sda" ino=2 {label}1,c3 tclass=blk_file',
            f'path="/a" {label}1,c3 tclass=file',
            'dest=1 tclass=tcp_socket',
            'dest=2 tclass=tcp_socket',
        ]
        found = {
            attempts.fingerprint(_selinux(perms, body))
            for perms, body in itertools.product(('read', 'write'), bodies)
        }
        self.assertEqual(2 * len(bodies), len(found))
        chance = {
            attempts.fingerprint(
                _selinux('search', f'name="{n}" dev="proc" ino={n} tclass=dir')
            )
            for n in (801, 802)
        }
        self.assertEqual(1, len(chance))

    def test_what_is_another_guests_is_never_a_repeat(self):
        table = attribution.Table(
            [
                attribution.describe(
                    guests.make(UUID1, number=1, pty='/dev/pts/1'), pids=[11]
                ),
                attribution.describe(
                    guests.make(UUID2, number=2, pty='/dev/pts/2'), pids=[22]
                ),
            ]
        )
        names = ['/dev/pts/1', '/dev/pts/2', '/dev/pts/3']
        names += ['/proc/11/mem', '/proc/22/mem', '/proc/33/mem']
        found = {
            attempts.fingerprint(
                _apparmor(f'operation="open" name="{name}"'), table
            )
            for name in names
        }
        self.assertEqual(4, len(found))
