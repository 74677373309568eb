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

"""Runs test modules inside the lab and writes their results as JSON lines.

The standard library alone, since the lab's images hold what Nova needs and no
test machinery. A line is written when a test starts and another when it ends,
so that a machine that hangs or dies still tells in which test.

Called as ``python3 inlab.py RESULTS MODULE...``.
"""

import json
import pathlib
import sys
import time
import typing
import unittest


class JsonResult(unittest.TextTestResult):
    """Writes each test's start and outcome to a file.

    :param path: the file, created when it is missing
    """

    def __init__(self, path: pathlib.Path, *args: typing.Any) -> None:
        super().__init__(*args)
        # Unbuffered: over hostfs a line is on the host when write returns.
        self._file = open(path, 'ab', buffering=0)
        self._started = 0.0
        self._outcome: tuple[str, str] | None = None

    def _write(self, test: unittest.TestCase, **fields: typing.Any) -> None:
        record = {'test': test.id(), **fields}
        self._file.write(json.dumps(record).encode() + b'\n')

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._started = time.monotonic()
        self._outcome = ('passed', '')
        self._write(test, status='started')

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        assert self._outcome is not None
        status, detail = self._outcome
        self._outcome = None
        seconds = round(time.monotonic() - self._started, 3)
        self._write(test, status=status, detail=detail, seconds=seconds)

    def _end(self, test: unittest.TestCase, status: str, detail: str) -> None:
        if self._outcome is None:
            # setUpClass or setUpModule: a pseudo-test that never started.
            self._write(test, status=status, detail=detail, seconds=0.0)
        elif self._outcome[0] == 'failed':
            # A test that failed and whose cleanup failed too tells both.
            self._outcome = ('failed', self._outcome[1] + '\n' + detail)
        else:
            self._outcome = (status, detail)

    def addError(self, test: typing.Any, err: typing.Any) -> None:
        super().addError(test, err)
        self._end(test, 'failed', self.errors[-1][1])

    def addFailure(self, test: typing.Any, err: typing.Any) -> None:
        super().addFailure(test, err)
        self._end(test, 'failed', self.failures[-1][1])

    def addSubTest(
        self, test: typing.Any, subtest: typing.Any, err: typing.Any
    ) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            failures = (
                self.failures
                if issubclass(err[0], test.failureException)
                else self.errors
            )
            detail = f'{subtest.id()}\n{failures[-1][1]}'
            self._end(test, 'failed', detail)

    def addSkip(self, test: typing.Any, reason: str) -> None:
        super().addSkip(test, reason)
        self._end(test, 'skipped', reason)

    def addUnexpectedSuccess(self, test: typing.Any) -> None:
        super().addUnexpectedSuccess(test)
        self._end(test, 'failed', 'passed, but was expected to fail')


def main(argv: list[str]) -> int:
    """Run the modules named on the command line.

    :returns: 0 when no test failed
    """
    path, *modules = argv
    suite = unittest.defaultTestLoader.loadTestsFromNames(modules)

    def result(*args: typing.Any) -> JsonResult:
        return JsonResult(pathlib.Path(path), *args)

    runner = unittest.TextTestRunner(
        stream=sys.stderr,
        verbosity=2,
        resultclass=typing.cast('type[JsonResult]', result),
    )
    return 0 if runner.run(suite).wasSuccessful() else 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
