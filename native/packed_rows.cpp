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
constexpr std::int64_t kTile = 512;  // columns widened at a time
constexpr std::int64_t kTileBlocks = 8;

// Half a block: what is worked on together, with whatever vectors the processor has.
constexpr int kLanes = kBlock / 2;
using Bytes [[gnu::vector_size(kLanes)]] = std::uint8_t;
using Integers [[gnu::vector_size(kLanes * sizeof(std::int32_t))]] = std::int32_t;
using Floats [[gnu::vector_size(kLanes * sizeof(float))]] = float;

struct Block {
  Floats low;
  Floats high;
};

template <typename Vector, typename Value>
[[gnu::always_inline]] inline Vector load(const Value* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

[[gnu::always_inline]] inline Floats to_floats(Bytes narrow) {
  return __builtin_convertvector(__builtin_convertvector(narrow, Integers), Floats);
}

// The integers of a block of 32 columns, as float32.
template <int kBits>
[[gnu::always_inline]] inline Block integers_of(const std::uint8_t* block) {
  if constexpr (kBits == 8) {
    // GCC widens unsigned bytes in one go, signed ones one by one.
    return {to_floats(load<Bytes>(block) ^ 0x80) - 128.0F,
            to_floats(load<Bytes>(block + kLanes) ^ 0x80) - 128.0F};
  } else {
    const auto both = load<Bytes>(block);
    return {to_floats(both & 15) - 8.0F, to_floats(both >> 4) - 8.0F};
  }
}

[[gnu::always_inline]] inline float scale_at(const std::uint8_t* scales, std::int64_t number) {
  std::uint16_t bits;
  std::memcpy(&bits, scales + 2 * number, sizeof bits);
  return Bfloat16::widened(bits);
}

std::int64_t value_bytes(const Segment& segment) {
  return (segment.columns + kBlock - 1) / kBlock * kBlock * segment.bits / 8;
}

template <int kBits>
[[gnu::always_inline]] inline void widen_row(const Segment& segment, const std::uint8_t* row,
                                             std::int64_t begin, std::int64_t end,
                                             float* __restrict out) {
  constexpr std::int64_t kBytes = kBlock * kBits / 8;
  const std::uint8_t* const scales = row + value_bytes(segment);
  for (std::int64_t block = begin; block < end; ++block, out += kBlock) {
    const float scale = scale_at(scales, block * kBlock / segment.group);
    Block wide = integers_of<kBits>(row + block * kBytes);
    wide.low *= scale;
    wide.high *= scale;
    std::memcpy(out, &wide, sizeof wide);
  }
}

std::uint16_t to_bfloat16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);  // finite: a scale times a small integer
  return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

struct Unpacking {
  const Segment& segment;
  float* floats;
  std::uint16_t* halves;
  std::int64_t stride;
};

template <int kBits>
[[gnu::always_inline]] inline void unpack_rows(const Unpacking& unpacking, std::int64_t begin,
                                               std::int64_t end) {
  const Segment& segment = unpacking.segment;
  alignas(64) float wide[kTile];
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t at = 0; at < segment.columns; at += kTile) {
      const std::int64_t width = std::min(kTile, segment.columns - at);
      widen_row<kBits>(segment, segment.data + row * segment.stride, at / kBlock,
                       (at + width + kBlock - 1) / kBlock, wide);
      if (unpacking.floats != nullptr) {
        std::copy_n(wide, width, unpacking.floats + row * unpacking.stride + at);
      } else {
        std::uint16_t* __restrict out = unpacking.halves + row * unpacking.stride + at;
        for (std::int64_t c = 0; c < width; ++c) out[c] = to_bfloat16(wide[c]);
      }
    }
  }
}

NEURON_CHUNK_CLONES void unpack_int8(const Unpacking& unpacking, std::int64_t begin,
                                     std::int64_t end) {
  unpack_rows<8>(unpacking, begin, end);
}

NEURON_CHUNK_CLONES void unpack_int4(const Unpacking& unpacking, std::int64_t begin,
                                     std::int64_t end) {
  unpack_rows<4>(unpacking, begin, end);
}

void unpack(const Unpacking& unpacking, int threads) {
  const Segment& segment = unpacking.segment;
  const std::int64_t worth = 1 + segment.rows * segment.columns / (1 << 18);
  share_out(static_cast<int>(std::min<std::int64_t>({threads, worth, segment.rows})),
            [&](int number, int of) {
              const std::int64_t begin = segment.rows * number / of;
              const std::int64_t end = segment.rows * (number + 1) / of;
              if (segment.bits == 8) {
                unpack_int8(unpacking, begin, end);
              } else {
                unpack_int4(unpacking, begin, end);
              }
            });
}

// Rounded away from zero, so that nothing is clipped for it, unless that overflows.
float bfloat16_scale(double value, float least) {
  const auto narrow = static_cast<float>(value);
  std::uint32_t bits;
  std::memcpy(&bits, &narrow, sizeof bits);
  const float beyond = from_bits((bits + 0xffffU) & 0xffff0000U);
  return std::isfinite(beyond * least) ? beyond : from_bits(bits & 0xffff0000U);
}

[[gnu::always_inline]] inline float nearest(float value, float factor, float least) {
  const float rounded = std::nearbyint(value * factor);
  return std::min(std::max(rounded, least), -least - 1.0F);
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
    found.push_back({"avx512", add_packed_avx512});
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    found.push_back({"avx2", add_packed_avx2});
  }
#endif
  found.push_back({"base", add_packed_base});
  return found;
}

void add_packed_product(const Segment& segment, const float* inputs, std::int64_t tokens,
                        float* out, std::int64_t out_stride, int threads,
                        PackedKernel::Function kernel) {
  static const PackedKernel::Function best = packed_kernels().front().function;
  const auto add = kernel == nullptr ? best : kernel;
  const std::int64_t blocks = (segment.columns + kBlock - 1) / kBlock;
  const std::int64_t worth = 1 + segment.rows * segment.columns * tokens / (1 << 19);
  // Shares are whole tiles of the kernels: what is left over is slower.
  const std::int64_t tiles = (blocks + kTileBlocks - 1) / kTileBlocks;
  share_out(static_cast<int>(std::min<std::int64_t>({threads, worth, tiles})),
            [&](int number, int of) {
              add(segment, inputs, tokens, out, out_stride, tiles * number / of * kTileBlocks,
                  std::min(blocks, tiles * (number + 1) / of * kTileBlocks));
            });
}

void unpack_float32(const Segment& segment, float* out, std::int64_t stride, int threads) {
  unpack({segment, out, nullptr, stride}, threads);
}

void unpack_bfloat16(const Segment& segment, std::uint16_t* out, std::int64_t stride,
                     int threads) {
  unpack({segment, nullptr, out, stride}, threads);
}

}  // namespace neuron_chunk
