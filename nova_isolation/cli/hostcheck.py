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

"""Whether this host could confine its guests.

By the hooks' own check, as the user of nova-compute; and what libvirt's
configuration and the profiles that are there mean for guests with profiles of
ours.
"""

from collections.abc import Collection, Iterator, Mapping
import glob
import logging
import multiprocessing
from multiprocessing import connection as multiprocessing_connection
import os
import pwd
import re
from typing import Any

from oslo_config import cfg
from oslo_privsep import priv_context

from nova_isolation.apparmor import parser as parser_module
from nova_isolation.apparmor import profiles
from nova_isolation.apparmor import rules
from nova_isolation.cli.findings import Finding
from nova_isolation.cli.findings import Result
from nova_isolation import domain as domain_module
from nova_isolation import exceptions
from nova_isolation.hooks import base
from nova_isolation.hooks import manager

QEMU_CONF = '/etc/libvirt/qemu.conf'

# Where the stock profile lets operators put their own rules, below
# /etc/apparmor.d.
_OPERATORS = (
    'local/abstractions/libvirt-qemu',
    'abstractions/libvirt-qemu.d/*',
)
_SETTING = re.compile(
    r'^[ \t]*([a-z0-9_]+)[ \t]*=[ \t]*'
    r'("[^"\n]*"|\'[^\'\n]*\'|[0-9]+|\[[^]]*\])',
    re.MULTILINE,
)
_QUOTED = re.compile('"([^"]*)"|\'([^\']*)\'')
_MOST = 1 << 20
_SHOWN = 5
_PATIENCE = 60.0  # seconds, for sudo and the parser


def check(
    conf: cfg.ConfigOpts,
    capabilities: str,
    known: Collection[str],
    user: str,
) -> Iterator[Finding]:
    """Check this host.

    :param conf: with our options and Nova's
    :param capabilities: libvirt's, as XML
    :param known: the uuids of this host's guests
    :param user: of nova-compute
    :returns: the findings
    """
    yield from _confinement(conf, capabilities, user)
    yield from _language(conf)
    yield from _directories(conf)
    yield from _libvirt(conf)
    directory = conf.isolation.profile_directory
    yield from operators_rules(os.path.dirname(directory))
    yield from leftovers(directory, known)


def _confinement(
    conf: cfg.ConfigOpts, capabilities: str, user: str
) -> Iterator[Finding]:
    what = f'the hooks {",".join(conf.isolation.hooks)}'
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        yield Finding(
            Result.UNCHECKED, what, f'there is no user {user!r}: see --user'
        )
        return
    if os.geteuid() not in (0, account.pw_uid):
        yield Finding(
            Result.UNCHECKED,
            what,
            'whether the kernel, libvirtd, the parser and the privileged '
            f'helper do: run this as root or as {user}',
        )
        return
    try:
        _as_user(account, conf, capabilities)
    except exceptions.IsolationError as e:
        yield Finding(Result.FAULT, what, e.message)
    else:
        yield Finding(
            Result.OK,
            what,
            'kernel, libvirtd, parser and privileged helper do what they '
            f'must for {user}',
        )


def _as_user(
    account: pwd.struct_passwd, conf: cfg.ConfigOpts, capabilities: str
) -> None:
    """Let the hooks check the host as nova-compute does.

    In a process of its own, which has that user's rights and no terminal that
    sudo could ask for a password at.
    """
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_check_as, args=(theirs, account, conf, capabilities)
    )
    process.start()
    theirs.close()
    try:
        error = (
            ours.recv()
            if ours.poll(_PATIENCE)
            else exceptions.HostFault(f'no answer within {_PATIENCE:.0f} s')
        )
    except EOFError:
        error = exceptions.HostFault('the check died')
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error


def _check_as(
    answer: multiprocessing_connection.Connection,
    account: pwd.struct_passwd,
    conf: cfg.ConfigOpts,
    capabilities: str,
) -> None:
    error: exceptions.IsolationError | None = None
    try:
        os.setsid()
        if os.geteuid() != account.pw_uid:
            os.initgroups(account.pw_name, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
        # each step of it is told on the terminal else
        logging.getLogger('oslo_privsep').setLevel(logging.ERROR)
        # as nova-compute does
        priv_context.init(['sudo', 'nova-rootwrap', conf.rootwrap_config])
        manager.HookManager(conf).check_host(base.Host(capabilities))
    except exceptions.IsolationError as e:
        error = e
    except OSError as e:
        error = exceptions.HostFault(f'cannot become {account.pw_name}: {e}')
    answer.send(error)


def _language(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    what = "AppArmor's language"
    try:
        dialect = parser_of(conf).find_dialect()
    except exceptions.IsolationError as e:
        yield Finding(Result.FAULT, what, e.message)
        return
    if dialect == rules.Dialect(True, True):
        yield Finding(Result.OK, what, 'all that a profile can make use of')
        return
    lacks = []
    if not dialect.network_operations:
        lacks.append('listening and connecting over TCP are one right')
    if not dialect.disconnected_path:
        lacks.append('a descriptor from outside is taken for a file inside')
    yield Finding(
        Result.NOTE, what, f'{"; ".join(lacks)}: AppArmor 4 is narrower'
    )


def parser_of(conf: cfg.ConfigOpts) -> parser_module.Parser:
    """Give the configured parser.

    :param conf: with our options
    :returns: the parser
    """
    options = conf.isolation
    return parser_module.Parser(
        options.apparmor_parser, options.parser_timeout
    )


def _directories(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    options = conf.isolation
    for name, path in (
        ('instances_path', conf.instances_path),
        (
            '[isolation] libvirt_state_directory',
            options.libvirt_state_directory,
        ),
        (
            '[isolation] libvirt_runtime_directory',
            options.libvirt_runtime_directory,
        ),
    ):
        if not os.path.isdir(path):
            yield Finding(
                Result.FAULT, name, f'{path} is no directory of this host'
            )


def _libvirt(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    try:
        with open(QEMU_CONF, encoding='utf-8', errors='replace') as f:
            settings = read_settings(f.read(_MOST))
    except OSError as e:
        yield Finding(Result.UNCHECKED, QEMU_CONF, e.strerror or str(e))
        return
    found = list(disagreements(settings, conf.isolation))
    for problem in found:
        yield Finding(Result.WARNING, QEMU_CONF, problem)
    if not found:
        yield Finding(Result.OK, QEMU_CONF, 'agrees with [isolation]')


def read_settings(text: str) -> dict[str, tuple[str, ...]]:
    """Read a configuration file of libvirt's.

    :param text: of the file
    :returns: {name: its value, or several of a list}
    """
    found = {}
    for name, value in _SETTING.findall(text):
        quoted = tuple(a or b for a, b in _QUOTED.findall(value))
        found[name] = quoted if quoted or value[0] == '[' else (value,)
    return found


def disagreements(
    settings: Mapping[str, tuple[str, ...]], options: Any
) -> Iterator[str]:
    """Compare libvirt's configuration with our options.

    :param settings: of qemu.conf
    :param options: the [isolation] group
    :returns: what does not go together, with the way out
    """

    def value(name: str, otherwise: str = '') -> str:
        return settings.get(name, (otherwise,))[0]

    if 'apparmor' not in settings.get('security_driver', ()):
        yield (
            'security_driver = "apparmor" is not said: a libvirtd that is not '
            'confined itself would use none, silently'
        )
    both = value('default_tls_x509_cert_dir', options.tls_directory)
    for service, option, usual in (
        ('nbd', 'tls_directory', both),
        ('chardev', 'tls_directory', both),
        ('spice', 'spice_tls_directory', '/etc/pki/libvirt-spice'),
        ('vnc', 'vnc_tls_directory', '/etc/pki/libvirt-vnc'),
    ):
        name = f'{service}_tls_x509_cert_dir'
        theirs, ours = value(name, usual), getattr(options, option)
        in_use = option == 'tls_directory' or value(f'{service}_tls') == '1'
        if in_use and theirs.rstrip('/') != ours.rstrip('/'):
            yield (
                f'{name} is {theirs!r}, and [isolation] {option} {ours!r}: '
                f'guests with TLS for {service} would not start'
            )
    memory = f'{options.libvirt_state_directory}/ram'
    if value('memory_backing_dir', memory).rstrip('/') != memory:
        yield (
            f'memory_backing_dir is not {memory!r}: guests whose memory is in '
            'files would not start'
        )
    if value('stdio_handler') == 'file':
        yield (
            'stdio_handler = "file" lets QEMU itself write the logs of '
            'consoles, which no profile grants: use "logd"'
        )
    for service in ('vnc', 'spice'):
        if value(f'{service}_sasl') == '1':
            yield (
                f'{service}_sasl = 1 lets QEMU read the configuration and '
                'secrets of SASL, which no profile grants'
            )
    if value('user') in ('root', '+0', '0'):
        yield (
            f'user = "{value("user")}": a profile lets QEMU use none of '
            "root's capabilities"
        )


def operators_rules(directory: str) -> Iterator[Finding]:
    """Find the rules of operators, which a profile of ours does not include.

    :param directory: ``/etc/apparmor.d``
    :returns: a warning for each file with rules
    """
    for pattern in _OPERATORS:
        for path in sorted(glob.glob(os.path.join(directory, pattern))):
            try:
                with open(path, encoding='utf-8', errors='replace') as f:
                    lines = [
                        line.strip() for line in f.read(_MOST).split('\n')
                    ]
            except OSError as e:
                yield Finding(Result.UNCHECKED, path, e.strerror or str(e))
                continue
            found = [line for line in lines if line and line[0] != '#']
            if found:
                more = len(found) - _SHOWN
                yield Finding(
                    Result.WARNING,
                    path,
                    'these rules no longer count for a guest with a profile '
                    f'of its own: {" ".join(found[:_SHOWN])}'
                    + (f' and {more} more' if more > 0 else ''),
                )


def leftovers(directory: str, known: Collection[str]) -> Iterator[Finding]:
    """Find files of profiles that are no guest's.

    :param directory: ``[isolation] profile_directory``
    :param known: the uuids of this host's guests
    :returns: a note for each
    """
    try:
        names = sorted(os.listdir(directory))
    except OSError as e:
        yield Finding(Result.FAULT, directory, e.strerror or str(e))
        return
    for name in names:
        uuid = name.removeprefix('libvirt-')
        if uuid == name or not domain_module.is_uuid(uuid) or uuid in known:
            continue
        path = os.path.join(directory, name)
        try:
            by = profiles.writer(path).value
        except exceptions.ForeignProfile as e:
            yield Finding(
                Result.WARNING, path, f'no guest has it: {e.message}'
            )
            continue
        yield Finding(
            Result.NOTE,
            path,
            f'stale, by {by}: no guest has it: it can be removed',
        )
