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

"""The runner against real programs: stestr, inlab.py and a fake pre-commit."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest

from tools.runner import report
from tools.runner import streams
from tools.runner import tiers

INLAB = pathlib.Path(tiers.__file__).with_name('inlab.py')

TESTS = """
    import os
    import signal
    import unittest

    class Test(unittest.TestCase):
        def test_passes(self):
            pass

        def test_fails(self):
            self.assertEqual(1, 2)

        def test_errs(self):
            raise RuntimeError('out of cheese')

        @unittest.skip('not today')
        def test_skipped(self):
            pass

        @unittest.expectedFailure
        def test_fails_as_expected(self):
            self.fail()

        @unittest.expectedFailure
        def test_passes_unexpectedly(self):
            pass
"""
OUTCOMES = {
    'test_passes': report.PASSED,
    'test_fails': report.FAILED,
    'test_errs': report.FAILED,
    'test_skipped': report.SKIPPED,
    'test_fails_as_expected': report.PASSED,
    'test_passes_unexpectedly': report.FAILED,
}
DIES = """
    import os
    import signal
    import unittest

    class Test(unittest.TestCase):
        def test_1_passes(self):
            pass

        def test_2_dies(self):
            os.kill(os.getpid(), signal.SIGKILL)
"""


class Base(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)
        scratch = self.root / 'scratch'
        scratch.mkdir()
        self.programs = streams.Programs(self.root, scratch)
        self.results = []

    def write(self, path, text):
        path = self.root / path
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))

    @property
    def outcomes(self):
        return {r.test.rsplit('.', 1)[-1]: r.status for r in self.results}

    def detail(self, test):
        (found,) = [r for r in self.results if r.test.endswith(test)]
        return found.detail


class TestSubunit(Base):
    def run_tests(self, text):
        self.write('suite/__init__.py', '')
        self.write('suite/test_it.py', text)
        (self.root / 'repository').mkdir()
        argv = [sys.executable, '-m', 'stestr.cli']
        argv += ['--repo-url', str(self.root / 'repository')]
        argv += ['--test-path', './suite', 'run', '--subunit']
        streams.run_subunit(
            self.programs,
            streams.Program('r', tuple(argv), {'PYTHONPATH': str(self.root)}),
            self.results.append,
        )

    def test_outcomes(self):
        self.run_tests(TESTS)
        self.assertEqual(OUTCOMES, self.outcomes)
        self.assertIn('AssertionError: 1 != 2', self.detail('test_fails'))
        self.assertIn('out of cheese', self.detail('test_errs'))
        self.assertIn('not today', self.detail('test_skipped'))

    def test_a_worker_that_dies_fails_the_test_it_ran(self):
        self.run_tests(DIES)
        self.assertEqual(report.PASSED, self.outcomes['test_1_passes'])
        self.assertEqual(report.FAILED, self.outcomes['test_2_dies'])

    def test_no_tests_is_a_failure(self):
        self.run_tests('')
        self.assertEqual([report.FAILED], [r.status for r in self.results])

    def test_a_module_that_cannot_be_imported_is_a_failure(self):
        self.run_tests('import no_such_module')
        self.assertEqual({report.FAILED}, set(self.outcomes.values()))
        text = '\n'.join(result.detail for result in self.results)
        self.assertIn('no_such_module', text)


class TestLab(Base):
    def run_tests(self, text, *wrapper):
        self.write('test_it.py', text)
        results = self.root / 'results.jsonl'
        argv = [*wrapper, sys.executable, str(INLAB), str(results), 'test_it']
        streams.run_lab(
            self.programs,
            streams.Program('r', tuple(argv), {'PYTHONPATH': str(self.root)}),
            results,
            self.results.append,
        )

    def test_outcomes(self):
        self.run_tests(TESTS)
        self.assertEqual(OUTCOMES, self.outcomes)
        self.assertIn('AssertionError: 1 != 2', self.detail('test_fails'))
        self.assertIn('out of cheese', self.detail('test_errs'))
        self.assertEqual('not today', self.detail('test_skipped'))

    def test_a_machine_that_dies_fails_the_test_it_ran(self):
        self.run_tests(DIES)
        self.assertEqual(report.PASSED, self.outcomes['test_1_passes'])
        self.assertEqual(report.FAILED, self.outcomes['test_2_dies'])
        self.assertIn('SIGKILL', self.detail('test_2_dies'))

    def test_a_class_that_cannot_be_set_up_is_a_failure(self):
        self.run_tests(
            """
            import unittest

            class Test(unittest.TestCase):
                @classmethod
                def setUpClass(cls):
                    raise RuntimeError('out of cheese')

                def test_it(self):
                    pass
            """
        )
        self.assertEqual([report.FAILED], [r.status for r in self.results])
        self.assertIn('out of cheese', self.results[0].detail)

    def test_sub_tests(self):
        self.run_tests(
            """
            import unittest

            class Test(unittest.TestCase):
                def test_it(self):
                    for i in range(4):
                        with self.subTest(number=i):
                            self.assertTrue(i % 2)
            """
        )
        self.assertEqual([report.FAILED], [r.status for r in self.results])
        self.assertIn('number=0', self.results[0].detail)
        self.assertIn('number=2', self.results[0].detail)

    def test_a_failed_lab_after_good_tests_is_a_failure(self):
        self.run_tests(
            """
            import unittest

            class Test(unittest.TestCase):
                def test_it(self):
                    pass
            """,
            '/bin/sh',
            '-c',
            '"$@"; echo console: panic; exit 125',
            'sh',
        )
        self.assertEqual(
            [report.PASSED, report.FAILED], [r.status for r in self.results]
        )
        self.assertEqual('r: exit status 125', self.results[1].test)
        self.assertIn('console: panic', self.results[1].detail)

    def test_a_program_that_is_not_there_is_a_failure(self):
        results = self.root / 'results.jsonl'
        program = streams.Program('r', ('/bin/false',))
        streams.run_lab(self.programs, program, results, self.results.append)
        self.assertEqual(['r: exit status 1'], [r.test for r in self.results])


class TestHooks(Base):
    def run_hooks(self, output, status):
        self.write('output', output)
        streams.run_hooks(
            self.programs,
            streams.Program(
                '', ('/bin/sh', '-c', f'cat output; exit {status}')
            ),
            self.results.append,
        )

    def test_outcomes(self):
        self.run_hooks(
            """\
            trailing whitespace.......................................Passed
            yaml..................................(no files to check)Skipped
            - hook id: yaml
            mypy......................................................Failed
            - hook id: mypy
            - exit code: 1

            a.py:1: error: Passed
            shellcheck................................................Passed
            """,
            1,
        )
        self.assertEqual(
            {
                'trailing whitespace': report.PASSED,
                'yaml': report.SKIPPED,
                'mypy': report.FAILED,
                'shellcheck': report.PASSED,
            },
            self.outcomes,
        )
        self.assertIn('a.py:1: error', self.detail('mypy'))

    def test_a_configuration_that_is_wrong_is_a_failure(self):
        self.run_hooks('An error has occurred: InvalidConfigError:\n', 3)
        self.assertEqual([report.FAILED], [r.status for r in self.results])
        self.assertIn('InvalidConfigError', self.results[0].detail)


class TestPrograms(Base):
    def test_a_program_is_ended_at_its_limit(self):
        program = streams.Program('r', ('/bin/sleep', '60'), limit=0.2)
        streams.run_lab(
            self.programs, program, self.root / 'none', self.results.append
        )
        self.assertEqual(['r: ended at its limit'], list(self.outcomes))

    def test_stop_ends_what_runs_with_its_children(self):
        program = streams.Program(
            'r', ('/bin/sh', '-c', 'sleep 60 & echo $! >child; wait')
        )
        thread = threading.Thread(target=self.programs.run, args=(program,))
        thread.start()
        child = self.root / 'child'
        while not (child.exists() and child.read_text().strip()):
            time.sleep(0.01)
        self.programs.stop()
        thread.join(10)
        self.assertFalse(thread.is_alive())
        pid = child.read_text().strip()
        self.assertFalse(pathlib.Path('/proc', pid, 'cmdline').exists())

    def test_nothing_starts_after_stop(self):
        self.programs.stop()
        ended = self.programs.run(streams.Program('r', ('/bin/true',)))
        self.assertEqual(-signal.SIGTERM, ended.status)


class TestSystemRuns(unittest.TestCase):
    def test_a_line_is_a_run_for_each_image(self):
        runs = tiers.read_system_runs(
            "# comment\nmain bookworm,trixie '--with nova --timeout 9' a.b c\n"
        )
        self.assertEqual(
            ['bookworm/main', 'trixie/main'], [run.title for run in runs]
        )
        self.assertEqual(
            ('--with', 'nova', '--timeout', '9'), runs[0].arguments
        )
        self.assertEqual(('a.b', 'c'), runs[0].modules)

    def test_with_nova_the_tests_run_beside_the_machine(self):
        (run,) = tiers.read_system_runs("main trixie '--with nova' a\n")
        argv = run.argv(pathlib.Path('/co'), pathlib.Path('/tmp/s'))
        self.assertEqual(
            [sys.executable, '-P', '/co/tools/runner/inlab.py'],
            argv[-5:-2],
        )
        self.assertEqual(['/tmp/s/results.jsonl', 'a'], argv[-2:])
        self.assertEqual('--', argv[-6])

    def test_without_nova_the_tests_run_on_the_machine(self):
        (run,) = tiers.read_system_runs("main trixie '' a\n")
        argv = run.argv(pathlib.Path('/co'), pathlib.Path('/tmp/s'))
        self.assertEqual(
            ['python3', '-P', '/src/tools/runner/inlab.py'],
            argv[-5:-2],
        )
        self.assertEqual(['/share/results.jsonl', 'a'], argv[-2:])
        self.assertEqual('--', argv[-6])

    def test_a_line_without_modules_is_refused(self):
        self.assertRaises(
            ValueError, tiers.read_system_runs, 'main trixie --with'
        )


class TestMain(unittest.TestCase):
    """The program as a whole, in a checkout of its own."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)
        tools = self.root / 'tools'
        tools.mkdir()
        (tools / '__init__.py').touch()
        (tools / 'runner').symlink_to(pathlib.Path(tiers.__file__).parent)
        (tools / 'allowed-skips.txt').touch()
        (tools / 'system-runs.txt').write_text(
            "fine one,two '--with nova' test_it\n"
        )
        # what the lab says of itself, without Nova
        checks = self.root / 'lab/checks'
        checks.mkdir(parents=True)
        (checks / '__init__.py').touch()
        (checks / 'test_itself.py').write_text(
            'import unittest\n'
            'class Test(unittest.TestCase):\n'
            '    def test(self): pass\n'
        )

    def write_lab(self, text):
        lab = self.root / 'lab/lab'
        lab.write_text('#!/bin/sh\n' + textwrap.dedent(text))
        lab.chmod(0o755)

    def start(self):
        # Not through the symlink: __main__ finds the checkout by its file.
        code = (
            'import pathlib, sys\n'
            'from tools.runner import __main__ as main\n'
            f'main.ROOT = pathlib.Path({str(self.root)!r})\n'
            "main.REPORT = main.ROOT / 'test-report.json'\n"
            "main.ALLOWED_SKIPS = main.ROOT / 'tools/allowed-skips.txt'\n"
            'sys.exit(main.main(sys.argv[1:]))\n'
        )
        return subprocess.Popen(
            [sys.executable, '-c', code, 'system'],
            cwd=self.root,
            env=os.environ | {'PYTHONPATH': str(self.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    GOOD = """
        [ "$1" = run ] || exit 0
        image=$3 share=$5
        echo '{"test": "t", "status": "passed", "detail": ""}' \\
            >>"$share/results.jsonl"
        """

    def test_good(self):
        self.write_lab(self.GOOD)
        process = self.start()
        output, _ = process.communicate(timeout=180)
        self.assertEqual(0, process.returncode, output)
        self.assertEqual('3 passed, 0 failed', output.splitlines()[-1])
        self.assertTrue((self.root / 'test-report.json').exists())

    def test_one_image_fails(self):
        self.write_lab(self.GOOD + '[ "$image" = one ] || exit 124')
        process = self.start()
        output, _ = process.communicate(timeout=180)
        self.assertEqual(1, process.returncode, output)
        self.assertIn('two/fine: exit status 124', output)
        self.assertEqual('3 passed, 1 failed', output.splitlines()[-1])

    def test_the_lab_cannot_be_built(self):
        self.write_lab('echo no space left; exit 1')
        process = self.start()
        output, _ = process.communicate(timeout=180)
        self.assertEqual(1, process.returncode, output)
        self.assertIn('no space left', output)
        self.assertEqual('1 passed, 2 failed', output.splitlines()[-1])

    def test_an_image_that_may_be_missing_is_skipped_by_name(self):
        (self.root / 'tools/allowed-skips.txt').write_text(
            'lab-build-two  it moves\n'
        )
        self.write_lab(
            '[ "$1 $2" != "build two" ] || { echo no mirror; exit 125; }\n'
            + textwrap.dedent(self.GOOD)
        )
        process = self.start()
        output, _ = process.communicate(timeout=180)
        self.assertEqual(0, process.returncode, output)
        self.assertIn('SKIPPED system lab-build-two', output)
        self.assertIn('not run: two/fine', output)
        self.assertIn('no mirror', output)
        self.assertRegex(output, r'\nsystem +3 +2 +0 +1 ')
        self.assertEqual('2 passed, 0 failed', output.splitlines()[-1])

    def test_an_image_that_must_be_there_fails_by_name(self):
        self.write_lab(
            '[ "$1 $2" != "build two" ] || exit 125\n'
            + textwrap.dedent(self.GOOD)
        )
        process = self.start()
        output, _ = process.communicate(timeout=180)
        self.assertEqual(1, process.returncode, output)
        self.assertIn('FAILED system lab-build-two', output)
        self.assertEqual('2 passed, 1 failed', output.splitlines()[-1])

    def test_an_interrupt_ends_the_lab_and_leaves_no_report(self):
        (self.root / 'test-report.json').write_text('{"ok": true}')
        self.write_lab('[ "$1" = run ] || exit 0; echo $$ >pid; sleep 60')
        process = self.start()
        path = self.root / 'pid'
        # both images' runs write it, and one may be ended while it does
        while not (path.exists() and (pid := path.read_text().strip())):
            time.sleep(0.01)
        process.terminate()
        output, _ = process.communicate(timeout=180)
        self.assertEqual(130, process.returncode, output)
        self.assertFalse(pathlib.Path('/proc', pid).exists())
        self.assertFalse((self.root / 'test-report.json').exists())
