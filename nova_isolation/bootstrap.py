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

"""Makes ``compute_driver = isolation.LibvirtDriver`` importable.

Nova imports its driver as ``nova.virt.<compute_driver>``, after os_vif has
loaded its plugins: so this is an os_vif plugin, which plugs nothing and
installs a finder for that one module name. A missing or broken nova-isolation
therefore means that nova-compute does not start.

It is loaded in every process that uses os_vif: it reads no option and raises
nothing. An ImportError of this module would be swallowed by stevedore, so it
imports nothing but the standard library and os_vif.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys

from os_vif.objects import host_info
from os_vif import plugin

_NAME = 'nova.virt.isolation'
_FILE = os.path.join(os.path.dirname(__file__), 'virt', 'entry.py')


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module that Nova's compute_driver names."""

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _NAME:
            return None
        return importlib.util.spec_from_file_location(fullname, _FILE)


class IsolationPlugin(plugin.PluginBase):
    """An os_vif plugin without any vif."""

    @classmethod
    def load(cls, plugin_name: str) -> 'IsolationPlugin':
        """Install the finder.

        :param plugin_name: the entry point's name
        :returns: the plugin
        """
        if not any(isinstance(f, _Finder) for f in sys.meta_path):
            sys.meta_path.append(_Finder())
        loaded: IsolationPlugin = super().load(plugin_name)
        return loaded

    def describe(self) -> host_info.HostPluginInfo:
        """Tell os_vif that there is no vif for this plugin.

        :returns: an empty description
        """
        return host_info.HostPluginInfo(plugin_name='isolation', vif_info=[])

    def plug(self, vif: object, instance_info: object) -> None:
        """Never called: there is no vif for this plugin."""
        raise NotImplementedError

    def unplug(self, vif: object, instance_info: object) -> None:
        """Never called: there is no vif for this plugin."""
        raise NotImplementedError
