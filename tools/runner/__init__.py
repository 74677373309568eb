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

"""Runs the tiers of tests and says what came of them.

``tools/run-tests.sh`` prepares the machine and then starts this package with
the environment's Python. ``tiers`` knows what belongs to a tier, ``streams``
starts the programs and reads their results, ``report`` judges and prints them,
``inlab`` is the part that runs inside the lab.
"""
