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

"""What listens on a host of a cloud, by the port or the path of its socket.

A number is a convention and no proof: it says what an attempt was most likely
aimed at. Severities are those of :mod:`.classification`.
"""

from collections.abc import Mapping

_PORTS: Mapping[str, Mapping[int, str]] = {
    'critical': {
        2375: 'Docker',
        2376: 'Docker',
        2379: 'etcd',
        2380: 'etcd',
        3306: 'MariaDB',
        4369: "Erlang's port mapper (RabbitMQ)",
        4444: 'Galera',
        4567: 'Galera',
        4568: 'Galera',
        5432: 'PostgreSQL',
        5671: 'RabbitMQ',
        5672: 'RabbitMQ',
        6640: 'Open vSwitch',
        6641: 'OVN northbound',
        6642: 'OVN southbound',
        6379: 'Redis',
        10250: 'kubelet',
        11211: 'memcached',
        15671: "RabbitMQ's management",
        15672: "RabbitMQ's management",
        16509: 'libvirtd',
        16514: 'libvirtd',
        25672: 'RabbitMQ between nodes',
    },
    'high': {
        22: 'ssh',
        111: 'rpcbind',
        2049: 'NFS',
        3260: 'iSCSI',
        3300: "Ceph's monitor",
        5000: 'Keystone',
        6080: "Nova's console proxy",
        6081: "Nova's console proxy",
        6082: "Nova's console proxy",
        6443: 'Kubernetes',
        6633: 'OpenFlow',
        6653: 'OpenFlow',
        6789: "Ceph's monitor",
        8774: 'Nova',
        8775: "Nova's metadata",
        8776: 'Cinder',
        8778: 'Placement',
        9292: 'Glance',
        9696: 'Neutron',
        9697: "Neutron's metadata",
        35357: 'Keystone',
    },
    'medium': {53: 'DNS', 80: 'HTTP', 123: 'NTP', 443: 'HTTPS'},
}
# qemu.conf's migration_port_min and _max, and where VNC and SPICE begin.
_RANGES = (
    (5900, 6079, 'the screen of a guest'),
    (49152, 49215, 'a live migration'),
)
_BY_PORT = {
    port: (name, severity)
    for severity, ports in _PORTS.items()
    for port, name in ports.items()
}

_SOCKETS = (
    ('/run/libvirt/', 'libvirtd', 'critical'),
    ('/run/docker.sock', 'Docker', 'critical'),
    ('/run/containerd/', 'containerd', 'critical'),
    ('/run/crio/', 'CRI-O', 'critical'),
    ('/run/podman/', 'Podman', 'critical'),
    ('/run/mysqld/', 'MariaDB', 'critical'),
    ('/run/postgresql/', 'PostgreSQL', 'critical'),
    ('/run/openvswitch/', 'Open vSwitch', 'critical'),
    ('/run/ovn/', 'OVN', 'critical'),
    ('/run/memcached/', 'memcached', 'critical'),
    ('/run/systemd/journal/', 'the system log', 'medium'),
    ('/dev/log', 'the system log', 'medium'),
    ('/run/systemd/', 'systemd', 'high'),
    ('/run/dbus/', 'D-Bus', 'high'),
    ('/run/lvm/', 'LVM', 'high'),
    ('/run/multipathd', 'multipathd', 'high'),
    ('/run/rpcbind.sock', 'rpcbind', 'high'),
    ('/run/nscd/', 'nscd', 'low'),
)


def of_port(port: int) -> tuple[str, str] | None:
    """Tell what listens on a TCP port by convention.

    :param port: its number
    :returns: its name and how bad it is when a guest's QEMU reaches it; None
        when there is no such convention
    """
    found = _BY_PORT.get(port)
    if found is None:
        for first, last, name in _RANGES:
            if first <= port <= last:
                return name, 'high'
    return found


def of_socket(path: str) -> tuple[str, str] | None:
    """Tell whose unix socket a path is.

    :param path: as the kernel shows it
    :returns: as :func:`of_port`
    """
    path = path.removeprefix('/var') if path.startswith('/var/run/') else path
    for place, name, severity in _SOCKETS:
        if path.startswith(place):
            return name, severity
    return None
