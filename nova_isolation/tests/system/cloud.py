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

"""The lab's cloud, seen from the controller's side, and its compute node.

For the system tests and the demo, which run as the command of
``lab/lab run --with nova``: see lab/README.md.
"""

from collections.abc import Callable
import dataclasses
import json
import os
import re
import shlex
import threading
import time
from typing import Any

import lablib
from oslo_config import cfg
import oslo_messaging

from nova_isolation.tests.system import quiet

INSTANCES = '/var/lib/nova/instances'
PROFILES = '/etc/apparmor.d/libvirt'
_KERNEL = '/sys/kernel/security/apparmor/policy/profiles'

# Two tenants; the lab's identity takes user:project as a token.
ALICE = 'alice:acme'
MALLORY = 'mallory:evil'


@dataclasses.dataclass(frozen=True)
class Confinement:
    """What the kernel says of a guest's process.

    :ivar pid: of QEMU
    :ivar labels: the labels of all threads, with their mode
    :ivar threads: how many there are
    :ivar compiled: digest of what the profile's file compiles to
    :ivar loaded: the kernel's digest of what it holds under that name
    """

    pid: int
    labels: frozenset[str]
    threads: int
    compiled: str
    loaded: str


def node(command: str, *, timeout: float = 60) -> str:
    """Run a command as root on the compute node.

    :param command: for the shell
    :param timeout: seconds
    :returns: its output
    :raises RuntimeError: when it fails
    """
    return lablib.guest(command, timeout=timeout, check=True).stdout


def configuration() -> list[str]:
    """Give the arguments that name the compute node's configuration.

    :returns: ``--config-file`` and a path, for each file
    """
    files = node('echo /lab/conf/*.conf').split()
    return [word for path in files for word in ('--config-file', path)]


def boot(
    name: str, *, token: str = ALICE, status: str = 'ACTIVE', **more: Any
) -> dict[str, Any]:
    """Boot a server through the API and wait for it.

    :param name: its display name
    :param token: whose it is
    :param status: what it shall come to
    :param more: see ``lablib.create``
    :returns: the server, as the API shows it to the administrator
    :raises AssertionError: when it comes to another status
    """
    code, answer = lablib.create(name, token=token, **more)
    assert code == 202, f'create {name}: {code} {answer}'
    return settle(answer['server']['id'], status)


def settle(uuid: str, status: str) -> dict[str, Any]:
    """Wait until a server has a status and no task.

    :param uuid: of the server
    :param status: in the API's words
    :returns: the server
    :raises AssertionError: when it comes to another status
    """
    server = lablib.settled(uuid, status)
    assert server['status'] == status, (
        f'{server["name"]} is {server["status"]}, not {status}: '
        f'{server.get("fault", {}).get("message")}'
    )
    return server


def act(
    uuid: str, action: str | dict[str, Any], status: str
) -> dict[str, Any]:
    """Do something to a server and wait for its status.

    :param uuid: of the server
    :param action: name, or the request's body
    :param status: that it shall come to
    :returns: the server
    """
    body = {action: None} if isinstance(action, str) else action
    code, answer = lablib.call('POST', f'/servers/{uuid}/action', body)
    assert code in (200, 202), f'{action} of {uuid}: {code} {answer}'
    return settle(uuid, status)


def failure(uuid: str, action: str, *, timeout: float = 60) -> str:
    """Wait until the last action on a server has failed, and tell why.

    The API shows a server's fault only while it is in ERROR; the details of
    an action's events it shows always.

    :param uuid: of the server
    :param action: Nova's name of that action: ``start``, ``resume``
    :param timeout: seconds
    :returns: the message that a user reads
    """
    path = f'/servers/{uuid}/os-instance-actions'

    def details() -> str:
        _, answer = lablib.call('GET', path)
        # the newest comes first
        last = answer['instanceActions'][0]
        assert last['action'] == action, last
        _, found = lablib.call('GET', f'{path}/{last["request_id"]}')
        for event in found['instanceAction']['events']:
            if event['result'] == 'Error':
                return str(event['details'])
        return ''

    found: str = lablib.wait_for(f'failure of {action}', details, timeout)
    return found


def delete(*uuids: str) -> None:
    """Delete servers and wait until they are gone.

    :param uuids: of the servers
    """
    for uuid in uuids:
        lablib.call('DELETE', f'/servers/{uuid}')
    for uuid in uuids:
        lablib.gone(uuid)


def qemu_pids(uuid: str) -> list[int]:
    """Find the QEMU processes of a guest by their command line.

    :param uuid: of the guest
    :returns: their process ids
    """
    # [q]: not the shell that runs this
    found = lablib.guest(f'pgrep -f "[q]emu-system.* -uuid {uuid}"').stdout
    return [int(pid) for pid in found.split()]


def confinement(uuid: str) -> Confinement:
    """Ask the compute node's kernel about a guest, without our own code.

    :param uuid: of a running guest
    :returns: what it says
    """
    (pid,) = qemu_pids(uuid)
    labels = node(f'cat /proc/{pid}/task/*/attr/current').split('\n')
    labels = [label.strip('\0') for label in labels if label.strip('\0')]
    held = node(
        f'cd {_KERNEL} && for a in sha256 sha1; do '
        f'for f in libvirt-{uuid}.*/raw_$a; do '
        '[ ! -e "$f" ] || { echo $a $(cat "$f"); exit; }; done; done'
    ).split()
    algorithm, loaded = held if held else ('sha256', 'nothing')
    compiled = node(
        f'apparmor_parser -QTS {PROFILES}/libvirt-{uuid} | {algorithm}sum'
    ).split()[0]
    return Confinement(pid, frozenset(labels), len(labels), compiled, loaded)


def domain_xml(uuid: str) -> str:
    """Read a domain's XML.

    :param uuid: of the guest
    :returns: the XML as libvirt shows it
    """
    return node(f'virsh -q dumpxml {uuid}')


def profile(uuid: str) -> str:
    """Read a guest's profile.

    :param uuid: of the guest
    :returns: the text of its file
    """
    return node(f'cat {PROFILES}/libvirt-{uuid}')


def hold(uuid: str, text: str) -> None:
    """Let the kernel hold another policy of a guest than its file says.

    The periodic task would mend that, of a guest whose vCPUs run.

    :param uuid: of the guest, which is paused
    :param text: of the profile
    """
    path = f'/run/other-{uuid}'
    ended = lablib.guest(
        [
            'sh',
            '-c',
            'printf %s "$1" > "$0" && apparmor_parser -rTK "$0"',
            path,
            text,
        ]
    )
    assert ended.status == 0, ended


def widen(uuid: str, rule: str) -> None:
    """Let the kernel hold a wider policy of a guest than its file says.

    :param uuid: of the guest, which is paused: see :func:`hold`
    :param rule: to add, in AppArmor's language
    """
    hold(uuid, profile(uuid).rstrip().removesuffix('}') + f'  {rule}\n}}\n')


def reload(uuid: str) -> None:
    """Let the kernel hold again what a guest's profile says.

    :param uuid: of the guest
    """
    node(f'apparmor_parser -rTK {PROFILES}/libvirt-{uuid}')


def qmp(uuid: str, command: str, **arguments: Any) -> str:
    """Let a guest's QEMU execute a command: what a captured one could do.

    :param uuid: of the guest
    :param command: QMP's name of it
    :param arguments: its arguments
    :returns: the answer as text
    """
    request = json.dumps({'execute': command, 'arguments': arguments})
    done = lablib.guest(
        f'virsh -q qemu-monitor-command {uuid} {shlex.quote(request)}'
    )
    return done.stdout + done.stderr


def monitor(uuid: str, command: str) -> str:
    """Let a guest's QEMU execute a command of its human monitor.

    :param uuid: of the guest
    :param command: as a person writes it
    :returns: the answer
    """
    done = lablib.guest(
        ['virsh', '-q', 'qemu-monitor-command', '--hmp', uuid, command]
    )
    return done.stdout + done.stderr


def console(uuid: str) -> str:
    """Tell which pseudo terminal is a guest's console.

    :param uuid: of the guest
    :returns: its path
    """
    (pty,) = set(
        re.findall("source path='(/dev/pts/[0-9]+)'", domain_xml(uuid))
    )
    return str(pty)


def open_console(uuid: str, pty: str) -> str:
    """Let a guest's QEMU open a pseudo terminal.

    :param uuid: of the guest
    :param pty: its path
    :returns: QMP's answer
    """
    return qmp(
        uuid,
        'chardev-add',
        id='x',
        backend={'type': 'serial', 'data': {'device': pty}},
    )


def granted(uuid: str, *paths: str) -> dict[str, str]:
    """Ask the compute node's kernel what a guest's profile grants.

    :param uuid: of the guest
    :param paths: of files
    :returns: access to each path: of ``r``, ``w`` and ``x``
    """
    program = (
        'import json, sys\n'
        'from nova_isolation.apparmor import kernel\n'
        'profile, *paths = sys.argv[1:]\n'
        'with kernel.Judge() as judge:\n'
        '    print(json.dumps({p: judge.file(profile, p) for p in paths}))\n'
    )
    told = lablib.guest(
        ['python3', '-c', program, f'libvirt-{uuid}', *paths], check=True
    )
    found: dict[str, str] = json.loads(told.stdout)
    return found


def open_file(uuid: str, path: str, *, node_name: str = 'isolation') -> str:
    """Let a guest's QEMU open a file for reading and writing.

    :param uuid: of the guest
    :param path: of the file
    :param node_name: a name that is not used yet
    :returns: QMP's answer
    """
    return qmp(
        uuid,
        'blockdev-add',
        **{'driver': 'file', 'node-name': node_name, 'filename': path},
    )


def records() -> list[str]:
    """Read the kernel's audit records since the compute node's start.

    :returns: a line each
    """
    path = os.path.join(os.environ['LAB_SHARE'], 'log', 'audit.log')
    with open(path, errors='replace') as f:
        return f.read().splitlines()


def denials() -> list[str]:
    """Read what AppArmor denied guests, or would deny in complain mode.

    :returns: the kernel's records, without those that are denied quietly
    """
    return [
        record
        for record in records()
        if re.search('apparmor="(DENIED|ALLOWED)".* profile="libvirt-', record)
        and not quiet.is_meant(record)
    ]


def leftovers(*uuids: str) -> list[str]:
    """Look for anything that names guests that are gone.

    :param uuids: of the guests
    :returns: files, loaded profiles, domains and processes
    """
    seen = node(
        f'ls -A {PROFILES} {INSTANCES}; ls {_KERNEL}; virsh -q list --all '
        '--uuid; pgrep -a qemu-system || true'
    ).splitlines()
    return [line for line in seen if any(uuid in line for uuid in uuids)]


def transport_url() -> str:
    """Tell where RabbitMQ is.

    :returns: for oslo.messaging
    """
    return os.environ['LAB_TRANSPORT_URL']


class Consumer:
    """Receives the notifications of nova-isolation, as any consumer would."""

    def __init__(self) -> None:
        conf = cfg.ConfigOpts()
        conf([])
        transport = oslo_messaging.get_notification_transport(
            conf, url=transport_url()
        )
        self.events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._listener = oslo_messaging.get_notification_listener(
            transport,
            [oslo_messaging.Target(topic='nova_isolation')],
            [self],
            executor='threading',
        )

    def __enter__(self) -> 'Consumer':
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()
        self._listener.wait()

    def _receive(
        self, priority: str, publisher: str, kind: str, payload: Any
    ) -> None:
        event = {
            'event_type': kind,
            'publisher': publisher,
            'priority': priority,
            # by this machine's clock, which is the compute node's
            'received': time.time(),
            **payload,
        }
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    # one method for each priority: oslo.messaging's contract

    def info(
        self, context: Any, publisher: str, kind: str, payload: Any, meta: Any
    ) -> None:
        self._receive('info', publisher, kind, payload)

    def warn(
        self, context: Any, publisher: str, kind: str, payload: Any, meta: Any
    ) -> None:
        self._receive('warn', publisher, kind, payload)

    def error(
        self, context: Any, publisher: str, kind: str, payload: Any, meta: Any
    ) -> None:
        self._receive('error', publisher, kind, payload)

    def wait_for(
        self,
        what: str,
        wanted: Callable[[dict[str, Any]], bool],
        timeout: float = 20,
    ) -> dict[str, Any]:
        """Wait for an event.

        :param what: for the error
        :param wanted: tells whether this is it
        :param timeout: seconds
        :returns: the event's payload, with its type, publisher and priority
        :raises TimeoutError: when it does not arrive
        """
        limit = time.monotonic() + timeout
        with self._changed:
            while True:
                for event in self.events:
                    if wanted(event):
                        return event
                left = limit - time.monotonic()
                if left <= 0:
                    raise TimeoutError(
                        f'{what}: not among {len(self.events)} events within '
                        f'{timeout} s: {self.events}'
                    )
                self._changed.wait(left)
