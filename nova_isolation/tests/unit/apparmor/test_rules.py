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

"""Each rule renders to one line, and a text stands only for itself."""

import os

import ddt
import fixtures
import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_isolation.apparmor import parser
from nova_isolation.apparmor import rules
from nova_isolation import exceptions
from nova_isolation.tests.unit.apparmor import compiled
from nova_isolation.tests.unit import fuzzing

PARSER = parser.Parser('/usr/sbin/apparmor_parser', 30)
PLAIN = rules.Dialect()
#: what means something to AppArmor, or to whoever reads a profile
SPECIAL = '*?[]{}^,\\"@#$!|+().-: \'`<>=~%&;'


class RulesTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.directory = self.useFixture(fixtures.TempDir()).path

    def compile(self, *lines):
        """Compile a profile of these lines with the real parser."""
        path = os.path.join(self.directory, 'profile')
        with open(path, 'w', encoding='utf-8') as f:
            f.write('abi <abi/3.0>,\nprofile p {\n')
            f.writelines(f'  {line}\n' for line in lines)
            f.write('}\n')
        return compiled.Files(PARSER.compile(path))


class CompiledTest(RulesTestCase):
    """The other tests here believe this reading of the automaton."""

    def test_it_says_what_the_language_says(self):
        files = self.compile(
            '/a r,',
            '/b rwk,',
            '/c/* w,',
            '/d/** rm,',
            '/e rmix,',
            '/f rw,',
            'deny /f w,',
            'owner /g r,',
        )
        for path, access in (
            ('/a', 'r'),
            ('/b', 'wrk'),
            ('/c/x', 'w'),
            ('/c/x/y', ''),
            ('/d/x/y', 'rm'),
            ('/e', 'xrm'),
            ('/f', 'r'),
            ('/g', ''),
            ('/', ''),
            ('', ''),
            ('/ab', ''),
        ):
            self.assertEqual(access, files.access(path), path)


@ddt.ddt
class PathTest(RulesTestCase):
    def _granted(self, path):
        line = rules.File((path,), 'rw', 'test').render(PLAIN)
        self.assertNotIn('\n', line)
        # with neighbours, which an unbalanced quote would swallow
        return self.compile('"/before" r,', line, '"/after" r,')

    def _assert_only(self, path, *others):
        files = self._granted(path)
        self.assertEqual('wr', files.access(path), path)
        self.assertEqual('r', files.access('/before'))
        self.assertEqual('r', files.access('/after'))
        for other in others:
            if other != path:
                self.assertEqual('', files.access(other), (path, other))

    @ddt.data(
        ('/i/a b[1]/disk', '/i/a b1/disk'),
        ('/i/*', '/i/x'),
        ('/i/**', '/i/x/y'),
        ('/i/?', '/i/x'),
        ('/i/a?', '/i/a', '/i/'),
        ('/i/[a]', '/i/a'),
        ('/i/[^a]', '/i/b'),
        ('/i/{a,b}', '/i/a', '/i/b'),
        ('/i/\\', '/i/'),
        ('/i/\\*', '/i/x', '/i/*'),
        ('/i/\\052', '/i/*'),
        ('/i/\\x2a', '/i/*'),
        ('/i/"', '/i/'),
        ('/i/" rw, /** rw, "', '/i/'),
        ('/i/@{PROC}/x', '/i//proc/x', '/i/proc/x'),
        ('/i/@{unknown}', '/i/'),
        ('/i/${X}', '/i/'),
        ('/i/#include <x>', '/i/'),
        ('/i/ ', '/i/', '/i'),
        ('/i/,', '/i/'),
        ('/i/ü', '/i/u', '/i/Ã¼'),
        ('/i/\u2028x', '/i/x', '/i/'),
        ('/i/\U0001f600', '/i/'),
        ('/', '/x'),
        ('/' + 'x' * 4094, '/' + 'x' * 4093),
    )
    def test_a_text_stands_only_for_itself(self, case):
        self._assert_only(*case)

    @hypothesis.settings(max_examples=60, derandomize=True)
    @hypothesis.given(
        strategies.text(
            strategies.one_of(
                strategies.sampled_from(SPECIAL + '/ab'),
                strategies.characters(),
            ),
            max_size=24,
        ),
        strategies.data(),
    )
    def test_any_text_is_refused_or_stands_only_for_itself(self, text, data):
        path = '/i/' + text
        try:
            rules.check_path(path)
        except exceptions.InvalidPolicy:
            # and then it is not rendered either
            self.assertRaises(
                exceptions.InvalidPolicy,
                rules.File((path,), 'rw', 'test').render,
                PLAIN,
            )
            return
        # what a pattern of these letters could match
        others = [path + 'x', path[:-1], '/i/', '/i/x', '/i/ab']
        for special in SPECIAL:
            others += [path.replace(special, new) for new in ('', 'x', 'a/b')]
        at = data.draw(strategies.integers(3, len(path)))
        others += [path[:at] + 'x' + path[at:], path[:at] + path[at + 1 :]]
        others = [other for other in others if '\0' not in other and other]
        self._assert_only(path, *others)

    @ddt.data(
        '',
        'relative',
        './x',
        '~/x',
        '/a/',
        '/a//b',
        '//a',
        '//',
        '/a/./b',
        '/a/../b',
        '/..',
        '/a\0',
        '/a\n',
        '/a\r/b',
        '/a\tb',
        '/a\x7f',
        '/a\x1b[0m',
        '/a\udcff',
        '/' + 'x' * 4095,
        '/' + 'ü' * 2048,
    )
    def test_what_cannot_be_granted_literally(self, path):
        error = self.assertRaises(
            exceptions.InvalidPolicy, rules.check_path, path
        )
        self.assertIn(repr(path[:80])[:-1], error.message)
        self.assertNotIn('\n', error.message)

    def _compiled_and_read(self, *path):
        """A rule as the parser compiles it, and as we read it."""
        rule = rules.File(path, 'r', '')
        files = self.compile(rule.render(PLAIN))

        def check(granted, *others):
            for name in (granted, *others):
                expected = 'r' if name == granted else ''
                self.assertEqual(expected, files.access(name), name)
                self.assertEqual(bool(expected), rule.matches(name), name)

        return check

    def test_digits_are_one_to_seven_of_them(self):
        check = self._compiled_and_read('/d-', rules.Glob.DIGITS, '-*')
        wrong = [
            f'/d-{digits}-*'
            for digits in ('', '12345678', 'x', '1x', '1/2', '-1')
        ]
        for digits in ('0', '42', '1234567'):
            check(f'/d-{digits}-*', '/d-1-x', *wrong)

    def test_a_glob_is_within_a_component(self):
        check = self._compiled_and_read('/d/', rules.Glob.ANY)
        check('/d/x', '/d/x/y', '/d/', '/d', '/dx')
        check = self._compiled_and_read('/d/a', rules.Glob.ANY)
        check('/d/a', '/d/a/', '/d/b')
        check('/d/ax')

    def test_a_tree_is_all_below(self):
        check = self._compiled_and_read('/d/', rules.Glob.TREE)
        check('/d/x', '/dx', '/d/', '/d')
        check('/d/x/y')

    def test_a_directory_ends_in_a_slash(self):
        check = self._compiled_and_read('/d/e', rules.Glob.DIRECTORY)
        check('/d/e/', '/d/e', '/d/e/f')

    def test_what_is_handed_over_is_here_or_outside(self):
        check = self._compiled_and_read(
            '/', rules.Glob.HANDED_OVER, 'dev/net/tun'
        )
        check('/dev/net/tun', '/disconnecteddev/net/tun', '/x/dev/net/tun')
        check('/disconnected/dev/net/tun')

    def test_a_text_is_read_literally(self):
        check = self._compiled_and_read('/i/a*[b].')
        check('/i/a*[b].', '/i/axb.', '/i/a*[b]x')


class ReadTest(base.BaseTestCase):
    """What was rendered can be read back."""

    @hypothesis.settings(max_examples=200, derandomize=True)
    @hypothesis.given(
        strategies.lists(
            strategies.one_of(
                strategies.text(
                    strategies.one_of(
                        strategies.sampled_from(SPECIAL + '/ab'),
                        strategies.characters(min_codepoint=32),
                    ),
                    min_size=1,
                    max_size=12,
                ),
                strategies.sampled_from(
                    [rules.Glob.ANY, rules.Glob.TREE, rules.Glob.DIGITS]
                ),
            ),
            max_size=5,
        ),
        strategies.sampled_from(['r', 'rwk', 'rm', 'rmix', 'w']),
        strategies.booleans(),
        strategies.booleans(),
    )
    def test_any_rule(self, parts, access, directory, deny):
        path = ['/i/x']
        for part in parts:
            if isinstance(part, str) and isinstance(path[-1], str):
                path[-1] += part
            elif isinstance(part, str) or isinstance(path[-1], str):
                path.append(part)
        if directory:
            path.append(rules.Glob.DIRECTORY)
        rule = rules.File(tuple(path), access, 'why', deny=deny)
        try:
            line = rule.render(PLAIN)
        except exceptions.InvalidPolicy:
            return
        self.assertEqual(rule, rules.read_file(line, 'why'))

    def test_what_is_handed_over(self):
        path = ('/', rules.Glob.HANDED_OVER, 'dev/net/tun')
        rule = rules.File(path, 'rw', '')
        self.assertEqual(rule, rules.read_file(rule.render(PLAIN), ''))

    def test_another_line_is_no_such_rule(self):
        for line in ('', '}', 'network inet stream,', '# "/x" r,', '"/x" r'):
            self.assertIsNone(rules.read_file(line, ''))

    def test_a_rule_of_somebody_else(self):
        for line in ('"/x{a,b}" r,', '"/x\\*" r,', '"/@{HOME}" r,'):
            self.assertRaises(
                exceptions.InvalidPolicy, rules.read_file, line, ''
            )


class CoverageGuidedTest(fuzzing.CoverageGuided, base.BaseTestCase):
    """What leads to new branches of the encoder is tried further."""

    fuzzer = 'nova_isolation.tests.unit.apparmor.fuzzer'
    runs = 20000


@ddt.ddt
class RenderTest(RulesTestCase):
    @ddt.data(
        (rules.File(('/x',), 'r', ''), '"/x" r,'),
        (rules.File(('/x',), 'rmix', ''), '"/x" rmix,'),
        (rules.File(('/x',), 'w', '', deny=True), 'deny "/x" w,'),
        (rules.Capability('setuid', ''), 'capability setuid,'),
        (rules.Network('inet', 'stream', ''), 'network inet stream,'),
        (
            # this dialect does not tell them apart
            rules.Network('inet', 'stream', '', ('listen',)),
            'network inet stream,',
        ),
        (
            rules.Network('netlink', 'raw', '', deny=True),
            'deny network netlink raw,',
        ),
        (
            rules.Unix(('send', 'receive'), '', 'libvirtd'),
            'unix (send, receive) type=stream peer=(label=libvirtd),',
        ),
        (rules.Unix(('create',), ''), 'unix (create) type=stream,'),
        (
            rules.Signal('receive', '/usr/sbin/libvirtd', ''),
            'signal (receive) peer=/usr/sbin/libvirtd,',
        ),
        (
            rules.Ptrace('readby', 'unconfined', ''),
            'ptrace (readby) peer=unconfined,',
        ),
    )
    @ddt.unpack
    def test_a_rule_is_one_line_that_compiles(self, rule, line):
        self.assertEqual(line, rule.render(PLAIN))
        self.compile('/some r,', line)

    @ddt.data(
        rules.File(('/x',), '', ''),
        rules.File(('/x',), 'a', ''),
        rules.File(('/x',), 'ux', ''),
        rules.File(('/x',), 'rPx', ''),
        rules.File(('/x',), 'x', ''),
        rules.File(('/x',), 'r,\n/** rw', ''),
        rules.File(('/x',), 'R', ''),
        rules.Capability('sys_admin,\ncapability', ''),
        rules.Capability('', ''),
        rules.Network('inet', 'stream,\n/** rw', ''),
        rules.Network('', 'stream', ''),
        rules.Network('inet', 'stream', '', ('listen) inet,',)),
        rules.Unix(('create)',), ''),
        rules.Unix(('create',), '', 'x),\n/** rw'),
        rules.Unix(('create',), '', '**'),
        rules.Signal('receive', '*', ''),
        rules.Signal('receive', '', ''),
        rules.Signal('', 'unconfined', ''),
        rules.Ptrace('readby', '@{x}', ''),
        rules.Ptrace('readby', 'a b', ''),
    )
    def test_a_value_that_is_no_keyword(self, rule):
        rich = rules.Dialect(network_operations=True)
        self.assertRaises(exceptions.InvalidPolicy, rule.render, rich)

    def test_operations_where_they_are_told_apart(self):
        rich = rules.Dialect(network_operations=True)
        rule = rules.Network('inet', 'stream', '', ('bind', 'listen'))
        self.assertEqual(
            'network (bind, listen) inet stream,', rule.render(rich)
        )
