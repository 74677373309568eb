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

import os
import pathlib
from unittest import mock

import fixtures
from oslo_config import cfg
from oslotest import base

from nova_isolation.apparmor import accesses
from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import needs
from nova_isolation.apparmor import policy
from nova_isolation.apparmor import rules
from nova_isolation.cli import app
from nova_isolation.cli.findings import Result
from nova_isolation.cli import host
from nova_isolation.cli import hostcheck
from nova_isolation.cli import preflight
from nova_isolation.cli import usage
from nova_isolation.conf import isolation
from nova_isolation import domain
from nova_isolation import processes
from nova_isolation.tests.unit import samples

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
OTHER = '8887d9d3-17f8-4388-8771-fab6312518d6'


class QemuConfTest(base.BaseTestCase):
    def problems(self, text, **options):
        conf = cfg.ConfigOpts()
        isolation.register_opts(conf)
        conf([])
        for name, value in options.items():
            conf.set_override(name, value, 'isolation')
            self.addCleanup(conf.clear_override, name, 'isolation')
        settings = hostcheck.read_settings(
            'security_driver = "apparmor"\n' + text
        )
        return list(hostcheck.disagreements(settings, conf.isolation))

    def test_its_format(self):
        self.assertEqual(
            {
                'a': ('x',),
                'b': ('1',),
                'c': ('y', 'z'),
                'd': (),
                'e': ("it's",),
            },
            hostcheck.read_settings(
                'a="x"\n b = 1 # why\nc = [\n  "y",\n  "z"\n]\nd = []\n'
                'e = "it\'s"\n#f = "off"\n'
            ),
        )

    def test_what_agrees(self):
        for text in (
            '',
            'vnc_tls = 0\nvnc_tls_x509_cert_dir = "/elsewhere"',
            'default_tls_x509_cert_dir = "/etc/pki/qemu/"',
            'stdio_handler = "logd"\nuser = "libvirt-qemu"',
            'memory_backing_dir = "/var/lib/libvirt/qemu/ram"',
        ):
            self.assertEqual([], self.problems(text), text)
        self.assertEqual(
            [],
            self.problems(
                'vnc_tls = 1', vnc_tls_directory='/etc/pki/libvirt-vnc'
            ),
        )

    def test_what_does_not(self):
        for text, *words in (
            ('security_driver = "none"', 'security_driver'),
            ('vnc_tls = 1', 'vnc_tls_directory'),
            (
                'nbd_tls_x509_cert_dir = "/x"',
                'nbd_tls_x509_cert_dir',
                'tls_directory',
            ),
            (
                'spice_tls = 1\nspice_tls_x509_cert_dir = "/x"',
                'spice_tls_directory',
            ),
            ('memory_backing_dir = "/x"', 'memory_backing_dir'),
            ('stdio_handler = "file"', 'logd'),
            ('vnc_sasl = 1', 'SASL'),
            ('user = "root"', 'capabilities'),
        ):
            found = self.problems(text)
            self.assertEqual(1, len(found), text)
            (problem,) = found
            for word in words:
                self.assertIn(word, problem)


class FilesTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.place = pathlib.Path(self.useFixture(fixtures.TempDir()).path)

    def test_rules_of_the_operator(self):
        local = self.place / 'local/abstractions/libvirt-qemu'
        local.parent.mkdir(parents=True)
        local.write_text('# a comment\n\n')
        self.assertEqual([], list(hostcheck.operators_rules(str(self.place))))
        local.write_text(
            '# mine\n' + ''.join(f'/srv/{n} r,\n' for n in range(7))
        )
        (found,) = hostcheck.operators_rules(str(self.place))
        self.assertEqual(Result.WARNING, found.result)
        self.assertEqual(str(local), found.what)
        self.assertIn('/srv/4 r, and 2 more', found.detail)

    def test_profiles_of_no_guest(self):
        for name, text in (
            (f'libvirt-{UUID}', policy.MARK),
            (f'libvirt-{OTHER}', policy.MARK),
            (f'libvirt-{OTHER[:-1]}1', ''),
            (f'libvirt-{OTHER[:-1]}2', 'profile x {}'),
            (f'libvirt-{OTHER}.files', 'rules'),
            ('TEMPLATE.qemu', 'profile'),
        ):
            (self.place / name).write_text(text)
        self.assertEqual(
            [
                (f'libvirt-{OTHER[:-1]}1', Result.NOTE),
                (f'libvirt-{OTHER[:-1]}2', Result.WARNING),
                (f'libvirt-{OTHER}', Result.NOTE),
            ],
            [
                (os.path.basename(found.what), found.result)
                for found in hostcheck.leftovers(str(self.place), {UUID})
            ],
        )


class CompareTest(base.BaseTestCase):
    def test_what_would_be_lost_and_what_is_denied_on_purpose(self):
        def file(path):
            return accesses.Access('file', path, frozenset('r'))

        policy_rules = [*needs.emulator(), *needs.noise()]
        found = list(
            preflight.compare(
                policy_rules,
                {
                    file('/dev/urandom'): 'recorded',
                    file('/proc/1/status'): 'recorded',
                    file('/tmp/x'): 'open now',
                },
                rules.Dialect(),
            )
        )
        self.assertEqual(
            [
                (Result.NOTE, 'file /proc/1/status: r'),
                (Result.LOST, 'file /tmp/x: r'),
            ],
            [(f.result, f.what) for f in found],
        )
        self.assertIn('open now', found[1].detail)


class GuestTest(base.BaseTestCase):
    """A guest that is off, on a host without its files."""

    def setUp(self):
        super().setUp()
        self.xml = samples.domain('libvirt-11.3-defined')
        self.conf = cfg.ConfigOpts()
        app.register_opts(self.conf)
        place = self.useFixture(fixtures.TempDir()).path
        self.conf([])
        self.conf.set_override('instances_path', place)
        for name, value in (
            ('profile_directory', place),
            ('unknown_device', 'report'),
        ):
            self.conf.set_override(name, value, 'isolation')
            self.addCleanup(self.conf.clear_override, name, 'isolation')
        self.examination = preflight.Examination(
            self.conf, place, rules.Dialect(), usage.Recorded()
        )

    def found(self, xml, *overlaps):
        definition = host.Definition(UUID, xml, False, None)
        return [
            (found.result, f'{found.what}: {found.detail}')
            for found in self.examination.of(definition, overlaps)
        ]

    def test_all_that_is_in_its_way_is_named(self):
        xml = self.xml.replace('<target dev=', '<made-up/><target dev=', 1)
        (refused, missing), (warned, unknown), (also, other) = self.found(
            xml, 'the disk of another'
        )
        self.assertEqual(
            (Result.REFUSED, Result.WARNING, Result.REFUSED),
            (refused, warned, also),
        )
        self.assertIn('its next start: ', missing)
        self.assertIn('<made-up>', unknown)
        self.assertEqual('not its own: the disk of another', other)

    def test_a_guest_that_is_none_of_nova_s(self):
        start = self.xml.index('<metadata>')
        end = self.xml.index('</metadata>')
        ((result, _),) = self.found(self.xml[:start] + self.xml[end + 11 :])
        self.assertEqual(Result.NOTE, result)

    def test_a_domain_that_cannot_be_understood(self):
        ((result, detail),) = self.found('<domain/>')
        self.assertEqual(Result.REFUSED, result)
        self.assertIn('uuid', detail)


class HelpersTest(base.BaseTestCase):
    def found(self, label, mode='enforce'):
        """What is found of a guest whose virtiofsd has a label."""
        conf = cfg.ConfigOpts()
        isolation.register_opts(conf)
        conf([])
        conf.set_override('mode', mode, 'isolation')
        self.addCleanup(conf.clear_override, 'mode', 'isolation')
        examination = preflight.Examination(
            conf, '/', rules.Dialect(), usage.Recorded()
        )
        own, pid = f'libvirt-{UUID} (enforce)', os.getpid()
        process = processes.Process(pid, processes._started(pid))
        helper = processes.Helper(
            'virtiofsd', '<filesystem> a', process, False
        )
        with (
            mock.patch.object(processes, 'helpers', return_value=(helper,)),
            mock.patch.object(
                kernel,
                'labels',
                side_effect=lambda asked: {
                    asked: label if asked == pid else own
                },
            ),
        ):
            return list(examination._labels(domain.Domain(UUID, 'i', 7), 1))

    def test_a_helper_that_nothing_confines(self):
        note, refused = self.found('unconfined')
        self.assertIn(f'libvirt-{UUID} (enforce)', note.detail)
        self.assertEqual(Result.REFUSED, refused.result)
        self.assertIn('virtiofsd of <filesystem> a', refused.detail)

    def test_in_complain_mode_it_is_reported(self):
        _, warned = self.found('unconfined', 'complain')
        self.assertEqual(Result.WARNING, warned.result)

    def test_a_helper_that_something_confines(self):
        self.assertEqual(1, len(self.found('virtiofsd (enforce)')))
