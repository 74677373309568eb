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

"""Faults of one guest, chosen by its display name, for the lab.

``[isolation] hooks = fault,apparmor,late_fault``: the first one's ``verify``
runs after everything is narrowed and before the AppArmor hook looks; the last
one's ``prepare`` runs after the profile was written and before libvirt starts
the guest.
"""

import os

from isolation_test_hooks import privileged

from nova_isolation.hooks import base


class Fault(base.Hook):
    """What somebody else may do to a guest's profile behind our back."""

    def check_host(self, host: base.Host) -> None:
        pass

    def prepare(self, guest: base.Guest) -> None:
        self._strike(guest, 'fault-foreign', privileged.write_foreign)

    def verify(self, guest: base.Guest) -> tuple[str, ...]:
        self._strike(guest, 'fault-complain', privileged.complain)
        self._strike(guest, 'fault-unconfined', privileged.unload)
        self._strike(guest, 'fault-stock', privileged.load_stock)
        # at a later start than the first, when the test says so
        if os.path.exists(f'/run/fault-later-{guest.domain.uuid}'):
            privileged.complain(guest.domain.uuid)
        return ()

    def _strike(self, guest, name, how) -> None:
        if guest.domain.instance.name == name:
            how(guest.domain.uuid)


class LateFault(Fault):
    """The same, between the AppArmor hook and libvirt."""

    def prepare(self, guest: base.Guest) -> None:
        self._strike(guest, 'fault-broken', privileged.break_file)

    def verify(self, guest: base.Guest) -> tuple[str, ...]:
        return ()
