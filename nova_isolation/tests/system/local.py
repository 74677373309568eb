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

"""A guest of libvirt alone, and what an agent without a broker tells of it."""

import pathlib
import subprocess
import time
import unittest

from nova_isolation import domain
from nova_isolation import exceptions
from nova_isolation.violations import journal

INSTANCES = pathlib.Path('/var/lib/nova/instances')
# Seconds.
LIMIT = 40
_DOMAIN = """
<domain type='qemu'>
  <name>instance-{number}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <metadata><nova:instance xmlns:nova='{namespace}'>
    <nova:name>vm{number}</nova:name><nova:flavor name='m1.tiny'/>
    <nova:owner><nova:user uuid='u'>alice</nova:user>
    <nova:project uuid='p'>acme</nova:project></nova:owner>
  </nova:instance></metadata>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
  </devices>
</domain>
"""


def run(*command, **more):
    """Run a command; give what it prints."""
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, **more
    ).stdout


def disk_of(uuid):
    return INSTANCES / uuid / 'disk'


def start_guest(number, uuid):
    """Start a guest, paused, of the project acme, with the name vmNUMBER."""
    disk = disk_of(uuid)
    disk.parent.mkdir()
    run('qemu-img', 'create', '-q', '-f', 'qcow2', disk, '1M')
    xml = disk.with_name('domain.xml')
    xml.write_text(
        _DOMAIN.format(
            number=number,
            uuid=uuid,
            disk=disk,
            namespace=domain.NOVA_NAMESPACE,
        )
    )
    run('virsh', 'create', '--paused', xml)


class JournalTestCase(unittest.TestCase):
    """Reads the agent's journal.

    :ivar since: its place from which on events count
    """

    def setUp(self):
        self.journal = journal.Reader('/var/lib/nova-isolation')
        self.addCleanup(self.journal.close)
        self.since = 0

    def entries(self):
        try:
            return self.journal.entries(self.since, limit=10000)
        except exceptions.JournalUnavailable:
            return []

    def events(self, event_type):
        return [
            e.payload for e in self.entries() if e.event_type == event_type
        ]

    def wait_until(self, what, is_so):
        end = time.monotonic() + LIMIT
        while not (answer := is_so()):
            if time.monotonic() > end:
                raise AssertionError(f'not so: {what}\n{self.explain()}')
            time.sleep(0.2)
        return answer

    def explain(self):
        """Tell what is known when something does not come."""
        return '\n'.join(e.payload['summary'] for e in self.entries())

    def wait_for(self, event_type, is_it=lambda payload: True):
        return self.wait_until(
            event_type,
            lambda: [e for e in self.events(event_type) if is_it(e)],
        )[0]

    def wait_for_denial(self, name):
        return self.wait_for(
            'isolation.violation', lambda e: e['denial']['name'] == name
        )
