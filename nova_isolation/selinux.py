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

"""What the kernel says of SELinux."""

from nova_isolation import exceptions

ENFORCE = '/sys/fs/selinux/enforce'


def enforcing() -> bool | None:
    """Tell whether SELinux enforces.

    :returns: None when this kernel runs without it
    :raises HostFault: when the kernel does not tell
    """
    try:
        with open(ENFORCE) as f:
            return f.read().strip() == '1'
    except FileNotFoundError:
        return None
    except OSError as e:
        raise exceptions.HostFault(
            f'whether SELinux enforces is not known: {ENFORCE}: {e.strerror}. '
            'Let this process read it (policy: security_t; unit: whether it '
            'hides /sys)'
        ) from e
