// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// The Python face of the native code: `neuron_chunk_ros._native`.
#include "bindings.hpp"

PYBIND11_MODULE(_native, m) {
  m.doc() = "Aligned buffers, flash readers and row selection.";
  neuron_chunk::bind_reader(m);
  neuron_chunk::bind_numbers(m);
}
