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

"""The first of a kind at once; of all others the number, whatever happens."""

import collections
import datetime
import json
import uuid

import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_isolation.violations import coalescing
from nova_isolation.violations import model

FIRST = '36a5a3c8-8489-4380-9a87-8a5b4732e00d'
SECOND = '8887d9d3-17f8-4388-8771-fab6312518d6'
EPOCH = datetime.datetime(2026, 11, 23, 7, 54, 59, tzinfo=datetime.UTC)


def at(seconds):
    return EPOCH + datetime.timedelta(seconds=seconds)


def kind(name):
    return ('open', 'file', f'/i/{name}', 'w')


class _Agent:
    """What an agent does with a coalescer: all that comes in goes out."""

    def __init__(self, window=60, kinds=3):
        self.coalescer = coalescing.Coalescer(window, kinds, key=b'k')
        self.rows = {}
        self.events = {}
        self.now = 0.0

    def add(self, instance, name, now=None, lane=''):
        self.now = self.now if now is None else now
        window = self.coalescer.add(
            instance, kind(name), self.now, at(self.now), lane
        )
        if window is None:
            return None
        event = model.Violation(
            host='h',
            decision='denied',
            instance=model.Instance(instance, 'vm'),
            denial=model.Denial(1, at(self.now), f'libvirt-{instance}'),
            target=model.Target(f'/i/{name}', 'host file'),
            attempt='open',
            classification=model.Classification('host_file', 'low', 'x'),
            repeats=window.opening(at(self.now)),
        )
        window.id = event.id
        self.events[event.id] = event.payload()
        return event

    def finish(self, now=None, commit=True):
        self.now = self.now if now is None else now
        summaries = [
            coalescing.summary(self.events[w.id], w, at(self.now))
            for w in self.coalescer.due(self.now)
        ]
        changes = self.coalescer.changes()
        if commit:
            # the journal keeps JSON
            for identity, row in json.loads(json.dumps(changes)).items():
                if row is None:
                    self.rows.pop(identity, None)
                else:
                    self.rows[identity] = row
            self.events.update((s['id'], s) for s in summaries)
            self.coalescer.committed()
        return summaries

    def die(self):
        self.coalescer = coalescing.Coalescer(60, 3)
        return self.coalescer.restore(self.rows)

    def told(self):
        return sum(e['repeats']['count'] for e in self.events.values())


class CoalescerTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.agent = _Agent()

    def test_the_first_of_a_kind_is_reported_and_its_repeats_are_counted(self):
        agent = self.agent
        first = agent.add(FIRST, 'a', 0)
        self.assertEqual(model.Repeats(1, at(0), at(0)), first.repeats)
        for now in (1, 5, 3):
            self.assertIsNone(agent.add(FIRST, 'a', now))
        self.assertEqual([], agent.finish(59.9))
        (summary,) = agent.finish(60)
        self.assertEqual(
            {
                'count': 3,
                'first': model.iso(at(1)),
                'last': model.iso(at(5)),
                'of': first.id,
                'kinds': 0,
                'samples': [],
            },
            summary['repeats'],
        )
        self.assertEqual(first.payload()['denial'], summary['denial'])
        self.assertEqual(
            f'{first.summary()}; 3 times more, from {model.iso(at(1))} to '
            f'{model.iso(at(5))}',
            summary['summary'],
        )

    def test_what_is_not_repeated_has_no_second_event(self):
        self.agent.add(FIRST, 'a', 0)
        self.assertEqual([], self.agent.finish(60))
        self.assertEqual(0, len(self.agent.coalescer))

    def test_after_the_window_a_kind_is_new(self):
        first = self.agent.add(FIRST, 'a', 0)
        self.agent.finish(60)
        again = self.agent.add(FIRST, 'a', 61)
        self.assertIsNotNone(again)
        self.assertNotEqual(first.id, again.id)

    def test_a_kind_is_a_guest_s_own(self):
        self.assertIsNotNone(self.agent.add(FIRST, 'a', 0))
        self.assertIsNotNone(self.agent.add(SECOND, 'a', 0))

    def test_a_kind_that_was_not_reported_counts_as_new(self):
        coalescer = coalescing.Coalescer(60, 1)
        for _ in range(3):
            # making the event failed each time
            window = coalescer.add(FIRST, kind('a'), 0, at(0))
            self.assertEqual('', window.id)
        window.id = model.new_id()
        self.assertIsNone(coalescer.add(FIRST, kind('a'), 0, at(0)))
        # the same of an overflow
        for name in 'bcb':
            window = coalescer.add(FIRST, kind(name), 0, at(0))
            self.assertEqual('', window.id)
        window.id = model.new_id()
        self.assertIsNone(coalescer.add(FIRST, kind('d'), 0, at(0)))

    def test_the_id_of_an_end_is_the_same_each_time_it_is_told(self):
        agent = self.agent
        agent.add(FIRST, 'a', 0)
        agent.add(FIRST, 'a', 1)
        (lost,) = agent.finish(60, commit=False)
        (told,) = agent.finish(61)
        self.assertEqual(lost['id'], told['id'])
        uuid.UUID(told['id'])
        self.assertEqual([], agent.finish(62))

    def test_what_comes_after_a_failed_commit_is_counted_too(self):
        agent = self.agent
        agent.add(FIRST, 'a', 0)
        agent.add(FIRST, 'a', 1)
        agent.finish(60, commit=False)
        self.assertIsNone(agent.add(FIRST, 'a', 61))
        (told,) = agent.finish(62)
        self.assertEqual(2, told['repeats']['count'])

    def test_what_was_counted_outlives_the_agent(self):
        agent = self.agent
        agent.add(FIRST, 'a', 0)
        agent.add(FIRST, 'a', 1)
        for name in 'bcdef':
            agent.add(FIRST, name, 2)
        agent.finish(3)
        self.assertEqual(2, len(agent.rows))
        self.assertEqual([], agent.die())
        told = agent.finish(0)
        self.assertEqual([1, 2], [s['repeats']['count'] for s in told])
        self.assertEqual([0, 2], [s['repeats']['kinds'] for s in told])
        self.assertEqual(model.iso(at(1)), told[0]['repeats']['first'])
        self.assertEqual({}, agent.rows)
        self.assertEqual(7, agent.told())
        # and nothing of it holds up what is new
        self.assertIsNotNone(agent.add(FIRST, 'a', 1))

    def test_many_ends_are_told_a_thousand_at_a_time(self):
        coalescer = coalescing.Coalescer(60, 3000)
        ids = []
        for number in range(2500):
            window = coalescer.add(FIRST, kind(str(number)), 0, at(0))
            window.id = model.new_id()
            ids.append(window.id)
            coalescer.add(FIRST, kind(str(number)), 1, at(1))
        rows = coalescer.changes()
        another = coalescing.Coalescer(60, 3000)
        self.assertEqual([], another.restore(rows))
        for each in (coalescer, another):
            told = []
            while ended := each.due(60):
                self.assertLessEqual(len(ended), 1000)
                # what could not be written is told again, and no more
                self.assertEqual(ended, each.due(60))
                told.extend(window.id for window in ended)
                each.committed()
            self.assertEqual(ids, told)
            self.assertEqual(0, len(each))

    def test_rows_that_cannot_be_read_are_named(self):
        good = {
            'instance': FIRST,
            'count': 1,
            'first': EPOCH.timestamp(),
            'last': EPOCH.timestamp(),
            'kinds': 0,
            'samples': [],
        }
        bad = {
            FIRST: {},
            SECOND: good | {'count': 'x'},
            model.new_id(): good | {'first': '2026-11-23T00:00:00Z'},
            model.new_id(): good | {'last': 1e300},
            model.new_id(): good | {'count': 0},
            model.new_id(): good | {'samples': None},
            'no uuid': good,
        }
        coalescer = coalescing.Coalescer(60, 3)
        unreadable = coalescer.restore(bad | {model.new_id(): good})
        self.assertEqual(list(bad), unreadable)
        self.assertEqual(1, len(coalescer.due(0)))


class OverflowTest(base.BaseTestCase):
    def test_it_is_told_at_once_and_again_with_its_numbers(self):
        agent = _Agent(kinds=3)
        for name in 'abc':
            self.assertEqual(0, agent.add(FIRST, name).repeats.kinds)
        begin = agent.add(FIRST, 'd')
        self.assertEqual(1, begin.repeats.kinds)
        self.assertIn('too many kinds', begin.summary())
        self.assertIn('/i/d', begin.summary())
        for name in 'efgefgd':
            self.assertIsNone(agent.add(FIRST, name, 1))
        # those that have a window are counted there
        self.assertIsNone(agent.add(FIRST, 'a'))
        first, overflow = agent.finish(61)
        self.assertEqual(1, first['repeats']['count'])
        self.assertEqual(7, overflow['repeats']['count'])
        self.assertEqual(4, overflow['repeats']['kinds'])
        self.assertEqual(begin.id, overflow['repeats']['of'])
        self.assertEqual(
            {f'open file /i/{name} w' for name in 'defg'},
            set(overflow['repeats']['samples']),
        )
        self.assertTrue(
            overflow['summary'].startswith(
                f'instance vm ({FIRST}) tried 7 times more, in at least 4 '
            )
        )
        self.assertEqual(0, len(agent.coalescer))

    def test_it_takes_nothing_from_another_guest(self):
        agent = _Agent(kinds=3)
        for number in range(1000):
            agent.add(FIRST, number)
        for name in 'abc':
            event = agent.add(SECOND, name)
            self.assertEqual(0, event.repeats.kinds)

    def test_noise_in_one_lane_hides_nothing_in_another(self):
        agent = _Agent(kinds=3)
        for number in range(1000):
            agent.add(FIRST, number, lane='low')
        event = agent.add(FIRST, 'a', lane='critical')
        self.assertEqual(0, event.repeats.kinds)

    def test_at_least_so_many_kinds_is_true_and_not_far_off(self):
        for real in (63, 64, 100, 1000, 30_000):
            agent = _Agent(kinds=1)
            agent.add(FIRST, 'first')
            agent.add(FIRST, 'begin')
            for _ in range(2 if real < 2000 else 1):
                for number in range(real):
                    agent.add(FIRST, number)
            (summary,) = agent.finish(60)
            told = summary['repeats']['kinds']
            self.assertLessEqual(told, real)
            self.assertGreater(told, real / 3)

    def test_the_samples_are_of_all_not_of_the_first(self):
        agent = _Agent(kinds=1)
        agent.add(FIRST, 'first')
        agent.add(FIRST, 'begin')
        for number in range(10_000):
            agent.add(FIRST, number)
        (summary,) = agent.finish(60)
        samples = summary['repeats']['samples']
        self.assertEqual(8, len(samples))
        numbers = [int(s.split('/')[-1].split()[0]) for s in samples]
        self.assertGreater(max(numbers), 5000)

    def test_huge_and_odd_names_cost_little(self):
        coalescer = coalescing.Coalescer(60, 1)
        for name in ('a', 'b'):
            coalescer.add(FIRST, (name,), 0, at(0)).id = model.new_id()
        for name in ('x' * 100_000, '\udcff\x1b[2J\n', None, 7):
            coalescer.add(FIRST, ('open', name), 0, at(0))
        (window,) = coalescer.due(60)
        self.assertEqual(4, window.kinds)
        self.assertTrue(all(len(s) <= 200 for s in window.samples))
        self.assertIn('\\x1b', str(window.repeats().payload()))
        json.dumps(coalescer.changes()).encode('ascii')


class BoundsTest(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        for name, value in (('_MANY', 100), ('_SHARE', 2)):
            self.addCleanup(
                setattr, coalescing, name, getattr(coalescing, name)
            )
            setattr(coalescing, name, value)

    def test_when_there_are_many_windows_each_guest_still_has_its_share(self):
        agent = _Agent(kinds=60)
        for name in range(60):
            for instance in (FIRST, SECOND):
                agent.add(instance, name)
        self.assertLessEqual(len(agent.coalescer), 102)
        other = model.new_id()
        kinds = [agent.add(other, name).repeats.kinds for name in 'abc']
        self.assertEqual([0, 0, 1], kinds)

    def test_windows_of_guests_without_number_end_before_their_time(self):
        agent = _Agent(kinds=60)
        guests = [model.new_id() for _ in range(1000)]
        for instance in guests:
            agent.add(instance, 'a')
            agent.add(instance, 'a')
        ended = [len(agent.finish()) for _ in range(3)]
        self.assertEqual([500, 300, 0], ended)
        self.assertEqual(200, len(agent.coalescer))
        self.assertEqual(200, len(agent.finish(60)))
        self.assertEqual(2000, agent.told())

    def test_guests_that_are_gone_leave_nothing(self):
        agent = _Agent()
        for _ in range(50):
            for name in 'abcdef':
                agent.add(model.new_id(), name)
        agent.finish(60)
        self.assertEqual({}, agent.coalescer._guests)
        self.assertEqual({}, agent.coalescer._windows)


ACTS = strategies.lists(
    strategies.one_of(
        strategies.tuples(
            strategies.just('add'),
            strategies.sampled_from([FIRST, SECOND]),
            strategies.integers(0, 8),
        ),
        strategies.tuples(strategies.just('wait'), strategies.integers(1, 70)),
        strategies.tuples(strategies.just('finish'), strategies.booleans()),
        strategies.tuples(strategies.just('die')),
    ),
    max_size=60,
)


class LedgerTest(base.BaseTestCase):
    @hypothesis.settings(max_examples=300)
    @hypothesis.given(ACTS)
    def test_what_comes_in_goes_out_whatever_happens(self, acts):
        agent = _Agent()
        came = 0
        for act in acts:
            match act:
                case ('add', instance, name):
                    agent.add(instance, name)
                    came += 1
                case ('wait', seconds):
                    agent.now += seconds
                case ('finish', commit):
                    agent.finish(commit=commit)
                case ('die',):
                    # An agent dies between two batches. In one, what was not
                    # committed is read again from where the position says.
                    agent.finish()
                    agent.die()
        agent.finish(agent.now + 1000)
        self.assertEqual(came, agent.told())
        counts = collections.Counter(
            e['repeats']['of'] for e in agent.events.values()
        )
        del counts[None]
        self.assertLessEqual(max(counts.values(), default=1), 1)
