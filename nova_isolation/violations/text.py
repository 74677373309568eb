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

"""Text of others, made safe to show."""

# Longest name that Nova's and Keystone's databases hold, in characters.
NAME = 255
# PATH_MAX of Linux
PATH = 4096


def visible(text: str, limit: int = NAME) -> str:
    """Make every character of a text visible.

    A tenant chooses the name of a server, and an attacker that of a file.
    Whatever a terminal, a log or a person could take for something else
    (control characters, escapes, line ends, invisible or reordering
    characters, bytes that are no text) is shown by its number as in Python's
    literals, and a backslash is doubled, so that nothing can pretend to be
    so shown.

    :param text: any text
    :param limit: characters of it to keep; what is longer ends in ``...``
    :returns: printable text in one line
    """
    # before escaping, so that a huge text costs nothing
    cut = text[:limit]
    shown = ''.join(
        c
        if c.isprintable() and c != '\\'
        else c.encode('unicode_escape').decode('ascii')
        for c in cut
    )
    return shown if len(text) <= limit else shown + '...'
