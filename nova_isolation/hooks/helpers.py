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

"""The processes that libvirt starts beside a guest's QEMU are confined, too.

libvirt starts swtpm with the guest's label. virtiofsd it starts with none: it
then has that of the profile which is attached to the program, if there is one.
"""

from nova_isolation.apparmor import kernel
from nova_isolation import domain as domain_module
from nova_isolation import exceptions
from nova_isolation import processes

_CAUSE = (
    'libvirt starts it without a label, and no profile that confines is '
    'attached to it'
)
_WAY_OUT = (
    'load libvirt-virtiofsd, which is in etc/apparmor.d of nova-isolation, or '
    'one of your own with virtiofsd in its name; or set [isolation] '
    'unconfined_helpers to report'
)


def foresee(domain: domain_module.Domain) -> None:
    """Object to a guest of which a helper will not be confined.

    :param domain: the guest's domain, before its start
    :raises NotConfined: when no profile is there for its virtiofsd
    """
    for share in domain.filesystems:
        if share.has_helper and not kernel.enforces('virtiofsd'):
            raise exceptions.NotConfined(
                f'the virtiofsd of <filesystem> {share.target} would run as '
                f"'unconfined': {_CAUSE}: {_WAY_OUT}"
            )


def check(
    domain: domain_module.Domain,
    expected: str,
    runtime_directory: str,
    *,
    lenient: bool,
) -> tuple[str, ...]:
    """Check the labels of all helpers of a guest.

    :param domain: the guest's domain, running
    :param expected: the guest's own label, with the mode
    :param runtime_directory: ``[isolation] libvirt_runtime_directory``
    :param lenient: whether to report one that libvirt leaves unconfined
        instead of objecting
    :returns: what is to be reported, in words
    :raises NotConfined: when one is not confined, or not found
    """
    reported = []
    for helper in processes.helpers(runtime_directory, domain):
        pid = helper.process.pid
        named = f'the {helper.program} of {helper.origin} (process {pid})'
        labels = set(kernel.labels(pid).values())
        if not labels or not processes.is_same(helper.process):
            raise exceptions.NotConfined(f'{named} ended during its check')
        for label in sorted(labels - {expected}):
            if helper.labelled:
                raise exceptions.NotConfined(
                    f'{named} of guest {domain.uuid} runs as {label!r} '
                    f'instead of {expected!r}'
                )
            if _is_confined(label):
                continue
            why = f'{named} runs as {label!r}: {_CAUSE}'
            if not lenient:
                raise exceptions.NotConfined(f'{why}: {_WAY_OUT}')
            reported.append(why)
    return tuple(reported)


def _is_confined(label: str) -> bool:
    """Tell whether a label is that of a profile of the operator's."""
    name, _, mode = label.rpartition(' ')
    of_a_guest = domain_module.is_uuid(name.removeprefix('libvirt-')[:36])
    return mode == '(enforce)' and not of_a_guest
