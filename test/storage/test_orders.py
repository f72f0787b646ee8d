# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Row orders and calibrations of a bundle: written, read back, and every malformed one refused."""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.storage.annotate import store_calibration
from neuron_chunk_ros.storage.bundle import Bundle, GroupPlan, Member
from neuron_chunk_ros.storage.calibration import ARRAYS, KINDS, pack, tensor_name
from neuron_chunk_ros.storage.layout import RowOrder
from neuron_chunk_ros.storage.verify import verify
from neuron_chunk_ros.storage.writer import BundleWriter, ResidentTensor

PLANS = [GroupPlan('layers.0.qkv', 6, (Member('m.q', 4), Member('m.k', 3))),
         GroupPlan('layers.0.gate_up', 6, (Member('m.gate', 5), Member('m.up', 5))),
         GroupPlan('layers.0.down', 5, (Member('m.down', 2),))]
ORDERS = {'layers.0.qkv': RowOrder(np.array([3, 1, 5, 0, 2, 4], np.int32)),
          'layers.0.down': RowOrder(np.array([4, 0, 3, 1, 2], np.int32), ('m.gate', 'm.up'))}


def some_calibration():
    groups = {plan.name: {kind: {'sparsity': [0.0, 0.4], 'sensitivity': 0.1, 'variation': 2}
                          for kind in KINDS} for plan in PLANS}
    types = {'I32': np.int32, 'F32': np.float32}
    arrays = {tensor_name(plan.name, kind, name): np.arange(plan.rows).astype(types[tag])
              for plan in PLANS for kind in KINDS for name, tag in ARRAYS.items()}
    return {'samples': 2, 'levels': [0.0, 0.5], 'groups': groups, 'about': {}}, arrays


@pytest.fixture(scope='module')
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ordered')
    config = folder / 'config.json'
    config.write_text('{}')
    with BundleWriter(folder / 'bundle', 'family', 'float32', PLANS, {}, orders=ORDERS) as writer:
        writer.copy_file(config)
        for plan in PLANS:
            rows = np.arange(plan.rows * plan.columns, dtype=np.float32)
            rows = rows.reshape(plan.rows, plan.columns)
            writer.write_group(plan.name, [rows[:2], rows[2:3], rows[3:]])
        writer.write_resident([ResidentTensor('norm', 'F32', (3,), np.ones(3, np.float32))])
        writer.write_calibration(*some_calibration())
    return folder / 'bundle'


@pytest.fixture
def bundle(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / 'bundle'))


def test_what_was_written_is_read(bundle):
    opened = Bundle.open(bundle)
    assert (opened.order, opened.layout) == ('hot-cold', 'bundled') and verify(opened) == []
    qkv, gate_up, down = opened.groups.values()
    assert qkv.permutation.dtype == np.int32 and qkv.permutation.tolist() == [3, 1, 5, 0, 2, 4]
    assert gate_up.order is None and gate_up.permutation is None
    assert down.permutation is None and down.order.absorbed_by == ('m.gate', 'm.up')
    assert down.order.channels.tolist() == [4, 0, 3, 1, 2]
    assert opened.calibration['samples'] == 2
    # pieces or one array: the same bytes
    data = np.arange(42, dtype=np.float32).tobytes()
    assert qkv.checksum == hashlib.sha256(data).hexdigest()


def test_verify_covers_orders_and_calibration(bundle):
    neurons, = bundle.glob('calibration-*')
    for path in (neurons, bundle / 'orders.safetensors'):
        whole = path.read_bytes()
        opened = Bundle.open(bundle)
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert [path.name in problem for problem in verify(opened)] == [True]
        path.write_bytes(whole)
    assert verify(Bundle.open(bundle)) == []


def fault(bundle):
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    text = str(caught.value)
    assert '\n' not in text and text.isprintable() and str(bundle) in text and len(text) < 400
    return text


def edited(bundle, change):
    path = bundle / 'bundle.json'
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def put(*path_and_value):
    *path, value = path_and_value

    def change(manifest):
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value
    return change


DOWN = ('groups', 2, 'permutation')
MALFORMED = {
    'orders is text': (put('orders', 'x'), 'orders'),
    'orders missing': (lambda m: m.pop('orders'), "'orders' is missing"),
    'orders null': (put('orders', None), 'has no orders'),
    'orders outside': (put('orders', 'file', '../orders.safetensors'), 'plain file name'),
    'orders gone': (put('orders', 'file', 'gone'), 'gone is missing'),
    'orders size': (put('orders', 'bytes', 3), 'are recorded'),
    'orders is the resident file': (
        lambda m: m['orders'].update(file='resident.safetensors', bytes=m['resident']['bytes']),
        'has no tensor'),
    'orders checksum': (put('orders', 'sha256', '0' * 64), 'damaged'),
    'orders of version 1': (put('version', 1), "'orders' is not known"),
    'permutation is a list': (put(*DOWN, [4, 0, 3, 1, 2]), 'permutation must be an object'),
    'permutation key extra': (put(*DOWN, 'x', 1), "'x' is not known"),
    'permutation tensor gone': (put(*DOWN, 'tensor', 'gone'), 'no tensor gone'),
    'permutation of another length': (put(*DOWN, 'tensor', 'layers.0.qkv'), "another group's"),
    'permutation dropped': (put(*DOWN, None), 'belongs to no group'),
    'permutation moved': (lambda m: m['groups'][1].update(permutation=m['groups'][0].pop(
        'permutation')) or m['groups'][0].update(permutation={
            'tensor': 'layers.0.down', 'absorbed_by': []}), 'no tensor layers.0.down I32 [6]'),
    'absorbed by text': (put(*DOWN, 'absorbed_by', 'm.up'), 'must be a list'),
    'absorbed by nobody': (put(*DOWN, 'absorbed_by', ['m.gone']), 'no linear layer'),
    'absorbed by a number': (put(*DOWN, 'absorbed_by', [3]), 'no linear layer'),
    'absorbed by another width': (put(*DOWN, 'absorbed_by', ['m.q']), '5 output channels'),
    'absorbed twice': (put(*DOWN, 'absorbed_by', ['m.up', 'm.up']), 'absorbs the order'),
    'calibration without a group': (lambda m: m['calibration']['groups'].pop('layers.0.down'),
                                    'differ in group'),
    'calibration of another group': (lambda m: m['calibration']['groups'].update(
        other=m['calibration']['groups']['layers.0.down']), 'differ in group'),
    'calibration of odd levels': (put('calibration', 'levels', [0, 0]), 'ascend'),
    'calibration file gone': (put('calibration', 'neurons', 'file',
                                  'calibration-0123456789abcdef.safetensors'), 'is missing'),
    'calibration file size': (put('calibration', 'neurons', 'bytes', 1), 'are recorded'),
    'calibration checksum': (put('calibration', 'neurons', 'sha256', 'x'), 'sha256'),
}


@pytest.mark.parametrize('case', MALFORMED)
def test_malformed_manifest(bundle, case):
    change, words = MALFORMED[case]
    edited(bundle, change)
    assert words in fault(bundle)


def replaced_orders(bundle, arrays):
    """Put other orders in the file, with sizes and checksums that fit."""
    data = pack(arrays)
    (bundle / 'orders.safetensors').write_bytes(data)
    edited(bundle, put('orders', {'file': 'orders.safetensors', 'bytes': len(data),
                                  'sha256': hashlib.sha256(data).hexdigest()}))


FINE = {name: order.channels for name, order in ORDERS.items()}
BAD_ORDERS = {
    'twice': ([4, 0, 3, 1, 1], 'not a permutation'),
    'negative': ([-1, 0, 3, 1, 2], 'not a permutation'),
    'too large': ([5, 0, 3, 1, 2], 'not a permutation'),
    'huge': ([4, 0, 3, 1, -(1 << 31)], 'not a permutation'),
    'short': ([0, 3, 1, 2], 'no tensor layers.0.down I32 [5]'),
    'in a square': ([[0, 1, 2, 3, 4]], 'no tensor layers.0.down I32 [5]'),
}


@pytest.mark.parametrize('case', BAD_ORDERS)
def test_what_is_no_permutation(bundle, case):
    values, words = BAD_ORDERS[case]
    replaced_orders(bundle, {**FINE, 'layers.0.down': np.array(values, np.int32)})
    assert words in fault(bundle)


def test_orders_of_another_type_or_one_too_many(bundle):
    replaced_orders(bundle, {**FINE, 'layers.0.down': FINE['layers.0.down'].astype(np.float32)})
    assert 'no tensor layers.0.down I32 [5]' in fault(bundle)
    replaced_orders(bundle, {**FINE, 'layers.0.gate_up': np.arange(6, dtype=np.int32)})
    assert 'belongs to no group' in fault(bundle)
    replaced_orders(bundle, FINE)
    assert Bundle.open(bundle).order == 'hot-cold'


def test_calibration_arrays_must_fit(bundle):
    _, arrays = some_calibration()
    name = tensor_name('layers.0.down', 'text', 'count')
    for changed, words in (
            ({**arrays, name: arrays[name][:4]}, 'is I32 [4], want I32 [5]'),
            ({**arrays, name: arrays[name].astype(np.float32)}, 'is F32 [5], want I32 [5]'),
            ({**arrays, 'more': arrays[name]}, "'more' is missing or not wanted"),
            ({k: v for k, v in arrays.items() if k != name}, 'is missing or not wanted')):
        data = pack(changed)
        file, = bundle.glob('calibration-*')
        file.write_bytes(data)
        edited(bundle, put('calibration', 'neurons', 'bytes', len(data)))
        assert words in fault(bundle)


@pytest.mark.parametrize('rows, words', [
    ([5], 'got 5 rows, want 6'), ([6, 1], 'want float32'), ([], 'got 0 rows'), ([3, 4], 'want')])
def test_pieces_must_make_the_group(tmp_path, rows, words):
    with pytest.raises(BundleError, match=words):
        with BundleWriter(tmp_path / 'b', 'f', 'float32', PLANS, {}) as writer:
            writer.write_group('layers.0.qkv', (np.zeros((n, 7), np.float32) for n in rows))
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_for_an_exchanged_bundle_is_refused(bundle):
    opened = Bundle.open(bundle)
    calibration, arrays = some_calibration()
    edited(bundle, put('groups', 0, 'sha256', '0' * 64))  # as if of other weights
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    with pytest.raises(BundleError, match='exchanged meanwhile'):
        store_calibration(opened, calibration, arrays)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_files_that_would_be_mistaken_are_not_copied(tmp_path):
    for name in ('orders.safetensors', 'calibration-0123456789abcdef.safetensors'):
        (tmp_path / name).write_bytes(b'')
        with pytest.raises(BundleError, match='cannot be the name'):
            with BundleWriter(tmp_path / 'b', 'f', 'float32', PLANS, {}) as writer:
                writer.copy_file(tmp_path / name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats()
    | st.text(max_size=8) | st.sampled_from(['../x', 'm.up', 'orders.safetensors', 'visual']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                                                                max_size=3), max_leaves=5)
FUZZ = settings(max_examples=150, deadline=None,
                suppress_health_check=[HealthCheck.function_scoped_fixture])


def opens_or_refuses(folder):
    try:
        opened = Bundle.open(folder)
    except BundleError as error:
        assert '\n' not in str(error) and str(error).isprintable()
        return
    for group in opened.groups.values():
        if group.order is not None:
            assert sorted(group.order.channels) == list(range(group.rows))
    assert isinstance(verify(opened), list)


@FUZZ
@given(key=st.sampled_from(['orders', 'calibration', 'groups']), data=st.data())
def test_any_value_anywhere(bundle, pristine, key, data):
    manifest = json.loads((pristine / 'bundle.json').read_text())
    place = copy.deepcopy(manifest)
    target, at = place, key
    while data.draw(st.booleans()) and place[at] and isinstance(place[at], (dict, list)):
        place = place[at]
        at = data.draw(st.sampled_from(list(place) if isinstance(place, dict)
                                       else range(len(place))))
    place[at] = data.draw(JSON)
    (bundle / 'bundle.json').write_text(json.dumps(target))
    opens_or_refuses(bundle)


@FUZZ
@given(pattern=st.sampled_from(['orders.*', 'calibration-*']), data=st.data())
def test_any_bytes_changed(bundle, pristine, pattern, data):
    path, = bundle.glob(pattern)
    content = bytearray((pristine / path.name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        new = data.draw(st.binary(max_size=4))
        content[at:at + data.draw(st.integers(0, 4))] = new
    path.write_bytes(content)
    opens_or_refuses(bundle)
