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

import fcntl
import os
import pathlib
import tempfile
import unittest

from host import cache


class DigestTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.file = pathlib.Path(directory.name) / 'recipe'
        self.file.write_text('one')

    def test_the_same_recipe_has_the_same_key(self):
        self.assertEqual(
            cache.digest('trixie', self.file),
            cache.digest('trixie', self.file),
        )

    def test_the_content_of_a_file_counts(self):
        before = cache.digest('trixie', self.file)
        self.file.write_text('two')
        self.assertNotEqual(before, cache.digest('trixie', self.file))

    def test_the_image_counts(self):
        self.assertNotEqual(
            cache.digest('trixie', self.file),
            cache.digest('bookworm', self.file),
        )

    def test_where_a_file_is_does_not_count(self):
        before = cache.digest(self.file)
        elsewhere = self.file.parent / 'elsewhere'
        elsewhere.mkdir()
        moved = self.file.rename(elsewhere / self.file.name)
        self.assertEqual(before, cache.digest(moved))


class CacheTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)
        self.builds = []

    def layer(self, key='1', build=None):
        def make(work, logs):
            self.builds.append(key)
            (work / 'content').write_text(key)

        return cache.Layer('thing', key, build or make)

    def names(self):
        return {p.name for p in self.root.iterdir() if p.name != cache.LOCKS}

    def use(self, layer, used):
        """Obtain a layer in a process that is gone, at a given time."""
        pid = os.fork()
        if pid == 0:
            cache.Cache(self.root).obtain(layer)
            os._exit(0)
        self.assertEqual(0, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os.utime(self.root / layer.directory, (used, used))

    def test_a_layer_is_built_once(self):
        for _ in range(2):
            path = cache.Cache(self.root).obtain(self.layer())
        self.assertEqual('1', (path / 'content').read_text())
        self.assertEqual(['1'], self.builds)

    def test_a_failed_build_is_not_taken_for_a_layer(self):
        def fail(work, logs):
            (work / 'content').write_text('half')
            raise RuntimeError

        with self.assertRaises(RuntimeError):
            cache.Cache(self.root).obtain(self.layer(build=fail))
        self.assertNotIn('thing-1', self.names())
        path = cache.Cache(self.root).obtain(self.layer())
        self.assertEqual('1', (path / 'content').read_text())

    def test_what_an_interrupted_build_left_is_removed(self):
        (self.root / 'thing-1.tmp').mkdir()
        cache.Cache(self.root).prune()
        self.assertEqual(set(), self.names())

    def test_a_build_under_way_is_not_removed(self):
        store = cache.Cache(self.root)
        (self.root / 'thing-1.tmp').mkdir()
        with open(self.root / cache.LOCKS / 'thing-1', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            store.prune()
        self.assertIn('thing-1.tmp', self.names())

    def test_the_versions_used_last_stay(self):
        for age, key in enumerate('dcba'):
            self.use(self.layer(key), 1000 - age)
        cache.Cache(self.root).prune()
        self.assertEqual(
            {'thing-d', 'thing-c', 'thing-d.log', 'thing-c.log'}, self.names()
        )

    def test_a_version_in_use_stays(self):
        store = cache.Cache(self.root)
        store.obtain(self.layer('old'))
        os.utime(self.root / 'thing-old', (1, 1))
        for key in 'ab':
            self.use(self.layer(key), 1000)
        cache.Cache(self.root).prune()
        self.assertIn('thing-old', self.names())
