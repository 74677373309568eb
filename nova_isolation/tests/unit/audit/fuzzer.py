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

"""Fuzzes the reader of audit records, guided by what of it was reached.

Run as a program, with the arguments of libFuzzer. The samples and one record
of each shape are what is mutilated.
"""

import pathlib
import sys

import atheris

with atheris.instrument_imports(include=['nova_isolation.audit']):
    from nova_isolation.audit import records

from nova_isolation.tests.unit.audit import shapes

_DATA = pathlib.Path(__file__).parent / 'samples'
_SAMPLES = [
    *(
        b'audit: type=%d %b' % (shape.kind, shape.payload)
        for shape in shapes.ALL
    ),
    *(
        b'audit: type=%b %b' % tuple(line.split(b' ', 1))
        for path in sorted(_DATA.glob('*.netlink'))
        for line in path.read_bytes().splitlines()
    ),
    *(
        line
        for name in ('*.log', '*.dmesg')
        for path in sorted(_DATA.glob(name))
        for line in path.read_bytes().splitlines()
    ),
]
#: What means something to the reader.
_WORDS = [
    *(b'"', b'=', b' ', b"'", b'{', b'}', b'\n', b'\0', b'\x1d', b'(', b':'),
    *(b'apparmor="', b'avc:  denied  { ', b' } for ', b"msg='", b' scontext='),
    *(b'type=AVC msg=', b'audit: type=1400 ', shapes.HEADER.encode()),
]


def read_mutilated(data):
    """Mutilate a line as some bytes say, and read it.

    :param data: the bytes
    """
    source = atheris.FuzzedDataProvider(data)

    def choose(choices):
        return choices[source.ConsumeIntInRange(0, len(choices) - 1)]

    line = bytearray(choose(_SAMPLES))
    for _ in range(source.ConsumeIntInRange(0, 6)):
        start = source.ConsumeIntInRange(0, len(line))
        stop = start + source.ConsumeIntInRange(0, 8)
        known = source.ConsumeBool()
        line[start:stop] = choose(_WORDS) if known else source.ConsumeBytes(8)
    found = records.locate(bytes(line))
    record = records.parse_line(bytes(line))
    if found is None:
        assert record is None, record
        return
    kind, payload = found
    records.enrichment(kind, payload)
    if isinstance(record, records.Unparsable):
        assert len(str(record)) < 2000, record
    if isinstance(record, records.Record):
        stamp = records.serial_of(payload)
        assert stamp == (record.millis, record.serial), record
        assert record.decision is None or record.label, record
        records._shapes.clear()
        again = records.parse(kind, payload)
        assert again == record, (again, record)
        assert records.identity(again) == records.identity(record)


if __name__ == '__main__':
    atheris.Setup(sys.argv, read_mutilated)
    atheris.Fuzz()
