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

"""The lab's faults, done as root: a privsep context of the tests' own."""

import subprocess
import tempfile

from oslo_privsep import priv_context

DIRECTORY = '/etc/apparmor.d/libvirt'

# CAP_MAC_ADMIN
context = priv_context.PrivContext(
    'isolation_test_hooks',
    cfg_section='isolation_test_hooks',
    pypath='isolation_test_hooks.privileged.context',
    capabilities=[33],
)


@context.entrypoint
def complain(uuid):
    """Load the guest's own profile in complain mode."""
    with open(f'{DIRECTORY}/libvirt-{uuid}') as f:
        text = f.read()
    changed = text.replace(' flags=(', ' flags=(complain, ')
    assert changed != text
    _load(changed)


@context.entrypoint
def unload(uuid):
    """Remove the profile from the kernel: its processes are unconfined."""
    with open('/sys/kernel/security/apparmor/.remove', 'wb') as f:
        f.write(f'libvirt-{uuid}'.encode())


@context.entrypoint
def load_stock(uuid):
    """Load libvirt's stock policy under the guest's name."""
    with open(f'{DIRECTORY}/TEMPLATE.qemu') as f:
        text = f.read()
    _load(text.replace('LIBVIRT_TEMPLATE', f'libvirt-{uuid}'))


@context.entrypoint
def break_file(uuid):
    """Add something to the profile's file that does not compile."""
    with open(f'{DIRECTORY}/libvirt-{uuid}', 'a') as f:
        f.write('nonsense {\n')


@context.entrypoint
def write_foreign(uuid):
    """Put a file of an operator's in the profile's place."""
    with open(f'{DIRECTORY}/libvirt-{uuid}', 'w') as f:
        f.write(f'# by hand\nprofile libvirt-{uuid} {{ /** rwk, }}\n')


def _load(text):
    with tempfile.NamedTemporaryFile('w') as f:
        f.write(text)
        f.flush()
        subprocess.run(['apparmor_parser', '-rTK', f.name], check=True)
