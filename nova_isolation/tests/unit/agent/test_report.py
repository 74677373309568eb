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

"""A record of the kernel becomes words that an operator understands."""

import dataclasses

from oslotest import base

from nova_isolation.agent import report
from nova_isolation.audit import attempts
from nova_isolation.audit import attribution
from nova_isolation.audit import records
from nova_isolation.tests.unit.audit import denials
from nova_isolation.tests.unit.audit import guests

UUID1 = '5f0a2f0e-90ad-4b5b-8d6e-0d6a1f3b7a01'
UUID2 = '0c7e54b2-7a11-4c2f-9f0e-61b2a3c4d502'
INSTANCES = guests.INSTANCES


def _guest(uuid, name, project):
    return attribution.describe(
        guests.make(
            uuid, disks=[f'{INSTANCES}/{uuid}/disk'], nova=(name, project)
        )
    )


def _record(body, verdict='DENIED', profile=f'libvirt-{UUID1}'):
    record = records.parse(
        records.AVC,
        f'audit(1795424098.237:52): apparmor="{verdict}" '
        f'profile="{profile}" pid=780 comm="qemu" {body}'.encode(),
    )
    assert isinstance(record, records.Record)
    return record


class SubjectTestCase(base.BaseTestCase):
    def test_only_denials_of_guests_are_reported(self):
        for verdict, profile, uuid in (
            ('DENIED', f'libvirt-{UUID1}', UUID1),
            ('ALLOWED', f'libvirt-{UUID1}//null-/x', UUID1),
            ('DENIED', 'virt-aa-helper', None),
            ('STATUS', f'libvirt-{UUID1}', None),
            ('AUDIT', f'libvirt-{UUID1}', None),
        ):
            record = _record('operation="open"', verdict, profile)
            self.assertEqual(uuid, attempts.subject(record))

    def test_a_status_record_without_a_profile_is_no_fault(self):
        record = records.parse(
            records.AVC, b'audit(1.234:5): apparmor="STATUS" pid=1'
        )
        assert isinstance(record, records.Record)
        self.assertIsNone(attempts.subject(record))


class ViolationTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.other = _guest(UUID2, 'vm2', 'globex')
        self.table = attribution.Table(
            [_guest(UUID1, 'vm1', 'acme'), self.other],
            ['/var/lib/libvirt/qemu'],
        )

    def _violation(self, body, **kwargs):
        return report.violation(_record(body, **kwargs), self.table, 'cmp1')

    def _assert_says(self, words, body, **kwargs):
        summary = self._violation(body, **kwargs).summary()
        self.assertEqual(
            f'instance vm1 ({UUID1}) of project acme tried to {words}',
            summary,
        )

    def test_the_main_job(self):
        path = f'{INSTANCES}/{UUID2}/disk'
        self._assert_says(
            f'open for writing the disk {path} of instance vm2 ({UUID2}) of '
            f'project globex: denied',
            f'operation="open" class="file" name="{path}" '
            f'requested_mask="wr" denied_mask="wr"',
        )

    def test_every_field_of_the_record_is_in_the_event(self):
        violation = self._violation(
            'operation="open" class="file" info="x y" error=-13 name="/x" '
            'requested_mask="wr" denied_mask="w" fsuid=64055 ouid=0 new="1"'
        )
        denial = violation.denial
        self.assertEqual(52, denial.serial)
        self.assertEqual('open', denial.operation)
        self.assertEqual('file', denial.class_)
        self.assertEqual('x y', denial.info)
        self.assertEqual(-13, denial.error)
        self.assertEqual('/x', denial.name)
        self.assertEqual('wr', denial.requested_mask)
        self.assertEqual('w', denial.denied_mask)
        self.assertEqual('qemu', denial.comm)
        self.assertEqual(780, denial.pid)
        self.assertEqual(
            {'fsuid': '64055', 'ouid': '0', 'new': '1'}, denial.other
        )
        self.assertEqual('cmp1', violation.host)

    def test_files(self):
        for body, words in (
            (
                'operation="open" name="/etc/shadow" denied_mask="r"',
                'open for reading the host file /etc/shadow: denied',
            ),
            (
                'operation="open" name="/tmp/x" denied_mask="wc"',
                'open for writing the host file /tmp/x: denied',
            ),
            (
                'operation="exec" name="/bin/sh" denied_mask="x"',
                'execute the host file /bin/sh: denied',
            ),
            (
                'operation="unlink" name="/x" denied_mask="d"',
                'remove the host file /x: denied',
            ),
            (
                f'operation="link" name="/tmp/l" denied_mask="l" '
                f'target="{INSTANCES}/{UUID2}/disk"',
                f'link to the disk {INSTANCES}/{UUID2}/disk of instance vm2 '
                f'({UUID2}) of project globex: denied',
            ),
            (
                f'operation="truncate" name="{INSTANCES}/{UUID1}/disk" '
                f'denied_mask="w"',
                f'truncate its own disk {INSTANCES}/{UUID1}/disk: denied',
            ),
            (
                'operation="getattr" info="Failed name lookup - disconnected '
                'path" name="dev/console" denied_mask="r"',
                'look at the unnamed file dev/console: denied',
            ),
        ):
            self._assert_says(words, body)

    def test_what_is_no_file(self):
        for body, words, kind in (
            (
                'operation="capable" class="cap" capability=21 '
                'capname="sys_admin"',
                'use the capability sys_admin: denied',
                'capability',
            ),
            (
                'operation="create" class="net" family="inet" '
                'sock_type="stream" protocol=6 denied_mask="create"',
                'use (create inet stream) a socket: denied',
                'network',
            ),
            (
                f'operation="ptrace" denied_mask="read" '
                f'peer="libvirt-{UUID2}"',
                f'trace (read) the process of instance vm2 ({UUID2}) of '
                f'project globex: denied',
                'process',
            ),
            (
                'operation="signal" denied_mask="send" signal=kill '
                'peer="libvirtd"',
                'send the signal kill to a process (profile libvirtd): denied',
                'process',
            ),
            (
                'operation="change_profile" name="unconfined" '
                'target="unconfined"',
                'change its profile: denied',
                'profile',
            ),
            ('operation="uring_sqpoll"', 'do uring_sqpoll: denied', 'unknown'),
        ):
            self._assert_says(words, body)
            self.assertEqual(kind, self._violation(body).target.kind)

    def test_complain_mode(self):
        violation = self._violation(
            'operation="open" name="/x" denied_mask="r"', verdict='ALLOWED'
        )
        self.assertEqual('would_deny', violation.decision)

    def test_a_guest_that_libvirt_does_not_know_is_reported_by_uuid(self):
        self.table = attribution.Table()
        violation = self._violation(
            f'operation="open" name="{INSTANCES}/{UUID2}/disk"'
        )
        self.assertEqual(UUID1, violation.instance.uuid)
        self.assertEqual('', violation.instance.name)
        self.assertIsNone(violation.target.owner)
        self.assertEqual('host file', violation.target.kind)

    def test_what_it_means_is_in_the_event(self):
        event = self._violation(
            f'operation="open" name="{INSTANCES}/{UUID2}/disk" '
            'denied_mask="wr"'
        )
        self.assertEqual('cross_instance', event.classification.category)
        self.assertEqual('error', event.priority)
        gap = self._violation(
            f'operation="open" name="{INSTANCES}/{UUID1}/disk" denied_mask="r"'
        )
        self.assertEqual(
            f'"{INSTANCES}/{UUID1}/disk" r,', gap.classification.rule
        )

    def test_the_kernel_is_asked_whose_a_name_is_now(self):
        def judge(uuid, path):
            return 'rw' if uuid == UUID2 else ''

        path = f'{INSTANCES}/{UUID1}/disk'
        event = report.violation(
            _record(f'operation="open" name="{path}" denied_mask="r"'),
            self.table,
            'cmp1',
            judge=judge,
        )
        self.assertEqual('cross_instance', event.classification.category)
        self.assertEqual(UUID2, event.target.owner.uuid)

    def test_other_records_of_the_event_complete_it(self):
        event = report.violation(
            _record('operation="connect" family="inet" sock_type="stream"'),
            self.table,
            'cmp1',
            context={
                'exe': '/usr/bin/qemu',
                'proctitle': 'qemu -x',
                'syscall': 'connect',
                'saddr': '020016280A000005',
            },
        )
        denial = event.denial
        self.assertEqual(
            ('/usr/bin/qemu', 'qemu -x', 'connect'),
            (denial.exe, denial.proctitle, denial.syscall),
        )
        self.assertEqual(('10.0.0.5', 5672), (denial.faddr, denial.fport))
        self.assertEqual(
            f'instance vm1 ({UUID1}) of project acme tried to connect to the '
            'host service RabbitMQ at 10.0.0.5 port 5672: denied',
            event.summary(),
        )

    def test_a_record_of_selinux(self):
        level = 's0:c504,c872'
        guest = dataclasses.replace(_guest(UUID1, 'vm1', 'acme'), level=level)
        table = attribution.Table(
            [guest, dataclasses.replace(self.other, level='s0:c753,c832')]
        )
        # as in audit-samples/selinux-kernel7.2.netlink
        record = denials.selinux(
            'audit(1795424739.225:89): avc:  denied  { read write } for  '
            'pid=879 comm="qemu-system-x86" name="disk" dev="ubda" ino=14209 '
            f'scontext=system_u:system_r:svirt_t:{level} '
            'tcontext=system_u:object_r:svirt_image_t:s0:c753,c832 '
            'tclass=file permissive=0'
        )
        event = report.violation(record, table, 'cmp1')
        self.assertEqual(
            f'instance vm1 ({UUID1}) of project acme tried to use for writing '
            f'the disk {INSTANCES}/{UUID2}/disk of instance vm2 ({UUID2}) of '
            'project globex: denied',
            event.summary(),
        )
        denial = event.denial
        self.assertEqual('selinux', denial.module)
        self.assertEqual('read write', denial.permissions)
        self.assertEqual('file', denial.tclass)
        self.assertEqual('disk', denial.name)
        self.assertEqual(f'system_u:system_r:svirt_t:{level}', denial.profile)
        self.assertIn('svirt_image_t', denial.tcontext)
        self.assertEqual('14209', denial.other['ino'])

    def test_a_guest_that_is_known_by_its_categories_alone(self):
        record = denials.selinux(
            'audit(1.200:3): avc:  denied  { read } for  pid=1 path="/etc/x" '
            'scontext=system_u:system_r:svirt_t:s0:c1,c2 tclass=file'
        )
        event = report.violation(record, attribution.Table(), 'cmp1')
        self.assertEqual('s0:c1,c2', event.instance.uuid)
