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

"""Layers: directories that are built once, named by the content of their
recipe, and shared by all runs.

A layer appears under its name only when it is complete: it is built in a
temporary directory and renamed. Whoever builds or uses one holds a lock, which
the kernel releases when that process ends, however it ends; so what is not
locked is not in use, and a temporary directory that is not locked is the rest
of an interrupted build.
"""

import collections.abc
import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import shutil
import time

KEEP = 2  # versions of a layer that stay: the newest and the one before it
LOCKS = 'locks'
DAY = 86400  # seconds


def digest(*parts: str | pathlib.Path) -> str:
    """The key of a recipe: 12 hexadecimal digits that change with any of its
    parts.

    :param parts: texts, and files or directories that stand for their content.
    """
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, pathlib.Path):
            files = (
                sorted(p for p in part.rglob('*') if p.is_file())
                if part.is_dir()
                else [part]
            )
            for file in files:
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                total.update(f'{file.name} {content}\n'.encode())
        else:
            total.update(f'{part}\n'.encode())
    return total.hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One thing that is built.

    :param name: what it is, `tree-trixie`.
    :param key: the digest of its recipe and of the layers below it.
    :param build: makes it in the empty directory given; the second directory
        is for the logs of the build.
    """

    name: str
    key: str
    build: collections.abc.Callable[[pathlib.Path, pathlib.Path], None]

    @property
    def directory(self) -> str:
        """Its directory's name in the cache."""
        return f'{self.name}-{self.key}'


class Cache:
    """The layers on disk. Locks on layers in use are held until the process
    ends.
    """

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self._held: list[int] = []
        for directory in (root, root / LOCKS):
            directory.mkdir(parents=True, exist_ok=True)

    def path(self, layer: Layer) -> pathlib.Path:
        """Where the layer is, or will be."""
        return self.root / layer.directory

    def obtain(self, layer: Layer) -> pathlib.Path:
        """Return the layer's directory, built if it is not there, and keep it
        from being pruned.
        """
        path = self.path(layer)
        while True:
            if not path.is_dir():
                with self._locked(layer.directory, fcntl.LOCK_EX):
                    if (
                        not path.is_dir()
                    ):  # another process may have built it while we waited
                        self._build(layer, path)
            lock = self._lock(layer.directory, fcntl.LOCK_SH)
            if path.is_dir():
                self._held.append(lock)
                os.utime(path)
                return path
            os.close(lock)  # pruned between the two locks

    def prune(self) -> None:
        """Remove what interrupted builds left, and versions that nobody used
        lately; never what is in use.
        """
        versions: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
        for path in self.root.iterdir():
            if path.name.endswith('.tmp'):
                self._remove(path, path.name.removesuffix('.tmp'))
            elif path.name.endswith('.log'):
                # of a build that failed: kept until somebody has read it
                alive = path.with_suffix('').exists()
                if not alive and _used(path) < time.time() - DAY:
                    self._remove(path, path.name.removesuffix('.log'))
            elif path.is_dir() and '-' in path.name:
                versions[path.name.rpartition('-')[0]].append(path)
        for paths in versions.values():
            for path in sorted(paths, key=_used, reverse=True)[KEEP:]:
                self._remove(path, path.name)

    def _build(self, layer: Layer, path: pathlib.Path) -> None:
        work, logs = (
            path.with_name(path.name + suffix) for suffix in ('.tmp', '.log')
        )
        for directory in (work, logs):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        work.chmod(0o755)
        layer.build(work, logs)
        work.rename(path)

    def _remove(self, path: pathlib.Path, directory: str) -> None:
        with (
            contextlib.suppress(BlockingIOError),
            self._locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            shutil.rmtree(path, ignore_errors=True)
            if path.name == directory:
                shutil.rmtree(
                    path.with_name(directory + '.log'), ignore_errors=True
                )

    def _lock(self, directory: str, how: int) -> int:
        fd = os.open(
            self.root / LOCKS / directory,
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
            0o644,
        )
        try:
            fcntl.flock(fd, how)
        except BaseException:
            os.close(fd)
            raise
        return fd

    @contextlib.contextmanager
    def _locked(
        self, directory: str, how: int
    ) -> collections.abc.Iterator[None]:
        lock = self._lock(directory, how)
        try:
            yield
        finally:
            os.close(lock)


def _used(path: pathlib.Path) -> float:
    """When a layer was last used; long ago when another process prunes it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0
