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

"""The os_vif plugin installs a finder for one module, and nothing else."""

import ast
import importlib.metadata
import subprocess
import sys

from oslotest import base

from nova_isolation import bootstrap


class BootstrapTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        before = list(sys.meta_path)
        self.addCleanup(sys.meta_path.__setitem__, slice(None), before)
        sys.meta_path[:] = [
            f for f in before if not isinstance(f, bootstrap._Finder)
        ]

    def _finders(self):
        return [f for f in sys.meta_path if isinstance(f, bootstrap._Finder)]

    def test_it_is_an_os_vif_plugin(self):
        [entry] = importlib.metadata.entry_points(
            group='os_vif', name='isolation'
        )
        self.assertIs(bootstrap.IsolationPlugin, entry.load())

    def test_loading_it_twice_installs_one_finder(self):
        for _ in range(2):
            plugin = bootstrap.IsolationPlugin.load('isolation')
        self.assertEqual(1, len(self._finders()))
        # of last resort: a module of Nova's own with that name would win
        self.assertIs(self._finders()[0], sys.meta_path[-1])
        self.assertIsInstance(plugin, bootstrap.IsolationPlugin)

    def test_it_finds_nova_s_driver_and_nothing_else(self):
        bootstrap.IsolationPlugin.load('isolation')
        [finder] = self._finders()
        spec = finder.find_spec('nova.virt.isolation')
        self.assertEqual('nova.virt.isolation', spec.name)
        self.assertTrue(spec.origin.endswith('/nova_isolation/virt/entry.py'))
        for name in (
            'nova',
            'nova.virt',
            'nova.virt.libvirt',
            'nova.virt.isolation.driver',
            'isolation',
            'virt.isolation',
        ):
            self.assertIsNone(finder.find_spec(name), name)

    def test_it_serves_no_vif(self):
        plugin = bootstrap.IsolationPlugin.load('isolation')
        description = plugin.describe()
        self.assertEqual('isolation', description.plugin_name)
        self.assertEqual([], list(description.vif_info))
        self.assertRaises(NotImplementedError, plugin.plug, None, None)
        self.assertRaises(NotImplementedError, plugin.unplug, None, None)

    def test_it_imports_the_standard_library_and_os_vif(self):
        # stevedore would swallow an ImportError, and nova-compute start
        with open(bootstrap.__file__) as f:
            tree = ast.parse(f.read())
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {a.name.partition('.')[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom):
                self.assertEqual(0, node.level)
                names.add(node.module.partition('.')[0])
        self.assertEqual(set(), names - sys.stdlib_module_names - {'os_vif'})

    def test_a_process_that_uses_os_vif_gets_nothing_of_ours_but_that(self):
        # Ironic's and Neutron's processes, too
        program = (
            'import sys, os_vif\n'
            'os_vif.initialize()\n'
            'ours = [m for m in sys.modules if m.startswith("nova")]\n'
            'print(*sorted(ours))\n'
        )
        output = subprocess.run(
            [sys.executable, '-c', program],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        self.assertEqual('nova_isolation nova_isolation.bootstrap\n', output)
