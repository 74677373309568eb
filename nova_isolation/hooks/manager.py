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

"""Loads the configured hooks and calls them in order."""

from collections.abc import Iterable
import itertools
from typing import Any

from lxml import etree
from oslo_config import cfg
from oslo_log import log as logging
import stevedore

from nova_isolation import domain as domain_module
from nova_isolation import exceptions
from nova_isolation.hooks import base

NAMESPACE = 'nova_isolation.hooks'

LOG = logging.getLogger(__name__)


class HookManager:
    """The hooks of this host.

    :param conf: the configuration, with the [isolation] group registered
    :raises ConfigurationError: when a hook does not exist or cannot be loaded
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        names = conf.isolation.hooks

        def failed(_: object, entry_point: object, error: object) -> None:
            raise exceptions.ConfigurationError(
                f'[isolation] hooks = {",".join(names)}: {entry_point} '
                f'cannot be loaded: {error}'
            )

        def missing(absent: Iterable[str]) -> None:
            known: stevedore.ExtensionManager[base.Hook]
            known = stevedore.ExtensionManager(NAMESPACE)
            raise exceptions.ConfigurationError(
                f'[isolation] hooks = {",".join(names)}: no such hook: '
                f'{", ".join(sorted(absent))}; there are: '
                f'{", ".join(sorted(known.entry_points_names()))}'
            )

        loaded: stevedore.NamedExtensionManager[base.Hook]
        loaded = stevedore.NamedExtensionManager(
            NAMESPACE,
            names,
            invoke_on_load=True,
            invoke_args=(conf,),
            name_order=True,
            on_load_failure_callback=failed,
            on_missing_entrypoints_callback=missing,
        )
        self._hooks: list[base.Hook] = [
            extension.obj for extension in loaded if extension.obj is not None
        ]
        if not self._hooks:
            raise exceptions.ConfigurationError(
                '[isolation] hooks is empty, so that nothing would confine '
                'the guests: set it to apparmor, or [isolation] mode to off'
            )

    def check_host(self, host: base.Host) -> None:
        """See :meth:`nova_isolation.hooks.base.Hook.check_host`.

        :param host: what may be needed to tell
        :raises HostFault: also when a hook itself fails
        """
        self._call('check_host', host, failed=exceptions.HostFault)

    def define(self, xml: etree._Element) -> None:
        """See :meth:`nova_isolation.hooks.base.Hook.define`."""
        self._call('define', xml)

    def undefine(self, xml: etree._Element) -> None:
        """See :meth:`nova_isolation.hooks.base.Hook.undefine`."""
        self._call('undefine', xml)

    def learn(self, domain: domain_module.Domain) -> None:
        """See :meth:`nova_isolation.hooks.base.Hook.learn`."""
        self._call('learn', domain)

    def forget(self, uuid: str) -> None:
        """See :meth:`nova_isolation.hooks.base.Hook.forget`."""
        self._call('forget', uuid)

    def judge(self, guest: base.Guest) -> None:
        """See :meth:`nova_isolation.hooks.base.Hook.judge`."""
        self._call('judge', guest)

    def prepare(self, guest: base.Guest) -> None:
        """See :meth:`nova_isolation.hooks.base.Hook.prepare`."""
        self._call('prepare', guest)

    def widen(self, guest: base.Guest) -> None:
        """See :meth:`nova_isolation.hooks.base.Hook.widen`."""
        self._call('widen', guest)

    def narrow(self, guest: base.Guest) -> None:
        """See :meth:`nova_isolation.hooks.base.Hook.narrow`."""
        self._call('narrow', guest)

    def verify(self, guest: base.Guest) -> tuple[str, ...]:
        """See :meth:`nova_isolation.hooks.base.Hook.verify`.

        :param guest: as it runs
        :returns: what all hooks say
        """
        return self._words('verify', guest)

    def wait_closed(self, uuid: str) -> tuple[str, ...]:
        """See :meth:`nova_isolation.hooks.base.Hook.wait_closed`.

        :param uuid: of the domain
        :returns: what all hooks say
        """
        return self._words('wait_closed', uuid)

    def exceeds(self, guest: base.Guest) -> bool:
        """See :meth:`nova_isolation.hooks.base.Hook.exceeds`.

        :param guest: as it runs
        :returns: whether any hook says so
        """
        return any(hook.exceeds(guest) for hook in self._hooks)

    def owns(self, uuid: str) -> bool:
        """See :meth:`nova_isolation.hooks.base.Hook.owns`.

        :param uuid: of the domain
        :returns: whether any hook does
        """
        return any(hook.owns(uuid) for hook in self._hooks)

    def _words(self, verb: str, argument: object) -> tuple[str, ...]:
        # one that has nothing to say may say None
        said = [words or () for words in self._call(verb, argument)]
        return tuple(itertools.chain.from_iterable(said))

    def _call(
        self,
        verb: str,
        argument: object,
        failed: type[exceptions.IsolationError] = exceptions.HookFailed,
    ) -> list[Any]:
        """Call one verb of all hooks, in their order.

        A hook that fails counts as one that objects: a lost privileged helper,
        a full disk, a defect of ours; whatever it is, the guest was not
        confined, and Nova has to be told why.
        """
        results = []
        for hook in self._hooks:
            try:
                results.append(getattr(hook, verb)(argument))
            except exceptions.IsolationError:
                raise
            except Exception as e:
                name = type(hook).__name__
                LOG.exception('isolation: %s of %s failed', verb, name)
                raise failed(
                    f'{verb} of {name} failed: {type(e).__name__}: {e}'
                ) from e
        return results

    def release(self, uuid: str) -> list[Exception]:
        """Let every hook remove what it made, whatever the others do.

        :param uuid: of a domain that is gone
        :returns: what went wrong, already logged
        """
        errors: list[Exception] = []
        for hook in reversed(self._hooks):
            try:
                hook.release(uuid)
            except Exception as e:
                LOG.error(
                    'isolation: %s of the guest %s could not be removed: %s',
                    type(hook).__name__,
                    uuid,
                    e,
                )
                errors.append(e)
        return errors
