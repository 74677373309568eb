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
from nova_isolation.tests.unit.domain import xml
from nova_isolation.tests.unit import samples

_EVERYTHING = xml.make(
    top="""
<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages>
  <source type='file'/><access mode='shared'/></memoryBacking>
<sysinfo type='fwcfg'><entry name='a' file='/f'/></sysinfo>
<launchSecurity type='sev'><policy>3</policy></launchSecurity>
<seclabel type='dynamic' model='apparmor' relabel='yes'/>
<qemu:commandline><qemu:arg value='-s'/></qemu:commandline>""",
    os="<loader type='pflash' readonly='yes'>/l</loader><nvram>/n</nvram>"
    "<kernel>/k</kernel><acpi><table type='slic'>/a</table></acpi>",
    devices="""
<disk type='network' device='disk'><driver name='qemu' type='raw'/>
  <source protocol='rbd' name='p/i'><host name='h' port='1'/>
    <auth username='u'><secret type='ceph' uuid='x'/></auth>
    <config file='/c'/></source>
  <backingStore type='block'><format type='raw'/><source dev='/dev/sda'/>
    <backingStore/></backingStore>
  <mirror type='file' job='copy'><format type='raw'/><source file='/m'/>
  </mirror><target dev='vda' bus='virtio'/></disk>
<interface type='vhostuser'><mac address='m'/>
  <source type='unix' path='/v' mode='server'/></interface>
<interface type='hostdev'><source><address type='pci' domain='0' bus='1'
  slot='0' function='0'/></source><rom file='/r'/></interface>
<hostdev mode='subsystem' type='mdev'><source><address
  uuid='36a5a3c8-8489-4380-9a87-8a5b4732e00d'/></source></hostdev>
<hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/>
  <product id='0x2'/></source></hostdev>
<channel type='unix'><source mode='bind' path='/c'/>
  <target type='virtio' name='n'/></channel>
<graphics type='spice' autoport='yes'><listen type='address' address='::'/>
  <gl enable='yes' rendernode='/d'/></graphics>
<video><model type='virtio'><acceleration accel3d='yes'/></model></video>
<audio id='1' type='alsa'><output dev='d'/></audio>
<tpm model='tpm-crb'><backend type='emulator' version='2.0'>
  <encryption secret='x'/></backend></tpm>
<filesystem type='mount'><driver type='virtiofs'/><source dir='/s'/>
  <target dir='t'/><binary path='/b'/></filesystem>
<memory model='nvdimm'><source><path>/n</path></source>
  <target><size>1</size></target></memory>
<shmem name='s'><model type='ivshmem-plain'/></shmem>
<rng model='virtio'><backend model='egd' type='unix'>
  <source mode='connect' path='/e'/></backend></rng>
<input type='evdev'><source dev='/e'/></input>
<crypto model='virtio' type='qemu'><backend model='builtin'/></crypto>
<vsock model='virtio'><cid auto='yes'/></vsock>
<smartcard mode='host'/><pstore backend='acpi-erst'><path>/p</path></pstore>
""",
)
_DOMAINS = [
    etree.fromstring(text)
    for text in (_EVERYTHING, samples.domain('libvirt-11.3-running'))
]
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
_KNOWN = sorted(
    {
        str(part)
        for root in _DOMAINS
        for element in root.iter()
        for part in (element.tag, *element.keys(), *element.values())
    }
    | {'', '..', '/', '0', '-1', '0x', '/dev/pts/1', '\u202e', '9' * 400}
)
_WAYS = ('attribute', 'text', 'drop', 'double', 'move')
_VALUES = strategies.one_of(
    strategies.sampled_from(_KNOWN),
    strategies.text(
        strategies.characters(codec='utf-8', exclude_categories=['C']),
        max_size=20,
    ),
)


def _elements(root):
    return list(root.iter())


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


class FuzzTest(base.BaseTestCase):
    def test_everything_is_understood(self):
        for root in _DOMAINS:
            text = etree.tostring(root, encoding='unicode')
            self.assertEqual((), domain.parse(text).unknown)

    def _places(self):
        """Each element that is read closely, in a domain of its own."""
        for original in _DOMAINS:
            for index, element in enumerate(_elements(original)):
                if _read_closely(element):
                    root = copy.deepcopy(original)
                    yield root, _elements(root)[index]

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

    @hypothesis.settings(max_examples=300, deadline=None)
    @hypothesis.given(strategies.data())
    def test_a_mutilated_domain_is_read_or_is_invalid(self, data):
        root = copy.deepcopy(data.draw(strategies.sampled_from(_DOMAINS)))
        for _ in range(data.draw(strategies.integers(1, 6))):
            self._mutilate(data, root)
        text = etree.tostring(root, encoding='unicode')
        try:
            found = domain.parse(text)
        except exceptions.InvalidDomain as e:
            self.assertLess(len(e.message), 2000)
        else:
            self.assertIsInstance(found, domain.Domain)
            self.assertLess(len('; '.join(found.unknown)), 50_000)

    def _mutilate(self, data, root):
        element = data.draw(strategies.sampled_from(_elements(root)))
        parent = element.getparent()
        match data.draw(strategies.sampled_from(_WAYS)):
            case 'attribute':
                names = [*element.keys(), 'type', 'path', 'file', 'model']
                name = data.draw(strategies.sampled_from(names))
                element.set(name, data.draw(_VALUES))
            case 'text':
                element.text = data.draw(_VALUES)
            case 'drop' if parent is not None:
                parent.remove(element)
            case 'double' if parent is not None:
                parent.append(copy.deepcopy(element))
            case 'move' if parent is not None:
                places = [
                    e
                    for e in _elements(root)
                    if element not in (e, *e.iterancestors())
                ]
                data.draw(strategies.sampled_from(places)).append(element)

    @hypothesis.settings(max_examples=100, deadline=None)
    @hypothesis.given(strategies.text(max_size=200))
    def test_any_text_is_read_or_is_invalid(self, text):
        for whole in (text, xml.make(devices=text), xml.make(top=text)):
            try:
                domain.parse(whole)
            except exceptions.InvalidDomain as e:
                self.assertLess(len(e.message), 2000)
