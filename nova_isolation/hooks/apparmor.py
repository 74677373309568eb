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

"""The AppArmor hook: a profile of its own for each guest, and its proof."""

import contextlib
import hashlib
import os

from lxml import etree
from oslo_config import cfg
from oslo_log import log as logging

from nova_isolation.apparmor import grants
from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import parser as parser_module
from nova_isolation.apparmor import policy as policy_module
from nova_isolation.apparmor import proof
from nova_isolation.apparmor import rules
from nova_isolation import domain as domain_module
from nova_isolation import exceptions
from nova_isolation.hooks import base
from nova_isolation.hooks import helpers
from nova_isolation.hooks import withdrawn
from nova_isolation import hostfacts
from nova_isolation import images
from nova_isolation import neighbours
from nova_isolation import privileged
from nova_isolation import processes

LOG = logging.getLogger(__name__)

# How many overlaps a reason names.
_SHOWN = 3


class AppArmorHook(base.Hook):
    """Confines each guest by ``libvirt-<uuid>``, which is the whole policy."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__(conf)
        self._register = neighbours.Register()
        # of each guest what was last written for it, see _is_held()
        self._written: dict[str, privileged.Written] = {}
        self._withdrawn = withdrawn.Withdrawn()
        # who does not run yet, and has all that it asks for
        self._starting: set[str] = set()
        # the names of those that run
        self._running: dict[str, str] = {}
        # of each guest which block devices it had when it ran
        self._had: dict[str, dict[str, int]] = {}

    @property
    def _complain(self) -> bool:
        return bool(self.conf.isolation.mode == 'complain')

    def _path(self, uuid: str) -> str:
        return os.path.join(
            self.conf.isolation.profile_directory,
            policy_module.profile_name(uuid),
        )

    def check_host(self, host: base.Host) -> None:
        kernel.check_enabled()
        models = etree.fromstring(host.capabilities.encode()).findall(
            'host/secmodel/model'
        )
        if 'apparmor' not in [model.text for model in models]:
            raise exceptions.HostFault(
                'libvirtd runs without its AppArmor driver: set '
                'security_driver = "apparmor" in /etc/libvirt/qemu.conf and '
                'restart it'
            )
        try:
            # a start compiles the guest's profile, before anything of it runs
            privileged.probe(anew=not host.starting)
        except exceptions.IsolationError:
            raise
        except Exception as e:
            # oslo.privsep raises what it comes upon: a helper that is not
            # allowed, not there, or died
            raise exceptions.HostFault(
                f'the privileged helper of nova-isolation does not work: {e}: '
                'check [nova_isolation_privileged] helper_command and the '
                'sudoers or rootwrap rules'
            ) from e

    def define(self, xml: etree._Element) -> None:
        self.undefine(xml)
        # Without it libvirtd starts guests silently unconfined when it runs
        # without its AppArmor driver; with it, libvirtd itself refuses.
        etree.SubElement(
            xml, 'seclabel', type='dynamic', model='apparmor', relabel='yes'
        )

    def undefine(self, xml: etree._Element) -> None:
        for label in xml.findall('seclabel'):
            if label.get('model') == 'apparmor':
                xml.remove(label)

    def learn(self, domain: domain_module.Domain) -> None:
        self._learn(domain)

    def _learn(
        self, domain: domain_module.Domain
    ) -> tuple[neighbours.Resource, ...]:
        starting = domain.uuid in self._starting
        if domain.id is not None:
            self._had[domain.uuid] = _sequences(domain)
        found = self._granting(images.NOWHERE).resources(
            domain,
            starting=starting,
            had=self._had.get(domain.uuid, {}),
        )
        self._register.put(domain.uuid, found)
        self._running.pop(domain.uuid, None)
        if domain.id is not None:
            self._running[domain.uuid] = domain.name
            self._starting.discard(domain.uuid)
        elif starting and domain.uuid not in self._starting:
            # its start failed meanwhile
            return self._learn(domain)
        return found

    def forget(self, uuid: str) -> None:
        self._register.drop(uuid)
        self._running.pop(uuid, None)
        self._had.pop(uuid, None)
        self._written.pop(uuid, None)

    @property
    def _lenient(self) -> bool:
        """Whether helpers that libvirt leaves unconfined are reported."""
        reports = self.conf.isolation.unconfined_helpers == 'report'
        return bool(self._complain or reports)

    def judge(self, guest: base.Guest) -> None:
        self.foresee(guest)
        privileged.check_profile(self.policy(guest).to_wire())

    def prepare(self, guest: base.Guest) -> None:
        # those of a new process
        self._withdrawn.forget(guest.domain.uuid)
        policy = self._admit(guest)
        self._written[policy.uuid] = privileged.write_profile(policy.to_wire())

    def widen(self, guest: base.Guest) -> None:
        policy = self._admit(guest)
        # libvirt would load it, too, but hides whether it could
        self._note_lost(guest, policy)
        self._written[policy.uuid] = privileged.widen_profile(policy.to_wire())

    def _admit(self, guest: base.Guest) -> policy_module.Policy:
        """Compute what a guest may get, if it may have what it has."""
        check_stated(guest.domain)
        self.foresee(guest)
        if guest.domain.unknown:
            LOG.warning(
                'isolation: guest %s has what nova-isolation does not know '
                'and grants nothing for: %s',
                guest.domain.uuid,
                '; '.join(guest.domain.unknown),
            )
        policy = self.policy(guest)
        self._compare(guest.domain)
        return policy

    def foresee(self, guest: base.Guest) -> None:
        """Object to a guest that could not be proven once it runs.

        :param guest: as it will start, or as it runs
        :raises NotConfined: when nothing will confine a helper of it
        """
        if not self._lenient:
            helpers.foresee(guest.domain)

    def _note_lost(
        self, guest: base.Guest, policy: policy_module.Policy
    ) -> None:
        """Note what a guest that runs loses with another policy."""
        lost = policy_module.lost(self._profile(policy.uuid), policy)
        everybodys = (
            os.path.realpath(guest.directories.cache),
            *self.conf.isolation.shared_paths,
        )
        granting = self._granting(images.NOWHERE)
        self._withdrawn.note(
            policy.uuid,
            {
                path: origin
                for path, origin in lost.items()
                if not granting.is_common(path)
                and not neighbours.is_below(path, everybodys)
            },
            [policy_module.path_of(policy, grant) for grant in policy.files],
        )

    def _profile(self, uuid: str) -> str:
        with (
            contextlib.suppress(FileNotFoundError),
            open(self._path(uuid), encoding='utf-8') as f,
        ):
            return f.read()
        return ''

    def _compare(self, domain: domain_module.Domain) -> None:
        """Compare what a guest has with what all others have."""
        # known before it is compared: of two that start at once one sees
        # the other, whoever learns of it meanwhile
        if domain.id is None:
            self._starting.add(domain.uuid)
        mine = self._learn(domain)
        overlaps = self._register.overlaps(
            domain.uuid, mine, self.conf.isolation.shared_paths
        )
        if overlaps:
            self._object(
                f'guest {domain.uuid} and others have the same: '
                + '; '.join(
                    f'{o.mine.path} ({o.mine.origin}) is {o.theirs.path} '
                    f'({o.theirs.origin}) of guest {o.uuid}'
                    for o in overlaps[:_SHOWN]
                )
                + ': where that is meant, name it in [isolation] shared_paths'
            )

    def _object(self, reason: str) -> None:
        """Refuse in enforce mode, and only say so in complain mode."""
        if not self._complain:
            raise exceptions.NotSeparate(reason)
        LOG.warning('isolation: %s', reason)

    def narrow(self, guest: base.Guest) -> None:
        policy = self.policy(guest)
        self._note_lost(guest, policy)
        wire = policy.to_wire()
        self._written[policy.uuid] = privileged.narrow_profile(wire)

    def wait_closed(self, uuid: str) -> tuple[str, ...]:
        found = self._withdrawn.wait_closed(
            uuid, self.conf.isolation.close_timeout
        )
        if self._complain:
            self._withdrawn.forget(uuid)
        return found

    def exceeds(self, guest: base.Guest) -> bool:
        uuid = guest.domain.uuid
        profile = self._profile(uuid)
        if policy_module.surplus(profile, self.policy(guest)):
            return True
        name = policy_module.profile_name(uuid)
        if (
            uuid in self._written
            and kernel.is_loaded(name)
            and not self._is_held(uuid)
        ):
            # libvirt may have loaded what was there before it was narrowed
            LOG.warning(
                'isolation: guest %s: the kernel holds another policy under '
                '%s than its file compiles to: it is loaded again',
                uuid,
                name,
            )
            return True
        return False

    def verify(self, guest: base.Guest) -> tuple[str, ...]:
        options = self.conf.isolation
        domain = guest.domain
        profile = policy_module.profile_name(domain.uuid)
        process = processes.find(
            options.libvirt_runtime_directory, domain.name, domain.uuid
        )
        mode = 'complain' if self._complain else 'enforce'
        expected = f'{profile} ({mode})'
        labels = kernel.labels(process.pid)
        wrong = {n: label for n, label in labels.items() if label != expected}
        if wrong or process.pid not in labels:
            thread, label = next(iter(wrong.items()), (process.pid, 'gone'))
            raise exceptions.NotConfined(
                f'thread {thread} of the guest runs as {label!r} instead of '
                f'{expected!r}'
            )
        reported = helpers.check(
            domain,
            expected,
            options.libvirt_runtime_directory,
            lenient=self._lenient,
        )
        path = self._path(domain.uuid)
        if not self._is_held(domain.uuid):
            raise exceptions.NotConfined(
                f'the kernel holds another policy under {profile} than '
                f'{path} compiles to'
            )
        self._ask_kernel(guest)
        if not processes.is_same(process):
            raise exceptions.NotConfined(
                f'process {process.pid} of the guest ended during its check'
            )
        LOG.info(
            'isolation: guest %s: %d threads of process %d run as %s, the '
            'kernel holds just the policy of %s',
            domain.uuid,
            len(labels),
            process.pid,
            expected,
            path,
        )
        return reported

    def _is_held(self, uuid: str) -> bool:
        """Tell whether the kernel holds just what a guest's file compiles to.

        What the file compiles to is known without compiling it as long as its
        text is the one that was compiled when it was written, and the kernel
        holds what came out then. When one of both is not so (another parser
        has loaded it since, or somebody else), the parser decides.
        """
        options = self.conf.isolation
        profile, path = policy_module.profile_name(uuid), self._path(uuid)
        text, policy = self._written.get(uuid, ('', {}))
        if text == _digest(path) and kernel.holds(profile, policy):
            return True
        parser = parser_module.Parser(
            options.apparmor_parser, options.parser_timeout
        )
        return kernel.holds(profile, kernel.digests(parser.compile(path)))

    def _ask_kernel(self, guest: base.Guest) -> None:
        """Have the kernel itself say that no guest reaches another's.

        :param guest: as it runs, its policy loaded
        :raises NotSeparate: when it says otherwise
        """
        domain = guest.domain
        profile = policy_module.profile_name(domain.uuid)
        policy = self.policy(guest)
        mine = self._learn(domain)
        with kernel.Judge() as judge:
            for grant in policy.files:
                path = policy_module.path_of(policy, grant)
                allowed = judge.file(profile, path)
                if not grant.tree and allowed != grant.access.rstrip('k'):
                    self._object(
                        f'the kernel allows {allowed!r} of {path}, and '
                        f'the profile says {grant.access!r} ({grant.origin}): '
                        'a defect of nova-isolation, please report it'
                    )
            others = self._register.others(domain.uuid)
            shared = self.conf.isolation.shared_paths
            for reach in proof.reaches(
                judge, domain.uuid, mine, others, shared
            ):
                self._object(f'{reach.words()}, {self._why(reach, policy)}')
            own = [(domain.uuid, mine)]
            for other, theirs in others:
                for reach in proof.reaches(judge, other, theirs, own, shared):
                    if self.owns(other):
                        self._object(reach.words())
                        continue
                    # that guest is none of ours yet: refusing this one would
                    # leave both with a stock profile
                    LOG.warning(
                        'isolation: %s: it was started without '
                        'nova-isolation: restart it',
                        reach.words(),
                    )
        loaded = kernel.loaded()
        for other, name in self._running.copy().items():
            if (
                other != domain.uuid
                and policy_module.profile_name(other) not in loaded
                and self._runs(other, name)
            ):
                LOG.warning(
                    'isolation: guest %s runs beside guest %s without a '
                    'profile: it may reach everything that QEMU may: restart '
                    'it',
                    other,
                    domain.uuid,
                )

    def _runs(self, uuid: str, name: str) -> bool:
        """Tell whether a guest still has a process."""
        directory = self.conf.isolation.libvirt_runtime_directory
        try:
            processes.find(directory, name, uuid)
        except exceptions.NotConfined:
            return False
        return True

    def _why(self, reach: proof.Reach, policy: policy_module.Policy) -> str:
        """Tell which rule of ours lets a guest do what the kernel says."""
        for rule in policy_module.all_rules(
            policy, self.conf.isolation.libvirt_state_directory
        ):
            path = reach.resource.sample
            if isinstance(rule, rules.File) and rule.matches(path):
                return f'by the rule {rule.render(rules.Dialect())}'
        return 'by no rule of the profile: a defect of nova-isolation'

    def owns(self, uuid: str) -> bool:
        path = self._path(uuid)
        try:
            with open(path, encoding='utf-8', errors='replace') as f:
                return f.readline().rstrip() == policy_module.MARK
        except FileNotFoundError:
            return False

    def release(self, uuid: str) -> None:
        self._written.pop(uuid, None)
        self._withdrawn.forget(uuid)
        self._starting.discard(uuid)
        loaded = kernel.is_loaded(policy_module.profile_name(uuid))
        if not loaded and not os.path.lexists(self._path(uuid)):
            return
        if privileged.remove_profile(uuid):
            LOG.info('isolation: guest %s: profile removed', uuid)

    def policy(self, guest: base.Guest) -> policy_module.Policy:
        """Compute the policy of a guest from its domain and its disks.

        :param guest: as it will start or as it runs
        :returns: the policy
        :raises Refusal: when there is none for such a guest
        """
        unknown = self.conf.isolation.unknown_device == 'refuse'
        return policy_module.compute(
            guest.domain,
            self._granting(guest.directories).of(
                guest.domain, unknown=unknown
            ),
            complain=self._complain,
            restoring=guest.restoring,
        )

    def _granting(self, directories: images.Directories) -> grants.Granting:
        options = self.conf.isolation
        return grants.Granting(
            directories,
            hostfacts.HostFacts(),
            grants.Places.configured(options),
            connections=options.unix_connections == 'allow',
        )


def _digest(path: str) -> str | None:
    try:
        with open(path, 'rb') as f:
            return hashlib.file_digest(f, 'sha256').hexdigest()
    except FileNotFoundError:
        return None


def _sequences(domain: domain_module.Domain) -> dict[str, int]:
    """Number the block devices that a running guest has."""
    facts = hostfacts.HostFacts()
    found = {
        disk.path: facts.sequence(disk.path)
        for disk in domain.disks
        if disk.path
    }
    return {path: number for path, number in found.items() if number}


def check_stated(domain: domain_module.Domain) -> None:
    """Check that libvirt will not read the header of any disk.

    :param domain: as it will start
    :raises UntrustedImage: when it would
    """
    for disk in domain.disks:
        if disk.top.format == 'qcow2' and (
            disk.backing is None or disk.open_ended
        ):
            raise exceptions.UntrustedImage(
                f'the domain does not state the backing chain of disk '
                f'{disk.target}: reboot the server hard, which defines it anew'
            )
