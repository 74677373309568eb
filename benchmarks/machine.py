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

"""The proof by the kernel's own answers, on the lab's machine.

``python3 -m benchmarks.machine IDLE``, by :mod:`benchmarks.main`, in ``lab/lab
run``: IDLE are milliseconds of :func:`benchmarks.figures.idle_calls` outside.
All guests' policies are in the kernel, as on a host full of them.
"""

import os
import subprocess
import sys
import time

from benchmarks import figures
from benchmarks import guests
from nova_isolation.apparmor import abi
from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import parser as parser_module
from nova_isolation.apparmor import proof
from nova_isolation import domain

NEIGHBOURS = 1000
REPEAT = 20


class Counting:
    """A judge that counts what it is asked.

    :param judge: who answers
    """

    def __init__(self, judge: proof.Judge) -> None:
        self._judge = judge
        self.asked = 0

    def file(self, profile: str, path: str) -> str:
        """Ask, and count that."""
        self.asked += 1
        return self._judge.file(profile, path)


def main() -> None:
    """Ask the kernel all that one start among many guests asks."""
    parser = parser_module.Parser('/usr/sbin/apparmor_parser', 60)
    product = guests.Product(parser.find_dialect())
    guests.ABI.write_text(abi.text())
    # the guest that starts is loaded last: the kernel finds its profile first
    made = [guests.make(n) for n in range(1, NEIGHBOURS + 2)]
    files = []
    for guest in made:
        path = guests.PROFILES / guest.profile
        path.write_text(product.profile(guest))
        files.append(str(path))
    subprocess.run([parser.path, '-rTK', *files], check=True)
    *others, mine = [
        (guest.uuid, guests.GRANTING.resources(domain.parse(guest.xml)))
        for guest in made
    ]

    def prove(judge: proof.Judge) -> None:
        found = list(proof.reaches(judge, *mine, others))
        for other in others:
            found += proof.reaches(judge, *other, [mine])
        assert not found, found

    with kernel.Judge() as judge, open(os.devnull, 'r+b') as null:
        # so that no empty answers are timed
        for guest, (uuid, resources) in zip(
            (made[0], made[-1]), (others[0], mine), strict=True
        ):
            assert guest.uuid == uuid
            assert judge.file(guest.profile, resources[0].path) == 'rw'
        counting = Counting(judge)
        prove(counting)
        count = counting.asked
        # User-Mode Linux counts the CPU's time in ticks of 10 ms
        asked, idle = (
            figures.quantile(times, 0.5) * 1000 / count
            for times in figures.alternate(
                REPEAT,
                lambda: prove(judge),
                lambda: figures.idle_calls(null.fileno(), count),
                clock=time.perf_counter,
            )
        )
    here = float(sys.argv[1]) * 1000 / figures.BATCH
    elsewhere = asked - idle + here
    total = f'one start among {NEIGHBOURS}, {count} answers, from that'
    figures.emit(
        figures.Figure(
            'proof',
            what,
            value,
            unit,
            most=most,
            reason='stock libvirt proves nothing',
        )
        for what, value, unit, most in (
            ('an answer of the kernel, in the lab', asked, 'us', None),
            ('of that, two system calls of the lab', idle, 'us', None),
            (
                'an answer with system calls of this host',
                elsewhere,
                'us',
                None,
            ),
            (total, elsewhere * count / 1000, 'ms', 100),
        )
    )


if __name__ == '__main__':
    main()
