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

"""``nova-isolation``: the operator's command line on a compute node."""

import argparse
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from cliff import app
from cliff import commandmanager
from oslo_config import cfg
import pbr.version

from nova_isolation.conf import isolation as options
from nova_isolation import exceptions

#: entry points of the commands; an underscore stands for a space
NAMESPACE = 'nova_isolation.cli'

# Nova's own options, of which we take what its files say.
_NOVA = [
    cfg.StrOpt('state_path', default='/var/lib/nova'),
    cfg.StrOpt('instances_path', default='$state_path/instances'),
    cfg.StrOpt('rootwrap_config', default='/etc/nova/rootwrap.conf'),
]
_CACHE = cfg.StrOpt(
    'subdirectory_name',
    default='_base',
    deprecated_name='image_cache_subdirectory_name',
    deprecated_group='DEFAULT',
)
_VOLUMES = cfg.StrOpt('nfs_mount_point_base', default='$state_path/mnt')


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register our options and those of Nova that the commands read.

    :param conf: the configuration they are added to
    """
    options.register_opts(conf)
    conf.register_opts(_NOVA)
    conf.register_opt(_CACHE, group='image_cache')
    conf.register_opt(_VOLUMES, group='libvirt')


class _Commands(commandmanager.CommandManager):
    """Loads the command that is asked for: cliff loads all of them.

    What one of them needs takes longer than most of the others do.
    """

    def load_commands(self, namespace: str) -> None:
        self.group_list.append(namespace)
        for point in metadata.entry_points(group=namespace):
            self.commands[point.name.replace('_', ' ')] = point


class Application(app.App):
    """The program, with the configuration that its commands read."""

    def __init__(self) -> None:
        super().__init__(
            description='What confines the guests of this compute node.',
            version=pbr.version.VersionInfo('nova-isolation').version_string(),
            command_manager=_Commands(NAMESPACE),
            deferred_help=True,
        )
        # the one that oslo.privsep reads
        self.conf = cfg.CONF

    def build_option_parser(
        self, *args: Any, **kwargs: Any
    ) -> argparse.ArgumentParser:
        """Add our options to cliff's.

        :returns: the parser of what stands before the command
        """
        parser: argparse.ArgumentParser = super().build_option_parser(
            *args, **kwargs
        )
        parser.add_argument(
            '--config-file',
            action='append',
            metavar='FILE',
            help='a configuration file, repeatable; default those of nova',
        )
        return parser

    def initialize_app(self, argv: Sequence[str]) -> None:
        """Read the configuration.

        :param argv: the command and its arguments
        :raises ConfigurationError: when it cannot be read
        """
        register_opts(self.conf)
        try:
            self.conf(
                [],
                project='nova',
                prog='nova-compute',
                default_config_files=self.options.config_file,
            )
            for option in options.OPTS:
                self.conf.isolation[option.name]
        except (cfg.Error, ValueError) as e:
            raise exceptions.ConfigurationError(str(e)) from e


def configuration(application: object) -> cfg.ConfigOpts:
    """Give the configuration to a command.

    :param application: cliff's view of the program
    :returns: what :class:`Application` has read
    """
    assert isinstance(application, Application)
    return application.conf
