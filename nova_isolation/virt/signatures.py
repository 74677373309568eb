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

"""The methods of Nova that the driver relies on, checked at its start.

Their signatures are the same in Nova 26 to 34. A Nova in which one is gone or
has changed would make the driver's methods something that nobody calls: then
nova-compute does not start.
"""

import inspect

from nova.virt.libvirt import driver
from nova.virt.libvirt import guest
from nova.virt.libvirt import host

from nova_isolation import exceptions

#: {class: {method: its first parameters after self}}
RELIED_ON: dict[type, dict[str, tuple[str, ...]]] = {
    guest.Guest: {
        'launch': ('pause',),
        'resume': (),
        'poweroff': (),
        'delete_configuration': (),
        'attach_device': ('conf', 'persistent', 'live'),
        'detach_device': ('conf', 'persistent', 'live'),
        'snapshot': ('conf',),
        'migrate': (),
    },
    host.Host: {
        'write_instance_config': ('xml',),
        'get_guest': ('instance',),
        'list_guests': ('only_running',),
        'get_connection': (),
    },
    driver.LibvirtDriver: {
        '_cleanup': ('context', 'instance'),
        '_create_images_and_backing': (
            'context',
            'instance',
            'instance_dir',
            'disk_info',
        ),
        '_destroy': ('instance',),
        '_hard_reboot': ('context', 'instance'),
        '_set_host_enabled': ('enabled', 'disable_reason'),
        '_soft_reboot': ('instance',),
        '_detach_with_retry': ('guest',),
        'attach_interface': ('context', 'instance', 'image_meta', 'vif'),
        'attach_volume': ('context', 'connection_info', 'instance'),
        'detach_interface': ('context', 'instance', 'vif'),
        'detach_volume': ('context', 'connection_info', 'instance'),
        'check_can_live_migrate_destination': ('context', 'instance'),
        'check_can_live_migrate_source': ('context', 'instance'),
        'emit_event': ('event',),
        'finish_migration': ('context', 'migration', 'instance'),
        'finish_revert_migration': ('context', 'instance'),
        'get_available_resource': ('nodename',),
        'init_host': ('host',),
        'migrate_disk_and_power_off': ('context', 'instance'),
        'power_off': ('instance',),
        'rebuild': ('context', 'instance'),
        'rescue': ('context', 'instance', 'network_info', 'image_meta'),
        'resume': ('context', 'instance'),
        'snapshot': ('context', 'instance'),
        'spawn': ('context', 'instance', 'image_meta'),
        'unpause': ('instance',),
        'swap_volume': (
            'context',
            'old_connection_info',
            'new_connection_info',
            'instance',
        ),
        'unrescue': ('context', 'instance'),
        'volume_snapshot_create': ('context', 'instance'),
        'volume_snapshot_delete': ('context', 'instance'),
    },
}


def check() -> None:
    """Check the methods of the Nova that runs.

    :raises ConfigurationError: naming the first one that is not as expected
    """
    for owner, methods in RELIED_ON.items():
        for name, expected in methods.items():
            method = getattr(owner, name, None)
            if method is None:
                raise _unknown(owner, name, 'is not there')
            found = tuple(inspect.signature(method).parameters)[1:]
            if found[: len(expected)] != expected:
                raise _unknown(owner, name, f'takes {", ".join(found)}')


def _unknown(owner: type, name: str, what: str) -> exceptions.IsolationError:
    return exceptions.ConfigurationError(
        f'[DEFAULT] compute_driver = isolation.LibvirtDriver does not know '
        f'this release of Nova: {owner.__module__}.{owner.__name__}.{name} '
        f'{what}'
    )
