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
That it suffices is shown by a guest that starts under it and answers VNC; each
rule is one without which it does not.
"""

import os
import subprocess

_HEAD = """
profile libvirt-{uuid} flags=(attach_disconnected) {{
  # libvirt changes the profile before it changes the user
  capability setuid,
  capability setgid,
  # libvirt ends it, and looks at it
  signal receive peer={{libvirtd,unconfined}},
  ptrace readby peer={{libvirtd,unconfined}},
  # the program, what it loads, and the guest's disk
  /usr/bin/qemu-system-x86_64 rmix,
  /usr/lib/**.so* rm,
  /usr/share/{{qemu,seabios}}/** r,
  /var/lib/libvirt/qemu/domain-[0-9]*-{name}/master-key.aes r,
  /dev/urandom r,
  "{directory}/disk" rwk,
  "{base}" rk,
"""

# Listening and connecting told apart, where the language can.
_FINE_NETWORK = """
  network (create, bind, listen, accept, getattr, setattr, getopt, setopt,
           shutdown, send, receive) inet stream,
"""
_NETWORK = """
  network inet stream,
"""
# libvirt's monitor: a socket that it opened, bound and hands over
_FINE_UNIX = """
  unix (create, bind, listen, accept, getattr, setattr, getopt, setopt,
        shutdown) type=stream,
  unix (send, receive) type=stream peer=(label={{libvirtd,unconfined}}),
}}
"""
_UNIX = """
  network unix stream,
}}
"""
_FORMS = (
    _FINE_NETWORK + _FINE_UNIX,
    _NETWORK + _FINE_UNIX,
    _NETWORK + _UNIX,
)

_ABIS = '/etc/apparmor.d/abi'


def write(uuid: str, name: str, directory: str, base: str) -> str:
    """Write the least profile of a guest.

    :param uuid: of the guest
    :param name: libvirt's of it
    :param directory: of its disk
    :param base: the image behind the disk
    :returns: the text, of the finest form that the parser takes
    :raises RuntimeError: when it takes none
    """
    refused = ''
    for abi in sorted(os.listdir(_ABIS), reverse=True):
        if not abi.replace('.', '').isdigit():
            continue
        for form in _FORMS:
            text = f'abi <abi/{abi}>,' + (_HEAD + form).format(
                uuid=uuid, name=name, directory=directory, base=base
            )
            done = subprocess.run(
                ['apparmor_parser', '-QTK'],
                input=text,
                text=True,
                capture_output=True,
            )
            if done.returncode == 0 and 'downgrad' not in done.stderr:
                return text
            refused = done.stderr
    raise RuntimeError(f'the parser takes no least profile: {refused}')
