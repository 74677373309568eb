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

"""What the stand-ins that speak JSON share."""

import collections.abc
import json
import typing
import urllib.parse

Resource = dict[str, typing.Any]
Query = dict[str, list[str]]


class BadRequest(Exception):
    """A request that the service would not do; its text is the answer's."""


class Application:
    """A WSGI application whose answers are JSON.

    :cvar version: the first word of its paths
    """

    version: str

    def __call__(
        self, environment: dict[str, typing.Any], start: typing.Any
    ) -> collections.abc.Iterable[bytes]:
        length = int(environment.get('CONTENT_LENGTH') or 0)
        body = (
            json.loads(environment['wsgi.input'].read(length))
            if length
            else {}
        )
        path = (
            environment['PATH_INFO']
            .strip('/')
            .removeprefix(self.version)
            .strip('/')
            .split('/')
        )
        query = urllib.parse.parse_qs(environment.get('QUERY_STRING', ''))
        answer: Resource | None
        try:
            status, answer = self.answer(
                environment['REQUEST_METHOD'], path, query, body
            )
        except KeyError:
            status, answer = '404 Not Found', self.fault(404, str(path))
        except BadRequest as e:
            status, answer = '400 Bad Request', self.fault(400, str(e))
        # stderr is this stand-in's log
        print(
            environment['REQUEST_METHOD'],
            environment['PATH_INFO'],
            query,
            status,
            file=environment['wsgi.errors'],
        )
        content = b'' if answer is None else json.dumps(answer).encode()
        start(
            status,
            [
                ('Content-Type', 'application/json'),
                ('Content-Length', str(len(content))),
            ],
        )
        return [content]

    def answer(
        self, method: str, path: list[str], query: Query, body: Resource
    ) -> tuple[str, Resource | None]:
        """The answer to one request.

        :param path: the words after the version.
        :returns: status and body.
        :raises KeyError: when there is no such thing.
        :raises BadRequest: when it is not to be done.
        """
        raise NotImplementedError

    def fault(self, code: int, message: str) -> Resource:
        """What the service says of an error."""
        raise NotImplementedError


def matches(resource: Resource, query: Query) -> bool:
    """Whether a list request wants this resource; what a resource does not
    have, cannot be asked for.
    """
    ignored = ('fields', 'tenant_id', 'project_id', 'limit', 'marker')
    return all(
        str(resource[k]) in values
        for k, values in query.items()
        if k in resource and k not in ignored
    )
