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

"""What a libvirt domain's XML gives a guest: typed, pure, without any I/O.

The format is libvirt's (https://libvirt.org/formatdomain.html), the elements
are those that Nova produces. What gives the guest nothing of the host is
listed as harmless where its element is read. What is neither understood nor
harmless is never dropped silently: it is named in :attr:`Domain.unknown`, and
who starts the guest decides.
"""

from nova_isolation.domain.model import Domain
from nova_isolation.domain.model import Instance
from nova_isolation.domain.model import is_uuid
from nova_isolation.domain.model import NOVA_NAMESPACE
from nova_isolation.domain.model import outline
from nova_isolation.domain.model import parse
from nova_isolation.domain.model import short_name
from nova_isolation.domain.model import UUID_RE
from nova_isolation.domain.reader import read_xml

__all__ = [
    'NOVA_NAMESPACE',
    'UUID_RE',
    'Domain',
    'Instance',
    'is_uuid',
    'outline',
    'parse',
    'read_xml',
    'short_name',
]
