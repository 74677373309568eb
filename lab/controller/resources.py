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

"""What is there when a run's command starts: the same ids in every run."""

FLAVOR = '1'
IMAGE = '656d7074-0000-4000-8000-000000000001'
IMAGE_FILE = '/var/lib/lab/empty.qcow2'
NETWORK = '6e657477-0000-4000-8000-000000000001'
