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

import configparser
import os
import pathlib
import subprocess

from host.errors import LabError

ROLLING = 'sid'
KEYRING = pathlib.Path('/usr/share/keyrings/debian-archive-keyring.gpg')
PIP_OPTIONS = ('index-url', 'extra-index-url', 'trusted-host', 'proxy')


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


def rolling(mirror: str) -> str:
    """apt's line for the suite that moves; a mirror that lags behind serves
    a Release file that is past its date.

    :param mirror: the archive.
    """
    options = f'signed-by={KEYRING} check-valid-until=no'
    return f'deb [{options}] {mirror} {ROLLING} main'


def pip_environment(home: pathlib.Path | None = None) -> dict[str, str]:
    """pip's index as configured here, as variables for a pip in a tree.

    Indexes and archives on this machine's own disk are left out: the tree does
    not see them.

    :param home: the user's directory, default that of who runs this.
    """
    home = home or pathlib.Path.home()
    files = [pathlib.Path('/etc/pip.conf')]
    files += [
        home / name for name in ('.pip/pip.conf', '.config/pip/pip.conf')
    ]
    parser = configparser.RawConfigParser()
    parser.read(files)
    found = {}
    for option in PIP_OPTIONS:
        variable = 'PIP_' + option.upper().replace('-', '_')
        values = [os.environ.get(variable, '')] + [
            parser.get(section, option, fallback='')
            for section in ('install', 'global')
        ]
        chosen = next(filter(None, values), '').split()
        if chosen := [value for value in chosen if 'file:' not in value]:
            found[variable] = ' '.join(chosen)
    return found | {
        name: value
        for name, value in os.environ.items()
        if name.lower() in ('http_proxy', 'https_proxy', 'no_proxy')
    }
