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

"""The attack matrix: what a captured QEMU tries, and what comes of it.

Each attempt is data: a row of the table of its class, which names an action.
An action is done by hostile code, as QEMU's user, and observed from outside.
``matrix`` does them all on the compute node; ``observe`` adds what needs the
cloud; ``publish`` writes the result of all runs into the tree.

Everything that runs on the compute node uses the standard library alone.
"""
