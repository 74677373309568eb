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

"""Makes the matrix: runs the lab, writes attack-matrix.json and its page.

``python -m nova_isolation.tests.system.attacks.publish`` in the checkout runs
the lab once for each image and driver. With ``--parts DIR`` each run leaves
what it observed in DIR/IMAGE-DRIVER, and what is there already is taken.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

from nova_isolation.tests.system.attacks import model
from nova_isolation.tests.system.attacks import page

IMAGES = ('bookworm', 'trixie')
DRIVERS = {'stock': 'libvirt.LibvirtDriver', 'ours': 'isolation.LibvirtDriver'}
_PART = 'part.json'


def _run(image: str, driver: str, share: pathlib.Path) -> None:
    share.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            'lab/lab',
            'run',
            '--image',
            image,
            '--with',
            'nova',
            '--glance',
            'stub',
            '--conf',
            'tools/each-denial.conf',
            '--compute-driver',
            DRIVERS[driver],
            '--share',
            str(share),
            '--',
            sys.executable,
            '-W',
            'ignore',
            '-m',
            'nova_isolation.tests.system.attacks.observe',
            str(share / _PART),
        ],
        check=True,
    )


def main() -> None:
    """Run the lab and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--parts', type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = arguments.parts or pathlib.Path(scratch)
        parts = []
        for image in IMAGES:
            for driver in DRIVERS:
                share = place / f'{image}-{driver}'
                if not (share / _PART).exists():
                    _run(image, driver, share)
                parts.append(model.Part.read(share / _PART))
    bad = [
        f'{part.image}: {fault}'
        for part in parts
        for fault in model.faults(part.observed, part.driver)
    ]
    rows = page.merge(parts)
    page.MATRIX.write_text(page.to_json(rows))
    page.PAGE.write_text(page.write(rows))
    if bad:
        sys.exit('\n'.join(bad))


if __name__ == '__main__':
    main()
