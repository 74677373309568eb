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

"""The tree layer: one Debian tree with everything that the controller and the
compute node run, and Nova from PyPI.
"""

import pathlib
import re
import shutil

from host import cache
from host import contain
from host import paths
from host import progress
from host import registries

NAME = 'tree'
VENV = '/opt/nova'
ACCOUNTS = 'host/accounts.sh'
USED = (
    ACCOUNTS,
    'etc/packages',
    'etc/requirements.txt',
    'etc/constraints.txt',
    'etc/sudoers',
)
PER_RUN = '/lab'  # where a run shows its own files; see site_packages()


def layer(image: str) -> cache.Layer:
    """The layer's recipe.

    :param image: the Debian suite.
    """
    recipe = [pathlib.Path(__file__), *(paths.LAB / file for file in USED)]
    key = cache.digest(image, *recipe)

    def build(work: pathlib.Path, logs: pathlib.Path) -> None:
        steps = progress.Steps(image, logs)
        with steps.step('Debian tree') as step:
            _debian(step, image, work)
        with steps.step('Python environment') as step:
            _environment(step, work)
        with steps.step('users and directories') as step:
            command = [f'/src/lab/{ACCOUNTS}']
            step.run(contain.in_tree(work, command, network=False))
            prune_plugins(work)

    return cache.Layer(f'{NAME}-{image}', key, build)


def packages(text: str, image: str) -> list[str]:
    """The Debian packages of an image.

    :param text: etc/packages: one a line; further words are the only images
        that have it.
    :param image: the Debian suite.
    """
    lines = [line.partition('#')[0].split() for line in text.splitlines()]
    return [
        words[0]
        for words in lines
        if words and image in (words[1:] or [image])
    ]


def sources(image: str) -> list[str]:
    """Where the packages come from, as lines for apt.

    :param image: the Debian suite.
    """
    debian = registries.debian_mirror('Debian')
    if image == registries.ROLLING:
        return [registries.rolling(debian)]
    security = registries.debian_mirror('Debian-Security')
    return [
        f'deb {debian} {image} main',
        f'deb {debian} {image}-updates main',
        f'deb {security} {image}-security main',
    ]


def _debian(step: progress.Step, image: str, work: pathlib.Path) -> None:
    wanted = packages((paths.LAB / 'etc' / 'packages').read_text(), image)
    not_wanted = [
        f'--dpkgopt=path-exclude=/usr/share/{d}/*'
        for d in ('doc', 'man', 'locale')
    ]
    command = [
        'mmdebstrap',
        '--quiet',
        '--mode=root',
        '--variant=minbase',
        '--aptopt=APT::Install-Recommends "false"',
    ]
    command += [*not_wanted, f'--include={",".join(wanted)}', image]
    command += [str(work), *sources(image)]
    step.run(contain.contained(command, network=True))
    for directory in ('src', 'share', PER_RUN.strip('/')):
        (work / directory).mkdir()


def _environment(step: progress.Step, work: pathlib.Path) -> None:
    env = contain.clean_environment(
        **registries.pip_environment(), PIP_DISABLE_PIP_VERSION_CHECK='1'
    )
    env['PIP_CERT'] = '/etc/ssl/certs/ca-certificates.crt'
    etc = '/src/lab/etc'
    wanted = f'-c {etc}/constraints.txt -r {etc}/requirements.txt'.split()
    pip = [f'{VENV}/bin/pip', 'install', '--quiet', '--no-cache-dir']
    for command in (['python3', '-m', 'venv', VENV], [*pip, *wanted]):
        step.run(contain.in_tree(work, command, network=True), env=env)
    site = site_packages(work)
    debian = work / 'usr/lib/python3/dist-packages'
    for module in [*debian.glob('libvirt*'), *debian.glob('LibAppArmor*')]:
        if module.is_dir():
            shutil.copytree(module, site / module.name)
        else:
            shutil.copy(module, site)
    # each run puts the checkout and its plugins on the path of whatever runs
    # this Python, root's helpers behind sudo included
    (site / 'lab.pth').write_text(
        f"import site; site.addsitedir('{PER_RUN}/site')\n"
    )


def site_packages(tree: pathlib.Path) -> pathlib.Path:
    """The directory of the environment's packages."""
    return (
        next((tree / VENV.strip('/') / 'lib').glob('python3.*'))
        / 'site-packages'
    )


def prune_plugins(tree: pathlib.Path) -> None:
    """Keep only the broker of RabbitMQ: it reads all its plugins at every
    start, which takes half of that time.
    """
    for plugins in (tree / 'usr/lib/rabbitmq/lib').glob('*/plugins'):
        needs: dict[str, tuple[pathlib.Path, list[str]]] = {}
        for description in plugins.glob('*/ebin/*.app'):
            text = re.sub('%.*', '', description.read_text())
            found = re.search(r'\{\s*applications\s*,\s*\[([^]]*)]', text)
            needs[description.stem] = (
                description.parent.parent,
                re.findall(r'\w+', found[1]) if found else [],
            )
        keep: set[str] = set()
        todo = ['rabbit', 'getopt']  # cuttlefish uses getopt without saying so
        while todo:
            application = todo.pop()
            if application in needs and application not in keep:
                keep.add(application)
                todo += needs[application][1]
        for application in needs.keys() - keep:
            shutil.rmtree(needs[application][0])
