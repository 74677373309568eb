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

"""Stand-in for keystone: a paste filter in place of keystonemiddleware's, in
nova-api and glance.

A token is `user:project` or `user:project:role,role`; any name will do. Ids
are derived from the names, so they are the same in every run. The user `admin`
has the role admin when the token names none.
"""

import collections.abc
import typing
import uuid

Environment = dict[str, typing.Any]
Application = collections.abc.Callable[
    [Environment, typing.Any], collections.abc.Iterable[bytes]
]
ROLES = 'member,reader'
ADMIN_ROLES = 'admin,manager,member,reader'


def identify(token: str) -> dict[str, str]:
    """What keystone would say of a token.

    :returns: header name to value.
    """
    user, project, roles = [*token.split(':'), '', ''][:3]
    project = project or user
    return {
        'X-Identity-Status': 'Confirmed',
        'X-User-Id': uuid.uuid5(uuid.NAMESPACE_DNS, 'user ' + user).hex,
        'X-User-Name': user,
        'X-User-Domain-Id': 'default',
        'X-Project-Id': uuid.uuid5(
            uuid.NAMESPACE_DNS, 'project ' + project
        ).hex,
        'X-Project-Name': project,
        'X-Project-Domain-Id': 'default',
        'X-Roles': roles or (ADMIN_ROLES if user == 'admin' else ROLES),
    }


def filter_factory(
    _global: object, **_local: object
) -> collections.abc.Callable[[Application], Application]:
    """What paste calls."""

    def wrap(application: Application) -> Application:
        def authenticated(
            environment: Environment, start: typing.Any
        ) -> collections.abc.Iterable[bytes]:
            token = environment.get('HTTP_X_AUTH_TOKEN')
            if not token:
                start('401 Unauthorized', [('Content-Type', 'text/plain')])
                return [b'no X-Auth-Token\n']
            for header, value in identify(token).items():
                environment['HTTP_' + header.upper().replace('-', '_')] = value
            return application(environment, start)

        # / lists the API versions, for anybody
        return lambda environment, start: (
            application(environment, start)
            if environment.get('PATH_INFO', '').strip('/') == ''
            else authenticated(environment, start)
        )

    return wrap
