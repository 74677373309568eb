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

"""Guests with the devices of Nova start and run with what we grant them, are
proven with all their helper processes, and the kernel denies them nothing that
they ask for.

Runs on the lab's machine: ``lab/lab run --with libvirt --audit noquiet``,
where quiet denials are recorded, too.
"""

import concurrent.futures
import itertools
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest
from unittest import mock
import uuid

from lxml import etree
from oslo_config import cfg

from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import policy as policy_module
from nova_isolation import chains
from nova_isolation.conf import isolation as options
from nova_isolation import domain as domain_module
from nova_isolation import exceptions
from nova_isolation.hooks import apparmor
from nova_isolation.hooks import base
from nova_isolation import images
from nova_isolation import privileged
from nova_isolation import processes
from nova_isolation.tests import pretender
from nova_isolation.tests.system import quiet

AUDIT_LOG = pathlib.Path('/share/log/audit.log')
STATE = '/var/lib/libvirt/qemu'
INSTANCES = pathlib.Path('/srv/instances')
SHARED = pathlib.Path('/srv/shared')
RUNTIME = pathlib.Path('/run/libvirt/qemu')
OVMF = '/usr/share/OVMF/OVMF'

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

UEFI = f"""
<loader readonly='yes' type='pflash'>{OVMF}_CODE_4M.fd</loader>
<nvram template='{OVMF}_VARS_4M.fd'>{STATE}/nvram/{{}}_VARS.fd</nvram>
"""
TPM = """
<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
"""
MEMORY = """
<memoryBacking><source type='%s'/><access mode='shared'/></memoryBacking>
"""
SHARE = f"""
<filesystem type='mount'><driver type='virtiofs'/>
<source dir='{SHARED}'/><target dir='a'/></filesystem>
"""

#: What operators may load for virtiofsd.
VIRTIOFSD = pathlib.Path(
    __file__, '../../../../etc/apparmor.d/libvirt-virtiofsd'
).resolve()


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


def end(label, pid):
    """End a process as one with this label would."""
    with open('/proc/self/attr/current', 'w') as f:
        f.write(f'changeprofile {label}')
    os.kill(pid, signal.SIGTERM)


def _overlay(path, backing):
    """Make a qcow2 file on a raw one."""
    subprocess.run(
        [
            *('qemu-img', 'create', '-q', '-f', 'qcow2'),
            *('-F', 'raw', '-b', str(backing), str(path)),
        ],
        check=True,
    )
    path.chmod(0o666)


def _disk(name, target, kind='qcow2', device='disk', bus='virtio'):
    """The XML of a disk in the instance's directory."""
    return (
        f"<disk type='file' device='{device}'><driver name='qemu'"
        f" type='{kind}'/><source file='{{instance}}/{name}'/>"
        f"<target dev='{target}' bus='{bus}'/></disk>"
    )


class DevicesTest(unittest.TestCase):
    def setUp(self):
        super().setUp()
        options.register_opts(cfg.CONF)
        cfg.CONF([], default_config_files=[], default_config_dirs=[])
        self.set('unix_connections', 'allow')
        # as root, without a daemon between
        privileged.context.set_client_mode(False)
        self.hook = apparmor.AppArmorHook(cfg.CONF)

    def set(self, option, value):
        cfg.CONF.set_override(option, value, 'isolation')
        self.addCleanup(cfg.CONF.clear_override, option, 'isolation')

    def guest(self, xml):
        """What the hook of nova-compute is told of a domain."""
        domain = domain_module.parse(xml)
        self.assertEqual((), domain.unknown)
        return base.Guest(
            domain,
            images.Directories(
                str(INSTANCES / domain.uuid), str(INSTANCES / '_base')
            ),
        )

    def start_guest(
        self,
        name,
        *,
        top='',
        firmware='',
        boot='',
        devices='',
        prepare=lambda instance: None,
    ):
        """Start a guest as nova-compute does, with stopped vCPUs.

        :param prepare: told the instance's directory, makes its files
        :returns: the guest as it runs
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
        prepare(instance)
        path = pathlib.Path(instance, 'domain.xml')
        root = domain_module.read_xml(text)
        chains.state(root, self.guest(text).directories)
        path.write_text(etree.tostring(root, encoding='unicode'))
        SHARED.mkdir(exist_ok=True)
        virsh('define', str(path))
        self.addCleanup(virsh, 'undefine', name, '--nvram')
        self.addCleanup(self.hook.release, identity)
        self.hook.prepare(self.guest(virsh('dumpxml', '--inactive', name)))
        virsh('start', '--paused', name)
        self.addCleanup(virsh, 'destroy', name)
        return self.guest(virsh('dumpxml', name))

    def run_guest(self, name, **parts):
        """Start a guest, prove it and let it run.

        :returns: its narrowed policy
        """
        guest = self.start_guest(name, **parts)
        self.assertIsNotNone(guest.domain.id)
        self.hook.narrow(guest)
        self.reported = self.hook.verify(guest)
        virsh('resume', name)
        # the firmware looks at its devices meanwhile
        time.sleep(2)
        self.assertEqual('running', virsh('domstate', name).strip())
        policy = self.hook.policy(guest)
        self.assertEqual([], self.denied(name, policy.profile))
        return policy

    def refuse_guest(self, guest, *words):
        """Have the proof of a guest fail, with these words in the reason."""
        self.hook.narrow(guest)
        with self.assertRaises(exceptions.NotConfined) as caught:
            self.hook.verify(guest)
        for word in words:
            self.assertIn(word, caught.exception.message)

    def denied(self, name, profile):
        """What the kernel denied under a profile until now.

        :param name: of a guest that runs
        """
        last = f'sentinel-{uuid.uuid4().hex[:12]}'
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
                    if f'profile="{profile}"' in line
                    and 'DENIED' in line
                    and 'sentinel-' not in line
                    and not quiet.is_meant(line)
                ]
            time.sleep(0.05)
        self.fail(f'no record of {last} in {AUDIT_LOG}')

    def _make_encrypted(self, path):
        """Make a disk and libvirt's secret of it; give the secret's uuid."""
        key = pathlib.Path(path.parent, 'key')
        key.write_text('sesame')
        command = ['qemu-img', 'create', '-q', '-f', 'luks']
        more = ['--object', f'secret,id=s,file={key}']
        more += ['-o', 'key-secret=s,iter-time=10']
        # It measures how fast the CPU is, and gives up where that takes no
        # time: User-Mode Linux counts it in ticks.
        for _ in range(30):
            made = subprocess.run(
                [*command, *more, str(path), '1M'],
                stderr=subprocess.PIPE,
                text=True,
            )
            if 'accurate CPU usage' not in made.stderr:
                break
        self.assertEqual('', made.stderr)
        identity = str(uuid.uuid4())
        definition = pathlib.Path(path.parent, 'secret.xml')
        definition.write_text(
            f"<secret ephemeral='yes' private='yes'><uuid>{identity}</uuid>"
            '</secret>'
        )
        virsh('secret-define', str(definition))
        self.addCleanup(virsh, 'secret-undefine', identity)
        virsh('secret-set-value', identity, '--file', str(key), '--plain')
        return identity

    def test_a_secret_that_comes_later(self):
        # deciphered by the key that QEMU read at its start, and cannot now
        policy = self.run_guest(
            'luks',
            devices="<controller type='pci' index='0' model='pcie-root'/>"
            + ''.join(
                f"<controller type='pci' index='{n}' model='pcie-root-port'/>"
                for n in range(1, 8)
            ),
        )
        disk = INSTANCES / policy.uuid / 'encrypted'
        secret = self._make_encrypted(disk)
        device = (
            "<disk type='file'><driver name='qemu' type='raw'/>"
            f"<source file='{disk}'><encryption format='luks'>"
            f"<secret type='passphrase' uuid='{secret}'/></encryption>"
            "</source><target dev='vdb' bus='virtio'/></disk>"
        )
        path = disk.with_name('device.xml')
        path.write_text(device)
        live = virsh('dumpxml', 'luks')
        self.hook.widen(
            self.guest(live.replace('</devices>', f'{device}</devices>'))
        )
        virsh('attach-device', 'luks', str(path), '--live')
        after = self.guest(virsh('dumpxml', 'luks'))
        self.assertEqual(['vdb'], [d.target for d in after.domain.disks])
        self.hook.narrow(after)
        self.hook.verify(after)
        self.assertEqual([], self.denied('luks', policy.profile))
        profile = pathlib.Path(
            cfg.CONF.isolation.profile_directory, policy.profile
        )
        self.assertNotIn('master-key.aes', profile.read_text())

    def _assert_uefi(self, policy):
        self.assertEqual(
            {'<loader>': 'rk', '<nvram>': 'rwk'},
            {f.origin: f.access for f in policy.files},
        )

    def test_uefi(self):
        self._assert_uefi(self.run_guest('uefi', boot=UEFI.format('uefi')))

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
        self.run_guest('tpm', devices=TPM)

    def test_a_virtual_tpm_that_is_not_confined(self):
        guest = self.start_guest('bare', devices=TPM)
        socket = RUNTIME / 'swtpm' / f'{guest.domain.id}-bare-swtpm.sock'
        option = f'type=unixio,path={socket},mode=0600'
        pid = pretender.start(self, '--ctrl', option).pid
        self.refuse_guest(
            guest, 'swtpm', str(pid), 'unconfined', guest.domain.uuid
        )

    def test_a_virtual_tpm_that_is_gone(self):
        guest = self.start_guest('gone', devices=TPM)
        subprocess.run(['pkill', '-x', 'swtpm'], check=True)
        while subprocess.run(['pgrep', '-x', 'swtpm']).returncode == 0:
            time.sleep(0.05)
        self.refuse_guest(guest, 'swtpm', 'cannot be found')

    def test_shares_and_memory_that_is_shared(self):
        self.set('unconfined_helpers', 'report')
        for source in ('memfd', 'file'):
            self.run_guest(
                f'share-{source}',
                top=MEMORY % source,
                devices=SHARE + SHARE.replace("'a'", "'b'"),
            )
            # both, and the process that each has forked
            processes = {
                found[1]
                for found in map(
                    re.compile('process ([0-9]+)').search, self.reported
                )
            }
            self.assertEqual(4, len(processes), self.reported)

    @staticmethod
    def other_process():
        return concurrent.futures.ProcessPoolExecutor(
            1, multiprocessing.get_context('spawn')
        )

    def test_helpers_are_found_without_privilege(self):
        # as by nova-compute
        self.set('unconfined_helpers', 'report')
        guest = self.start_guest(
            'seen', top=MEMORY % 'memfd', devices=TPM + SHARE
        )
        with self.other_process() as pool:
            pool.submit(os.setuid, 65534).result(60)
            found = pool.submit(
                processes.helpers, str(RUNTIME), guest.domain
            ).result(60)
            self.assertEqual(
                ['swtpm', 'virtiofsd', 'virtiofsd'],
                [helper.program for helper in found],
            )
            for helper in found:
                pid = helper.process.pid
                seen = pool.submit(kernel.labels, pid).result(60)
                self.assertEqual(kernel.labels(pid), seen)
                self.assertIn(pid, seen)
            for confines in (False, True):
                told = pool.submit(kernel.enforces, 'virtiofsd').result(60)
                self.assertEqual(confines, told)
                if not confines:
                    self.load(VIRTIOFSD)

    def start_unconfined(self, name, *words):
        """Start a guest with a share that is refused with these words."""
        parts = {'top': MEMORY % 'memfd', 'devices': SHARE}
        with self.assertRaises(exceptions.NotConfined) as caught:
            self.start_guest(f'not-{name}', **parts)
        for word in ('virtiofsd', 'unconfined_helpers', *words):
            self.assertIn(word, caught.exception.message)
        # and what is not foreseen
        with mock.patch.object(self.hook, 'foresee'):
            return self.start_guest(name, **parts)

    def test_a_share_that_nothing_confines(self):
        guest = self.start_unconfined('share', "'unconfined'")
        self.refuse_guest(guest, 'virtiofsd', 'unconfined_helpers')
        # whatever libvirt's file says
        path = RUNTIME / f'{guest.domain.id}-share-fs0-fs.pid'
        before = path.read_text()
        self.addCleanup(path.write_text, before)
        path.write_text((RUNTIME / 'share.pid').read_text())
        self.refuse_guest(guest, str(path), 'is not the virtiofsd')

    def test_a_share_that_our_profile_of_virtiofsd_confines(self):
        self.load(VIRTIOFSD)
        policy = self.run_guest(
            'confined', top=MEMORY % 'memfd', devices=SHARE
        )
        self.assertEqual([], self.denied('confined', VIRTIOFSD.name))
        self.assertEqual(2, len(kernel.holders(VIRTIOFSD.name)))
        # where it does not end with QEMU
        path = RUNTIME / f'{policy.id}-confined-fs0-fs.pid'
        with self.other_process() as pool:
            pool.submit(end, 'libvirtd', int(path.read_text())).result(60)

    def test_a_share_that_has_a_profile_that_confines_nothing(self):
        path = pathlib.Path('/share', VIRTIOFSD.name)
        text = VIRTIOFSD.read_text()
        path.write_text(text.replace('flags=(', 'flags=(complain,'))
        self.load(path)
        guest = self.start_unconfined('named')
        label = f'{VIRTIOFSD.name} (complain)'
        self.refuse_guest(guest, 'virtiofsd', label, 'unconfined_helpers')

    def load(self, path):
        """Load an operator's profile until the end of the test."""
        command = ['apparmor_parser', '-K']
        subprocess.run([*command, '-r', str(path)], check=True)
        self.addCleanup(
            subprocess.run, [*command, '-R', str(path)], check=True
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

    def test_what_libvirt_makes_for_each_guest_is_that_guest_s(self):
        parts = {
            'top': MEMORY % 'file',
            'devices': TPM
            + "<channel type='unix'><target type='virtio' name='other.0'/>"
            "</channel><graphics type='vnc'><listen type='socket'/>"
            '</graphics>',
        }
        policies = [self.run_guest(f'apart-{n}', **parts) for n in '12']
        # the proof of the second asked the kernel of these, too
        for policy, other in itertools.permutations(policies):
            with kernel.Judge() as judge:
                for grant in other.files:
                    path = policy_module.path_of(other, grant)
                    path += '/x' if grant.tree else ''
                    allowed = judge.file(policy.profile, path)
                    self.assertEqual('', allowed, path)

    def test_memory_that_two_guests_would_share(self):
        memory = "<shmem name='shared'><model type='ivshmem-plain'/>"
        memory += "<size unit='M'>4</size></shmem>"
        first = self.run_guest('first', devices=memory)
        with self.assertRaises(exceptions.NotSeparate) as caught:
            self.start_guest('second', devices=memory)
        for word in ('/dev/shm/shared', first.uuid, 'shared_paths'):
            self.assertIn(word, caught.exception.message)

    def test_graphics(self):
        self.run_guest(
            'graphics',
            devices="<graphics type='vnc' autoport='yes' listen='127.0.0.1'/>"
            "<video><model type='virtio'/></video><sound model='ich6'/>"
            "<input type='tablet' bus='usb'/><watchdog model='i6300esb'/>"
            "<panic model='isa'/><memballoon model='virtio'/>",
        )

    def test_several_ports_that_listen(self):
        places = (('127.0.0.1', 10123), ('127.0.0.1', 10124), ('::1', 10125))
        devices = ''.join(
            f"<serial type='tcp'><source mode='bind' host='{host}'"
            f" service='{port}'/><protocol type='raw'/></serial>"
            for host, port in places
        )
        for number, kind in enumerate(('spice', 'vnc')):
            port = 5990 + number
            devices += (
                f"<graphics type='{kind}' port='{port}' listen='127.0.0.1'/>"
            )
            places += (('127.0.0.1', port),)
        policy = self.run_guest('ports', devices=devices)
        for place in places:
            socket.create_connection(place, 10).close()
        self.assertEqual([], self.denied('ports', policy.profile))

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

    def test_all_disks_of_nova_in_a_relocated_directory(self):
        # names with all that means something to AppArmor, of unusual suffixes
        place = pathlib.Path('/srv/in stances[1]{a,b}*?^é')
        link = pathlib.Path('/srv/linked')
        place.mkdir()
        link.symlink_to(place)
        self.addCleanup(link.unlink)
        base = place / '_base'
        base.mkdir()
        for name in ('swap_1', 'ephemeral_1_40d1d2c'):
            (base / name).write_bytes(b'0' * (1 << 20))
            (base / name).chmod(0o644)

        def prepare(instance):
            _overlay(instance / 'disk.swap', base / 'swap_1')
            for name in ('disk', 'disk.rescue', 'disk.eph0'):
                _overlay(instance / name, base / 'ephemeral_1_40d1d2c')
            (instance / 'disk.config').write_bytes(b'0' * 4096)
            (instance / 'disk.config').chmod(0o666)

        with mock.patch.object(sys.modules[__name__], 'INSTANCES', link):
            policy = self.run_guest(
                'odd',
                prepare=prepare,
                boot=UEFI.format('odd'),
                devices=_disk('disk.rescue', 'vda')
                + _disk('disk', 'vdb')
                + _disk('disk.eph0', 'vdc')
                + _disk('disk.swap', 'vdd')
                + _disk('disk.config', 'sda', 'raw', 'cdrom', 'sata'),
            )
        own = f'{place}/{policy.uuid}'
        self.assertEqual(
            {
                **{
                    f'{own}/{name}': 'rwk'
                    for name in ('disk', 'disk.rescue', 'disk.eph0')
                },
                f'{own}/disk.swap': 'rwk',
                f'{own}/disk.config': 'rk',
                f'{base}/swap_1': 'rk',
                f'{base}/ephemeral_1_40d1d2c': 'rk',
            },
            {
                f.path: f.access
                for f in policy.files
                if f.origin not in ('<loader>', '<nvram>')
            },
        )

    def serve_nfs(self, directory):
        """Have a directory served, and used, over NFS.

        :returns: where it is mounted
        """
        place = pathlib.Path('/srv/over-nfs')
        for made in (directory, place):
            made.mkdir()
        options = 'rw,no_root_squash,insecure,fsid=0,no_subtree_check'
        for command in (
            'modprobe nfsd',
            'mount -t nfsd nfsd /proc/fs/nfsd',
            f'exportfs -i -o {options} 127.0.0.1:{directory}',
            'rpc.mountd --no-nfs-version 3',
            # 10 s is the shortest time of grace, and the first file is opened
            # after it
            'rpc.nfsd --no-nfs-version 3 --grace-time 10 --lease-time 10 1',
            f'mount -t nfs4 127.0.0.1:/ {place}',
        ):
            subprocess.run(command.split(), check=True, timeout=60)
        self.addCleanup(subprocess.run, ['umount', '--lazy', str(place)])
        return place

    def test_a_disk_on_nfs(self):
        served = pathlib.Path('/srv/served')
        place = self.serve_nfs(served)
        base = place / '_base'
        base.mkdir()
        (base / 'swap_1').write_bytes(b'0' * (1 << 20))
        (base / 'swap_1').chmod(0o644)

        def prepare(instance):
            _overlay(instance / 'disk', base / 'swap_1')

        name = 'remote'
        with mock.patch.object(sys.modules[__name__], 'INSTANCES', place):
            policy = self.run_guest(
                name, prepare=prepare, devices=_disk('disk', 'vda')
            )
        self.assertEqual(
            {f'{place}/{policy.uuid}/disk': 'rwk', f'{base}/swap_1': 'rk'},
            {f.path: f.access for f in policy.files},
        )
        # the kernel's own sockets carry it, and QEMU needs none
        for command in ('write -P 77 0 4k', 'flush'):
            told = virsh(
                *('qemu-monitor-command', '--hmp', name),
                'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend '
                f'"{command}"',
            )
            self.assertEqual('', told.strip())
        written = (served / policy.uuid / 'disk').read_bytes()
        self.assertIn(bytes([77]) * 4096, written)
        self.assertEqual([], self.denied(name, policy.profile))

    def test_a_core_dump_by_the_operator(self):
        name = 'dumped'
        policy = self.run_guest(name)
        for words in (('--memory-only', '--live'), ('--live',)):
            path = pathlib.Path('/srv', 'dump' + ''.join(words))
            virsh('dump', *words, name, str(path))
            self.assertGreater(path.stat().st_size, 1 << 19)
            path.unlink()
        self.assertEqual([], self.denied(name, policy.profile))

    def test_a_module_of_qemu_after_an_upgrade(self):
        name = 'upgraded'
        policy = self.run_guest(name)
        version = subprocess.run(
            ['qemu-system-x86_64', '--version'],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        (package,) = re.findall(r'version [0-9.]+ \((.*)\)', version)
        # as Debian's maintainer scripts save them: QEMU looks there
        saved = pathlib.Path(
            '/run/qemu', re.sub('[^A-Za-z0-9+.~-]', '_', package)
        )
        saved.mkdir(parents=True)
        modules = pathlib.Path('/usr/lib/x86_64-linux-gnu/qemu')
        module = 'hw-display-virtio-gpu.so'
        shutil.move(modules / module, saved / module)
        self.addCleanup(shutil.move, saved / module, modules / module)
        request = {
            'execute': 'device-list-properties',
            'arguments': {'typename': 'virtio-gpu-device'},
        }
        answer = virsh('qemu-monitor-command', name, json.dumps(request))
        self.assertIn('"return"', answer)
        self.assertEqual([], self.denied(name, policy.profile))
