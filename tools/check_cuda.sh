#!/usr/bin/env bash
# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
#
# All that needs a GPU, on a machine that has one, in eight minutes: equality with plain
# transformers, buffers against events, under compute-sanitizer where that is installed, and one
# step's times. Takes the Python that has torch with CUDA: tools/check_cuda.sh [PYTHON]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${1:-.venv/bin/python}

"$PYTHON" - <<'PROGRAM'
import sys
import torch
if not torch.cuda.is_available():
    sys.exit('check_cuda: torch sees no CUDA device')
print('check_cuda:', torch.cuda.get_device_name(), 'torch', torch.__version__)
PROGRAM

timeout 240 "$PYTHON" -m pytest -q -rP test/engine/test_cuda.py test/attention/test_varlen.py
if command -v compute-sanitizer >/dev/null; then
  timeout 180 compute-sanitizer --tool racecheck --error-exitcode 9 \
    "$PYTHON" -m pytest -q test/engine/test_cuda.py -k 'sparse or filled'
else
  echo 'check_cuda: compute-sanitizer is not installed: races not looked for'
fi
timeout 60 "$PYTHON" -m neuron_chunk_ros.cli.main trace tabletop --device cuda \
  --out "${OUT:-/tmp}/trace-cuda.json"
echo 'check_cuda: done'
