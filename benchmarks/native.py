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

"""What needs no kernel of its own: run natively in an image's Debian tree.

``python3 -m benchmarks.native NAME…``, by :mod:`benchmarks.main`.
"""

import os
import pathlib
import subprocess
import sys
import tracemalloc

from benchmarks import figures
from benchmarks import guests
from nova_isolation.apparmor import abi
from nova_isolation.apparmor import parser as parser_module
from nova_isolation import domain
from nova_isolation import neighbours

HELPER = '/usr/lib/libvirt/virt-aa-helper'
PARSER = '/usr/sbin/apparmor_parser'
TEMPLATE = guests.PROFILES / 'TEMPLATE.qemu'
# Where a profile is compiled, no kernel says what it mediates: for both
# sides the same list of features does, that of Linux 7.2.
FEATURES = f'--kernel-features={guests.ABI}'

REPEAT = 200
NEIGHBOURS = 1000


def version(*command: str) -> str:
    """Ask a program for its version, the first word with a digit."""
    text = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout
    return next(word for word in text.split() if word[0].isdigit())


class Native:
    """What the benchmarks here have in common: one guest, both its profiles.

    :param image: the tree's name
    """

    def __init__(self, image: str) -> None:
        self.guest = guests.make(1)
        guests.ABI.write_text(abi.text())
        dialect = parser_module.Parser(PARSER, 60).find_dialect()
        self.product = guests.Product(dialect)
        self.ours = guests.PROFILES / self.guest.profile
        self.ours.write_text(self.product.profile(self.guest))
        self.narrowed = guests.PROFILES / 'narrowed'
        self.narrowed.write_text(self.product.profile(self.guest.running()))
        self.parser = f'apparmor_parser {version(PARSER, "--version")}'
        self.stock: pathlib.Path | None = None
        self.peer: str | None = None
        self.reason = f'no {HELPER} in {image}'
        if os.path.exists(HELPER):
            libvirt = version('/usr/sbin/libvirtd', '--version')
            self.peer = f'libvirt {libvirt} ({image})'
            self.stock = self._write_stock()

    def ask_helper(self) -> str:
        """Have virt-aa-helper compute a guest's rules, as libvirtd does."""
        return subprocess.run(
            [HELPER, '-d', '-r', '-u', self.guest.profile],
            input=self.guest.stock,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def _write_stock(self) -> pathlib.Path:
        """Write what virt-aa-helper writes, which dry runs only print."""
        name = self.guest.profile
        rules = pathlib.Path(f'{guests.PROFILES}/stock.files')
        rules.write_text(self.ask_helper())
        template = TEMPLATE.read_text().replace('LIBVIRT_TEMPLATE', name)
        body, brace, _ = template.rpartition('}')
        path = guests.PROFILES / 'stock'
        path.write_text(f'{body}  #include <libvirt/{rules.name}>\n{brace}\n')
        return path

    def compute(self) -> list[figures.Figure]:
        """Domain XML to the text of a profile."""
        peers = [self.ask_helper] if self.stock else []
        times = figures.alternate(
            REPEAT, lambda: self.product.profile(self.guest), *peers
        )
        medians = [figures.quantile(t, 0.5) for t in times]
        return [
            figures.Figure(
                'compute',
                'a profile from XML, median',
                medians[0],
                'ms',
                self.peer and f'virt-aa-helper, {self.peer}',
                medians[1] if self.stock else None,
                most=2,
                reason=self.reason,
            )
        ]

    def compile(self) -> list[figures.Figure]:
        """The text of a profile to the kernel's policy."""
        empty = guests.PROFILES / 'empty'
        empty.write_text('profile empty {\n}\n')
        paths = [empty, self.ours, *([self.stock] if self.stock else [])]

        def run(path: pathlib.Path) -> None:
            command = [PARSER, '-QKT', FEATURES, str(path)]
            subprocess.run(command, check=True)

        times = figures.alternate(
            REPEAT, *[lambda path=path: run(path) for path in paths]
        )
        peer = self.peer and f'its profile, {self.parser}, {self.peer}'
        found = []
        for what, part, most in (
            (figures.COMPILED, 0.5, None),
            ('the same, p95', 0.95, 10),
        ):
            values = [figures.quantile(t, part) for t in times]
            found.append(
                figures.Figure(
                    'compile',
                    what,
                    values[1],
                    'ms',
                    peer,
                    values[2] if self.stock else None,
                    most=most,
                    reason=self.reason,
                )
            )
        found.append(
            figures.Figure(
                'compile',
                'an empty profile, median',
                figures.quantile(times[0], 0.5),
                'ms',
                reason='the start of the parser, which both have in theirs',
            )
        )
        return found

    def size(self) -> list[figures.Figure]:
        """What the kernel is given."""

        def measure(path: pathlib.Path) -> float:
            command = [PARSER, '-QTS', FEATURES, str(path)]
            done = subprocess.run(command, capture_output=True, check=True)
            return len(done.stdout) / 1000

        return [
            figures.Figure(
                'size',
                f'compiled policy of a guest that {what}',
                measure(path),
                'KB',
                self.peer and f'its profile, {self.parser}, {self.peer}',
                measure(self.stock) if self.stock else None,
                most=most,
                reason=self.reason,
            )
            for what, path, most in (
                ('starts', self.ours, None),
                ('runs', self.narrowed, 80),
            )
        ]

    def proof(self) -> list[figures.Figure]:
        """One start among many guests, by comparing what each has."""
        reason = 'stock libvirt proves nothing'
        xmls = [guests.make(n).xml for n in range(2, NEIGHBOURS + 2)]
        # as libvirt would list them: read once, outside of what is measured
        parsed = [domain.parse(xml) for xml in xmls]
        register = neighbours.Register()
        memory = {}
        tracemalloc.start()
        for count, other in enumerate(parsed, 1):
            register.put(other.uuid, guests.GRANTING.resources(other))
            if count in (NEIGHBOURS // 4, NEIGHBOURS // 2, NEIGHBOURS):
                memory[count] = tracemalloc.get_traced_memory()[0] / count
        tracemalloc.stop()
        mine = domain.parse(self.guest.xml)

        def start() -> None:
            found = guests.GRANTING.resources(mine)
            register.put(mine.uuid, found)
            overlaps = register.overlaps(mine.uuid, found)
            assert not overlaps, overlaps

        (times,) = figures.alternate(REPEAT, start)
        few, *_, many = memory.values()
        return [
            figures.Figure(
                'proof',
                f'one start among {NEIGHBOURS} guests by rules, p95',
                figures.quantile(times, 0.95),
                'ms',
                most=10,
                reason=reason,
            ),
            figures.Figure(
                'proof',
                f'memory for each of {NEIGHBOURS} guests',
                many / 1000,
                'KB',
                reason=reason,
            ),
            figures.Figure(
                'proof',
                f'that, compared with each of {NEIGHBOURS // 4}',
                many / few,
                'times',
                most=1.1,
                reason=reason,
            ),
        ]


def main() -> None:
    """Measure what the command line names; ``LAB_IMAGE`` names the tree."""
    native = Native(os.environ['LAB_IMAGE'])
    figures.emit(f for name in sys.argv[1:] for f in getattr(native, name)())


if __name__ == '__main__':
    main()
