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

"""``nova-isolation matrix``: who could reach what across guests."""

import argparse
from collections.abc import Iterator

from cliff import lister
from lxml import etree

from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import policy
from nova_isolation.apparmor import proof
from nova_isolation.cli import app
from nova_isolation.cli import host
from nova_isolation import domain as domain_module
from nova_isolation import exceptions
from nova_isolation import neighbours
from nova_isolation import processes
from nova_isolation.violations import text

_SVG = 'http://www.w3.org/2000/svg'
# In pixels.
_CELL, _LABEL = 24, 220
_MAX_DRAWN = 200


class Matrix(lister.Lister):
    """Show what guests could reach of each other; nothing when all is well.

    Without --kernel: which files and devices two guests have, by their XML.
    With it: what the kernel, asked, lets each guest do to what others have; a
    guest whose process is not confined may do everything. Exit status 1 when
    there is anything, or when a guest could not be compared.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            '--kernel',
            action='store_true',
            help='have every cell from the kernel (running guests only)',
        )
        parser.add_argument(
            '--svg', metavar='FILE', help='draw it, too, into this file'
        )
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        self.found: list[proof.Reach] = []
        self.incomplete = False
        super().run(parsed_args)
        return 1 if self.found or self.incomplete else 0

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        conf = app.configuration(self.app)
        guests, unread = host.guests(conf)
        for problem in unread:
            self.app.LOG.warning('not compared: %s', problem)
        self.incomplete = bool(unread)
        shared = conf.isolation.shared_paths
        runtime = conf.isolation.libvirt_runtime_directory
        self.found = list(
            by_kernel(guests, shared, runtime)
            if parsed_args.kernel
            else by_xml(guests, shared)
        )
        if parsed_args.svg:
            with open(parsed_args.svg, 'wb') as f:
                f.write(draw(guests, self.found))
        names = {guest.uuid: text.visible(guest.name) for guest in guests}
        return (
            ('Guest', 'Name', 'Access', 'Path', 'Origin', 'Of', 'Its name'),
            [
                (
                    reach.uuid,
                    names[reach.uuid],
                    reach.access,
                    text.visible(reach.resource.path),
                    reach.resource.origin,
                    reach.owner,
                    names[reach.owner],
                )
                for reach in self.found
            ],
        )


def by_xml(
    guests: list[host.Guest],
    shared: list[str],
    others: list[host.Guest] | None = None,
) -> Iterator[proof.Reach]:
    """Compare what the guests have, by the identity of files and devices.

    :param guests: all guests
    :param shared: ``[isolation] shared_paths``
    :param others: what they are compared with, when not with each other
    :returns: what is not intended
    """
    register = neighbours.Register()
    for guest in guests if others is None else others:
        register.put(guest.uuid, guest.resources)
    for guest in guests:
        for overlap in register.overlaps(guest.uuid, guest.resources, shared):
            # what is kept for it, it could not name itself
            if overlap.mine.access:
                yield proof.Reach(
                    guest.uuid,
                    overlap.uuid,
                    overlap.theirs,
                    overlap.mine.access,
                )


def by_kernel(
    guests: list[host.Guest], shared: list[str], runtime: str
) -> Iterator[proof.Reach]:
    """Ask the kernel about every pair.

    :param guests: all guests
    :param shared: ``[isolation] shared_paths``
    :param runtime: ``[isolation] libvirt_runtime_directory``
    :returns: what is not intended
    :raises HostFault: when the kernel does not answer
    """
    kernel.check_enabled()
    with kernel.Judge() as judge:
        for guest in guests:
            others = [
                (other.uuid, other.resources)
                for other in guests
                if other.uuid != guest.uuid
            ]
            if wrong := unconfined(guest.domain, runtime):
                everything = neighbours.Resource('/', wrong, 'rw', tree=True)
                for other, _ in others:
                    yield proof.Reach(guest.uuid, other, everything, 'rwx')
                continue
            yield from proof.reaches(
                judge, guest.uuid, guest.resources, others, shared
            )


def unconfined(domain: domain_module.Domain, runtime: str) -> str:
    """Tell why no profile keeps a guest from anything.

    :param domain: of the guest
    :param runtime: ``[isolation] libvirt_runtime_directory``
    :returns: in words; '' when one does, and of a guest that does not run
    """
    if domain.id is None:
        return ''
    try:
        pid = processes.find(runtime, domain.name, domain.uuid).pid
    except exceptions.NotConfined as e:
        return e.message
    expected = f'{policy.profile_name(domain.uuid)} (enforce)'
    wrong = sorted(set(kernel.labels(pid).values()) - {expected})
    return f'its process runs as {", ".join(wrong)}' if wrong else ''


def draw(guests: list[host.Guest], found: list[proof.Reach]) -> bytes:
    """Draw a matrix: a row for each guest, a column for each owner.

    :param guests: all guests; the first 200 are drawn
    :param found: what the cells show
    :returns: SVG
    """
    drawn = guests[:_MAX_DRAWN]
    size = _LABEL + _CELL * len(drawn)
    root = etree.Element(
        f'{{{_SVG}}}svg',
        nsmap={None: _SVG},  # type: ignore[dict-item]
        width=str(size),
        height=str(size),
        viewBox=f'0 0 {size} {size}',
    )

    def add(tag: str, words: str = '', **attributes: object) -> None:
        element = etree.SubElement(
            root,
            f'{{{_SVG}}}{tag}',
            {key.replace('_', '-'): str(v) for key, v in attributes.items()},
        )
        if words:
            title = etree.SubElement(element, f'{{{_SVG}}}title')
            title.text = words
            if tag == 'text':
                title.tail = words

    cells: dict[tuple[str, str], list[proof.Reach]] = {}
    for reach in found:
        cells.setdefault((reach.uuid, reach.owner), []).append(reach)
    for row, guest in enumerate(drawn):
        y = _LABEL + row * _CELL
        name = text.visible(guest.name, 24)
        add('text', name, x=8, y=y + 16, font_size=12)
        across = f'rotate(-90 {y + 16} {_LABEL - 8})'
        add(
            'text',
            name,
            x=y + 16,
            y=_LABEL - 8,
            font_size=12,
            transform=across,
        )
        for column, owner in enumerate(drawn):
            here = cells.get((guest.uuid, owner.uuid), [])
            fill = '#c62828' if here else '#e8f5e9'
            if guest is owner:
                fill = '#bdbdbd'
            add(
                'rect',
                '; '.join(text.visible(reach.words()) for reach in here),
                x=_LABEL + column * _CELL,
                y=y,
                width=_CELL - 2,
                height=_CELL - 2,
                fill=fill,
            )
    return etree.tostring(root, xml_declaration=True, encoding='utf-8')
