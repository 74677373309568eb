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

"""The files that a run shows its machine at /lab: the job, projects, programs
and configuration.
"""

import collections.abc
import pathlib
import shutil

from host import distinfo
from host import paths

COMMON = ('nova-common.conf', 'nova-compute.conf')
HELPER = '/opt/nova/bin/privsep-helper'
WARM_HELPER = '/src/lab/guest/warm-privsep-helper'
# the privsep contexts in a nova-compute, by their sections
CONTEXTS = (
    'nova_sys_admin',
    'vif_plug_linux_bridge_privileged',
    'vif_plug_ovs_privileged',
    'privsep_osbrick',
    'nova_isolation_privileged',
)


def write(
    target: pathlib.Path,
    *,
    job: collections.abc.Mapping[str, str],
    plugins: collections.abc.Sequence[pathlib.Path],
    conf: collections.abc.Sequence[pathlib.Path],
    compute_driver: str,
    preload: bool,
) -> None:
    """Write them.

    :param target: the directory that is /lab.
    :param job: what guest/run reads.
    :param plugins: projects to install beside the checkout.
    :param conf: further configuration files.
    """
    target.mkdir()
    (target / 'job').write_text(
        ''.join(f'{name}={value}\n' for name, value in job.items())
    )
    site, programs = target / 'site', target / 'bin'
    for directory in (site, programs):
        directory.mkdir()
    distinfo.install(paths.CHECKOUT, '/src', site, programs)
    for number, plugin in enumerate(plugins):
        shutil.copytree(plugin, target / 'plugins' / str(number))
        distinfo.install(plugin, f'/lab/plugins/{number}', site, programs)
    _configuration(
        target / 'conf',
        conf,
        compute_driver,
        WARM_HELPER if preload else HELPER,
    )


def _configuration(
    target: pathlib.Path,
    conf: collections.abc.Sequence[pathlib.Path],
    compute_driver: str,
    helper: str,
) -> None:
    """Write nova-compute's and the agent's configuration: files in the order
    of their names.
    """
    target.mkdir()
    own = target / '30-run.conf'
    sources = [paths.LAB / 'etc' / name for name in COMMON]
    files = [
        target / f'{10 + n}-{source.name}' for n, source in enumerate(sources)
    ]
    files += [
        target / f'{50 + n}-{source.stem}.conf'
        for n, source in enumerate(conf)
    ]
    for source, file in zip([*sources, *conf], files, strict=True):
        shutil.copy(source, file)
        file.chmod(0o644)
    arguments = ' '.join(
        f'--config-file /lab/conf/{file.name}'
        for file in sorted([*files, own])
    )
    text = f'[DEFAULT]\ncompute_driver = {compute_driver}\n'
    text += ''.join(
        f'[{context}]\nhelper_command = sudo {helper} {arguments}\n'
        for context in CONTEXTS
    )
    own.write_text(text)
