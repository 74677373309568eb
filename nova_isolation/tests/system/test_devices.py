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

"""Guests with the devices of Nova start and run with what we grant them, and
the kernel denies them nothing that they ask for.

Runs on the lab's machine: ``lab/lab run --with libvirt --audit noquiet``,
where quiet denials are recorded, too.
"""

import json
import os
import pathlib
import re
import subprocess
import time
import unittest
import uuid

from nova_isolation.apparmor import abi
from nova_isolation.apparmor import grants
from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import parser as parser_module
from nova_isolation.apparmor import policy as policy_module
from nova_isolation import domain as domain_module
from nova_isolation import exceptions
from nova_isolation import hostfacts
from nova_isolation import images

AUDIT_LOG = pathlib.Path('/share/log/audit.log')
PROFILES = pathlib.Path('/etc/apparmor.d/libvirt')
STATE = '/var/lib/libvirt/qemu'
INSTANCES = pathlib.Path('/srv/instances')
SHARED = pathlib.Path('/srv/shared')
PARSER = parser_module.Parser('/usr/sbin/apparmor_parser', 60)

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  {top}
  <os {firmware}><type arch='x86_64' machine='q35'>hvm</type>{boot}</os>
  <features><acpi/></features>
  <devices>{devices}</devices>
  <seclabel type='dynamic' model='apparmor' relabel='yes'/>
</domain>
"""

#: What every profile denies on purpose: see nova_isolation.apparmor.needs.
QUIET = re.compile(
    'name="/proc/[0-9]+/(status|mounts|cmdline)"|family="netlink"'
    '|name="[^"]*/monitor.sock"|lttng-ust-wait'
)


def virsh(*words):
    done = subprocess.run(
        ['virsh', '-q', *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise AssertionError(f'virsh {words}: {done.stdout}')
    return done.stdout


class DevicesTest(unittest.TestCase):
    def policy(self, xml):
        """What the hook of nova-compute makes of a domain."""
        domain = domain_module.parse(xml)
        self.assertEqual((), domain.unknown)
        granting = grants.Granting(
            images.Directories(
                str(INSTANCES / domain.uuid), str(INSTANCES / '_base')
            ),
            hostfacts.HostFacts(),
            grants.Places(),
            connections=True,
        )
        return policy_module.compute(
            domain, granting.of(domain, unknown=True), complain=False
        )

    def write(self, policy):
        path = PROFILES / policy.profile
        path.write_text(
            policy_module.render(
                policy,
                abi=os.path.join(os.path.dirname(abi.__file__), 'abi-1'),
                dialect=PARSER.find_dialect(),
                state_directory=STATE,
            )
        )
        self.addCleanup(path.unlink, missing_ok=True)
        return str(path)

    def run_guest(self, name, *, top='', firmware='', boot='', devices=''):
        """Start a guest as nova-compute does, and let it run.

        :returns: its narrowed policy
        """
        identity = str(uuid.uuid4())
        instance = INSTANCES / identity
        instance.mkdir(parents=True)
        instance.chmod(0o777)
        INSTANCES.chmod(0o755)
        text = DOMAIN.format(
            name=name,
            uuid=identity,
            top=top,
            firmware=firmware,
            boot=boot,
            devices=devices.format(instance=instance),
        )
        path = pathlib.Path(instance, 'domain.xml')
        path.write_text(text)
        virsh('define', str(path))
        self.addCleanup(virsh, 'undefine', name, '--nvram')
        self.write(self.policy(virsh('dumpxml', '--inactive', name)))
        virsh('start', '--paused', name)
        self.addCleanup(virsh, 'destroy', name)
        policy = self.policy(virsh('dumpxml', name))
        self.assertIsNotNone(policy.id)
        PARSER.load(self.write(policy))
        virsh('resume', name)
        [pid] = (
            pathlib.Path('/run/libvirt/qemu', f'{name}.pid')
            .read_text()
            .split()
        )
        self.assertEqual(
            {f'{policy.profile} (enforce)'},
            set(kernel.labels(int(pid)).values()),
        )
        # the firmware looks at its devices meanwhile
        time.sleep(2)
        self.assertEqual('running', virsh('domstate', name).strip())
        self.assertEqual([], self.denied(name, policy))
        return policy

    def denied(self, name, policy):
        """What the kernel denied the guest until now."""
        last = f'sentinel-{name}'
        sentinel = pathlib.Path('/srv', last)
        sentinel.touch(mode=0o666)
        command = {
            'execute': 'blockdev-add',
            'arguments': {
                'driver': 'file',
                'node-name': last,
                'filename': str(sentinel),
                'read-only': True,
            },
        }
        answer = virsh('qemu-monitor-command', name, json.dumps(command))
        self.assertIn('Permission denied', answer)
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            text = AUDIT_LOG.read_text(errors='replace')
            if last in text:
                return [
                    line
                    for line in text.splitlines()
                    if f'profile="{policy.profile}"' in line
                    and 'DENIED' in line
                    and last not in line
                    and not QUIET.search(line)
                ]
            time.sleep(0.05)
        self.fail(f'no record of {last} in {AUDIT_LOG}')

    def _assert_uefi(self, policy):
        self.assertEqual(
            {'<loader>': 'rk', '<nvram>': 'rwk'},
            {f.origin: f.access for f in policy.files},
        )

    def test_uefi(self):
        code, variables = (
            f'/usr/share/OVMF/OVMF_{name}_4M.fd' for name in ('CODE', 'VARS')
        )
        self._assert_uefi(
            self.run_guest(
                'uefi',
                boot=f"<loader readonly='yes' type='pflash'>{code}</loader>"
                f"<nvram template='{variables}'>{STATE}/nvram/uefi_VARS.fd"
                '</nvram>',
            )
        )

    def test_uefi_that_libvirt_chooses(self):
        found = re.search(r'Using library: libvirt (\d+)', virsh('version'))
        if int(found[1]) >= 10:
            self._assert_uefi(self.run_guest('efi', firmware="firmware='efi'"))
            return
        # older ones choose at the start only
        with self.assertRaises(exceptions.NotCovered) as caught:
            self.run_guest('efi', firmware="firmware='efi'")
        self.assertIn('has not chosen', caught.exception.message)

    def test_a_virtual_tpm(self):
        self.run_guest(
            'tpm',
            devices="<tpm model='tpm-crb'><backend type='emulator'"
            " version='2.0'/></tpm>",
        )

    def test_shares_and_memory_that_is_shared(self):
        SHARED.mkdir(exist_ok=True)
        share = (
            "<filesystem type='mount'><driver type='virtiofs'/>"
            f"<source dir='{SHARED}'/><target dir='%s'/></filesystem>"
        )
        for source in ('memfd', 'file'):
            self.run_guest(
                f'share-{source}',
                top=f"<memoryBacking><source type='{source}'/>"
                "<access mode='shared'/></memoryBacking>",
                devices=share % 'a' + share % 'b',
            )

    def test_consoles_and_channels(self):
        self.run_guest(
            'consoles',
            devices="<serial type='pty'/>"
            "<serial type='file'><source path='{instance}/console.log'/>"
            '</serial>'
            "<serial type='tcp'><source mode='bind' host='127.0.0.1'"
            " service='10123'/><protocol type='raw'/></serial>"
            "<channel type='unix'><source mode='bind'"
            f" path='{STATE}/org.qemu.guest_agent.0.consoles.sock'/>"
            "<target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
            "<channel type='unix'><target type='virtio' name='other.0'/>"
            '</channel>'
            "<graphics type='vnc'><listen type='socket'/></graphics>",
        )

    def test_graphics(self):
        self.run_guest(
            'graphics',
            devices="<graphics type='vnc' autoport='yes' listen='127.0.0.1'/>"
            "<video><model type='virtio'/></video><sound model='ich6'/>"
            "<input type='tablet' bus='usb'/><watchdog model='i6300esb'/>",
        )

    def test_devices_of_the_host(self):
        # the lab's own disk, which libvirt makes a node of for the guest
        node = '/dev/ubda'
        link = pathlib.Path('/dev/disk-of-the-test')
        link.symlink_to(node)
        self.addCleanup(link.unlink)
        policy = self.run_guest(
            'host',
            devices=f"<disk type='block'><source dev='{link}'/>"
            "<target dev='vda' bus='virtio'/><readonly/></disk>"
            "<rng model='virtio'><backend model='random'>/dev/random"
            '</backend></rng>'
            "<shmem name='test'><model type='ivshmem-plain'/>"
            "<size unit='M'>4</size></shmem>",
        )
        self.assertEqual(
            {node: 'rk', '/dev/random': 'r', '/dev/shm/test': 'rw'},
            {f.path: f.access for f in policy.files},
        )
