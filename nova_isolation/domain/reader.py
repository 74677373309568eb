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

"""Reading XML so that nothing of it is overlooked.

A :class:`Node` remembers what was asked of its element. What nobody asked for
and nobody called harmless is found by :meth:`Node.unread`: a reader cannot
forget an element or attribute silently, however new it is.
"""

from collections.abc import Iterator
import dataclasses
import re
import typing

from lxml import etree

from nova_isolation import exceptions

# A domain of Nova with a hundred disks has some 60 KiB.
_MAX_XML = 4 * 1024 * 1024
_MAX_ELEMENTS = 50_000
# Of a name or value that stands in a message.
_MAX_SHOWN = 120
# As libvirt reads numbers: hexadecimal, octal, decimal.
_NUMBER = re.compile('0[xX][0-9a-fA-F]{1,8}|0[0-7]{0,10}|[1-9][0-9]{0,9}')
_QEMU_NAMESPACE = 'http://libvirt.org/schemas/domain/qemu/1.0'


def read_xml(xml: str) -> etree._Element:
    """Parse a domain's XML without entities, DTD or network.

    :param xml: the text as libvirt or Nova gives it
    :returns: the ``<domain>`` element
    :raises InvalidDomain: when it is not such a document
    """
    if len(xml) > _MAX_XML:
        raise exceptions.InvalidDomain(
            f'the XML of the domain has {len(xml)} characters, more than the '
            f'{_MAX_XML} that any guest of Nova needs'
        )
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        # bounds the depth, too, and so our recursion
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        # as bytes: lxml refuses text that carries an encoding declaration
        root = etree.fromstring(xml.encode(), parser)
    except (etree.XMLSyntaxError, UnicodeEncodeError) as e:
        raise exceptions.InvalidDomain(
            f'the XML of the domain cannot be parsed: {e}'
        ) from e
    count = typing.cast(float, root.xpath('count(descendant::*)'))
    if count > _MAX_ELEMENTS:
        raise exceptions.InvalidDomain(
            f'the XML of the domain has {count:.0f} elements, more than the '
            f'{_MAX_ELEMENTS} that any guest of Nova needs'
        )
    if root.getroottree().docinfo.internalDTD is not None:
        raise exceptions.InvalidDomain(
            'the XML of the domain carries a document type declaration'
        )
    if root.tag != 'domain':
        raise exceptions.InvalidDomain(
            f'the XML of the domain begins with {_shown(root.tag)}, not '
            '<domain>'
        )
    return root


def qemu(tag: str) -> str:
    """Give the full name of an element of libvirt's QEMU namespace.

    :param tag: its name there
    :returns: as :meth:`Node.child` takes it
    """
    return f'{{{_QEMU_NAMESPACE}}}{tag}'


class Node:
    """An element, or the place of one that is not there.

    :param element: the element, or None
    :param label: how a person knows it, e.g. ``<disk> vda``
    """

    def __init__(
        self, element: etree._Element | None, label: str = ''
    ) -> None:
        self._there = element is not None
        self._element = etree.Element('none') if element is None else element
        self.label = label
        self._attributes = {str(name) for name in self._element.keys()}
        self._text_read = False
        # what was not handed out yet, and what was
        self._left = list(self._element)
        self._nodes: list[Node] = []

    def __bool__(self) -> bool:
        return self._there

    def has(self, name: str) -> bool:
        """Tell whether the element has an attribute; it stays unread.

        :param name: of the attribute
        """
        return name in self._element.attrib

    @property
    def tag(self) -> str:
        """The element's name."""
        return str(self._element.tag)

    @property
    def where(self) -> str:
        """What an error calls the element."""
        return self.label or _shown(self._element.tag)

    def get(self, name: str, *known: str, default: str = '') -> str:
        """Read an attribute.

        :param name: of the attribute
        :param known: the values that the caller understands, when not all:
            with another one the attribute counts as unread
        :param default: what no value stands for
        :returns: the value; '' for one that is not known
        """
        value = str(self._element.get(name) or '') or default
        if known and value and value not in known:
            return ''
        self._attributes.discard(name)
        return value

    def text(self, *known: str) -> str:
        """Read the element's text.

        :param known: the texts that the caller understands, when not all
        :returns: the text without the space around it; '' for one that is
            not known
        """
        text = (self._element.text or '').strip()
        if known and text and text not in known:
            return ''
        self._text_read = True
        return text

    def path(self, name: str) -> str | None:
        """Read an attribute that is a path of the host.

        :param name: of the attribute
        :returns: the path, or None when it has none
        :raises InvalidDomain: when it is not plain and absolute
        """
        return absolute(self.get(name), f'{name} of {self.where}')

    def text_path(self) -> str | None:
        """Read a path of the host that is the element's text.

        :returns: the path, or None when it has none
        :raises InvalidDomain: when it is not plain and absolute
        """
        self._text_read = True
        # libvirt takes it with the space around it
        text = self._element.text or ''
        return absolute(text if text.strip() else '', self.where)

    def number(self, name: str) -> int | None:
        """Read an attribute that is a number.

        :param name: of the attribute
        :returns: the number, or None when it has none
        :raises InvalidDomain: when it is no number
        """
        value = self.get(name)
        if not value:
            return None
        if not _NUMBER.fullmatch(value):
            raise exceptions.InvalidDomain(
                f'{name} of {self.where} is no number: {value[:_MAX_SHOWN]!r}'
            )
        octal = value[0] == '0' and value[1:].isdigit()
        return int(value, 8 if octal else 0)

    def child(self, tag: str) -> 'Node':
        """Take the first child of a name, as libvirt does.

        :param tag: the name
        :returns: the child; false when there is none
        """
        for index, element in enumerate(self._left):
            if element.tag == tag:
                del self._left[index]
                return self._hand_out(element)
        return Node(None, f'{self.label} {_shown(tag)}'.strip())

    def children(self, *tags: str) -> 'list[Node]':
        """Take all children of some names.

        :param tags: the names; none for all children
        :returns: the children in their order
        """
        found = [e for e in self._left if not tags or e.tag in tags]
        self._left = [e for e in self._left if tags and e.tag not in tags]
        return [self._hand_out(element) for element in found]

    def _hand_out(self, element: etree._Element) -> 'Node':
        node = Node(element, f'{self.label} {_shown(element.tag)}'.strip())
        self._nodes.append(node)
        return node

    def harmless(self, attributes: str = '', children: str = '') -> None:
        """Leave out what gives a guest nothing of the host.

        :param attributes: names, separated by spaces
        :param children: names of elements, left out with all they contain
        """
        self._attributes -= set(attributes.split())
        names = set(children.split())
        self._left = [e for e in self._left if e.tag not in names]

    def all_harmless(self) -> None:
        """Leave out the element with all that it contains."""
        self._attributes.clear()
        self._left.clear()
        self._nodes.clear()
        self._text_read = True

    def unread(self) -> Iterator[str]:
        """Name what was neither read nor left out as harmless.

        :returns: elements, attributes and texts in words
        """
        prefix = f'{self.label} ' if self.label else ''
        for name in sorted(self._attributes):
            value = str(self._element.get(name))
            yield f'{prefix}{name[:_MAX_SHOWN]}={value[:_MAX_SHOWN]!r}'
        if not self._text_read:
            # also what stands between the children
            texts = [self._element.text, *(e.tail for e in self._element)]
            text = ''.join(str(t) for t in texts if t).strip()
            if text:
                yield f'{prefix}text {text[:_MAX_SHOWN]!r}'
        for element in self._left:
            yield prefix + _shown(element.tag)
        for node in self._nodes:
            yield from node.unread()


def _shown(tag: object) -> str:
    """The element as an operator knows it: no namespace, in brackets."""
    qualified = etree.QName(str(tag))
    prefix = 'qemu:' if qualified.namespace == _QEMU_NAMESPACE else ''
    return f'<{prefix}{qualified.localname[:_MAX_SHOWN]!s}>'


def absolute(path: str, what: str) -> str | None:
    """Check a path of the host.

    :param path: the path; '' stands for none
    :param what: whose it is, in words
    :returns: the path, or None for none
    :raises InvalidDomain: when it is not plain and absolute
    """
    if not path:
        return None
    parts = path.split('/')
    if parts[0] or '.' in parts or '..' in parts or '\0' in path:
        raise exceptions.InvalidDomain(
            f'{what} is not a plain absolute path: {path!r}'
        )
    return path


def read_port(text: str) -> int:
    """Read the number of a TCP port.

    :param text: of an attribute
    :returns: the number; 0 when it is none, or libvirt has yet to choose it
    """
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        return 0
    return int(text)


@dataclasses.dataclass(frozen=True, order=True)
class PciAddress:
    """The address of a PCI device of the host."""

    domain: int
    bus: int
    slot: int
    function: int

    def __str__(self) -> str:
        """Write it as the kernel does, e.g. ``0000:65:00.1``."""
        return (
            f'{self.domain:04x}:{self.bus:02x}:{self.slot:02x}'
            f'.{self.function:x}'
        )


def pci_address(source: Node) -> PciAddress | None:
    """Read the PCI address in a ``<source>``.

    :param source: the element
    :returns: the address, or None when it names none
    :raises InvalidDomain: when it is no PCI address
    """
    address = source.child('address')
    address.get('type', 'pci')
    address.harmless('multifunction')
    if not address:
        return None
    parts = [
        address.number(name) for name in ('domain', 'bus', 'slot', 'function')
    ]
    domain, bus, slot, function = (part or 0 for part in parts)
    if domain > 0xFFFFFFFF or bus > 0xFF or slot > 0x1F or function > 7:
        raise exceptions.InvalidDomain(
            f'{address.where} is no PCI address: {parts}'
        )
    return PciAddress(domain, bus, slot, function)
