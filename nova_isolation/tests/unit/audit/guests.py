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

"""Domains for tests, made as all are: from their XML."""

from xml.sax import saxutils

from nova_isolation import domain

INSTANCES = '/var/lib/nova/instances'


def make(
    uuid,
    *,
    name='instance',
    number=1,
    disks=(),
    pty=None,
    log=None,
    nova=None,
    devices='',
    top='',
    kind='kvm',
):
    """Make a domain.

    :param uuid: its uuid
    :param name: libvirt's name of it
    :param number: libvirt's id of it, or None
    :param disks: paths of its disks
    :param pty: the path of its pseudo terminal
    :param log: the path of its console's log
    :param nova: pair of the names of server and project
    :param devices: XML of other devices
    :param top: XML of other elements
    :param kind: the domain's type
    :returns: the :class:`domain.Domain`
    """

    def quote(text):
        return saxutils.quoteattr(text)

    parts = []
    for index, path in enumerate(disks):
        parts.append(
            f"<disk type='file'><driver name='qemu' type='qcow2'/>"
            f"<source file={quote(path)}/><target dev='vd{index}'/></disk>"
        )
    if pty or log:
        source = f'<source path={quote(pty)}/>' if pty else ''
        kept = f'<log file={quote(log)}/>' if log else ''
        parts.append(f"<console type='pty'>{source}{kept}</console>")
    metadata = ''
    if nova:
        metadata = (
            f"<metadata><nova:instance xmlns:nova='{domain.NOVA_NAMESPACE}'>"
            f"<nova:name>{nova[0]}</nova:name><nova:owner>"
            f"<nova:project uuid='p-{nova[1]}'>{nova[1]}</nova:project>"
            f"</nova:owner></nova:instance></metadata>"
        )
    running = '' if number is None else f"id='{number}'"
    return domain.parse(
        f"<domain type='{kind}' {running}><name>{name}</name>"
        f'<uuid>{uuid}</uuid>{metadata}'
        f'<devices>{"".join(parts)}{devices}</devices>{top}</domain>'
    )
