# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which storage profile a benchmark chooses rows by."""

from __future__ import annotations

from pathlib import Path

from neuron_chunk_ros.bench.progress import Progress
from neuron_chunk_ros.storage import profile_file
from neuron_chunk_ros.storage.device_facts import device_facts
from neuron_chunk_ros.storage.profile import PROFILE_JSON, Profile
from neuron_chunk_ros.storage.profile_file import storage_of

_QUICK_SECONDS = 5.0
_QUICK_BYTES = 256 << 20


def profile_for(folder: Path, given: Path | None, quick: bool, progress: Progress) -> Profile:
    """Return the profile of the storage under a folder, measured now if nobody has yet.

    :param given: a profile's file, instead.
    :raises ProfileError: for a damaged file, or where nothing can be measured.
    """
    if given is not None:
        return profile_file.load(given)
    if (folder / PROFILE_JSON).is_file():
        found = profile_file.load(folder / PROFILE_JSON)
        if found.source == 'measured' and storage_of(found).same_storage(device_facts(folder)):
            return found
    from neuron_chunk_ros.storage.measure import FILE_BYTES, SECONDS, measure
    return measure(folder, seconds=_QUICK_SECONDS if quick else SECONDS,
                   file_bytes=_QUICK_BYTES if quick else FILE_BYTES,
                   progress=lambda doing, done, total: progress(
                       f'profile: {doing}', round(1000 * done / total), 1000))


def facts(profile: Profile) -> dict:
    """Return a profile's figures for a report."""
    return {'source': profile.source, 'saturation_kib': profile.saturation_kib,
            'knee_kib': profile.knee_kib,
            'low_request_us': 1e6 * profile.low.request_seconds,
            'low_kib_us': 1e6 * profile.low.kib_seconds,
            'high_request_us': 1e6 * profile.high.request_seconds,
            'high_kib_us': 1e6 * profile.high.kib_seconds,
            'batch_us': 1e6 * profile.batch_seconds}
