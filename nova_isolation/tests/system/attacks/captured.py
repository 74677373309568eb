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

"""Hostile code as QEMU's user, under a guest's label or under none."""

import collections.abc
import ctypes
import dataclasses
import errno
import grp
import json
import os
import pwd
import select
import signal
import time
import traceback
import typing

from nova_isolation.tests.system.attacks import syscalls

USER = 'libvirt-qemu'
_LIMIT = 60.0  # seconds


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of an action.

    :ivar succeeded: whether it was observed from outside
    :ivar error: the kernel's refusal: ``EACCES``; '' when there was none
    :ivar words: what it said
    """

    succeeded: bool
    error: str
    words: str


def become(label: str | None, capabilities: tuple[str, ...]) -> None:
    """Turn this process into a captured QEMU, as far as the kernel sees it.

    :param label: AppArmor's, or None to stay unconfined
    :param capabilities: what it keeps beside QEMU's user
    :raises OSError: when it cannot
    """
    user = pwd.getpwnam(USER)
    # libvirt's configuration in Debian: the group of the same name
    group = grp.getgrnam(USER).gr_gid
    os.setgroups([user.pw_gid, group])
    os.setresgid(group, group, group)
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    syscalls.set_capabilities(capabilities)
    # as after an exec: else /proc/self is root's
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    if label is not None:
        enter(label)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def enter(label: str) -> None:
    """Change this unconfined process's profile: aa_change_profile(2).

    :param label: of a loaded profile
    :raises OSError: when it is not there
    """
    with open('/proc/self/attr/apparmor/current', 'w') as f:
        f.write(f'changeprofile {label}')


def label_of(pid: int) -> str:
    """Read the label of a process.

    :param pid: of the process
    :returns: without the mode
    """
    with open(f'/proc/{pid}/attr/apparmor/current') as f:
        return f.read().strip('\n\0').rpartition(' (')[0] or 'unconfined'


def spawn(
    body: collections.abc.Callable[[], None],
) -> int:
    """Start a process that ends with ``body``, and never returns here.

    :param body: what it does
    :returns: its pid
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        body()
    finally:
        os._exit(0)


def run(
    attempt: collections.abc.Callable[[], typing.Any],
    observed: collections.abc.Callable[[typing.Any, int], bool],
    *,
    name: str,
    label: str | None,
    capabilities: tuple[str, ...],
) -> Outcome:
    """Do something in a captured process and look at it.

    :param attempt: what it does; an OSError is a refusal
    :param observed: told what ``attempt`` returned and the pid
    :param name: of the process, as audit records show it
    :param label: see :func:`become`
    :param capabilities: see :func:`become`
    :returns: the outcome
    :raises RuntimeError: when the attempt itself is broken
    """
    answer, their_answer = os.pipe()
    their_leave, leave = os.pipe()

    def body() -> None:
        os.setsid()
        os.close(answer)
        os.close(leave)
        said: dict[str, typing.Any]
        try:
            syscalls.prctl(
                syscalls.PR_SET_NAME, ctypes.c_char_p(name.encode()[:15])
            )
            become(label, capabilities)
        except OSError as e:
            said = {'broken': f'cannot be captured: {e}'}
        else:
            try:
                said = {'got': attempt()}
            except OSError as e:
                said = {'errno': e.errno, 'words': str(e)}
            except BaseException:
                said = {'broken': traceback.format_exc()}
        os.write(their_answer, json.dumps(said).encode() + b'\n')
        # until its work was looked at
        os.read(their_leave, 1)

    pid = spawn(body)
    os.close(their_answer)
    os.close(their_leave)
    try:
        text = _line(answer)
        if not text:
            return Outcome(False, 'ETIMEDOUT', 'no answer: killed, or hangs')
        said = json.loads(text)
        if 'broken' in said:
            raise RuntimeError(f'{name}: {said["broken"]}')
        if 'errno' in said:
            error = errno.errorcode.get(said['errno'], str(said['errno']))
            return Outcome(False, error, said['words'])
        if observed(said['got'], pid):
            return Outcome(True, '', '')
        return Outcome(False, '', f'not observed: {said["got"]!r:.200}')
    finally:
        os.close(leave)
        os.close(answer)
        end(pid)


def _line(pipe: int) -> bytes:
    text, limit = b'', time.monotonic() + _LIMIT
    while not text.endswith(b'\n'):
        left = max(0.0, limit - time.monotonic())
        if not select.select([pipe], [], [], left)[0]:
            return b''
        if not (piece := os.read(pipe, 65536)):
            return b''
        text += piece
    return text


def end(pid: int) -> None:
    """End a process that was spawned, and what it started.

    :param pid: of the process
    """
    for target in (-pid, pid):
        try:
            os.kill(target, signal.SIGKILL)
        except ProcessLookupError:
            pass
    os.waitpid(pid, 0)
