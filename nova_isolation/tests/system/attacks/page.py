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

"""The matrix as a file for programs and as a page for people.

Pure: parts in, text out.
"""

from collections.abc import Iterable
import json
import pathlib

from nova_isolation.tests.system.attacks import model

#: in the checkout
MATRIX = pathlib.Path('attack-matrix.json')
PAGE = pathlib.Path('doc/source/attack-matrix.rst')

_HEAD = """\
=============
Attack matrix
=============

.. Written by nova_isolation/tests/system/attacks/page.py.

What code in a captured QEMU tries, on a real kernel, against libvirt's stock
profile and against nova-isolation's. The code runs as QEMU's user, with what
QEMU's process has of groups, capabilities and ``no_new_privs``, but without
its seccomp filter and its private ``/dev``: the label alone stands in its way.
Where file modes would, they are opened before, as by an administrator's
mistake. Where a process must survive, a stand-in under its label is attacked;
where the machine lacks a file or a device, one of that name is made. In the
class *capabilities* the code has been left the capability that it uses. What
begins with *QMP* is done by a real QEMU, with its filter.

Each attempt is done first by the same code without a label: where that fails
too, it is *n/a*, with what made it fail. Success is what root sees from
outside, not what the code says. *Denied* names what denied it; *reported*
means that a consumer of the message bus was told. What the profile denies
quietly is not, and the reason of its rule is given.

*Inseparable* is what is allowed under the least profile, too, that a guest
with VNC needs: what the policy language of that image cannot tell from it.

QEMU takes plugins only on the command line of its start: that one is loaded is
tried by mapping a program that was dropped. What is *handed over* an
unconfined process opened.

The system tests do nova-isolation's columns again, on both images, and compare
them with this page.
"""


def merge(parts: Iterable[model.Part]) -> list[model.Row]:
    """Bring all runs together.

    :param parts: a run for each image and driver
    :returns: the rows of the matrix
    :raises KeyError: when a run is missing
    """
    by_image: dict[str, dict[str, tuple[model.Observation, ...]]] = {}
    for part in parts:
        by_image.setdefault(part.image, {})[part.driver] = part.observed
    return [
        row
        for image in sorted(by_image)
        for row in model.rows(image, by_image[image])
    ]


def to_json(rows: list[model.Row]) -> str:
    """Write the matrix, a line for each row.

    :param rows: of the matrix
    :returns: the text of attack-matrix.json
    """
    lines = ',\n'.join(f' {json.dumps(row)}' for row in rows)
    return f'[\n{lines}\n]\n'


def _cell(row: model.Row | None) -> str:
    if row is None:
        return ''
    if row['ours'] == model.NOT_APPLICABLE:
        return f'n/a: {row["by"]}'
    words = f'{row["ours"]}'
    if row['ours'] == model.DENIED:
        words += f': {row["by"]}'
        words += ', reported' if row['reported'] else ', not reported'
        if row['note']:
            words += f' ({row["note"]})'
    if row['inseparable']:
        words += f' (inseparable: {row["note"]})'
    return words


def _counts(rows: list[model.Row], image: str) -> list[str]:
    mine = [
        r
        for r in rows
        if r['image'] == image and r['class'] != model.LEGITIMATE
    ]
    tried = [r for r in mine if r['ours'] != model.NOT_APPLICABLE]

    def count(key: str, value: str | bool) -> int:
        return sum(r[key] == value for r in tried)

    return [
        f'* {image}: {len(mine)} attempts, {len(tried)} of which succeed '
        f'without confinement. Allowed by stock libvirt: '
        f'{count("stock", model.ALLOWED)}; by nova-isolation: '
        f'{count("ours", model.ALLOWED)}, of which inseparable: '
        f'{count("inseparable", True)}; denied and reported: '
        f'{count("reported", True)}.'
    ]


def write(rows: list[model.Row]) -> str:
    """Write the matrix for people.

    :param rows: of the matrix
    :returns: the text of the documentation's page
    """
    images = sorted({r['image'] for r in rows})
    lines = [_HEAD]
    for image in images:
        lines += _counts(rows, image)
    lines.append('')
    for kind in dict.fromkeys(r['class'] for r in rows):
        title = kind[0].upper() + kind[1:]
        lines += [title, '=' * len(title), '']
        lines += ['.. list-table::', '   :header-rows: 1', '']
        lines.append('   * - attempt')
        for image in images:
            lines.append(f'     - {image}, stock')
            lines.append(f'     - {image}, nova-isolation')
        names = dict.fromkeys(r['name'] for r in rows if r['class'] == kind)
        for name in names:
            lines.append(f'   * - {name}')
            for image in images:
                row = next(
                    (
                        r
                        for r in rows
                        if r['name'] == name and r['image'] == image
                    ),
                    None,
                )
                lines.append(f'     - {row["stock"] if row else ""}')
                lines.append(f'     - {_cell(row)}'.rstrip())
        lines.append('')
    return '\n'.join(lines)
