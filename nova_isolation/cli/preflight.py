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

"""``nova-isolation preflight``: what switching on would do, before it is."""

import argparse
from collections.abc import Collection, Iterator
import contextlib
import dataclasses
import os
import sys
import tempfile

from cliff import lister
from lxml import etree
from oslo_config import cfg

from nova_isolation.apparmor import abi
from nova_isolation.apparmor import accesses
from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import policy as policy_module
from nova_isolation.apparmor import profiles
from nova_isolation.apparmor import rules
from nova_isolation import chains
from nova_isolation.cli import app
from nova_isolation.cli.findings import Finding
from nova_isolation.cli.findings import Result
from nova_isolation.cli import host
from nova_isolation.cli import hostcheck
from nova_isolation.cli import matrix
from nova_isolation.cli import usage
from nova_isolation import domain as domain_module
from nova_isolation import exceptions
from nova_isolation.hooks import apparmor as apparmor_hook
from nova_isolation.hooks import base
from nova_isolation.hooks import helpers
from nova_isolation import processes
from nova_isolation.violations import text

_AUDIT_LOG = '/var/log/audit/audit.log'
_HOST = 'host'
_HELPERS = 'its helper processes'
_SHOWN = 1024


class Preflight(lister.Lister):
    """Show what nova-isolation would do on this host; change nothing.

    The host's checks; and for each guest whether it would start, what of it
    is not covered, and what it has used that its profile would not grant: by
    audit records, and by what its QEMU holds open now. Exit status 0 when all
    is well, 1 when a guest would be refused or denied something, 2 when the
    host cannot confine any.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            '--audit-log',
            action='append',
            metavar='FILE',
            help="audit records, repeatable; auditd's, the journal's or "
            f"dmesg's; - for the standard input; default {_AUDIT_LOG} where "
            'it is',
        )
        parser.add_argument(
            '--profiles',
            metavar='DIR',
            help='write the profiles that the guests would get into this '
            'directory',
        )
        parser.add_argument(
            '--user',
            default='nova',
            help='the user of nova-compute, default nova',
        )
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        self.worst = Result.OK
        super().run(parsed_args)
        if self.worst is Result.FAULT:
            return 2
        return 1 if self.worst in (Result.REFUSED, Result.LOST) else 0

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        conf = app.configuration(self.app)
        rows: list[tuple[str, ...]] = []
        order = list(Result)
        for uuid, name, finding in _all(conf, parsed_args):
            self.worst = max(self.worst, finding.result, key=order.index)
            rows.append(
                (
                    uuid,
                    text.visible(name),
                    finding.result.value,
                    text.visible(finding.what, _SHOWN),
                    text.visible(finding.detail, _SHOWN),
                )
            )
        return ('Guest', 'Name', 'Result', 'What', 'Detail'), rows


def _all(
    conf: cfg.ConfigOpts, arguments: argparse.Namespace
) -> Iterator[tuple[str, str, Finding]]:
    """Find everything.

    :param conf: with our options and Nova's
    :param arguments: of the command
    :returns: for each finding the guest's uuid and name, or the host
    """
    try:
        guests, _ = host.guests(conf)
        capabilities, definitions = host.definitions(conf)
    except exceptions.HostFault as e:
        yield _HOST, '', Finding(Result.FAULT, 'libvirtd', e.message)
        return
    known = {definition.uuid for definition in definitions}
    for finding in hostcheck.check(conf, capabilities, known, arguments.user):
        yield _HOST, '', finding
    recorded = usage.Recorded()
    for finding in _read_logs(recorded, arguments.audit_log):
        yield _HOST, '', finding
    starting = []
    for definition in definitions:
        # what cannot be read is said of the guest
        with contextlib.suppress(exceptions.InvalidDomain):
            starting.append(
                host.read(
                    conf,
                    definition.starting,
                    # its volumes are those of the next start, too
                    starting=definition.running is not None,
                )
            )
    overlaps: dict[str, list[str]] = {}
    for reach in matrix.by_xml(
        starting, conf.isolation.shared_paths, others=guests
    ):
        overlaps.setdefault(reach.uuid, []).append(reach.words())
    names = {guest.uuid: guest.name for guest in guests}
    with contextlib.ExitStack() as stack:
        try:
            examination = Examination(
                conf,
                stack.enter_context(_directory(arguments.profiles)),
                hostcheck.parser_of(conf).find_dialect(),
                recorded,
            )
        except exceptions.IsolationError:
            # said by the host's checks
            return
        for definition in sorted(
            definitions, key=lambda d: (names.get(d.uuid, ''), d.uuid)
        ):
            uuid = definition.uuid
            for finding in examination.of(definition, overlaps.get(uuid, [])):
                yield uuid, names.get(uuid, ''), finding


def _read_logs(
    recorded: usage.Recorded, logs: list[str] | None
) -> Iterator[Finding]:
    for path in logs or [_AUDIT_LOG]:
        try:
            if path == '-':
                recorded.read(sys.stdin.buffer)
            else:
                with open(path, 'rb') as f:
                    recorded.read(f)
        except OSError as e:
            why = f'{e.strerror}: name another with --audit-log'
            yield Finding(Result.UNCHECKED, path, why)
        else:
            count = sum(len(found) for found in recorded.used.values())
            yield Finding(
                Result.NOTE,
                path,
                f'{count} different accesses by {len(recorded.used)} guests '
                'are recorded that were allowed',
            )
    if recorded.unparsable or recorded.dropped:
        yield Finding(
            Result.WARNING,
            'audit records',
            f'{recorded.unparsable} could not be read, {recorded.dropped} '
            'were too many for one guest',
        )


@contextlib.contextmanager
def _directory(wanted: str | None) -> Iterator[str]:
    """Give the directory for profiles, with the ABI that they name."""
    with contextlib.ExitStack() as stack:
        if wanted is None:
            wanted = stack.enter_context(tempfile.TemporaryDirectory())
        directory = os.path.abspath(wanted)
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, abi.NAME), 'w') as f:
            f.write(abi.text())
        yield directory


@dataclasses.dataclass(frozen=True)
class Examination:
    """Looks at the guests of this host.

    :ivar conf: with our options and Nova's
    :ivar directory: for the profiles
    :ivar dialect: of the installed AppArmor
    :ivar recorded: what the guests have done
    """

    conf: cfg.ConfigOpts
    directory: str
    dialect: rules.Dialect
    recorded: usage.Recorded

    def of(
        self, definition: host.Definition, overlaps: Collection[str]
    ) -> Iterator[Finding]:
        """Look at one guest.

        :param definition: of the guest
        :param overlaps: what it has of others, in words
        :returns: the findings
        """
        try:
            domain = domain_module.parse(definition.starting)
        except exceptions.InvalidDomain as e:
            yield Finding(Result.REFUSED, 'its domain', e.message)
            return
        if domain.instance == domain_module.Instance():
            yield Finding(
                Result.NOTE, 'the guest', 'is none of Nova: left alone'
            )
            return
        policy = None
        try:
            policy = self._starting(definition)
            by = profiles.writer(self._path(definition.uuid))
        except exceptions.Refusal as e:
            yield Finding(Result.REFUSED, 'its next start', e.message)
        except exceptions.HostFault as e:
            yield Finding(Result.FAULT, 'its next start', e.message)
        else:
            yield Finding(
                Result.OK,
                'its next start',
                f'{len(policy.files)} files, needs: '
                f'{", ".join(policy.needs) or "none"}; the file of its '
                f'profile is by {by.value}',
            )
        if self.conf.isolation.unknown_device == 'report':
            for name in domain.unknown:
                yield Finding(Result.WARNING, 'unknown', name)
        for words in overlaps:
            yield Finding(self._objection, 'not its own', words)
        yield from self._used(definition, policy)

    def _path(self, uuid: str) -> str:
        return os.path.join(
            self.conf.isolation.profile_directory,
            policy_module.profile_name(uuid),
        )

    def _describe(self, xml: str) -> base.Guest:
        instances = self.conf.instances_path
        cache = os.path.join(
            instances, self.conf.image_cache.subdirectory_name
        )
        volumes = self.conf.libvirt.nfs_mount_point_base
        return base.describe(xml, instances, cache, volumes)

    def _starting(self, definition: host.Definition) -> policy_module.Policy:
        """Compute the policy that the next start would get, and compile it.

        :raises Refusal: when the start would be refused
        """
        hook = apparmor_hook.AppArmorHook(self.conf)
        guest = self._describe(definition.starting)
        if definition.saved:
            guest = dataclasses.replace(guest, restoring=True)
        else:
            # what is not complete, Nova's next start completes
            root = domain_module.read_xml(definition.starting)
            chains.state(root, guest.directories)
            hook.define(root)
            complete = etree.tostring(root, encoding='unicode')
            guest = self._describe(complete)
        apparmor_hook.check_stated(guest.domain)
        hook.foresee(guest)
        policy = hook.policy(guest)
        path = os.path.join(self.directory, policy.profile)
        with open(path, 'w', encoding='utf-8') as f:
            f.write(
                policy_module.render(
                    policy,
                    abi=os.path.join(self.directory, abi.NAME),
                    dialect=self.dialect,
                    state_directory=(
                        self.conf.isolation.libvirt_state_directory
                    ),
                    monitors=self.conf.isolation.monitoring_labels,
                )
            )
        hostcheck.parser_of(self.conf).compile(path)
        return policy

    @property
    def _objection(self) -> Result:
        """What becomes of a guest that is not separate or not confined."""
        if self.conf.isolation.mode == 'complain':
            return Result.WARNING
        return Result.REFUSED

    @property
    def _runtime(self) -> str:
        return str(self.conf.isolation.libvirt_runtime_directory)

    def _labels(
        self, domain: domain_module.Domain, pid: int
    ) -> Iterator[Finding]:
        """Look at the labels of a running guest and of its helpers."""
        labels = sorted(set(kernel.labels(pid).values()))
        yield Finding(
            Result.NOTE,
            'the running guest',
            f'process {pid} runs as {", ".join(labels)}',
        )
        try:
            # those that libvirt labels have the guest's
            reported = helpers.check(
                domain,
                labels[0] if labels else '',
                self._runtime,
                lenient=self.conf.isolation.unconfined_helpers == 'report',
            )
        except exceptions.NotConfined as e:
            yield Finding(self._objection, _HELPERS, e.message)
        else:
            for words in reported:
                yield Finding(Result.NOTE, _HELPERS, words)

    def _used(
        self,
        definition: host.Definition,
        starting: policy_module.Policy | None,
    ) -> Iterator[Finding]:
        """Compare what the guest has used with what it would be granted."""
        start = [] if starting is None else self._rules(starting)
        run: list[rules.Rule] = []
        opened: frozenset[accesses.Access] = frozenset()
        if definition.running is not None:
            try:
                running = self._describe(definition.running)
                # as it would be if it had been started with it
                policy = apparmor_hook.AppArmorHook(self.conf).policy(running)
                run = self._rules(policy)
                pid = processes.find(
                    self._runtime, running.domain.name, definition.uuid
                ).pid
                yield from self._labels(running.domain, pid)
                # libvirt's lock, which QEMU inherits and never touches
                lock = os.path.realpath(
                    os.path.join(self._runtime, f'{running.domain.name}.pid')
                )
                opened = frozenset(
                    access
                    for access in usage.of_process(pid)
                    if access.name != lock
                )
            except (exceptions.IsolationError, OSError) as e:
                yield Finding(Result.UNCHECKED, 'what it holds open', str(e))
        if not start and not run:
            return
        # a start needs what the guest has no longer when it runs
        recorded = self.recorded.used.get(definition.uuid, set()) - opened
        yield from compare(
            start + run, dict.fromkeys(recorded, 'recorded'), self.dialect
        )
        yield from compare(
            run or start, dict.fromkeys(opened, 'open now'), self.dialect
        )

    def _rules(self, policy: policy_module.Policy) -> list[rules.Rule]:
        return policy_module.all_rules(
            policy,
            self.conf.isolation.libvirt_state_directory,
            self.conf.isolation.monitoring_labels,
        )


def compare(
    granting: list[rules.Rule],
    used: dict[accesses.Access, str],
    dialect: rules.Dialect,
) -> Iterator[Finding]:
    """Compare what was used with what a policy grants.

    :param granting: its rules
    :param used: {what was done: how that is known}
    :param dialect: of the installed AppArmor
    :returns: what would be lost
    """
    for access, evidence in sorted(
        used.items(), key=lambda item: item[0].words()
    ):
        answer = accesses.judge(granting, access, dialect)
        if not answer.missing:
            continue
        missing = dataclasses.replace(access, wanted=answer.missing)
        if answer.quietly:
            yield Finding(
                Result.NOTE, missing.words(), '; '.join(answer.quietly)
            )
        else:
            yield Finding(
                Result.LOST,
                missing.words(),
                f'{evidence}: its profile would not grant it',
            )
