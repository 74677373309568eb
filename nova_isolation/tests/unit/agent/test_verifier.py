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

"""A guest that is no longer confined is noticed, and no other one.

On a real kernel: nova_isolation.tests.system.test_verifier.
"""

import errno
import os
import time
import types
from unittest import mock

import ddt
import fixtures
from oslotest import base

from nova_isolation.agent import verifier as agent_verifier
from nova_isolation.apparmor import kernel
from nova_isolation.audit import attribution
from nova_isolation.tests import pretender
from nova_isolation.violations import model

UUID = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
OTHER = '8887d9d3-17f8-4388-8771-fab6312518d6'
PROFILE = f'libvirt-{UUID}'
GOOD = f'{PROFILE} (enforce)'
COMPLAINING = f'{PROFILE} (complain)'
CONTEXT = 'system_u:system_r:svirt_tcg_t:s0:c504,c872'
NEIGHBOUR = 'system_u:system_r:svirt_t:s0:c5,c6'
FORBIDDEN = PermissionError(errno.EACCES, 'Permission denied')


@ddt.ddt
class JudgeTest(base.BaseTestCase):
    def judge(self, *labels, **more):
        return agent_verifier.judge(UUID, labels, **more)

    def test_its_own_profile_in_enforce_mode(self):
        self.assertIsNone(self.judge(GOOD, GOOD))

    def test_a_process_that_is_gone(self):
        self.assertIsNone(self.judge())

    @ddt.data(
        (COMPLAINING, 'is in complain mode'),
        ('unconfined', 'was removed'),
        ('', 'without AppArmor'),
        (f'libvirt-{OTHER} (enforce)', 'does not run under'),
        (f'{PROFILE}//swtpm (enforce)', 'does not run under'),
        (f'{PROFILE} (unconfined)', 'does not run under'),
        (f'{PROFILE} (enforce)x', 'does not run under'),
    )
    @ddt.unpack
    def test_anything_else(self, label, words):
        # one thread is enough
        for complain in (False, True):
            verdict = self.judge(GOOD, label, complain=complain)
            if complain and label == COMPLAINING:
                self.assertIsNone(verdict)
                continue
            self.assertIn(words, verdict.reason)
            self.assertIn(label, verdict.found)

    def test_in_complain_mode_less_is_still_wrong_and_more_is_not(self):
        self.assertIsNone(self.judge(GOOD, complain=True))
        verdict = self.judge('unconfined', complain=True)
        self.assertEqual(COMPLAINING, verdict.expected)

    def test_selinux_that_enforces(self):
        self.assertIsNone(self.judge(CONTEXT, enforcing=True))

    def test_selinux_after_setenforce_0(self):
        verdict = self.judge(CONTEXT, enforcing=False)
        self.assertIn('setenforce 1', verdict.reason)

    @ddt.data(
        'system_u:system_r:virtd_t:s0-s0:c0.c1023',
        'system_u:system_r:svirt_t:s0',
        'system_u:system_r:svirt_t:s0:c0.c1023',
        '',
    )
    def test_a_context_that_is_not_its_own(self, context):
        verdict = self.judge(CONTEXT, context, enforcing=True)
        self.assertIn(context, verdict.found)

    def test_a_level_of_its_own(self):
        own = {'enforcing': True, 'level': 's0:c504,c872'}
        self.assertIsNone(self.judge(CONTEXT, CONTEXT, **own))
        verdict = self.judge(CONTEXT, NEIGHBOUR, **own)
        self.assertEqual(NEIGHBOUR, verdict.found)
        self.assertIn('s0:c504,c872', verdict.expected)

    def test_a_level_that_another_guest_has_too(self):
        own = {'enforcing': True, 'level': 's0:c504,c872', 'shared': True}
        verdict = self.judge(CONTEXT, **own)
        self.assertIn(CONTEXT, verdict.found)
        self.assertIn('another guest', verdict.found)
        # and one that has ended has none
        self.assertIsNone(self.judge(**own))


class VerifierTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.runtime = self.useFixture(fixtures.TempDir()).path
        self.running = []
        self.events = []
        # {pid: labels of its threads}: this kernel may have none
        self.labels = {}
        self.asked = []
        # the process of which the first thread alone can be read
        self.hidden = 0
        # {uuid: level of SELinux}
        self.levels = {}
        self._patch('label', self._label)
        self._patch('labels', self._labels)
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova_isolation.selinux.ENFORCE',
                f'{self.runtime}/no-selinux',
            )
        )
        # else each such test starts a lot of processes
        self.useFixture(
            fixtures.MonkeyPatch('nova_isolation.agent.verifier._THOROUGH', 2)
        )
        self.verifier = self.make()

    def _patch(self, name, function):
        patched = mock.patch.object(
            kernel, name, autospec=True, side_effect=function
        )
        patched.start()
        self.addCleanup(patched.stop)

    def _label(self, pid):
        self.asked.append((pid, 'first'))
        return next(iter(self._read(pid)), None)

    def _labels(self, pid):
        self.asked.append((pid, 'all'))
        if pid == self.hidden:
            raise FORBIDDEN
        return dict(enumerate(self._read(pid), pid))

    def _read(self, pid):
        labels = self.labels.get(pid, [])
        if isinstance(labels, OSError):
            raise labels
        return labels

    def make(self, mode='enforce', interval=3600):
        return agent_verifier.Verifier(
            'cmp1',
            lambda: list(self.running),
            self.events.append,
            runtime_directory=self.runtime,
            mode=mode,
            interval=interval,
            describe=lambda uuid: model.Instance(uuid, name='vm1'),
            table=self._table,
        )

    def _table(self):
        return attribution.Table(
            attribution.Guest(uuid, name, number, level=self.levels[uuid])
            for uuid, name, number in self.running
            if uuid in self.levels
        )

    def use_selinux(self):
        with open(f'{self.runtime}/no-selinux', 'w') as f:
            f.write('1')

    def run_guest(self, uuid=UUID, number=7, labels=None):
        name = f'instance-{number:08x}'
        process = pretender.start(self, '-name', name, '-uuid', uuid)
        with open(f'{self.runtime}/{name}.pid', 'w') as f:
            f.write(f'{process.pid}\n')
        self.labels[process.pid] = labels or [f'libvirt-{uuid} (enforce)'] * 2
        self.running.append((uuid, name, number))
        return process

    def end(self, process):
        process.communicate()
        del self.labels[process.pid]

    def use_clock(self):
        self.now = 1000.0
        clock = types.SimpleNamespace(
            monotonic=lambda: self.now, time=time.time
        )
        self.useFixture(
            fixtures.MonkeyPatch('nova_isolation.agent.verifier.time', clock)
        )

    def look(self, later=0.0):
        self.now += later
        self.verifier.look()

    def found(self):
        found = [event.found for event in self.events]
        self.events.clear()
        return found


class RoundsTest(VerifierTestCase):
    def test_a_guest_that_is_well(self):
        self.run_guest()
        for _ in range(3):
            self.verifier.look()
        self.assertEqual([], self.events)
        status = self.verifier.status()
        self.assertEqual((1, 0), (status['guests'], status['unconfined']))
        self.assertIsInstance(status['last'], float)

    def test_one_that_is_not_is_told_once_for_each_change(self):
        process = self.run_guest()
        self.verifier.look()
        self.labels[process.pid] = [COMPLAINING] * 2
        self.verifier.look()
        [event] = self.events
        self.assertEqual(process.pid, event.pid)
        self.assertEqual('vm1', event.instance.name)
        self.assertEqual((GOOD, COMPLAINING), (event.expected, event.found))
        self.verifier.look()
        self.assertEqual([COMPLAINING], self.found())
        self.assertEqual(1, self.verifier.status()['unconfined'])
        self.labels[process.pid] = ['unconfined'] * 2
        self.verifier.look()
        self.assertEqual(['unconfined'], self.found())
        # well in between
        self.labels[process.pid] = [GOOD] * 2
        self.verifier.look()
        self.assertEqual(0, self.verifier.status()['unconfined'])
        self.labels[process.pid] = ['unconfined'] * 2
        self.verifier.look()
        self.assertEqual(['unconfined'], self.found())

    def test_another_thread_is_noticed_in_its_turn(self):
        count = agent_verifier._THOROUGH + 1
        processes = [
            self.run_guest(f'{number:08x}{UUID[8:]}', number)
            for number in range(count)
        ]
        self.verifier.look()
        bad = {processes[0].pid, processes[-1].pid}
        for pid in bad:
            self.labels[pid][1] = 'unconfined'
        for _ in range(2):
            self.verifier.look()
        self.assertEqual(bad, {event.pid for event in self.events})

    def test_of_many_guests_the_first_thread_is_read_each_time(self):
        count = 3 * agent_verifier._THOROUGH
        for number in range(count):
            self.run_guest(f'{number:08x}{UUID[8:]}', number)
        self.verifier.look()
        self.asked.clear()
        self.verifier.look()
        kinds = [kind for _, kind in self.asked]
        self.assertEqual(count, len(kinds))
        self.assertEqual(agent_verifier._THOROUGH, kinds.count('all'))

    def test_one_that_has_ended_is_no_news_however_long_it_is_listed(self):
        process = self.run_guest()
        self.verifier.look()
        self.end(process)
        os.unlink(f'{self.runtime}/{self.running[0][1]}.pid')
        with mock.patch.object(agent_verifier, '_GRACE', 0):
            for _ in range(3):
                self.verifier.look()
        self.assertEqual([], self.events)

    def test_a_later_process_with_the_same_number_is_another(self):
        process = self.run_guest()
        self.verifier.look()
        guest = self.verifier._guests[UUID]
        object.__setattr__(guest.process, 'started', 1)
        os.unlink(f'{self.runtime}/{self.running[0][1]}.pid')
        self.labels[process.pid] = ['unconfined']
        self.verifier.look()
        self.assertEqual([], self.events)

    def test_one_that_starts_has_time(self):
        self.running.append((UUID, 'instance-00000007', 7))
        self.verifier.look()
        self.assertEqual([], self.events)
        with mock.patch.object(agent_verifier, '_GRACE', 0):
            self.verifier.look()
            self.verifier.look()
        [event] = self.events
        self.assertIsNone(event.pid)
        self.assertIn('instance-00000007.pid', event.reason)

    def test_a_label_that_cannot_be_read_hides_no_other_guest(self):
        self.use_clock()
        hidden = self.run_guest()
        other = self.run_guest(OTHER, 8)
        self.labels[hidden.pid] = FORBIDDEN
        self.labels[other.pid] = ['unconfined']
        self.look()
        self.assertEqual(['unconfined'], self.found())
        self.assertIsNotNone(self.verifier.status()['last'])
        for _ in range(5):
            self.look(later=10)
        [event] = self.events
        self.assertEqual(UUID, event.instance.uuid)
        self.assertEqual(hidden.pid, event.pid)
        self.assertEqual(GOOD, event.expected)
        for word in (str(hidden.pid), 'Permission denied', 'ProtectProc='):
            self.assertIn(word, event.reason)
        self.assertEqual(2, self.verifier.status()['unconfined'])
        self.labels[hidden.pid] = [GOOD]
        self.look()
        self.assertEqual(1, self.verifier.status()['unconfined'])

    def test_of_another_thread_too(self):
        self.use_clock()
        count = agent_verifier._THOROUGH + 1
        guests = [
            self.run_guest(f'{number:08x}{UUID[8:]}', number)
            for number in range(count)
        ]
        self.hidden = guests[0].pid
        for _ in range(12):
            self.look(later=5)
        self.assertEqual([self.hidden], [event.pid for event in self.events])

    def test_one_that_can_be_read_in_between_is_no_news(self):
        self.use_clock()
        process = self.run_guest()
        self.look()
        for _ in range(3):
            self.labels[process.pid] = FORBIDDEN
            self.look(later=20)
            self.look(later=20)
            self.labels[process.pid] = [GOOD]
            self.look(later=20)
        self.assertEqual([], self.events)

    def test_libvirtds_own_child_is_not_yet_the_guest(self):
        process = pretender.start(self, '--daemon')
        self.labels[process.pid] = ['libvirtd (enforce)']
        with open(f'{self.runtime}/instance-00000007.pid', 'w') as f:
            f.write(str(process.pid))
        self.running.append((UUID, 'instance-00000007', 7))
        self.verifier.look()
        self.assertEqual([], self.events)

    def test_one_that_starts_again_is_another(self):
        process = self.run_guest(labels=['unconfined'])
        self.verifier.look()
        self.assertEqual(['unconfined'], self.found())
        self.end(process)
        self.running.clear()
        self.run_guest(number=8, labels=['unconfined'])
        self.verifier.look()
        self.assertEqual(['unconfined'], self.found())

    def test_guests_that_are_gone_are_forgotten(self):
        self.run_guest()
        self.verifier.look()
        self.running.clear()
        self.verifier.look()
        self.assertEqual({}, self.verifier._guests)

    def test_without_confinement_nothing_is_looked_at(self):
        verifier = self.make(mode='off')
        self.run_guest(labels=['unconfined'])
        verifier.look()
        self.assertEqual(([], []), (self.events, self.asked))

    def test_complain_mode_that_was_wished(self):
        verifier = self.make(mode='complain')
        self.run_guest(labels=[COMPLAINING])
        verifier.look()
        self.assertEqual([], self.events)

    def test_setenforce_0(self):
        with open(f'{self.runtime}/no-selinux', 'w') as f:
            f.write('0')
        self.run_guest(labels=[CONTEXT])
        self.verifier.look()
        self.assertEqual(['SELinux is permissive'], self.found())

    def test_a_mode_of_selinux_that_cannot_be_read(self):
        self.use_clock()
        self.run_guest(labels=[CONTEXT])
        os.mkdir(f'{self.runtime}/no-selinux')
        self.look()
        self.look(later=29)
        os.rmdir(f'{self.runtime}/no-selinux')
        self.use_selinux()
        self.look(later=1)
        self.assertEqual([], self.events)
        os.unlink(f'{self.runtime}/no-selinux')
        os.mkdir(f'{self.runtime}/no-selinux')
        self.look()
        self.look(later=30)
        [event] = self.events
        self.assertIn('svirt_t', event.expected)
        self.assertIn('SELinux', event.found)
        self.assertIn(f'{self.runtime}/no-selinux', event.reason)
        self.assertNotIn('libvirt-', event.reason)

    def test_the_level_of_another_guest(self):
        self.use_clock()
        self.use_selinux()
        self.levels = {UUID: 's0:c504,c872', OTHER: 's0:c5,c6'}
        self.run_guest(labels=[NEIGHBOUR])
        self.run_guest(OTHER, 8, labels=[NEIGHBOUR])
        self.look()
        # libvirt may tell later that it was started anew
        self.look(later=29)
        self.assertEqual([], self.events)
        self.look(later=1)
        [event] = self.events
        self.assertEqual(UUID, event.instance.uuid)
        self.assertEqual(NEIGHBOUR, event.found)
        self.assertIn('s0:c504,c872', event.expected)

    def test_one_level_of_two_guests(self):
        self.use_clock()
        self.use_selinux()
        self.levels = {UUID: 's0:c504,c872', OTHER: 's0:c504,c872'}
        for number, uuid in enumerate(self.levels, 7):
            self.run_guest(uuid, number, labels=[CONTEXT])
        self.look()
        self.look(later=30)
        self.assertEqual(
            {UUID, OTHER}, {event.instance.uuid for event in self.events}
        )

    def test_a_level_that_is_not_known(self):
        self.use_selinux()
        self.run_guest(labels=[CONTEXT])
        self.verifier.look()
        self.assertEqual([], self.events)

    def test_a_label_that_cannot_be_read_under_selinux(self):
        self.use_clock()
        self.use_selinux()
        process = self.run_guest(labels=[CONTEXT])
        self.labels[process.pid] = FORBIDDEN
        self.look()
        self.look(later=30)
        self.assertIn('svirt_t', self.events[0].expected)


class ThreadTest(VerifierTestCase):
    def start(self, **more):
        verifier = self.make(**more)
        verifier.start()
        self.addCleanup(verifier.stop, 10)
        self.wait(lambda: verifier.status()['last'])
        return verifier

    def wait(self, reached):
        end = time.monotonic() + 10
        while not reached():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

    def test_it_looks_again_and_again(self):
        process = self.run_guest()
        self.start(interval=0.02)
        self.labels[process.pid] = ['unconfined']
        self.wait(lambda: self.events)

    def test_a_record_makes_it_look_at_once(self):
        process = self.run_guest()
        verifier = self.start()
        self.labels[process.pid] = ['unconfined']
        verifier.on_status('profile_remove', PROFILE)
        self.wait(lambda: self.events)

    def test_other_records_do_not(self):
        self.run_guest()
        verifier = self.start()
        for operation, profile in (
            (None, None),
            ('profile_remove', None),
            ('profile_remove', 'cupsd'),
            ('profile_remove', 'libvirt-virtiofsd'),
            ('open', PROFILE),
        ):
            verifier.on_status(operation, profile)
        self.assertEqual(set(), verifier._urgent)

    def test_a_change_of_selinux_makes_it_look_at_all(self):
        self.run_guest()
        verifier = self.start()
        with mock.patch.object(verifier, 'look', autospec=True) as look:
            verifier.on_mode()
            self.wait(lambda: look.called)
        look.assert_called_once_with()

    def test_of_a_guest_that_does_not_run_nothing_is_told(self):
        verifier = self.start()
        verifier.on_status('profile_remove', PROFILE)
        self.wait(lambda: not verifier._urgent)
        self.assertEqual([], self.events)

    def test_a_flood_of_records_is_one_round(self):
        process = self.run_guest()
        verifier = self.start()
        self.labels[process.pid] = ['unconfined']
        # before it looks
        with verifier._condition:
            for number in range(10 * agent_verifier._SINGLY):
                verifier.on_status(
                    'profile_remove', f'libvirt-{number:08x}{UUID[8:]}'
                )
                self.assertLessEqual(
                    len(verifier._urgent), agent_verifier._SINGLY + 1
                )
        # also the one whose record was not kept
        self.wait(lambda: self.events)

    def test_a_fault_does_not_end_it(self):
        self.run_guest()
        verifier = self.start()
        with mock.patch.object(
            verifier, 'look', autospec=True, side_effect=[OSError('no'), None]
        ) as look:
            for _ in range(2):
                calls = look.call_count
                verifier.on_status('profile_load', PROFILE)
                self.wait(lambda calls=calls: look.call_count > calls)


class VerifyTest(VerifierTestCase):
    def test_one_that_is_well(self):
        process = self.run_guest()
        self.assertEqual(
            {
                'uuid': UUID,
                'running': True,
                'pid': process.pid,
                'expected': GOOD,
                'threads': {
                    str(process.pid): GOOD,
                    str(process.pid + 1): GOOD,
                },
                'confined': True,
                'reason': '',
            },
            self.verifier.verify(UUID),
        )

    def test_one_that_is_not(self):
        self.run_guest(labels=[GOOD, 'unconfined'])
        answer = self.verifier.verify(UUID)
        self.assertIs(False, answer['confined'])
        self.assertIn('was removed', answer['reason'])

    def test_one_that_does_not_run(self):
        answer = self.verifier.verify(UUID)
        self.assertEqual(
            (False, None), (answer['running'], answer['confined'])
        )

    def test_one_whose_process_is_not_there(self):
        self.running.append((UUID, 'instance-00000007', 7))
        answer = self.verifier.verify(UUID)
        self.assertIs(False, answer['confined'])
        self.assertIn('instance-00000007.pid', answer['reason'])

    def test_one_that_is_well_under_selinux(self):
        self.use_selinux()
        self.levels = {UUID: 's0:c504,c872'}
        self.run_guest(labels=[CONTEXT])
        answer = self.verifier.verify(UUID)
        self.assertIs(True, answer['confined'])
        self.assertIn('svirt_t', answer['expected'])
        self.assertIn('s0:c504,c872', answer['expected'])

    def test_in_complain_mode(self):
        self.run_guest(labels=[COMPLAINING])
        answer = self.make(mode='complain').verify(UUID)
        self.assertIs(True, answer['confined'])
        self.assertEqual(COMPLAINING, answer['expected'])

    def test_one_whose_label_cannot_be_read(self):
        process = self.run_guest()
        self.labels[process.pid] = FORBIDDEN
        answer = self.verifier.verify(UUID)
        self.assertEqual(process.pid, answer['pid'])
        self.assertIs(False, answer['confined'])
        self.assertIn('Permission denied', answer['reason'])

    def test_while_the_mode_of_selinux_cannot_be_read(self):
        self.run_guest(labels=[CONTEXT])
        os.mkdir(f'{self.runtime}/no-selinux')
        answer = self.verifier.verify(UUID)
        self.assertIs(False, answer['confined'])
        self.assertIn(f'{self.runtime}/no-selinux', answer['reason'])
