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

"""The compatibility list: what regularly meets denials elsewhere, and which
tests show that here it does not.

Pure. ``python -m nova_isolation.tests.compatibility`` writes the page of the
documentation; a unit test holds it to what stands here, and each name of a
test to one that is there.
"""

from collections.abc import Sequence
import dataclasses
import enum
import pathlib

#: in the checkout
PAGE = pathlib.Path('doc/source/compatibility.rst')
_TESTS = 'nova_isolation.tests.'


class Status(enum.Enum):
    """How far something is shown."""

    #: by a guest on a real kernel, with libvirt and QEMU
    RUN = 'run'
    #: by rules beside libvirt's, and by tries under the label
    MODELLED = 'modelled'
    #: not
    OPEN = 'open'


RUN, MODELLED, OPEN = Status.RUN, Status.MODELLED, Status.OPEN


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a row, with one status.

    :ivar what: is shown, or is open
    :ivar tests: below nova_isolation.tests, ``module.Class.test``
    """

    status: Status
    what: str
    tests: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the list.

    :ivar number: of the row
    :ivar resource: or the operation
    :ivar holds: what must
    """

    number: int
    resource: str
    holds: str
    parts: Sequence[Part]


def _named(module: str, name: str, *tests: str) -> tuple[str, ...]:
    return tuple(f'{module}.{name}.test_{test}' for test in tests)


def _devices(*tests: str) -> tuple[str, ...]:
    return _named('system.test_devices', 'DevicesTest', *tests)


def _stock(*tests: str) -> tuple[str, ...]:
    return _named('system.test_stock_rules', 'StockTest', *tests)


def _made_up(*tests: str) -> tuple[str, ...]:
    module = 'system.test_made_up_devices'
    return _named(module, 'MadeUpDevicesTest', *tests)


def _plugs(case: str, *tests: str) -> tuple[str, ...]:
    return _named('functional.virt.test_devices', case, *tests)


def _operations(*tests: str) -> tuple[str, ...]:
    return _named('system.test_operations', 'OperationsTest', *tests)


_BLOCK_JOBS = Part(OPEN, 'Refused by name: block jobs are not covered yet.')

ROWS = (
    Row(
        1,
        'Block commit, incremental backup, deleting a snapshot of a chain',
        'Write access to the layer being committed while the job runs, '
        'revoked after; the shared image cache never writable.',
        (_BLOCK_JOBS,),
    ),
    Row(
        2,
        'External snapshot of several disks',
        'The new overlay in the instance directory.',
        (
            Part(
                OPEN,
                'Refused by name, and nothing changes.',
                _named(
                    'functional.virt.test_not_covered',
                    'NotCoveredTest',
                    'snapshot_of_a_running_server',
                ),
            ),
        ),
    ),
    Row(
        3,
        'Disks of type volume (pool references)',
        'The chain is resolved.',
        (Part(OPEN, 'Refused by name: Nova makes none.'),),
    ),
    Row(
        4,
        'A linked or relocated instances_path, unusual suffixes',
        'Every component is resolved.',
        (
            Part(
                RUN,
                'A link to a directory whose name is full of what means '
                "something to AppArmor, with all of Nova's disks in it.",
                _devices('all_disks_of_nova_in_a_relocated_directory'),
            ),
        ),
    ),
    Row(
        5,
        'RBD: configuration, keyring, admin socket, shared memory of LTTng',
        'Named files; the noise denied quietly.',
        (
            Part(
                MODELLED,
                'The keys are in the XML and the admin socket is not granted.',
                _stock('disks_of_a_network') + _made_up('a_disk_in_ceph'),
            ),
        ),
    ),
    Row(
        6,
        'vTPM (swtpm): state, lock, pid file, log, socket',
        'swtpm is confined, and QEMU gets the socket.',
        (
            Part(
                RUN,
                'With the label of its guest, checked before it runs.',
                _devices(
                    'a_virtual_tpm',
                    'a_virtual_tpm_that_is_not_confined',
                    'a_virtual_tpm_that_is_gone',
                )
                + _stock('a_virtual_tpm'),
            ),
        ),
    ),
    Row(
        7,
        'Sockets of vhost-user, served or used, hot-plugged',
        'The exact socket, and its creation where QEMU listens.',
        (
            Part(
                MODELLED,
                'Both modes, and the right comes and goes with one that is '
                'plugged.',
                _stock('a_vhost_user_interface')
                + _made_up('a_vhost_user_socket')
                + _plugs('PlugTest', 'a_vhost_user_interface_comes_and_goes'),
            ),
        ),
    ),
    Row(
        8,
        'virtiofs shares',
        "virtiofsd's own confinement, and QEMU gets the socket.",
        (
            Part(
                RUN,
                'virtiofsd without a label is refused or reported; a profile '
                'for it is in etc/apparmor.d.',
                _devices(
                    'shares_and_memory_that_is_shared',
                    'a_share_that_nothing_confines',
                    'a_share_that_our_profile_of_virtiofsd_confines',
                ),
            ),
        ),
    ),
    Row(
        9,
        'Huge pages, memfd, memory in files',
        "This guest's directory only.",
        (
            Part(
                RUN,
                'memfd and memory in files.',
                _devices('shares_and_memory_that_is_shared'),
            ),
            Part(
                MODELLED,
                'Huge pages.',
                _stock('memory_in_files') + _made_up('huge_pages'),
            ),
        ),
    ),
    Row(
        10,
        'Live migration: memory in files, NBD, TLS',
        'Both ends; files of TLS only where it is on.',
        (
            Part(
                OPEN,
                'Refused by name at the source and at the destination.',
                _named(
                    'functional.virt.test_not_covered',
                    'NotCoveredTest',
                    'live_migration',
                ),
            ),
        ),
    ),
    Row(
        11,
        'VFIO, mdev, SR-IOV VF, IOMMUFD',
        'The exact group or device, from sysfs.',
        (
            Part(
                MODELLED,
                "Each has its own group's or device's node and no other, also "
                'when it is plugged.',
                _stock(
                    'a_pci_device_is_its_group_and_no_other',
                    'a_mediated_device_is_its_group_and_no_other',
                    'an_nvme_disk',
                )
                + _made_up(
                    'a_pci_device_or_a_virtual_function',
                    'a_pci_device_through_iommufd',
                    'a_mediated_device',
                )
                + _plugs(
                    'HostDevicesTest',
                    'the_device_goes_and_comes',
                    'its_end_withdraws_the_right',
                ),
            ),
        ),
    ),
    Row(
        12,
        'Interfaces after a block job',
        'Rules survive regeneration.',
        (_BLOCK_JOBS,),
    ),
    Row(
        13,
        'SEV and TDX',
        'A loader that is only read; the device of the processor.',
        (
            Part(
                MODELLED,
                'The loader as with any UEFI.',
                _stock('uefi', 'memory_that_is_kept_from_the_host')
                + _made_up('memory_that_is_kept_from_the_host'),
            ),
        ),
    ),
    Row(
        14,
        'NVRAM of UEFI, secure boot',
        'The exact file.',
        (
            Part(
                RUN,
                'Firmware that is named and that libvirt chooses.',
                _devices('uefi', 'uefi_that_libvirt_chooses') + _stock('uefi'),
            ),
        ),
    ),
    Row(
        15,
        'Attributes of block devices (zoned, max_segments)',
        'Readable, or denied quietly.',
        (
            Part(
                RUN,
                'A block device of the host; nothing is denied.',
                _devices('devices_of_the_host'),
            ),
        ),
    ),
    Row(
        16,
        'Disks on NFS',
        'Documented for kernels that see them as network.',
        (
            Part(
                RUN,
                "Granted by its path as any other; NFS's sockets are the "
                "kernel's and none of QEMU's.",
                _devices('a_disk_on_nfs'),
            ),
        ),
    ),
    Row(
        17,
        'Multipath, iSCSI, NVMe over fabrics, Fibre Channel',
        'The mapped node of the device.',
        (
            Part(
                MODELLED,
                'All end as a link to a block device.',
                _stock('a_block_device', 'a_block_device_that_is_only_read')
                + _made_up('a_volume_of_a_storage_network'),
            ),
            Part(
                RUN,
                'A block device of the host as a volume that Nova attaches '
                'to running guests and detaches, also one for several.',
                _named(
                    'system.test_hotplug',
                    'HotPlugTest',
                    'the_right_comes_and_goes_with_the_device',
                    'the_right_stays_as_long_as_the_device',
                    'a_neighbours_disk_is_refused_under_any_name',
                    'a_disk_for_several_is_granted_to_each_of_them_alone',
                ),
            ),
        ),
    ),
    Row(
        18,
        'Console log by virtlogd, consoles on a pty and in a file',
        "This guest's log only.",
        (
            Part(
                RUN,
                'What a guest writes arrives; of the consoles a guest '
                'reaches its own.',
                _operations(
                    'the_guest_has_what_its_profile_grants',
                    'only_this_guests_console_is_open_once_it_runs',
                )
                + _devices('consoles_and_channels'),
            ),
        ),
    ),
    Row(
        19,
        'Config drive, rescue, swap and ephemeral disks, UEFI with rescue',
        'Each is there and nothing beside it.',
        (
            Part(
                RUN,
                'Config drive and rescue by Nova; all of them in one guest '
                'with UEFI.',
                _operations('the_life_of_a_guest')
                + _devices('all_disks_of_nova_in_a_relocated_directory'),
            ),
        ),
    ),
    Row(
        20,
        "QEMU's modules after an upgrade of its package",
        'A running guest loads those that the package kept.',
        (
            Part(
                RUN,
                'A module that is only where Debian keeps it.',
                _devices('a_module_of_qemu_after_an_upgrade'),
            ),
        ),
    ),
    Row(
        21,
        'Monitoring agents that look into QEMU',
        'Peers are configurable.',
        (
            Part(
                RUN,
                'One that is named or not confined reads; no other does, and '
                'none traces.',
                _named(
                    'system.test_monitoring',
                    'MonitoringTest',
                    'an_agent_that_is_named_or_not_confined_reads',
                    'another_one_does_not',
                    'no_agent_with_a_profile_traces',
                ),
            ),
        ),
    ),
    Row(
        22,
        'Stale, empty and foreign files of profiles',
        'Found, reported, never silently used.',
        (
            Part(
                RUN,
                'Foreign ones are refused and kept, stock ones replaced, '
                'stale ones found beforehand.',
                _named(
                    'system.test_fail_closed',
                    'FaultAtAnotherStartTest',
                    'a_foreign_profile_is_refused_by_name_and_kept',
                )
                + _operations('a_stock_profile_left_by_libvirt_is_replaced')
                + _named(
                    'system.test_preflight',
                    'PreflightTest',
                    'before_it_is_switched_on',
                )
                + _named(
                    'unit.test_privileged',
                    'OwnTest',
                    'an_empty_file_is_replaced',
                ),
            ),
        ),
    ),
    Row(
        23,
        'Paths with metacharacters of AppArmor, spaces, quotes, non-ASCII',
        'Granted literally.',
        (
            Part(
                RUN,
                'Asked of the kernel for hundreds of names, and a guest with '
                'such a directory.',
                _named(
                    'system.test_literal_paths',
                    'LiteralPathsTest',
                    'a_name_grants_itself_and_nothing_else',
                    'what_cannot_be_granted_literally_is_refused',
                )
                + _devices('all_disks_of_nova_in_a_relocated_directory'),
            ),
        ),
    ),
    Row(
        24,
        'VNC, SPICE, serial ports over TCP, several ports',
        'Listening only.',
        (
            Part(
                RUN,
                'All of them answer. '
                'Connecting is denied where the language can tell it from '
                'listening: see the attack matrix.',
                _devices('several_ports_that_listen', 'graphics')
                + _operations('the_guest_has_what_its_profile_grants'),
            ),
        ),
    ),
    Row(
        25,
        'Snapshot with memory, managed save and restore, core dump by the '
        'operator',
        'They work; memory is read by its own guest only.',
        (
            Part(
                RUN,
                'Suspend and resume; core dumps.',
                _operations('the_life_of_a_guest')
                + _devices('a_core_dump_by_the_operator'),
            ),
            Part(OPEN, 'Snapshots with memory: Nova makes none.'),
        ),
    ),
    Row(
        26,
        'USB, SCSI, sound, video, random numbers, watchdog, panic, balloon, '
        'input devices of the host',
        'Exactly the nodes of the devices.',
        (
            Part(
                RUN,
                'Sound, video, random numbers, watchdog, panic, balloon.',
                _devices('graphics', 'devices_of_the_host'),
            ),
            Part(
                MODELLED,
                'USB, SCSI, vhost-scsi, vDPA, input devices.',
                _stock('a_scsi_device', 'what_lies_in_shared_memory_or_dev')
                + _made_up(
                    'a_usb_device',
                    'a_scsi_device',
                    'a_vhost_scsi_target',
                    'a_vdpa_interface',
                    'an_input_device',
                ),
            ),
        ),
    ),
    Row(
        27,
        'libvirtd without its security driver, profiles list unreadable',
        'Refused, the cause named.',
        (
            Part(
                RUN,
                'The compute service is disabled with the cause, and comes '
                'back.',
                _named(
                    'system.test_fail_closed',
                    'FaultOfTheHostTest',
                    'libvirtd_without_its_apparmor_driver',
                )
                + _named(
                    'system.test_without_apparmor',
                    'KernelWithoutAppArmorTest',
                    'the_service_is_disabled_and_no_guest_starts',
                )
                + _named(
                    'unit.apparmor.test_kernel',
                    'KernelTest',
                    'a_kernel_that_does_not_show_its_policy',
                ),
            ),
        ),
    ),
)

_HEAD = f"""\
=============
Compatibility
=============

.. Written by nova_isolation/tests/compatibility.py.

Resources and operations that regularly meet denials under libvirt's own
profiles or when a profile is made narrower, and how far it is shown that they
work here: with what they need, and nothing beside it.

* *run*: by a guest on a real kernel with libvirt and QEMU, with quiet denials
  recorded, too, and none logged that is not meant. (Rows 21, 22 and 27 are
  about others than a guest.)
* *modelled*: the machine of the tests lacks the hardware. The rules are
  compared one by one with those that libvirt's virt-aa-helper writes for the
  same XML, and a process under the guest's label tries its own devices and
  others on nodes made for that.
* *open*: not covered yet, or not shown.

The tests are below ``{_TESTS.rstrip('.')}``.
"""


def write() -> str:
    """Write the list for people.

    :returns: the text of the documentation's page
    """
    counts = {
        status: sum(
            part.status is status for row in ROWS for part in row.parts
        )
        for status in Status
    }
    lines = [
        _HEAD,
        ', '.join(f'{n} {status.value}' for status, n in counts.items()) + '.',
        '',
        '.. list-table::',
        '   :header-rows: 1',
        '   :widths: 4 24 24 10 38',
        '',
        '   * - #',
        '     - resource or operation',
        '     - what must hold',
        '     - status',
        '     - shown by',
    ]
    for row in ROWS:
        for part in row.parts:
            first = part is row.parts[0]
            for at, cell in enumerate(
                (
                    str(row.number) if first else '',
                    row.resource if first else '',
                    row.holds if first else '',
                    part.status.value,
                    part.what,
                )
            ):
                lines.append(f'   {"*" if at == 0 else " "} - {cell}'.rstrip())
            if part.tests:
                lines.append('')
                lines += [f'       * ``{test}``' for test in part.tests]
    return '\n'.join([*lines, ''])


if __name__ == '__main__':
    PAGE.write_text(write())
