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

"""The operator's command line on the compute node."""

import json

import lablib

from nova_isolation.tests.system import base
from nova_isolation.tests.system import cloud


def run(command, status=0):
    """Run ``nova-isolation`` on the compute node.

    :param command: its command and arguments
    :param status: the expected exit status
    :returns: what it printed
    """
    options = ' '.join(cloud.configuration())
    ended = lablib.guest(f'nova-isolation {options} {command}', timeout=120)
    assert ended.status == status, ended
    return ended.stdout


class CommandLineTest(base.PairTestCase):
    def test_matrix(self):
        guest, neighbour = self.first, self.second
        cloud.act(guest, 'pause', 'PAUSED')
        self.addCleanup(cloud.act, guest, 'unpause', 'ACTIVE')
        self.addCleanup(cloud.reload, guest)
        self.assertEqual([], json.loads(run('matrix -f json')))
        self.assertEqual([], json.loads(run('matrix --kernel -f json')))
        # a profile that reaches its neighbour, in the kernel alone
        cloud.widen(guest, f'{cloud.INSTANCES}/*/disk r,')
        (row,) = json.loads(
            run('matrix --kernel --svg /run/matrix.svg -f json', status=1)
        )
        self.assertEqual(guest, row['Guest'])
        self.assertEqual('first', row['Name'])
        self.assertEqual('r', row['Access'])
        self.assertEqual(f'{cloud.INSTANCES}/{neighbour}/disk', row['Path'])
        self.assertEqual(neighbour, row['Of'])
        self.assertIn('<svg', cloud.node('cat /run/matrix.svg'))
        # by what their XML names all is well
        self.assertEqual([], json.loads(run('matrix -f json')))

    def test_profile(self):
        guest, neighbour = self.first, self.second
        self.assertEqual(cloud.profile(guest), run(f'profile show {guest}'))
        own = f'{cloud.INSTANCES}/{guest}/disk'
        told = json.loads(run(f'profile explain first {own} -f json'))
        self.assertEqual('rwk', told['Allowed'])
        self.assertEqual('<disk> vda', told['Origins'])
        self.assertEqual('rw', told['Kernel'])
        other = f'{cloud.INSTANCES}/{neighbour}/disk'
        told = json.loads(
            run(f'profile explain first {other} -f json', status=1)
        )
        self.assertEqual('nothing', told['Allowed'])
        self.assertEqual('nothing', told['Kernel'])
        run('profile show no-such-guest', status=1)
