#!/usr/bin/env bash
# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
#
# The native core under AddressSanitizer and UndefinedBehaviorSanitizer, and apart from them under
# ThreadSanitizer: its two stress programs, and with the former also the tests in Python that call
# it. Ends with 0 where nothing was found, with 77 where the compiler has no sanitizers.
# Usage: tools/sanitize.sh [SECONDS]   (of each stress program; 6)
# Environment: PYTHON (.venv/bin/python); SCRATCH, a folder on a real drive (build/sanitize-scratch)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
python=$(command -v "${PYTHON:-.venv/bin/python}")
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
stress_seconds=${1:-6}
scratch=${SCRATCH:-build/sanitize-scratch}
mkdir -p build "$scratch"
export UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1

have() {  # the runtime of these sanitizers, and a kernel it starts on
  echo 'int main() {}' | "${CXX:-c++}" -x c++ - "-fsanitize=$1" -o build/sanitize-probe &&
    build/sanitize-probe
}

compile() {  # compile NAME SANITIZERS TARGET...
  local folder=build/sanitize-$1
  cmake -S native -B "$folder" -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1 \
    -DPython_EXECUTABLE="$python" -DNEURON_CHUNK_SANITIZE="$2" -DNEURON_CHUNK_STRESS=ON >/dev/null
  cmake --build "$folder" --parallel 2 --target "${@:3}" >"$folder/log" ||
    { cat "$folder/log"; exit 1; }
}

stress() {
  "build/sanitize-$1/number_stress" "$stress_seconds"
  "build/sanitize-$1/reader_stress" "$scratch" "$stress_seconds"
}

for sanitizers in address,undefined,float-cast-overflow thread; do
  if ! have $sanitizers 2>build/sanitize-why; then
    echo "sanitize: ${CXX:-c++} has no $sanitizers here: $(tail -1 build/sanitize-why)"
    exit 77
  fi
done

compile thread thread number_stress reader_stress
stress thread
compile address address,undefined,float-cast-overflow number_stress reader_stress _native
stress address  # leaks are looked for at its end

# The package with the sanitized module in place of its own.
package=build/sanitize-address/package
rm -rf $package
mkdir -p $package/neuron_chunk_ros
for part in neuron_chunk_ros/*; do
  case $part in *_native*|*__pycache__) ;; *) ln -s "$root/$part" $package/neuron_chunk_ros/ ;; esac
done
cp build/sanitize-address/_native*.so $package/neuron_chunk_ros/
preload="$("${CXX:-c++}" -print-file-name=libasan.so) $("${CXX:-c++}" -print-file-name=libubsan.so)"
tests=(chunking/test_native_selection.py chunking/test_optimal_selection.py
       engine/test_importance.py engine/test_packed_products.py engine/test_row_products.py
       storage/test_packed_rows.py storage/test_reader.py storage/test_reader_faults.py
       storage/test_reader_life.py)
cd $package
# A child forked from a busy process may hang in AddressSanitizer's own allocator.
# What Python itself never gives back isn't ours. A run must not depend on chance or on speed.
PYTHONPATH=$PWD LD_PRELOAD=$preload ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=32 \
  "$python" -m pytest -q -p no:cacheprovider --hypothesis-profile=ci -c "$root/pyproject.toml" \
  --rootdir "$root" --deselect \
  test/engine/test_row_products.py::test_children_forked_amid_products_multiply \
  "${tests[@]/#/$root/test/}"
echo 'sanitize: nothing found'
