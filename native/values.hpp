// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// Values as rows and activations hold them, as float32; and loops that the compiler makes vectors
// of.
#pragma once

#include <cstdint>
#include <cstring>

// The loops that bear this are plain; the compiler makes vectors of them, on x86 for each
// generation of processors, and the loader takes what this one has. Elsewhere the base has vectors
// (NEON).
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define NEURON_CHUNK_CLONES __attribute__((target_clones("avx512f", "arch=haswell", "default")))
#else
#define NEURON_CHUNK_CLONES
#endif

namespace neuron_chunk {

enum class RowType { kBfloat16, kFloat16, kFloat32 };

inline float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct Bfloat16 {
  using Stored = std::uint16_t;
  [[gnu::always_inline]] static float widened(Stored bits) {
    return from_bits(static_cast<std::uint32_t>(bits) << 16);
  }
};

// Shifted to float32's place the exponent is 112 too small. The factor mends that, for subnormal
// numbers too; infinity and NaN get their exponent back.
struct Float16 {
  using Stored = std::uint16_t;
  [[gnu::always_inline]] static float widened(Stored bits) {
    const std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7fff) << 13;
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
    const float scaled = from_bits(magnitude) * 0x1p112f;
    std::uint32_t wide;
    std::memcpy(&wide, &scaled, sizeof wide);
    wide = magnitude >= 0x0f800000u ? (magnitude | 0x7f800000u) : wide;
    return from_bits(wide | sign);
  }
};

struct Float32 {
  using Stored = float;
  [[gnu::always_inline]] static float widened(Stored value) { return value; }
};

}  // namespace neuron_chunk
