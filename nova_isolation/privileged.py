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

"""What needs root, as few typed calls.

They run in a privsep daemon of their own (oslo.privsep), started by
nova-compute through sudo or rootwrap, with the capabilities listed here. It
takes a policy as plain data, checks every value of it, renders the profile
itself and writes exactly one file, ``libvirt-<uuid>``, into the configured
directory: never text that it was given. Its own configuration, the parser's
path among it, is read from root's files.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import errno
import functools
import hashlib
import os
import secrets
import stat
import time
from typing import Any

from oslo_concurrency import lockutils
from oslo_config import cfg
from oslo_log import log as logging
from oslo_privsep import capabilities
from oslo_privsep import priv_context

from nova_isolation.apparmor import abi
from nova_isolation.apparmor import kernel
from nova_isolation.apparmor import parser as parser_module
from nova_isolation.apparmor import policy as policy_module
from nova_isolation.apparmor import profiles
from nova_isolation.apparmor import rules
from nova_isolation.conf import isolation as options
from nova_isolation import exceptions
from nova_isolation import neighbours
from nova_isolation import processes

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

#: Seconds after which a call is given up, whatever the daemon does.
TIMEOUT = 120

# As many as a policy has files.
_MOST_WANTED = 4096
# Seconds for looking through what a guest's processes have open. A QEMU has
# some hundred files; a captured one may have as many as it likes.
_LOOK = 20.0

#: Of what was written: the SHA-256 of the profile's text, and what the kernel
#: shows of the policy that it compiled to, see :func:`kernel.digests`.
Written = tuple[str, dict[str, str]]

_KERNEL = '/sys/kernel/security/apparmor'
# What the kernel means by these, as apparmor_parser tells it, and the way out.
_UNDERSTOOD = 'run the apparmor of the distribution that the kernel is of'
_REFUSALS = {
    errno.EACCES: 'no policy may be loaded any more, or not by this process: '
    'see whether /sys/module/apparmor/parameters/lock_policy is Y, and '
    'whether what runs nova-compute is confined itself',
    errno.EPERM: 'the privileged helper lacks CAP_MAC_ADMIN: see what runs it',
    errno.ENOENT: 'the kernel takes no policy: see whether AppArmor is '
    'enabled and securityfs mounted',
    errno.EEXIST: 'another profile of that name may not be replaced: see '
    'aa-status',
    errno.EPROTO: f'it does not understand the policy: {_UNDERSTOOD}',
    errno.EPROTONOSUPPORT: 'it does not support the version of the policy: '
    f'{_UNDERSTOOD}',
    errno.EBADMSG: f'the signature of the policy is wrong: {_UNDERSTOOD}',
    errno.ENOMEM: 'the host is short of memory: free some',
}

context = priv_context.PrivContext(
    'nova_isolation',
    cfg_section='nova_isolation_privileged',
    pypath='nova_isolation.privileged.context',
    capabilities=[
        # to load policy into the kernel
        capabilities.CAP_MAC_ADMIN,
        # to find who still holds a profile, whatever their uid
        capabilities.CAP_SYS_PTRACE,
        # and what these have open, and mapped
        capabilities.CAP_DAC_READ_SEARCH,
        capabilities.CAP_CHECKPOINT_RESTORE,
    ],
)


@context.entrypoint_with_timeout(TIMEOUT)
def probe(anew: bool) -> None:
    """Check that this daemon can do its work.

    :param anew: whether to run the parser also when this very program has
        compiled something before
    :raises HostFault: naming what is missing: the parser, the directory
    """
    _directory()
    parser = _parser()
    if anew:
        parser.check()
    try:
        _dialect(parser)
    except exceptions.ParserHangs as e:
        raise exceptions.HostFault(e.message) from e


@context.entrypoint_with_timeout(TIMEOUT)
def check_profile(policy: dict[str, object]) -> None:
    """Check that a guest's profile could be written, without writing it.

    :param policy: what :meth:`nova_isolation.apparmor.policy.Policy.to_wire`
        gives
    :raises InvalidPolicy: when a value may not stand in a profile
    :raises ProfileRejected: when it does not compile
    :raises ForeignProfile: when a file of somebody else's stands in its place
    :raises HostFault: when the parser cannot be run
    """
    _make(policy)


@context.entrypoint_with_timeout(TIMEOUT)
def write_profile(policy: dict[str, object]) -> Written:
    """Write a guest's profile in place of the one that is there.

    The file is complete or the old one is: it is compiled under another name,
    and renamed. libvirt loads it when it starts the guest.

    :param policy: what :meth:`nova_isolation.apparmor.policy.Policy.to_wire`
        gives
    :returns: digests of what was written
    :raises InvalidPolicy: when a value may not stand in a profile
    :raises ProfileRejected: when it does not compile
    :raises ForeignProfile: when a file of somebody else's stands in its place
    :raises HostFault: when the parser cannot be run
    """
    return _make(policy, _install)


@context.entrypoint_with_timeout(TIMEOUT)
def widen_profile(policy: dict[str, object]) -> Written:
    """Write and load the profile of a running guest that gets a right.

    Whatever ends this in between, the file has all that the kernel grants:
    what is too much can be seen there.

    :param policy: what :meth:`nova_isolation.apparmor.policy.Policy.to_wire`
        gives
    :returns: digests of what was written and loaded
    :raises InvalidPolicy: when a value may not stand in a profile
    :raises ProfileRejected: when it does not compile, or the kernel refuses it
    :raises ForeignProfile: when a file of somebody else's stands in its place
    :raises HostFault: when the parser cannot be run
    """
    return _make(policy, _install, _load)


@context.entrypoint_with_timeout(TIMEOUT)
def narrow_profile(policy: dict[str, object]) -> Written:
    """Load and write the profile of a running guest that loses a right.

    In this order for the reason of the other one, see :func:`widen_profile`.

    :param policy: what :meth:`nova_isolation.apparmor.policy.Policy.to_wire`
        gives
    :returns: digests of what was loaded and written
    :raises InvalidPolicy: when a value may not stand in a profile
    :raises ProfileRejected: when it does not compile, or the kernel refuses it
    :raises ForeignProfile: when a file of somebody else's stands in its place
    :raises HostFault: when the parser cannot be run
    """
    return _make(policy, _load, _install, _load_again)


@context.entrypoint_with_timeout(TIMEOUT)
def remove_profile(uuid: str) -> bool:
    """Remove a guest's profile from the kernel and its files from the disk.

    :param uuid: the guest's
    :returns: whether there was anything to remove
    :raises InvalidPolicy: when it is not a uuid
    :raises ProfileInUse: when a live process holds the profile: without it,
        that process would run unconfined
    :raises ForeignProfile: when the file is somebody else's
    """
    name = policy_module.profile_name(uuid)
    with lockutils.lock(name):
        path = os.path.join(_directory(), name)
        profiles.writer(path)
        held = kernel.holders(name)
        if held:
            raise exceptions.ProfileInUse(
                f'the profile {name} is kept: process {held[0]} holds it'
            )
        removed = False
        if kernel.is_loaded(name):
            _unload(name)
            removed = True
        for leftover in (path, f'{path}.files'):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(leftover)
                removed = True
        return removed


@context.entrypoint_with_timeout(TIMEOUT)
def find_open(uuid: str, wanted: list[list[Any]]) -> list[tuple[int, int]]:
    """Find which of some files the processes of a guest have open or mapped.

    :param uuid: the guest's: its processes are those that hold its profile
    :param wanted: a :data:`nova_isolation.neighbours.Identity` each, of files
        and devices that exist
    :returns: (place in ``wanted``, process id) of each that one has; all of
        them of a process that hides some files
    :raises InvalidPolicy: when it is not a uuid, or no such identities
    :raises HostFault: when the kernel does not tell, or a process has too much
        open
    """
    name = policy_module.profile_name(uuid)
    places = _places(wanted)
    found = []
    end = time.monotonic() + _LOOK
    for pid in kernel.holders(name):
        try:
            opened = processes.opened(pid, end)
        except OSError as e:
            raise exceptions.HostFault(
                f'it cannot be told what process {pid} of {name} has open: {e}'
            ) from e
        seen = places.keys() if opened is None else places.keys() & opened
        found += [(places[known], pid) for known in seen]
    return sorted(found)


def _places(wanted: object) -> dict[neighbours.Identity, int]:
    places: dict[neighbours.Identity, int] = {}
    if not isinstance(wanted, list | tuple) or len(wanted) > _MOST_WANTED:
        raise exceptions.InvalidPolicy('no list of identities')
    for place, item in enumerate(wanted):
        match item:
            case ['file' | 'device', int(), int()]:
                places[tuple(item)] = place
            case _:
                raise exceptions.InvalidPolicy(
                    f'not the identity of a file: {str(item)[:80]}'
                )
    return places


def _options() -> Any:
    # Here and not at import: the daemon imports this module before it has
    # parsed its configuration files, nova-compute after.
    options.register_opts(CONF)
    return CONF.isolation


def _parser() -> parser_module.Parser:
    path = _options().apparmor_parser
    _check_roots(
        path, 'AppArmor parser', 'apparmor', '[isolation] apparmor_parser'
    )
    return parser_module.Parser(path, _options().parser_timeout)


def _directory() -> str:
    path: str = _options().profile_directory
    _check_roots(
        path, 'profile directory', 'libvirtd', '[isolation] profile_directory'
    )
    return path


def _dialect(parser: parser_module.Parser) -> rules.Dialect:
    status = os.stat(parser.path)
    return _dialect_of(
        parser, status.st_dev, status.st_ino, status.st_ctime_ns
    )


@functools.lru_cache(maxsize=2)
def _dialect_of(parser: parser_module.Parser, *program: int) -> rules.Dialect:
    """Ask the parser what it understands, once for each program."""
    return parser.find_dialect()


def _abi(directory: str) -> str:
    """Give the path of the file with our feature ABI; write it if need be."""
    path = os.path.join(directory, abi.NAME)
    text = abi.text()
    with lockutils.lock(abi.NAME):
        try:
            with open(path, encoding='utf-8', errors='replace') as f:
                if f.read(2 * len(text)) == text:
                    return path
        except FileNotFoundError:
            pass
        with _draft(path, text) as draft:
            _rename(draft, path)
    return path


@contextlib.contextmanager
def _draft(path: str, text: str) -> Iterator[str]:
    """Write a file beside the one that it may replace; gone afterwards."""
    # the parser and libvirt pass over names that begin with a dot
    directory, name = os.path.split(path)
    draft = os.path.join(directory, f'.{name}.{secrets.token_hex(8)}')
    try:
        _write_synced(draft, text)
        yield draft
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)


def _rename(draft: str, path: str) -> None:
    os.rename(draft, path)
    _sync_directory(os.path.dirname(path))


def _check_roots(path: str, what: str, package: str, option: str) -> None:
    """Check that only root decides over what we run or write to.

    :raises HostFault: when it is missing, or others than root may write it
    """
    try:
        status = os.stat(path)
    except OSError as e:
        raise exceptions.HostFault(
            f'the {what} cannot be used: {path}: {e.strerror}: install '
            f'{package}, or set {option}'
        ) from e
    if status.st_uid != os.geteuid() or status.st_mode & (
        stat.S_IWGRP | stat.S_IWOTH
    ):
        raise exceptions.HostFault(
            f'the {what} {path} can be written by others than root'
        )


@dataclasses.dataclass(frozen=True)
class _Made:
    """A profile that was made.

    :ivar path: where it belongs
    :ivar draft: where it is
    :ivar compiled: the policy as the kernel takes it
    """

    path: str
    draft: str
    compiled: bytes


def _make(data: object, *steps: Callable[[_Made], None]) -> Written:
    """Render and compile a profile, once, and do with it what is asked for."""
    policy = policy_module.from_wire(data)
    parser = _parser()
    directory = _directory()
    text = policy_module.render(
        policy,
        abi=_abi(directory),
        dialect=_dialect(parser),
        state_directory=_options().libvirt_state_directory,
        monitors=_options().monitoring_labels,
    )
    path = os.path.join(directory, policy.profile)
    with lockutils.lock(policy.profile):
        profiles.writer(path)
        with _draft(path, text) as draft:
            made = _Made(path, draft, parser.compile(draft))
            for step in steps:
                step(made)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return digest, kernel.digests(made.compiled)


def _install(made: _Made) -> None:
    _rename(made.draft, made.path)


def _load(made: _Made) -> None:
    """Have the kernel take just what was compiled.

    As apparmor_parser -r would, which compiles first.
    """
    name, policy = os.path.basename(made.path), made.compiled
    try:
        # one write: the kernel takes each for a policy of its own
        with open(f'{_KERNEL}/.replace', 'wb', buffering=0) as f:
            taken = f.write(policy)
    except OSError as e:
        raise exceptions.ProfileRejected(
            f'the kernel does not take the profile {name}: '
            f'{e.strerror}: {_REFUSALS.get(e.errno or 0, "see its log")}'
        ) from e
    if taken != len(policy):
        raise exceptions.ProfileRejected(
            f'the kernel took {taken} of the {len(policy)} bytes of the '
            f'profile {name}: see its log'
        )


def _load_again(made: _Made) -> None:
    """Load what was installed if libvirt has just loaded what was before."""
    name = os.path.basename(made.path)
    if kernel.is_loaded(name) and not kernel.holds(
        name, kernel.digests(made.compiled)
    ):
        _load(made)


def _write_synced(path: str, text: str) -> None:
    # Readable by all: the proof compares it with the kernel without privilege.
    # An explicit mode, because the daemon runs with umask 0.
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644
    )
    with open(descriptor, 'w', encoding='utf-8') as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unload(name: str) -> None:
    # The kernel's own file takes a profile's name, as apparmor_parser -R
    # writes it there; the parser would need a file that holds such a profile.
    with open(f'{_KERNEL}/.remove', 'wb') as f:
        f.write(name.encode())
