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

"""The databases layer: what MariaDB, RabbitMQ and glance hold at the start of
a run, as an overlay over the tree.
"""

import pathlib
import shutil

from host import cache
from host import contain
from host import paths
from host import progress

NAME = 'databases'
UPPER = 'upper'
LIMIT = 180  # seconds
USED = (
    *(
        f'controller/{name}'
        for name in (
            'bake',
            'mariadb',
            'rabbitmq',
            'first_image.py',
            'resources.py',
        )
    ),
    *(
        f'etc/{name}'
        for name in (
            'mariadb.cnf',
            'glance-api.conf',
            'placement.conf',
            'nova-controller.conf',
        )
    ),
)


def layer(image: str, tree: cache.Layer, root: pathlib.Path) -> cache.Layer:
    """The layer's recipe.

    :param image: the Debian suite.
    :param tree: the layer below.
    :param root: the cache's directory.
    """
    recipe = [pathlib.Path(__file__), *(paths.LAB / file for file in USED)]
    key = cache.digest(image, tree.key, *recipe)

    def build(work: pathlib.Path, logs: pathlib.Path) -> None:
        upper = work / UPPER
        upper.mkdir()
        with progress.Steps(image, logs).step('databases') as step:
            command = contain.in_tree(
                root / tree.directory,
                ['/src/lab/controller/bake'],
                network=False,
                overlay=(upper, work / 'work'),
            )
            step.run(command, env=contain.clean_environment(), limit=LIMIT)
        for directory in ('run', 'tmp'):
            shutil.rmtree(upper / directory, ignore_errors=True)

    return cache.Layer(f'{NAME}-{image}', key, build)
