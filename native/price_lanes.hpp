// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// The optimal selection's program over the cells of a group, for many prices side by side.
#pragma once

#include <cstddef>
#include <cstdint>

namespace neuron_chunk {

constexpr int kLanes = 16;

// In units of the largest cell's importance and of one cell's row cost.
struct Program {
  const float* value;  // of each cell, at most 1
  std::size_t count;
  float last;  // size of the last cell, in cells
  float run;   // cost of a run
};

// What a selection is measured by: per run, per cell, for the last cell, and per importance.
// Whole numbers for rows and for time, so that a search compares what really is.
template <typename Number>
struct Measure {
  Number run;
  Number cell;
  Number last;
  Number value;
};

// The measure of the best selection at each of kLanes prices; worth[lane] is 1 / price.
//
// With in and out the best gains of the cells so far, in a run or not, only their difference
// matters: ahead = in - out, at most `run` below 0 since a run can begin anew.
//   in  = max(in, out - price * run) + value - price * size,   out = max(out, in before)
// Everything is divided by the price.
void measure_lanes(const Program& program, const float* worth,
                   const Measure<std::int32_t>& measure, std::int32_t* measured);
void measure_lanes(const Program& program, const float* worth, const Measure<float>& measure,
                   float* measured);

}  // namespace neuron_chunk
