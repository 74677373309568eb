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

"""``nova-isolation profile``: what a guest's profile says, and why."""

import argparse
import os

from cliff import command
from cliff import show

from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import policy
from nova_isolation.apparmor import rules
from nova_isolation.cli import app
from nova_isolation.cli import host
from nova_isolation import exceptions
from nova_isolation.violations import text

_GUEST = "the guest: its uuid, libvirt's name, or its project's name of it"


class _ProfileCommand(command.Command):
    """What the commands about one guest's profile share."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument('guest', metavar='GUEST', help=_GUEST)
        return parser

    def read(self, wanted: str) -> tuple[host.Guest, str]:
        """Read the profile's file.

        :param wanted: the guest, as the operator calls it
        :returns: the guest and the text
        :raises ForeignProfile: when there is none of ours
        """
        conf = app.configuration(self.app)
        guest = host.find(host.guests(conf)[0], wanted)
        path = os.path.join(
            conf.isolation.profile_directory, policy.profile_name(guest.uuid)
        )
        try:
            with open(path, encoding='utf-8', errors='replace') as f:
                content = f.read()
        except OSError as e:
            raise exceptions.ForeignProfile(
                f'guest {guest.uuid} has no profile: {path}: {e.strerror}: '
                'it gets one at its next start by Nova'
            ) from e
        if not content.startswith(policy.MARK):
            raise exceptions.ForeignProfile(
                f'{path} was not written by nova-isolation: guest '
                f'{guest.uuid} gets a profile at its next start by Nova'
            )
        return guest, content


class Show(_ProfileCommand):
    """Print a guest's profile; comments tell where each rule comes from."""

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        _, content = self.read(parsed_args.guest)
        self.app.stdout.write(content)
        return 0


class Explain(show.ShowOne, _ProfileCommand):
    """Tell whether a guest may reach a path, by which rule, and why.

    Exit status 0 when the profile allows anything, 1 when it does not.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument('path', metavar='PATH', help='an absolute path')
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        self.allowed = ''
        super().run(parsed_args)
        return 0 if self.allowed else 1

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        guest, content = self.read(parsed_args.guest)
        path = rules.check_path(parsed_args.path)
        found = [
            rule for rule in policy.read_files(content) if rule.matches(path)
        ]
        denied = {c for rule in found if rule.deny for c in rule.letters}
        granted = {c for rule in found if not rule.deny for c in rule.letters}
        self.allowed = ''.join(
            c for c in ('r', 'w', 'm', 'k', 'ix') if c in granted - denied
        )
        return (
            ('Guest', 'Path', 'Allowed', 'Rules', 'Origins', 'Kernel'),
            (
                guest.uuid,
                text.visible(path),
                self.allowed or 'nothing',
                '\n'.join(rule.render(rules.Dialect()) for rule in found),
                '\n'.join(rule.origin for rule in found),
                self._kernel(guest, path),
            ),
        )

    @staticmethod
    def _kernel(guest: host.Guest, path: str) -> str:
        profile = policy.profile_name(guest.uuid)
        if not kernel.is_loaded(profile):
            return 'the profile is not loaded: the guest does not run'
        with kernel.Judge() as judge:
            return judge.file(profile, path) or 'nothing'
