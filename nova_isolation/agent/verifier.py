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

"""The verifier: a running guest that loses its label or mode is noticed.

Only the kernel is asked, by the label of the process that libvirt's pid file
names (:mod:`nova_isolation.processes`). The label is always that of the
profile's newest version, with its mode: after ``aa-complain`` it reads
``libvirt-UUID (complain)``, and when the profile was removed ``unconfined``
(``apparmor_getprocattr()``, ``__aa_proxy_redirect()``). One thing it does not
show: ``/sys/module/apparmor/parameters/mode``, which only root may read. The
canary tells.

A guest that starts gives no false alarm: its process takes the label before it
executes QEMU, and before that its command line is not the guest's.
"""

from collections.abc import Callable, Iterable
import dataclasses
import re
import threading
import time
from typing import Any

from oslo_log import log

from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import policy
from nova_isolation.audit import attribution
from nova_isolation.audit import records
from nova_isolation import exceptions
from nova_isolation import processes
from nova_isolation import selinux
from nova_isolation.violations import model

LOG = log.getLogger(__name__)

# Of how many guests all threads are looked at in one round; of the others the
# first one.
_THOROUGH = 20
# Seconds for which nothing may be known of a guest: its process may not be
# there yet.
_GRACE = 30.0
# Seconds between a record about a profile and the look at its guest: the
# kernel writes it before it is done, and of a teardown many at once.
_SOON = 0.1
# More guests than that at once are a round of all.
_SINGLY = 200
# Of a process, in an answer.
_THREADS = 500

_OPERATIONS = ('profile_load', 'profile_replace', 'profile_remove')
# of libvirt's svirt_t and svirt_tcg_t, with the guest's two categories
_SVIRT = re.compile(r'[^:]+:[^:]+:svirt(?:_tcg)?_t:(s0:c\d+,c\d+)')

# uuid, name and libvirt's id of a running domain
Running = tuple[str, str, int]
#: whether SELinux enforces, or why that is not known; None: a host without it
Enforcing = bool | str | None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is wrong with a guest's labels.

    :ivar expected: the label that it should have
    :ivar found: what was found
    :ivar reason: what that means, and what is to be done
    :ivar sure: False of what may pass: it is told when it has lasted
    """

    expected: str
    found: str
    reason: str
    sure: bool = True


# Of a guest of which nothing can be said yet.
_UNKNOWN = Verdict('', '', '')


def judge(
    uuid: str,
    labels: Iterable[str],
    *,
    complain: bool = False,
    enforcing: Enforcing = None,
    level: str = '',
    shared: bool = False,
) -> Verdict | None:
    """Tell what is wrong with the labels of a guest's process.

    :param uuid: the guest's
    :param labels: of its threads, with their modes
    :param complain: ``[isolation] mode = complain``: what is less than that,
        is wrong
    :param enforcing: see :data:`Enforcing`
    :param level: of SELinux, that libvirt gave it; '' when it is not known
    :param shared: whether another running guest has that level, too
    :returns: None when nothing is wrong
    """
    expected = _expected(uuid, complain, enforcing, level)
    if enforcing is not None:
        return _judge_context(expected, labels, enforcing, level, shared)
    profile = policy.profile_name(uuid)
    wrong = sorted(set(labels) - {f'{profile} (enforce)', expected})
    if not wrong:
        return None
    found = ', '.join(label or 'no label' for label in wrong)
    return Verdict(expected, found, _reason(profile, wrong))


def _expected(
    uuid: str, complain: bool, enforcing: Enforcing, level: str
) -> str:
    if enforcing is not None:
        own = level or 'two categories'
        return f'a context of svirt_t with {own}, enforcing'
    mode = 'complain' if complain else 'enforce'
    return f'{policy.profile_name(uuid)} ({mode})'


def _reason(profile: str, wrong: list[str]) -> str:
    again = 'reboot the server hard'
    if '' in wrong:
        return (
            'the kernel runs without AppArmor, and nothing confines it: boot '
            'the host with "apparmor=1 security=apparmor"'
        )
    if 'unconfined' in wrong:
        return (
            f'nothing confines its process: the profile {profile} was removed '
            'from the kernel (aa-teardown, aa-remove-unknown, apparmor_parser '
            f'-R). To load it again does not help a process that runs: {again}'
        )
    if wrong == [f'{profile} (complain)']:
        return (
            f'its profile {profile} is in complain mode, and keeps it from '
            f'nothing: {again}, or aa-enforce the profile; when all guests '
            'are to be so, set [isolation] mode = complain'
        )
    return (
        f'its process, or a thread of it, does not run under {profile} in '
        f'enforce mode: {again}'
    )


def _judge_context(
    expected: str,
    labels: Iterable[str],
    enforcing: bool | str,
    level: str,
    shared: bool,
) -> Verdict | None:
    if isinstance(enforcing, str):
        found = 'the mode of SELinux cannot be read'
        return Verdict(expected, found, enforcing, sure=False)
    if not enforcing:
        return Verdict(
            expected,
            'SELinux is permissive',
            'SELinux keeps it from nothing since "setenforce 0": setenforce 1',
        )
    wrong: set[str] = set()
    foreign: set[str] = set()
    for label in labels:
        svirt = _SVIRT.fullmatch(label)
        if svirt is None:
            wrong.add(label or 'no label')
        elif shared or (level and svirt[1] != level):
            foreign.add(label)
    if wrong:
        return Verdict(
            expected,
            ', '.join(sorted(wrong)),
            'its process does not have a context of its own: set '
            'security_driver = "selinux" in qemu.conf and reboot the server '
            'hard',
        )
    if not foreign:
        return None
    # libvirt may tell later that it was started anew, with another level
    return Verdict(
        expected,
        ', '.join(sorted(foreign)) + (', as another guest' if shared else ''),
        'its level is not its own: SELinux lets its process have what another '
        'guest with that level has. Reboot the server hard; when libvirt then '
        'gives it the same again, remove <seclabel> from its XML',
        sure=False,
    )


@dataclasses.dataclass
class _Guest:
    """What is known of a guest from round to round.

    :ivar id: libvirt's
    :ivar process: of its QEMU, None as long as it was not found
    :ivar unsure: monotonic time since when what is found is not sure
    :ivar told: what was found wrong when that was last reported
    """

    id: int
    process: processes.Process | None = None
    unsure: float | None = None
    told: str = ''


class Verifier:
    """Looks at all running guests, every so many seconds."""

    def __init__(
        self,
        host: str,
        running: Callable[[], Iterable[Running]],
        report: Callable[[model.Unconfined], None],
        *,
        runtime_directory: str,
        mode: str,
        interval: float,
        describe: Callable[[str], model.Instance] = model.Instance,
        table: Callable[[], attribution.Table] = attribution.Table,
    ) -> None:
        """Connect the parts; nothing runs yet.

        :param host: the name of this host, for the events
        :param running: names the running guests, without waiting
        :param report: takes an event, once for each change
        :param runtime_directory: ``[isolation] libvirt_runtime_directory``
        :param mode: ``[isolation] mode``; with ``off`` nothing is looked at
        :param interval: ``[isolation] verify_interval``
        :param describe: names a guest by its uuid, without waiting
        :param table: tells whose the levels of SELinux are, without waiting
        """
        self._host = host
        self._running = running
        self._report = report
        self._runtime = runtime_directory
        self._mode = mode
        self._interval = interval
        self._describe = describe
        self._table = table
        self._guests: dict[str, _Guest] = {}
        self._turn = 0
        self._looked: float | None = None
        self._lasted = 0.0
        self._condition = threading.Condition()
        self._urgent: set[str] = set()
        self._all_urgent = False
        self._soon = float('inf')
        self._stopped = False
        self._beat: Callable[[], None] = lambda: None
        self._thread = threading.Thread(
            target=self._run, name='verifier', daemon=True
        )

    @property
    def thread(self) -> threading.Thread:
        """The thread, for who watches over it."""
        return self._thread

    def start(self, beat: Callable[[], None] = lambda: None) -> None:
        """Start.

        :param beat: called after each round
        """
        self._beat = beat
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop.

        :param timeout: seconds to wait at most
        """
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def on_record(self, record: records.Record) -> None:
        """Take an audit record about policy or a mode; from any thread.

        :param record: one without a decision
        """
        if record.module == 'selinux':
            self.on_mode()
        else:
            self.on_status(record.text('operation'), record.text('name'))

    def on_status(self, operation: str | None, profile: str | None) -> None:
        """Take an audit record about a change of policy; from any thread.

        What was done to the profile decides nothing: nova-compute and
        libvirtd replace profiles, too. Its guest is looked at at once.

        :param operation: e.g. ``profile_remove``
        :param profile: the ``name`` of the record
        """
        if operation not in _OPERATIONS or profile is None:
            return
        uuid = attribution.subject(profile)
        if uuid is None:
            return
        with self._condition:
            if not self._urgent:
                self._soon = time.monotonic() + _SOON
            if len(self._urgent) <= _SINGLY:
                self._urgent.add(uuid)
            self._condition.notify_all()

    def on_mode(self) -> None:
        """Take an audit record of SELinux' mode or policy; from any thread.

        That is about all guests: they are looked at, at once.
        """
        with self._condition:
            self._all_urgent = True
            self._soon = min(self._soon, time.monotonic() + _SOON)
            self._condition.notify_all()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            with self._condition:
                while not self._stopped:
                    now = time.monotonic()
                    pause = min(due, self._soon) - now
                    if pause <= 0:
                        break
                    self._condition.wait(pause)
                if self._stopped:
                    return
                urgent, self._urgent = self._urgent, set()
                everyone, self._all_urgent = self._all_urgent, False
                self._soon = float('inf')
            try:
                if now >= due or everyone or len(urgent) > _SINGLY:
                    due = now + self._interval
                    self.look()
                else:
                    self.look(urgent)
            except Exception:
                LOG.exception('Looking at the labels of the guests failed')
            self._beat()

    def look(self, only: Iterable[str] | None = None) -> None:
        """Look at the guests, and report what has changed.

        :param only: uuids, by default all that run
        """
        if self._mode == 'off':
            return
        began = time.monotonic()
        running = {u: (name, number) for u, name, number in self._running()}
        enforcing = _enforcing()
        for uuid in set(self._guests) - set(running):
            del self._guests[uuid]
        if only is None:
            thorough = self._next_turn(len(running))
            for index, (uuid, (name, number)) in enumerate(running.items()):
                self._look_at(uuid, name, number, enforcing, index in thorough)
            self._looked = time.time()
            self._lasted = time.monotonic() - began
            return
        for uuid in only:
            if uuid in running:
                self._look_at(uuid, *running[uuid], enforcing, True)

    def _next_turn(self, count: int) -> range:
        """Take those of whom all threads are looked at in this round."""
        first = self._turn if self._turn < count else 0
        self._turn = first + _THOROUGH
        return range(first, self._turn)

    def _look_at(
        self,
        uuid: str,
        name: str,
        number: int,
        enforcing: Enforcing,
        thorough: bool,
    ) -> None:
        guest = self._guests.get(uuid)
        if guest is None or guest.id != number:
            # another life of it, with another process
            guest = self._guests[uuid] = _Guest(number)
        # what was found in another thread passes only when that is well
        thorough = (
            thorough
            or guest.unsure is not None
            or bool(guest.told)
            or guest.process is None
        )
        verdict = self._examine(uuid, name, guest, enforcing, thorough)
        if verdict is _UNKNOWN:
            return
        if verdict is None or verdict.sure:
            guest.unsure = None
        else:
            now = time.monotonic()
            guest.unsure = now if guest.unsure is None else guest.unsure
            if now - guest.unsure < _GRACE:
                return
        self._tell(uuid, guest, verdict)

    def _examine(
        self,
        uuid: str,
        name: str,
        guest: _Guest,
        enforcing: Enforcing,
        thorough: bool,
    ) -> Verdict | None:
        """Tell what is wrong with a guest; _UNKNOWN when that may be nothing.

        Only a label that is wrong is worth a look at whose it is: a later
        process with the same number that has the guest's label is no harm.
        """
        if guest.process is not None:
            verdict = self._look_into(uuid, guest.process, enforcing, thorough)
            if verdict is None or processes.is_same(guest.process):
                return verdict
        try:
            process = processes.find(self._runtime, name, uuid)
        except exceptions.NotConfined as e:
            # it was there and has ended, which libvirtd may tell later
            if guest.process is not None:
                return _UNKNOWN
            expected = self._expected(uuid, enforcing)
            return self._not_found(expected, e.message)
        guest.process = process
        verdict = self._look_into(uuid, process, enforcing, thorough)
        return verdict if processes.is_same(process) else _UNKNOWN

    def _look_into(
        self,
        uuid: str,
        process: processes.Process,
        enforcing: Enforcing,
        thorough: bool,
    ) -> Verdict | None:
        """Tell what is wrong with a process; _UNKNOWN of one that is gone."""
        try:
            labels = _labels(process, thorough)
        except OSError as e:
            return Verdict(
                self._expected(uuid, enforcing),
                'its label cannot be read',
                _unreadable(process, e),
                sure=False,
            )
        return self._judge(uuid, labels, enforcing) if labels else _UNKNOWN

    def _judge(
        self,
        uuid: str,
        labels: Iterable[str],
        enforcing: Enforcing,
    ) -> Verdict | None:
        level, shared = self._level(uuid)
        return judge(
            uuid,
            labels,
            complain=self._mode == 'complain',
            enforcing=enforcing,
            level=level,
            shared=shared,
        )

    def _expected(self, uuid: str, enforcing: Enforcing) -> str:
        level, _ = self._level(uuid)
        return _expected(uuid, self._mode == 'complain', enforcing, level)

    def _level(self, uuid: str) -> tuple[str, bool]:
        """Tell a guest's level, or '', and whether another one has it."""
        table = self._table()
        guest = table.guest(uuid)
        level = guest.level if guest else ''
        return level, level != '' and table.uuid(level) != uuid

    def _not_found(self, expected: str, fault: str) -> Verdict:
        return Verdict(
            expected,
            'its process was not found',
            f'nothing can be said of it: {fault}. libvirt calls it running; '
            'when it is, look whether /proc is hidden from the agent '
            '(hidepid, ProtectProc=), and reboot the server hard',
            sure=False,
        )

    def _tell(self, uuid: str, guest: _Guest, verdict: Verdict | None) -> None:
        if verdict is None:
            if guest.told:
                guest.told = ''
                LOG.info('Instance %s is confined again', uuid)
            return
        if guest.told == verdict.found:
            return
        guest.told = verdict.found
        pid = guest.process.pid if guest.process else None
        event = model.Unconfined(
            host=self._host,
            instance=self._describe(uuid),
            pid=pid,
            expected=verdict.expected,
            found=verdict.found,
            reason=verdict.reason,
        )
        self._report(event)

    def verify(self, uuid: str) -> dict[str, Any]:
        """Look at one guest now, and tell all; from any thread.

        :param uuid: the guest's
        :returns: plain JSON types. ``uuid``; ``running``: whether libvirt
            says that it runs; ``pid`` of its QEMU or None; ``expected``: what
            is right; ``threads``: {thread id: label}, of 500 at most;
            ``confined``: whether all is as expected, None of one that does
            not run; ``reason`` why not, or ''
        """
        enforcing = _enforcing()
        answer: dict[str, Any] = {
            'uuid': uuid,
            'running': False,
            'pid': None,
            'expected': self._expected(uuid, enforcing),
            'threads': {},
            'confined': None,
            'reason': 'no such guest runs on this host',
        }
        names = [name for known, name, _ in self._running() if known == uuid]
        if not names:
            return answer
        answer['running'] = True
        try:
            process = processes.find(self._runtime, names[0], uuid)
        except exceptions.NotConfined as e:
            return {**answer, 'confined': False, 'reason': e.message}
        try:
            labels = kernel.labels(process.pid)
        except OSError as e:
            reason = _unreadable(process, e)
            pid = process.pid
            return {**answer, 'pid': pid, 'confined': False, 'reason': reason}
        verdict = self._judge(uuid, labels.values(), enforcing)
        if not labels or not processes.is_same(process):
            return {**answer, 'reason': 'its process has just ended'}
        return {
            **answer,
            'pid': process.pid,
            'threads': {
                str(thread): labels[thread]
                for thread in sorted(labels)[:_THREADS]
            },
            'confined': verdict is None,
            'reason': verdict.reason if verdict else '',
        }

    def status(self) -> dict[str, Any]:
        """Tell how it is; from any thread.

        :returns: ``guests``: how many were looked at; ``unconfined``: how
            many of them are; ``last``: when the last round was, seconds since
            1970, or None; ``seconds`` that it lasted
        """
        guests = list(self._guests.values())
        return {
            'guests': len(guests),
            'unconfined': sum(bool(guest.told) for guest in guests),
            'last': self._looked,
            'seconds': self._lasted,
        }


def _labels(process: processes.Process, thorough: bool) -> set[str]:
    """Read the label of the first thread, or of all; empty when it is gone."""
    if thorough:
        return set(kernel.labels(process.pid).values())
    label = kernel.label(process.pid)
    return set() if label is None else {label}


def _unreadable(process: processes.Process, error: OSError) -> str:
    return (
        f'nothing can be said of it: the label of process {process.pid} '
        f'cannot be read: {error.strerror}. Where something confines the '
        'agent, let that allow it (AppArmor: to read /proc/*/attr; SELinux: '
        'process getattr); look whether /proc is hidden from the agent '
        '(hidepid, ProtectProc=)'
    )


def _enforcing() -> Enforcing:
    """Tell whether SELinux does, or why that is not known."""
    try:
        return selinux.enforcing()
    except exceptions.HostFault as e:
        return e.message
