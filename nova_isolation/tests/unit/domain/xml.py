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

"""The least domain, with a place for what a test adds."""

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'

_XML = """
<domain type='{kind}' {attributes}
 xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  {top}
  <os {os_attributes}><type>hvm</type>{os}</os>
  <devices>
    <emulator>{emulator}</emulator>
    {devices}
  </devices>
</domain>
"""


def make(**parts):
    """Write the XML of a domain.

    :param parts: what to put in place of the defaults below
    :returns: the text
    """
    defaults = {
        'kind': 'kvm',
        'attributes': '',
        'name': 'instance-00000001',
        'uuid': UUID,
        'top': '',
        'os_attributes': '',
        'os': '',
        'emulator': '/usr/bin/qemu-system-x86_64',
        'devices': '',
    }
    return _XML.format(**{**defaults, **parts}).strip()


def disk(inner="<source file='/i/disk'/>", attributes="type='file'"):
    """Write the XML of a domain with one disk.

    :param inner: what is in the disk, besides its target
    :param attributes: of the disk
    :returns: the text
    """
    return make(
        devices=f"<disk {attributes}>{inner}<target dev='vda'/></disk>"
    )
