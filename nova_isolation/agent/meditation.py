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

"""The guru meditation report: what the agent does, on SIGUSR2.

All threads with their stacks, the configuration without its secrets, and the
agent's own state go to the standard error stream, which is the systemd
journal, or into ``[oslo_reports] log_dir``.
"""

from collections.abc import Callable
from typing import Any

from oslo_config import cfg
from oslo_reports.generators import conf as conf_generator
from oslo_reports import guru_meditation_report
from oslo_reports.models import with_default_views
from oslo_reports import opts


class _Version:
    """As oslo.reports wants to be told."""

    def __init__(self, version: str) -> None:
        self._version = version

    def vendor_string(self) -> str:
        return 'nova-isolation'

    def product_string(self) -> str:
        return 'nova-isolation-agent'

    def version_string_with_package(self) -> str:
        return self._version


def install(
    conf: cfg.ConfigOpts,
    program: str,
    version: str,
    state: Callable[[], dict[str, Any]],
) -> None:
    """Have SIGUSR2 write a report; in the main thread, also before a fork.

    :param conf: the configuration
    :param program: names the report's file
    :param version: of the program
    :param state: tells the agent's state, without waiting
    """
    opts.set_defaults(conf)
    report = guru_meditation_report.TextGuruMeditation
    report.register_section(
        'Agent', lambda: with_default_views.ModelWithDefaultViews(state())
    )
    report.register_section(
        'Configuration of the agent',
        conf_generator.ConfigReportGenerator(conf),
    )
    report.setup_autorun(
        _Version(version), program, log_dir=conf.oslo_reports.log_dir
    )
