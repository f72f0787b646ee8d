# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk profile: measure the storage that holds bundles."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from neuron_chunk_ros.cli import arguments
from neuron_chunk_ros.errors import ProfileError

_MOST_SECONDS = 120.0   # with writing and starting, this stays below three minutes


def register(subparsers) -> None:
    """Add the sub-command to the parser of `neuron-chunk`."""
    parser = subparsers.add_parser(
        'profile', help='measure how long reads take on the storage that holds a bundle',
        description='Measures how long reads of each size take on the storage that holds DIR, on '
                    'a temporary file of up to 1 GiB that is gone afterwards. The result, '
                    'storage-profile.json and a picture, serves all bundles in one folder: it '
                    'is written beside DIR where that is a bundle, and into DIR otherwise.')
    parser.add_argument('--path', metavar='DIR', type=arguments.path, required=True,
                        help='a bundle, or the folder that holds bundles')
    parser.add_argument('--backend', choices=('auto', 'io_uring', 'threads'), default='auto',
                        help='how to read; as the bundles will be read')
    parser.add_argument('--seconds', metavar='N', default=45.0,
                        type=arguments.number(1, _MOST_SECONDS),
                        help='time to read for (default 45): longer is surer on a busy machine')
    parser.add_argument('--plot', metavar='FILE', type=arguments.output,
                        help='where to draw throughput against block size (PNG, SVG or PDF; '
                             'default: beside the profile)')
    parser.add_argument('--json', action='store_true', help='print the profile, for programs')
    parser.add_argument('--allow-tmpfs', action='store_true',
                        help='measure memory as if it were storage')
    parser.add_argument('--buffered', action='store_true',
                        help='measure reads through the page cache, emptied before each: for '
                             'storage without direct I/O, or a node with direct_io off')
    parser.set_defaults(run=_profile)


def _profile(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.storage import profile_file
    from neuron_chunk_ros.storage.measure import FILE_BYTES, measure
    from neuron_chunk_ros.storage.scratch_file import LEAST_BYTES
    folder = Path(os.path.abspath(args.path))
    target = profile_file.profile_path(folder)
    plot = args.plot or target.with_suffix('.png')
    where = _where(folder, target)
    arguments.check_figure(plot, target)
    with _stages() as progress:
        profile = measure(
            where, backend=args.backend, progress=progress, seconds=args.seconds,
            allow_tmpfs=args.allow_tmpfs, buffered=args.buffered,
            # a quick look needn't write for longer than it reads
            file_bytes=min(FILE_BYTES, max(LEAST_BYTES, int(32 * args.seconds) << 20)))
    profile_file.save(profile, target)
    if args.json:
        print(target.read_text(), end='')
    else:
        _print(profile, target)
    from neuron_chunk_ros.cli.profile_plot import draw
    draw(profile, plot)
    if not args.json:
        print(f'picture: {plot}')
    return 0


def _where(folder: Path, target: Path) -> Path:
    """Return the folder to measure in; refuse now what would fail after a minute's work."""
    if not folder.exists():
        raise ProfileError(f'{folder}: no such folder')
    if not folder.is_dir():
        raise ProfileError(f'{folder} is not a folder: give a bundle or the folder that holds it')
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ProfileError(f'{target.parent} is not writable: the result could not be kept there')
    # A bundle is left alone, unless it has a file system to itself.
    same = os.stat(folder).st_dev == os.stat(target.parent).st_dev
    return target.parent if same else folder


def _print(profile, target: Path) -> None:
    about = profile.about
    print(f'{about["device"]}, {about["file_system"]} on {about["mount_source"]}, '
          f'{about["kernel"]}; {about["backend"]}, direct I/O '
          f'{"yes" if about["direct_io"] else "no"}, block {about["block_size"]} bytes')
    print(f'{"KiB":>6} {"us/read":>9} {"MB/s":>7} {"fit MB/s":>9}')
    for kib, seconds in zip(profile.sizes_kib, profile.seconds_per_read, strict=True):
        fitted = float(profile.seconds(kib))
        print(f'{kib:>6} {seconds * 1e6:>9.1f} {_rate(kib, seconds):>7.0f} '
              f'{_rate(kib, fitted):>9.0f}')
    print(f'saturated from {profile.saturation_kib} KiB; T(s) = {_line(profile.low)} up to '
          f'{profile.knee_kib:.0f} KiB, {_line(profile.high)} beyond; a batch starts in '
          f'{profile.batch_seconds * 1e6:.0f} us')
    print(f'{about["repeats"]} rounds; on mixes it was not fitted to, the estimate errs by '
          f'{about["held_out_error"]:.1%} (median), {about["held_out_worst"]:.1%} at worst; reads '
          f'of part pages take {about["ragged_slowdown"]:.2f} times as long')
    print(f'profile: {target}')


def _rate(kib: float, seconds: float) -> float:
    return kib * 1024 / seconds / 1e6


def _line(line) -> str:
    return f'{line.request_seconds * 1e6:.2f} us + s * {line.kib_seconds * 1e6:.4f} us'


@contextmanager
def _stages() -> Iterator[Callable[[str, float, float], None]]:
    """Show a bar on stderr while it is a terminal; yields a callback (stage, done, in all)."""
    from tqdm import tqdm
    # miniters: bytes written would set the pace at which seconds are shown
    with tqdm(disable=None, leave=False, miniters=0,
              bar_format='{desc}{percentage:3.0f}% |{bar}| {elapsed}<{remaining}') as bar:
        now = ''

        def show(stage: str, done: float, total: float) -> None:
            nonlocal now
            if stage != now:
                now = stage
                bar.set_description(stage, refresh=False)
                bar.reset(total)
            bar.update(done - bar.n)
        yield show
