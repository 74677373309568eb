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

"""How the broker is reached, and how nobody waits for it without end.

oslo.messaging has no limit of its own where a broker that is up takes nothing:
while its memory or disk alarm is raised, RabbitMQ goes on with its heartbeats
and confirms no message. Nor has it one where the broker is away and a reply
queue has to be made. What may hang is therefore done in a thread.
"""

from collections.abc import Callable, Hashable
import concurrent.futures
import dataclasses
import queue
import threading
import time
from typing import Any, TypeVar

import oslo_messaging

from nova_isolation import exceptions

_T = TypeVar('_T')


def transport(get: Callable[[], _T], option: str) -> _T:
    """Make a transport; nothing is connected yet.

    :param get: one of oslo.messaging's functions that make it
    :param option: the option that holds its URL, for the error
    :returns: what ``get`` returns
    :raises ConfigurationError: when the URL cannot be used; never shows it
    """
    try:
        return get()
    except (
        oslo_messaging.InvalidTransportURL,
        oslo_messaging.DriverLoadFailure,
    ) as e:
        # neither message holds the URL's password
        raise exceptions.ConfigurationError(
            f'the option {option} cannot be used: {e}'
        ) from e
    except ValueError:
        # a port that is no number, an IPv6 address without its end: the
        # message may hold a part of the password
        raise exceptions.ConfigurationError(
            f'the option {option} is no URL of the form '
            'rabbit://USER:PASSWORD@HOST:PORT/VHOST (special characters in '
            'it are to be percent-encoded)'
        ) from None


class Late(Exception):
    """It is not done within the time; it goes on."""


@dataclasses.dataclass(frozen=True)
class _Job:
    key: Hashable
    call: Callable[[], Any]
    future: concurrent.futures.Future[Any]


class Errands:
    """Does one thing after the other in a thread of its own.

    However long one of them hangs, there is one thread and one thing under
    way: the others are refused when their time is over. The thread ends with
    the process, whatever it hangs in.
    """

    def __init__(self, name: str) -> None:
        """Name the thread, which starts when there is something to do.

        :param name: the thread's name
        """
        self._name = name
        self._turn = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._under_way: _Job | None = None

    def do(
        self, call: Callable[[], _T], limit: float, key: Hashable = None
    ) -> _T:
        """Do something, and wait until it is done or the time is over.

        What was not done in time goes on, and is waited for before anything
        else begins; when it is asked for again, by its key, it is not begun a
        second time.

        :param call: what to do
        :param limit: seconds to wait at most
        :param key: what makes it the same as another one; None: nothing does
        :returns: what ``call`` returns
        :raises Late: when it is not done in time
        :raises Exception: what ``call`` raises
        """
        deadline = time.monotonic() + limit
        if not self._turn.acquire(timeout=limit):
            raise Late()
        try:
            job = self._under_way
            if job is not None and (key is None or job.key != key):
                _wait(job, deadline)
                job = None
            if job is None:
                job = _Job(key, call, concurrent.futures.Future())
                self._begin(job)
            _wait(job, deadline)
            self._under_way = None
        finally:
            self._turn.release()
        result: _T = job.future.result()
        return result

    def _begin(self, job: _Job) -> None:
        # not in __init__: the agent forks in between
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=self._name, daemon=True
            )
            self._thread.start()
        self._under_way = job
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                result = job.call()
            except BaseException as e:
                job.future.set_exception(e)
            else:
                job.future.set_result(result)
            # what it holds is not kept until the next one comes
            del job


def _wait(job: _Job, deadline: float) -> None:
    left = max(0.0, deadline - time.monotonic())
    # its own TimeoutError is not ours
    if not concurrent.futures.wait([job.future], left).done:
        raise Late()
