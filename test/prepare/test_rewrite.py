# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rewriting: the model stays the same to the byte, in any order and layout."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.prepare.calibrate import calibrate, record_importance
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.rewrite import rewrite
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.row_format import ROW_FORMATS
from neuron_chunk_ros.storage.verify import verify

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')
FORMS = [('hot-cold', 'bundled'), ('original', 'separate'), ('hot-cold', 'separate')]
SOME_FORMS = [*(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[:2]), FORMS[2]]


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    """Tiny products gain nothing from threads, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def some_samples():
    rng = np.random.default_rng(3)
    return [(prompt, [rng.integers(0, 256, (90, 120, 3), np.uint8)])
            for prompt in ('what is it?', 'how many?', 'where is it now?')]


@pytest.fixture(scope='module')
def calibrated(tiny_bundles, tmp_path_factory):
    """Map family -> a calibrated bundle. Shared: only read."""
    folder = tmp_path_factory.mktemp('calibrated')
    for name in FAMILIES:
        calibrate(shutil.copytree(tiny_bundles[name], folder / name), some_samples())
    return {name: folder / name for name in FAMILIES}


@pytest.fixture(scope='module')
def rewritten(calibrated, tmp_path_factory):
    """Map (family, (order, layout)) -> the calibrated bundle rewritten. Shared: only read."""
    folder = tmp_path_factory.mktemp('rewritten')
    return {(name, form): rewrite(calibrated[name], folder / '-'.join((name, *form)), *form).path
            for name in FAMILIES for form in FORMS}


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def weights(path):
    """Return every linear layer's [rows, columns] as it lies on flash, and its group."""
    found = {}
    for group in Bundle.open(path).groups.values():
        data = np.fromfile(path / group.file, ROW_FORMATS[group.dtype].storage,
                           group.rows * group.columns, offset=group.offset)
        column = 0
        for member in group.members:
            part = data.reshape(group.rows, group.columns)[:, column:column + member.columns]
            found[member.name] = part, group
            column += member.columns
    return found


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('form', SOME_FORMS)
def test_going_back_gives_the_same_files(calibrated, rewritten, tmp_path, family, form):
    here = rewritten[family, form]
    assert verify(Bundle.open(here)) == []
    assert (Bundle.open(here).order, Bundle.open(here).layout) == form
    back = rewrite(here, tmp_path / 'back', 'original', 'bundled').path
    assert contents(back) == contents(calibrated[family])


@pytest.mark.parametrize('start, steps', [
    (('hot-cold', 'bundled'), [(None, 'separate'), ('hot-cold', None), (None, 'bundled')]),
    (('hot-cold', 'separate'), [('original', None), ('hot-cold', 'bundled'), (None, 'separate')]),
    (('original', 'separate'), [('hot-cold', None), ('original', 'separate')])])
def test_ways_around_lead_home(rewritten, tmp_path, start, steps):
    first = here = rewritten[FAMILIES[1], start]
    for number, step in enumerate(steps):
        here = rewrite(here, tmp_path / str(number), *step).path
    assert contents(here) == contents(first)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('form', SOME_FORMS)
def test_rows_and_columns_lie_where_the_order_says(calibrated, rewritten, family, form):
    before, after = weights(calibrated[family]), weights(rewritten[family, form])
    assert before.keys() == after.keys()
    columns = {name: group.order.channels for _, group in after.values() if group.order
               for name in group.order.absorbed_by}
    for name, (part, group) in after.items():
        want = before[name][0]
        if group.order is not None:
            want = want[group.order.channels]
        if name in columns:
            want = want[:, columns[name]]
        assert np.array_equal(part, want)
        kind = name.rsplit('.', 1)[-1]
        if form[0] == 'original':
            assert group.order is None and name not in columns
        else:
            # the MLP absorbs its inner order, everything else is reordered at run time
            assert (name in columns) == (kind in ('gate_proj', 'up_proj'))
            assert (group.permutation is None) == (kind == 'down_proj')


@pytest.mark.parametrize('family', FAMILIES)
def test_hot_rows_come_first(calibrated, rewritten, family):
    importance = record_importance(calibrated[family], some_samples())
    for group in Bundle.open(rewritten[family, ('hot-cold', 'bundled')]).groups.values():
        visual = importance[group.name]['visual']
        half = round(group.rows / 2)
        counts = np.zeros(group.rows, int)
        for row in visual:
            counts[np.argsort(-row, kind='stable')[:half]] += 1
        mean = visual.mean(axis=0, dtype=np.float64).astype(np.float32)
        want = sorted(range(group.rows), key=lambda i: (-counts[i], -mean[i], i))
        assert group.order.channels.tolist() == want


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('form', SOME_FORMS)
def test_dense_answers_equal_plain_transformers(tiny_models, rewritten, family, form):
    plain = AutoModelForImageTextToText.from_pretrained(tiny_models[family]).eval()
    (prompt, shown), *_ = some_samples()
    with Session.open(rewritten[family, form], piece_mb=0.02) as session:
        inputs = session.prepare(prompt, shown)
        with torch.inference_mode():
            torch.testing.assert_close(session._model(**inputs).logits, plain(**inputs).logits,
                                       rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('form', SOME_FORMS)
def test_sparse_answers_choose_the_same_neurons(calibrated, rewritten, form):
    logits = {}
    (prompt, shown), *_ = some_samples()
    for name, path in (('before', calibrated[FAMILIES[0]]),
                       ('after', rewritten[FAMILIES[0], form])):
        with Session.open(path, policy='topk', sparsity=0.4, text_sparsity=0.2) as session:
            inputs = session.prepare(prompt, shown)
            with torch.inference_mode():
                logits[name] = session._model(**inputs).logits
    torch.testing.assert_close(logits['after'], logits['before'], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('form', SOME_FORMS)
def test_the_calibration_comes_along(calibrated, rewritten, form):
    """What is carried is what calibrating the rewritten bundle would record."""
    before, after = (Bundle.open(path) for path in (
        calibrated[FAMILIES[0]], rewritten[FAMILIES[0], form]))
    importance = record_importance(after.path, some_samples())
    arrays = load_file(after.path / after.calibration['neurons']['file'])
    homes = {member.name: group.name for group in before.groups.values()
             for member in group.members}
    for group in after.groups.values():
        source = before.calibration['groups'][homes[group.members[0].name]]
        for kind, table in after.calibration['groups'][group.name].items():
            np.testing.assert_allclose(arrays[f'{group.name}.{kind}.importance'],
                                       importance[group.name][kind].mean(axis=0), rtol=1e-3,
                                       atol=1e-6)
            assert arrays[f'{group.name}.{kind}.count'].sum() == 3 * round(group.rows / 2)
            assert table['sparsity'] == source[kind]['sparsity']


@pytest.mark.slow
def test_separate_budgets_meet_in_a_bundled_group(calibrated, tmp_path):
    """Calibrated apart, then stored together: what is skipped of the parameters stays."""
    apart = rewrite(calibrated[FAMILIES[0]], tmp_path / 'apart', layout='separate').path
    calibrate(apart, some_samples())
    together = Bundle.open(rewrite(apart, tmp_path / 'together', layout='bundled').path)
    tables = Bundle.open(apart).calibration['groups']
    sizes = {name: group.columns for name, group in Bundle.open(apart).groups.items()}
    parts = [f'layers.1.{part}' for part in 'qkv']
    assert len({tuple(tables[name]['text']['sparsity']) for name in parts}) > 1
    got = together.calibration['groups']['layers.1.qkv']['text']
    np.testing.assert_allclose(got['sparsity'], np.average(
        [tables[name]['text']['sparsity'] for name in parts], axis=0,
        weights=[sizes[name] for name in parts]), atol=1e-6)
    assert got['sensitivity'] == pytest.approx(np.sqrt(
        sum(tables[name]['text']['sensitivity'] ** 2 for name in parts)), rel=1e-5)


def test_separate_storage_is_what_convert_writes(tiny_models, tiny_bundles, tmp_path):
    direct = convert(tiny_models[FAMILIES[0]], tmp_path / 'direct', layout='separate').path
    round_about = rewrite(tiny_bundles[FAMILIES[0]], tmp_path / 'about', layout='separate').path
    assert contents(direct) == contents(round_about)
    names = list(Bundle.open(direct).groups)[:7]
    assert names == [f'layers.0.{part}' for part in
                     ('q', 'k', 'v', 'o', 'gate', 'up', 'down')]


def test_a_biased_layer_absorbs_nothing(calibrated, tmp_path):
    """A bias would stay where it was: the activation is reordered instead."""
    bundle = Path(shutil.copytree(calibrated[FAMILIES[0]], tmp_path / 'bundle'))
    name = next(m.name for m in Bundle.open(bundle).groups['layers.1.gate_up'].members)
    resident = bundle / 'resident.safetensors'
    save_file({**load_file(resident), f'{name}.bias': np.zeros(3, np.float32)}, resident)
    manifest = json.loads((bundle / 'bundle.json').read_text())
    manifest['resident'].update(bytes=resident.stat().st_size,
                                sha256=hashlib.sha256(resident.read_bytes()).hexdigest())
    (bundle / 'bundle.json').write_text(json.dumps(manifest))
    groups = rewrite(bundle, tmp_path / 'b', 'hot-cold').groups
    assert groups['layers.1.down'].permutation is not None
    assert groups['layers.0.down'].permutation is None


def damage(path, offset):
    with open(path, 'r+b') as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_damage_is_not_carried_on(calibrated, tmp_path):
    bundle = Path(shutil.copytree(calibrated[FAMILIES[0]], tmp_path / 'bundle'))
    group = Bundle.open(bundle).groups['layers.2.o']
    damaged = {bundle / group.file: (group.offset + 5, 'group layers.2.o '),
               bundle / 'resident.safetensors': (20_000, 'resident.safetensors: checksum'),
               bundle / 'config.json': (3, 'config.json: checksum')}
    for path, (offset, words) in damaged.items():
        damage(path, offset)
        with pytest.raises(BundleError, match=words):
            rewrite(bundle, tmp_path / 'b', 'original')
        assert os.listdir(tmp_path) == ['bundle']
        damage(path, offset)
    rewrite(bundle, tmp_path / 'b', 'original')


@pytest.mark.parametrize('arguments, words', [
    (('hot-cold',), 'neuron-chunk calibrate'), (('sorted',), "order 'sorted'"),
    ((None, 'stacked'), "layout 'stacked'")])
def test_what_cannot_be_done_is_refused(tiny_bundles, tmp_path, arguments, words):
    with pytest.raises(BundleError, match=words):
        rewrite(tiny_bundles[FAMILIES[0]], tmp_path / 'b', *arguments)
    assert os.listdir(tmp_path) == []


def test_targets_that_cannot_be(calibrated, tmp_path):
    bundle = Path(shutil.copytree(calibrated[FAMILIES[0]], tmp_path / 'bundle'))
    before = contents(bundle)
    for target, words in ((bundle / 'b', 'lies inside'), (bundle, 'lies inside'),
                          (tmp_path / 'gone' / 'b', 'not a folder')):
        with pytest.raises(BundleError, match=words):
            rewrite(bundle, target, 'hot-cold')
    (tmp_path / 'there').mkdir()
    with pytest.raises(BundleError, match='already exists'):
        rewrite(bundle, tmp_path / 'there', 'hot-cold')
    assert contents(bundle) == before and sorted(os.listdir(tmp_path)) == ['bundle', 'there']


MEASURE = """
import sys
from neuron_chunk_ros.prepare.rewrite import rewrite

def status(key):
    for line in open('/proc/self/status'):
        if line.startswith(key):
            return int(line.split()[1]) * 1024

rewrite(sys.argv[1], sys.argv[3] + '.tiny', layout='separate')  # everything is imported and warm
open('/proc/self/clear_refs', 'w').write('5')  # forget the peak so far
before = status('VmRSS')
rewrite(sys.argv[2], sys.argv[3], layout='separate')
print(status('VmHWM') - before)
"""


@pytest.mark.slow
def test_peak_memory_is_a_group_not_the_model(tiny_bundles, large_model, tmp_path):
    bundle = convert(large_model, tmp_path / 'large')
    largest = max(group.nbytes for group in bundle.groups.values())
    done = subprocess.run(
        [sys.executable, '-c', MEASURE, str(tiny_bundles[FAMILIES[0]]), str(bundle.path),
         str(tmp_path / 'b')], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.5 * largest + 30e6 < 0.3 * bundle.flash_bytes
