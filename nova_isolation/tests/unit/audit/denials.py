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

"""Records for tests, from the text that the kernel writes."""

from nova_isolation.audit import records


def apparmor(body, profile, verdict='DENIED'):
    """Read a record of AppArmor.

    :param body: what follows its profile
    """
    record = records.parse(
        records.AVC,
        f'audit(1795424098.237:52): apparmor="{verdict}" '
        f'profile="{profile}" pid=780 comm="qemu" {body}'.encode(),
    )
    assert isinstance(record, records.Record), record
    return record


def selinux(line):
    """Read a record of SELinux.

    :param line: from ``audit(`` on
    """
    record = records.parse(records.AVC, line.encode())
    assert isinstance(record, records.Record), record
    return record
