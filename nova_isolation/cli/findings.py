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

"""What ``nova-isolation preflight`` has found."""

import dataclasses
import enum


class Result(enum.Enum):
    """What a finding means, the worst at the end."""

    OK = 'ok'
    NOTE = 'note'
    #: could not be found out by this user, or now
    UNCHECKED = 'unchecked'
    #: guests start, and are less well off than they could be
    WARNING = 'warning'
    #: the guest would lose something that it has used
    LOST = 'lost'
    #: the guest would not start
    REFUSED = 'refused'
    #: no guest would start on this host
    FAULT = 'fault'


@dataclasses.dataclass(frozen=True)
class Finding:
    """One finding, of the host or of a guest.

    :ivar what: was looked at, or found
    :ivar detail: the evidence, the cause, the way out
    """

    result: Result
    what: str
    detail: str
