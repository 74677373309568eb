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

"""Guests as Nova defines them, with the files that they name.

Each has a disk with a backing file, a config drive, a console and two
interfaces.
"""

import dataclasses
import pathlib
import subprocess

from lxml import etree
from oslo_config import cfg

from nova_isolation.apparmor import abi
from nova_isolation.apparmor import grants
from nova_isolation.apparmor import policy as policy_module
from nova_isolation.apparmor import rules
from nova_isolation import chains
from nova_isolation.conf import isolation as options
from nova_isolation import domain
from nova_isolation.hooks import apparmor
from nova_isolation.hooks import base
from nova_isolation import hostfacts
from nova_isolation import images

_HERE = pathlib.Path(__file__).resolve().parent
_SAMPLE = (
    _HERE.parent
    / 'nova_isolation/tests/unit/samples/domains/libvirt-11.3-defined.xml'
)
# As that file names them.
_UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
_NAME = 'instance-00000001'
_IMAGE = '656d7074-0000-4000-8000-000000000001'

# The sample has one interface.
_SECOND = """<interface type='ethernet'>
  <mac address='fa:16:3e:13:de:22'/>
  <target dev='tap13de2102-1e' managed='no'/>
  <model type='virtio'/>
  <mtu size='1450'/>
</interface>
"""

INSTANCES = pathlib.Path('/var/lib/nova/instances')
PROFILES = pathlib.Path('/etc/apparmor.d/libvirt')
ABI = PROFILES / abi.NAME
STATE = '/var/lib/libvirt/qemu'

GRANTING = grants.Granting(
    images.NOWHERE, hostfacts.HostFacts(), grants.Places(), connections=False
)

_BASE = INSTANCES / '_base' / images.cache_name(_IMAGE)


@dataclasses.dataclass(frozen=True)
class Guest:
    """A guest.

    :ivar uuid: of its domain
    :ivar xml: with the chains stated, as our driver defines it
    :ivar stock: as Nova alone defines it, with the label that libvirt adds
    """

    uuid: str
    xml: str
    stock: str

    @property
    def profile(self) -> str:
        """The name of its profile."""
        return policy_module.profile_name(self.uuid)

    def running(self) -> 'Guest':
        """Give it as it runs: with libvirt's id and its own terminal."""
        root = etree.fromstring(self.xml)
        root.set('id', '1')
        for console in root.iterfind("devices/*[@type='pty']"):
            etree.SubElement(console, 'source', path='/dev/pts/0')
        return dataclasses.replace(
            self, xml=etree.tostring(root, encoding='unicode')
        )

    @property
    def directories(self) -> images.Directories:
        """Where its files may be."""
        return images.Directories(
            str(INSTANCES / self.uuid),
            str(_BASE.parent),
            frozenset([_BASE.name]),
        )


def make(number: int) -> Guest:
    """Make a guest and its files.

    :param number: a different one for each
    """
    # random ones differ as early
    uuid = f'{number:08x}'[::-1] + _UUID[8:]
    directory = INSTANCES / uuid
    directory.mkdir(parents=True)
    _overlay(directory / 'disk')
    for name in ('disk.config', 'console.log'):
        (directory / name).touch()
    text = _SAMPLE.read_text()
    for old, new in (
        (_UUID, uuid),
        (_NAME, f'instance-{number:08x}'),
        ('<interface ', f'{_SECOND}<interface '),
    ):
        text = text.replace(old, new)
    root = etree.fromstring(text)
    stock = etree.tostring(root, encoding='unicode')
    guest = Guest(uuid, '', stock)
    chains.state(root, guest.directories)
    return dataclasses.replace(
        guest, xml=etree.tostring(root, encoding='unicode')
    )


def _overlay(path: pathlib.Path) -> None:
    """Make a disk on the image cache's file; the header is that of any."""
    model = _BASE.parent / 'overlay'
    if not model.exists():
        _BASE.parent.mkdir(parents=True, exist_ok=True)
        with _BASE.open('wb') as f:
            f.truncate(64 << 20)
        command = ['qemu-img', 'create', '-q', '-f', 'qcow2']
        backing = ['-b', str(_BASE), '-F', 'raw', str(model), '64M']
        subprocess.run([*command, *backing], check=True)
    path.write_bytes(model.read_bytes()[:4096])


class Product:
    """The way of the product from a domain's XML to its profile."""

    def __init__(self, dialect: rules.Dialect) -> None:
        conf = cfg.ConfigOpts()
        options.register_opts(conf)
        conf([], default_config_files=[], default_config_dirs=[])
        self._hook = apparmor.AppArmorHook(conf)
        self._dialect = dialect

    def profile(self, guest: Guest) -> str:
        """Compute the text of a guest's profile.

        As at a start: nova-compute's side, and after the wire root's.
        """
        parsed = domain.parse(guest.xml)
        policy = self._hook.policy(base.Guest(parsed, guest.directories))
        return policy_module.render(
            policy_module.from_wire(policy.to_wire()),
            abi=str(ABI),
            dialect=self._dialect,
            state_directory=STATE,
        )
