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

"""The main job, step by step: what the demo tells and a system test checks.

Each step raises AssertionError when what it says was not observed, and
returns the evidence in words.
"""

from collections.abc import Callable, Iterator
import contextlib

import lablib

from nova_isolation.tests.system import cloud


class MainJob:
    """Two guests, an attack, its record and its notification."""

    def __init__(self) -> None:
        self._resources = contextlib.ExitStack()
        self._consumer = self._resources.enter_context(cloud.Consumer())
        self._guests: dict[str, str] = {}
        self._record = ''

    def close(self) -> None:
        """Stop receiving notifications."""
        self._resources.close()

    def steps(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Name the steps in their order.

        :returns: pairs of what is shown and the function that shows it
        """
        yield 'the cloud runs, on a kernel with AppArmor', self._cloud
        yield 'two servers boot through the Nova API', self._boot
        yield (
            'each QEMU process runs under its own enforced profile',
            self._labels,
        )
        yield (
            'the kernel holds just the policy that was compiled',
            self._digests,
        )
        yield (
            "the first server's QEMU tries to open the second one's disk, and "
            'is denied',
            self._attack,
        )
        yield 'the kernel recorded the denial', self._recorded
        yield 'a consumer received the violation from RabbitMQ', self._notified
        yield 'nothing else was denied', self._nothing_else
        yield 'both servers are deleted, and no profile is left', self._delete

    def _cloud(self) -> str:
        release = cloud.node('uname -r').strip()
        modules = cloud.node('cat /sys/kernel/security/lsm').strip()
        assert 'apparmor' in modules.split(','), modules
        code, answer = lablib.call('GET', '/os-services')
        assert code == 200, answer
        services = {s['binary']: s for s in answer['services']}
        for binary in ('nova-compute', 'nova-conductor', 'nova-scheduler'):
            service = services[binary]
            assert service['state'] == 'up', service
            assert service['status'] == 'enabled', service
        user = cloud.node('ps -o user= -C nova-compute || true').split()
        assert 'root' not in user, f'nova-compute runs as {user}'
        return (
            f'kernel {release}, security modules {modules}; up: '
            f'{", ".join(sorted(services))}'
        )

    def _boot(self) -> str:
        for name, token in (('vm1', cloud.MALLORY), ('vm2', cloud.ALICE)):
            self._guests[name] = cloud.boot(name, token=token)['id']
        return '; '.join(f'{n} = {u}' for n, u in self._guests.items())

    def _labels(self) -> str:
        evidence = []
        for name, uuid in self._guests.items():
            found = cloud.confinement(uuid)
            assert found.labels == {f'libvirt-{uuid} (enforce)'}, found
            (label,) = found.labels
            evidence.append(
                f'{name}: process {found.pid}, all {found.threads} threads: '
                f'{label}'
            )
        return '; '.join(evidence)

    def _digests(self) -> str:
        evidence = []
        for name, uuid in self._guests.items():
            found = cloud.confinement(uuid)
            assert found.compiled == found.loaded, found
            evidence.append(f'{name}: {found.loaded}')
        return '; '.join(evidence)

    @property
    def _target(self) -> str:
        return f'{cloud.INSTANCES}/{self._guests["vm2"]}/disk'

    def _attack(self) -> str:
        # The same command succeeds on its own disk: what denies is the policy
        own = cloud.qmp(
            self._guests['vm1'],
            'blockdev-add',
            **{
                'driver': 'file',
                'node-name': 'own',
                'locking': 'off',
                'read-only': True,
                'filename': f'{cloud.INSTANCES}/{self._guests["vm1"]}/disk',
            },
        )
        assert '"return"' in own, own
        answer = cloud.open_file(self._guests['vm1'], self._target).strip()
        assert 'Permission denied' in answer, answer
        return f'QMP blockdev-add {self._target}: {answer}'

    def _recorded(self) -> str:
        def find() -> str:
            return next(
                (
                    record
                    for record in cloud.denials()
                    if f'profile="libvirt-{self._guests["vm1"]}"' in record
                    and f'name="{self._target}"' in record
                ),
                '',
            )

        found: str = lablib.wait_for("the kernel's record", find, 10)
        self._record = found
        return found

    def _notified(self) -> str:
        event = self._consumer.wait_for(
            'isolation.violation',
            lambda e: (
                e['event_type'] == 'isolation.violation'
                and e['target']['path'] == self._target
            ),
        )
        guilty, owner = event['instance'], event['target']['owner']
        assert guilty['uuid'] == self._guests['vm1'], event
        assert guilty['name'] == 'vm1', event
        assert guilty['project_name'] == 'evil', event
        assert guilty['user_name'] == 'mallory', event
        assert guilty['flavor'], event
        assert owner['uuid'] == self._guests['vm2'], event
        assert owner['name'] == 'vm2', event
        assert owner['project_name'] == 'acme', event
        assert event['target']['kind'] == 'disk', event
        assert event['decision'] == 'denied', event
        assert f':{event["denial"]["serial"]})' in self._record, event
        return (
            f'{event["event_type"]} from {event["publisher"]}: '
            + (event['summary'])
        )

    def _nothing_else(self) -> str:
        others = [d for d in cloud.denials() if self._target not in d]
        assert not others, '\n'.join(others)
        # QEMU opens for reading and writing, then for reading
        return f'records of denials: {len(cloud.denials())}, all of the attack'

    def _delete(self) -> str:
        uuids = list(self._guests.values())
        cloud.delete(*uuids)
        lablib.wait_for(
            'nothing left', lambda: not cloud.leftovers(*uuids), 10
        )
        listing = cloud.node(f'ls -A {cloud.PROFILES}').split()
        assert not [n for n in listing if n.startswith('libvirt-')], listing
        return f'{cloud.PROFILES}: {" ".join(listing)}'
