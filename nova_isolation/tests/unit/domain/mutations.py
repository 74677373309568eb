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

"""Domains with one of everything, and ways to mutilate them."""

import copy
import re

from lxml import etree

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
DOMAINS = [
    etree.fromstring(text)
    for text in (_EVERYTHING, samples.domain('libvirt-11.3-running'))
]
KNOWN = sorted(
    {
        str(part)
        for root in DOMAINS
        for element in root.iter()
        for part in (element.tag, *element.keys(), *element.values())
    }
    | {'', '..', '/', '0', '-1', '0x', '/dev/pts/1', '\u202e', '9' * 400}
)
_WAYS = ('attribute', 'text', 'drop', 'double', 'move')
# What lxml does not put into a document.
_NO_XML = re.compile(
    '[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]'
)


def mutilate(root, choose, value):
    """Change a domain a little.

    :param root: of its XML, changed in place
    :param choose: picks one of a list
    :param value: makes a text up
    """
    element = choose(list(root.iter()))
    parent = element.getparent()
    match choose(_WAYS):
        case 'attribute':
            name = choose([*element.keys(), 'type', 'path', 'file', 'model'])
            element.set(name, _NO_XML.sub('', value()))
        case 'text':
            element.text = _NO_XML.sub('', value())
        case 'drop' if parent is not None:
            parent.remove(element)
        case 'double' if parent is not None:
            parent.append(copy.deepcopy(element))
        case 'move' if parent is not None:
            places = [
                e
                for e in root.iter()
                if element not in (e, *e.iterancestors())
            ]
            choose(places).append(element)
