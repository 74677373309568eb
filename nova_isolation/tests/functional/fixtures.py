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


"""What the functional tests add to Nova's own fixtures.

Nova's fake libvirt keeps of a domain what Nova's tests look at. Here also
counts what libvirt does with the rest: the whole XML, a start with stopped
vCPUs, saved memory that outlives a new definition, and a driver for the
security model that a domain asks for.
"""

import pathlib
import tomllib

import fixtures
from lxml import etree
from nova.tests.fixtures import libvirt as fakelibvirt
from oslo_db import exception as db_exception
from oslo_db.sqlalchemy import exc_filters
from sqlalchemy import exc as sqla_exc
import stevedore._cache

# Before Nova's tests forbid to import libvirt: the product's modules are
# imported with the real one, and get the fake one as Nova's own do.
from nova_isolation.virt import guest as guest_module  # noqa: F401
from nova_isolation.virt import isolation as isolation_module  # noqa: F401

PLUGIN = pathlib.Path(__file__).parent.parent / 'plugin'

_STATES = {
    fakelibvirt.VIR_DOMAIN_RUNNING: 'running',
    fakelibvirt.VIR_DOMAIN_PAUSED: 'paused',
    fakelibvirt.VIR_DOMAIN_SHUTOFF: 'shutoff',
}
# of libvirt-domain.h; Nova's fake has no use for them
SAVE_RUNNING = 2
SAVE_PAUSED = 4
# as libvirt names devices of a running guest
_ALIASES = {'disk': 'disk', 'interface': 'net', 'hostdev': 'hostdev'}


@exc_filters.filters(
    'sqlite', sqla_exc.OperationalError, r'.*database is locked.*'
)
def _busy_database(cause, match, engine_name, is_disconnect):
    # What Nova's production databases call a deadlock, after which it tries
    # again: another thread wrote between what this transaction read and wrote.
    raise db_exception.DBDeadlock(cause)


def error(message, code=fakelibvirt.VIR_ERR_OPERATION_INVALID):
    """Make an error of libvirt's."""
    return fakelibvirt.make_libvirtError(
        fakelibvirt.libvirtError,
        message,
        error_code=code,
        error_domain=fakelibvirt.VIR_FROM_QEMU,
        error_message=message,
    )


class Device:
    """A device as Nova's methods take it.

    :param xml: of the device
    """

    def __init__(self, xml):
        self._xml = xml

    def to_xml(self):
        return self._xml


def _key(device):
    """Tell how libvirt knows a device again when it is to be detached."""
    for path, attribute in (('mac', 'address'), ('target', 'dev')):
        found = device.find(path)
        if found is not None and found.get(attribute):
            return device.tag, found.get(attribute)
    address = device.find('source/address')
    return device.tag, () if address is None else sorted(address.items())


class Domain(fakelibvirt.Domain):
    """A domain that keeps its XML and its saved memory.

    :ivar obeys: whether the guest gives up a device when it is asked to
    """

    def __init__(self, connection, xml, running=False, transient=False):
        self.obeys = True
        # what the guest was asked for and has not given up: {alias: XML}
        self._leaving = {}
        super().__init__(connection, xml, transient=transient)
        self._id = -1
        self._live = None
        self._saved = None
        self._persistent = not transient
        self._define(xml)
        if running:
            self.createWithFlags(0)

    def _define(self, xml):
        root = etree.fromstring(xml)
        devices = root.find('devices')
        if devices.find('emulator') is None:
            emulator = etree.Element('emulator')
            emulator.text = '/usr/bin/qemu-system-x86_64'
            devices.insert(0, emulator)
        self._def = self._parse_definition(xml)
        self._xml = etree.tostring(root, encoding='unicode')
        self._persistent = True

    @property
    def state(self):
        return _STATES[self._state]

    def connect(self):
        return self._connection

    def XMLDesc(self, flags):
        if self._live and not flags & fakelibvirt.VIR_DOMAIN_XML_INACTIVE:
            return self._live
        return self._xml

    def _run(self):
        self._state = fakelibvirt.VIR_DOMAIN_RUNNING
        self._connection.executed.append(self.UUIDString())

    def createWithFlags(self, flags):
        if self.isActive():
            raise error('Requested operation is not valid: domain is running')
        xml, running = self._saved or (self._xml, True)
        self._live = self._start(xml)
        self._saved = None
        if flags & fakelibvirt.VIR_DOMAIN_START_PAUSED or not running:
            self._state = fakelibvirt.VIR_DOMAIN_PAUSED
        else:
            self._run()

    def _start(self, xml):
        root = etree.fromstring(xml)
        wanted = {label.get('model') for label in root.findall('seclabel')}
        for model in wanted - self._connection.security_models - {'dac'}:
            raise error(
                'unsupported configuration: Unable to find security driver '
                f'for model {model}'
            )
        connection = self._connection
        self._id = connection._id_counter
        connection._mark_running(self)
        root.set('id', str(self._id))
        for device in root.iterfind('devices/*[@type="pty"]'):
            # a console is another name of the serial port
            if device.find('source') is None:
                etree.SubElement(device, 'source')
            device.find('source').set('path', f'/dev/pts/{self._id}')
        for label in root.findall('seclabel[@type="dynamic"]'):
            for name in ('label', 'imagelabel'):
                text = f'libvirt-{self.UUIDString()}'
                etree.SubElement(label, name).text = text
        return etree.tostring(root, encoding='unicode')

    # --- devices that come and go

    def attachDeviceFlags(self, xml, flags):
        live, config = self._affected(flags)
        if live and not self.isActive():
            raise error(
                'Requested operation is not valid: domain is not running'
            )
        if live:
            self._connection.attaching(self)
        if config:
            self._xml = self._with(self._xml, xml)
        if live:
            self._live = self._with(self._live, xml)

    def detachDeviceFlags(self, xml, flags):
        live, config = self._affected(flags)
        if config:
            self._xml, _ = self._without(self._xml, xml)
        if live:
            _, alias = self._without(self._live, xml)
            self._leaving[alias] = xml
            if self.obeys:
                self.give_up(alias)

    def give_up(self, alias, *, heard=True):
        """Let the guest give up a device that was detached.

        :param alias: of the device, or None for the only one
        :param heard: whether nova-compute learns of it
        """
        if alias is None:
            [alias] = self._leaving
        self._live, _ = self._without(self._live, self._leaving.pop(alias))
        if heard:
            self._connection.removed(self, alias)

    def _affected(self, flags):
        if not flags:
            return self.isActive(), not self.isActive()
        return (
            bool(flags & fakelibvirt.VIR_DOMAIN_AFFECT_LIVE),
            bool(flags & fakelibvirt.VIR_DOMAIN_AFFECT_CONFIG),
        )

    def _with(self, domain, device):
        root = etree.fromstring(domain)
        added = etree.fromstring(device)
        devices = root.find('devices')
        if added.find('alias') is None:
            count = len(devices.findall(added.tag))
            alias = f'{_ALIASES[added.tag]}{count}'
            etree.SubElement(added, 'alias', name=alias)
        devices.append(added)
        return etree.tostring(root, encoding='unicode')

    def _without(self, domain, device):
        """Take out what libvirt takes for the same device."""
        root = etree.fromstring(domain)
        wanted = _key(etree.fromstring(device))
        for found in root.find('devices'):
            if _key(found) == wanted:
                alias = found.find('alias')
                found.getparent().remove(found)
                return etree.tostring(root, encoding='unicode'), (
                    None if alias is None else alias.get('name')
                )
        raise error(
            'device not found', code=fakelibvirt.VIR_ERR_DEVICE_MISSING
        )

    def isActive(self):
        return int(self._live is not None)

    def isPersistent(self):
        return int(self._persistent)

    def _end(self):
        if not self.isActive():
            raise error(
                'Requested operation is not valid: domain is not running'
            )
        self._state = fakelibvirt.VIR_DOMAIN_SHUTOFF
        self._live = None
        self._connection._mark_not_running(self)
        if not self._persistent:
            self._connection._undefine(self)

    def destroy(self):
        self._end()

    def shutdown(self):
        # a guest that obeys at once
        self._end()

    def reset(self, flags):
        self._run()

    def suspend(self):
        self._state = fakelibvirt.VIR_DOMAIN_PAUSED

    def resume(self):
        self._run()

    def undefine(self):
        self.undefineFlags(0)

    def undefineFlags(self, flags):
        if self._saved:
            if not flags & fakelibvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE:
                raise error(
                    'Requested operation is not valid: Refusing to undefine '
                    'while domain managed save image exists'
                )
            self._saved = None
        self._persistent = False
        if not self.isActive():
            self._connection._undefine(self)

    def managedSave(self, flags):
        if not self.isActive():
            raise error(
                'Requested operation is not valid: domain is not running'
            )
        running = self._state == fakelibvirt.VIR_DOMAIN_RUNNING
        if flags & (SAVE_RUNNING | SAVE_PAUSED):
            running = bool(flags & SAVE_RUNNING)
        self._saved = (self._live, running)
        self._end()

    def managedSaveRemove(self, flags):
        self._saved = None

    def hasManagedSaveImage(self, flags):
        return int(self._saved is not None)

    def managedSaveGetXMLDesc(self, flags):
        if not self._saved:
            raise error(
                'Requested operation is not valid: domain does not have '
                'managed save image'
            )
        return self._saved[0]


class Connection(fakelibvirt.Connection):
    """A libvirtd whose domains keep what they are defined with.

    :ivar security_models: of the drivers that it runs with
    :ivar executed: uuids of the domains whose vCPUs were let run, each time
    :ivar attaching: called with the domain before a device is attached to a
        running one
    :ivar removed: called with the domain and the alias of a device that is
        gone
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.security_models = {'apparmor'}
        self.executed = []
        self.attaching = lambda domain: None
        self.removed = lambda domain, alias: None

    def getCapabilities(self):
        root = etree.fromstring(super().getCapabilities().encode())
        host = root.find('host')
        for known in host.findall('secmodel'):
            host.remove(known)
        for model in sorted(self.security_models | {'dac'}):
            element = etree.SubElement(host, 'secmodel')
            etree.SubElement(element, 'model').text = model
            etree.SubElement(element, 'doi').text = '0'
        return etree.tostring(root, encoding='unicode')

    def listAllDomains(self, flags=0):
        # Nova's fake knows none of them without a flag
        return (
            super().listAllDomains(flags) if flags else [*self._vms.values()]
        )

    def defineXML(self, xml):
        uuid = etree.fromstring(xml).findtext('uuid')
        for domain in self._vms.values():
            if domain.UUIDString() == uuid:
                domain._define(xml)
                return domain
        domain = Domain(self, xml)
        self._vms[domain.name()] = domain
        return domain

    def domain(self, uuid):
        """Find a domain.

        :returns: the :class:`Domain`, or None
        """
        for domain in self._vms.values():
            if domain.UUIDString() == uuid:
                return domain
        return None


class LibvirtModules(fixtures.Fixture):
    """Gives the product the fake libvirt that Nova's modules got."""

    def _setUp(self):
        for module in ('guest', 'isolation'):
            self.useFixture(
                fixtures.MonkeyPatch(
                    f'nova_isolation.virt.{module}.libvirt', fakelibvirt
                )
            )
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova.tests.fixtures.libvirt.VIR_DOMAIN_SAVE_RUNNING',
                SAVE_RUNNING,
            )
        )


class TestHooks(fixtures.Fixture):
    """Makes the hooks of ``tests/plugin`` known, as when it is installed.

    :ivar recording: of the hook ``recorder``
    """

    def _setUp(self):
        project = tomllib.loads((PLUGIN / 'pyproject.toml').read_text())
        directory = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        name, version = (project['project'][k] for k in ('name', 'version'))
        metadata = directory / f'{name.replace("-", "_")}-{version}.dist-info'
        metadata.mkdir()
        metadata.joinpath('METADATA').write_text(
            f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
        )
        lines = []
        for group, entries in project['project']['entry-points'].items():
            lines.append(f'[{group}]')
            lines += [f'{key} = {value}' for key, value in entries.items()]
        metadata.joinpath('entry_points.txt').write_text('\n'.join(lines))
        for path in (directory, PLUGIN):
            self.useFixture(fixtures.PythonPathEntry(str(path)))
        # It caches by sys.path in a file, whose entries nobody removes
        cache = stevedore._cache.Cache(directory)
        cache._disable_caching = True
        for attribute in ('get_group_all', 'get_group_named', 'get_single'):
            self.useFixture(
                fixtures.MonkeyPatch(
                    f'stevedore._cache.{attribute}', getattr(cache, attribute)
                )
            )
        from isolation_test_hooks import recorder

        self.recording = recorder.Recording()
        self.useFixture(
            fixtures.MonkeyPatch(
                'isolation_test_hooks.recorder.recording', self.recording
            )
        )
