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

"""A run, seen from inside its network, mount and process namespaces, whose
first process this is: when it ends, all ends.

It connects the machine, starts it and, with `--with nova`, the controller;
waits until they are ready; runs the command.
"""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import typing

from host import controller
from host.errors import LabError
from host import machine
from host import paths
from host import progress
from host import spec
import lablib

CONTROLLER, COMPUTE, TAP = '10.77.0.1', '10.77.0.2', 'tap0'
COMMAND_PORT = 7000
BOOT_LIMIT = 240  # seconds until all must be up; the run's limit is outside


class Run:
    """The run.

    :param directory: its directory.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.spec = spec.Spec.read(directory)
        self.log = directory / 'log'
        self.guest = directory / 'guest'
        self.start = time.monotonic()
        # that must live as long as the run
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._notes = (self.log / 'run.log').open('w', buffering=1)

    def note(self, text: str) -> None:
        """Write a line into the run's own log."""
        self._notes.write(f'[{time.monotonic() - self.start:6.2f}] {text}\n')

    def prepare(self) -> None:
        """Mounts and network. Nothing of it is undone: it goes with the
        namespaces.
        """
        memory, view = (self.directory / name for name in spec.MOUNTS)
        for path in (memory, view):
            path.mkdir()
        do('mount', '-t', 'tmpfs', '-o', 'mode=755,size=90%', 'tmpfs', memory)
        # the machine's own read-only mount could be remounted by its root;
        # this one cannot
        do('mount', '--bind', paths.CHECKOUT, view)
        do('mount', '-o', 'remount,ro,bind', view)
        shared = pathlib.Path(self.spec.share) / 'log'
        do('mount', '--bind', self.log / 'compute', shared)
        do('ip', 'link', 'set', 'lo', 'up')
        do('ip', 'tuntap', 'add', TAP, 'mode', 'tap')
        # without, bulk traffic to the machine crawls at 36 KB/s: its driver
        # cannot do with large segments
        do('ip', 'link', 'set', TAP, 'gso_max_segs', '1', 'up')
        do('ip', 'addr', 'add', f'{CONTROLLER}/24', 'dev', TAP)

    def boot(self) -> None:
        """Start the machine."""
        memory = self.directory / 'memory'
        disk = pathlib.Path(self.spec.disk) / 'disk.ext4'
        command = machine.command(
            pathlib.Path(self.spec.kernel),
            disk=f'{memory}/cow,{disk}',
            lsm=self.spec.lsm,
            mounts={
                'src': self.directory / 'src',
                'share': pathlib.Path(self.spec.share),
                'lab': self.guest,
            },
            init_arguments={'lab_job': 'run'},
            tap=TAP,
            directory=memory,
            cpu=self.spec.cpu,
        )
        env = {
            'PATH': '/usr/bin:/bin',
            'HOME': str(memory),
            'TMPDIR': str(memory),
        }
        self.begin('console', command, env)

    def begin(
        self, name: str, command: list[str], env: dict[str, str]
    ) -> None:
        """Start a process that must live as long as the run, with its output
        in the log of that name.
        """
        with (self.log / f'{name}.log').open('wb') as log:
            self.processes[name] = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_ready(self) -> None:
        """Wait until the command can run.

        :raises LabError: when something ended that should not, or the time was
            up.
        """
        limit = time.monotonic() + BOOT_LIMIT
        nova = self.spec.mode == 'nova'
        if nova:
            self._wait('nova-conductor', self._conductor_is_up, limit)
            (self.guest / 'controller-up').touch()
        self._wait('the machine', (self.guest / 'ready').exists, limit)
        if nova:
            self._wait('nova-compute', self._compute_is_up, limit, 0.25)
            self._wait('glance', controller.image_api_is_up, limit, 0.25)

    def _wait(
        self,
        what: str,
        done: typing.Callable[[], bool],
        limit: float,
        interval: float = 0.05,
    ) -> None:
        while not done():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise self._failure(
                        f'{name} ended with status {process.returncode}', name
                    )
            if time.monotonic() > limit:
                raise self._failure(f'{what} is not up in {BOOT_LIMIT} s')
            time.sleep(interval)
        self.note(f'{what} is up')

    def _failure(self, text: str, name: str = 'console') -> LabError:
        """An error with the end of the log that should tell why."""
        log = self.log / f'{name}.log'
        return LabError(progress.with_tail(f'{text}; {log}:', log))

    def _conductor_is_up(self) -> bool:
        return controller.conductor_is_up(self.log)

    def _compute_is_up(self) -> bool:
        """Whether nova-compute can be used; without AppArmor also when it
        refused to run.
        """
        if (self.guest / 'compute-ended').exists():
            if self.spec.lsm != 'apparmor':
                progress.say(
                    'lab: nova-compute ended, as it may without AppArmor'
                )
                return True
            raise self._failure('nova-compute ended', 'compute/nova-compute')
        return controller.compute_is_up()

    def command(self) -> int:
        """Run the command, on the machine or beside it.

        :returns: its exit status.
        """
        if self.spec.mode != 'nova':
            return self._on_the_machine()
        (self.guest / 'up').touch()
        seconds = time.monotonic() - self.start
        progress.say(f'lab: Nova is up on {self.spec.image}: {seconds:.1f} s')
        return self._beside_the_machine()

    def _beside_the_machine(self) -> int:
        programs = str(paths.LAB / 'bin')
        outer = os.environ.pop('LAB_OUTER_PYTHONPATH', '')
        env = dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(filter(None, (programs, outer))),
            PATH=os.pathsep.join((programs, os.environ['PATH'])),
        )
        try:
            process = subprocess.Popen(self.spec.command, env=env)
        except OSError as e:
            progress.say(f'lab: {self.spec.command[0]}: {e.strerror}')
            return 127 if isinstance(e, FileNotFoundError) else 126
        # we are PID 1: also the children of those that ended are ours to reap
        while (ended := os.wait())[0] != process.pid:
            if ended[0] == self.processes['console'].pid:
                progress.say(f'lab: the machine ended; {self.log}/console.log')
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        if process.returncode < 0:
            return 128 - process.returncode
        return process.returncode

    def _on_the_machine(self) -> int:
        threading.Thread(target=self._watch, daemon=True).start()
        streams = {'o': sys.stdout.buffer, 'e': sys.stderr.buffer}
        try:
            for frame in lablib.follow(self.spec.command):
                if frame.kind == 'x':
                    return int(frame.content)
                streams[frame.kind].write(frame.content)
                streams[frame.kind].flush()
        except ConnectionError as e:
            raise self._failure(f'while the command ran: {e}') from e
        raise AssertionError('a command without an end')

    def _watch(self) -> None:
        """End the run with the machine: a connection to it would never."""
        self.processes['console'].wait()
        failure = self._failure('the machine ended while the command ran')
        spec.Result(None, str(failure)).write(self.directory)
        os._exit(1)

    def run(self) -> int:
        """All of it."""
        os.environ.update(
            LAB_COMPUTE=f'{COMPUTE}:{COMMAND_PORT}',
            LAB_RUN=str(self.log),
            LAB_SHARE=self.spec.share,
            LAB_IMAGE=self.spec.image,
            LAB_AUDIT_LOG=str(self.log / 'compute' / 'audit.log'),
        )
        self.prepare()
        self.boot()
        if self.spec.mode == 'nova':
            root = controller.mount(self.spec, self.directory)
            os.environ.update(controller.environment(CONTROLLER, root))
            for name, command in controller.services(self.spec, root).items():
                self.begin(name, command, controller.ENVIRONMENT)
        self.note('started')
        self.wait_ready()
        status = self.command()
        self.note(f'the command ended with status {status}')
        return status


def do(*command: str | pathlib.Path) -> None:
    """Run a command of the set-up; its message is the failure."""
    done = subprocess.run(
        [str(word) for word in command], stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise LabError(f'{" ".join(map(str, command))}: {done.stderr.strip()}')


def main() -> None:
    """Run, and leave the result in the run's directory."""
    # PID 1 is not ended by a signal without handler; with one, the command's
    # process gets the default again. Ctrl-C is run.py's
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    directory = pathlib.Path(sys.argv[1])
    try:
        result = spec.Result(Run(directory).run())
    except (LabError, OSError) as e:
        result = spec.Result(None, str(e))
    result.write(directory)


if __name__ == '__main__':
    main()
