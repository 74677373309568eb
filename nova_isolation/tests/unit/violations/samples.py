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

"""One event of each kind, and the samples of doc/notification_samples.

``python -m nova_isolation.tests.unit.violations.samples`` writes the samples
anew, after the payloads have got something more.
"""

import dataclasses
import datetime
import json
import pathlib

from nova_isolation.violations import journal
from nova_isolation.violations import model
from nova_isolation.violations import notifier

DIRECTORY = pathlib.Path(__file__).parents[4] / 'doc/notification_samples'

_TIME = datetime.datetime(2026, 11, 23, 7, 54, 59, 517000, datetime.UTC)
_LATER = _TIME + datetime.timedelta(seconds=58.25)
_HOST = 'cmp1'
_ID = '6c1f0c5e-3a0b-4d53-9a57-1f3f6a4b8e0{}'
_ONE = model.Instance(
    uuid='5f0a2f0e-90ad-4b5b-8d6e-0d6a1f3b7a01',
    name='vm1',
    project_id='3f8c0d4ab0f84e3c8f5a3b1f2f7d6a11',
    project_name='acme',
    user_id='a0c1f7a86f3e4b0f9d1a4f2e5c7b9d22',
    user_name='alice',
    flavor='m1.tiny',
    image_id='155d900f-4e14-4e4c-a73d-069cbf4541e6',
)
_TWO = model.Instance(
    uuid='0c7e54b2-7a11-4c2f-9f0e-61b2a3c4d502',
    name='vm2',
    project_id='77b1c9d2e3f4405fa6b7c8d9e0f1a233',
    project_name='globex',
    user_id='b1d2f8b97a4f4c1a8e2b5a3f6d8cae33',
    user_name='bob',
    flavor='m1.small',
    image_id='155d900f-4e14-4e4c-a73d-069cbf4541e6',
)
_DISK = f'/var/lib/nova/instances/{_TWO.uuid}/disk'
_BOOT = 'b2a7f0d8-1c1e-4a5e-8a44-0c7d5a3e9f10'


def _id(number: int | str) -> str:
    return _ID.format(number)


_VIOLATION = model.Violation(
    id=_id(1),
    time=_TIME,
    host=_HOST,
    decision='denied',
    instance=_ONE,
    denial=model.Denial(
        serial=52,
        time=_TIME - datetime.timedelta(milliseconds=2),
        profile=f'libvirt-{_ONE.uuid}',
        operation='open',
        class_='file',
        name=_DISK,
        requested_mask='wr',
        denied_mask='wr',
        comm='qemu-system-x86',
        pid=780,
        other={'fsuid': '64055', 'ouid': '64055'},
    ),
    target=model.Target(_DISK, 'disk', _TWO),
    attempt='open for writing',
    classification=model.Classification(
        model.CROSS_INSTANCE,
        model.CRITICAL,
        'it is the disk of an instance of another project',
    ),
    repeats=model.Repeats(1, _TIME, _TIME),
)

_SELINUX = model.Violation(
    id=_id(3),
    time=_TIME,
    host=_HOST,
    decision='would_deny',
    instance=_ONE,
    denial=model.Denial(
        serial=97,
        time=_TIME,
        profile='system_u:system_r:svirt_t:s0:c107,c434',
        module='selinux',
        class_='tcp_socket',
        comm='qemu-kvm',
        pid=2210,
        permissions='name_connect',
        tclass='tcp_socket',
        tcontext='system_u:object_r:amqp_port_t:s0',
        faddr='192.0.2.5',
        fport=5672,
        exe='/usr/libexec/qemu-kvm',
        syscall='connect',
        other={'dest': '5672'},
    ),
    target=model.Target(
        None, 'host service', name='RabbitMQ at 192.0.2.5 port 5672'
    ),
    attempt='connect to',
    classification=model.Classification(
        model.NETWORK, model.HIGH, 'no guest has to do with the message bus'
    ),
    repeats=model.Repeats(1, _TIME, _TIME),
)

# {name of the sample: event}
EVENTS: dict[str, model.Event] = {
    'isolation-violation': _VIOLATION,
    'isolation-violation-repeats': dataclasses.replace(
        _VIOLATION,
        id=_id(2),
        repeats=model.Repeats(41, _TIME, _LATER, of=_VIOLATION.id),
    ),
    'isolation-violation-selinux': _SELINUX,
    'isolation-violation-folded': dataclasses.replace(
        _VIOLATION,
        id=_id(4),
        repeats=model.Repeats(
            5120,
            _TIME,
            _LATER,
            kinds=5000,
            samples=('open for reading /etc/passwd', 'open for reading /x1'),
        ),
    ),
    'isolation-finding': model.Finding(
        id=_id(5),
        time=_TIME,
        host=_HOST,
        instance=_ONE,
        kind='device kept',
        reason='its process still has /dev/sdc open, which was detached 30 '
        'seconds ago: the guest was stopped',
        attack=True,
    ),
    'isolation-refused': model.Refused(
        id=_id(6),
        time=_TIME,
        host=_HOST,
        instance=_ONE,
        operation='spawn',
        reason=f'the profile libvirt-{_ONE.uuid} is in complain mode',
    ),
    'isolation-unconfined': model.Unconfined(
        id=_id(7),
        time=_TIME,
        host=_HOST,
        instance=_ONE,
        pid=780,
        expected=f'libvirt-{_ONE.uuid} (enforce)',
        found='unconfined',
        reason=f'the profile libvirt-{_ONE.uuid} was removed from the kernel: '
        'somebody ran aa-teardown or apparmor_parser -R',
    ),
    'isolation-lost': model.Lost(
        id=_id(8),
        time=_LATER,
        host=_HOST,
        stage='socket',
        count=312,
        first=_TIME,
        last=_LATER,
        reason='audit records came more quickly than they could be read: '
        'raise [isolation] audit_buffer',
    ),
    'isolation-agent-start': model.Agent(
        id=_id(9),
        time=_TIME,
        host=_HOST,
        started=True,
        version='1.0.0',
        boot_id=_BOOT,
    ),
    'isolation-agent-stop': model.Agent(
        id=_id('a'),
        time=_LATER,
        host=_HOST,
        started=False,
        version='1.0.0',
        boot_id=_BOOT,
    ),
    'isolation-agent-canary': model.Canary(
        id=_id('c'),
        time=_TIME,
        host=_HOST,
        token='canary-1f3a5c7e',
        tried=_TIME,
    ),
}


def entry(event: model.Event) -> journal.Entry:
    """Make what the journal has of an event.

    :param event: any event
    :returns: the entry
    """
    return journal.Entry.of(event)


def written() -> dict[pathlib.Path, str]:
    """Write all samples.

    :returns: ``{path: text}``
    """
    return {
        DIRECTORY / directory / f'{name}.json': json.dumps(
            notifier.message(
                entry(event), _HOST, versioned=directory == 'versioned'
            ),
            indent=4,
        )
        + '\n'
        for name, event in EVENTS.items()
        for directory in ('', 'versioned')
    }


def main() -> None:
    """Write the samples to where they belong."""
    for path, text in written().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == '__main__':
    main()
