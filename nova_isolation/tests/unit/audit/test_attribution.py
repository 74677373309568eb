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

"""Who did it and whose it is, by what is known and never by its looks."""

import dataclasses

from oslotest import base

from nova_isolation.audit import attribution
from nova_isolation import neighbours
from nova_isolation.tests.unit.audit import guests

UUID1 = '5f0a2f0e-90ad-4b5b-8d6e-0d6a1f3b7a01'
UUID2 = '0c7e54b2-7a11-4c2f-9f0e-61b2a3c4d502'
UNKNOWN = 'aaaaaaaa-7a11-4c2f-9f0e-61b2a3c4d502'
INSTANCES = guests.INSTANCES


def _domain(uuid, name, number, disks=None, pty=None):
    home = f'{INSTANCES}/{uuid}'
    return guests.make(
        uuid,
        name=name,
        number=number,
        disks=disks or (f'{home}/disk', f'{home}/disk.config'),
        pty=pty or f'/dev/pts/{number}',
        log=f'{home}/console.log',
        nova=('vm', 'acme'),
    )


def _table(*known):
    return attribution.Table(known, ['/var/lib/libvirt/qemu'])


class SubjectTestCase(base.BaseTestCase):
    def test_a_guests_profile_and_its_children(self):
        for profile in (
            f'libvirt-{UUID1}',
            f'libvirt-{UUID1}//swtpm',
            f'libvirt-{UUID1}//null-/usr/bin/id//null-/usr/bin/x',
            f'libvirt-{UUID1}//null-/a\nb',
            f'libvirt-{UUID1}//&unconfined',
            f'aaa//&libvirt-{UUID1}',
        ):
            self.assertEqual(UUID1, attribution.subject(profile), profile)

    def test_a_profile_that_only_looks_like_a_guests_is_nobodys(self):
        for profile in (
            '',
            'unconfined',
            'libvirtd',
            'libvirt-x',
            f'libvirt-{UUID1.upper()}',
            f'libvirt-{UUID1}x',
            f'libvirt-{UUID1}/x',
            f'libvirt-{UUID1}\n',
            f'xlibvirt-{UUID1}',
            f'virt-aa-helper//libvirt-{UUID1}',
            f':ns://libvirt-{UUID1}',
        ):
            self.assertIsNone(attribution.subject(profile), profile)


class TargetTestCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.one = _domain(UUID1, 'instance-00000001', 1)
        self.two = _domain(UUID2, 'instance-00000002', 2)
        self.table = _table(
            attribution.describe(self.one), attribution.describe(self.two)
        )

    def _assert(self, kind, owner, path, subject=UUID1, certain=None):
        found = self.table.target(path, subject)
        self.assertEqual((kind, owner), (found.kind, found.owner), path)
        if certain is not None:
            self.assertEqual(certain, found.certain, path)

    def test_another_guests_disk(self):
        self._assert('disk', UUID2, f'{INSTANCES}/{UUID2}/disk', certain=True)

    def test_its_own_disk(self):
        self._assert('disk', UUID1, f'{INSTANCES}/{UUID1}/disk')

    def test_a_config_drive(self):
        self._assert('config drive', UUID2, f'{INSTANCES}/{UUID2}/disk.config')

    def test_a_console_log(self):
        self._assert('console', UUID2, f'{INSTANCES}/{UUID2}/console.log')

    def test_a_pty_which_may_have_changed_hands(self):
        self._assert('console', UUID2, '/dev/pts/2', certain=False)

    def test_what_lies_in_an_instance_directory(self):
        for path in (
            f'{INSTANCES}/{UUID2}/disk.info',
            f'{INSTANCES}/{UUID2}/a/b/c',
            f'{INSTANCES}/{UUID2}/',
            f'{INSTANCES}/{UUID2}_resize/',
            f'{INSTANCES}/{UUID2}_del/disk.info',
        ):
            self._assert('instance directory', UUID2, path, certain=True)

    def test_what_its_xml_does_not_name_now(self):
        for name, kind in (
            ('_resize/disk', 'disk'),
            ('_del/disk.config', 'config drive'),
            ('/disk.rescue', 'disk'),
            ('/disk.config.rescue', 'config drive'),
            ('/console.log.0', 'console'),
        ):
            path = f'{INSTANCES}/{UUID2}{name}'
            self._assert(kind, UUID2, path, certain=True)

    def test_the_directory_of_a_guest_of_another_host(self):
        self._assert(
            'disk', UNKNOWN, f'{INSTANCES}/{UNKNOWN}/disk', certain=False
        )

    def test_a_uuid_in_a_path_elsewhere_makes_no_owner(self):
        for path in (
            f'/tmp/{UUID2}/disk',
            f'{INSTANCES}/x/{UUID2}/disk',
            f'{INSTANCES}x/{UUID2}/disk',
            f'{INSTANCES}/{UUID2}x/disk',
            '/etc/shadow',
            '/',
            '',
        ):
            self._assert('host file', None, path, certain=False)

    def test_libvirts_state_of_a_guest(self):
        state = '/var/lib/libvirt/qemu'
        for path in (
            f'{state}/domain-2-instance-00000002/master-key.aes',
            f'{state}/channel/target/domain-2-instance-00000002/x',
            f'{state}/save/instance-00000002.save',
            '/var/log/libvirt/qemu/instance-00000002.log',
        ):
            self._assert('libvirt state', UUID2, path, certain=True)
        self._assert(
            'nvram', UUID2, f'{state}/nvram/instance-00000002_VARS.fd'
        )
        self._assert('vtpm', UUID2, f'/var/lib/libvirt/swtpm/{UUID2}/tpm2/x')

    def test_libvirts_state_of_nobody_known(self):
        state = '/var/lib/libvirt/qemu'
        for path in (
            f'{state}/domain-12-instance-00000002/master-key.aes',
            f'{state}/domain-2-instance-000000021/master-key.aes',
            f'{state}/save/instance-00000002.saved',
            f'{state}/x',
        ):
            self._assert('libvirt state', None, path, certain=False)
        self._assert(
            'host file', None, f'{state}x/save/instance-00000002.save'
        )

    def test_libvirt_cuts_long_names(self):
        table = _table(
            attribution.describe(
                _domain(UUID1, 'a-name-of-30-characters-long', 7)
            )
        )
        path = '/var/lib/libvirt/qemu/domain-7-a-name-of-30-charact/x'
        self.assertEqual(UUID1, table.target(path).owner)

    def test_a_disk_whose_directory_is_a_symlink(self):
        real = {f'{INSTANCES}/{UUID2}': f'/srv/nova/{UUID2}'}
        self.table = _table(
            attribution.describe(self.one),
            attribution.describe(self.two, lambda d: real.get(d, d)),
        )
        self._assert('disk', UUID2, f'/srv/nova/{UUID2}/disk')
        self._assert('disk', UUID2, f'{INSTANCES}/{UUID2}/disk')
        self._assert(
            'instance directory', UUID2, f'/srv/nova/{UUID2}/anything'
        )

    def test_a_disk_outside_of_any_instance_directory(self):
        path = '/srv/volumes/we"ird \u00e9'
        self.table = _table(
            attribution.describe(_domain(UUID2, 'x', None, [path]))
        )
        self._assert('disk', UUID2, path)
        self._assert('host file', None, '/srv/volumes/other')

    def test_a_file_of_two_guests_is_the_subjects_own(self):
        shared = '/srv/iso/tools.iso'
        self.table = _table(
            attribution.describe(_domain(UUID1, 'a', 1, [shared])),
            attribution.describe(_domain(UUID2, 'b', 2, [shared])),
        )
        self._assert('disk', UUID1, shared, subject=UUID1)
        self._assert('disk', UUID2, shared, subject=UUID2)

    def test_a_stopped_guest_has_no_pty(self):
        stopped = _domain(UUID2, 'b', None, pty='/dev/pts/9')
        self.table = _table(attribution.describe(stopped))
        self._assert('host file', None, '/dev/pts/9')


class GoneTestCase(base.BaseTestCase):
    """Guests that were deleted a moment ago."""

    def test_it_still_has_its_name_and_its_disk(self):
        gone = attribution.describe(_domain(UUID1, 'a', 1)).left()
        table = _table(gone)
        self.assertEqual('vm', table.guest(UUID1).instance.name)
        self.assertEqual(
            UUID1, table.target(f'{INSTANCES}/{UUID1}/disk').owner
        )

    def test_its_pty_is_no_more_its_own(self):
        table = _table(attribution.describe(_domain(UUID1, 'a', 1)).left())
        self.assertIsNone(table.target('/dev/pts/1').owner)

    def test_what_a_living_guest_owns_now_is_not_its(self):
        volume = '/srv/volume'
        gone = attribution.describe(_domain(UUID1, 'a', 1, [volume])).left()
        living = attribution.describe(_domain(UUID2, 'a', 2, [volume]))
        for table in (_table(gone, living), _table(living, gone)):
            self.assertEqual(UUID2, table.target(volume, UUID1).owner)
            self.assertEqual(
                UUID2,
                table.target('/var/lib/libvirt/qemu/save/a.save').owner,
            )


class KnownTestCase(base.BaseTestCase):
    """What is known of a guest is plain data."""

    def test_it_survives_a_restart(self):
        guest = dataclasses.replace(
            attribution.describe(_domain(UUID1, 'a', 1), pids=[4711]),
            level='s0:c1,c2',
        )
        for known in (guest, guest.left()):
            self.assertEqual(
                known, attribution.Guest.from_json(known.to_json())
            )

    def test_what_is_no_guest_is_refused(self):
        good = attribution.describe(_domain(UUID1, 'a', 1)).to_json()
        for text in (
            '',
            '[]',
            '1',
            '{}',
            good.replace(UUID1, 'x'),
            good.replace('"files"', '"filez"'),
            good[:-1] + ', "more": 1}',
        ):
            with self.assertRaises(ValueError, msg=text):
                attribution.Guest.from_json(text)

    def test_a_level_of_two_running_guests_is_nobodys(self):
        one = attribution.Guest(UUID1, 'a', 1, level='s0:c1,c2')
        two = attribution.Guest(UUID2, 'b', 2, level='s0:c1,c2')
        self.assertEqual(UUID1, _table(one).uuid('s0:c1,c2'))
        self.assertIn('s0:c1,c2', _table(one))
        self.assertIsNone(_table(one, two).uuid('s0:c1,c2'))
        self.assertNotIn('s0:c1,c2', _table(one, two))
        self.assertEqual(UUID2, _table(one.left(), two).uuid('s0:c1,c2'))

    def test_a_level_stays_known_until_another_guest_runs_with_it(self):
        one = attribution.Guest(UUID1, 'a', 1, level='s0:c1,c2')
        two = attribution.Guest(UUID2, 'b', 2, level='s0:c1,c2')
        context = 'system_u:object_r:svirt_image_t:s0:c1,c2'
        for ended in (one.left(), dataclasses.replace(one, id=None)):
            table = _table(ended)
            self.assertEqual(UUID1, table.uuid('s0:c1,c2'))
            self.assertEqual(UUID1, table.of_context(context))
            for known in ((ended, two), (two, ended)):
                self.assertEqual(UUID2, _table(*known).uuid('s0:c1,c2'))
            other = dataclasses.replace(two, id=None)
            self.assertIsNone(_table(ended, other).uuid('s0:c1,c2'))

    def test_what_the_host_tells_of_its_devices(self):
        def resource(path, origin, access='rw', tree=False):
            return neighbours.Resource(path, origin, access, tree=tree)

        known = attribution.describe(
            _domain(UUID2, 'b', 2),
            resources=[
                resource('/dev/vfio/7', '<hostdev> 0000:01:00.0'),
                resource('/run/x/2-b-swtpm.sock', '<tpm type=emulator>'),
                resource('/dev/shm/x', '<shmem> x'),
                resource('/dev/hugepages/2-b', '<hugepages>', tree=True),
                resource(f'{INSTANCES}/{UUID2}/disk', '<disk> vda', 'r'),
            ],
        )
        table = _table(known)
        for path, kind in (
            ('/dev/vfio/7', 'device'),
            ('/run/x/2-b-swtpm.sock', 'vtpm'),
            ('/dev/shm/x', 'memory'),
            ('/dev/hugepages/2-b/x/y', 'memory'),
        ):
            found = table.target(path)
            self.assertEqual((kind, UUID2), (found.kind, found.owner), path)
        # the XML says more of a disk than that it is there
        self.assertEqual('rw', known.named(f'{INSTANCES}/{UUID2}/disk').access)
        left = _table(known.left())
        self.assertIsNone(left.target('/dev/vfio/7').owner)

    def test_the_image_cache(self):
        table = _table(attribution.describe(_domain(UUID1, 'a', 1)))
        found = table.target(f'{INSTANCES}/_base/0123')
        self.assertEqual(('image cache', None), (found.kind, found.owner))
