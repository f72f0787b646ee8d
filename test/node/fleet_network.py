# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Several computers on one: each with its own network, shared memory and processes.

Linux namespaces tied to one process a computer. They, and all that runs in them, vanish with
that process, and it ends with this one, however that ends.
"""

import os
import shutil
import subprocess
import sys

TOOLS = ('ip', 'unshare', 'nsenter', 'mount')
# Prints its process id as the outer world sees it, then lives as long as its standard input.
_HOLD = ('read -r pid rest < /proc/self/stat && mount -t proc proc /proc && '
         'mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo "$pid" && exec cat')


class Unavailable(Exception):
    """This machine or user may not make network namespaces."""


class Computer:
    """A network, a /dev/shm and processes of its own; a context manager that ends them all.

    :raises Unavailable: where namespaces can't be made, with the reason.
    """

    def __init__(self):
        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if missing:
            raise Unavailable(f"no {', '.join(missing)} on this machine")
        self._holder = subprocess.Popen(
            ['unshare', '--net', '--mount', '--pid', '--fork', 'sh', '-c', _HOLD],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True)
        pid = self._holder.stdout.readline()
        if not pid:
            self._holder.wait()
            raise Unavailable(self._holder.stderr.read().strip().replace('\n', '; '))
        self._pid = int(pid)
        self._started = []

    def __enter__(self) -> 'Computer':
        """Return the running computer."""
        return self

    def __exit__(self, *_):
        """Switch it off."""
        # Its streams are closed and its end is waited for; all it holds ends with it.
        for process in (self._holder, *self._started):
            with process:
                pass

    def start_python(self, arguments: list[str], environment: dict[str, str], **options):
        """Start Python on this computer; return its subprocess.Popen."""
        # Its own session: Ctrl-C reaches the test alone, which then switches the computers off.
        self._started.append(subprocess.Popen(
            ['nsenter', f'--target={self._pid}', '--net', '--mount', '--pid', sys.executable,
             *arguments],
            env={**os.environ, **environment}, start_new_session=True, **options))
        return self._started[-1]

    def ip(self, arguments: str):
        """Run the `ip` tool on this computer."""
        done = subprocess.run(
            ['nsenter', f'--target={self._pid}', '--net', 'ip', *arguments.split()],
            capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f'ip {arguments}: {done.stderr.strip()}')

    def connect(self, name: str, computer: 'Computer', address: str):
        """Plug `computer`, at this address, into this one, the switch, at a port `name`."""
        self.ip(f'link add {name} type veth peer name eth0 netns {computer._pid}')
        self.ip(f'link set {name} master bridge up')
        computer.ip(f'address add {address}/24 dev eth0')
        computer.ip('link set eth0 up multicast on')


class Switch(Computer):
    """A network switch for other computers; nothing leads from it to the outer world."""

    def __init__(self):
        super().__init__()
        # Snooping forwards a multicast only where somebody asked for it, once a router is heard.
        self.ip('link add bridge type bridge mcast_snooping 0')
        self.ip('link set bridge up')

    def plug(self, name: str, plugged: bool):
        """Plug a computer's cable in, or pull it out."""
        self.ip(f"link set {name} {'up' if plugged else 'down'}")
