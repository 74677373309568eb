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

"""The least profile that a guest with VNC needs, for the parser that is there.

What is allowed even under it, no profile can deny in that parser's language.
It is no copy of the product's: fewer devices, no console, nothing for comfort.
That it suffices is shown by a guest that starts under it and answers VNC; that
what it leaves open is needed, by guests that do not without. What only the
start needs is taken from it then.
"""

import os
import subprocess

# What libvirt does in the process before it runs the emulator, and that it
# runs it; and what of that the emulator needs when it runs.
_START = (
    'capability setuid,',
    'capability setgid,',
    '/usr/bin/qemu-system-x86_64 rmix,',
)
_RUNS = ('/usr/bin/qemu-system-x86_64 rm,',)

_NEEDED = (
    # libvirt ends it, and looks at it
    'signal receive peer={{libvirtd,unconfined}},',
    'ptrace readby peer={{libvirtd,unconfined}},',
    '/usr/lib/**.so* rm,',
    '/usr/share/{{qemu,seabios}}/** r,',
    '/var/lib/libvirt/qemu/domain-[0-9]*-{name}/master-key.aes r,',
    '/dev/urandom r,',
    '"{directory}/disk" rwk,',
    '"{base}" rk,',
)

# Listening and connecting told apart, where the language can.
_FINE_NETWORK = """network (create, bind, listen, accept, getattr, setattr,
    getopt, setopt, shutdown, send, receive) inet stream,"""
_NETWORK = 'network inet stream,'
# libvirt's monitor: a socket that it opened, bound and hands over
_FINE_UNIX = """unix (create, bind, listen, accept, getattr, setattr,
    getopt, setopt, shutdown) type=stream,
  unix (send, receive) type=stream peer=(label={{libvirtd,unconfined}}),"""
_UNIX = 'network unix stream,'

_FORMS = (
    (_FINE_NETWORK, _FINE_UNIX),
    (_NETWORK, _FINE_UNIX),
    (_NETWORK, _UNIX),
)

_ABIS = '/etc/apparmor.d/abi'


def choose() -> tuple[str, tuple[str, ...]]:
    """Find the finest form that the parser takes.

    :returns: the feature ABI, and the rights that leave something open, in
        the order of the profile
    :raises RuntimeError: when it takes none
    """
    refused = ''
    for abi in sorted(os.listdir(_ABIS), reverse=True):
        if not abi.replace('.', '').isdigit():
            continue
        for form in _FORMS:
            done = subprocess.run(
                ['apparmor_parser', '-QTK'],
                input=write('0', 'x', '/x', '/y', abi, (*_START, *form)),
                text=True,
                capture_output=True,
            )
            if done.returncode == 0 and 'downgrad' not in done.stderr:
                return abi, (*_START, *form)
            refused = done.stderr
    raise RuntimeError(f'the parser takes no least profile: {refused}')


def narrow(rights: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out what only the start needs.

    :param rights: those of :func:`choose`
    :returns: what a guest that runs needs of them
    """
    return (*_RUNS, *(right for right in rights if right not in _START))


def write(
    uuid: str,
    name: str,
    directory: str,
    base: str,
    abi: str,
    rights: tuple[str, ...],
) -> str:
    """Write the least profile of a guest.

    :param uuid: of the guest
    :param name: libvirt's of it
    :param directory: of its disk
    :param base: the image behind the disk
    :param abi: see :func:`choose`
    :param rights: those of :func:`choose`, or all but one, or narrowed
    :returns: the text
    """
    rules = '\n  '.join((*rights, *_NEEDED)).format(
        name=name, directory=directory, base=base
    )
    return (
        f'abi <abi/{abi}>,\n'
        f'profile libvirt-{uuid} flags=(attach_disconnected) {{\n'
        f'  {rules}\n}}\n'
    )
