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

"""What consumers and operators are told."""

import dataclasses
import datetime
import json
import uuid

from oslotest import base

from nova_isolation import domain
from nova_isolation.violations import model
from nova_isolation.violations import text

_TIME = datetime.datetime(2026, 11, 23, 7, 54, 59, 517000, datetime.UTC)
_ONE = model.Instance(
    uuid='5f0a2f0e-90ad-4b5b-8d6e-0d6a1f3b7a01',
    name='vm1',
    project_id='p1',
    project_name='acme',
    user_id='u1',
    user_name='alice',
    flavor='m1.tiny',
)
_TWO = model.Instance(
    uuid='0c7e54b2-7a11-4c2f-9f0e-61b2a3c4d502',
    name='vm2',
    project_id='p2',
    project_name='globex',
)
_PATH = '/var/lib/nova/instances/0c7e54b2-7a11-4c2f-9f0e-61b2a3c4d502/disk'


def _violation(**changes):
    violation = model.Violation(
        id='11111111-2222-3333-4444-555555555555',
        time=_TIME,
        host='cmp1',
        decision='denied',
        instance=_ONE,
        denial=model.Denial(
            serial=52,
            time=_TIME,
            profile=f'libvirt-{_ONE.uuid}',
            operation='open',
            class_='file',
            name=_PATH,
            requested_mask='wr',
            denied_mask='wr',
            comm='qemu-system-x86',
            pid=780,
            other={'fsuid': '64055'},
        ),
        target=model.Target(_PATH, 'disk', _TWO),
        attempt='open for writing',
        classification=model.Classification(
            model.CROSS_INSTANCE, model.CRITICAL, "another guest's disk"
        ),
        repeats=model.Repeats(1, _TIME, _TIME),
    )
    return dataclasses.replace(violation, **changes)


class ViolationTestCase(base.BaseTestCase):
    def test_the_whole_payload(self):
        owner = {
            'uuid': _TWO.uuid,
            'name': 'vm2',
            'project_id': 'p2',
            'project_name': 'globex',
            'user_id': '',
            'user_name': '',
            'flavor': '',
            'image_id': '',
        }
        nothing = dict.fromkeys(
            [
                'capability',
                'capname',
                'family',
                'sock_type',
                'protocol',
                'signal',
                'peer',
                'target',
                'info',
                'error',
                'laddr',
                'lport',
                'faddr',
                'fport',
                'permissions',
                'tclass',
                'tcontext',
                'exe',
                'proctitle',
                'syscall',
            ]
        )
        self.assertEqual(
            {
                'id': '11111111-2222-3333-4444-555555555555',
                'host': 'cmp1',
                'time': '2026-11-23T07:54:59.517000Z',
                'decision': 'denied',
                'instance': {
                    'uuid': _ONE.uuid,
                    'name': 'vm1',
                    'project_id': 'p1',
                    'project_name': 'acme',
                    'user_id': 'u1',
                    'user_name': 'alice',
                    'flavor': 'm1.tiny',
                    'image_id': '',
                },
                'denial': {
                    **nothing,
                    'serial': 52,
                    'time': '2026-11-23T07:54:59.517000Z',
                    'profile': f'libvirt-{_ONE.uuid}',
                    'module': 'apparmor',
                    'operation': 'open',
                    'class': 'file',
                    'name': _PATH,
                    'requested_mask': 'wr',
                    'denied_mask': 'wr',
                    'comm': 'qemu-system-x86',
                    'pid': 780,
                    'other': {'fsuid': '64055'},
                },
                'target': {
                    'path': _PATH,
                    'kind': 'disk',
                    'name': '',
                    'owner': owner,
                },
                'classification': {
                    'category': 'cross_instance',
                    'severity': 'critical',
                    'reason': "another guest's disk",
                    'rule': None,
                },
                'repeats': {
                    'count': 1,
                    'first': '2026-11-23T07:54:59.517000Z',
                    'last': '2026-11-23T07:54:59.517000Z',
                    'of': None,
                    'kinds': 0,
                    'samples': [],
                },
                'summary': (
                    f'instance vm1 ({_ONE.uuid}) of project acme tried to '
                    f'open for writing the disk {_PATH} of instance vm2 '
                    f'({_TWO.uuid}) of project globex: denied'
                ),
            },
            _violation().payload(),
        )

    def test_a_payload_is_json(self):
        payload = _violation().payload()
        self.assertEqual(payload, json.loads(json.dumps(payload)))

    def test_its_own(self):
        summary = _violation(
            target=model.Target(_PATH, 'console', _ONE)
        ).summary()
        self.assertIn(f'for writing its own console {_PATH}: den', summary)

    def test_nobodys(self):
        summary = _violation(
            target=model.Target('/etc/shadow', 'host file')
        ).summary()
        self.assertIn('for writing the host file /etc/shadow: den', summary)

    def test_no_file_at_all(self):
        summary = _violation(
            target=model.Target(None, 'capability'),
            attempt='use the capability sys_admin',
        ).summary()
        self.assertTrue(
            summary.endswith('tried to use the capability sys_admin: denied')
        )

    def test_another_guests_process(self):
        summary = _violation(
            target=model.Target(None, 'process', _TWO), attempt='trace (read)'
        ).summary()
        self.assertIn('tried to trace (read) the process of inst', summary)

    def test_a_process_of_the_host(self):
        denial = dataclasses.replace(_violation().denial, peer='unconfined')
        summary = _violation(
            target=model.Target(None, 'process'),
            denial=denial,
            attempt='send the signal kill to',
        ).summary()
        self.assertIn('kill to a process (profile unconfined): den', summary)

    def test_complain_mode_does_not_claim_a_denial(self):
        summary = _violation(decision='would_deny').summary()
        self.assertIn('allowed', summary)
        self.assertNotIn('denied', summary)

    def test_an_instance_of_which_only_the_uuid_is_known(self):
        summary = _violation(instance=model.Instance(_ONE.uuid)).summary()
        self.assertTrue(summary.startswith(f'instance {_ONE.uuid} tried to'))

    def test_no_text_of_a_tenant_leaves_the_line(self):
        evil = 'x\x1b[2J\r\nNov 23 root: all is well\u202e\u200b\udcff\\'
        denial = dataclasses.replace(
            _violation().denial,
            name=evil,
            comm=evil,
            other={evil: evil},
            info=evil,
        )
        violation = _violation(
            instance=model.Instance(_ONE.uuid, *[evil] * 6),
            denial=denial,
            target=model.Target(evil, 'disk', model.Instance('u', evil, evil)),
        )
        self.assertTrue(violation.summary().isprintable())
        self._assert_printable(violation.payload())

    def _assert_printable(self, value):
        if isinstance(value, dict):
            for key, inner in value.items():
                self._assert_printable(key)
                self._assert_printable(inner)
        elif isinstance(value, str):
            self.assertTrue(value.isprintable(), value)

    def test_a_huge_name_does_not_make_a_huge_event(self):
        huge = 'x' * 1000000
        violation = _violation(
            instance=model.Instance(_ONE.uuid, *[huge] * 6),
            target=model.Target('/' + huge, 'host file'),
        )
        self.assertLess(len(violation.summary()), 1000)
        self.assertLess(len(json.dumps(violation.payload())), 20000)

    def test_each_has_an_id_of_its_own_that_stays(self):
        first = _violation(id=model.new_id())
        second = _violation(id=model.new_id())
        self.assertEqual(first.payload()['id'], first.payload()['id'])
        self.assertNotEqual(first.id, second.id)
        self.assertEqual(first.id, str(uuid.UUID(first.id)))


class RefusedTestCase(base.BaseTestCase):
    def test_the_whole_payload(self):
        refused = model.Refused(
            id='11111111-2222-3333-4444-555555555555',
            time=_TIME,
            host='cmp1',
            instance=_TWO,
            operation='hard reboot',
            reason='its profile does not compile:\nline 3',
        )
        self.assertEqual('isolation.refused', refused.event_type)
        self.assertEqual('error', refused.priority)
        self.assertEqual(
            {
                'id': '11111111-2222-3333-4444-555555555555',
                'host': 'cmp1',
                'time': '2026-11-23T07:54:59.517000Z',
                'instance': _TWO.payload(),
                'operation': 'hard reboot',
                'attack': False,
                'reason': 'its profile does not compile:\\nline 3',
                'summary': (
                    f'hard reboot of instance vm2 ({_TWO.uuid}) of project '
                    f'globex refused: its profile does not compile:\\nline 3'
                ),
            },
            refused.payload(),
        )


class FindingTestCase(base.BaseTestCase):
    FOUND = model.Finding(
        id='11111111-2222-3333-4444-555555555555',
        time=_TIME,
        host='cmp1',
        instance=_TWO,
        kind='device kept',
        reason='it has /dev/sdc\nopen',
    )

    def test_the_whole_payload(self):
        self.assertEqual('isolation.finding', self.FOUND.event_type)
        self.assertEqual('warn', self.FOUND.priority)
        self.assertEqual(
            {
                'id': '11111111-2222-3333-4444-555555555555',
                'host': 'cmp1',
                'time': '2026-11-23T07:54:59.517000Z',
                'instance': _TWO.payload(),
                'kind': 'device kept',
                'attack': False,
                'reason': 'it has /dev/sdc\\nopen',
                'summary': (
                    f'instance vm2 ({_TWO.uuid}) of project globex: it has '
                    '/dev/sdc\\nopen'
                ),
            },
            self.FOUND.payload(),
        )

    def test_an_attack_is_more_than_a_warning(self):
        attack = dataclasses.replace(self.FOUND, attack=True)
        self.assertEqual('error', attack.priority)
        self.assertIn('globex, an attack: it has', attack.summary())
        self.assertTrue(attack.payload()['attack'])


class InstanceTestCase(base.BaseTestCase):
    def test_it_is_what_nova_wrote_into_the_domain(self):
        described = domain.parse(
            f"""<domain type='qemu'><name>instance-1</name>
            <uuid>{_ONE.uuid}</uuid><metadata>
            <nova:instance xmlns:nova='{domain.NOVA_NAMESPACE}'>
            <nova:name>vm1</nova:name><nova:flavor name='m1.tiny'/>
            <nova:owner><nova:user uuid='u1'>alice</nova:user>
            <nova:project uuid='p1'>acme</nova:project></nova:owner>
            </nova:instance></metadata></domain>"""
        )
        self.assertEqual(_ONE, model.Instance.of(described))


class VisibleTestCase(base.BaseTestCase):
    def test_plain_text_stays(self):
        for plain in ('', 'vm 1', 'h\u00e9llo \u65e5\u672c'):
            self.assertEqual(plain, text.visible(plain))

    def test_what_could_deceive_is_escaped(self):
        for raw, shown in (
            ('\x1b[31m', '\\x1b[31m'),
            ('a\nb', 'a\\nb'),
            ('a\\nb', 'a\\\\nb'),
            ('\u202egpj.exe', '\\u202egpj.exe'),
            ('\udcff', '\\udcff'),
            ('\x00\x7f\x9b', '\\x00\\x7f\\x9b'),
        ):
            self.assertEqual(shown, text.visible(raw))

    def test_two_texts_never_look_the_same(self):
        self.assertNotEqual(text.visible('\n'), text.visible('\\n'))

    def test_what_is_cut_says_so(self):
        self.assertEqual('ab...', text.visible('abc', 2))
        self.assertEqual('abc', text.visible('abc', 3))
