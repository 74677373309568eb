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

"""The errors of nova-isolation, by who has to act on them.

Each takes one message, made for an operator: it names the thing, the cause
and the way out. (One argument, because oslo.privsep carries an exception
over from the privileged daemon as its class and its arguments.)
"""


class IsolationError(Exception):
    """Base of all errors of this package."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def shown(self) -> str:
        """What of the message the guest's own user may read."""
        return self.message


class ConfigurationError(IsolationError):
    """An option of the [isolation] group has a value that cannot be used."""


class HostFault(IsolationError):
    """This host cannot confine any guest; the operator has to repair it."""


class Refusal(IsolationError):
    """One guest, or one operation on it, is refused."""


class InvalidDomain(Refusal):
    """The domain's XML cannot be understood."""


class NotCovered(Refusal):
    """The guest has, or the operation needs, what is not covered yet."""


class MissingDevice(Refusal):
    """Something of the host that the guest names is not there."""


class UntrustedImage(Refusal):
    """A disk, or what its image header names, is not where it may be."""


class DeceivingImage(UntrustedImage):
    """An image's header names what Nova never gave the guest: an attack."""


class MissingImage(Refusal):
    """A file of a disk is not there."""


class MissingBase(MissingImage):
    """A file of the image cache is not there, which Nova makes anew."""


class MissingVolume(MissingDevice, MissingImage):
    """A volume is not there, which Nova connects before it starts a guest."""


class InvalidPolicy(Refusal):
    """A policy holds a value that may not stand in a profile."""


class ProfileRejected(Refusal):
    """apparmor_parser does not compile or load the guest's profile."""


class ParserHangs(ProfileRejected):
    """apparmor_parser did not end in time."""


class ForeignProfile(Refusal):
    """Somebody else's file stands where the guest's profile belongs."""


class NotConfined(Refusal):
    """The guest's process is not confined by the policy made for it."""


class NotSeparate(Refusal):
    """The guest could reach what another guest has, or another one its own."""

    @property
    def shown(self) -> str:
        """What of the message the guest's own user may read.

        Not whose neighbour the server is, nor where that one has its files.
        """
        return 'the server and another one of its host are not kept apart'


class StillOpen(Refusal):
    """The guest's process keeps open what was taken from it: an attack."""


class HookFailed(Refusal):
    """A hook failed where it neither confined the guest nor objected."""


class ProfileInUse(IsolationError):
    """A profile cannot be removed: a live process holds it."""


class AuditUnavailable(IsolationError):
    """The kernel's audit records cannot be read."""


class SpoolFull(IsolationError):
    """The spool of events holds as many as it may; this one is lost."""


class NotSent(IsolationError):
    """The broker did not confirm an event; it has to be sent again."""


class CannotBeSent(IsolationError):
    """No attempt to send an event can succeed: it is to be put aside."""


class InvalidRequest(IsolationError):
    """What a client of the agent asks for cannot be answered as it is."""


class NoAnswer(IsolationError):
    """The agent of a host did not answer."""


class JournalUnavailable(IsolationError):
    """The journal cannot be read or written now; nothing of it is lost."""


class IncompatibleJournal(IsolationError):
    """The journal was written by a newer nova-isolation."""
