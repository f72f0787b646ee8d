# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several rooms share: small random models, made once per session."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes is the machine's affair.
settings.register_profile('house', deadline=None)
settings.load_profile('house')
sys.path.insert(0, str(Path(__file__).parent))  # helpers of several rooms

os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
# As the commands and the node set it: torch's idle threads would otherwise spin on the cores that
# the reader's threads need (up to 20 times slower on two shared cores).
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
# Where there is no GPU, its kernels run in Triton's interpreter. Triton asks when it is imported.
if not Path('/dev/nvidiactl').exists() and not Path('/dev/nvgpu').exists():
    os.environ.setdefault('TRITON_INTERPRET', '1')

# A run in the background has been told to ignore Ctrl-C; the processes it starts must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)



@pytest.fixture
def taken():
    """Give a function that says how much memory was taken at most since [MiB]."""
    from neuron_chunk_ros.node.process_memory import resident_mib
    Path('/proc/self/clear_refs').write_text('5')  # the peak begins anew
    before, _ = resident_mib()
    return lambda: resident_mib()[1] - before


@pytest.fixture(scope='session')
def interpreted():
    """Skip where kernels can't run on the CPU."""
    pytest.importorskip('triton', reason='Triton is not installed here')
    if os.environ.get('TRITON_INTERPRET') != '1':
        pytest.skip('there is a GPU: tools/check_cuda.sh runs its kernels on it')


TINY = ('tiny-llava-onevision', 'tiny-qwen2-vl')


@pytest.fixture(scope='session')
def tiny_models(tmp_path_factory):
    """Map preset name -> Hugging Face folder (float32). Shared: copy before changing."""
    from neuron_chunk_ros.prepare.synthesize import synthesize
    folder = tmp_path_factory.mktemp('models')
    return {name: synthesize(name, folder / name, dtype='float32', seed=7) for name in TINY}


@pytest.fixture(params=TINY)
def tiny_model(request, tiny_models, tmp_path):
    """Give a private copy of each tiny model's folder."""
    return Path(shutil.copytree(tiny_models[request.param], tmp_path / 'model'))


@pytest.fixture(scope='session')
def tiny_bundles(tiny_models, tmp_path_factory):
    """Map preset name -> bundle folder (float32). Shared: copy before changing."""
    from neuron_chunk_ros.prepare.convert import convert
    folder = tmp_path_factory.mktemp('bundles')
    return {name: convert(model, folder / name).path for name, model in tiny_models.items()}


@pytest.fixture(scope='session')
def older_bundle():
    """Give a function that copies an unpacked bundle as version 2 had it: tables resident."""
    import numpy as np

    from neuron_chunk_ros.storage.bundle import Bundle, GroupPlan
    from neuron_chunk_ros.storage.row_format import ROW_FORMATS
    from neuron_chunk_ros.storage.safetensors_header import read_header
    from neuron_chunk_ros.storage.source_groups import SourceGroups
    from neuron_chunk_ros.storage.writer import BundleWriter, ResidentTensor

    def copy(source, target):
        bundle = Bundle.open(source)
        plans = [GroupPlan(g.name, g.rows, g.members) for g in bundle.groups.values()]
        raw = bundle.resident_file.read_bytes()
        tensors = [ResidentTensor(name, e.dtype, e.shape, raw[e.begin:e.end])
                   for name, e in read_header(bundle.resident_file, ValueError).items()]
        tied = '"tie_word_embeddings": true' in (bundle.path / 'config.json').read_text()
        with BundleWriter(target, bundle.family, bundle.dtype, plans, {}) as writer, \
                SourceGroups(bundle) as sources:
            for name in bundle.files:
                writer.copy_file(bundle.path / name)
            for plan in plans:
                writer.write_group(plan.name, sources.load([bundle.groups[plan.name]])[plan.name])
            for table in [bundle.embedding] + ([] if tied else [bundle.lm_head]):
                rows = sources.load([table])[table.name].copy()
                rows = np.ascontiguousarray(rows.T) if table is bundle.lm_head else rows
                tensors.append(ResidentTensor(f'{table.members[0].name}.weight',
                                              ROW_FORMATS[table.dtype].tag, rows.shape, rows))
            writer.write_resident(tensors)
        return Bundle.open(target)

    return copy


@pytest.fixture(scope='session')
def change_side_file():
    """Give a function that writes a file beside a bundle's weights, and lists it as it is now."""
    import hashlib
    import json

    def change(folder, name, data):
        (folder / name).write_bytes(data)
        manifest = json.loads((folder / 'bundle.json').read_text())
        manifest['files'][name] = hashlib.sha256(data).hexdigest()
        (folder / 'bundle.json').write_text(json.dumps(manifest))

    return change


@pytest.fixture
def small_disk(tmp_path):
    """Give the folder of a real file system of 24 MiB."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', str(disk)],
                             capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f'mounting a small tmpfs is not allowed here: {mounted.stderr.strip()}')
    yield disk
    subprocess.run(['umount', str(disk)], check=True)


@pytest.fixture(scope='session')
def large_model(tmp_path_factory):
    """Give the folder of a model of 320 MB, nearly all of it decoder."""
    import dataclasses

    from neuron_chunk_ros.prepare.presets import PRESETS
    from neuron_chunk_ros.prepare.synthesize import synthesize
    preset = PRESETS['llava-onevision-flash-1gb']
    text = {**preset.config['text_config'], 'num_hidden_layers': 14}
    preset = dataclasses.replace(preset, config={**preset.config, 'text_config': text})
    return synthesize(preset, tmp_path_factory.mktemp('large') / 'model')
