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

"""Where this machine gets its packages from: the lab has no mirror of its
own.
"""

import os
import subprocess

from host.errors import LabError


def debian_mirror(label: str) -> str:
    """The machine's mirror of an archive.

    :param label: `Debian` or `Debian-Security`.
    """
    listing = subprocess.run(
        [
            'apt-get',
            'indextargets',
            '--format',
            '$(LABEL)|$(REPO_URI)',
            'Identifier: Packages',
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    for line in sorted(set(listing.splitlines())):
        name, _, uri = line.partition('|')
        if name == label:
            return uri
    raise LabError(
        f'apt knows no archive labelled {label}: the lab takes its mirrors '
        'from the configuration of apt'
    )


def pip_environment() -> dict[str, str]:
    """pip's index and limits as configured here, for a pip that runs in a
    tree.

    Indexes and archives on this machine's own disk are left out: the tree does
    not see them.
    """
    configured = {}
    listing = subprocess.run(
        ['python3', '-m', 'pip', 'config', 'list'],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout
    for line in listing.splitlines():
        name, _, value = line.partition('=')
        option = name.rpartition('.')[2].strip(':')
        values = [
            v
            for v in value.strip("'\"").replace('\\n', ' ').split()
            if '://' in v and not v.startswith('file:')
        ]
        if option in ('index-url', 'extra-index-url') and values:
            configured['PIP_' + option.upper().replace('-', '_')] = ' '.join(
                values
            )
        elif option in ('trusted-host', 'proxy', 'default-timeout'):
            configured['PIP_' + option.upper().replace('-', '_')] = (
                value.strip("'\"")
            )
    proxies = {
        k: v
        for k, v in os.environ.items()
        if k.lower() in ('http_proxy', 'https_proxy', 'no_proxy')
    }
    return proxies | configured
