// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// What the Python face consists of.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>

#include "read_plan.hpp"

namespace neuron_chunk {

namespace py = pybind11;

void bind_reader(py::module_& m);   // buffers, batches, the reader
void bind_numbers(py::module_& m);  // importance, selection, products

// Where numpy has to convert an array it also moves it to where its numbers may lie.
constexpr int kPlain = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;

using ExtentArray = py::array_t<std::int64_t, kPlain>;

struct ExtentView {
  const Extent* data;
  std::size_t count;
};

inline ExtentView view(const ExtentArray& extents) {
  static_assert(sizeof(Extent) == 2 * sizeof(std::int64_t), "an extent is a row of the array");
  if (extents.size() == 0) return {nullptr, 0};
  if (extents.ndim() != 2 || extents.shape(1) != 2) {
    throw std::invalid_argument("extents must be an array of shape [n, 2]: offset, length");
  }
  return {reinterpret_cast<const Extent*>(extents.data()),
          static_cast<std::size_t>(extents.shape(0))};
}

}  // namespace neuron_chunk
