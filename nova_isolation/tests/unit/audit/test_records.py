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

"""What the kernel wrote is understood as it was meant."""

import datetime
import os
import pathlib
import re

import ddt
import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_isolation.audit import records
from nova_isolation.tests.unit.audit import shapes
from nova_isolation.tests.unit import fuzzing

_DATA = pathlib.Path(__file__).parent / 'samples'

_HEADER = b'audit(1795424098.237:52): '
_OPEN = (
    b'apparmor="DENIED" operation="open" class="file" profile="libvirt-x" '
    b'name=%s pid=780 comm="qemu" requested_mask="r" denied_mask="r"'
)
_SE = (
    b'avc:  denied  { read } for  pid=879 comm="q" name="disk" dev="dm-0" '
    b'scontext=a:b:c:s0 tcontext=d:e:f:s0 tclass=file permissive=0'
)
_SYSCALL = (
    b'arch=c000003e syscall=257 success=no exit=-13 a0=ffffff9c items=1 '
    b'ppid=1 pid=780 comm="qemu" exe="/usr/bin/qemu" subj=x key=(null)'
)
_VALUES = strategies.text('"= AF12z\x1d', max_size=6)


def _lines(name):
    for line in (_DATA / name).read_bytes().splitlines():
        kind, payload = line.split(b' ', 1)
        yield int(kind), payload


def _records(name):
    for kind, payload in _lines(name):
        record = records.parse(kind, payload)
        if isinstance(record, records.Record):
            yield payload, record


def _parse(body, kind=records.AVC):
    record = records.parse(kind, _HEADER + body)
    assert isinstance(record, records.Record), record
    return record


def _parse_line(line, *stamp):
    record = records.parse_line(line, *stamp)
    assert isinstance(record, records.Record), record
    return record


def _unparsable(payload, kind=records.AVC):
    bad = records.parse(kind, payload)
    assert isinstance(bad, records.Unparsable), bad
    return bad


class RealRecordsTestCase(base.BaseTestCase):
    """What live kernels sent."""

    def test_every_denial_is_recognised_and_nothing_is_unparsable(self):
        for name in (
            'apparmor-kernel6.1.netlink',
            'apparmor-kernel7.2.netlink',
            'apparmor-kernel7.2-auditd.netlink',
        ):
            counts = {'DENIED': 0, 'ALLOWED': 0, 'STATUS': 0, 'AUDIT': 0}
            for _payload, record in _records(name):
                self.assertEqual((), record.stray)
                self.assertEqual('apparmor', record.module)
                counts[record.verdict] += 1
            others = [
                records.parse(kind, payload)
                for kind, payload in _lines(name)
                if b'apparmor=' not in payload
            ]
            self.assertEqual([None] * len(others), others)
            text = (_DATA / name).read_bytes()
            expected = {
                verdict: len(re.findall(f'="{verdict}"'.encode(), text))
                for verdict in counts
            }
            self.assertEqual(expected, counts, name)
            self.assertGreater(counts['DENIED'], 0, name)

    def test_every_answer_of_selinux_is_recognised(self):
        name = 'selinux-kernel7.2.netlink'
        found = [record for _payload, record in _records(name)]
        self.assertEqual(len(list(_lines(name))), len(found))
        self.assertEqual({'selinux'}, {r.module for r in found})
        self.assertEqual({()}, {r.stray for r in found})
        text = (_DATA / name).read_bytes()
        for decision, permissive in (('denied', 0), ('would_deny', 1)):
            self.assertEqual(
                text.count(b' permissive=%d' % permissive),
                [r.decision for r in found].count(decision),
            )
        changes = [r for r in found if r.verdict == 'setenforce']
        self.assertEqual(['1'], [r.text('enforcing') for r in changes])

    def test_no_value_of_a_real_record_is_lost(self):
        for name in (
            'apparmor-kernel6.1.netlink',
            'apparmor-kernel7.2.netlink',
            'selinux-kernel7.2.netlink',
        ):
            for payload, record in _records(name):
                keys = re.findall(rb'(?<= )([a-z_-]+)=', payload)
                ours = {'apparmor'}
                if payload.find(b'avc:') > 0:
                    ours = {'perms'}
                self.assertEqual(
                    {key.decode() for key in keys} | ours,
                    {*record.fields} | ours,
                    payload,
                )

    def test_with_and_without_class(self):
        old = _records('apparmor-kernel6.1.netlink')
        new = _records('apparmor-kernel7.2.netlink')
        self.assertEqual({None}, {r.text('class') for _, r in old})
        self.assertIn('file', {r.text('class') for _, r in new})


@ddt.ddt
class FormsTestCase(base.BaseTestCase):
    """One record is the same wherever it was found."""

    def assertSame(self, expected, found):
        self.assertEqual(expected.fields, found.fields)
        self.assertEqual(expected.stray, found.stray)
        self.assertEqual(
            (expected.kind, expected.verdict, expected.module),
            (found.kind, found.verdict, found.module),
        )
        self.assertEqual(
            (expected.millis, expected.serial), (found.millis, found.serial)
        )
        self.assertEqual(records.identity(expected), records.identity(found))

    def assertAllSame(self, netlink, log):
        sent = [record for _payload, record in _records(netlink)]
        text = (_DATA / log).read_bytes()
        found = [
            record
            for line in text.splitlines()
            if (record := records.parse_line(line)) is not None
        ]
        self.assertEqual(len(sent), len(found))
        for one, other in zip(sent, found, strict=True):
            self.assertSame(one, other)

    def test_auditd_wrote_what_the_kernel_sent(self):
        self.assertAllSame(
            'apparmor-kernel7.2-auditd.netlink',
            'apparmor-kernel7.2-auditd.log',
        )

    def test_dmesg_shows_what_the_kernel_sent(self):
        self.assertAllSame(
            'apparmor-kernel7.2.netlink', 'apparmor-kernel7.2.dmesg'
        )

    @ddt.data(
        b'type=AVC msg=%b',
        b'type=AVC msg=%b\n',
        b'type=AVC msg=%b\x1dUID="root" NAME="x"\n',
        b'node=host.example type=AVC msg=%b',
        b'\0\0\0type=AVC msg=%b',
        b'[    1.290000] audit: type=1400 %b',
        b'[Mon Nov 23 08:54:58 2026] audit: type=1400 %b',
        b'2026-11-23T08:54:58,237000+00:00 audit: type=1400 %b',
        b'<5>[    1.290000] audit: type=1400 %b',
        b'audit: type=1400 %b',
        b'Nov 23 08:54:58 host kernel: audit: type=1400 %b',
        b'Nov  3 08:54:58 host kernel: [    1.290000] audit: type=1400 %b',
        b'2026-11-23T08:54:58.237+0000 host kernel: audit: type=1400 %b',
        b'Mon 2026-11-23 08:54:58 UTC host kernel: audit: type=1400 %b',
        b'5,339,1290000,-;audit: type=1400 %b\n SUBSYSTEM=x\n',
    )
    def test_a_line_of_a_log(self, line):
        for body in (_OPEN % b'"/x"', _OPEN % b'2F0A', _SE):
            whole = line % (_HEADER + body)
            self.assertSame(_parse(body), _parse_line(whole))

    @ddt.data(
        b'AVC %b',
        b'Nov 23 08:54:58 host audit[780]: AVC %b',
        b'2026-11-23T08:54:58+0000 host audit[780]: AVC %b',
        b'Nov 23 08:54:58 host audit: AVC %b',
    )
    def test_the_journals_own_form_has_its_stamp_beside_it(self, line):
        for body in (_OPEN % b'"/x"', _SE):
            self.assertSame(
                _parse(body), _parse_line(line % body, (1795424098237, 52))
            )
            record = _parse_line(line % body)
            self.assertEqual((0, 0), (record.millis, record.serial))

    def test_a_backslash_that_kmsg_escapes(self):
        line = b'5,1,2,-;audit: type=1400 %b%b' % (
            _HEADER,
            _OPEN % rb'"/a\x5cx41"',
        )
        self.assertSame(_parse(_OPEN % rb'"/a\x41"'), _parse_line(line))

    def test_auditd_replaces_the_line_breaks_of_a_programs_message(self):
        for shape in shapes.ALL:
            if shape.kind == records.USER_AVC:
                sent = records.parse(shape.kind, shape.payload)
                self.assertSame(
                    sent,
                    _parse_line(
                        b'type=USER_AVC msg=%b\x1dUID="root"'
                        % shape.payload.replace(b'\n', b' ')
                    ),
                )

    def test_types_have_names_in_a_file(self):
        for name, kind in (
            ('MAC_STATUS', records.MAC_STATUS),
            ('MAC_POLICY_LOAD', records.MAC_POLICY_LOAD),
            ('MAC_CONFIG_CHANGE', records.MAC_CONFIG_CHANGE),
            ('SELINUX_ERR', records.SELINUX_ERR),
            ('USER_AVC', records.USER_AVC),
            ('APPARMOR_DENIED', 1503),
        ):
            shape = next(s for s in shapes.ALL if s.kind == kind)
            line = b'type=%b msg=%b' % (
                name.encode(),
                shape.payload.replace(b'\n', b' '),
            )
            self.assertSame(
                records.parse(kind, shape.payload), _parse_line(line)
            )

    def test_records_of_others_are_none(self):
        for line in (
            b'',
            b'garbage',
            b'type=SYSCALL msg=audit(1.234:5): arch=c000003e',
            b'type=USER_LOGIN msg=audit(1.234:5): pid=1',
            b'[ 1.2] audit: type=1300 audit(1.234:5): arch=c000003e',
            b'[ 1.2] eth0: link up',
        ):
            self.assertIsNone(records.parse_line(line), line)

    def test_two_records_of_an_event_have_two_identities(self):
        bodies = (_OPEN % b'"/x"', _OPEN % b'"/y"', _SE)
        self.assertEqual(
            len(bodies), len({records.identity(_parse(b)) for b in bodies})
        )

    def test_an_identity_does_not_depend_on_when_it_happened(self):
        body = _OPEN % b'"/x"'
        later = records.parse(records.AVC, b'audit(9.999:9): ' + body)
        self.assertEqual(
            records.identity(_parse(body)), records.identity(later)
        )


class ShapesTestCase(base.BaseTestCase):
    """Every kind of record that either module writes."""

    def assertRead(self, shape, record):
        self.assertIsInstance(record, records.Record, shape.name)
        self.assertEqual(
            (shape.verdict, shape.decision, ()),
            (record.verdict, record.decision, record.stray),
            shape.name,
        )
        self.assertEqual(
            shape.fields,
            {key: record.fields.get(key) for key in shape.fields},
            shape.name,
        )

    def test_each_shape_is_read(self):
        # the first of a shape is read in another way than those after it
        for _ in range(2):
            for shape in shapes.ALL:
                self.assertRead(
                    shape, records.parse(shape.kind, shape.payload)
                )

    def test_each_refusal_names_who_is_confined(self):
        for shape in shapes.ALL:
            record = records.parse(shape.kind, shape.payload)
            if record.decision:
                self.assertTrue(
                    record.label.startswith((shapes.MINE, shapes.SVIRT)),
                    shape.name,
                )

    def test_each_shape_has_its_name(self):
        names = [shape.name for shape in shapes.ALL]
        self.assertEqual(len(names), len(set(names)))

    def test_an_unknown_key_is_kept_and_an_unknown_word_as_well(self):
        for shape in shapes.ALL:
            if shape.kind == records.USER_AVC:
                continue
            for _ in range(2):
                record = records.parse(
                    shape.kind, shape.payload + b' nova-key=7 and'
                )
                self.assertEqual('7', record.text('nova-key'), shape.name)
                self.assertEqual(('and',), record.stray, shape.name)

    def test_more_shapes_than_are_remembered_are_read_as_well(self):
        for number in range(1000):
            record = _parse(
                b'apparmor="DENIED" operation="op%d" profile="p" k%d=%d'
                % (number % 100, number, number)
            )
            self.assertEqual(str(number), record.text(f'k{number}'))
        self.assertLessEqual(len(records._shapes), 64)
        self.assertLessEqual(max(map(len, records._shapes.values())), 8)


class ValuesTestCase(base.BaseTestCase):
    def test_serial_and_time(self):
        record = _parse(_OPEN % b'"/x"')
        self.assertEqual(52, record.serial)
        self.assertEqual(1795424098237, record.millis)
        self.assertEqual(
            datetime.datetime(2026, 11, 23, 8, 54, 58, 237000, datetime.UTC),
            record.time,
        )

    def test_serial_of_any_record(self):
        self.assertEqual(
            (1795424098237, 52), records.serial_of(_HEADER + _SYSCALL)
        )
        self.assertEqual((1795424098237, 52), records.serial_of(_HEADER[:-2]))
        self.assertIsNone(records.serial_of(b'garbage'))

    def test_decisions(self):
        for verdict, decision in (
            ('DENIED', 'denied'),
            ('KILLED', 'denied'),
            ('ALLOWED', 'would_deny'),
            ('AUDIT', None),
            ('STATUS', None),
            ('SOMETHING', None),
        ):
            record = _parse(f'apparmor="{verdict}" profile="p"'.encode())
            self.assertEqual(decision, record.decision)

    def test_a_hex_name_with_space_quote_and_newline_is_decoded(self):
        record = _parse(
            _OPEN % b'2F746D702F70726F62652F776522697264206E616D650A78'
        )
        self.assertEqual('/tmp/probe/we"ird name\nx', record.text('name'))

    def test_a_hex_name_in_utf8_is_decoded(self):
        record = _parse(_OPEN % b'2F746D702F66C3A9')
        self.assertEqual('/tmp/f\u00e9', record.text('name'))

    def test_bytes_that_are_no_text_are_kept_as_paths_have_them(self):
        record = _parse(_OPEN % b'2FFF00')
        self.assertEqual('/\udcff\0', record.text('name'))

    def test_a_quoted_name_of_hex_digits_is_not_decoded(self):
        self.assertEqual('2F41', _parse(_OPEN % b'"2F41"').text('name'))

    def test_a_number_is_not_taken_for_hex(self):
        record = _parse(
            b'apparmor="DENIED" operation="capable" class="cap" profile="p" '
            b'pid=20 comm="x" capability=21  capname="sys_admin"'
        )
        self.assertEqual(20, record.number('pid'))
        self.assertEqual(21, record.number('capability'))
        self.assertEqual('20', record.text('pid'))

    def test_what_is_no_number_is_none(self):
        record = _parse(b'apparmor="DENIED" profile="p" pid=1x error=-13 a=')
        self.assertIsNone(record.number('pid'))
        self.assertIsNone(record.number('a'))
        self.assertIsNone(record.number('nothing'))
        self.assertEqual(-13, record.number('error'))

    def test_a_record_that_was_cut_off_is_still_a_denial(self):
        record = _parse((_OPEN % b'"/tmp/secret"')[:90])
        self.assertEqual('denied', record.decision)
        self.assertEqual('libvirt-x', record.text('profile'))

    def test_a_message_that_was_cut_off_is_still_a_denial(self):
        shape = next(s for s in shapes.APPARMOR if 'dbus' in s.name)
        cut = shape.payload.index(b' peer_pid')
        record = records.parse(shape.kind, shape.payload[:cut])
        self.assertEqual('denied', record.decision)
        self.assertEqual(shapes.MINE, record.label)


class HostileTestCase(base.BaseTestCase):
    """Who may choose names chooses names, and nothing else."""

    _FORGED = b'type=AVC msg=' + _HEADER + _OPEN % b'"/etc/passwd"'

    def test_a_name_that_looks_like_more_of_the_record_is_only_a_name(self):
        # The kernel writes it in hex because of the quotes and spaces.
        name = b'/x" profile="unconfined" name="/y'
        record = _parse(_OPEN % name.hex().upper().encode())
        self.assertEqual(name.decode(), record.text('name'))
        self.assertEqual('libvirt-x', record.text('profile'))

    def test_a_name_that_looks_like_another_record_is_only_a_name(self):
        name = b'/x\n' + self._FORGED
        line = b'type=AVC msg=' + _HEADER
        line += _OPEN % name.hex().upper().encode()
        self.assertNotIn(b'\n', line)
        self.assertEqual(name.decode(), _parse_line(line).text('name'))

    def test_a_hex_name_that_looks_like_hex_is_decoded_once(self):
        name = b'/2F41 '
        record = _parse(_OPEN % name.hex().upper().encode())
        self.assertEqual('/2F41 ', record.text('name'))

    def test_the_first_of_two_equal_keys_counts(self):
        for body in (
            b'apparmor="DENIED" profile="one" profile="two" apparmor="STATUS"',
            b'apparmor="DENIED" profile="one" pid=1 profile=two'
            b' apparmor=STATUS',
        ):
            record = _parse(body)
            self.assertEqual('one', record.text('profile'))
            self.assertEqual('denied', record.decision)
            self.assertEqual(('profile=two', 'apparmor=STATUS'), record.stray)

    def test_a_verdict_that_does_not_come_first_is_none_the_less_one(self):
        # the first of a shape is read in another way than those after it
        for _ in range(2):
            record = _parse(
                b'pid=1 operation="o" apparmor="DENIED" profile="p"'
            )
            self.assertEqual('DENIED', record.verdict)
            self.assertEqual(1, record.number('pid'))

    def test_unknown_keys_and_stray_words_are_kept(self):
        record = _parse(
            b'apparmor="DENIED" profile="p" new_key=7 and more flags="a, b"'
        )
        self.assertEqual('7', record.text('new_key'))
        self.assertEqual('a, b', record.text('flags'))
        self.assertEqual(('and', 'more'), record.stray)

    def test_a_record_within_the_text_of_another_is_not_found(self):
        forged = self._FORGED
        text = _HEADER + _OPEN % b'"/x"'
        for line in (
            b"type=USER_LOGIN msg=audit(1.234:5): msg='" + forged + b"'",
            b'type=SYSCALL msg=audit(1.234:5): key="' + forged + b'"',
            b'Nov 23 08:54:58 host qemu[7]: ' + forged,
            b'Nov 23 08:54:58 host qemu[7]: audit: type=1400 ' + text,
            b'Nov 23 08:54:58 host qemu[7]: kernel: audit: type=1400 ' + text,
            b'Nov 23 08:54:58 host qemu: audit[7]: AVC ' + _OPEN % b'"/x"',
            b'[ 1.2] usb 1-1: Product: audit: type=1400 ' + text,
            b'[ 1.2] audit: type=1300 audit(1.234:5): type=1400 ' + text,
            b'5,1,2,-;usb: audit: type=1400 ' + text,
        ):
            self.assertIsNone(records.parse_line(line), line)

    def test_what_a_program_quotes_does_not_choose_the_context(self):
        record = _parse(
            b"pid=1 uid=0 msg='avc:  denied  { start } for uid=0"
            b' cmdline="x" scontext=forged tcontext=forged permissive=1'
            b' tclass=service" scontext=true tcontext=true tclass=service'
            b" permissive=0  exe=\"/usr/lib/systemd/systemd\"'",
            records.USER_AVC,
        )
        self.assertEqual('denied', record.decision)
        self.assertEqual('true', record.label)
        self.assertEqual('true', record.text('tcontext'))
        self.assertIn('scontext=forged', record.stray)

    def test_a_programs_message_does_not_change_who_sent_it(self):
        record = _parse(
            b'pid=604 uid=0 msg=\'apparmor="DENIED" label="x" pid=7'
            b" sender_uid=1'",
            records.USER_AVC,
        )
        self.assertEqual(7, record.number('pid'))
        self.assertEqual(604, record.number('sender_pid'))
        self.assertEqual(0, record.number('sender_uid'))


class BadInputTestCase(base.BaseTestCase):
    def test_other_record_types_are_not_looked_at(self):
        self.assertIsNone(records.parse(1300, b'\0garbage'))

    def test_garbage_is_unparsable_with_the_reason(self):
        for kind in sorted(records.KINDS):
            for payload in (
                b'',
                b'garbage',
                b'audit(1.2:3): x',
                b'\xff' * 9000,
            ):
                bad = _unparsable(payload, kind)
                self.assertIn('no audit(TIME:SERIAL)', bad.reason)
                self.assertEqual(kind, bad.kind)

    def test_a_shape_that_is_not_known_is_unparsable_not_ignored(self):
        for kind, body, reason in (
            (records.AVC, b'res=1', 'neither AppArmor nor SELinux'),
            (records.AVC, b'lsm=SMACK fn=x', 'neither AppArmor nor SELinux'),
            (records.AVC, b'avc:  odd', 'nothing that is known'),
            (records.AVC, b'avc:  denied  { read } for pid=1', 'nor context'),
            (records.AVC, b'avc:  denied  null ssid=1 tsid=2', 'nor context'),
            (records.AVC, b'', 'neither AppArmor nor SELinux'),
            (records.SELINUX_ERR, b'seresult=denied', 'nor context'),
            (records.USER_AVC, b'pid=1 uid=0', 'without a message'),
            (records.USER_AVC, b"pid=1 msg='hello'", 'neither AppArmor'),
            (records.USER_AVC, b"pid=1 msg='avc:  hello'", 'nothing that is'),
            (records.USER_AVC, b"pid=1 msg='", 'neither AppArmor'),
            (records.MAC_STATUS, b'auid=1', 'does not say to which'),
        ):
            bad = _unparsable(_HEADER + body, kind)
            self.assertIn(reason, bad.reason)
            self.assertEqual(_HEADER + body, bad.payload)

    def test_a_denial_without_a_profile_is_unparsable_not_ignored(self):
        for body in (
            b'apparmor="DENIED" operation="open"',
            b'apparmor="DENIED" operation="open" profile=""',
        ):
            # also when such records without a denial were seen
            for verdict in (b'STATUS', b'DENIED'):
                records.parse(
                    records.AVC, _HEADER + body.replace(b'DENIED', verdict)
                )
            bad = _unparsable(_HEADER + body)
            self.assertIn('neither profile nor context', bad.reason)

    def test_the_mode_of_another_module_is_not_ours(self):
        body = b'enforcing=0 old_enforcing=1 auid=0 ses=1 lsm=ipe res=1'
        self.assertIsNone(records.parse(records.MAC_STATUS, _HEADER + body))

    def test_what_is_logged_of_garbage_is_all_and_printable(self):
        bad = _unparsable(b'\x1b[2J\n' * 5000)
        self.assertTrue(str(bad).isprintable())
        self.assertIn(repr(bad.payload), str(bad))

    def test_what_is_passed_on_of_garbage_is_all_that_a_kernel_sends(self):
        self.assertEqual(8970, len(_unparsable(b'x' * 100_000).payload))
        self.assertEqual(b'x' * 8000, _unparsable(b'x' * 8000).payload)


class EnrichmentTestCase(base.BaseTestCase):
    def _added(self, kind, body):
        serial, added = records.enrichment(kind, _HEADER + body)
        self.assertEqual(52, serial)
        return added

    def test_a_syscall(self):
        self.assertEqual(
            {'exe': '/usr/bin/qemu', 'comm': 'qemu', 'syscall': '257'},
            self._added(records.SYSCALL, _SYSCALL),
        )

    def test_a_syscall_has_a_name_where_auditd_added_it(self):
        body = _SYSCALL + b'\x1dARCH=x86_64 SYSCALL=openat UID="root"\n'
        self.assertEqual(
            'openat', self._added(records.SYSCALL, body)['syscall']
        )

    def test_a_name_cannot_pretend_to_be_what_auditd_added(self):
        name = b'/usr/bin/qemu\x1dSYSCALL=none'.hex().upper().encode()
        body = _SYSCALL.replace(b'"/usr/bin/qemu"', name)
        added = self._added(records.SYSCALL, body)
        self.assertEqual('257', added['syscall'])
        self.assertEqual('/usr/bin/qemu\x1dSYSCALL=none', added['exe'])

    def test_a_path(self):
        self.assertEqual(
            {
                'path': '/a b',
                'inode': '9',
                'dev': 'fd:01',
                'nametype': 'NORMAL',
            },
            self._added(
                records.PATH,
                b'item=0 name=2F612062 inode=9 dev=fd:01 mode=0100644 ouid=0'
                b' nametype=NORMAL cap_fp=0\x1dOUID="root"',
            ),
        )

    def test_a_directory(self):
        self.assertEqual(
            {'cwd': '/root'}, self._added(records.CWD, b'cwd="/root"')
        )

    def test_arguments_have_a_space_between(self):
        for body, title in (
            (
                b'proctitle=617564697463746C002D620038313932',
                'auditctl -b 8192',
            ),
            (b'proctitle=71656D7500', 'qemu'),
            (b'proctitle="qemu"', 'qemu'),
        ):
            self.assertEqual(
                {'proctitle': title}, self._added(records.PROCTITLE, body)
            )

    def test_an_address_stays_in_hex(self):
        self.assertEqual(
            {'saddr': '020016280A0000050000000000000000'},
            self._added(
                records.SOCKADDR,
                b'saddr=020016280A0000050000000000000000\x1d'
                b'SADDR={ saddr_fam=inet laddr=10.0.0.5 lport=5672 }',
            ),
        )

    def test_the_process_that_was_aimed_at(self):
        self.assertEqual(
            {'opid': '1002'},
            self._added(
                records.OBJ_PID,
                b'opid=1002 oauid=-1 ouid=0 oses=-1 obj=unconfined'
                b' ocomm="sshd"\x1dOAUID="unset" OUID="root"',
            ),
        )

    def test_what_is_not_there_is_left_out(self):
        self.assertEqual(
            {}, self._added(records.PROCTITLE, b'proctitle=(null)')
        )
        self.assertEqual({}, self._added(records.SYSCALL, b'exe=(null)'))

    def test_other_types_and_garbage_are_none(self):
        self.assertIsNone(records.enrichment(records.AVC, _HEADER + _SE))
        self.assertIsNone(records.enrichment(1320, _HEADER))
        self.assertIsNone(records.enrichment(records.SYSCALL, b'garbage'))

    def test_each_real_syscall_is_read_alike_from_netlink_and_file(self):
        text = (_DATA / 'apparmor-kernel7.2-auditd.log').read_bytes()
        of_file = {}
        for line in text.splitlines():
            found = records.locate(line)
            if found and (added := records.enrichment(*found)):
                of_file.setdefault((found[0], added[0]), added[1])
        named = 0
        for kind, payload in _lines('apparmor-kernel7.2-auditd.netlink'):
            added = records.enrichment(kind, payload)
            if added is None or kind == records.PATH:
                continue
            serial, values = added
            other = dict(of_file[kind, serial])
            if kind == records.SYSCALL:
                self.assertTrue(values['syscall'].isdigit())
                self.assertFalse(other['syscall'].isdigit())
                values = {**values, 'syscall': other['syscall']}
                named += 1
            self.assertEqual(values, other)
        self.assertGreater(named, 100)


class CoverageGuidedTest(fuzzing.CoverageGuided, base.BaseTestCase):
    """What leads to new branches of the reader is mutilated further."""

    fuzzer = 'nova_isolation.tests.unit.audit.fuzzer'
    runs = 20000


class FuzzTestCase(base.BaseTestCase):
    @hypothesis.given(
        strategies.sampled_from(sorted(records.KINDS)),
        strategies.binary(max_size=400),
    )
    def test_no_bytes_make_it_raise(self, kind, payload):
        records.parse(kind, payload)
        records.parse(kind, _HEADER + payload)
        records.parse_line(payload)
        records.parse_line(b'audit: type=%d %b%b' % (kind, _HEADER, payload))
        for enriching in records.ENRICHING:
            records.enrichment(enriching, _HEADER + payload)
        _parse(b'apparmor="DENIED" profile="p" ' + payload)

    @hypothesis.given(strategies.binary(max_size=80).filter(len))
    def test_any_name_that_the_kernel_writes_in_hex_comes_back(self, name):
        record = _parse(_OPEN % name.hex().upper().encode())
        self.assertEqual(name, os.fsencode(record.fields['name']))
        self.assertEqual('libvirt-x', record.text('profile'))
        self.assertEqual(780, record.number('pid'))

    @hypothesis.given(
        strategies.lists(
            strategies.tuples(
                strategies.sampled_from(['pid', 'name', 'comm', 'k', 'k-1']),
                strategies.booleans(),
                _VALUES,
                _VALUES,
            )
        )
    )
    def test_what_it_remembers_of_shapes_changes_nothing(self, words):
        def payload(choice):
            return (
                shapes.HEADER.encode()
                + ' '.join(
                    [
                        'apparmor="DENIED" operation="o"',
                        *(
                            f'{key}="{values[choice]}"'
                            if quoted
                            else f'{key}={values[choice]}'
                            for key, quoted, *values in words
                        ),
                        'profile="p"',
                    ]
                ).encode()
            )

        records._shapes.clear()
        expected = records.parse(records.AVC, payload(1))
        records._shapes.clear()
        records.parse(records.AVC, payload(0))
        self.assertEqual(expected, records.parse(records.AVC, payload(1)))
