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

"""``nova-isolation violations``: what the agent's journal has."""

import argparse
from collections.abc import Callable, Iterator, Sequence
import datetime
import json
import re
import time
from typing import Any
import uuid

from cliff import lister
from oslo_config import cfg

from nova_isolation.cli import app
from nova_isolation.conf import agent as agent_options
from nova_isolation import exceptions
from nova_isolation.violations import journal
from nova_isolation.violations import model
from nova_isolation.violations import text

# Seconds between two looks at the journal.
_POLL = 0.5
# Events that are read at a time.
_BATCH = 1000

# What fits a terminal, and what programs get beside it.
_SHORT = ('Time', 'Severity', 'Event', 'Instance', 'Repeats', 'Summary')
_LONG = (*_SHORT, 'Seq', 'Id', 'Sent', 'Failure', 'Payload')
# These can write an object; the others get it as its JSON text.
_NESTING = ('json', 'yaml')

_DURATION = re.compile(r'([0-9]{1,9})([smhdw])')
_SECONDS = {'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 604800}

Row = dict[str, Any]


class Violations(lister.Lister):
    """Show what the agent has reported, from the journal of this host.

    Everything that is there: violations, refused starts, guests that are not
    confined, what was lost, the agent's starts. The newest at the end.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            '--follow',
            action='store_true',
            help='print one line for each event as it comes, until '
            'interrupted; with -f json one JSON object per line',
        )
        parser.add_argument(
            '--instance',
            metavar='UUID|NAME',
            help="only what one guest is about: its uuid or its project's "
            'name of it',
        )
        parser.add_argument(
            '--since',
            metavar='TIME|DURATION',
            type=since,
            help='only from then on: 2026-11-23T07:54:59 (UTC unless it says '
            'otherwise), or 90s, 30m, 12h, 7d, 2w ago',
        )
        parser.add_argument(
            '--limit',
            metavar='N',
            type=_positive,
            default=100,
            help='the newest N events; default 100',
        )
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        if not parsed_args.follow:
            return int(super().run(parsed_args) or 0)
        write = as_json if parsed_args.formatter == 'json' else as_line
        reader = self._reader()
        for entry in self._follow(reader, parsed_args):
            self.app.stdout.write(write(entry) + '\n')
            self.app.stdout.flush()
        return 0

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
        entries = self._newest(self._reader(), parsed_args)
        columns = _SHORT if parsed_args.formatter == 'table' else _LONG
        show: Callable[[Any], Any] = (
            _value if parsed_args.formatter in _NESTING else _shown
        )
        rows = [row(entry) for entry in entries]
        return columns, [tuple(show(r[c]) for c in columns) for r in rows]

    def _reader(self) -> journal.Reader:
        conf = app.configuration(self.app)
        agent_options.register_opts(conf)
        try:
            directory = conf.isolation.journal_directory
        except (cfg.Error, ValueError) as e:
            raise exceptions.ConfigurationError(str(e)) from e
        return journal.Reader(directory)

    def _newest(
        self, reader: journal.Reader, parsed_args: argparse.Namespace
    ) -> list[journal.Entry]:
        # cliff keeps what it parsed: once is enough for both
        if parsed_args.instance is not None:
            parsed_args.instance = guest(reader, parsed_args.instance)
        return reader.entries(
            instance=parsed_args.instance,
            after=parsed_args.since,
            limit=parsed_args.limit,
            newest=True,
        )

    def _follow(
        self, reader: journal.Reader, parsed_args: argparse.Namespace
    ) -> Iterator[journal.Entry]:
        entries = self._newest(reader, parsed_args)
        last = 0
        warned = False
        while True:
            for entry in entries:
                yield entry
                last = entry.seq
            if len(entries) < _BATCH:
                time.sleep(_POLL)
            try:
                entries = reader.entries(
                    last,
                    instance=parsed_args.instance,
                    after=parsed_args.since,
                    limit=_BATCH,
                )
            except exceptions.JournalUnavailable as e:
                # an agent that puts it aside begins another
                entries = []
                if not warned:
                    self.app.LOG.warning('%s', e.message)
                warned = True
            else:
                warned = False


def guest(reader: journal.Reader, wanted: str) -> str:
    """Find the guest that an operator names.

    :param reader: of the journal
    :param wanted: its uuid, or its project's name of it
    :returns: its uuid
    :raises InvalidDomain: when none, or more than one, is called so
    :raises JournalUnavailable: when the journal cannot be read
    """
    try:
        return str(uuid.UUID(wanted))
    except ValueError:
        pass
    # as the payloads show it
    name = text.visible(wanted)
    found = sorted(
        str(known.get('uuid'))
        for known in reader.guests()
        if known.get('name') == name
    )
    if len(found) == 1:
        return found[0]
    if found:
        raise exceptions.InvalidDomain(
            f'more than one guest is called {name}: name one by its uuid: '
            f'{", ".join(found)}'
        )
    raise exceptions.InvalidDomain(
        f'the journal {reader.path} has nothing about a guest called {name}'
    )


def since(words: str) -> float:
    """Read a time.

    :param words: ISO 8601, or how long ago: ``30m``
    :returns: seconds since the epoch
    :raises ArgumentTypeError: when it is neither
    """
    if match := _DURATION.fullmatch(words):
        return time.time() - int(match[1]) * _SECONDS[match[2]]
    try:
        moment = datetime.datetime.fromisoformat(words)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return moment.timestamp()
    except (ValueError, OverflowError) as e:
        raise argparse.ArgumentTypeError(
            f'{words!r} is neither a time (2026-11-23T07:54:59) nor a '
            f'duration (90s, 30m, 12h, 7d, 2w)'
        ) from e


def row(entry: journal.Entry) -> Row:
    """Tell what there is to know of an event.

    :param entry: the event
    :returns: ``{column: value}``
    """
    payload = entry.payload
    known = payload.get('classification')
    severity = known.get('severity') if isinstance(known, dict) else None
    repeats = payload.get('repeats')
    count = repeats.get('count') if isinstance(repeats, dict) else None
    return {
        'Time': _iso(entry.time),
        'Severity': severity or entry.priority,
        'Event': entry.event_type.removeprefix('isolation.'),
        'Instance': entry.instance,
        'Repeats': count,
        'Summary': payload.get('summary'),
        'Seq': entry.seq,
        'Id': entry.id,
        'Sent': None if entry.sent is None else _iso(entry.sent),
        'Failure': entry.failure,
        'Payload': payload,
    }


def as_json(entry: journal.Entry) -> str:
    """Write an event for programs.

    :param entry: the event
    :returns: a JSON object in one line
    """
    return json.dumps(row(entry))


def as_line(entry: journal.Entry) -> str:
    """Write an event for people.

    :param entry: the event
    :returns: one line
    """
    known = row(entry)
    columns = ('Time', 'Severity', 'Event', 'Summary')
    return ' '.join(_shown(known[column]) for column in columns)


def _iso(at: float) -> str:
    return model.iso(model.utc(at))


def _value(value: Any) -> Any:
    return value


def _shown(value: Any) -> str:
    if value is None:
        return ''
    if isinstance(value, dict):
        return json.dumps(value)
    # Payloads are made visible when they are made: what is not, is not ours.
    words = str(value)
    return words if words.isprintable() else text.visible(words, text.PATH)


def _positive(words: str) -> int:
    number = int(words)
    if not 1 <= number <= 1_000_000:
        raise ValueError
    return number
