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

"""Loads a guest's profile into the kernel of the lab's machine, for tests that
need no libvirt.
"""

from collections.abc import Sequence
import os
import subprocess
import tempfile

from nova_isolation.apparmor import abi
from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import parser as parser_module
from nova_isolation.apparmor import policy as policy_module

PARSER = parser_module.Parser('/usr/sbin/apparmor_parser', 60)


def load(policy: policy_module.Policy, monitors: Sequence[str] = ()) -> str:
    """Render a policy, load it, and see that the kernel holds just that.

    :param policy: a checked one; it replaces the one that has its name
    :param monitors: see ``[isolation] monitoring_labels``
    :returns: the profile's name
    """
    text = policy_module.render(
        policy,
        abi=os.path.join(os.path.dirname(abi.__file__), 'abi-1'),
        dialect=PARSER.find_dialect(),
        state_directory='/var/lib/libvirt/qemu',
        monitors=monitors,
    )
    with tempfile.NamedTemporaryFile('w') as f:
        f.write(text)
        f.flush()
        # as libvirt does it
        subprocess.run([PARSER.path, '-rTK', f.name], check=True)
        compiled = kernel.digests(PARSER.compile(f.name))
        assert kernel.holds(policy.profile, compiled), text
    return policy.profile
