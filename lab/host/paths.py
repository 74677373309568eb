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

"""Where the lab's own files are, and where it keeps what it builds."""

import os
import pathlib

LAB = pathlib.Path(__file__).resolve().parent.parent
CHECKOUT = LAB.parent


def cache() -> pathlib.Path:
    """The directory of everything that is built, and of the runs' logs."""
    base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    return pathlib.Path(base) / 'nova-isolation' / 'lab'
