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

"""The kinds of AppArmor rules that stand in our profiles, as typed values.

Each validates itself and renders to one line of AppArmor's language
(apparmor.d(5)). A path is a sequence of literal texts and named globs, so that
a text stands only for itself, whatever it contains.
"""

import dataclasses
import enum
import functools
import os
import re
from typing import ClassVar, Protocol

from nova_isolation import exceptions

# Linux' PATH_MAX without the closing NUL
_MAX_PATH = 4095

# Written as an octal number, a character means only itself to the parser's
# lexer and to its globbing, in 3.0 and 4.1; asked of the kernel. Other ways
# are not safe: "\\" at the end of a path escapes the closing quote, and "[?]"
# matches nothing.
_ESCAPED = str.maketrans({c: f'\\{ord(c):03o}' for c in '*?[]{}^,\\"@'})
_CONTROL = re.compile('[\0-\x1f\x7f]')

_FILE_ACCESS = re.compile('(?=[a-z])r?w?m?k?(ix)?')
_LETTERS = re.compile('ix|[a-z]')
_WORD = re.compile('[a-z0-9_]+')
_LABEL = re.compile('[A-Za-z0-9_./-]+')


#: Where AppArmor puts what lies outside a process' mount namespace, if it has
#: the word for it; else it would pass for what has the same name inside.
DISCONNECTED = '/disconnected'


class Glob(enum.Enum):
    """The only patterns that may stand in a path."""

    #: any characters within one path component
    ANY = '*'
    #: any characters, directories too
    TREE = '**'
    #: at the end: the directory itself, which AppArmor names with a slash
    DIRECTORY = '/'
    #: one to seven digits: a domain's id, a pseudo terminal, a process
    DIGITS = '{' + ','.join('[0-9]' * n for n in range(1, 8)) + '}'
    #: after the first slash: what libvirt opens outside the guest's own /dev
    HANDED_OVER = '{,' + DISCONNECTED[1:] + '/}'


Path = tuple[str | Glob, ...]


@dataclasses.dataclass(frozen=True)
class Dialect:
    """What the installed AppArmor understands beyond the least we know.

    :ivar network_operations: whether a network rule may name operations, so
        that listening is one right and connecting another
    :ivar disconnected_path: whether what lies outside the mount namespace can
        be given a root of its own instead of the real one
    """

    network_operations: bool = False
    disconnected_path: bool = False


class Rule(Protocol):
    """One rule of a profile.

    :ivar origin: why it is there: the XML element, or the need of QEMU or
        libvirt, in words
    """

    @property
    def origin(self) -> str: ...

    def render(self, dialect: Dialect) -> str:
        """Give the rule in AppArmor's language, without the line's end.

        :param dialect: the narrowest form is chosen that it has
        :returns: e.g. ``"/dev/null" rw,``
        """
        ...


def check_path(path: str) -> str:
    """Check that a path can be granted literally.

    :param path: a path as the kernel shows it
    :returns: the same path
    :raises InvalidPolicy: when it is not absolute and normal, or holds what
        cannot stand in a profile literally
    """
    # POSIX, and so normpath(), keeps two slashes at the beginning; the kernel
    # and the parser do not.
    if (
        not path.startswith('/')
        or path.startswith('//')
        or os.path.normpath(path) != path
    ):
        raise exceptions.InvalidPolicy(
            f'not an absolute, normal path: {path!r}'
        )
    try:
        length = len(path.encode())
    except UnicodeEncodeError as e:
        raise exceptions.InvalidPolicy(
            f'a path that is not UTF-8 cannot be granted: {path!r}'
        ) from e
    if length > _MAX_PATH:
        raise exceptions.InvalidPolicy(
            f'a path of {length} bytes, longer than {_MAX_PATH}: {path[:80]!r}'
        )
    if _CONTROL.search(path):
        raise exceptions.InvalidPolicy(
            f'a path with control characters cannot be granted: {path!r}'
        )
    return path


def render_path(path: Path) -> str:
    """Quote a path for a profile.

    :param path: literal texts and globs
    :returns: the quoted form, in which each text matches only itself
    :raises InvalidPolicy: when a text cannot stand in a profile literally
    """
    named = path[:-1] if path[-1:] == (Glob.DIRECTORY,) else path
    check_path(''.join(p if isinstance(p, str) else 'x' for p in named))
    text = ''.join(
        part.value if isinstance(part, Glob) else part.translate(_ESCAPED)
        for part in path
    )
    return f'"{text}"'


def _words(words: tuple[str, ...]) -> str:
    for word in words:
        _match(_WORD, word, 'keyword')
    return ', '.join(words)


def _match(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise exceptions.InvalidPolicy(f'not a valid {what}: {text!r}')
    return text


@dataclasses.dataclass(frozen=True)
class File:
    """Access to files: ``r``, ``w``, ``m`` (map executable), ``k`` (lock) and
    ``ix`` (execute under the same profile), or quietly none.
    """

    path: Path
    access: str
    origin: str
    deny: bool = False

    @property
    def letters(self) -> frozenset[str]:
        """The single rights of the access, e.g. ``{'r', 'ix'}``."""
        return frozenset(_LETTERS.findall(self.access))

    def matches(self, path: str) -> bool:
        """Tell whether the rule is about a path.

        :param path: a path as the kernel shows it
        :returns: what AppArmor's own matching says
        """
        if all(isinstance(part, str) for part in self.path):
            return path == ''.join(map(str, self.path))
        return _pattern(self.path).fullmatch(path) is not None

    def render(self, dialect: Dialect) -> str:
        access = _match(_FILE_ACCESS, self.access, 'file access')
        prefix = 'deny ' if self.deny else ''
        return f'{prefix}{render_path(self.path)} {access},'


_TOKEN = re.compile(
    r'\\(?P<octal>[0-7]{3})|(?P<glob>'
    + '|'.join(
        # the longest first
        re.escape(glob.value)
        for glob in sorted(Glob, key=lambda g: -len(g.value))
        if glob is not Glob.DIRECTORY
    )
    + ')|(?P<text>[^\\\\*{}])',
    re.DOTALL,
)
_FILE_RULE = re.compile(r'(deny )?"([^"]*)" ([a-z]+),')


def read_file(line: str, origin: str) -> File | None:
    """Read back what :meth:`File.render` wrote.

    :param line: of a profile of ours, without the space around it
    :param origin: of the rule
    :returns: the rule; None for any other line
    :raises InvalidPolicy: when it is a rule about a file that is not ours
    """
    found = _FILE_RULE.fullmatch(line)
    if not found:
        return None
    deny, written, access = found.groups()
    parts: list[str | Glob] = []
    directory = len(written) > 1 and written.endswith('/')
    if directory:
        written = written[:-1]
    at = 0
    while at < len(written):
        token = _TOKEN.match(written, at)
        if not token:
            raise exceptions.InvalidPolicy(f'not a rule of ours: {line[:80]}')
        at = token.end()
        if token['glob']:
            parts.append(Glob(token['glob']))
            continue
        text = chr(int(token['octal'], 8)) if token['octal'] else token['text']
        if parts and not isinstance(parts[-1], Glob):
            parts[-1] += text
        else:
            parts.append(text)
    if directory:
        parts.append(Glob.DIRECTORY)
    return File(tuple(parts), access, origin, deny=bool(deny))


def only_path(path: Path) -> str | None:
    """Tell which one file a path is about.

    :param path: of a rule
    :returns: where that file is, whoever opens it; None when there are several
    """
    parts = [part for part in path if part is not Glob.HANDED_OVER]
    if any(isinstance(part, Glob) for part in parts):
        return None
    return ''.join(map(str, parts))


_MATCHES = {
    Glob.ANY: '[^/]*',
    Glob.TREE: '.*',
    Glob.DIRECTORY: '/',
    Glob.DIGITS: '[0-9]{1,7}',
    Glob.HANDED_OVER: f'(?:{DISCONNECTED[1:]}/)?',
}


@functools.lru_cache(maxsize=256)
def _pattern(path: Path) -> re.Pattern[str]:
    expression = ''
    for part in path:
        if isinstance(part, str):
            expression += re.escape(part)
        elif part in (Glob.ANY, Glob.TREE) and expression.endswith('/'):
            # there it does not stand for nothing
            expression += _MATCHES[part].replace('*', '+')
        else:
            expression += _MATCHES[part]
    return re.compile(expression, re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Capability:
    """A capability of capabilities(7), in lower case without CAP_."""

    name: str
    origin: str

    def render(self, dialect: Dialect) -> str:
        return f'capability {_match(_WORD, self.name, "capability")},'


@dataclasses.dataclass(frozen=True)
class Network:
    """Sockets of a family and type, or quietly none.

    :ivar operations: those allowed, where AppArmor tells them apart; all when
        there are none
    """

    family: str
    type: str
    origin: str
    operations: tuple[str, ...] = ()
    deny: bool = False

    def render(self, dialect: Dialect) -> str:
        words = ['deny'] if self.deny else []
        words.append('network')
        if self.operations and dialect.network_operations:
            words.append(f'({_words(self.operations)})')
        words += [_words((self.family,)), _words((self.type,))]
        return ' '.join(words) + ','


@dataclasses.dataclass(frozen=True)
class Unix:
    """Stream sockets of the unix family, of any peer or one with a label."""

    access: tuple[str, ...]
    origin: str
    peer: str = ''

    def render(self, dialect: Dialect) -> str:
        rule = f'unix ({_words(self.access)}) type=stream'
        if self.peer:
            rule += f' peer=(label={_match(_LABEL, self.peer, "label")})'
        return rule + ','


@dataclasses.dataclass(frozen=True)
class _BetweenProcesses:
    """What is allowed between this process and those with a label."""

    keyword: ClassVar[str]

    access: str
    peer: str
    origin: str

    def render(self, dialect: Dialect) -> str:
        peer = _match(_LABEL, self.peer, 'label')
        return f'{self.keyword} ({_words((self.access,))}) peer={peer},'


class Signal(_BetweenProcesses):
    """Signals from, or to, processes with a label."""

    keyword = 'signal'


class Ptrace(_BetweenProcesses):
    """What processes with a label may do to this one, or this one to them."""

    keyword = 'ptrace'
