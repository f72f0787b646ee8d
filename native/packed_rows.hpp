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
  std::int64_t group;  // columns of one scale, a multiple of 32
  int bits;            // 4 or 8
};

// A kernel adds the blocks of 32 columns [begin, end), see packed_kernel.hpp.
struct PackedKernel {
  using Function = void (*)(const Segment& segment, const float* inputs, std::int64_t tokens,
                            float* out, std::int64_t out_stride, std::int64_t begin,
                            std::int64_t end);
  const char* name;
  Function function;
};

// Those that run on this processor, the best one first.
std::vector<PackedKernel> packed_kernels();

// out[token][column] += the sum over rows of inputs[token][row] * value, in float32.
// inputs: [tokens, rows]; out: rows of memory `out_stride` floats apart, [tokens, columns].
// kernel: nullptr for the best one.
void add_packed_product(const Segment& segment, const float* inputs, std::int64_t tokens,
                        float* out, std::int64_t out_stride, int threads,
                        PackedKernel::Function kernel = nullptr);

// Writes the values as float32, or rounded to bfloat16: [rows, columns], rows `stride` values
// apart.
void unpack_float32(const Segment& segment, float* out, std::int64_t stride, int threads);
void unpack_bfloat16(const Segment& segment, std::uint16_t* out, std::int64_t stride, int threads);

// Each compiled with flags of its own.
void add_packed_base(const Segment& segment, const float* inputs, std::int64_t tokens, float* out,
                     std::int64_t out_stride, std::int64_t begin, std::int64_t end);
void add_packed_avx2(const Segment& segment, const float* inputs, std::int64_t tokens, float* out,
                     std::int64_t out_stride, std::int64_t begin, std::int64_t end);
void add_packed_avx512(const Segment& segment, const float* inputs, std::int64_t tokens,
                       float* out, std::int64_t out_stride, std::int64_t begin, std::int64_t end);

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
