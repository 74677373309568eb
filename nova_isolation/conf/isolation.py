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

"""The [isolation] options of nova-compute, some of them also the agent's."""

import os

from oslo_config import cfg
from oslo_config import types


class Path(types.String):
    """An absolute path, or nothing where that has a meaning."""

    def __call__(self, value: object) -> str:
        path: str = super().__call__(value)
        if path and not os.path.isabs(path):
            raise ValueError(f'{path!r} is not an absolute path')
        return path


GROUP = cfg.OptGroup(
    'isolation',
    title='Workload isolation',
    help="""
Options of nova-isolation. They stand in nova.conf, and both nova-compute (with
``compute_driver = isolation.LibvirtDriver``) and nova-isolation-agent read
them. A change takes effect when the service is restarted, and on a guest that
runs at its next start or when it gets or loses a device. Where it says that an
option can be changed without restarting, ``systemctl reload
nova-isolation-agent`` does.
""",
)

OPTS = [
    cfg.StrOpt(
        'mode',
        default='enforce',
        choices=[
            (
                'enforce',
                'A guest runs only when its process is proven to be confined '
                'by the profile that was made for it.',
            ),
            (
                'complain',
                'The same profile is loaded in complain mode: what it does '
                'not grant is allowed and reported as would_deny. For trying '
                'out. A guest whose profile cannot be made, or that holds '
                'another one, is refused as in enforce mode.',
            ),
            (
                'off',
                "libvirt's own confinement, as without nova-isolation. Our "
                'profile of a guest goes at its next start.',
            ),
        ],
        help="""
What is done with the guests that this host starts.

A wrong value stops nova-compute with exit status 1.

Related options: ``[DEFAULT] compute_driver`` must be
``isolation.LibvirtDriver``, else none of this group has any effect.
""",
    ),
    cfg.StrOpt(
        'security_model',
        default='auto',
        choices=[
            ('auto', 'The model of this host: today that is AppArmor.'),
            ('apparmor', 'A profile of its own for each guest.'),
            ('selinux', 'Not available yet: nova-compute does not start.'),
        ],
        help="""
The kernel's security module that confines the guests.

Where the kernel or libvirtd does not have it, the compute service is disabled
with the reason ``AUTO: isolation: ...`` and no guest is started. It is enabled
again when the fault is gone.
""",
    ),
    cfg.ListOpt(
        'hooks',
        default=['apparmor'],
        help="""
The hooks that confine and check each guest, in the order in which they are
called: names of the entry point namespace ``nova_isolation.hooks``.

An unknown name, or a hook that cannot be loaded, stops nova-compute with exit
status 1. Without ``apparmor`` nothing makes or proves the profiles.
""",
    ),
    cfg.StrOpt(
        'unknown_device',
        default='refuse',
        choices=[
            (
                'refuse',
                'The guest does not start; the reason names what is unknown.',
            ),
            (
                'report',
                'The guest starts with what is known granted, and the log '
                'names the rest.',
            ),
        ],
        help="""
What is done with a guest whose libvirt XML has an element or attribute that
nova-isolation does not know, and that could give the guest something of the
host.

It is met when libvirt is newer than nova-isolation. The reason, or the
warning in nova-compute's log, quotes the XML: ``unknown: <disk> vda <new>``.
With ``report`` nothing is granted for the unknown: where QEMU needs it, the
guest fails to start or the device does not work, and the kernel's denials say
which file or right is missing. The guest is no less confined.

A device that is known and that no profile can be made for (the reason then
says ``cannot be granted``) is refused with either value.
""",
    ),
    cfg.ListOpt(
        'shared_paths',
        default=[],
        item_type=Path(),
        help="""
Files, devices and directories that several guests may have and write to on
purpose: absolute paths; of a directory all below it.

Before each start, and before a running guest gets a device, what it may reach
is compared with what every other guest of the host has, running or defined; an
overlap refuses that, and
the reason names both guests and the path. Not meant is what both only read (an
image of the cache, an ISO) and what both call shareable (a volume that is
attached to several). Name here what your own drivers share beyond that.
""",
    ),
    cfg.StrOpt(
        'unix_connections',
        default='refuse',
        choices=[
            ('refuse', 'A guest that needs one does not start.'),
            (
                'allow',
                'A guest that needs one may connect to any process of the '
                "host that no profile confines and whose socket's mode lets "
                "QEMU's user in.",
            ),
        ],
        help="""
Whether a guest's QEMU may connect to a unix socket that a process of the host
serves: virtiofs shares, vhost-user interfaces in client mode (not in server
mode, where QEMU makes the socket) and disks, an external TPM, TDX quotes.

AppArmor has no word for one socket: a profile can only name the label of the
process at the other end, and these have none. With ``allow`` such a guest (and
no other one) reaches every socket that its user may open, e.g. those of D-Bus
and libvirtd's read-only one. A virtual TPM that libvirt starts needs no such
connection.
""",
    ),
    cfg.StrOpt(
        'unconfined_helpers',
        default='refuse',
        choices=[
            ('refuse', 'The guest does not start.'),
            (
                'report',
                "The guest starts, and a warning in nova-compute's log and an "
                '``isolation.finding`` (kind ``helper unconfined``) name the '
                'guest, the process and its label, once for each start.',
            ),
        ],
        help="""
What is done with a guest that has a helper process which libvirt leaves
unconfined: today that is virtiofsd, which serves the server's shares as root
and which libvirt starts without the guest's label.

It counts as confined when a profile in enforce mode is attached to the
program: ``libvirt-virtiofsd``, which is in ``etc/apparmor.d`` of
nova-isolation's source tree and does for every guest, or one of your own, best
under the same name: it is the one that guests, and libvirtd's own profile,
expect there. While the kernel holds none in enforce mode with ``virtiofsd`` in
its name (the program's, where the profile has none), the guest is refused
before anything of it is stopped or changed. Debian's own
``/etc/apparmor.d/virtiofsd`` gives a name and confines nothing. nova-isolation
sees that there is such a profile, not what it allows.

swtpm, which libvirt starts with the guest's label, has to have it with either
value. Related options: no guest with a share starts unless
``unix_connections`` is ``allow``.
""",
    ),
    cfg.ListOpt(
        'monitoring_labels',
        default=[],
        item_type=types.String(regex='^(?!libvirt-)[A-Za-z0-9_./-]+$'),
        help="""
AppArmor labels of agents that may read what /proc tells of a guest's QEMU:
its command line, memory map and open files, as libvirt exporters and
ceilometer's agent do.

An agent that no profile confines may do so without being named. One with a
profile of its own is named here as ``aa-status`` shows it, and its profile
needs ``ptrace (read) peer=libvirt-*,``. It may read, and neither trace nor
signal. A name with other characters than letters, digits and ``_./-``, or a
guest's, stops nova-compute with exit status 1. The privileged daemon reads
this option itself, from root's files.
""",
    ),
    cfg.Opt(
        'profile_directory',
        type=Path(),
        default='/etc/apparmor.d/libvirt',
        help="""
Where libvirt expects the AppArmor profiles of its guests. It is a fixed path
in libvirt's builds of Debian and Ubuntu: change it only where yours has
another. The privileged daemon writes there and nowhere else.
""",
    ),
    cfg.Opt(
        'apparmor_parser',
        type=Path(),
        default='/usr/sbin/apparmor_parser',
        help="""
The AppArmor parser: an absolute path, of a file that only root can write.
libvirt must use the same one. When it is missing or does not work, the compute
service is disabled until it does.
""",
    ),
    cfg.Opt(
        'libvirt_runtime_directory',
        type=Path(),
        default='/run/libvirt/qemu',
        help="""
Where libvirt keeps the process id of each guest (``NAME.pid``): how the QEMU
process of a guest is found without trusting its label.
""",
    ),
    cfg.Opt(
        'libvirt_state_directory',
        type=Path(),
        default='/var/lib/libvirt/qemu',
        help="""
Where libvirt keeps the master key of each running guest
(``domain-ID-NAME/``) and the memory of suspended ones (``save/NAME.save``).
""",
    ),
    cfg.Opt(
        'tls_directory',
        type=Path(),
        default='/etc/pki/qemu',
        help="""
Where the TLS certificates and keys are that a guest's QEMU uses for disks over
NBD and for consoles over TCP: qemu.conf's ``default_tls_x509_cert_dir``, or
its ``nbd_tls_x509_cert_dir`` and ``chardev_tls_x509_cert_dir``. Only guests
whose XML says ``tls='yes'`` may read it.
""",
    ),
    cfg.Opt(
        'spice_tls_directory',
        type=Path(),
        default='/etc/pki/libvirt-spice',
        help="""
The same for SPICE: qemu.conf's ``spice_tls_x509_cert_dir``. Only guests whose
SPICE has secure channels (``[spice] require_secure``) may read it.
""",
    ),
    cfg.Opt(
        'vnc_tls_directory',
        type=Path(),
        default='',
        help="""
The same for VNC. A guest's XML does not say whether its VNC uses TLS: when
qemu.conf has ``vnc_tls = 1``, set this to its ``vnc_tls_x509_cert_dir``, e.g.
``/etc/pki/libvirt-vnc``; else guests with VNC do not start. Empty: no guest
may read certificates for VNC.
""",
    ),
    cfg.IntOpt(
        'parser_timeout',
        default=10,
        min=1,
        max=30,
        help="""
Seconds that one run of the AppArmor parser may take. A profile of ours
compiles in some milliseconds; a start whose profile takes longer than this is
refused.
""",
    ),
    cfg.IntOpt(
        'close_timeout',
        default=30,
        min=1,
        max=300,
        help="""
Seconds that a guest's QEMU has for closing a device that was detached. QEMU
does so at once. One that has it open even then was taken over: in enforce mode
the guest is stopped, before the device can go to another one; in complain mode
that is only reported. Both are notified as ``isolation.finding`` with
``attack: true``. Set it higher where storage can hang for longer; other
changes to the same guest wait for it, 30 seconds longer than this.
""",
    ),
    cfg.Opt(
        'spool_directory',
        type=Path(),
        default='/var/lib/nova-isolation/spool',
        help="""
Where nova-compute leaves its events (``isolation.refused``,
``isolation.finding``) for the agent, which takes them into its journal within
a second. nova-compute waits for neither agent nor broker. Both services need
to write there. Created when it is missing. When it cannot be written, guests
are confined or refused all the same, and nova-compute's log says which event
was lost. Where a unit has ``ProtectSystem=strict``, as the agent's in
``etc/systemd`` of the source tree, another directory than the default has to
exist, and the unit has to name it: ``ReadWritePaths=DIRECTORY`` (``systemctl
edit nova-isolation-agent``).
""",
    ),
    cfg.IntOpt(
        'spool_limit',
        default=10000,
        min=1,
        help="""
How many events the spool holds while no agent runs, or the journal cannot be
written. Beyond it new events are dropped, each with a line in nova-compute's
log.
""",
    ),
    cfg.StrOpt(
        'libvirt_uri',
        default='qemu:///system',
        help="""
The libvirt connection of the agent and of the command line, opened
read-only: they find a guest's name, project, user and disks there.
""",
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the options.

    :param conf: the configuration they are added to
    """
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)
