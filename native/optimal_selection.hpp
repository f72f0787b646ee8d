// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// The selection that keeps most importance for its reading time, where a run of n rows takes
// run_cost + n * row_cost.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "selection.hpp"

namespace neuron_chunk {

struct RunCosts {
  std::int64_t cell_rows;  // runs begin and end on multiples of so many rows, or at the last row
  double run_cost;         // any unit of time, not negative
  double row_cost;         // the same unit, positive
};

enum class Target {
  kRows,  // at most `value` rows
  kCost,  // at most `value` of time
  kKept,  // at least `value` of the summed importance, as cheaply as possible
};

struct OptimalSelection {
  std::vector<Interval> intervals;  // ascending, disjoint, not touching
  int price;  // where the search ended: handed in again, it shortens the next one
};

// For a price per unit of time, the runs that maximise importance - price * time are found by a
// program over two states, in a run or not, in O(N). Prices are tried from one fixed scale
// relative to the largest importance, so the result does not depend on where the search starts and
// what is kept grows with the budget. Between two neighbouring prices, the richer selection is
// taken up to some row and the leaner one from there on.
//
// Importance that is NaN or negative counts as 0. `price` below 0: no idea. Throws
// std::invalid_argument.
OptimalSelection select_optimal(const float* importance, std::size_t count, const RunCosts& costs,
                                Target target, double value, int price);

struct FrontierPoint {
  double cost;
  double kept;  // summed importance
};

// What the best selections keep for their cost, at `points` prices from high to low; ascending in
// both. The last point is the whole group.
std::vector<FrontierPoint> frontier(const float* importance, std::size_t count,
                                    const RunCosts& costs, std::size_t points);

}  // namespace neuron_chunk
