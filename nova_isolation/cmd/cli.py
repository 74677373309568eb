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

"""The program ``nova-isolation``."""

from collections.abc import Sequence
import sys
import warnings

from nova_isolation.cli import app

# oslo.privsep imports eventlet wherever it is installed, and eventlet warns.
warnings.filterwarnings('ignore', r'\s*Eventlet is deprecated')


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    :param argv: the arguments, by default those of the process
    :returns: the command's exit status
    """
    status = app.Application().run(
        list(sys.argv[1:] if argv is None else argv)
    )
    return int(status or 0)


if __name__ == '__main__':
    sys.exit(main())
