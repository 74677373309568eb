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

import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_isolation.audit import records

_DATA = pathlib.Path(__file__).parent / 'samples'

_HEADER = b'audit(1795424098.237:52): '
_OPEN = (
    b'apparmor="DENIED" operation="open" class="file" profile="libvirt-x" '
    b'name=%s pid=780 comm="qemu" requested_mask="r" denied_mask="r"'
)


def _lines(name):
    for line in (_DATA / name).read_bytes().splitlines():
        kind, payload = line.split(b' ', 1)
        yield int(kind), payload


def _records(name):
    for kind, payload in _lines(name):
        record = records.parse(kind, payload)
        if isinstance(record, records.Record):
            yield payload, record


def _parse(body):
    record = records.parse(records.AVC, _HEADER + body)
    assert isinstance(record, records.Record), record
    return record


def _unparsable(payload):
    bad = records.parse(records.AVC, payload)
    assert isinstance(bad, records.Unparsable), bad
    return bad


class RealRecordsTestCase(base.BaseTestCase):
    """Excerpts of what live kernels sent."""

    def test_every_denial_is_recognised_and_nothing_is_unparsable(self):
        for name in (
            'apparmor-kernel6.1.netlink',
            'apparmor-kernel7.2.netlink',
            'apparmor-kernel7.2-auditd.netlink',
        ):
            counts = {'DENIED': 0, 'ALLOWED': 0, 'STATUS': 0, 'AUDIT': 0}
            for _payload, record in _records(name):
                self.assertEqual((), record.stray)
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

    def test_no_value_of_a_real_record_is_lost(self):
        for name in (
            'apparmor-kernel6.1.netlink',
            'apparmor-kernel7.2.netlink',
        ):
            for payload, record in _records(name):
                keys = re.findall(rb'(?<= )([a-z_]+)=', payload)
                self.assertEqual(
                    {key.decode() for key in keys},
                    {'apparmor', *record.fields},
                    payload,
                )

    def test_selinux_records_are_left_to_others(self):
        for kind, payload in _lines('selinux-kernel7.2.netlink'):
            self.assertIsNone(records.parse(kind, payload))

    def test_with_and_without_class(self):
        old = _records('apparmor-kernel6.1.netlink')
        new = _records('apparmor-kernel7.2.netlink')
        self.assertEqual({None}, {r.text('class') for _, r in old})
        self.assertIn('file', {r.text('class') for _, r in new})


class ValuesTestCase(base.BaseTestCase):
    def test_serial_and_time(self):
        record = _parse(_OPEN % b'"/x"')
        self.assertEqual(52, record.serial)
        self.assertEqual(
            datetime.datetime(2026, 11, 23, 8, 54, 58, 237000, datetime.UTC),
            record.time,
        )

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
        record = _parse(b'apparmor="DENIED" profile="p" pid=1x error=-13')
        self.assertIsNone(record.number('pid'))
        self.assertIsNone(record.number('nothing'))
        self.assertEqual(-13, record.number('error'))

    def test_a_name_that_looks_like_more_of_the_record_is_only_a_name(self):
        # The kernel writes it in hex because of the quotes and spaces.
        name = b'/x" profile="unconfined" name="/y'
        record = _parse(_OPEN % name.hex().upper().encode())
        self.assertEqual(name.decode(), record.text('name'))
        self.assertEqual('libvirt-x', record.text('profile'))

    def test_the_first_of_two_equal_keys_counts(self):
        record = _parse(
            b'apparmor="DENIED" profile="one" profile="two" apparmor="STATUS"'
        )
        self.assertEqual('one', record.text('profile'))
        self.assertEqual('denied', record.decision)
        self.assertEqual(('profile=two', 'apparmor=STATUS'), record.stray)

    def test_unknown_keys_and_stray_words_are_kept(self):
        record = _parse(
            b'apparmor="DENIED" profile="p" new_key=7 and more flags="a, b"'
        )
        self.assertEqual('7', record.text('new_key'))
        self.assertEqual('a, b', record.text('flags'))
        self.assertEqual(('and', 'more'), record.stray)

    def test_a_record_that_was_cut_off_is_still_a_denial(self):
        record = _parse((_OPEN % b'"/tmp/secret"')[:90])
        self.assertEqual('denied', record.decision)
        self.assertEqual('libvirt-x', record.text('profile'))


class BadInputTestCase(base.BaseTestCase):
    def test_other_record_types_are_not_looked_at(self):
        self.assertIsNone(records.parse(1300, b'\0garbage'))

    def test_garbage_is_unparsable_with_the_reason(self):
        for payload in (b'', b'garbage', b'audit(1.2:3): x', b'\xff' * 9000):
            self.assertIn('no audit(TIME:SERIAL)', _unparsable(payload).reason)
        bad = _unparsable(_HEADER + b'res=1')
        self.assertIn('neither AppArmor nor SELinux', bad.reason)

    def test_a_denial_without_a_profile_is_unparsable_not_ignored(self):
        bad = _unparsable(_HEADER + b'apparmor="DENIED" operation="open"')
        self.assertIn('names no profile', bad.reason)

    def test_what_is_logged_of_garbage_is_short_and_printable(self):
        bad = _unparsable(b'\x1b[2J\n' * 5000)
        self.assertTrue(str(bad).isprintable())
        self.assertLess(len(str(bad)), 2000)

    @hypothesis.given(strategies.binary(max_size=400))
    def test_no_bytes_make_it_raise(self, payload):
        records.parse(records.AVC, payload)
        records.parse(records.AVC, _HEADER + payload)
        _parse(b'apparmor="DENIED" profile="p" ' + payload)

    @hypothesis.given(strategies.binary(max_size=80).filter(len))
    def test_any_name_that_the_kernel_writes_in_hex_comes_back(self, name):
        record = _parse(_OPEN % name.hex().upper().encode())
        self.assertEqual(name, os.fsencode(record.fields['name']))
        self.assertEqual('libvirt-x', record.text('profile'))
        self.assertEqual(780, record.number('pid'))
