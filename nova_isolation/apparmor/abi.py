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

"""The feature ABI that our profiles name: what they have the kernel mediate.

What an ABI does not list is not mediated, whatever the kernel could do. The
distributions' own files lag behind (none has io_uring), and ``<kernel>`` would
change what running guests may do with the next kernel. So the file is ours:
the features of Linux 7.2 and, where Ubuntu's kernels have more, theirs. A
parser passes over what it or its kernel does not know.

A changed list takes a new name: the kernel's policy of a running guest is
compared with what its file compiles to now.
"""

import importlib.resources

_RESOURCE = 'abi-1'

#: The file's name, beside the profiles.
NAME = 'nova-isolation-abi-1'


def text() -> str:
    """Give the file's content.

    :returns: features as apparmor_parser(8) reads them
    """
    here = importlib.resources.files('nova_isolation.apparmor')
    return (here / _RESOURCE).read_text()
