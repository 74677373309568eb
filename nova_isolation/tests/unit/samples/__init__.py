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

"""Things of the world, as they were found.

``domains``: XML that Nova 34 defined, and what libvirt 11.3 made of it.
``images``: the first 1024 bytes of what qemu-img 7.2 created.
"""

import pathlib

_HERE = pathlib.Path(__file__).parent


def domain(name: str) -> str:
    """Read a domain's XML.

    :param name: of the file, without its suffix
    """
    return (_HERE / 'domains' / f'{name}.xml').read_text()


def image(name: str) -> bytes:
    """Read the beginning of an image.

    :param name: of the file, without its suffix
    """
    return (_HERE / 'images' / f'{name}.qcow2').read_bytes()
