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

"""Fuzzes the reader of domains, guided by what of it was reached.

Run as a program, with the arguments of libFuzzer.
"""

import copy
import sys

import atheris
from lxml import etree

with atheris.instrument_imports(include=['nova_isolation.domain']):
    from nova_isolation import domain

from nova_isolation import exceptions
from nova_isolation.tests.unit.domain import mutations


def read_mutilated(data):
    """Mutilate a domain as some bytes say, and read it.

    :param data: the bytes
    """
    source = atheris.FuzzedDataProvider(data)

    def choose(choices):
        return choices[source.ConsumeIntInRange(0, len(choices) - 1)]

    def value():
        if source.ConsumeBool():
            return choose(mutations.KNOWN)
        return source.ConsumeUnicodeNoSurrogates(20)

    root = copy.deepcopy(choose(mutations.DOMAINS))
    for _ in range(source.ConsumeIntInRange(1, 6)):
        mutations.mutilate(root, choose, value)
    try:
        domain.parse(etree.tostring(root, encoding='unicode'))
    except exceptions.InvalidDomain as e:
        assert len(e.message) < 2000, e.message


if __name__ == '__main__':
    atheris.Setup(sys.argv, read_mutilated)
    atheris.Fuzz()
