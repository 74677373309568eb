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

"""A process that looks like another program, for tests of how one is found."""

import subprocess
import sys
from typing import Any
import unittest


def start(test: unittest.TestCase, *arguments: str) -> 'subprocess.Popen[Any]':
    """Start a process with a command line, which ends with the test.

    :param test: the test
    :param arguments: of its command line, after an interpreter's
    :returns: the process, running
    """
    process = subprocess.Popen(
        [
            sys.executable,
            '-c',
            'import sys; print(flush=True); sys.stdin.read()',
            *arguments,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    test.addCleanup(process.communicate)
    assert process.stdout is not None
    process.stdout.readline()
    return process
