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

"""What a denial means, and that names alone deceive nobody."""

import ddt
from oslotest import base

from nova_isolation.audit import attempts
from nova_isolation.audit import attribution
from nova_isolation.audit import classification
from nova_isolation import exceptions
from nova_isolation.tests.unit.audit import denials
from nova_isolation.tests.unit.audit import guests
from nova_isolation.violations import model

UUID1 = '5f0a2f0e-90ad-4b5b-8d6e-0d6a1f3b7a01'
UUID2 = '0c7e54b2-7a11-4c2f-9f0e-61b2a3c4d502'
HOME1 = f'{guests.INSTANCES}/{UUID1}'
HOME2 = f'{guests.INSTANCES}/{UUID2}'
BASE = f'{guests.INSTANCES}/_base'
SWTPM = '/var/lib/libvirt/swtpm'
NAME2 = 'instance-00000002'

_DISKS = """
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
  <source file='{home}/disk'/><target dev='vda'/>
  <backingStore type='file'><format type='raw'/>
    <source file='{base}/abc'/><backingStore/></backingStore></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>
  <source file='{home}/disk.config'/><target dev='hda'/><readonly/></disk>
<disk type='block' device='disk'><driver name='qemu' type='raw'/>
  <source dev='/dev/dm-{number}'/><target dev='vdb'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/>
  <source file='/var/lib/nova/mnt/{hash}/volume-{uuid}'/>
  <target dev='vdc'/></disk>
<disk type='network' device='disk'><driver name='qemu' type='raw'/>
  <source protocol='rbd' name='p/v'><host name='10.9.0.{number}'
  port='6789'/></source><target dev='vdd'/></disk>
<console type='pty'><source path='/dev/pts/{number}'/>
  <log file='{home}/console.log'/></console>
<channel type='unix'><source mode='bind' path='/run/c/{number}.sock'/>
  <target type='virtio' name='agent'/></channel>
<interface type='vhostuser'><mac address='fa:16:3e:13:de:21'/>
  <source type='unix' path='/run/vhu{number}' mode='server'/></interface>
<graphics type='vnc' port='590{number}' autoport='yes' listen='127.0.0.1'>
  <listen type='address' address='127.0.0.1'/></graphics>
"""


def guest(uuid, number, name, **kwargs):
    home = f'{guests.INSTANCES}/{uuid}'
    devices = _DISKS.format(
        home=home, base=BASE, number=number, hash='0' * 32, uuid=uuid
    )
    level = f's0:c{number},c9'
    domain = guests.make(
        uuid,
        name=name,
        number=number,
        nova=(f'vm{number}', 'acme'),
        devices=devices,
        top="<seclabel type='dynamic' model='selinux' relabel='yes'>"
        f'<label>system_u:system_r:svirt_t:{level}</label></seclabel>'
        '<os><type>hvm</type><nvram>/var/lib/libvirt/qemu/nvram/'
        f'{name}_VARS.fd</nvram></os>',
    )
    return attribution.describe(domain, pids=[1000 + number], **kwargs)


class Kernel:
    """Answers as a kernel with these profiles would."""

    def __init__(self, **granted):
        self.granted = granted
        self.asked = 0

    def __call__(self, uuid, path):
        self.asked += 1
        name = {UUID1: 'one', UUID2: 'two'}[uuid]
        return self.granted.get(name, {}).get(path, '')


class ClassificationTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.table = attribution.Table(
            [
                guest(UUID1, 1, 'instance-00000001'),
                guest(UUID2, 2, NAME2),
            ],
            ['/var/lib/libvirt/qemu', '/run/libvirt/qemu'],
        )
        self.judge = None

    def classify(self, record, context=None):
        attempt = attempts.read(record, context or {})
        target = classification.target(attempt, self.table)
        return target, classification.classify(
            attempt, target, self.table, self.judge
        )

    def apparmor(self, body, context=None, profile=f'libvirt-{UUID1}'):
        return self.classify(denials.apparmor(body, profile), context)

    def open(self, path, mask='r', operation='open'):
        return self.apparmor(
            f'operation="{operation}" class="file" name="{path}" '
            f'requested_mask="{mask}" denied_mask="{mask}"'
        )

    def selinux(self, perms, body):
        return self.classify(
            denials.selinux(
                f'audit(1.200:3): avc:  denied  {{ {perms} }} for  pid=1 '
                f'scontext=system_u:system_r:svirt_t:s0:c1,c9 {body} '
                'permissive=0'
            )
        )


class WordsTest(base.BaseTestCase):
    def test_they_are_those_of_the_events(self):
        for name in (
            'CROSS_INSTANCE HOST_FILE EXEC CAPABILITY NETWORK PROCESS DEVICE'
            ' POLICY_GAP LOW MEDIUM HIGH CRITICAL'
        ).split():
            self.assertEqual(
                getattr(model, name), getattr(classification, name)
            )


@ddt.ddt
class CrossInstanceTest(ClassificationTestCase):
    """Whatever is another guest's."""

    @ddt.data(
        (f'{HOME2}/disk', 'disk'),
        (f'{HOME2}/disk.config', 'config drive'),
        (f'{HOME2}/console.log', 'console'),
        (f'{HOME2}/disk.info', 'instance directory'),
        (f'{HOME2}_resize/disk', 'disk'),
        ('/dev/dm-2', 'volume'),
        ('/disconnected/dev/dm-2', 'volume'),
        (f'/var/lib/nova/mnt/{"0" * 32}/volume-{UUID2}', 'volume'),
        ('/dev/pts/2', 'console'),
        ('/run/c/2.sock', 'console'),
        ('/run/vhu2', 'vhost-user socket'),
        (f'/var/lib/libvirt/qemu/nvram/{NAME2}_VARS.fd', 'nvram'),
        (f'{SWTPM}/{UUID2}/tpm2/tpm2-00.permall', 'vtpm'),
        (
            f'/var/lib/libvirt/qemu/domain-2-{NAME2}/monitor.sock',
            'libvirt state',
        ),
        (f'/run/libvirt/qemu/{NAME2}.pid', 'libvirt state'),
        ('/proc/1002/mem', 'process'),
    )
    @ddt.unpack
    def test_a_file(self, path, kind):
        for mask in ('r', 'wr'):
            target, meaning = self.open(path, mask)
            self.assertEqual((kind, UUID2), (target.kind, target.owner), path)
            self.assertEqual(
                ('cross_instance', 'critical'),
                (meaning.category, meaning.severity),
                path,
            )

    def test_what_qemu_does_by_itself_is_less(self):
        _, meaning = self.open('/proc/1002/cmdline')
        self.assertEqual('medium', meaning.severity)

    @ddt.data(
        f'operation="ptrace" denied_mask="trace" peer="libvirt-{UUID2}"',
        f'operation="signal" signal=kill peer="libvirt-{UUID2}"',
        f'operation="signal" signal=kill peer="libvirt-{UUID2}//swtpm"',
    )
    def test_a_process(self, body):
        target, meaning = self.apparmor(body)
        self.assertEqual(('process', UUID2), (target.kind, target.owner))
        self.assertEqual('cross_instance', meaning.category)
        self.assertEqual('critical', meaning.severity)

    def test_a_process_of_which_only_the_number_is_known(self):
        target, _ = self.apparmor(
            'operation="ptrace" denied_mask="trace" peer="unconfined"',
            {'opid': '1002'},
        )
        self.assertEqual(UUID2, target.owner)

    def test_its_screen(self):
        target, meaning = self.apparmor(
            'operation="connect" family="inet" sock_type="stream" '
            'faddr=127.0.0.1 fport=5902'
        )
        self.assertEqual(('console', UUID2), (target.kind, target.owner))
        self.assertEqual('VNC at 127.0.0.1 port 5902', target.name)
        self.assertEqual('cross_instance', meaning.category)

    def test_a_port_of_that_number_elsewhere_is_not_its_screen(self):
        target, meaning = self.apparmor(
            'operation="connect" family="inet" sock_type="stream" '
            'faddr=10.0.0.9 fport=5902'
        )
        self.assertIsNone(target.owner)
        self.assertEqual('network', meaning.category)

    def test_its_monitor(self):
        path = f'/var/lib/libvirt/qemu/domain-2-{NAME2}/monitor.sock'
        target, meaning = self.apparmor(
            'operation="connect" class="net" family="unix" '
            f'sock_type="stream" peer_addr="{path}" peer="libvirt-{UUID2}"'
        )
        self.assertEqual(UUID2, target.owner)
        self.assertEqual('critical', meaning.severity)

    def test_its_disk_by_selinux_categories(self):
        target, meaning = self.selinux(
            'read write',
            'name="disk" dev="sda" ino=1 tclass=file '
            'tcontext=system_u:object_r:svirt_image_t:s0:c2,c9',
        )
        self.assertEqual(('disk', UUID2), (target.kind, target.owner))
        self.assertEqual(f'{HOME2}/disk', target.path)
        self.assertEqual('cross_instance', meaning.category)

    def test_the_label_counts_and_not_the_name(self):
        target, meaning = self.selinux(
            'read',
            f'path="{HOME1}/disk" tclass=file '
            'tcontext=system_u:object_r:svirt_image_t:s0:c2,c9',
        )
        self.assertEqual(UUID2, target.owner)
        self.assertEqual('cross_instance', meaning.category)

    def test_a_disk_of_a_guest_that_is_not_known(self):
        target, meaning = self.selinux(
            'read',
            'name="disk" dev="sda" ino=1 tclass=file '
            'tcontext=system_u:object_r:svirt_image_t:s0:c7,c8',
        )
        self.assertEqual('s0:c7,c8', target.owner)
        self.assertEqual('cross_instance', meaning.category)

    def test_its_own_label_is_its_own_also_when_it_is_not_known(self):
        self.table = attribution.Table()
        _, meaning = self.selinux(
            'read',
            'name="disk" dev="sda" ino=1 tclass=file '
            'tcontext=system_u:object_r:svirt_image_t:s0:c1,c9',
        )
        self.assertEqual('host_file', meaning.category)

    def test_its_process_by_selinux_categories(self):
        _, meaning = self.selinux(
            'ptrace',
            'tclass=process tcontext=system_u:system_r:svirt_t:s0:c2,c9',
        )
        self.assertEqual('cross_instance', meaning.category)


@ddt.ddt
class GapTest(ClassificationTestCase):
    """Our profile is too tight, or only seems to be."""

    @ddt.data(
        (f'{HOME1}/disk', 'wr', f'"{HOME1}/disk" rw,'),
        (f'{HOME1}/disk.config', 'r', f'"{HOME1}/disk.config" r,'),
        (f'{BASE}/abc', 'r', f'"{BASE}/abc" r,'),
        (f'{HOME1}/disk', 'k', f'"{HOME1}/disk" k,'),
        ('/dev/dm-1', 'wr', '"/{,disconnected/}dev/dm-1" rw,'),
        ('/disconnected/dev/dm-1', 'r', '"/{,disconnected/}dev/dm-1" r,'),
        ('/run/vhu1', 'wr', '"/run/vhu1" rw,'),
        ('/dev/pts/1', 'wr', '"/{,disconnected/}dev/pts/1" rw,'),
        ('/dev/kvm', 'wr', '"/{,disconnected/}dev/kvm" rw,'),
    )
    @ddt.unpack
    def test_what_its_xml_names_and_nobody_is_granted(self, path, mask, rule):
        for judge in (None, Kernel()):
            self.judge = judge
            _, meaning = self.open(path, mask)
            self.assertEqual('policy_gap', meaning.category, path)
            self.assertEqual(rule, meaning.rule)

    def test_a_file_that_its_xml_does_not_name_is_none(self):
        for path in (f'{HOME1}/other', '/dev/dm-7', f'{HOME1}/disk/../x'):
            _, meaning = self.open(path, 'wr')
            self.assertNotEqual('policy_gap', meaning.category, path)
            self.assertIsNone(meaning.rule)

    def test_what_is_granted_to_another_guest_alone_is_that_guests(self):
        self.judge = Kernel(two={'/dev/dm-1': 'rw'})
        target, meaning = self.open('/dev/dm-1', 'wr')
        self.assertEqual(UUID1, target.owner)
        self.assertEqual('cross_instance', meaning.category)
        self.assertEqual(
            ('critical', UUID2), (meaning.severity, meaning.owner)
        )
        self.assertIsNone(meaning.rule)

    def test_what_all_may_read_is_nobodys_by_that(self):
        self.judge = Kernel(two={f'{BASE}/abc': 'r'})
        _, meaning = self.open(f'{BASE}/abc')
        self.assertEqual('policy_gap', meaning.category)

    def test_what_its_profile_grants_needs_no_rule(self):
        self.judge = Kernel(one={f'{HOME1}/disk': 'rw'})
        _, meaning = self.open(f'{HOME1}/disk', 'wr')
        self.assertEqual('host_file', meaning.category)
        self.assertEqual(('low', None), (meaning.severity, meaning.rule))

    def test_a_part_of_what_was_wanted_is_not_enough(self):
        self.judge = Kernel(one={f'{HOME1}/disk': 'r'})
        _, meaning = self.open(f'{HOME1}/disk', 'wr')
        self.assertEqual('policy_gap', meaning.category)

    def test_a_device_that_has_changed_hands(self):
        self.judge = Kernel(one={'/dev/dm-2': 'rw'})
        _, meaning = self.open('/dev/dm-2', 'wr')
        self.assertEqual(
            ('device', 'low'), (meaning.category, meaning.severity)
        )
        self.judge = Kernel(one={'/dev/dm-2': 'rw'}, two={'/dev/dm-2': 'rw'})
        _, meaning = self.open('/dev/dm-2', 'wr')
        self.assertEqual('cross_instance', meaning.category)

    def test_a_kernel_that_does_not_answer_leaves_the_names(self):
        def judge(uuid, path):
            raise exceptions.HostFault('no AppArmor')

        self.judge = judge
        self.assertEqual(
            'policy_gap', self.open(f'{HOME1}/disk', 'w')[1].category
        )
        self.assertEqual(
            'cross_instance', self.open(f'{HOME2}/disk', 'w')[1].category
        )

    def test_the_grant_of_a_guests_profile_is_not_that_of_its_child(self):
        self.judge = Kernel(one={f'{HOME1}/disk': 'rw'})
        _, meaning = self.apparmor(
            f'operation="open" name="{HOME1}/disk" denied_mask="r"',
            profile=f'libvirt-{UUID1}//swtpm',
        )
        self.assertEqual('policy_gap', meaning.category)

    def test_writing_to_what_it_only_reads(self):
        for path, severity in (
            (f'{HOME1}/disk.config', 'medium'),
            (f'{BASE}/abc', 'critical'),
        ):
            _, meaning = self.open(path, 'w')
            self.assertEqual('host_file', meaning.category)
            self.assertEqual(severity, meaning.severity)

    def test_what_is_kept_for_it(self):
        _, meaning = self.open(f'{HOME1}/console.log', 'r')
        self.assertEqual(
            ('host_file', 'medium'), (meaning.category, meaning.severity)
        )

    def test_executing_its_own_disk(self):
        for operation, mask in (('exec', 'x'), ('file_mmap', 'm')):
            _, meaning = self.open(f'{HOME1}/disk', mask, operation)
            self.assertEqual('exec', meaning.category)

    def test_a_name_that_no_rule_can_hold(self):
        name = f'{HOME1}/a\nb'
        table = attribution.Guest(
            UUID1, 'x', 1, files=(attribution.File(name, 'disk', 'rw'),)
        )
        self.table = attribution.Table([table])
        _, meaning = self.apparmor(
            f'operation="open" name={name.encode().hex().upper()} '
            'denied_mask="r"'
        )
        self.assertEqual('policy_gap', meaning.category)
        self.assertIsNone(meaning.rule)

    def test_a_name_with_metacharacters_stands_for_itself(self):
        name = '/srv/**'
        owner = attribution.Guest(
            UUID1, 'x', 1, files=(attribution.File(name, 'disk', 'rw'),)
        )
        self.table = attribution.Table([owner])
        _, meaning = self.open(name)
        self.assertEqual(r'"/srv/\052\052" r,', meaning.rule)

    def test_listening_for_its_screen(self):
        for body in (
            'operation="create" family="inet" sock_type="stream"',
            'operation="bind" family="inet" sock_type="stream" '
            'laddr=127.0.0.1 lport=5901',
        ):
            _, meaning = self.apparmor(body)
            self.assertEqual('policy_gap', meaning.category, body)
            self.assertIn('inet, stream', meaning.rule.replace(' s', ', s'))

    def test_listening_elsewhere(self):
        for body in (
            'operation="create" family="inet" sock_type="dgram"',
            'operation="bind" family="inet" sock_type="stream" lport=80',
        ):
            _, meaning = self.apparmor(body)
            self.assertEqual('network', meaning.category, body)

    def test_the_server_of_its_volume(self):
        connect = 'operation="connect" family="inet" sock_type="stream" '
        _, meaning = self.apparmor(f'{connect} faddr=10.9.0.1 fport=6789')
        self.assertEqual('policy_gap', meaning.category)
        for where in (
            'faddr=10.9.0.1 fport=22',
            'faddr=10.9.0.2 fport=6789',
            '',
        ):
            _, meaning = self.apparmor(f'{connect} {where}')
            self.assertEqual('network', meaning.category, where)

    def test_selinux_has_no_rule_to_give(self):
        _, meaning = self.selinux(
            'open',
            f'path="{HOME1}/disk" tclass=file '
            'tcontext=system_u:object_r:nfs_t:s0',
        )
        self.assertEqual(
            ('policy_gap', None), (meaning.category, meaning.rule)
        )
        self.assertIn('nfs_t', meaning.reason)


@ddt.ddt
class HostTest(ClassificationTestCase):
    """What is the host's."""

    @ddt.data(
        ('/etc/shadow', 'r', 'host_file', 'high'),
        ('/etc/shadow', 'w', 'host_file', 'critical'),
        ('/etc/nova/nova.conf', 'r', 'host_file', 'high'),
        ('/etc/ssl/private/a.pem', 'r', 'host_file', 'high'),
        ('/root/.ssh/id_rsa', 'r', 'host_file', 'high'),
        ('/home/u/x', 'r', 'host_file', 'high'),
        ('/etc/ld.so.cache', 'r', 'host_file', 'low'),
        ('/etc/cron.d/x', 'wc', 'host_file', 'critical'),
        ('/usr/lib/x.so', 'r', 'host_file', 'low'),
        ('/usr/lib/x.so', 'w', 'host_file', 'critical'),
        ('/tmp/x', 'r', 'host_file', 'low'),
        ('/srv/x', 'r', 'host_file', 'medium'),
        ('/srv/x', 'w', 'host_file', 'high'),
        ('/proc/sys/kernel/core_pattern', 'w', 'host_file', 'critical'),
        ('/proc/filesystems', 'r', 'host_file', 'low'),
        ('/proc/kcore', 'r', 'host_file', 'critical'),
        (
            '/sys/kernel/security/apparmor/.replace',
            'w',
            'host_file',
            'critical',
        ),
        ('/proc/1/mem', 'r', 'process', 'critical'),
        ('/proc/1/maps', 'r', 'process', 'high'),
        ('/proc/1/status', 'r', 'process', 'low'),
        ('/dev/mem', 'r', 'device', 'critical'),
        ('/dev/sda', 'r', 'device', 'critical'),
        ('/dev/dm-7', 'r', 'device', 'critical'),
        ('/disconnected/dev/sda', 'r', 'device', 'critical'),
        ('/dev/vfio/7', 'wr', 'device', 'high'),
        ('/dev/input/event0', 'r', 'device', 'high'),
        ('/dev/null', 'w', 'device', 'low'),
        ('/dev/random', 'r', 'device', 'low'),
        ('/dev/pts/9', 'wr', 'device', 'high'),
        ('/dev/something', 'r', 'device', 'medium'),
        (f'{BASE}/other', 'r', 'host_file', 'high'),
        (f'{BASE}/other', 'w', 'host_file', 'critical'),
        ('/run/libvirt/libvirt-sock', 'wr', 'network', 'critical'),
        ('/run/dbus/system_bus_socket', 'wr', 'network', 'high'),
        ('dev/console', 'r', 'host_file', 'medium'),
    )
    @ddt.unpack
    def test_a_file(self, path, mask, category, severity):
        target, meaning = self.open(path, mask)
        self.assertIsNone(target.owner)
        self.assertEqual(
            (category, severity), (meaning.category, meaning.severity), path
        )

    @ddt.data(
        ('/bin/sh', 'critical'),
        ('/usr/bin/python3.11', 'critical'),
        ('/usr/bin/id', 'high'),
        ('/tmp/x', 'high'),
        ('/usr/bin/qemu-system-x86_64', 'high'),
    )
    @ddt.unpack
    def test_a_program(self, path, severity):
        _, meaning = self.open(path, 'x', 'exec')
        self.assertEqual(
            ('exec', severity), (meaning.category, meaning.severity)
        )

    def test_code_of_a_library(self):
        _, meaning = self.open('/usr/lib/x.so', 'rm', 'file_mmap')
        self.assertEqual(
            ('exec', 'medium'), (meaning.category, meaning.severity)
        )

    @ddt.data(
        ('sys_admin', 'critical'),
        ('sys_rawio', 'critical'),
        ('sys_ptrace', 'critical'),
        ('setuid', 'high'),
        ('sys_nice', 'low'),
        ('net_bind_service', 'medium'),
        ('one_of_next_year', 'medium'),
    )
    @ddt.unpack
    def test_a_capability(self, name, severity):
        for _, meaning in (
            self.apparmor(f'operation="capable" capname="{name}"'),
            self.selinux(name, 'capability=1 tclass=capability'),
        ):
            self.assertEqual(
                ('capability', severity), (meaning.category, meaning.severity)
            )

    @ddt.data(
        ('faddr=10.0.0.5 fport=5672', 'RabbitMQ', 'critical'),
        ('faddr=10.0.0.5 fport=3306', 'MariaDB', 'critical'),
        ('faddr=10.0.0.5 fport=16509', 'libvirtd', 'critical'),
        ('faddr=10.0.0.5 fport=9292', 'Glance', 'high'),
        ('faddr=10.0.0.5 fport=49200', 'a live migration', 'high'),
        ('faddr=10.0.0.5 fport=443', 'HTTPS', 'medium'),
    )
    @ddt.unpack
    def test_a_service(self, where, name, severity):
        target, meaning = self.apparmor(
            f'operation="connect" family="inet" sock_type="stream" {where}'
        )
        self.assertEqual('host service', target.kind)
        self.assertTrue(target.name.startswith(f'{name} at 10.0.0.5 port'))
        self.assertEqual(
            ('network', severity), (meaning.category, meaning.severity)
        )

    def test_a_service_of_which_selinux_tells_the_port(self):
        target, meaning = self.selinux(
            'name_connect',
            'dest=5672 tclass=tcp_socket '
            'tcontext=system_u:object_r:amqp_port_t:s0',
        )
        self.assertEqual('RabbitMQ at port 5672', target.name)
        self.assertEqual('critical', meaning.severity)

    @ddt.data(
        ('create', 'packet', 'raw', 'high'),
        ('create', 'inet', 'raw', 'high'),
        ('create', 'inet6', 'dgram', 'medium'),
        ('create', 'netlink', 'raw', 'low'),
        ('create', 'bluetooth', 'raw', 'high'),
        ('connect', 'inet', 'stream', 'high'),
    )
    @ddt.unpack
    def test_a_socket(self, operation, family, kind, severity):
        _, meaning = self.apparmor(
            f'operation="{operation}" family="{family}" sock_type="{kind}"'
        )
        self.assertEqual(
            ('network', severity), (meaning.category, meaning.severity)
        )

    @ddt.data(
        (
            'operation="ptrace" denied_mask="trace" peer="unconfined"',
            'critical',
        ),
        ('operation="ptrace" denied_mask="read" peer="libvirtd"', 'high'),
        ('operation="signal" signal=kill peer="libvirtd"', 'high'),
        ('operation="signal" signal=exists peer="libvirtd"', 'low'),
        (f'operation="signal" signal=kill peer="libvirt-{UUID1}"', 'low'),
        ('operation="change_profile" name="unconfined"', 'critical'),
    )
    @ddt.unpack
    def test_a_process(self, body, severity):
        _, meaning = self.apparmor(body)
        self.assertEqual(
            ('process', severity), (meaning.category, meaning.severity)
        )

    @ddt.data(
        (
            'operation="mount" class="mount" name="/mnt/"',
            'host_file',
            'critical',
        ),
        ('operation="userns_create" class="namespace"', 'capability', 'high'),
        ('operation="uring_sqpoll" class="io_uring"', 'capability', 'medium'),
        ('operation="one_of_next_year"', 'capability', 'medium'),
    )
    @ddt.unpack
    def test_what_else_there_is(self, body, category, severity):
        _, meaning = self.apparmor(body)
        self.assertEqual(
            (category, severity), (meaning.category, meaning.severity)
        )

    def test_a_guest_that_is_not_known(self):
        self.table = attribution.Table()
        _, meaning = self.open(f'{HOME2}/disk')
        self.assertEqual('host_file', meaning.category)

    def test_a_path_as_long_as_can_be_costs_little(self):
        depth = self.table._depth
        self.assertLess(depth, 10)
        target, _ = self.open('/a' * 2047)
        self.assertEqual('host file', target.kind)
