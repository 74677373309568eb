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

"""What the README promises of a run, by runs."""

import concurrent.futures
import pathlib
import subprocess
import tempfile
import unittest

LAB = pathlib.Path(__file__).parents[1] / 'lab'
# of Nova's start on a machine with other runs, seconds
LIMIT = 400


def run(*arguments: str) -> 'subprocess.CompletedProcess[str]':
    """Run the lab's command."""
    return subprocess.run(
        [LAB, 'run', *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


class RunTest(unittest.TestCase):
    def share(self) -> pathlib.Path:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return pathlib.Path(directory.name)

    def test_output_and_exit_status_are_the_commands(self) -> None:
        script = (
            'echo "to $1"; echo error >&2; id -u; cat /share/given; '
            'touch /src/made 2>/dev/null && echo written; '
            'python3 -c "import nova_isolation" && command -v nova-isolation; '
            'echo "from $1" > /share/made; exit "$1"'
        )
        shares = {status: self.share() for status in ('7', '0')}
        for share in shares.values():
            (share / 'given').write_text('given\n')
        # at once: they do not meet
        with concurrent.futures.ThreadPoolExecutor() as pool:
            runs = {
                status: pool.submit(
                    run,
                    *('--share', str(share), '--'),
                    *('sh', '-c', script, 'sh', status),
                )
                for status, share in shares.items()
            }
        for status, share in shares.items():
            ended = runs[status].result()
            self.assertEqual(int(status), ended.returncode, ended)
            self.assertEqual(
                [f'to {status}', '0', 'given', '/lab/bin/nova-isolation'],
                ended.stdout.splitlines(),
            )
            self.assertIn('error\n', ended.stderr)
            made = (share / 'made').read_text()
            self.assertEqual(f'from {status}\n', made)

    def test_a_run_that_hangs_is_ended_and_its_console_named(self) -> None:
        ended = run('--timeout', '15', '--', 'sleep', '600')
        self.assertEqual(124, ended.returncode, ended)
        [console] = {
            word.rstrip(':;,')
            for word in ended.stderr.split()
            if word.rstrip(':;,').endswith('console.log')
        }
        self.assertIn('Linux version', pathlib.Path(console).read_text())

    def test_the_programs_beside_nova(self) -> None:
        script = (
            'lab-server list; '
            'lab-compute "echo there; exit 3"; echo $?; '
            'lab-controller status mariadb; echo $?; '
            'test -n "$LAB_API" && test -d "$LAB_SHARE"'
        )
        ended = run(
            *('--with', 'nova', '--glance', 'stub', '--', 'sh', '-c', script)
        )
        self.assertEqual(0, ended.returncode, ended)
        lines = ended.stdout.splitlines()
        self.assertEqual('[]', lines[0])
        self.assertEqual(['there', '3'], lines[1:3])
        self.assertEqual('0', lines[-1])
