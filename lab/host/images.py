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

"""An image: the layers that a run needs, built in the order of their needs."""

import concurrent.futures
import dataclasses
import pathlib

from host import cache
from host import databases
from host import disk
from host import kernel
from host import registries
from host import requirements
from host import tree

STABLE = ('bookworm', 'trixie')
NAMES = (*STABLE, registries.ROLLING)
DEFAULT = 'trixie'


@dataclasses.dataclass(frozen=True)
class Image:
    """Directories of a complete image."""

    name: str
    kernel: pathlib.Path
    tree: pathlib.Path
    databases: pathlib.Path
    disk: pathlib.Path


def obtain(name: str, store: cache.Cache) -> Image:
    """The image, with what is missing built; it stays in the cache as long as
    this process lives.
    """
    linux = kernel.layer(store.root)
    base = tree.layer(name)
    data = databases.layer(name, base, store.root)
    compute = disk.layer(name, base, linux, store.root)
    missing = [
        layer
        for layer in (linux, base, data, compute)
        if not store.path(layer).is_dir()
    ]
    requirements.check(build=bool(missing))
    # independent of each other: one downloads, the other unpacks; then one is
    # idle while MariaDB starts, the other writes
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        below = [pool.submit(store.obtain, layer) for layer in (linux, base)]
        linux_path, tree_path = (future.result() for future in below)
        above = [pool.submit(store.obtain, layer) for layer in (data, compute)]
        data_path, disk_path = (future.result() for future in above)
    return Image(name, linux_path, tree_path, data_path, disk_path)
