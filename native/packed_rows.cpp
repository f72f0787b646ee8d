// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "packed_rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "thread_pool.hpp"
#include "values.hpp"

namespace neuron_chunk {
namespace {

constexpr std::int64_t kBlock = 32;  // columns; the unit in which integers are laid out
constexpr std::int64_t kTileBlocks = 8;

// Rounded away from zero, so that nothing is clipped for it, unless that overflows.
float bfloat16_scale(double value, float least) {
  const auto narrow = static_cast<float>(value);
  std::uint32_t bits;
  std::memcpy(&bits, &narrow, sizeof bits);
  const float beyond = from_bits((bits + 0xffffU) & 0xffff0000U);
  return std::isfinite(beyond * least) ? beyond : from_bits(bits & 0xffff0000U);
}

[[gnu::always_inline]] inline float nearest(float value, float factor, float least) {
  // In this order, what is not a number becomes `least`.
  const float rounded = std::nearbyint(value * factor);
  return std::min(std::max(least, rounded), -least - 1.0F);
}

// `width` values of one scale.
[[gnu::always_inline]] inline void round_group(const Rounding& rounding, const float* values,
                                               std::int64_t width, std::int8_t* integers,
                                               float* scale, float* unit) {
  const auto least = static_cast<float>(-(1 << (rounding.bits - 1)));
  float end = 0.0F;
  for (std::int64_t i = 0; i < width; ++i) {
    if (std::fabs(values[i]) > std::fabs(end)) end = values[i];
  }
  *scale = 0.0F;
  std::fill_n(integers, width, std::int8_t{0});
  if (end == 0.0F) return;
  const double whole = 1.0 / static_cast<double>(end);
  for (std::int64_t i = 0; i < width; ++i) unit[i] = static_cast<float>(values[i] * whole);
  float best = std::numeric_limits<float>::infinity();
  float best_factor = 0.0F;
  for (std::int64_t number = 0; number < rounding.shrink_count; ++number) {
    const float tried = bfloat16_scale(end * rounding.shrinks[number] / least, least);
    if (!std::isfinite(tried * least)) continue;
    const auto step = static_cast<float>(tried * whole);  // in units of `end`
    const float factor = 1.0F / step;
    float error = 0.0F;
    for (std::int64_t i = 0; i < width; ++i) {
      const float off = nearest(unit[i], factor, least) * step - unit[i];
      error += off * off;
    }
    if (error < best) {
      best = error;
      best_factor = factor;
      *scale = tried;
    }
  }
  for (std::int64_t i = 0; i < width; ++i) {
    integers[i] = static_cast<std::int8_t>(nearest(unit[i], best_factor, least));
  }
}

NEURON_CHUNK_CLONES void round_some(const Rounding& rounding, std::int64_t begin,
                                    std::int64_t end) {
  const std::int64_t groups = (rounding.columns + rounding.group - 1) / rounding.group;
  std::vector<float> unit(static_cast<std::size_t>(rounding.group));
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t number = 0; number < groups; ++number) {
      const std::int64_t first = row * rounding.columns + number * rounding.group;
      const std::int64_t width =
          std::min(rounding.group, rounding.columns - number * rounding.group);
      round_group(rounding, rounding.values + first, width, rounding.integers + first,
                  rounding.scales + row * groups + number, unit.data());
    }
  }
}

}  // namespace

void round_rows(const Rounding& rounding, int threads) {
  const std::int64_t worth = 1 + rounding.rows * rounding.columns / (1 << 16);
  share_out(static_cast<int>(std::min<std::int64_t>({threads, worth, rounding.rows})),
            [&](int number, int of) {
              round_some(rounding, rounding.rows * number / of, rounding.rows * (number + 1) / of);
            });
}

std::vector<PackedKernel> packed_kernels() {
  std::vector<PackedKernel> found;
#if defined(NEURON_CHUNK_X86_KERNELS)
  if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    found.push_back({"avx512", add_packed_avx512, unpack_packed_avx512});
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    found.push_back({"avx2", add_packed_avx2, unpack_packed_avx2});
  }
#endif
  found.push_back({"base", add_packed_base, unpack_packed_base});
  return found;
}

const PackedKernel& best_packed_kernel() {
  static const PackedKernel best = packed_kernels().front();
  return best;
}

void add_packed_products(const std::vector<PackedPart>& parts, const float* inputs,
                         std::int64_t tokens, std::int64_t out_stride, int threads,
                         const PackedKernel& kernel) {
  const auto blocks_of = [](const PackedPart& part) {
    return (part.segment.columns + kBlock - 1) / kBlock;
  };
  // Shares are whole tiles of the kernels: what is left over is slower.
  const auto tiles_of = [&](const PackedPart& part) {
    return (blocks_of(part) + kTileBlocks - 1) / kTileBlocks;
  };
  std::int64_t tiles = 0, values = 0;
  for (const PackedPart& part : parts) {
    tiles += tiles_of(part);
    values += part.segment.rows * part.segment.columns;
  }
  const std::int64_t worth = 1 + values * tokens / (1 << 19);
  share_out(static_cast<int>(std::min<std::int64_t>({threads, worth, tiles})), [&](int number,
                                                                                   int of) {
    const std::int64_t begin = tiles * number / of, end = tiles * (number + 1) / of;
    std::int64_t first = 0;  // tile of the part
    for (const PackedPart& part : parts) {
      const std::int64_t mine = tiles_of(part);
      const std::int64_t from = std::clamp<std::int64_t>(begin - first, 0, mine);
      const std::int64_t to = std::clamp<std::int64_t>(end - first, 0, mine);
      if (from < to) {
        kernel.add(part.segment, part.refined ? &part.finer : nullptr, inputs, tokens, part.out,
                   out_stride, from * kTileBlocks, std::min(blocks_of(part), to * kTileBlocks));
      }
      first += mine;
    }
  });
}

void unpack_packed(const Segment& segment, const Segment* finer, float* floats,
                   std::uint16_t* halves, std::int64_t stride, int threads,
                   const PackedKernel& kernel) {
  const std::int64_t worth = 1 + segment.rows * segment.columns / (1 << 18);
  share_out(static_cast<int>(std::min<std::int64_t>({threads, worth, segment.rows})),
            [&](int number, int of) {
              kernel.unpack(segment, finer, floats, halves, stride, segment.rows * number / of,
                            segment.rows * (number + 1) / of);
            });
}

}  // namespace neuron_chunk
