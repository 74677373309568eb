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

"""``compute_driver = isolation.LibvirtDriver``: Nova's driver, fail-closed.

A plain subclass: nothing of Nova is patched. What starts a guest is wrapped so
that a refusal becomes a fault that a tenant and an operator understand, goes
out as a notification, and costs no data. What is not covered yet is refused
before Nova has changed anything.
"""

from collections.abc import Callable, Iterator
import contextlib
import glob
import os
import shutil
import sys
from typing import Any

import libvirt
from nova.compute import task_states
import nova.conf
from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.virt.libvirt import driver as libvirt_driver
from nova.virt.libvirt import event as libvirt_event
from nova.virt.libvirt import utils as libvirt_utils
from oslo_log import log as logging

from nova_isolation import exceptions
from nova_isolation import images
from nova_isolation.virt import guest as guest_module
from nova_isolation.virt import host as host_module
from nova_isolation.virt import isolation as isolation_module
from nova_isolation.virt import signatures
from nova_isolation.virt import worker

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

# What the column holds that the reason is stored in, less Nova's prefix.
_REASON_LENGTH = 255 - len(libvirt_driver.DISABLE_PREFIX)


class Refused(nova_exception.NovaException):
    """What Nova makes an instance's fault of, with the message as it is."""

    msg_fmt = 'isolation: %(reason)s'


class LibvirtDriver(libvirt_driver.LibvirtDriver):
    """Nova's libvirt driver, which runs only guests proven to be confined."""

    def __init__(self, virtapi: Any, read_only: bool = False) -> None:
        try:
            signatures.check()
            self._isolation = isolation_module.Isolation(CONF)
        except exceptions.ConfigurationError as e:
            LOG.critical('isolation: %s', e)
            sys.exit(1)
        self._removals = worker.Worker(self._settle)
        super().__init__(virtapi, read_only)
        self._host.__class__ = host_module.Host
        self._host.adopt(self._isolation)
        self._host_fault: exceptions.HostFault | None = None

    # --- the host ---------------------------------------------------------

    def init_host(self, host: str) -> None:
        super().init_host(host)
        LOG.info('isolation: mode is %s', self._isolation.mode)
        self._watch_host()

    def get_available_resource(self, nodename: str) -> Any:
        # Nova's periodic task: every [DEFAULT] update_resources_interval
        self._watch_host()
        self._watch_guests()
        return super().get_available_resource(nodename)

    def _set_host_enabled(
        self, enabled: bool, disable_reason: str | None = None
    ) -> None:
        # Nova enables the service whenever libvirtd is there again
        fault = self._find_host_fault() if enabled else None
        if fault:
            self._disable_service(fault)
        else:
            super()._set_host_enabled(enabled, disable_reason)

    def _watch_host(self) -> None:
        """Disable the service while this host cannot confine guests."""
        before = self._host_fault
        fault = self._find_host_fault()
        if fault:
            self._disable_service(fault)
        elif before:
            LOG.info('isolation: the fault of this host is gone: %s', before)
            super()._set_host_enabled(True)

    def _find_host_fault(self) -> exceptions.HostFault | None:
        if not self._isolation.active:
            return None
        try:
            self._isolation.check_host(self._host.get_connection())
            self._host_fault = None
        except exceptions.HostFault as e:
            LOG.error('isolation: this host starts no guest: %s', e)
            self._host_fault = e
        except nova_exception.HypervisorUnavailable as e:
            # Nova disables the service itself while libvirtd is away; a fault
            # from before stands until somebody can be asked
            LOG.warning('isolation: the host cannot be checked: %s', e)
        return self._host_fault

    def _disable_service(self, fault: exceptions.HostFault) -> None:
        reason = f'isolation: {fault}'[:_REASON_LENGTH]
        context = nova_context.get_admin_context()
        stored = libvirt_driver.DISABLE_PREFIX + reason
        try:
            service = objects.Service.get_by_compute_host(context, CONF.host)
        except nova_exception.ComputeHostNotFound:
            # before the first start is complete: the periodic task does it
            LOG.debug('isolation: the service is not registered yet')
            return
        known = service.disabled_reason or ''
        if not service.disabled:
            super()._set_host_enabled(False, reason)
        elif known != stored and known.startswith(
            libvirt_driver.DISABLE_PREFIX
        ):
            # Nova keeps the reason of a service that it had disabled before
            service.disabled_reason = stored
            service.save()

    # --- operations that start a guest ------------------------------------

    @contextlib.contextmanager
    def _refusals(
        self,
        operation: str,
        instance: 'objects.Instance',
        as_fault: Callable[[Refused], Exception] = lambda refused: refused,
    ) -> Iterator[None]:
        """Report a refusal, and raise it as what Nova understands.

        :param operation: in Nova's words
        :param instance: Nova's instance
        :param as_fault: wraps the exception for the operation's caller
        """
        try:
            yield
        except exceptions.IsolationError as e:
            event = self._isolation.report_refusal(operation, instance, e)
            reason = e.shown
            if reason != e.message:
                reason += (
                    f': the log of nova-compute and the notification {event} '
                    'tell an administrator why'
                )
            raise as_fault(Refused(reason=reason)) from e

    def _judge(
        self, instance: 'objects.Instance', xml: str | None = None
    ) -> None:
        """Refuse a start that would fail, while nothing is changed yet.

        :param instance: Nova's instance
        :param xml: of the domain that would be started, when it is not the
            one that libvirt would start now
        """
        if not self._isolation.active:
            return
        connection = self._host.get_connection()
        self._isolation.check_host(connection, starting=True)
        try:
            guest = (
                self._isolation.guest(xml)
                if xml
                else self._host.get_guest(instance).starting()
            )
        except nova_exception.InstanceNotFound:
            return
        self._isolation.hooks.judge(guest)

    def _judge_anew(self, instance: 'objects.Instance') -> None:
        """Refuse a start that would fail although Nova makes the domain anew.

        The domain that is there tells nearly all of it. But what is missing
        of the image cache Nova fetches, and volumes it connects; and what a
        stopped guest has and is not covered, the operator may have taken out
        of nova.conf since.
        """
        if not self._isolation.active:
            return
        try:
            guest = self._host.get_guest(instance)
        except nova_exception.InstanceNotFound:
            self._isolation.check_host(self._host.get_connection())
            return
        try:
            self._judge(instance, guest.defined_xml())
        except (exceptions.MissingBase, exceptions.MissingVolume) as e:
            LOG.info('isolation: %s', e, instance=instance)
        except exceptions.NotCovered:
            if guest.is_active():
                raise
        else:
            return
        # no profile was compiled: that of the new domain will be
        self._isolation.check_host(self._host.get_connection())

    def spawn(
        self,
        context: Any,
        instance: 'objects.Instance',
        image_meta: 'objects.ImageMeta',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        def abort(refused: Refused) -> Exception:
            # anything else would be tried again on the next host
            fault: Exception = nova_exception.BuildAbortException(
                instance_uuid=instance.uuid, reason=refused.format_message()
            )
            return fault

        with self._refusals('spawn', instance, abort):
            if self._isolation.active:
                self._isolation.require_host(self._host.get_connection())
            # of a server that is unshelved, another one than it was made of
            with self._isolation.believing(instance.uuid, _image(image_meta)):
                super().spawn(context, instance, image_meta, *args, **kwargs)

    def _soft_reboot(self, instance: 'objects.Instance') -> Any:
        with self._refusals('soft reboot', instance):
            self._judge(instance)
            return super()._soft_reboot(instance)

    def unpause(self, instance: 'objects.Instance') -> None:
        with self._refusals('unpause', instance):
            super().unpause(instance)

    def rebuild(
        self,
        context: Any,
        instance: 'objects.Instance',
        *args: Any,
        evacuate: bool = False,
        **kwargs: Any,
    ) -> None:
        # Nova destroys the disks before it spawns the server anew
        if not evacuate:
            self._refuse(
                'rebuild', instance, nova_exception.InstanceFaultRollback
            )
        super().rebuild(context, instance, *args, evacuate=evacuate, **kwargs)

    def _hard_reboot(
        self,
        context: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        # also power_on and the resumption after a host's start
        with self._refusals('hard reboot', instance):
            self._judge_anew(instance)
            with self._isolation.believing(
                instance.uuid, self._recorded(instance)
            ):
                if self._ends(instance):
                    # Until now it could rewrite the headers of its disks,
                    # and Nova fetches or creates what they name.
                    self._judge_anew(instance)
                super()._hard_reboot(context, instance, *args, **kwargs)

    def _create_images_and_backing(
        self,
        context: Any,
        instance: 'objects.Instance',
        instance_dir: str,
        disk_info: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        # Nova fetches or creates what the disks' headers name. Where there
        # was a domain they have been compared with its record already.
        if self._isolation.active:
            self._isolation.check_headers(
                instance.uuid,
                images.cache_name(instance.image_ref or ''),
                [d['path'] for d in disk_info or () if d['type'] == 'qcow2'],
            )
        super()._create_images_and_backing(
            context, instance, instance_dir, disk_info, *args, **kwargs
        )

    def _recorded(self, instance: 'objects.Instance') -> frozenset[str]:
        """Name the images that the record gives a guest, before it goes."""
        if not self._isolation.active:
            return frozenset()
        try:
            xml = self._host.get_guest(instance).defined_xml()
        except nova_exception.InstanceNotFound:
            return frozenset()
        return self._isolation.recorded(xml)

    def _ends(self, instance: 'objects.Instance') -> bool:
        """End the process of a guest as Nova is about to do; was there one?"""
        if not self._isolation.active:
            return False
        try:
            if not self._host.get_guest(instance).is_active():
                return False
        except nova_exception.InstanceNotFound:
            return False
        self._destroy(instance)
        return True

    def resume(
        self,
        context: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        def fault(refused: Refused) -> Exception:
            if self._is_running(instance):
                # it has its memory again: a host device is what was refused
                return refused
            # rolled back: the server stays SUSPENDED, its memory saved
            rolled_back: Exception = nova_exception.InstanceFaultRollback(
                refused
            )
            return rolled_back

        with self._refusals('resume', instance, fault):
            self._judge(instance)
            with self._isolation.keeping_memory(instance.uuid):
                super().resume(context, instance, *args, **kwargs)

    def _is_running(self, instance: 'objects.Instance') -> bool:
        try:
            return bool(self._host.get_guest(instance).is_running())
        except nova_exception.InstanceNotFound:
            return False

    def rescue(
        self,
        context: Any,
        instance: 'objects.Instance',
        network_info: Any,
        image_meta: 'objects.ImageMeta',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        with self._refusals('rescue', instance):
            self._judge(instance)
            believed = _image(image_meta, CONF.libvirt.rescue_image_id)
            try:
                with self._isolation.believing(instance.uuid, believed):
                    super().rescue(
                        context,
                        instance,
                        network_info,
                        image_meta,
                        *args,
                        **kwargs,
                    )
            except exceptions.IsolationError:
                self._undo_rescue(instance)
                raise

    def unrescue(
        self,
        context: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        with self._refusals('unrescue', instance):
            # not by the rescue domain, which it is to leave behind
            with open(_kept_domain(instance)) as f:
                self._judge(instance, f.read())
            super().unrescue(context, instance, *args, **kwargs)

    def _undo_rescue(self, instance: 'objects.Instance') -> None:
        """Bring back the domain and the files from before a rescue."""
        kept = _kept_domain(instance)
        try:
            with open(kept) as f:
                self._host.write_instance_config(f.read())
            os.unlink(kept)
        except Exception as e:
            self._not_undone(instance, e)
        pattern = f'{glob.escape(os.path.dirname(kept))}/*.rescue'
        for path in glob.glob(pattern):
            try:
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
            except OSError as e:
                self._not_undone(instance, e)

    def _not_undone(
        self, instance: 'objects.Instance', error: Exception
    ) -> None:
        LOG.error(
            'isolation: what the refused rescue left could not be removed: %s',
            error,
            instance=instance,
        )

    def finish_migration(
        self,
        context: Any,
        migration: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        with self._refusals('finishing a migration', instance):
            super().finish_migration(
                context, migration, instance, *args, **kwargs
            )

    def finish_revert_migration(
        self,
        context: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        with self._refusals('reverting a migration', instance):
            super().finish_revert_migration(context, instance, *args, **kwargs)

    def _cleanup(
        self,
        context: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super()._cleanup(context, instance, *args, **kwargs)
        # On the way out of some migrations there is no domain to undefine.
        if not self._isolation.keeps_memory(instance.uuid):
            self._isolation.release(instance.uuid)

    # --- devices that come and go -----------------------------------------

    def attach_volume(
        self,
        context: Any,
        connection_info: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        # Nova disconnects the volume after any exception
        with self._refusals('attaching a volume', instance):
            super().attach_volume(
                context, connection_info, instance, *args, **kwargs
            )

    def attach_interface(
        self,
        context: Any,
        instance: 'objects.Instance',
        image_meta: 'objects.ImageMeta',
        vif: Any,
    ) -> None:
        with self._refusals('attaching an interface', instance):
            try:
                super().attach_interface(context, instance, image_meta, vif)
            except exceptions.IsolationError:
                # as Nova does after an error of libvirt's, and of no other
                self.vif_driver.unplug(instance, vif)
                raise

    def detach_volume(
        self,
        context: Any,
        connection_info: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        with self._refusals('detaching a volume', instance):
            super().detach_volume(
                context, connection_info, instance, *args, **kwargs
            )

    def detach_interface(
        self, context: Any, instance: 'objects.Instance', vif: Any
    ) -> None:
        with self._refusals('detaching an interface', instance):
            super().detach_interface(context, instance, vif)

    def _detach_with_retry(
        self, guest: guest_module.Guest, *args: Any, **kwargs: Any
    ) -> None:
        try:
            super()._detach_with_retry(guest, *args, **kwargs)
        finally:
            # before Nova disconnects what the guest had
            if self._isolation.active:
                guest.withdraw()

    def emit_event(self, event: Any) -> None:
        super().emit_event(event)
        # also of a device that Nova waits for no longer
        if self._isolation.active and isinstance(
            event, libvirt_event.DeviceRemovedEvent
        ):
            self._removals.put(event.uuid)

    def _settle(self, uuid: str) -> None:
        try:
            self._host.get_guest(objects.Instance(uuid=uuid)).settle()
        except nova_exception.InstanceNotFound:
            LOG.debug('isolation: guest %s is gone with its device', uuid)
        except nova_exception.NovaException as e:
            # for the periodic task
            self._isolation.turns.note(uuid)
            LOG.warning('isolation: guest %s cannot be found: %s', uuid, e)

    def _watch_guests(self) -> None:
        """Withdraw rights to devices whose end nobody noticed."""
        if not self._isolation.active:
            return
        try:
            guests = self._host.list_guests()
        except (libvirt.libvirtError, nova_exception.NovaException) as e:
            LOG.warning('isolation: the guests cannot be listed: %s', e)
            return
        for guest in guests:
            guest.check_settled()

    # --- operations that are not covered yet ------------------------------

    def _refuse(
        self,
        operation: str,
        instance: 'objects.Instance',
        as_fault: Callable[[Refused], Exception] = lambda refused: refused,
    ) -> None:
        if not self._isolation.active:
            return
        with self._refusals(operation, instance, as_fault):
            raise exceptions.NotCovered(
                f'{operation} is not covered by nova-isolation yet'
            )

    def swap_volume(
        self,
        context: Any,
        old_connection_info: Any,
        new_connection_info: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self._refuse('swapping a volume', instance)
        super().swap_volume(
            context,
            old_connection_info,
            new_connection_info,
            instance,
            *args,
            **kwargs,
        )

    def snapshot(
        self,
        context: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self._refuse('a snapshot', instance)
        super().snapshot(context, instance, *args, **kwargs)

    def power_off(
        self, instance: 'objects.Instance', *args: Any, **kwargs: Any
    ) -> None:
        # Nova stops a guest before the snapshot that shelving it takes
        if instance.task_state == task_states.SHELVING:
            self._refuse('shelving', instance)
        super().power_off(instance, *args, **kwargs)

    def volume_snapshot_create(
        self,
        context: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self._refuse('a snapshot of a volume', instance)
        super().volume_snapshot_create(context, instance, *args, **kwargs)

    def volume_snapshot_delete(
        self,
        context: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self._refuse('deleting a snapshot of a volume', instance)
        super().volume_snapshot_delete(context, instance, *args, **kwargs)

    def migrate_disk_and_power_off(
        self,
        context: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        # rolled back: the server stays as it is
        self._refuse(
            'resize or cold migration',
            instance,
            nova_exception.InstanceFaultRollback,
        )
        return super().migrate_disk_and_power_off(
            context, instance, *args, **kwargs
        )

    def check_can_live_migrate_destination(
        self,
        context: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        self._refuse('live migration to this host', instance, _precheck)
        return super().check_can_live_migrate_destination(
            context, instance, *args, **kwargs
        )

    def check_can_live_migrate_source(
        self,
        context: Any,
        instance: 'objects.Instance',
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        # the destination may be a host without nova-isolation
        self._refuse('live migration from this host', instance, _precheck)
        return super().check_can_live_migrate_source(
            context, instance, *args, **kwargs
        )


def _kept_domain(instance: 'objects.Instance') -> str:
    """Tell where Nova keeps the domain from before a rescue."""
    directory = libvirt_utils.get_instance_path(instance)
    return os.path.join(directory, 'unrescue.xml')


def _image(
    image_meta: 'objects.ImageMeta', *more: str | None
) -> frozenset[str]:
    """Name the files in the image cache of those images that there are."""
    ids = [image_meta.id if image_meta.obj_attr_is_set('id') else None, *more]
    return frozenset(images.cache_name(i) for i in ids if i)


def _precheck(refused: Refused) -> Exception:
    fault: Exception = nova_exception.MigrationPreCheckError(
        reason=refused.format_message()
    )
    return fault
