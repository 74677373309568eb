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

"""What every profile denies quietly, and runs with noquiet record."""

import re

_MEANT = re.compile(
    'name="/proc/[0-9]+/(status|mounts|cmdline)"|family="netlink"'
    '|name="[^"]*/monitor.sock"|lttng-ust-wait'
    '|name="/usr/lib/[^/]*/sasl2/"|family="unix" sock_type="dgram"'
    '|name="/proc/[0-9]+/task/[0-9]+/comm"'
)


def is_meant(record: str) -> bool:
    """Tell whether a denial is one that has its reason in the profile.

    :param record: the kernel's
    :returns: see :mod:`nova_isolation.apparmor.needs`
    """
    return bool(_MEANT.search(record))
