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

"""Character devices: consoles, channels and whatever else streams bytes."""

import dataclasses

from nova_isolation.domain.reader import Node
from nova_isolation.domain.reader import read_port
from nova_isolation import exceptions

_KINDS = (
    'dbus dev file null pipe pty qemu-vdagent spiceport spicevmc stdio tcp'
    ' udp unix vc'
).split()
_HARMLESS_SOURCE = 'append channel'


@dataclasses.dataclass(frozen=True)
class Character:
    """A character device's back end.

    :ivar device: ``serial``, ``console``, ``channel``, ``parallel``,
        ``redirdev``, ``smartcard``, or ``backend`` of an rng
    :ivar kind: ``pty``, ``file``, ``unix``, ``tcp``, ``udp``, ``dev``,
        ``pipe``, ``spicevmc``, ``qemu-vdagent``, ``null``, ``stdio`` …
    :ivar path: of the file, device, pipe or socket; the pseudo terminal of a
        running guest; None when there is none or libvirt chooses it
    :ivar log: the file that virtlogd keeps of it, or None
    :ivar listens: whether QEMU waits for connections rather than connecting
    :ivar hosts: where it listens or what it connects to, for tcp and udp
    :ivar tls: whether TLS certificates of the host are used
    :ivar target: the channel's name in the guest, or ''
    :ivar ports: the TCP ports of these hosts, 0 where there is none
    """

    device: str
    kind: str
    path: str | None = None
    log: str | None = None
    listens: bool = False
    hosts: tuple[str, ...] = ()
    tls: bool = False
    target: str = ''
    ports: tuple[int, ...] = ()


def read_character(node: Node) -> Character | None:
    """Read an element that has a character device's back end.

    :param node: the element
    :returns: the device; None when its type is not known
    :raises InvalidDomain: when it lacks what its type needs
    """
    kind = node.get('type', *_KINDS)
    target = node.child('target')
    name = target.get('name')
    target.harmless('address port state type', 'model')
    node.label = f'<{node.tag}> {name or kind}'.strip()
    # the pseudo terminal again, for old readers
    node.harmless('bus tty', 'acpi address alias boot')
    node.child('protocol').get('type', 'raw', 'telnet', 'telnets', 'tls')
    log_node = node.child('log')
    log = log_node.path('file')
    log_node.harmless('append')
    # udp has one for each direction
    sources = node.children('source')
    if len(sources) > 1 and kind != 'udp':
        raise exceptions.InvalidDomain(
            f'{node.where} has more than one source'
        )
    path, hosts, ports, listens, tls = None, [], [], False, False
    for source in sources:
        source.harmless(_HARMLESS_SOURCE, 'clipboard mouse reconnect seclabel')
        listens |= source.get('mode', 'bind', 'connect') == 'bind'
        tls |= source.get('tls', 'yes', 'no') == 'yes'
        # libvirt's own answer to "is that from qemu.conf"
        source.harmless('tlsFromConfig')
        port = read_port(source.get('service'))
        if host := source.get('host'):
            hosts.append(host)
            ports.append(port)
        path = source.path('path')
    if kind in ('file', 'dev', 'pipe') and not path:
        raise exceptions.InvalidDomain(f'{node.where} has no path')
    if not kind:
        return None
    return Character(
        device=node.tag,
        kind=kind,
        path=path,
        log=log,
        listens=listens,
        hosts=tuple(hosts),
        tls=tls,
        target=name,
        ports=tuple(ports) if kind == 'tcp' else (),
    )
