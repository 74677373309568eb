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

"""The backing chain of each disk, stated in the domain's own XML.

Nova writes none, and libvirt then follows the image's header, which is the
guest's own writing. With an explicit ``<backingStore>`` chain down to the
empty one that ends it, libvirt and QEMU open what the XML names and nothing
else, whatever the header says meanwhile. The domain is so the record of what
Nova gave the guest; an element of our own in its metadata tells that the
chains are stated, and not libvirt's finding.

Format: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
"""

from lxml import etree

from nova_isolation import images

_NAMESPACE = 'https://docs.openstack.org/nova-isolation/1'
_MARK = f'{{{_NAMESPACE}}}chains'


def are_stated(root: etree._Element) -> bool:
    """Tell whether :func:`state` has been here.

    :param root: the ``<domain>`` element
    :returns: whether the chains in it are a record
    """
    return root.find(f'metadata/{_MARK}') is not None


def state(root: etree._Element, allowed: images.Directories) -> None:
    """Write the backing chain of each disk into a domain.

    :param root: the ``<domain>`` element, changed in place
    :param allowed: where the files may be
    :raises UntrustedImage: when a header names what it may not
    :raises MissingImage: when a file is not there
    """
    for disk in _disks(root):
        complete(disk, allowed)
    if not are_stated(root):
        metadata = root.find('metadata')
        if metadata is None:
            metadata = etree.SubElement(root, 'metadata')
        etree.SubElement(metadata, _MARK, nsmap={'isolation': _NAMESPACE})


def complete(device: etree._Element, allowed: images.Directories) -> None:
    """Write the backing chain of a disk into it, unless there is one.

    :param device: a ``<disk>`` element, changed in place; or another device,
        which has no chain
    :param allowed: where its files may be
    :raises UntrustedImage: when a header names what it may not
    :raises MissingImage: when a file is not there
    """
    if not _is_file(device) or device.find('backingStore') is not None:
        return
    path, image_format = _source(device)
    if path and image_format == 'qcow2':
        _write(device, images.chain(path, image_format, allowed)[1:])


def withdraw(root: etree._Element) -> None:
    """Take back what :func:`state` wrote.

    :param root: the ``<domain>`` element, changed in place
    """
    if not are_stated(root):
        return
    for disk in _disks(root):
        for store in disk.findall('backingStore'):
            disk.remove(store)
    for metadata in root.findall('metadata'):
        for mark in metadata.findall(_MARK):
            metadata.remove(mark)


def recorded(root: etree._Element) -> frozenset[str]:
    """Give the backing files that a domain's record names.

    :param root: the ``<domain>`` element
    :returns: their paths; none when the chains are not stated
    """
    if not are_stated(root):
        return frozenset()
    return frozenset(
        source.get('file', '')
        for disk in _disks(root)
        for source in disk.iterfind('.//backingStore/source')
    )


def _disks(root: etree._Element) -> list[etree._Element]:
    return [disk for disk in root.findall('devices/disk') if _is_file(disk)]


def _is_file(device: etree._Element) -> bool:
    return device.tag == 'disk' and device.get('type') == 'file'


def _source(disk: etree._Element) -> tuple[str, str]:
    source, driver = disk.find('source'), disk.find('driver')
    return (
        '' if source is None else source.get('file', ''),
        'raw' if driver is None else driver.get('type', 'raw'),
    )


def _write(disk: etree._Element, layers: tuple[images.Layer, ...]) -> None:
    at = disk
    for layer in layers:
        at = etree.SubElement(at, 'backingStore', type='file')
        etree.SubElement(at, 'format', type=layer.format)
        etree.SubElement(at, 'source', file=layer.path)
    # the empty one ends the chain
    etree.SubElement(at, 'backingStore')
