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

"""The [isolation] options that only the agent reads.

Those that are mutable are read anew on SIGHUP: the worker that comes then
makes all that they are about. The others are used before the fork.
"""

from oslo_config import cfg

from nova_isolation.conf import isolation

OPTS = [
    cfg.Opt(
        'journal_directory',
        type=isolation.Path(),
        default='/var/lib/nova-isolation',
        help="""
Where the agent keeps its journal, ``journal.sqlite`` with a write-ahead log
beside it: every event is there before it is sent, and is marked when RabbitMQ
has confirmed it. On a local file system. Created when it is missing; only the
agent needs to write there. A journal that is damaged is put aside as
``journal.sqlite.damaged-TIME``, three of them at most, and a new one begun.
While it cannot be written (a full disk), 2,000 events wait in memory; what is
beyond that is announced as ``isolation.lost`` when it can be. Where the unit
of the agent has ``ProtectSystem=strict``, as that in ``etc/systemd`` of the
source tree, another directory than the default has to exist and to be named
there: ``ReadWritePaths=DIRECTORY`` (``systemctl edit nova-isolation-agent``).
""",
    ),
    cfg.IntOpt(
        'journal_days',
        default=30,
        min=1,
        max=3650,
        mutable=True,
        help="""
Days for which the journal keeps events that RabbitMQ has confirmed. Those that
it has not are kept until ``journal_megabytes`` are full.
""",
    ),
    cfg.IntOpt(
        'journal_megabytes',
        default=512,
        min=16,
        max=1048576,
        mutable=True,
        help="""
Megabytes that the events in the journal may have; one has some 3 KB. Beyond
that the oldest confirmed events go first, then the oldest of all: these are
counted, and announced as ``isolation.lost``.
""",
    ),
    cfg.IntOpt(
        'audit_buffer',
        default=32,
        min=1,
        max=1024,
        help="""
Megabytes of audit records that the kernel holds until the agent has read them:
about 2,500 records each. More than ``net.core.rmem_max`` needs the capability
CAP_NET_ADMIN: the agent warns when it got less, and names the sysctl.
""",
    ),
    cfg.Opt(
        'audit_log',
        type=isolation.Path(),
        default='/var/log/audit/audit.log',
        mutable=True,
        help="""
The file of auditd, from which the agent takes what happened while it did not
run, or when records came more quickly than it could read them; the rotated
files beside it (``.1``, ``.2`` …) too. The agent's user needs to read it
(auditd.conf: ``log_group = nova``). Where there is none, the systemd journal
and the kernel's log are asked. Empty: never read a file.
""",
    ),
    cfg.IntOpt(
        'repeat_window',
        default=60,
        min=1,
        max=3600,
        mutable=True,
        help="""
Seconds for which repeats of a denial are summed up. The first of a kind (same
guest, operation, class, target and access) is reported at once; its repeats in
one event, with their number and times, when this has passed.
""",
    ),
    cfg.IntOpt(
        'kinds_per_guest',
        default=100,
        min=1,
        max=10000,
        mutable=True,
        help="""
How many kinds of denials of one guest are reported one by one in
``repeat_window`` seconds. A captured guest chooses the names that it tries:
what is beyond this number is counted, estimated and sampled in one event of
that guest. Counted apart is each of some thirty sorts of attempt (on a
file, to execute something, on a capability, the network, a process … and the
same on another guest of this host): noise in one hides nothing in another.
""",
    ),
    cfg.StrOpt(
        'notification_format',
        default='unversioned',
        choices=[
            ('unversioned', 'Plain payloads, to notification_topics.'),
            (
                'versioned',
                'Payloads with the name and version of their schema, as '
                "Nova's versioned notifications have, to "
                'versioned_notification_topics.',
            ),
            ('both', 'Each event twice, with the same id.'),
        ],
        help="""
The format of the notifications. The payloads are described in the
documentation, with a sample of each.
""",
    ),
    cfg.ListOpt(
        'notification_topics',
        default=['nova_isolation'],
        help="""
The topics of unversioned notifications, with the priority appended as
oslo.messaging does: the queues are ``nova_isolation.info``,
``nova_isolation.warn`` and ``nova_isolation.error``. A topic of its own by
default, because a queue that nobody reads grows until it fills the broker:
bind a consumer, or set a length limit or TTL policy on it. ``notifications``
is the one that ceilometer and others read.
""",
    ),
    cfg.ListOpt(
        'versioned_notification_topics',
        default=['nova_isolation_versioned'],
        help="""
The topics of versioned notifications; as ``notification_topics``.
""",
    ),
    cfg.StrOpt(
        'notification_transport_url',
        default='',
        secret=True,
        help="""
A broker for the notifications alone, e.g. ``rabbit://USER:PASSWORD@HOST:5672/``.
Empty: ``[oslo_messaging_notifications] transport_url``, else ``[DEFAULT]
transport_url``. The RPC server always uses ``[DEFAULT] transport_url``.
""",
    ),
    cfg.IntOpt(
        'canary_interval',
        default=3600,
        min=0,
        max=86400,
        mutable=True,
        help="""
Seconds between two tests of the whole way: a thread of the agent's own takes
the profile ``nova-isolation-canary`` and tries what that does not grant (with
SELinux: asks for a socket with the context of ``/dev/null``), and the denial
has to come back from the kernel, get into the journal and be
confirmed by RabbitMQ. When it does not, the log and an event
``isolation.lost`` say where it ended: else an audit that is switched off looks
like peace. The first is when the agent starts; none is tried while another is
under way, which is up to two minutes. With AppArmor it needs that profile
(``etc/apparmor.d/nova-isolation-canary`` of the source tree). 0: none.
""",
    ),
    cfg.IntOpt(
        'verify_interval',
        default=5,
        min=1,
        max=3600,
        mutable=True,
        help="""
Seconds between two looks at the labels of all running guests. A guest that has
lost its label or mode is reported as ``isolation.unconfined``. With ``mode =
off`` nothing is looked at.
""",
    ),
    cfg.PortOpt(
        'metrics_port',
        default=0,
        mutable=True,
        help="""
The TCP port of ``metrics_address`` on which Prometheus finds the agent's
metrics. When it cannot be opened, the log says so and the agent works on.
0: none.
""",
    ),
    cfg.StrOpt(
        'metrics_address',
        default='127.0.0.1',
        mutable=True,
        help="""
The address on which ``metrics_port`` is opened. The metrics name no tenant,
but tell how many denials there are: no address that tenants reach.
""",
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the options.

    :param conf: the configuration they are added to
    """
    conf.register_group(isolation.GROUP)
    conf.register_opts(OPTS, group=isolation.GROUP)
