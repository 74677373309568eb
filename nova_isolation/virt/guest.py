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

"""Nova's Guest, which starts only what is proven to be confined."""

from collections.abc import Iterator
import contextlib
import dataclasses
import time
from typing import Any

import libvirt
from nova.virt.libvirt import guest as libvirt_guest
from oslo_log import log as logging

from nova_isolation import exceptions
from nova_isolation.hooks import base
from nova_isolation.virt import isolation as isolation_module

LOG = logging.getLogger(__name__)

# Seconds that a guest has for giving up a device that was refused after all.
_PATIENCE = 3.0


@dataclasses.dataclass(frozen=True)
class _Device:
    """A device as Nova's methods take it, its XML completed."""

    xml: str

    def to_xml(self) -> str:
        return self.xml


class Guest(libvirt_guest.Guest):
    """A guest of this host.

    :param domain: libvirt's domain
    :param isolation: what this nova-compute shares
    """

    _domain: libvirt.virDomain

    def __init__(
        self,
        domain: libvirt.virDomain,
        isolation: isolation_module.Isolation,
    ) -> None:
        super().__init__(domain)
        self._isolation = isolation

    def launch(self, pause: bool = False) -> None:
        """Start the guest: the only way that Nova has.

        :param pause: whether its vCPUs shall not run yet
        :raises IsolationError: when it is not proven to be confined; then no
            process of it is left, and its saved memory is as before
        """
        if not self._isolation.active:
            self._withdraw()
            super().launch(pause=pause)
            return
        self._isolation.require_host(self._domain.connect())
        with self._turn():
            self._launch(pause)

    def _launch(self, pause: bool) -> None:
        if self.is_active():
            raise exceptions.Refusal(
                'the guest runs already, and not by a start of Nova: stop it'
            )
        restoring = self.has_saved_memory()
        if not restoring:
            self._complete()
        self._isolation.learn_neighbours(self._domain.connect())
        try:
            self._isolation.hooks.prepare(self.starting())
            super().launch(pause=True)
            self._isolation.look_again(self.uuid)
        except libvirt.libvirtError as e:
            self._take_back()
            self._explain(e)
            raise
        except BaseException:
            self._take_back()
            raise
        try:
            self._prove(starting=True)
            if not pause:
                super().resume()
        except BaseException:
            self._stop(restoring)
            raise

    def _complete(self) -> None:
        """Complete a domain that was defined without us.

        Nova starts some anew without defining them again.

        :raises Refusal: when it may not be defined so
        """
        xml = self.defined_xml()
        if not self._isolation.is_complete(xml):
            complete = self._isolation.define(xml)
            self._domain = self._domain.connect().defineXML(complete)

    def resume(self) -> None:
        """Let a paused guest run, once it is proven again.

        A nova-compute that died during a start has left a paused guest that
        nobody has looked at.

        :raises IsolationError: when it is not confined; it stays paused
        """
        if self._isolation.active and self._isolation.hooks.owns(self.uuid):
            with self._turn():
                self._prove()
        super().resume()

    def _prove(self, *, starting: bool = False) -> None:
        """Prove that the guest is confined.

        :param starting: whether that is the first time: what is let pass is
            told once in its life, and who started it also ends it
        """
        running = self._isolation.guest(self._domain.XMLDesc(0))
        self._isolation.hooks.narrow(running)
        if not starting and (kept := self._end_if_it_keeps_a_device(running)):
            raise exceptions.StillOpen(kept)
        passed = self._isolation.hooks.verify(running)
        if passed and starting:
            self._isolation.report_finding(
                running.domain, 'helper unconfined', '; '.join(passed)
            )

    def is_running(self) -> bool:
        """Tell whether the guest's vCPUs run.

        :returns: False for one that is paused or off
        """
        state = int(self._domain.info()[0])
        return bool(state == libvirt.VIR_DOMAIN_RUNNING)

    def starting(self) -> base.Guest:
        """Describe the guest as libvirt would start it.

        :returns: the guest; of a suspended one that of the saved memory,
            which is what libvirt restores, not what is defined
        :raises InvalidDomain: when its XML cannot be understood
        """
        if self.has_saved_memory():
            saved = self._domain.managedSaveGetXMLDesc(0)
            return dataclasses.replace(
                self._isolation.guest(saved), restoring=True
            )
        return self._isolation.guest(self.defined_xml())

    def defined_xml(self) -> str:
        """Read the domain as it is defined.

        :returns: its XML, running or not
        """
        xml: str = self._domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        return xml

    def has_saved_memory(self) -> bool:
        """Tell whether the guest's memory is on disk.

        :returns: whether libvirt would restore it
        """
        return bool(self._domain.hasManagedSaveImage(0))

    def delete_configuration(self, *args: Any, **kwargs: Any) -> None:
        """Undefine the domain, and remove what was made to confine it."""
        uuid = self.uuid
        if self._isolation.keeps_memory(uuid) and (
            # active: it could not be saved again, and is paused
            self.has_saved_memory() or self.is_active()
        ):
            LOG.info('isolation: guest %s stays defined with its memory', uuid)
            return
        super().delete_configuration(*args, **kwargs)
        self._isolation.release(uuid)
        self._isolation.forget_neighbour(uuid)

    # --- devices that come and go -----------------------------------------

    def attach_device(
        self, conf: Any, persistent: bool = False, live: bool = False
    ) -> None:
        """Attach a device: the right is there before libvirt's call.

        :param conf: Nova's description of the device
        :param persistent: whether to define it
        :param live: whether to give it to the running guest
        :raises IsolationError: when the guest may not have it; then it has
            not, and may reach what it could before
        """
        if not self._isolation.active:
            super().attach_device(conf, persistent=persistent, live=live)
            return
        with self._turn():
            # with neither, libvirt takes the state that the guest is in
            if self.is_active() and (live or not persistent):
                self._plug(conf.to_xml(), persistent, live)
                return
            device, _ = self._isolation.with_device(
                self.defined_xml(), conf.to_xml()
            )
            super().attach_device(_Device(device), persistent, live)
            self._isolation.learn_neighbour(self._domain)

    def _plug(self, xml: str, persistent: bool, live: bool) -> None:
        """Give a device to the running guest, by whose turn it is."""
        if not self._isolation.hooks.owns(self.uuid):
            raise exceptions.NotConfined(
                'the guest was started without nova-isolation, which has no '
                'profile of it to grant the device: reboot the server hard, '
                'and attach the device then'
            )
        device, after = self._isolation.with_device(
            self._domain.XMLDesc(0), xml
        )
        guest = self._isolation.guest(after)
        self._isolation.hooks.judge(guest)
        self._isolation.learn_neighbours(self._domain.connect())
        try:
            self._isolation.hooks.widen(guest)
            super().attach_device(_Device(device), persistent, live)
        except BaseException:
            # It may be there all the same: the live domain tells.
            self._isolation.turns.note(self.uuid)
            raise
        try:
            self._prove()
        except BaseException:
            self._isolation.turns.note(self.uuid)
            self._take_out(device, persistent, live)
            raise

    def _take_out(self, device: str, persistent: bool, live: bool) -> None:
        """Take a device out again, before Nova disconnects it."""
        try:
            if not self.is_active():
                return
            super().detach_device(_Device(device), persistent, live)
            end = time.monotonic() + _PATIENCE
            while time.monotonic() < end and not self._has_lost_a_device():
                time.sleep(0.1)
        except (exceptions.IsolationError, libvirt.libvirtError) as e:
            LOG.error(
                'isolation: guest %s may still have a device that was refused '
                'and could not be taken out again: reboot it hard: %s',
                self.uuid,
                e,
            )

    def _has_lost_a_device(self) -> bool:
        """Tell whether it has rights to a device that it has not."""
        guest = self._isolation.guest(self._domain.XMLDesc(0))
        return self._isolation.hooks.exceeds(guest)

    def withdraw(self) -> None:
        """Withdraw the rights to what the guest no longer has, and wait.

        What it had may be disconnected afterwards, and go to another guest.

        :raises IsolationError: when it may be open or opened still; this is
            tried again by the periodic task
        """
        try:
            with self._isolation.turns.take(self.uuid):
                self._narrow()
        except BaseException:
            self._isolation.turns.note(self.uuid)
            raise
        self._settle()

    def settle(self) -> None:
        """Withdraw the rights to what the guest no longer has.

        Does not wait for another change to the guest: who makes that one does
        it then. Never raises: what fails is tried again by the periodic task.
        """
        self._isolation.turns.note(self.uuid)
        self._settle()

    def check_settled(self) -> None:
        """Settle a guest when its loss of a device went unnoticed.

        Nobody heard of it while nova-compute was down. Never raises.
        """
        try:
            # Not a paused one: it may be one that nobody has proven yet, and
            # is looked at when it is resumed.
            if not self.is_running():
                return
            missed = self._isolation.turns.is_due(self.uuid) or (
                self._isolation.hooks.owns(self.uuid)
                and self._has_lost_a_device()
            )
        except Exception as e:
            if self._isolation.doubt(self.uuid, str(e)):
                LOG.warning(
                    'isolation: guest %s cannot be checked for rights to '
                    'devices that it has lost: %s',
                    self.uuid,
                    e,
                )
            return
        self._isolation.doubt(self.uuid, None)
        if missed:
            self.settle()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Change the guest's rights, nobody else doing so."""
        try:
            with self._isolation.turns.take(self.uuid):
                yield
        finally:
            self._settle()

    def _settle(self) -> None:
        turns = self._isolation.turns
        while turns.claim(self.uuid):
            try:
                self._narrow()
            except Exception as e:
                # for the periodic task
                turns.note(self.uuid)
                self._unsettled(e)
                return
            finally:
                turns.give_back(self.uuid)

    def _narrow(self) -> None:
        """Grant what the live domain has, and no more."""
        try:
            xml = self._domain.XMLDesc(0)
        except libvirt.libvirtError as e:
            if e.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return
            raise
        guest = self._isolation.guest(xml)
        running = guest.domain.id is not None
        if running and self._isolation.hooks.owns(self.uuid):
            self._isolation.hooks.narrow(guest)
            self._end_if_it_keeps_a_device(guest)
        self._isolation.hooks.learn(guest.domain)

    def _end_if_it_keeps_a_device(self, guest: base.Guest) -> str:
        """End a guest whose process has open what was taken from it.

        :param guest: as it runs
        :returns: why it does not run any more; '' when it goes on
        :raises StillOpen: when it could not be ended
        """
        kept = self._isolation.hooks.wait_closed(self.uuid)
        if not kept:
            return ''
        found = (
            'its process still has open what was detached from it: '
            + '; '.join(kept)
        )
        failure = None
        if self._isolation.mode == 'complain':
            done = 'reported only, in complain mode'
        else:
            done = 'the guest was stopped'
            try:
                self.poweroff()
            except libvirt.libvirtError as e:
                failure = e
                done = f'the guest could not be stopped ({e}): end its process'
        reason = f'{found}: {done}; do not trust what runs in it'
        self._isolation.report_finding(
            guest.domain, 'device kept', reason, attack=True
        )
        if failure:
            raise exceptions.StillOpen(reason) from failure
        return '' if self._isolation.mode == 'complain' else reason

    def _unsettled(self, error: Exception) -> None:
        LOG.error(
            'isolation: guest %s may still reach a device that it has lost; '
            'this is tried again: %s',
            self.uuid,
            error,
        )

    # --- what is not covered yet ------------------------------------------

    def snapshot(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the profile would have to grant the overlay first."""
        self._refuse('a snapshot of a running guest')
        super().snapshot(*args, **kwargs)

    def migrate(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: nothing would confine the guest at the destination."""
        self._refuse('live migration')
        super().migrate(*args, **kwargs)

    def _refuse(self, operation: str) -> None:
        if self._isolation.active:
            raise exceptions.NotCovered(
                f'{operation} is not covered by nova-isolation yet'
            )

    def _explain(self, error: libvirt.libvirtError) -> None:
        """Tell why libvirt did not start the guest, if we know better."""
        self._isolation.check_host(self._domain.connect())
        message = str(error)
        if 'apparmor' in message.lower() or 'security' in message.lower():
            raise exceptions.ProfileRejected(
                f'libvirt does not start the guest: {message}'
            ) from error

    def _stop(self, restoring: bool) -> None:
        """End a process that may not run; its vCPUs never did."""
        try:
            if restoring:
                # libvirt removed the image when it had restored the guest.
                # As saved by Nova: to run when it is restored.
                self._domain.managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING)
            else:
                self.poweroff()
        except libvirt.libvirtError as e:
            LOG.critical(
                'isolation: guest %s is not confined and could not be %s: %s. '
                'It is paused and has not executed an instruction: do not '
                'resume it',
                self.uuid,
                'saved again' if restoring else 'stopped',
                e,
            )
            return
        self._take_back()

    def _take_back(self) -> None:
        """Take back what a start has made that was none."""
        self._isolation.hooks.release(self.uuid)
        # what it was to have is not its own yet
        self._isolation.look_again(self.uuid)

    def _withdraw(self) -> None:
        """Take our traces from a guest that is to start as without us."""
        xml = self.defined_xml()
        if '<seclabel' in xml:
            plain = self._isolation.undefine(xml)
            self._domain.connect().defineXML(plain)
        self._isolation.hooks.release(self.uuid)
