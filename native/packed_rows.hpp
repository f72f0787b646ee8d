// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// Rows of small integers and their scales (storage/packed_rows.py): products, and values of them.
#pragma once

#include <cstdint>
#include <vector>

namespace neuron_chunk {

// One linear layer's part of each row.
struct Segment {
  const std::uint8_t* data;  // of the first row
  std::int64_t stride;       // bytes from row to row
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t group;  // columns of one scale, 16 or a multiple of 32
  int bits;            // 1 to 8
  // Which rows from `data` on they are; null: all, in their order.
  const std::int64_t* places = nullptr;
  // The scales of a row that has none itself, a refinement, are those of its base: of row
  // scale_rows[i] from here on, times `unit`.
  const std::uint8_t* scales = nullptr;
  std::int64_t scale_stride = 0;
  const std::int64_t* scale_rows = nullptr;
  float unit = 1.0F;

  [[nodiscard]] std::int64_t value_bytes() const { return (columns + 31) / 32 * 4 * bits; }
  [[nodiscard]] const std::uint8_t* row(std::int64_t number) const {
    return data + (places == nullptr ? number : places[number]) * stride;
  }
  [[nodiscard]] const std::uint8_t* scales_of(std::int64_t number) const {
    if (scales == nullptr) return row(number) + value_bytes();
    return scales + (scale_rows == nullptr ? number : scale_rows[number]) * scale_stride;
  }
};

// What one generation of processors runs, see packed_kernel.hpp.
struct PackedKernel {
  using Add = void (*)(const Segment& segment, const Segment* finer, const float* inputs,
                       std::int64_t tokens, float* out, std::int64_t out_stride,
                       std::int64_t begin, std::int64_t end);
  using Unpack = void (*)(const Segment& segment, const Segment* finer, float* floats,
                          std::uint16_t* halves, std::int64_t stride, std::int64_t begin,
                          std::int64_t end);
  const char* name;
  Add add;        // blocks of 32 columns [begin, end)
  Unpack unpack;  // rows [begin, end)
};

// Those that run on this processor, the best one first; and that one.
std::vector<PackedKernel> packed_kernels();
const PackedKernel& best_packed_kernel();

// One segment of a product. `finer`, where it is `refined`, has the rows' refinement; only of
// those for which can_refine.
struct PackedPart {
  Segment segment;
  Segment finer;
  bool refined;
  float* out;  // of the segment's first column
};

// out[token][column] += the sum over rows of inputs[token][row] * value, in float32, of all
// segments of rows. inputs: [tokens, rows]; out: rows of memory `out_stride` floats apart.
void add_packed_products(const std::vector<PackedPart>& parts, const float* inputs,
                         std::int64_t tokens, std::int64_t out_stride, int threads,
                         const PackedKernel& kernel = best_packed_kernel());
inline bool can_refine(int bits, int finer) {
  return (bits == 4 && finer == 4) || (bits == 3 && finer == 5);
}

// Writes the values as float32, or rounded to bfloat16, whichever is given: [rows, columns], rows
// `stride` values apart. `finer`, where there is one, has the rows' refinement.
void unpack_packed(const Segment& segment, const Segment* finer, float* floats,
                   std::uint16_t* halves, std::int64_t stride, int threads,
                   const PackedKernel& kernel = best_packed_kernel());

// Each pair compiled with flags of its own.
#define NEURON_CHUNK_KERNEL(NAME)                                                           \
  void add_packed_##NAME(const Segment& segment, const Segment* finer, const float* inputs, \
                         std::int64_t tokens, float* out, std::int64_t out_stride,          \
                         std::int64_t begin, std::int64_t end);                             \
  void unpack_packed_##NAME(const Segment& segment, const Segment* finer, float* floats,    \
                            std::uint16_t* halves, std::int64_t stride, std::int64_t begin, \
                            std::int64_t end);
NEURON_CHUNK_KERNEL(base)
NEURON_CHUNK_KERNEL(avx2)
NEURON_CHUNK_KERNEL(avx512)
#undef NEURON_CHUNK_KERNEL

// Rounds to the nearest integers. Of the scales at which a group's value of largest magnitude
// becomes the least integer divided by one of `shrinks`, the one of least squared error is taken;
// all are rounded to bfloat16, away from zero.
struct Rounding {
  const float* values;  // [rows, columns], finite
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t group;
  int bits;
  const double* shrinks;
  std::int64_t shrink_count;
  std::int8_t* integers;  // [rows, columns]
  float* scales;          // [rows, groups]
};
void round_rows(const Rounding& rounding, int threads);

}  // namespace neuron_chunk
