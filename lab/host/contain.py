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

"""Commands whose processes and mounts end with them, and with us, however
either ends.

`unshare --kill-child` ends a namespace's processes with its first one,
`setpriv --pdeathsig` that one with the process that started it: a lab that is
killed leaves nothing running and nothing mounted.
"""

import collections.abc
import os
import pathlib

from host import paths


def contained(
    command: collections.abc.Sequence[str | pathlib.Path], *, network: bool
) -> list[str]:
    """The command in mount and process namespaces of its own.

    :param network: whether it keeps the host's network; else it gets an empty
        one.
    """
    isolate = [
        'unshare',
        '--mount',
        '--pid',
        '--fork',
        '--kill-child',
        '--mount-proc',
        *([] if network else ['--net']),
    ]
    return [
        'setpriv',
        '--pdeathsig',
        'KILL',
        *isolate,
        '--',
        *map(str, command),
    ]


def in_tree(
    root: pathlib.Path,
    command: collections.abc.Sequence[str],
    *,
    network: bool,
    overlay: tuple[pathlib.Path, pathlib.Path] | None = None,
) -> list[str]:
    """The command chrooted into a Debian tree, with /proc, /dev and this
    checkout at /src.

    :param overlay: upper and work directory that take what the command writes;
        without them the tree itself does.
    """
    script = paths.LAB / 'host' / 'in-tree.sh'
    upper = f'{overlay[0]}:{overlay[1]}' if overlay else ''
    return contained(
        [script, root, upper, paths.CHECKOUT, *command], network=network
    )


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of a command in a tree: nothing of the host's but what
    is given.
    """
    return {
        'PATH': '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        'HOME': '/root',
        'LC_ALL': 'C.UTF-8',
        'PYTHONWARNINGS': 'ignore',
        **({'TERM': os.environ['TERM']} if 'TERM' in os.environ else {}),
        **more,
    }
