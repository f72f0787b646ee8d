# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk convert, inspect, verify, synthesize: a model's way into a bundle."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys

from neuron_chunk_ros.cli import arguments
from neuron_chunk_ros.cli.progress import byte_progress


def register(subparsers) -> None:
    """Add the sub-commands to the parser of `neuron-chunk`."""
    convert = _add(subparsers, 'convert', _convert, 'prepare a Hugging Face model for flash')
    convert.add_argument('model', metavar='MODEL_DIR', type=arguments.path_text,
                         help='folder with config.json, safetensors')
    convert.add_argument('bundle', metavar='BUNDLE_DIR', type=arguments.target,
                         help='folder to write; must not exist')
    convert.add_argument('--dtype', metavar='TYPE', help='round weights to bfloat16, float16 or '
                         'float32 (default: as they are)')
    convert.add_argument('--layout', choices=('bundled', 'separate'), default='bundled',
                         help='linear layers that share an input stored row by row together, or '
                              'each alone (default bundled)')

    convert.add_argument('--lm-head', metavar='FORMAT', help='the same for the LM head, also '
                         'bfloat16 and so on, or int8/4 for a base of 4 bits (default: int8 where '
                         'rows are packed, int8/4 where they are in two parts)')
    convert.add_argument('--rows', metavar='FORMAT', help="pack the decoder's rows as int8 or "
                         'int4 (a scale for 256 or 32 output channels), int8-128, int4-64 ... '
                         '(default: as they are)')
    convert.add_argument('--base', metavar='BITS', type=arguments.whole(1, 8),
                         help='cut rows of int8 (int6, int5) '
                         'in two: so many high bits, 2 to 4, that are held in memory, and the '
                         'others on flash')
    convert.add_argument('--base-mb', metavar='MB',
                         type=arguments.whole(1, arguments.MOST_MB),
                         help='instead of --base: memory for '
                         'all bases; each group gets the bits that err least in it')
    convert.add_argument('--allow-non-finite', action='store_true',
                         help='take weights that are NaN or infinite, of a damaged model')

    inspect = _add(subparsers, 'inspect', _inspect, 'show what a bundle holds')
    inspect.add_argument('bundle', metavar='BUNDLE_DIR', type=arguments.path_text)
    inspect.add_argument('--json', action='store_true', help='everything, for programs')
    inspect.add_argument('--memory-budget-mb', metavar='MB',
                         type=arguments.whole(0, arguments.MOST_MB), help='show what a session '
                         'with this budget would hold, and read for a word and a frame; 0: '
                         'without a budget')
    inspect.add_argument('--max-context', metavar='TOKENS', default=4096,
                         type=arguments.whole(1, arguments.MOST_TOKENS),
                         help='of that session (default 4096)')

    verify = _add(subparsers, 'verify', _verify, 'compare a bundle with its checksums, or '
                  'compute golden vectors again')
    verify.add_argument('bundle', metavar='FOLDER', type=arguments.path_text,
                        help='a bundle, or what compress made with fixed_point')

    synthesize = _add(subparsers, 'synthesize', _synthesize,
                      'write a random model of a real architecture and size')
    synthesize.add_argument('preset', metavar='PRESET', nargs='?',
                            help='architecture; without any, the known ones are listed')
    synthesize.add_argument('model', metavar='MODEL_DIR', nargs='?', type=arguments.target,
                            help='folder to write; must not exist')
    synthesize.add_argument('--seed', type=arguments.seed, default=0, help='same seed, same bytes')
    synthesize.add_argument('--dtype', metavar='TYPE', default='bfloat16',
                            help='bfloat16 (default), float16 or float32')
    synthesize.set_defaults(parser=synthesize)


def _add(subparsers, name: str, run, text: str) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.')
    parser.set_defaults(run=run)
    return parser


def _convert(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.prepare.convert import convert
    with byte_progress('convert') as progress:
        bundle = convert(args.model, args.bundle, args.dtype, progress, layout=args.layout,
                         rows=args.rows, lm_head=args.lm_head, base=args.base,
                         base_mb=args.base_mb, allow_non_finite=args.allow_non_finite)
    print(f'{bundle.path}: {_mb(bundle.flash_bytes)} MB for flash in {len(bundle.groups)} groups, '
          f'{_mb(bundle.resident_bytes)} MB resident, {bundle.dtype}'
          f'{f", {_mb(bundle.base_bytes)} MB of bases" if bundle.bases else ""}'
          f'{"" if bundle.rows == bundle.dtype else f", rows of {bundle.rows}"}')
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.storage.bundle import Bundle
    bundle = Bundle.open(args.bundle)
    if args.memory_budget_mb is not None:
        return _forecast(bundle, args)
    if args.json:
        print(json.dumps({
            'path': str(bundle.path), 'family': bundle.family, 'dtype': bundle.dtype,
            'rows': bundle.rows,
            'flash_bytes': bundle.flash_bytes, 'base_bytes': bundle.base_bytes,
            'flash_files': [p.name for p in bundle.flash_files],
            'resident_bytes': bundle.resident_bytes, 'resident_file': bundle.resident_file.name,
            'files': sorted(bundle.files), 'layout': bundle.layout, 'order': bundle.order,
            'calibration': bundle.calibration, 'provenance': bundle.provenance,
            'groups': [_described(group) for group in bundle.groups.values()],
            **{name: table and _described(table) for name, table in (
                ('embedding', bundle.embedding), ('lm_head', bundle.lm_head))},
        }, indent=1))
        return 0
    facts = {
        'bundle': bundle.path, 'family': bundle.family, 'dtype': bundle.dtype,
        'rows': bundle.rows,
        'flash': f'{_mb(bundle.flash_bytes)} MB in {len(bundle.groups)} groups, '
                 f'files: {", ".join(path.name for path in bundle.flash_files)}',
        **({'base': f'{_mb(bundle.base_bytes)} MB, held in memory'} if bundle.bases else {}),
        'resident': f'{_mb(bundle.resident_bytes)} MB in {len(bundle.resident_tensors)} tensors',
        'files': ', '.join(sorted(bundle.files)),
        'layout': bundle.layout, 'order': _order(bundle),
        'calibration': _calibration(bundle.calibration),
        'provenance': json.dumps(bundle.provenance),
    }
    for key, value in facts.items():
        print(f'{key:<12} {value}')
    print()
    print(f'{"groups":<20} {"count":>5} {"rows":>7} {"columns":>8} {"row bytes":>9} {"MB":>9}  '
          f'members')
    for (name, group), count in _alike(bundle.stored.values()).items():
        members = ' + '.join(f'{label} {columns}' for label, columns in group[2])
        print(f'{name:<20} {count:>5} {group[0]:>7} {sum(c for _, c in group[2]):>8} '
              f'{group[1]:>9} {_mb(count * group[0] * group[1]):>9}  {members}')
    return 0


def _forecast(bundle, args: argparse.Namespace) -> int:
    from neuron_chunk_ros.engine.forecast import forecast
    found = forecast(bundle, args.memory_budget_mb or None, max_context=args.max_context)
    plan, kinds = found.plan, ('resident', 'bases', 'buffers', 'kv_cache', 'activations', 'heads')
    if args.json:
        print(json.dumps({
            **{kind: getattr(plan, kind) for kind in kinds}, 'total': plan.total,
            'word': dataclasses.asdict(found.word), 'frame': dataclasses.asdict(found.frame),
            'profile_note': found.note}))
        return 0
    held = ', '.join(f'{getattr(plan, kind) / 2**20:.0f} {kind.replace("_", " ")}'
                     for kind in kinds if getattr(plan, kind))
    print(f'{"memory":<12} {plan.total / 2**20:.0f} MiB: {held}')
    if plan.streamed:
        print(f'{"bases":<12} {len(plan.streamed)} of {len(bundle.multiplied)} groups\' are read '
              'for each step: drafts come from the prompt alone, a drive that fails ends answers')
    for what, reading in (('word', found.word), ('frame', found.frame)):
        print(f'{what:<12} {_mb(reading.nbytes)} MB read where nothing is skipped, '
              f'{reading.seconds:.2f} s by the profile')
    if plan.bases:
        print(f'{"coarse":<12} drafts, and answers while the drive fails, read nothing'
              + ('' if plan.coarse_words else '; there is no room for words that are new then'))
    if found.note:
        print(f'{"profile":<12} assumed: {found.note}')
    return 0


def _described(group) -> dict:
    order = group.order
    plain = {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
    return {**plain, 'members': [dataclasses.asdict(member) for member in group.members],
            'kept': None if group.kept is None else group.kept.tolist(),
            'base': group.base and _described(group.base),
            'order': order and {'channels': order.channels.tolist(),
                                'absorbed_by': order.absorbed_by}}


def _order(bundle) -> str:
    if bundle.order == 'original':
        return bundle.order
    at_run_time = sum(group.permutation is not None for group in bundle.groups.values())
    return f"{bundle.order}, {at_run_time} groups' inputs reordered at run time"


def _calibration(calibration: dict | None) -> str:
    if calibration is None:
        return 'none (make one with: neuron-chunk calibrate BUNDLE_DIR --images DIR)'
    return f'budgets and row counts from {calibration["samples"]} samples'


def _alike(groups) -> dict:
    """Count groups that differ only in their layer: ((name, shape) -> count), in order."""
    counts: dict = {}
    for group in groups:
        members = tuple((m.name.rsplit('.', 1)[-1], m.columns) for m in group.members)
        key = (re.sub(r'\d+', '*', group.name, count=1), (group.rows, group.row_bytes, members))
        counts[key] = counts.get(key, 0) + 1
    return counts


def _verify(args: argparse.Namespace) -> int:
    from pathlib import Path
    folder = Path(args.bundle)
    if (folder / 'manifest.json').exists() and not (folder / 'bundle.json').exists():
        return _verify_integers(Path(args.bundle))
    from neuron_chunk_ros.storage.bundle import Bundle
    from neuron_chunk_ros.storage.verify import verify
    bundle = Bundle.open(args.bundle)
    with byte_progress('verify') as progress:
        problems = verify(bundle, progress)
    for problem in problems:
        print(f'neuron-chunk: damaged: {problem}', file=sys.stderr)
    if problems:
        return 1
    print(f'{bundle.path}: {len(bundle.stored)} groups, resident tensors and '
          f'{len(bundle.files)} files are intact')
    return 0


def _verify_integers(folder) -> int:
    from neuron_chunk_ros.compress.export.check import check
    count, problems = check(folder)
    for problem in problems:
        print(f'neuron-chunk: wrong: {problem}', file=sys.stderr)
    if problems:
        return 1
    print(f'{folder}: {count} integer operations give their golden vectors')
    return 0


def _synthesize(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.prepare.presets import PRESETS
    if args.preset is None:
        for preset in PRESETS.values():
            text = preset.config['text_config']
            print(f'{preset.name:<26} {preset.config["model_type"]:<16} '
                  f'{text["num_hidden_layers"]} layers, hidden {text["hidden_size"]}')
        return 0
    if args.model is None:
        args.parser.error('MODEL_DIR is missing')
    from neuron_chunk_ros.prepare.synthesize import synthesize
    with byte_progress('synthesize') as progress:
        folder = synthesize(args.preset, args.model, seed=args.seed, dtype=args.dtype,
                            progress=progress)
    print(f'{folder}: {args.preset}, random weights, seed {args.seed}, {args.dtype}')
    return 0


def _mb(nbytes: int) -> str:
    return f'{nbytes / 1e6:.1f}'
