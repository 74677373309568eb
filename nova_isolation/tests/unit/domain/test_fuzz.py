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

"""No XML, however mutilated, breaks the reader or slips past it.

The budget is bounded: some hundred examples for each promise.
"""

import copy

import hypothesis
from hypothesis import strategies
from lxml import etree
from oslotest import base

from nova_isolation import domain
from nova_isolation import exceptions
from nova_isolation.tests.unit.domain import mutations
from nova_isolation.tests.unit.domain import xml
from nova_isolation.tests.unit import fuzzing

#: Whatever is in these is nothing of the host: names with their parent's.
_HARMLESS = frozenset(
    f'{parent}/{name}'
    for parent, names in {
        'domain': 'clock cpu currentMemory features iothreads memory metadata'
        ' name on_crash on_poweroff on_reboot resource uuid vcpu',
        'devices': 'controller emulator memballoon',
        'interface': 'model mtu',
        'launchSecurity': 'policy',
        'os': 'boot smbios',
        'seclabel': 'imagelabel label',
        'target': 'model size',
        'vsock': 'cid',
    }.items()
    for name in names.split()
)
#: The same of any device.
_HARMLESS_ANYWHERE = frozenset(['address', 'alias'])
_VALUES = strategies.one_of(
    strategies.sampled_from(mutations.KNOWN),
    strategies.text(
        strategies.characters(codec='utf-8', exclude_categories=['C']),
        max_size=20,
    ),
)


def _read_closely(element):
    """Whether neither it nor what it is in is harmless with all it has."""
    for inner in (element, *element.iterancestors()):
        outer = inner.getparent()
        if outer is None:
            return True
        # the second domain's is for the guest to read, the first one's names
        # files of the host
        if inner.tag == 'sysinfo' and inner.get('type') == 'smbios':
            return False
        if f'{outer.tag}/{inner.tag}' in _HARMLESS:
            return False
        if outer.getparent() is not None and (
            outer.getparent().tag == 'devices'
            and inner.tag in _HARMLESS_ANYWHERE
        ):
            return False
    return True


class CoverageGuidedTest(fuzzing.CoverageGuided, base.BaseTestCase):
    """What leads to new branches of the reader is mutilated further."""

    fuzzer = 'nova_isolation.tests.unit.domain.fuzzer'


class FuzzTest(base.BaseTestCase):
    def test_everything_is_understood(self):
        for root in mutations.DOMAINS:
            text = etree.tostring(root, encoding='unicode')
            self.assertEqual((), domain.parse(text).unknown)

    def _places(self):
        """Each element that is read closely, in a domain of its own."""
        for original in mutations.DOMAINS:
            for index, element in enumerate(original.iter()):
                if _read_closely(element):
                    root = copy.deepcopy(original)
                    yield root, list(root.iter())[index]

    def test_an_unknown_element_is_lost_nowhere(self):
        for root, place in self._places():
            place.insert(len(place) // 2, etree.Element('fuzz'))
            self._assert_named(root, place, '<fuzz>')

    def test_an_unknown_attribute_is_lost_nowhere(self):
        for root, place in self._places():
            place.set('fuzz', 'x')
            self._assert_named(root, place, "fuzz='x'")

    def _assert_named(self, root, place, words):
        found = domain.parse(etree.tostring(root, encoding='unicode')).unknown
        self.assertEqual(
            1, len(found), f'{found} in {root.getroottree().getpath(place)}'
        )
        self.assertTrue(found[0].endswith(words), found)

    @hypothesis.settings(max_examples=300)
    @hypothesis.given(strategies.data())
    def test_a_mutilated_domain_is_read_or_is_invalid(self, data):
        root = copy.deepcopy(
            data.draw(strategies.sampled_from(mutations.DOMAINS))
        )
        for _ in range(data.draw(strategies.integers(1, 6))):
            mutations.mutilate(
                root,
                lambda choices: data.draw(strategies.sampled_from(choices)),
                lambda: data.draw(_VALUES),
            )
        text = etree.tostring(root, encoding='unicode')
        try:
            found = domain.parse(text)
        except exceptions.InvalidDomain as e:
            self.assertLess(len(e.message), 2000)
        else:
            self.assertIsInstance(found, domain.Domain)
            self.assertLess(len('; '.join(found.unknown)), 50_000)

    @hypothesis.settings(max_examples=100)
    @hypothesis.given(strategies.text(max_size=200))
    def test_any_text_is_read_or_is_invalid(self, text):
        for whole in (text, xml.make(devices=text), xml.make(top=text)):
            try:
                domain.parse(whole)
            except exceptions.InvalidDomain as e:
                self.assertLess(len(e.message), 2000)
