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

"""The line on the terminal that shows how far a tier is."""

import sys
import threading
import time
import typing

from tools.runner import report

_INTERVAL_TERMINAL = 1  # second
_INTERVAL_LOG = 30  # seconds: for a log file that somebody follows


class Line:
    """Collects the results of a tier and shows how far it is.

    :param tier: the tier's name
    :param out: where to write
    """

    def __init__(self, tier: str, out: typing.TextIO = sys.stdout) -> None:
        self.run = ''
        self.results: list[report.Result] = []
        self._tier = tier
        self._out = out
        self._terminal = out.isatty()
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> typing.Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._end.set()
        self._thread.join()
        with self._lock:
            self._clear()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def add(self, result: report.Result, show: bool = False) -> None:
        """Take a result; a failure is shown at once.

        :param result: the result
        :param show: show it also when it is none
        """
        with self._lock:
            self.results.append(result)
        if show or result.status == report.FAILED:
            self.show(f'{self._tier}: {result.status:7} {result.title}')

    def show(self, text: str) -> None:
        """Print a line above the progress line."""
        with self._lock:
            self._clear()
            print(text, file=self._out, flush=True)

    def _clear(self) -> None:
        if self._terminal:
            self._out.write('\r\033[K')
            self._out.flush()

    def _tick(self) -> None:
        interval = _INTERVAL_TERMINAL if self._terminal else _INTERVAL_LOG
        while not self._end.wait(interval):
            with self._lock:
                failed = sum(r.status == report.FAILED for r in self.results)
                text = (
                    f'{self._tier}: {self.run}: {len(self.results)} tests, '
                    f'{failed} failed, {self.seconds:.0f} s'
                )
                if self._terminal:
                    self._out.write(f'\r\033[K{text}')
                    self._out.flush()
                else:
                    print(text, file=self._out, flush=True)
