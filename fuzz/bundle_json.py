# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Changes bundle.json and the files of weights, orders and calibration; opens, verifies, asks.

Found is any error but NeuronChunkError, one whose message is not one line with the bundle's path,
a call over two seconds, memory that grows, files left behind, weights that differ from their
checksums without `verify` saying so, and an `inspect` that fails where opening doesn't.
"""

import contextlib
import inspect
import io
import json
import os
import struct

from support import bundles, files, json_values, refusals, watched
from support.hostile import pick

from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.profile import PROFILE_JSON
from neuron_chunk_ros.storage.verify import verify

KINDS = (bundles.plain, bundles.calibrated, bundles.packed)
_SPICES = [
    ('version', 1), ('version', 2), ('version', 3), ('version', 4), ('version', 6),
    ('family', 'qwen2_vl'), ('family', 'llava_onevision'), ('family', 'x'), ('dtype', 'bfloat16'),
    ('rows', 'int8'), ('rows', 'mixed'), ('attention', {'heads': [[0]], 'about': {}}),
    ('attention', {'heads': [[3] * 4] * 3, 'about': {}}), ('attention', {'heads': [[4]]}),
    ('provenance', {'source': 'a\nb\x1b[2J'}), ('provenance', {'source': '\ud800'}),
    ('provenance', {'source': ['x' * 9999]}), ('orders', None), ('calibration', None),
    ('file', '../bundle.json'), ('file', 'bundle.json'), ('file', 'config.json'), ('offset', 4096),
    ('offset', 2**53), ('rows', 2**40), ('columns', 2**40), ('row_bytes', 2**40), ('bytes', 0),
    ('permutation', {'tensor': 'x', 'absorbed_by': []}), ('kept', {'tensor': 'x', 'of': 99}),
    ('scale', 'row'), ('sha256', '0' * 64), ('members', []), ('name', 'embedding'),
    ('embedding', None), ('lm_head', None), ('bases', []), ('samples', 1), ('levels', [0, 0.5])]
_METADATA = [{'a': 'b'}, {'a': 1}, 'x', None, [], {'format': '\ud800'}]


def _header(rng, data):
    """Return a safetensors file with a changed header."""
    length = struct.unpack('<Q', data[:8])[0]
    kind = rng.integers(8)
    if kind == 0:
        odd = pick(rng, [0, 1, length - 1, length + 1, length * 2, len(data), 2**31, 2**63,
                         2**64 - 1, 99_999_999, 100_000_001])
        return struct.pack('<Q', odd) + data[8:]
    if kind == 1:
        return files.damaged(rng, data[:8 + length], [data]) + data[8 + length:]
    if kind == 2:
        return files.damaged(rng, data, [b'\xff' * 999])
    header = json.loads(data[8:8 + length])
    spices = [('__metadata__', pick(rng, _METADATA)), ('dtype', 'F64'), ('dtype', 'BF16'),
              ('dtype', 'F4'), ('shape', []), ('shape', [0]), ('shape', [2**53, 0]),
              ('shape', [1] * 99), ('data_offsets', [0, 0]), ('data_offsets', [8, 0]),
              ('__pad.9', {'dtype': 'U8', 'shape': [0], 'data_offsets': [0, 0]})]
    text = json_values.written(rng, json_values.changed(rng, header, spices))
    if rng.random() < 0.7:  # the data stays where it is
        text += b' ' * max(0, length - len(text))
    return struct.pack('<Q', len(text)) + text + data[8 + length:]


def _change(rng, folder):
    """Change one file; return in words which and how, and whether its weights alone changed."""
    names = sorted(name for name in os.listdir(folder) if name.endswith('.safetensors'))
    kind = rng.integers(12)
    if kind < 6:
        manifest = json.loads((folder / 'bundle.json').read_bytes())
        bundles.rewritten(folder / 'bundle.json', json_values.written(
            rng, json_values.changed(rng, manifest, _SPICES)))
        return 'bundle.json changed', False
    if kind == 6:
        name = pick(rng, ['bundle.json', *names])
        return f'{name} {files.replace(rng, folder / name)}', False
    if kind == 7:
        data = (folder / 'bundle.json').read_bytes()
        bundles.rewritten(folder / 'bundle.json', files.damaged(rng, data))
        return 'bundle.json damaged', False
    name = pick(rng, names)
    data = (folder / name).read_bytes()
    if kind == 8:  # data alone, where it isn't padding
        bundle = Bundle.open(folder)
        spans = [(group.offset, group.offset + group.nbytes) for group in bundle.stored.values()
                 if group.file == name] or [(len(data) - 8, len(data))]
        begin, end = pick(rng, spans)
        data = bytearray(data)
        for _ in range(1 + int(rng.integers(8))):
            data[int(rng.integers(begin, end))] ^= 1 << rng.integers(8)
            data[int(rng.integers(begin, end))] = 255
        whole = (folder / name).read_bytes() == bytes(data)
        bundles.rewritten(folder / name, bytes(data))
        sealed = not name.startswith('flash') and rng.random() < 0.5
        if sealed:
            bundles.seal(folder, name)
        return f"{name}: other data{', sealed' * sealed}", not whole and not sealed
    if kind == 9 and len(names) > 1:
        bundles.rewritten(folder / name, (folder / pick(rng, names)).read_bytes())
    else:
        bundles.rewritten(folder / name, _header(rng, data))
    if rng.random() < 0.8 and not name.startswith('flash'):
        bundles.seal(folder, name)
        return f'{name}: other header, sealed', False
    return f'{name}: other header', False


def _inspect(folder, *options):
    """Run the command; raise Finding where it does anything but print, or refuse in a line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(['inspect', str(folder), *options])
    if code:
        refusals.check_line(err.getvalue().removesuffix('\n'), [folder])
    elif '--json' in options:
        json.loads(out.getvalue())
    elif '\x1b' in out.getvalue():
        raise watched.Finding(f'inspect prints control codes: {out.getvalue()!r}')
    out.getvalue().encode()


def run_case(rng, watch):
    """Make one case."""
    family = pick(rng, bundles.FAMILIES)
    made = pick(rng, KINDS)
    folder = bundles.copied(made(family))
    with bundles.Leftovers():
        what, damaged = _change(rng, folder)
        if rng.random() < 0.05:
            (folder.parent / PROFILE_JSON).write_bytes(rng.bytes(20))
        said = f'{family} {made.__name__}: {what}'
        watch(f'{said}: Bundle.open')
        bundle = refusals.refused_or(lambda: Bundle.open(folder), [folder])
        if bundle is None:
            _inspect(folder)
            return
        watch(f'{said}: verify')
        problems = verify(bundle)
        for line in problems:
            refusals.check_line(line, [folder])
        if damaged and not problems:
            raise watched.Finding('verify says that all is well')
        for options in ([], ['--json'], ['--memory-budget-mb', '300'], [
                '--memory-budget-mb', '0', '--json']):
            watch(f'{said}: inspect {options}')
            _inspect(folder, *options)
        bundles.ask(watch, folder, said, **pick(rng, [
            {}, {'policy': 'greedy', 'sparsity': 0.5}, {'memory_budget_mb': 300},
            {'attention': 'blindsight'}, {'policy': 'topk', 'deadline_ms': 5.0},
            {'head_mb': 0.1}, {'cameras': 2}]))


if __name__ == '__main__':
    bundles.quiet()
    watched.main(run_case, inspect.getdoc(inspect.getmodule(run_case)).splitlines()[0])
