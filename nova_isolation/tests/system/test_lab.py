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

"""What other tests rely on the lab for, without our own code: libvirt's guests
and the kernel's audit.

Runs on the lab's machine: ``lab/lab run --with libvirt --audit noquiet``.
"""

import json
import pathlib
import subprocess
import time
import unittest
import uuid

AUDIT_MODE = pathlib.Path('/sys/module/apparmor/parameters/audit')
AUDIT_LOG = pathlib.Path('/share/log/audit.log')
SHARED = '/srv/shared'
OVMF = '/usr/share/OVMF/OVMF'

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <os><type arch='x86_64' machine='q35'>hvm</type>{os}</os>
  <features><acpi/></features>
  <devices>{devices}</devices>
</domain>
"""
UEFI = f"""
<loader readonly='yes' type='pflash'>{OVMF}_CODE_4M.fd</loader>
<nvram template='{OVMF}_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/x.fd</nvram>
"""
TPM = """
<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
"""
VIRTIOFS = f"""
<filesystem type='mount'>
  <driver type='virtiofs'/><source dir='{SHARED}'/><target dir='t'/>
</filesystem>
"""


def virsh(*words):
    return subprocess.run(
        ['virsh', '-q', *words],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    ).stdout


def processes(name):
    """The command lines and labels of the processes of a program."""
    found = []
    for process in pathlib.Path('/proc').glob('[0-9]*'):
        try:
            words = (process / 'cmdline').read_bytes().decode().split('\0')
            label = (process / 'attr/current').read_text().rstrip('\n\0')
        except OSError:
            continue
        if pathlib.PurePath(words[0]).name.startswith(name):
            found.append((' '.join(words), label))
    return found


class GuestTestCase(unittest.TestCase):
    def start(self, name, *, os='', devices=''):
        identity = str(uuid.uuid4())
        text = DOMAIN.format(name=name, uuid=identity, os=os, devices=devices)
        path = pathlib.Path('/tmp', f'{name}.xml')
        path.write_text(text)
        try:
            virsh('create', str(path))
        except subprocess.CalledProcessError as e:
            self.fail(e.stdout)
        self.addCleanup(virsh, 'destroy', name)
        return identity


class DevicesTest(GuestTestCase):
    def test_a_guest_with_all_helpers_starts(self):
        pathlib.Path(SHARED).mkdir(exist_ok=True)
        identity = self.start('all', os=UEFI, devices=TPM + VIRTIOFS)
        self.assertEqual('running', virsh('domstate', 'all').strip())
        ((command, label),) = processes('qemu-system')
        self.assertEqual(f'libvirt-{identity} (enforce)', label)
        for word in (f'{OVMF}_CODE_4M.fd', 'tpm-crb', 'vhost-user-fs'):
            self.assertIn(word, command)
        ((command, label),) = processes('swtpm')
        self.assertEqual(f'libvirt-{identity} (enforce)', label)
        self.assertIn(f'/var/lib/libvirt/swtpm/{identity}/tpm2', command)
        self.assertTrue(processes('virtiofsd'))


class AuditTest(GuestTestCase):
    """libvirt's own profile denies `/dev/shm/lttng-ust-wait-*` quietly, and
    what it does not speak of audibly.
    """

    def open(self, name):
        """Let the guest's QEMU open a file that its profile does not grant."""
        path = pathlib.Path('/dev/shm', name)
        path.touch(mode=0o666)
        self.addCleanup(path.unlink)
        command = {
            'execute': 'blockdev-add',
            'arguments': {
                'driver': 'file',
                'node-name': name,
                'filename': str(path),
                'read-only': True,
            },
        }
        answer = virsh('qemu-monitor-command', 'quiet', json.dumps(command))
        self.assertIn('Permission denied', answer)

    def recorded(self, name):
        """Wait for the record of a denial.

        :returns: all records until then
        """
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            text = AUDIT_LOG.read_text(errors='replace')
            if f'/{name}"' in text:
                return text
            time.sleep(0.05)
        self.fail(f'no record of {name} in {AUDIT_LOG}')

    def test_a_quiet_denial_is_recorded_in_the_mode_of_the_run_only(self):
        self.assertEqual('noquiet', AUDIT_MODE.read_text().strip())
        self.addCleanup(AUDIT_MODE.write_text, 'noquiet')
        self.start('quiet')
        self.open('lttng-ust-wait-noquiet')
        self.recorded('lttng-ust-wait-noquiet')
        AUDIT_MODE.write_text('normal')
        self.open('lttng-ust-wait-normal')
        # records come in their order
        self.open('other')
        self.assertNotIn('lttng-ust-wait-normal', self.recorded('other'))
