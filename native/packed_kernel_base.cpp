// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// packed_kernel.hpp for any processor; CMakeLists.txt says with which flags.
#include "packed_kernel.hpp"

namespace neuron_chunk {

void add_packed_base(const Segment& segment, const Segment* finer, const float* inputs,
                     std::int64_t tokens, float* out, std::int64_t out_stride, std::int64_t begin,
                     std::int64_t end) {
  add_packed(segment, finer, inputs, tokens, out, out_stride, begin, end);
}

void unpack_packed_base(const Segment& segment, const Segment* finer, float* floats,
                        std::uint16_t* halves, std::int64_t stride, std::int64_t begin,
                        std::int64_t end) {
  unpack_rows(segment, finer, floats, halves, stride, begin, end);
}

}  // namespace neuron_chunk
