# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Steps over a drive that fails, hangs or reads short: the real reader under a real session.

test_drive_faults.py puts faults in the reader's place; here they come from below it.
"""

import pytest
from faulty_reads import FaultyDrive
from fuse_drive import FuseDrive

from neuron_chunk_ros import _native
from neuron_chunk_ros.prepare.convert import convert

BEGINNING = """
import errno, os, sys, time
import numpy as np
from faulty_reads import ERROR, EVER, HANG, NOTHING, SHORT, Orders
from neuron_chunk_ros.engine import drive as drives
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import ReadError
path, backend, step = sys.argv[1:]
step = int(step)  # 1: every read, 7: every seventh one
orders = Orders(os.environ['FAULTY_ORDERS'])
PICTURE = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
drives._PATIENCE, drives._AGAIN = 0.3, 0.0

def opened(**how):
    return Session.open(path, drafts=False, head_mb=0, piece_mb=0.02, backend=backend,
                        direct='off', threads=2, **how)

def ask():
    return session.ask('what is in the picture?', [PICTURE], max_new_tokens=2)

def said(answer):
    return answer.text, answer.confidence, answer.io.coarse, answer.io.fault

def met():
    # The last reads of an answer may be the next one's.
    got = ask()
    return ask() if said(got) == said(fine) else got

def is_fine_again():
    while not session._products.drive.usable():
        time.sleep(0.001)
    assert said(ask()) == said(fine)
"""

IN_TWO_PARTS = BEGINNING + """
with opened() as session:
    ask()  # words are known from here on
    orders.give(NOTHING)
    fine = ask()
    reads = orders.seen
    assert reads > 20 and not fine.io.coarse and not fine.io.fault
    for bad in range(0, reads, step):
        orders.give(SHORT, 1, bad, times=2)
        assert said(ask()) == said(fine), bad
    for bad in range(0, reads, step):
        orders.give(ERROR, errno.EIO, bad)
        got = met()
        assert got.io.coarse and got.tokens and os.strerror(errno.EIO) in got.io.fault, bad
        is_fine_again()
    for bad in range(0, reads, reads // 4):
        orders.give(HANG, first=bad)
        began = time.monotonic()
        got = met()
        assert got.io.coarse and got.tokens and 'has not come back' in got.io.fault, bad
        assert time.monotonic() - began < 20
        orders.release()
        is_fine_again()
    # No drive at all: the model goes on with what it holds.
    orders.give(ERROR, errno.ENODEV, times=EVER)
    for _ in range(2):
        got = ask()  # the first one may still use what was read ahead for it
        assert got.io.coarse and got.tokens and os.strerror(errno.ENODEV) in got.io.fault, got
    assert got.io.bytes_used == 0, got
    orders.give(NOTHING)
    is_fine_again()
"""

WHOLE = BEGINNING + """
with opened() as session:
    ask()
    orders.give(NOTHING)
    fine = ask()
    reads = orders.seen
    for bad in range(0, reads, step):
        orders.give(SHORT, 1, bad, times=2)
        assert said(ask()) == said(fine), bad
    for bad in range(0, reads, step):
        orders.give(ERROR, errno.EIO, bad)
        try:
            met()
            sys.exit(f'read {bad} failed and nothing was said')
        except ReadError as error:
            assert error.errno == errno.EIO and path in str(error) and error.offset >= 0, error
        orders.give(NOTHING)
        is_fine_again()
"""


@pytest.fixture(scope='module')
def bundles(tiny_models, tiny_bundles, tmp_path_factory):
    """Give one with bases and one without."""
    made = convert(tiny_models['tiny-qwen2-vl'], tmp_path_factory.mktemp('faulty') / 'bundle',
                   rows='int8', base=4)
    return {'in two parts': made.path, 'whole': tiny_bundles['tiny-qwen2-vl']}


ROWS = [pytest.param('in two parts', IN_TWO_PARTS, id='in-two-parts'),
        pytest.param('whole', WHOLE, id='whole')]


@pytest.mark.parametrize('rows, program', ROWS)
@pytest.mark.parametrize('step', [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_fault_at_any_read_of_a_step(bundles, tmp_path, rows, program, step):
    FaultyDrive(tmp_path).run(program, bundles[rows], 'threads', step, timeout=200)


@pytest.mark.slow
@pytest.mark.parametrize('rows, program', ROWS)
@pytest.mark.skipif(not _native.io_uring_available(), reason='io_uring can not be used here')
def test_a_fault_at_any_read_of_a_ring(bundles, tmp_path, rows, program):
    drive = FaultyDrive(tmp_path, preloaded=False)
    (tmp_path / 'mounted').mkdir()
    fuse = FuseDrive(bundles[rows], tmp_path / 'mounted', drive.orders)
    try:
        drive.run(program, tmp_path / 'mounted', 'io_uring', 1, timeout=200)
    finally:
        fuse.close()
