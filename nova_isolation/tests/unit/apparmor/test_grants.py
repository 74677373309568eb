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

"""Each device gets what it names, exactly, or is refused by name."""

import copy
import dataclasses
import os
import pathlib
import stat

import ddt
import fixtures
import hypothesis
from hypothesis import strategies
from lxml import etree
from oslotest import base

from nova_isolation.apparmor import grants
from nova_isolation.apparmor.policy import FileGrant
from nova_isolation.apparmor.policy import Need
from nova_isolation import domain
from nova_isolation import exceptions
from nova_isolation import hostfacts
from nova_isolation import images
from nova_isolation import neighbours
from nova_isolation.tests.unit.domain import mutations
from nova_isolation.tests.unit.domain import xml
from nova_isolation.tests.unit import samples

STATE = '/var/lib/libvirt/qemu'
MDEV = '11111111-2222-3333-4444-555555555555'

#: What all guests open that have a device of the kind.
COMMON = (
    'iommu',
    'sev',
    'vfio/vfio',
    'vhost-scsi',
    'vhost-vsock',
    '/run/tdx-qgs/qgs.socket',
)


class GrantsTestCase(base.BaseTestCase):
    """A host with one of each device, and an instance directory."""

    connections = True

    def setUp(self):
        super().setUp()
        top = pathlib.Path(
            os.path.realpath(self.useFixture(fixtures.TempDir()).path)
        )
        self.instance = top / 'instances' / xml.UUID
        (top / 'instances' / '_base').mkdir(parents=True)
        self.instance.mkdir()
        self.dev = top / 'dev'
        self.sys = top / 'sys'
        (top / 'mounts').write_text(
            'hugetlbfs /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\n'
            'hugetlbfs /huge1G hugetlbfs rw,pagesize=1024M 0 0\n'
            'proc /proc proc rw 0 0\n'
        )
        self.top = top
        self.facts = hostfacts.HostFacts(
            str(self.sys), str(self.dev), str(top / 'mounts')
        )
        # nodes that need no privilege to make
        kinds = {'null': stat.S_IFCHR, 'sda': stat.S_IFBLK}
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.hostfacts._mode',
                lambda path: (
                    os.stat(path)
                    and kinds.get(os.path.basename(path), stat.S_IFDIR)
                ),
            )
        )
        (self.dev / 'disk').mkdir(parents=True)
        for name in kinds:
            (self.dev / name).write_text('')
        (self.dev / 'disk' / 'by-id').symlink_to('../sda')
        self._pci()
        self._usb()
        sg = self.sys / 'bus/scsi/devices/2:0:3:1/scsi_generic/sg7'
        sg.mkdir(parents=True)
        tap = self.sys / 'class/net/macvtap0'
        tap.mkdir(parents=True)
        (tap / 'ifindex').write_text('42\n')

    def _pci(self):
        for path in ('pci/devices/0000:65:00.1', f'mdev/devices/{MDEV}'):
            device = self.sys / 'bus' / path
            device.mkdir(parents=True)
            (device / 'iommu_group').symlink_to('../../../kernel/groups/15')
        (self.sys / 'bus/pci/devices/0000:65:00.1/vfio-dev/vfio3').mkdir(
            parents=True
        )

    def _usb(self):
        for name, number, product in (
            ('1-1', 5, '0002'),
            ('1-1.4', 10, '0003'),
            ('1-2', 11, '0003'),
        ):
            device = self.sys / 'bus/usb/devices' / name
            device.mkdir(parents=True)
            (device / 'busnum').write_text('1\n')
            (device / 'devnum').write_text(f'{number}\n')
            (device / 'idVendor').write_text('1d6b\n')
            (device / 'idProduct').write_text(f'{product}\n')
        (self.sys / 'bus/usb/devices/1-0:1.0').mkdir()

    def granting(self, **places):
        return grants.Granting(
            images.Directories(
                str(self.instance), str(self.instance.parent / '_base')
            ),
            self.facts,
            grants.Places(**places),
            connections=self.connections,
        )

    def grant(self, places=None, **parts):
        """What a domain gets: ``{(path, access)}`` and names of needs."""
        found = domain.parse(xml.make(**{'kind': 'qemu', **parts}))
        self.assertEqual((), found.unknown)
        return self.granting(**(places or {})).of(found, unknown=True)

    def assert_granted(self, expected, **parts):
        found = self.grant(**parts)
        self.assertEqual(
            set(expected),
            {
                g.name
                if isinstance(g, Need)
                else (
                    g.path.replace(str(self.top), ''),
                    g.access,
                    *(['all'] if g.tree else []),
                    *([] if g.after is None else [g.after]),
                )
                for g in found
            },
        )
        for grant in found:
            if isinstance(grant, FileGrant):
                self.assertTrue(grant.origin.startswith('<'), grant)
        self.assert_compared(found, **parts)

    def resources(self, number=7, *, starting=False, **parts):
        """What a guest has that is nobody else's, by path."""
        text = xml.make(**{'kind': 'qemu', **parts})
        found = dataclasses.replace(domain.parse(text), id=number)
        return {
            r.path: r
            for r in self.granting().resources(found, starting=starting)
        }

    def assert_compared(self, found, **parts):
        """Whatever a guest may write to is compared with its neighbours'."""
        resources = self.resources(**parts)
        for grant in found:
            if not isinstance(grant, FileGrant) or 'w' not in grant.access:
                continue
            path = grant.path
            if grant.after is not None:
                path += f'7-instance-00000001{grant.after}'
            if path.removeprefix(f'{self.dev}/') in COMMON:
                self.assertNotIn(path, resources)
                continue
            self.assertEqual('rw', resources[path].access)
            self.assertEqual(grant.tree, resources[path].tree)

    def refusal(self, error=exceptions.NotCovered, **parts):
        return self.assertRaises(error, self.grant, **parts).message


class ResourcesTest(GrantsTestCase):
    def pci(self, function):
        return (
            "<hostdev mode='subsystem' type='pci'><source><address domain='0'"
            f" bus='0x65' slot='0' function='{function}'/></source></hostdev>"
        )

    def test_two_functions_of_one_iommu_group_are_one_resource(self):
        second = self.sys / 'bus/pci/devices/0000:65:00.2'
        second.mkdir()
        (second / 'iommu_group').symlink_to('../../../kernel/groups/15')
        register = neighbours.Register()
        register.put('other', self.resources(devices=self.pci(1)).values())
        mine = self.resources(devices=self.pci(2)).values()
        (found,) = [
            overlap
            for overlap in register.overlaps('me', mine)
            if overlap.mine.origin.startswith('<hostdev>')
        ]
        self.assertEqual(
            (
                f'{self.dev}/vfio/15',
                '<hostdev> 0000:65:00.2',
                '<hostdev> 0000:65:00.1',
            ),
            (found.mine.path, found.mine.origin, found.theirs.origin),
        )

    def test_a_device_that_is_gone_has_no_neighbours(self):
        # nor has what no profile could grant; the rest of the guest has
        found = self.resources(
            devices=self.pci(7)
            + "<pstore backend='acpi-erst'><path>/x</path></pstore>"
            "<shmem name='a'/>"
            "<disk type='block'><source dev='/nonexistent'/>"
            "<target dev='vda'/></disk>"
        )
        self.assertIn(f'{self.dev}/shm/a', found)
        self.assertIn('/nonexistent', found)

    def test_a_guest_that_does_not_run_has_no_place_of_its_number(self):
        parts = {
            'top': '<memoryBacking><hugepages/></memoryBacking>',
            'devices': "<tpm model='tpm-crb'><backend type='emulator'/></tpm>",
        }
        running = self.resources(**parts)
        state = f'/var/lib/libvirt/swtpm/{xml.UUID}/tpm2'
        place = '/huge1G/libvirt/qemu/7-instance-00000001'
        for path in state, place:
            self.assertTrue(running[path].tree)
            self.assertEqual(f'{path}/x', running[path].sample)
        off = self.resources(number=None, **parts)
        self.assertIn(state, off)
        self.assertEqual([], [p for p in off if '7-instance' in p])
        self.assertEqual([], [p for p in off if 'hugepages' in p])

    def test_a_name_that_the_kernel_gives_is_one_s_own_while_one_runs(self):
        node, link = f'{self.dev}/sda', f'{self.dev}/disk/by-id'
        for path, lasts in ((node, False), (link, True)):
            parts = {
                'devices': f"<disk type='block'><source dev='{path}'/>"
                "<target dev='vda'/></disk>"
            }
            self.assertIn(node, self.resources(**parts))
            self.assertIn(
                node, self.resources(number=None, starting=True, **parts)
            )
            off = self.resources(number=None, **parts)
            self.assertEqual(lasts, node in off, path)
        # a file does not change its name
        disk = f'{self.instance}/disk'
        parts = {
            'devices': f"<disk type='file'><source file='{disk}'/>"
            "<target dev='vda'/></disk>"
        }
        self.assertIn(disk, self.resources(number=None, **parts))

    def test_connections_that_are_not_wanted_are_compared_all_the_same(self):
        self.connections = False
        devices = (
            "<interface type='vhostuser'><mac address='52:54:00:00:00:01'/>"
            "<source type='unix' path='/run/vhost' mode='client'/>"
            '</interface>'
        )
        self.assertIn('/run/vhost', self.resources(devices=devices))

    @hypothesis.settings(max_examples=200)
    @hypothesis.given(strategies.data())
    def test_any_guest_that_can_be_read_is_compared(self, data):
        root = copy.deepcopy(
            data.draw(strategies.sampled_from(mutations.DOMAINS))
        )
        for _ in range(data.draw(strategies.integers(0, 4))):
            mutations.mutilate(
                root,
                lambda choices: data.draw(strategies.sampled_from(choices)),
                lambda: data.draw(strategies.sampled_from(mutations.KNOWN)),
            )
        try:
            found = domain.parse(etree.tostring(root, encoding='unicode'))
        except exceptions.InvalidDomain:
            return
        resources = {r.path for r in self.granting().resources(found)}
        self.assertTrue(resources)
        for character in found.characters:
            if character.path and character.kind != 'pipe':
                self.assertIn(os.path.realpath(character.path), resources)

    def test_a_device_s_node_and_not_the_links_to_it(self):
        (found,) = [
            resource
            for resource in self.resources(
                devices="<disk type='block'>"
                f"<source dev='{self.dev}/disk/by-id'/><shareable/>"
                "<target dev='vda'/></disk>"
            ).values()
            if resource.origin == '<disk> vda'
        ]
        self.assertEqual(f'{self.dev}/sda', found.path)
        self.assertTrue(found.shareable)


@ddt.ddt
class DeviceTest(GrantsTestCase):
    @ddt.data('libvirt-11.3-defined', 'libvirt-11.3-running')
    def test_a_guest_of_nova(self, name):
        (self.instance / 'disk').write_bytes(samples.image('plain'))
        (self.instance / 'disk.config').write_bytes(b'')
        text = samples.domain(name).replace(
            '/var/lib/nova/instances', str(self.instance.parent)
        )
        found = domain.parse(text)
        found = dataclasses.replace(
            found,
            disks=tuple(
                dataclasses.replace(d, backing=None) for d in found.disks
            ),
        )
        self.assertEqual(
            (
                FileGrant(str(self.instance / 'disk'), 'rwk', '<disk> vda'),
                FileGrant(
                    str(self.instance / 'disk.config'), 'rk', '<disk> hda'
                ),
                Need('tap'),
                Need('listen-inet'),
            ),
            self.granting().of(found, unknown=True),
        )

    @ddt.data(
        # disks
        (
            "<disk type='block'><source dev='{dev}/disk/by-id'/></disk>",
            ['block', ('/dev/sda', 'rwk')],
        ),
        (
            "<disk type='block' device='cdrom'><source dev='{dev}/sda'/>"
            '</disk>',
            ['block', ('/dev/sda', 'rk')],
        ),
        (
            "<disk type='block' device='lun'><source dev='{dev}/sda'>"
            "<encryption format='luks'/></source><shareable/></disk>",
            ['block', ('/dev/sda', 'rwk')],
        ),
        (
            "<disk type='network'><auth username='u'><secret/></auth>"
            "<source protocol='rbd' name='p/i'><host name='10.0.0.1'/>"
            "<host name='10.0.0.2'/></source></disk>",
            ['ceph', 'connect-inet', ('/etc/ceph/ceph.conf', 'r')],
        ),
        (
            "<disk type='network'><source protocol='iscsi' name='i/1'>"
            "<host name='[::1]' port='3260'/></source></disk>",
            ['connect-inet6'],
        ),
        (
            "<disk type='network'><source protocol='iscsi' name='i/1'>"
            "<host name='storage' port='3260'/></source></disk>",
            ['names', 'connect-inet', 'connect-inet6'],
        ),
        (
            "<disk type='network'><source protocol='nbd' tls='yes'>"
            "<host transport='unix' socket='{top}/s'/></source></disk>",
            ['connect-unix', ('/s', 'rw'), ('/etc/pki/qemu', 'r', 'all')],
        ),
        (
            "<disk type='nvme'><source type='pci' namespace='1'><address"
            " bus='0x65' function='1'/></source></disk>",
            [('/dev/vfio/vfio', 'rw'), ('/dev/vfio/15', 'rw')],
        ),
        (
            "<disk type='vhostuser'><source type='unix' path='{top}/s'/>"
            '</disk>',
            ['connect-unix', ('/s', 'rw')],
        ),
        (
            "<disk type='vhostvdpa'><source dev='{dev}/null'/></disk>",
            [('/dev/null', 'rw')],
        ),
        # interfaces
        ("<interface type='ethernet'/>", ['tap']),
        ("<interface type='bridge'><source bridge='b'/></interface>", ['tap']),
        (
            "<interface type='direct'><source dev='eth0'/></interface>",
            ['macvtap'],
        ),
        (
            "<interface type='hostdev'><source><address type='pci'"
            " bus='0x65' function='1'/></source></interface>",
            [('/dev/vfio/vfio', 'rw'), ('/dev/vfio/15', 'rw')],
        ),
        (
            "<interface type='vhostuser'><source type='unix' mode='server'"
            " path='{top}/vhu'/></interface>",
            [('/vhu', 'rw')],
        ),
        (
            "<interface type='vhostuser'><source type='unix' mode='client'"
            " path='{top}/vhu'/></interface>",
            ['connect-unix', ('/vhu', 'rw')],
        ),
        (
            "<interface type='vdpa'><source dev='{dev}/null'/></interface>",
            [('/dev/null', 'rw')],
        ),
        # devices of the host
        (
            "<hostdev type='pci'><driver iommufd='yes'/><source><address"
            " bus='0x65' function='1'/></source></hostdev>",
            [('/dev/iommu', 'rw'), ('/dev/vfio/devices/vfio3', 'rw')],
        ),
        (
            f"<hostdev type='mdev'><source><address uuid='{MDEV}'/></source>"
            '</hostdev>',
            [('/dev/vfio/vfio', 'rw'), ('/dev/vfio/15', 'rw')],
        ),
        (
            "<hostdev type='usb'><source><address bus='1' device='5'/>"
            '</source></hostdev>',
            [('/dev/bus/usb/001/005', 'rw')],
        ),
        (
            "<hostdev type='usb'><source><vendor id='0x1d6b'/>"
            "<product id='2'/></source></hostdev>",
            [('/dev/bus/usb/001/005', 'rw')],
        ),
        (
            "<hostdev type='usb'><source><address bus='1' port='1.4'/>"
            '</source></hostdev>',
            [('/dev/bus/usb/001/010', 'rw')],
        ),
        (
            "<hostdev type='scsi'><source><adapter name='scsi_host2'/>"
            "<address bus='0' target='3' unit='1'/></source></hostdev>",
            [('/dev/sg7', 'rw')],
        ),
        (
            "<hostdev type='scsi_host'><source protocol='vhost'"
            " wwpn='naa.5123456789abcde0'/></hostdev>",
            ['vhost', ('/dev/vhost-scsi', 'rw')],
        ),
        # character devices
        ("<serial type='pty'><log file='/i/console.log'/></serial>", []),
        ("<channel type='spicevmc'/>", []),
        (
            "<serial type='tcp'><source mode='bind' host='127.0.0.1'"
            " service='1'/></serial>",
            ['listen-inet'],
        ),
        (
            "<serial type='tcp'><source mode='bind' host='::' service='1'"
            " tls='yes'/></serial>",
            ['listen-inet6', ('/etc/pki/qemu', 'r', 'all')],
        ),
        (
            "<serial type='file'><source path='{instance}/console.log'/>"
            '</serial>',
            [('/instances/{uuid}/console.log', 'rw')],
        ),
        (
            "<channel type='unix'><source mode='bind' path='{top}/a.sock'/>"
            '</channel>',
            [('/a.sock', 'rw')],
        ),
        (
            "<channel type='unix'><target type='virtio' name='n'/></channel>",
            [
                ('/run/libvirt/qemu/channel/', 'rw', '/n'),
                (f'{STATE}/channel/target/domain-', 'rw', '/n'),
            ],
        ),
        (
            "<parallel type='dev'><source path='{dev}/null'/></parallel>",
            [('/dev/null', 'rw')],
        ),
        # graphics
        ("<graphics type='vnc' listen='::'/>", ['listen-inet6']),
        (
            "<graphics type='spice' listen='127.0.0.1'/>",
            ['listen-inet', 'spice'],
        ),
        (
            "<graphics type='spice' listen='127.0.0.1'>"
            "<channel name='main' mode='secure'/></graphics>",
            ['listen-inet', 'spice', ('/etc/pki/libvirt-spice', 'r', 'all')],
        ),
        (
            "<graphics type='vnc'><listen type='socket'/></graphics>",
            [(f'{STATE}/domain-', 'rw', '/vnc.sock')],
        ),
        (
            "<graphics type='vnc' socket='{top}/vnc'/>",
            [('/vnc', 'rw')],
        ),
        # memory
        (
            "<memory model='nvdimm'><source><path>{dev}/null</path></source>"
            '</memory>',
            [('/dev/null', 'rw'), (f'{STATE}/ram/', 'rw', 'all', '')],
        ),
        (
            "<shmem name='s'><model type='ivshmem-plain'/></shmem>",
            [('/dev/shm/s', 'rw')],
        ),
        # others
        (
            "<tpm><backend type='emulator' version='2.0'/></tpm>",
            [
                'swtpm',
                ('/run/libvirt/qemu/swtpm/', 'rw', '-swtpm.sock'),
                ('/run/libvirt/qemu/swtpm/', 'rw', '-swtpm.pid'),
                ('/var/lib/libvirt/swtpm/{uuid}/tpm2', 'rwk', 'all'),
                (
                    '/var/log/swtpm/libvirt/qemu/instance-00000001-swtpm.log',
                    'rw',
                ),
            ],
        ),
        (
            "<tpm><backend type='external'><source path='{top}/t'/>"
            '</backend></tpm>',
            ['connect-unix', ('/t', 'rw')],
        ),
        (
            "<filesystem type='mount'><driver type='virtiofs'/>"
            "<source dir='/s'/><target dir='a'/></filesystem>"
            "<filesystem type='mount'><driver type='virtiofs'/>"
            "<source dir='/s'/><target dir='b'/></filesystem>",
            [
                'connect-unix',
                (f'{STATE}/domain-', 'rw', '/fs0-fs.sock'),
                (f'{STATE}/domain-', 'rw', '/fs1-fs.sock'),
            ],
        ),
        ("<rng><backend model='random'>/dev/urandom</backend></rng>", []),
        (
            "<rng><backend model='random'>{dev}/null</backend></rng>",
            [('/dev/null', 'r')],
        ),
        (
            "<rng><backend model='egd' type='unix'><source mode='connect'"
            " path='{top}/egd'/></backend></rng>",
            ['connect-unix', ('/egd', 'rw')],
        ),
        (
            "<input type='evdev'><source dev='{dev}/null'/></input>",
            [('/dev/null', 'rw')],
        ),
        ("<vsock model='virtio'/>", ['vhost', ('/dev/vhost-vsock', 'rw')]),
        ("<crypto type='qemu'><backend model='builtin'/></crypto>", []),
        ("<audio id='1' type='spice'/>", []),
    )
    @ddt.unpack
    def test_a_device(self, text, expected):
        names = {
            'dev': self.dev,
            'top': self.top,
            'instance': self.instance,
            'uuid': xml.UUID,
        }
        self.assert_granted(
            [
                e if isinstance(e, str) else (e[0].format(**names), *e[1:])
                for e in expected
            ],
            devices=text.format(**names),
        )

    def test_a_macvtap_of_a_guest_that_runs(self):
        self.assert_granted(
            [('/dev/tap42', 'rw')],
            attributes="id='3'",
            devices="<interface type='direct'><target dev='macvtap0'/>"
            '</interface>',
        )

    def test_vnc_with_tls(self):
        text = "<graphics type='vnc'/>"
        found = self.grant({'vnc_tls': '/etc/pki/libvirt-vnc'}, devices=text)
        self.assertEqual(
            [('/etc/pki/libvirt-vnc', True)],
            [(g.path, g.tree) for g in found if isinstance(g, FileGrant)],
        )

    @ddt.data(
        ('<hugepages/>', [('/dev/hugepages', 0), ('/huge1G', 0)]),
        (
            "<hugepages><page size='1' unit='G'/></hugepages>",
            [('/huge1G', 0)],
        ),
        ("<source type='file'/>", [f'{STATE}/ram/']),
        ("<access mode='shared'/>", [f'{STATE}/ram/']),
        ("<source type='memfd'/><access mode='shared'/>", []),
        ('<locked/>', []),
    )
    @ddt.unpack
    def test_memory(self, text, expected):
        self.assert_granted(
            [
                (
                    e if isinstance(e, str) else f'{e[0]}/libvirt/qemu/',
                    'rw',
                    'all',
                    '',
                )
                for e in expected
            ],
            top=f'<memoryBacking>{text}</memoryBacking>',
        )

    def test_firmware(self):
        code = self.top / 'CODE.fd'
        code.write_text('')
        (self.top / 'CODE.ms.fd').symlink_to('CODE.fd')
        self.assert_granted(
            [('/CODE.fd', 'rk'), (f'{STATE}/nvram/i_VARS.fd', 'rwk')],
            os=f"<loader type='pflash' readonly='yes'>{self.top}/CODE.ms.fd"
            f'</loader><nvram>{STATE}/nvram/i_VARS.fd</nvram>',
        )

    def test_a_kernel_in_the_instance_s_directory(self):
        self.assert_granted(
            [
                (f'/instances/{xml.UUID}/kernel', 'r'),
                (f'/instances/{xml.UUID}/ramdisk', 'r'),
            ],
            os=f'<kernel>{self.instance}/kernel</kernel>'
            f'<initrd>{self.instance}/ramdisk</initrd>',
        )
        self.refusal(
            exceptions.UntrustedImage, os='<kernel>/boot/vmlinuz</kernel>'
        )

    def test_memory_kept_from_the_host(self):
        self.assert_granted(
            [('/dev/sev', 'rw')], top="<launchSecurity type='sev'/>"
        )
        self.assert_granted(
            ['connect-unix', ('/run/tdx-qgs/qgs.socket', 'rw')],
            top="<launchSecurity type='tdx'><quoteGenerationService/>"
            '</launchSecurity>',
        )

    def test_hardware_virtualisation(self):
        self.assert_granted(['kvm'], kind='kvm')
        self.assert_granted(
            ['kvm', 'tap', 'vhost', 'vhost-net'],
            kind='kvm',
            devices="<interface type='ethernet'/>",
        )


@ddt.ddt
class RefusedTest(GrantsTestCase):
    def test_what_is_unknown_is_refused_unless_it_is_to_be_reported(self):
        found = domain.parse(xml.make(devices='<new/>'))
        self.assertEqual(
            (Need('kvm'),), self.granting().of(found, unknown=False)
        )
        error = self.assertRaises(
            exceptions.NotCovered, self.granting().of, found, unknown=True
        )
        self.assertIn('unknown: <new>', error.message)

    def test_all_that_is_refused_is_named(self):
        found = self.refusal(
            devices="<serial type='stdio'/><graphics type='sdl'/>"
        )
        self.assertIn("<serial> of type 'stdio' cannot be granted", found)
        self.assertIn("<graphics> of type 'sdl' cannot be granted", found)

    @ddt.data(
        (
            "<disk type='file'><source file='/d'/><mirror type='file'>"
            "<source file='/m'/></mirror><target dev='vda'/></disk>",
            '<disk> vda with mirror',
        ),
        (
            "<disk type='file'><driver io='io_uring'/><source file='/d'/>"
            "<target dev='vda'/></disk>",
            '<disk> vda with io_uring',
        ),
        (
            "<disk type='file'><driver type='vmdk'/><source file='/d'/>"
            "<target dev='vda'/></disk>",
            "<disk> vda of format 'vmdk'",
        ),
        (
            "<disk type='block'><driver type='qcow2'/><source dev='/d'/>"
            "<target dev='vda'/></disk>",
            "<disk> vda of format 'qcow2' that is no file",
        ),
        (
            "<disk type='dir'><source dir='/d'/><target dev='vda'/></disk>",
            '<disk> vda with a source of type DirectorySource',
        ),
        (
            "<disk type='volume'><source pool='p' volume='v'/>"
            "<target dev='vda'/></disk>",
            '<disk> vda with a source of type VolumeSource',
        ),
        (
            "<disk type='file'><source file='/d'><dataStore type='file'>"
            "<source file='/e'/></dataStore></source><target dev='vda'/>"
            '</disk>',
            '<disk> vda with an external data file',
        ),
        (
            "<disk type='network'><source protocol='https' name='i'/>"
            "<target dev='vda'/></disk>",
            "<disk> vda over 'https'",
        ),
        (
            "<disk type='network'><source protocol='rbd' name='i'><host"
            " name='::1'/></source><target dev='vda'/></disk>",
            '<disk> vda without a secret',
        ),
        ("<serial type='udp'/>", "<serial> of type 'udp'"),
        ("<channel type='pty'/>", "<channel> of type 'pty'"),
        ("<channel type='unix'/>", "<channel> of type 'unix'"),
        ("<graphics type='egl-headless'/>", "of type 'egl-headless'"),
        (
            "<graphics type='vnc' listen='localhost'/>",
            "listens on 'localhost'",
        ),
        (
            "<interface type='user'><mac address='m'/></interface>",
            '<interface> m of type UserNetwork',
        ),
        (
            "<interface type='ethernet'><mac address='m'/>"
            "<script path='/s'/></interface>",
            '<interface> m with a script',
        ),
        (
            "<interface type='ethernet'><mac address='m'/>"
            "<backend tap='/dev/x'/></interface>",
            '<interface> m of type Tap',
        ),
        (
            "<hostdev type='scsi'><source protocol='iscsi' name='i'/>"
            '</hostdev>',
            '<hostdev> IscsiDevice',
        ),
        (
            "<hostdev type='pci'><source><address/></source>"
            "<rom file='/r'/></hostdev>",
            '<hostdev> PciDevice',
        ),
        (
            "<tpm><backend type='passthrough'><device path='/dev/tpm0'/>"
            '</backend></tpm>',
            "<tpm> of type 'passthrough'",
        ),
        (
            "<filesystem type='mount'><source dir='/s'/><target dir='t'/>"
            '</filesystem>',
            '<filesystem> t of driver',
        ),
        ("<audio id='1' type='alsa'/>", "<audio> of type 'alsa'"),
        (
            "<crypto type='qemu'><backend model='lkcf'/></crypto>",
            "<crypto> with 'lkcf'",
        ),
        (
            "<video><driver name='vhostuser'/><model type='virtio'/></video>",
            '<video> virtio',
        ),
        ("<smartcard mode='host'/>", '<smartcard> host'),
        ("<pstore backend='acpi-erst'/>", '<pstore>'),
        ("<memory model='sgx-epc'/>", '<memory> sgx-epc'),
        (
            "<shmem name='s'><server/></shmem>",
            '<shmem> s with a server',
        ),
    )
    @ddt.unpack
    def test_a_device(self, text, name):
        self.assertIn(name, self.refusal(devices=text))

    @ddt.data(
        ("<seclabel type='none'/>", "<seclabel> type='none'"),
        (
            "<seclabel type='static' model='apparmor'/>",
            "<seclabel> type='static' model='apparmor'",
        ),
        ("<seclabel type='dynamic' model='selinux'/>", "model='selinux'"),
        (
            "<qemu:commandline><qemu:arg value='-s'/></qemu:commandline>",
            "the argument '-s'",
        ),
        (
            "<sysinfo type='fwcfg'><entry name='a' file='/etc/shadow'/>"
            '</sysinfo>',
            "<sysinfo> with the file '/etc/shadow'",
        ),
    )
    @ddt.unpack
    def test_an_element_of_the_domain(self, text, name):
        self.assertIn(name, self.refusal(top=text))

    @ddt.data(
        ('<dtb>/d</dtb>', '<dtb>'),
        ('<nvram>/etc/shadow</nvram>', "<nvram> '/etc/shadow'"),
        ("<loader type='pflash'>/l</loader>", '<loader> that the guest may'),
    )
    @ddt.unpack
    def test_something_to_boot_from(self, text, name):
        self.assertIn(name, self.refusal(os=text))

    def test_firmware_that_libvirt_has_not_chosen(self):
        self.assertIn(
            'has not chosen', self.refusal(os_attributes="firmware='efi'")
        )

    def test_a_hypervisor_that_is_not_qemu(self):
        self.assertIn("domain type 'lxc'", self.refusal(kind='lxc'))

    @ddt.data(
        (
            "<disk type='block'><source dev='{dev}/null'/></disk>",
            'no block device',
        ),
        (
            "<disk type='block'><source dev='{dev}/none'/></disk>",
            'is not there',
        ),
        (
            "<disk type='block'><source dev='{top}/sda'/></disk>",
            'below',
        ),
        (
            "<hostdev type='pci'><source><address bus='1'/></source>"
            '</hostdev>',
            'PCI device 0000:01:00.0',
        ),
        (
            f"<hostdev type='mdev'><source><address uuid='{xml.UUID}'/>"
            '</source></hostdev>',
            f'mediated device {xml.UUID}',
        ),
        (
            "<hostdev type='usb'><source><vendor id='0x1d6b'/>"
            "<product id='3'/></source></hostdev>",
            "['001/010', '001/011']",
        ),
        (
            "<hostdev type='scsi'><source><adapter name='scsi_host9'/>"
            "<address bus='0' target='3' unit='1'/></source></hostdev>",
            'SCSI device 9:0:3:1',
        ),
        (
            "<hostdev type='pci'><driver iommufd='yes'/><source><address"
            " bus='1'/></source></hostdev>",
            'PCI device 0000:01:00.0',
        ),
    )
    @ddt.unpack
    def test_a_device_that_the_host_does_not_have(self, text, words):
        (self.top / 'sda').write_text('')
        found = self.refusal(
            exceptions.MissingDevice,
            devices=text.format(dev=self.dev, top=self.top),
        )
        self.assertIn(words, found)

    @ddt.data(
        "<disk type='vhostuser'><source type='unix' path='/s'/></disk>",
        "<interface type='vhostuser'><source type='unix' mode='client'"
        " path='/s'/></interface>",
        "<filesystem type='mount'><driver type='virtiofs'/>"
        "<source dir='/s'/><target dir='a'/></filesystem>",
        "<channel type='unix'><source mode='connect' path='/s'/></channel>",
        "<tpm><backend type='external'><source path='/t'/></backend></tpm>",
    )
    def test_a_connection_to_the_host_that_the_operator_does_not_want(
        self, text
    ):
        self.connections = False
        found = self.refusal(devices=text)
        self.assertIn('[isolation] unix_connections', found)

    def test_huge_pages_that_are_not_mounted(self):
        found = self.refusal(
            exceptions.MissingDevice,
            top="<memoryBacking><hugepages><page size='4' unit='M'/>"
            '</hugepages></memoryBacking>',
        )
        self.assertIn('4096 KiB', found)

    def test_a_macvtap_that_is_gone(self):
        for name in ('macvtap9', '../../x', '..'):
            self.refusal(
                exceptions.MissingDevice,
                attributes="id='3'",
                devices=f"<interface type='direct'><target dev='{name}'/>"
                '</interface>',
            )

    def test_a_socket_that_is_a_symbolic_link(self):
        (self.top / 'link').symlink_to('/run/other')
        self.refusal(
            exceptions.MissingDevice,
            devices="<channel type='unix'><source mode='bind'"
            f" path='{self.top}/link'/></channel>",
        )
