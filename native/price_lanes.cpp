// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "price_lanes.hpp"

#include <cstring>
#include <type_traits>

// One binary for every x86 CPU, the widest vectors it has; elsewhere the compiler's own choice.
// (Sanitizers can't run the code that chooses.)
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define NEURON_CHUNK_WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define NEURON_CHUNK_WIDEST
#endif

namespace neuron_chunk {
namespace {

template <typename Number>
[[gnu::always_inline]] inline void run_lanes(const Program& program, const float* worth,
                                             const Measure<Number>& measure, Number* measured) {
  // Numbers that are worked on together, with whatever vectors the CPU has. All are finite, and
  // this file is compiled to rely on it: comparing and choosing become a minimum and a maximum.
  using Floats [[gnu::vector_size(kLanes * sizeof(float))]] = float;
  using Numbers [[gnu::vector_size(kLanes * sizeof(Number))]] = Number;
  const Floats least = Floats{} - program.run;
  const Floats none{};
  Floats worths;
  std::memcpy(&worths, worth, sizeof(worths));
  Floats ahead = least;
  Numbers inside{};
  Numbers outside{};
  for (std::size_t cell = 0; cell < program.count; ++cell) {
    const bool last = cell + 1 == program.count;
    const float size = last ? program.last : 1.0F;
    const float gain = program.value[cell];
    Number added = last ? measure.last : measure.cell;
    if constexpr (std::is_floating_point_v<Number>) added += gain * measure.value;
    const auto stays = ahead > least;
    const auto leaves = ahead > none;
    const Numbers begun = outside + measure.run;
    const Numbers left = leaves ? inside : outside;
    inside = (stays ? inside : begun) + added;
    outside = left;
    const Floats kept = ahead > least ? ahead : least;
    ahead = (kept < none ? kept : none) + (gain * worths - size);
  }
  const Numbers best = ahead > none ? inside : outside;
  std::memcpy(measured, &best, sizeof(best));
}

}  // namespace

NEURON_CHUNK_WIDEST void measure_lanes(const Program& program, const float* worth,
                                       const Measure<std::int32_t>& measure,
                                       std::int32_t* measured) {
  run_lanes(program, worth, measure, measured);
}

NEURON_CHUNK_WIDEST void measure_lanes(const Program& program, const float* worth,
                                       const Measure<float>& measure, float* measured) {
  run_lanes(program, worth, measure, measured);
}

}  // namespace neuron_chunk
