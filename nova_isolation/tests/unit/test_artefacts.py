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

"""What an operator installs beside the package lets the package work."""

import ast
import configparser
import os
import pathlib
import re
import shlex
import sys
import tomllib

from oslo_privsep import priv_context
from oslotest import base

from nova_isolation.apparmor import kernel
from nova_isolation.audit import kmsg
from nova_isolation.conf import agent as agent_options
from nova_isolation import privileged

ROOT = pathlib.Path(__file__).parents[3]
ETC = ROOT / 'etc' / 'nova-isolation'
SOCKET = '/tmp/tmpab_c1/privsep.sock'
# as the guide sets helper_command
HELPER = 'privsep-helper --config-file /etc/nova/nova.conf'
TWO_FILES = f'{HELPER} --config-file /etc/nova/nova-compute.conf'
BAD = (
    '--config-file /tmp/x.conf',
    '--privsep_context os_brick.privileged.default',
)


def command(helper, more=''):
    """What the privileged helper is started with, without sudo."""
    context = privileged.context
    assert isinstance(context, priv_context.PrivContext)
    return shlex.split(
        f'{helper} {more} --privsep_context {context.pypath} '
        f'--privsep_sock_path {SOCKET}'
    )


class SudoTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        [rule] = [
            line
            for line in (ETC / 'sudoers').read_text().splitlines()
            if line.startswith('nova ')
        ]
        program, _, arguments = rule.rpartition('NOPASSWD: ')[2].partition(' ')
        self.assertEqual('/usr/bin/privsep-helper', program)
        self.arguments = re.compile(arguments)

    def test_the_helper_of_the_guide_is_started(self):
        arguments = ' '.join(command(HELPER)[1:])
        self.assertTrue(self.arguments.search(arguments), arguments)

    def test_another_one_is_not(self):
        for more in BAD:
            arguments = ' '.join(command(HELPER, more)[1:])
            self.assertIsNone(self.arguments.search(arguments), arguments)


class RootwrapTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        text = (ETC / 'rootwrap.d' / 'nova-isolation.filters').read_text()
        self.filters = []
        for line in text.splitlines():
            kind, separator, words = line.partition(': RegExpFilter, ')
            if separator and not kind.startswith('#'):
                self.filters.append(words.split(', '))

    def accepts(self, words):
        # as oslo.rootwrap's RegExpFilter does
        return any(
            len(patterns) == len(words)
            and all(
                re.match(f'{pattern}$', word)
                for pattern, word in zip(patterns, words, strict=True)
            )
            for _, user, *patterns in self.filters
            if user == 'root'
        )

    def test_the_helper_of_the_guide_is_started(self):
        self.assertTrue(self.accepts(command(HELPER)))
        self.assertTrue(self.accepts(command(TWO_FILES)))

    def test_another_one_is_not(self):
        for more in BAD:
            self.assertFalse(self.accepts(command(HELPER, more)))


class PackageTest(base.BaseTestCase):
    def test_the_feature_abi_is_part_of_it(self):
        # read as a resource: a wheel has to hold it
        project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
        data = project['tool']['setuptools']['package-data']['nova_isolation']
        found = {
            path.name for path in (ROOT / 'nova_isolation').glob('*/abi*')
        }
        self.assertEqual(
            {name for name in found if '.' not in name},
            {os.path.basename(path) for path in data} - {'py.typed'},
        )


class UnitTest(base.BaseTestCase):
    """etc/systemd/nova-isolation-agent.service takes nothing that is used."""

    def setUp(self):
        super().setUp()
        text = (
            ROOT / 'etc' / 'systemd' / 'nova-isolation-agent.service'
        ).read_text()
        unit = configparser.ConfigParser(
            strict=False, delimiters='=', interpolation=None
        )
        unit.optionxform = str
        unit.read_string(text)
        self.service = unit['Service']
        self.lists = {}
        for name, value in re.findall(r'^(\w+)=(.*)$', text, re.M):
            self.lists.setdefault(name, []).extend(value.split())

    def test_its_program_is_ours(self):
        project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
        program = pathlib.PurePath(self.lists['ExecStart'][0]).name
        self.assertIn(program, project['project']['scripts'])

    def test_its_rights_are_those_that_are_used(self):
        used = ['CAP_AUDIT_READ', 'CAP_SYSLOG']
        self.assertEqual(used, self.lists['AmbientCapabilities'])
        self.assertEqual(used, self.lists['CapabilityBoundingSet'])
        self.assertIn('AF_NETLINK', self.lists['RestrictAddressFamilies'])

    def test_it_may_ask_the_kernel_what_a_profile_grants(self):
        self.assertIn(f'-{kernel._ACCESS}', self.lists['ReadWritePaths'])

    def test_the_kernels_log_and_the_links_of_volumes_are_there(self):
        self.assertEqual([kmsg.PATH, 'r'], self.lists['DeviceAllow'])
        for taking in ('PrivateDevices', 'ProtectKernelLogs'):
            self.assertFalse(self.service.getboolean(taking, False), taking)

    def test_the_journal_is_in_its_directory(self):
        (option,) = (
            o for o in agent_options.OPTS if o.dest == 'journal_directory'
        )
        (directory,) = self.lists['StateDirectory']
        self.assertEqual(f'/var/lib/{directory}', option.default)


class RequirementsTest(base.BaseTestCase):
    # a distribution that is not called like its module
    NAMES = {'libvirt': 'libvirt-python'}  # noqa: RUF012

    @staticmethod
    def plain(name):
        return re.sub(r'[-_.]+', '-', name).lower()

    def imported(self):
        for path in (ROOT / 'nova_isolation').rglob('*.py'):
            if 'tests' in path.relative_to(ROOT).parts:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    yield node.module

    def test_all_that_is_imported_has_a_lower_bound_and_a_version(self):
        modules = {name.partition('.')[0] for name in self.imported()}
        # nova is there already, and never a requirement
        modules -= {*sys.stdlib_module_names, 'nova', 'nova_isolation'}
        wanted = {self.plain(self.NAMES.get(m, m)) for m in modules}
        bounded = {
            self.plain(name)
            for name in re.findall(
                r'^([A-Za-z0-9.-]+)(?:\[.*\])?>=[0-9]',
                (ROOT / 'requirements.txt').read_text(),
                re.M,
            )
        }
        pinned = re.findall(
            r'^([a-z0-9-]+)==', (ROOT / 'constraints.txt').read_text(), re.M
        )
        self.assertEqual(set(), wanted - bounded)
        self.assertEqual(set(), bounded - set(pinned))
