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

"""What a consumer of versioned notifications may rely on."""

import copy
import dataclasses
import json
import re

import ddt
import jsonschema
from oslo_versionedobjects import base as ovo_base
from oslo_versionedobjects import fixture
from oslotest import base

from nova_isolation.tests.unit.violations import samples
from nova_isolation.violations import model
from nova_isolation.violations import objects

# A payload has changed when this does not hold any more: raise its VERSION
# and those of the payloads it is in (the minor one for what is new, the major
# one for what goes or means something else), then set the new fingerprint.
_FINGERPRINTS = {
    'AgentPayload': '1.0-311ae9710b1e0d9c810ad9650f277aa5',
    'CanaryPayload': '1.0-f720cbec2b7dfac8b05b55081d5f245a',
    'ClassificationPayload': '1.0-87b9ee2cfe9764f10f06ee7c93235828',
    'DenialPayload': '1.0-b6f1d4043c39a1c3e5f14ffe9f108350',
    'FindingPayload': '1.0-53ad4cf6eace0285eba98d2e6a44488d',
    'InstancePayload': '1.0-29a7a89e4b04923a438805fc868e4431',
    'LostPayload': '1.0-633ee42f70602225787b6521791ae4f2',
    'RefusedPayload': '1.0-26b01f62a127933539ddeeb917dabbba',
    'RepeatsPayload': '1.0-bce94f56887f90f76b303eb8f2e27a68',
    'TargetPayload': '1.0-ee17791281e911858c751bf6492fd9e9',
    'UnconfinedPayload': '1.0-7a556c20d9467557a9badd731d5e4c3e',
    'ViolationPayload': '1.0-fe51d54b42ef703f4749c75aa7fcebda',
}

_PAGE = samples.DIRECTORY.parent / 'source/notifications.rst'


def _objects():
    return {
        name: classes
        for name, classes in (
            (n, [c for c in cs if issubclass(c, objects.Payload)])
            for n, cs in ovo_base.VersionedObjectRegistry.obj_classes().items()
        )
        if classes
    }


def _plain(value):
    """Take the names and versions out of a versioned payload."""
    if isinstance(value, dict):
        data = value.get('nova_isolation_object.data')
        return {k: _plain(v) for k, v in (data or value).items()}
    return value


class ContractTestCase(base.BaseTestCase):
    def test_no_payload_changes_without_a_new_version(self):
        checker = fixture.ObjectVersionChecker(_objects())
        expected, actual = checker.test_hashes(_FINGERPRINTS)
        self.assertEqual(expected, actual)

    def test_every_event_has_one(self):
        events = (
            model.Violation,
            model.Finding,
            model.Refused,
            model.Unconfined,
            model.Lost,
        )
        self.assertEqual(
            {event.event_type for event in events}
            | {
                'isolation.agent.start',
                'isolation.agent.stop',
                'isolation.agent.canary',
            },
            objects.EVENTS.keys(),
        )
        self.assertEqual(
            objects.EVENTS.keys(),
            {event.event_type for event in samples.EVENTS.values()},
        )


@ddt.ddt
class SampleTestCase(base.BaseTestCase):
    @ddt.data(*samples.written())
    def test_it_is_what_is_sent(self, path):
        self.assertEqual(
            samples.written()[path],
            path.read_text(),
            'python -m nova_isolation.tests.unit.violations.samples writes '
            'them anew',
        )

    def test_there_are_no_others(self):
        self.assertEqual(
            samples.written().keys(), set(samples.DIRECTORY.rglob('*.json'))
        )

    @ddt.data(*samples.EVENTS)
    def test_both_forms_have_the_same_keys_and_values(self, name):
        event = samples.EVENTS[name]
        plain = event.payload()
        versioned = objects.versioned(event.event_type, plain)
        self.assertEqual(plain, _plain(versioned))
        self.assertEqual(versioned, json.loads(json.dumps(versioned)))

    @ddt.data(*samples.EVENTS)
    def test_it_fits_the_schema_of_the_object(self, name):
        event = samples.EVENTS[name]
        jsonschema.validate(
            objects.versioned(event.event_type, event.payload()),
            objects.EVENTS[event.event_type].to_json_schema(),
        )

    @ddt.data(*samples.EVENTS)
    def test_the_object_can_be_made_from_it_again(self, name):
        event = samples.EVENTS[name]
        versioned = objects.versioned(event.event_type, event.payload())
        made = objects.Payload.obj_from_primitive(copy.deepcopy(versioned))
        self.assertEqual(versioned, made.obj_to_primitive())


class PayloadTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.violation = samples.EVENTS['isolation-violation']
        self.plain = self.violation.payload()

    def _made(self):
        return objects.versioned('isolation.violation', self.plain)

    def test_every_category_and_severity_of_the_model_is_one(self):
        for category in (
            model.CROSS_INSTANCE,
            model.HOST_FILE,
            model.EXEC,
            model.CAPABILITY,
            model.NETWORK,
            model.PROCESS,
            model.DEVICE,
            model.POLICY_GAP,
        ):
            for severity in (
                model.LOW,
                model.MEDIUM,
                model.HIGH,
                model.CRITICAL,
            ):
                self.plain['classification'] = model.Classification(
                    category, severity, 'x', rule='"/x" r,'
                ).payload()
                self._made()

    def test_microseconds_stay(self):
        data = self._made()['nova_isolation_object.data']
        self.assertEqual('2026-11-23T07:54:59.517000Z', data['time'])

    def test_what_a_newer_release_wrote_is_left_out(self):
        expected = self._made()
        self.plain['new'] = 1
        self.plain['instance']['new'] = 1
        self.assertEqual(expected, self._made())

    def test_what_an_older_release_did_not_write_is_null_or_empty(self):
        del self.plain['denial']['permissions']
        del self.plain['target']['name']
        data = self._made()['nova_isolation_object.data']
        denial = data['denial']['nova_isolation_object.data']
        self.assertIsNone(denial['permissions'])
        target = data['target']['nova_isolation_object.data']
        self.assertEqual('', target['name'])

    def test_what_does_not_fit_is_refused(self):
        for change in (
            {'id': 'x'},
            {'id': None},
            {'time': 5},
            {'time': '2026-11-23T07:54:59Z'},
            {'decision': 'allowed'},
            {'instance': None},
            {'instance': 'vm1'},
            {'instance': {**self.plain['instance'], 'uuid': 'X' * 36}},
            {'target': {**self.plain['target'], 'owner': []}},
            {'denial': {**self.plain['denial'], 'serial': 'many'}},
            {'denial': {**self.plain['denial'], 'other': {'a': {}}}},
            {'repeats': {**self.plain['repeats'], 'samples': 'one'}},
            {'summary': {}},
        ):
            self.assertRaises(
                (ValueError, TypeError),
                objects.versioned,
                'isolation.violation',
                {**self.plain, **change},
            )
        for missing in ('id', 'denial', 'summary'):
            plain = {k: v for k, v in self.plain.items() if k != missing}
            self.assertRaises(
                ValueError, objects.versioned, 'isolation.violation', plain
            )

    def test_of_what_nobody_knows_there_is_none(self):
        self.assertRaises(
            ValueError, objects.versioned, 'isolation.new', self.plain
        )

    def test_any_text_of_a_tenant_fits(self):
        evil = 'x\x1b[2J\r\n\u202e\udcff\\' * 1000
        event = dataclasses.replace(
            self.violation,
            instance=model.Instance(self.violation.instance.uuid, *[evil] * 7),
            denial=dataclasses.replace(
                self.violation.denial, comm=evil, name=evil, other={evil: evil}
            ),
        )
        objects.versioned(event.event_type, event.payload())


class PageTestCase(base.BaseTestCase):
    """doc/source/notifications.rst, which consumers program against."""

    def setUp(self):
        super().setUp()
        self.page = _PAGE.read_text()

    def test_every_key_of_every_object_is_described(self):
        for name, (cls, *_) in _objects().items():
            found = re.search(
                rf'^{name}\n[~\-]+\n(.*?)(?=^\S+\n[~=\-]+\n|\Z)',
                self.page,
                re.MULTILINE | re.DOTALL,
            )
            self.assertIsNotNone(found, f'{name} has no section')
            described = set(re.findall(r'^   \* - ``(.*?)``', found[1], re.M))
            common = set(objects._EVENT) | {'instance'}
            keys = set(cls.fields)
            if cls in objects.EVENTS.values():
                keys -= common
            self.assertEqual(keys, described, name)

    def test_every_sample_is_shown(self):
        shown = re.findall(r'literalinclude:: \S*samples/(\S+)', self.page)
        directory = samples.DIRECTORY
        for name in samples.EVENTS:
            self.assertIn(f'{name}.json', shown)
        for name in shown:
            self.assertTrue((directory / name).exists(), name)
