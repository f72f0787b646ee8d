# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The prepared process, what writers work on, and the writers: `from writers import ...`."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope='session')
def prepared(tmp_path_factory):
    """Give a process that runs writers under a shim that disturbs them."""
    from writers import Prepared
    compiler = shutil.which('cc') or shutil.which('gcc') or shutil.which('clang')
    if compiler is None:
        pytest.skip('no C compiler is installed to build what disturbs writers')
    shim = tmp_path_factory.mktemp('shim') / 'disturb.so'
    subprocess.run([compiler, '-O2', '-shared', '-fPIC', '-o', str(shim),
                    str(HERE / 'disturb.c'), '-ldl'], check=True)
    running = Prepared(shim)
    yield running
    running.close()


@pytest.fixture(scope='session')
def sources(prepared, tmp_path_factory):
    """Give a folder with a model and a bundle of one layer, and pictures."""
    import numpy as np
    from calls import pictures

    from neuron_chunk_ros.prepare.calibrate import calibrate
    from neuron_chunk_ros.prepare.convert import convert
    from neuron_chunk_ros.prepare.presets import PRESETS
    from neuron_chunk_ros.prepare.synthesize import synthesize
    folder = tmp_path_factory.mktemp('sources')
    preset = PRESETS['tiny-llava-onevision']
    text = {**preset.config['text_config'], 'num_hidden_layers': 1, 'max_window_layers': 1}
    preset = dataclasses.replace(preset, config={**preset.config, 'text_config': text})
    synthesize(preset, folder / 'model', dtype='float32', seed=7)
    convert(folder / 'model', folder / 'bundle')
    convert(folder / 'model', folder / 'calibrated')
    calibrate(folder / 'calibrated', [('what?', [np.zeros((56, 56, 3), np.uint8)])])
    pictures(folder / 'pictures', 2)
    return folder
