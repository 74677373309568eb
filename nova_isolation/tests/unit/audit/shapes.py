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

"""One record of each shape that AppArmor and SELinux write.

In the kernel's form, without time and serial. Those that no kernel of the
samples sent are written as security/apparmor, security/selinux and
security/lsm_audit.c write them, the messages of programs as dbus-daemon,
systemd and libselinux do.
"""

from collections.abc import Mapping
from typing import NamedTuple

from nova_isolation.audit import records

HEADER = 'audit(1795424098.237:52): '
MINE = 'libvirt-11111111-1111-4111-8111-111111111111'
OTHER = 'libvirt-22222222-2222-4222-8222-222222222222'
DISK = '/var/lib/nova/instances/22222222-2222-4222-8222-222222222222/disk'
SVIRT = 'system_u:system_r:svirt_t:s0:c504,c872'
IMAGE = 'system_u:object_r:svirt_image_t:s0:c753,c832'


class Shape(NamedTuple):
    """A record and what it says.

    :ivar name: in words
    :ivar kind: the numeric type
    :ivar body: what follows the header
    :ivar verdict: as :class:`records.Record` has it
    :ivar decision: as that has it
    :ivar fields: some of its fields
    """

    name: str
    kind: int
    body: str
    verdict: str
    decision: str | None
    fields: Mapping[str, str]

    @property
    def payload(self) -> bytes:
        """The whole record."""
        return f'{HEADER}{self.body}'.encode()


def _apparmor(
    name: str,
    operation: str,
    class_: str,
    rest: str,
    /,
    *,
    before: str = '',
    verdict: str = 'DENIED',
    **fields: str,
) -> Shape:
    """Write a record as AppArmor's audit_pre() begins it.

    :param rest: what its class adds behind the command's name, after what
        stands before the pid and ``|``
    :param before: what stands before the profile
    """
    name_, _, rest = rest.rpartition('|')
    words = [
        f'apparmor="{verdict}"',
        f'operation="{operation}"',
        f'class="{class_}"',
        before,
        f'profile="{MINE}"',
        name_,
        'pid=780',
        'comm="qemu-system-x86"',
        rest,
    ]
    return Shape(
        f'apparmor {name}',
        records.AVC,
        ' '.join(filter(None, words)),
        verdict,
        records.DECISIONS.get(verdict),
        {'operation': operation, 'class': class_, 'pid': '780', **fields},
    )


def _file(
    operation: str, mask: str, rest: str = '', /, **fields: str
) -> Shape:
    return _apparmor(
        f'file {operation} {mask}',
        operation,
        'file',
        f'name="{DISK}"|requested_mask="{mask}" denied_mask="{mask}"'
        f' fsuid=64055 ouid=0{rest}',
        name=DISK,
        denied_mask=mask,
        **fields,
    )


def _net(
    operation: str, family: str, type_: str, rest: str, /, **fields: str
) -> Shape:
    return _apparmor(
        f'net {operation} {family} {type_}: {rest}',
        operation,
        'net',
        rest,
        family=family,
        sock_type=type_,
        **fields,
    )


def _inet(
    operation: str, family: str, type_: str, addresses: str, /, **fields: str
) -> Shape:
    return _net(
        operation,
        family,
        type_,
        f'{addresses}family="{family}" sock_type="{type_}" protocol=6'
        f' requested_mask="{operation}" denied_mask="{operation}"',
        denied_mask=operation,
        **fields,
    )


def _unix(operation: str, rest: str, /, **fields: str) -> Shape:
    return _net(
        operation,
        'unix',
        'stream',
        'family="unix" sock_type="stream" protocol=0'
        f' requested_mask="send" denied_mask="send"{rest}',
        denied_mask='send',
        **fields,
    )


def _status(operation: str, rest: str, /, **fields: str) -> Shape:
    return Shape(
        f'apparmor STATUS {operation} {rest}',
        records.AVC,
        f'apparmor="STATUS" operation="{operation}" {rest} pid=9'
        ' comm="apparmor_parser"',
        'STATUS',
        None,
        {'operation': operation, **fields},
    )


def _avc(
    class_: str,
    perms: str,
    about: str,
    /,
    *,
    permissive: int = 0,
    **fields: str,
) -> Shape:
    return Shape(
        f'selinux {class_} {perms}{about} {permissive}',
        records.AVC,
        f'avc:  denied  {{ {perms} }} for  pid=879 comm="qemu-system-x86"'
        f'{about} scontext={SVIRT} tcontext={IMAGE} tclass={class_}'
        f' permissive={permissive}',
        'denied',
        'would_deny' if permissive else 'denied',
        {
            'perms': perms,
            'tclass': class_,
            'scontext': SVIRT,
            'tcontext': IMAGE,
            'pid': '879',
            'comm': 'qemu-system-x86',
            **fields,
        },
    )


_SENDER = 'pid=604 uid=104 auid=4294967295 ses=4294967295 subj=unconfined msg='
_TAIL = '\n exe="/usr/bin/dbus-daemon" sauid=104 hostname=? addr=? terminal=?'


def _user(
    name: str,
    message: str,
    verdict: str,
    decision: str | None,
    /,
    **fields: str,
) -> Shape:
    return Shape(
        f'user_avc {name}',
        records.USER_AVC,
        f"{_SENDER}'{message}{_TAIL}'",
        verdict,
        decision,
        {'sender_pid': '604', 'exe': '/usr/bin/dbus-daemon', **fields},
    )


APPARMOR: tuple[Shape, ...] = (
    _file('open', 'r'),
    _file('open', 'wc'),
    _file('mknod', 'c'),
    _file('mkdir', 'c'),
    _file('rmdir', 'd'),
    _file('unlink', 'd'),
    _file('symlink', 'c'),
    _file('link', 'l', ' target="/etc/shadow"', target='/etc/shadow'),
    _file('rename_src', 'wrd'),
    _file('rename_dest', 'wc'),
    _file('chmod', 'w'),
    _file('chown', 'w'),
    _file('truncate', 'w'),
    _file('getattr', 'r'),
    _file('file_lock', 'k'),
    _file('file_perm', 'w'),
    _file('file_mmap', 'rm'),
    _file('file_mprotect', 'm'),
    _file('file_receive', 'rw'),
    _file('file_inherit', 'rw'),
    _file('exec', 'x', ' target="other"', target='other'),
    _apparmor(
        'file of a path that the kernel cannot tell',
        'getattr',
        'file',
        'name=""|requested_mask="r" denied_mask="r" fsuid=64055 ouid=0',
        before='info="Failed name lookup - disconnected path" error=-13',
        info='Failed name lookup - disconnected path',
        error='-13',
        name='',
    ),
    _apparmor(
        'file with a name in hex',
        'open',
        'file',
        'name=2F746D702F776522697264206E616D650A78|requested_mask="r"'
        ' denied_mask="r" fsuid=64055 ouid=0',
        name='/tmp/we"ird name\nx',
    ),
    _apparmor(
        'file in a namespace',
        'open',
        'file',
        f'name="{DISK}"|requested_mask="r" denied_mask="r" fsuid=0 ouid=0',
        before='namespace="root//lxd-1"',
        namespace='root//lxd-1',
    ),
    _apparmor(
        'capability',
        'capable',
        'cap',
        'capability=21  capname="sys_admin"',
        capability='21',
        capname='sys_admin',
    ),
    _inet('create', 'inet', 'stream', ''),
    _inet(
        'connect',
        'inet',
        'stream',
        'laddr=10.0.0.5 lport=40112 faddr=10.0.0.7 fport=5672 ',
        laddr='10.0.0.5',
        lport='40112',
        faddr='10.0.0.7',
        fport='5672',
    ),
    _inet(
        'bind',
        'inet6',
        'dgram',
        'laddr=fe80::1 lport=53 ',
        laddr='fe80::1',
        lport='53',
    ),
    _inet('create', 'inet', 'raw', ''),
    _inet('create', 'netlink', 'raw', ''),
    _inet('create', 'packet', 'dgram', ''),
    _apparmor(
        'net with what failed',
        'create',
        'net',
        'family="inet" sock_type="stream" protocol=6 requested="create"'
        ' denied="create"',
        before='info="failed af match" error=-13',
        info='failed af match',
        denied='create',
    ),
    _unix('sendmsg', ''),
    _unix('connect', ' addr=none', addr='none'),
    _unix(
        'connect',
        ' addr=none peer_addr="@/tmp/.X11-unix/X0" peer="unconfined"',
        addr='none',
        peer_addr='@/tmp/.X11-unix/X0',
        peer='unconfined',
    ),
    _unix(
        'connect',
        f' addr=none peer_addr=2F746D702F6120 peer="{OTHER}"',
        peer_addr='/tmp/a ',
        peer=OTHER,
    ),
    _apparmor(
        'ptrace',
        'ptrace',
        'ptrace',
        f'requested_mask="read" denied_mask="read" peer="{OTHER}"',
        denied_mask='read',
        peer=OTHER,
    ),
    _apparmor(
        'signal',
        'signal',
        'signal',
        f'requested_mask="send" denied_mask="send" signal=kill peer="{OTHER}"',
        signal='kill',
        peer=OTHER,
    ),
    _apparmor(
        'signal to a stack of profiles',
        'signal',
        'signal',
        'requested_mask="send" denied_mask="send" signal=rtmin+3'
        f' peer="{OTHER}//&:lxd-1:unconfined"',
        signal='rtmin+3',
        peer=f'{OTHER}//&:lxd-1:unconfined',
    ),
    _apparmor(
        'mount',
        'mount',
        'mount',
        'name="/mnt/"|fstype="ext4" srcname="/dev/sda1"'
        ' flags="rw, nosuid, rbind" options=613D31206232',
        before='info="failed mntpnt match" error=-13',
        info='failed mntpnt match',
        name='/mnt/',
        fstype='ext4',
        srcname='/dev/sda1',
        flags='rw, nosuid, rbind',
        options='a=1 b2',
    ),
    _apparmor('umount', 'umount', 'mount', 'name="/mnt/"|', name='/mnt/'),
    _apparmor(
        'pivot_root',
        'pivotroot',
        'mount',
        'name="/new/"|srcname="/new/old/" trans="inner"',
        name='/new/',
        srcname='/new/old/',
        trans='inner',
    ),
    _apparmor(
        'change_profile',
        'change_profile',
        'file',
        'name="unconfined"|requested_mask="" target="unconfined"',
        before='info="no new privs" error=-1',
        target='unconfined',
    ),
    _apparmor(
        'change_onexec',
        'change_onexec',
        'file',
        f'name="{OTHER}"|',
        name=OTHER,
    ),
    _apparmor(
        'change_hat',
        'change_hat',
        'domain',
        'target="hat"',
        before='info="unconfined can not change_hat" error=-1',
        target='hat',
    ),
    _apparmor(
        'rlimits',
        'setrlimit',
        'rlimits',
        'rlimit=memlock value=18446744073709551615',
        before='info="cap_sys_resource" error=-13',
        rlimit='memlock',
        value='18446744073709551615',
    ),
    _apparmor(
        'io_uring',
        'uring_sqpoll',
        'io_uring',
        'requested="sqpoll" denied="sqpoll"',
        denied='sqpoll',
    ),
    _apparmor(
        'user namespace',
        'userns_create',
        'namespace',
        'requested="userns_create" denied="userns_create"'
        ' target="unprivileged_userns" execpath="/usr/bin/qemu"',
        before='info="Userns create restricted" error=-13',
        target='unprivileged_userns',
        execpath='/usr/bin/qemu',
    ),
    _apparmor(
        'posix mqueue',
        'mqueue_create',
        'posix_mqueue',
        'name="/queue"|requested="create" denied="create" fsuid=0 ouid=0',
        name='/queue',
        denied='create',
    ),
    _apparmor(
        'sysv mqueue',
        'msgget',
        'sysv_mqueue',
        'name="123"|requested="create" denied="create"',
        name='123',
    ),
    _apparmor(
        'new class', 'new', 'newer', 'some=thing un-known=1', some='thing'
    ),
    _apparmor(
        'complain mode',
        'open',
        'file',
        f'name="{DISK}"|requested_mask="r" denied_mask="r" fsuid=0 ouid=0',
        verdict='ALLOWED',
    ),
    _apparmor(
        'audit mode',
        'open',
        'file',
        f'name="{DISK}"|requested_mask="r" fsuid=0 ouid=0',
        verdict='AUDIT',
    ),
    _apparmor('kill mode', 'capable', 'cap', 'capability=1', verdict='KILLED'),
    Shape(
        'apparmor without class',
        records.AVC,
        f'apparmor="DENIED" operation="open" profile="{MINE}" name="{DISK}"'
        ' pid=780 comm="qemu-system-x86" requested_mask="r" denied_mask="r"'
        ' fsuid=64055 ouid=0',
        'DENIED',
        'denied',
        {'operation': 'open', 'name': DISK, 'denied_mask': 'r'},
    ),
    Shape(
        'apparmor of several profiles',
        records.AVC,
        f'apparmor="DENIED" operation="open" class="file"'
        f' label="{MINE}//&inner" name="{DISK}" pid=780 comm="q"'
        ' requested_mask="r" denied_mask="r" fsuid=0 ouid=0',
        'DENIED',
        'denied',
        {'label': f'{MINE}//&inner', 'name': DISK},
    ),
    _status('profile_load', f'profile="unconfined" name="{MINE}"', name=MINE),
    _status(
        'profile_replace',
        'info="same as current profile, skipping" profile="unconfined"'
        f' name="{MINE}"',
        info='same as current profile, skipping',
        name=MINE,
    ),
    _status(
        'profile_remove', f'profile="unconfined" name="{MINE}"', name=MINE
    ),
    _status(
        'profile_load',
        'info="failed to unpack profile data" error=-71 profile="unconfined"'
        f' name="{MINE}"',
        error='-71',
    ),
    Shape(
        'apparmor hint',
        records.AVC,
        'apparmor="HINT" operation="change_hat" info="unknown" pid=1 comm="x"',
        'HINT',
        None,
        {'operation': 'change_hat'},
    ),
    Shape(
        'apparmor error',
        records.AVC,
        'apparmor="ERROR" operation="setprocattr" info="current" error=-22'
        ' pid=1 comm="x"',
        'ERROR',
        None,
        {'error': '-22'},
    ),
    Shape(
        'apparmor of a type of its own',
        1503,
        'operation="inode_permission" requested_mask="r::"'
        f' denied_mask="r::" fsuid=0 name="{DISK}" pid=7 profile="{MINE}"',
        'DENIED',
        'denied',
        {'operation': 'inode_permission', 'name': DISK},
    ),
    *(
        _user(
            f'apparmor dbus {mask}',
            f'apparmor="{verdict}" operation="dbus_{operation}"  bus="system"'
            ' path="/org/freedesktop/systemd1"'
            ' interface="org.freedesktop.systemd1.Manager"'
            f' member="ListUnits" mask="{mask}"'
            f' name="org.freedesktop.systemd1" pid=780 label="{MINE}"'
            ' peer_pid=1 peer_label="unconfined"',
            verdict,
            decision,
            operation=f'dbus_{operation}',
            mask=mask,
            label=MINE,
            pid='780',
            member='ListUnits',
            peer_label='unconfined',
        )
        for operation, mask, verdict, decision in (
            ('method_call', 'send', 'DENIED', 'denied'),
            ('signal', 'receive', 'ALLOWED', 'would_deny'),
        )
    ),
)

_ITSELF = ' auid=4294967295 ses=4294967295'

SELINUX: tuple[Shape, ...] = (
    _avc(
        'file',
        'read write',
        ' name="disk" dev="dm-0" ino=14209',
        name='disk',
        dev='dm-0',
        ino='14209',
    ),
    _avc('file', 'open', f' path="{DISK}" dev="dm-0" ino=14209', path=DISK),
    _avc('file', 'open', f' path="{DISK}" dev="dm-0" ino=1', permissive=1),
    _avc('file', 'read', ' path=2F612062 dev="dm-0" ino=1', path='/a b'),
    _avc(
        'file',
        'ioctl',
        f' path="{DISK}" dev="dm-0" ino=14209 ioctlcmd=0x5413',
        ioctlcmd='0x5413',
    ),
    _avc('file', 'execmod', f' path="{DISK}" dev="dm-0" ino=14209'),
    _avc('dir', 'add_name search', ' name="x"', name='x'),
    _avc('lnk_file', 'read', ' name="x" dev="dm-0" ino=9'),
    _avc('chr_file', 'map', ' path="/dev/mem" dev="devtmpfs" ino=2'),
    _avc('blk_file', 'read', ' path="/dev/sda" dev="devtmpfs" ino=2'),
    _avc('sock_file', 'write', ' name="libvirt-sock" dev="tmpfs" ino=8'),
    _avc('fifo_file', 'getattr', ' path="pipe:[12]" dev="pipefs" ino=12'),
    _avc('anon_inode', 'create', ' anonclass=[io_uring]'),
    _avc('fd', 'use', ' path="/dev/null" dev="devtmpfs" ino=3'),
    _avc('filesystem', 'unmount', ''),
    _avc('process', 'ptrace', ''),
    _avc('process', 'sigkill', ''),
    _avc('process', 'transition', ' path="/bin/sh" dev="dm-0" ino=4'),
    _avc('process', 'rlimitinh', ''),
    _avc('process2', 'nnp_transition', ''),
    _avc('cap_userns', 'sys_admin', ' capability=21 '),
    _avc('capability', 'dac_override', ' capability=1 ', capability='1'),
    _avc('capability2', 'bpf', ' capability=39 '),
    _avc('user_namespace', 'create', ''),
    _avc('bpf', 'map_read map_write', ''),
    _avc('perf_event', 'open', ''),
    _avc('io_uring', 'sqpoll', ''),
    _avc('memprotect', 'mmap_zero', ''),
    _avc('lockdown', 'confidentiality', ''),
    _avc('system', 'module_request', ' kmod="net-pf-10"', kmod='net-pf-10'),
    _avc('security', 'setenforce', ''),
    _avc('key', 'read', ' key_serial=5 key_desc="user"', key_desc='user'),
    _avc('sem', 'unix_read', ' key=1234 ', key='1234'),
    _avc('msgq', 'create', ' key=10 ', key='10'),
    _avc('shm', 'associate', ' key=0 '),
    _avc(
        'tcp_socket',
        'name_connect',
        ' dest=5672',
        dest='5672',
    ),
    _avc('tcp_socket', 'name_bind', ' src=80', src='80'),
    _avc(
        'tcp_socket',
        'write',
        ' laddr=10.0.0.5 lport=40112 faddr=10.0.0.7 fport=5672',
        laddr='10.0.0.5',
        fport='5672',
    ),
    _avc('udp_socket', 'node_bind', ' saddr=::1 src=53', saddr='::1'),
    _avc('rawip_socket', 'create', ''),
    _avc('packet_socket', 'create', ''),
    _avc(
        'packet',
        'recv',
        ' saddr=10.0.0.5 src=1 daddr=10.0.0.7 dest=2 netif=eth0',
        netif='eth0',
    ),
    _avc('netlink_route_socket', 'nlmsg_write', ''),
    _avc('netlink_audit_socket', 'nlmsg_relay', ''),
    _avc('tun_socket', 'relabelfrom', ''),
    _avc(
        'unix_stream_socket',
        'connectto',
        ' path="/run/libvirt/libvirt-sock"',
        path='/run/libvirt/libvirt-sock',
    ),
    _avc('unix_dgram_socket', 'sendto', ' path=006162', path='\0ab'),
    _avc('vsock_socket', 'create', ''),
    _avc('infiniband_pkey', 'access', ' pkey=0x1 subnet_prefix=fe80::'),
    _avc('infiniband_endport', 'manage_subnet', ' device=mlx5 port_num=1'),
    _avc('binder', 'call', ''),
    _avc('file', 'read 0x4000000', ' name="x"'),
    Shape(
        'selinux granted',
        records.AVC,
        'avc:  granted  { load_policy } for  pid=1 comm="systemd"'
        f' scontext={SVIRT} tcontext={IMAGE} tclass=security',
        'granted',
        None,
        {'perms': 'load_policy', 'tclass': 'security'},
    ),
    Shape(
        'selinux null',
        records.AVC,
        'avc:  denied  null for  pid=1 comm="x"'
        f' scontext={SVIRT} tcontext={IMAGE} tclass=file permissive=0',
        'denied',
        'denied',
        {'perms': '', 'tclass': 'file'},
    ),
    Shape(
        'selinux contexts of another policy',
        records.AVC,
        'avc:  denied  { read } for  pid=1 comm="x"'
        f' scontext={SVIRT} tcontext={IMAGE} tclass=file permissive=0'
        ' srawcon="a:b:c" trawcon="d:e:f"',
        'denied',
        'denied',
        {'srawcon': 'a:b:c', 'trawcon': 'd:e:f'},
    ),
    Shape(
        'selinux setenforce',
        records.MAC_STATUS,
        f'enforcing=0 old_enforcing=1{_ITSELF} enabled=1 old-enabled=1'
        ' lsm=selinux res=1',
        'setenforce',
        None,
        {'enforcing': '0', 'old_enforcing': '1'},
    ),
    Shape(
        'selinux policy_load',
        records.MAC_POLICY_LOAD,
        f'{_ITSELF.strip()} lsm=selinux res=1',
        'policy_load',
        None,
        {'res': '1'},
    ),
    Shape(
        'selinux boolean',
        records.MAC_CONFIG_CHANGE,
        f'bool=virt_use_nfs val=1 old_val=0{_ITSELF}',
        'config_change',
        None,
        {'bool': 'virt_use_nfs', 'val': '1'},
    ),
    Shape(
        'selinux bounded transition',
        records.SELINUX_ERR,
        'op=security_bounded_transition seresult=denied'
        f' oldcontext={SVIRT} newcontext={IMAGE}',
        'denied',
        'denied',
        {'oldcontext': SVIRT},
    ),
    Shape(
        'selinux bounds',
        records.SELINUX_ERR,
        f'op=security_compute_av reason=bounds scontext={SVIRT}'
        f' tcontext={IMAGE} tclass=file perms=read,write',
        'error',
        None,
        {'reason': 'bounds', 'perms': 'read,write'},
    ),
    Shape(
        'selinux invalid context',
        records.SELINUX_ERR,
        'op=setxattr invalid_context="nobody:nothing"',
        'error',
        None,
        {'invalid_context': 'nobody:nothing'},
    ),
    _user(
        'selinux dbus',
        'avc:  denied  { send_msg } for msgtype=method_call'
        ' interface=org.freedesktop.login1.Manager member=ListSessions'
        f' dest=org.freedesktop.login1 spid=780 tpid=1 scontext={SVIRT}'
        f' tcontext={IMAGE} tclass=dbus permissive=0 ',
        'denied',
        'denied',
        perms='send_msg',
        spid='780',
        scontext=SVIRT,
        tclass='dbus',
    ),
    _user(
        'selinux systemd',
        'avc:  denied  { start } for auid=n/a uid=0 gid=0'
        ' path="/usr/lib/systemd/system/x.service" cmdline="/bin/x -y"'
        f' function="mac_selinux_filter" scontext={SVIRT} tcontext={IMAGE}'
        ' tclass=service permissive=1 ',
        'denied',
        'would_deny',
        cmdline='/bin/x -y',
        scontext=SVIRT,
        tclass='service',
    ),
    _user(
        'selinux policyload notice',
        'avc:  received policyload notice (seqno=2)',
        'policy_load',
        None,
    ),
    _user(
        'selinux setenforce notice',
        'avc:  op=setenforce lsm=selinux enforcing=1 res=1',
        'setenforce',
        None,
        enforcing='1',
    ),
)

ALL: tuple[Shape, ...] = (*APPARMOR, *SELINUX)
