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

"""Fuzzes the encoder of rules, guided by what of it was reached.

Run as a program, with the arguments of libFuzzer.
"""

import sys

import atheris

with atheris.instrument_imports(include=['nova_isolation.apparmor']):
    from nova_isolation.apparmor import rules

from nova_isolation import exceptions

_ACCESS = ('r', 'rwk', 'rm', 'rmix', 'w')
_GLOBS = (rules.Glob.ANY, rules.Glob.TREE, rules.Glob.DIGITS)


def _read(line):
    try:
        return rules.read_file(line, 'why')
    except exceptions.InvalidPolicy:
        return None


def encode(data):
    """Encode a path of some bytes, and read what was made of them.

    :param data: the bytes
    """
    source = atheris.FuzzedDataProvider(data)
    path = ['/']
    for _ in range(source.ConsumeIntInRange(0, 5)):
        if isinstance(path[-1], str) and source.ConsumeBool():
            path.append(_GLOBS[source.ConsumeIntInRange(0, 2)])
            continue
        text = source.ConsumeUnicode(30)
        if isinstance(path[-1], str):
            path[-1] += text
        elif text:
            path.append(text)
    access = _ACCESS[source.ConsumeIntInRange(0, len(_ACCESS) - 1)]
    rule = rules.File(tuple(path), access, 'why', deny=source.ConsumeBool())
    # a line of anybody's is ours, or none
    _read(source.ConsumeUnicodeNoSurrogates(60))
    try:
        line = rule.render(rules.Dialect())
    except exceptions.InvalidPolicy:
        return
    assert len(line.splitlines()) == 1, line
    assert line.count('"') == 2, line
    assert _read(line) == rule, (line, rule)
    if len(path) == 1:
        assert rule.matches(path[0]), rule
        assert not rule.matches(path[0] + 'x'), rule


if __name__ == '__main__':
    atheris.Setup(sys.argv, encode)
    atheris.Fuzz()
