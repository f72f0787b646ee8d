// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "optimal_selection.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>

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

// Price k is 2^(-k / kPerOctave) of the largest cell's importance per cell of row cost. At price 0
// nothing is worth its cost; at kEverything and beyond all is taken.
constexpr int kPerOctave = 64;
constexpr int kEverything = 32 * kPerOctave;
constexpr int kLanes = 16;

using Lanes = std::array<float, kLanes>;

// The group in cells, in units of its largest cell and of one cell's row cost.
struct Cells {
  std::vector<float> value;   // of each cell, the largest is 1
  std::vector<double> sums;   // sums[i]: importance of the cells before i, in the caller's unit
  double largest = 0.0;       // importance of the largest cell
  std::size_t rows = 0;       // of the group
  std::size_t cell_rows = 1;  // of each cell but the last
  float last = 1;             // size of the last cell, in cells
  float run = 0;              // cost of a run, in cells

  std::size_t count() const { return value.size(); }
  double size(std::size_t cell) const { return cell + 1 == count() ? last : 1.0; }
  double importance(std::size_t cell) const { return sums[cell + 1] - sums[cell]; }
};

float price_of(int index) {
  return std::exp2(static_cast<float>(-index) / kPerOctave);
}

double magnitude(float value) {
  // Also false for NaN.
  if (!(value > 0.0F)) return 0.0;
  return std::min(value, std::numeric_limits<float>::max());
}

void fill(Cells& cells, const float* importance, std::size_t count, const RunCosts& costs) {
  cells.rows = count;
  cells.cell_rows = std::min(static_cast<std::size_t>(costs.cell_rows), count);
  const std::size_t number = (count + cells.cell_rows - 1) / cells.cell_rows;
  cells.value.resize(number);
  cells.sums.resize(number + 1);
  cells.sums[0] = 0.0;
  double sum = 0.0;
  for (std::size_t cell = 0; cell < number; ++cell) {
    const std::size_t stop = std::min((cell + 1) * cells.cell_rows, count);
    for (std::size_t row = cell * cells.cell_rows; row < stop; ++row) {
      sum += magnitude(importance[row]);
    }
    cells.sums[cell + 1] = sum;
  }
  cells.largest = 0.0;
  for (std::size_t cell = 0; cell < number; ++cell) {
    const double gain = cells.importance(cell);
    cells.largest = gain > cells.largest ? gain : cells.largest;
  }
  const double scale = cells.largest > 0.0 ? 1.0 / cells.largest : 0.0;
  for (std::size_t cell = 0; cell < number; ++cell) {
    cells.value[cell] = static_cast<float>(cells.importance(cell) * scale);
  }
  cells.last = static_cast<float>(static_cast<double>(count - (number - 1) * cells.cell_rows) /
                                  static_cast<double>(cells.cell_rows));
  cells.run =
      static_cast<float>(costs.run_cost / (costs.row_cost * static_cast<double>(cells.cell_rows)));
}

// What a selection is measured by: run per run, plus `size` per cell, plus `value` per importance.
struct Measure {
  float run;
  float size;
  float value;
};

// The program. With in and out the best gains of the rows so far, in a run or not, only their
// difference matters: ahead = in - out, at most `run` below 0 since a run can begin anew.
//   in  = max(in, out - price * run) + value - price * size,   out = max(out, in before)
// Everything is divided by the price. The lanes are prices tried side by side.
NEURON_CHUNK_WIDEST void measure_lanes(const float* value, std::size_t count, float last,
                                       float run, const float* worth, Measure measure,
                                       float* measured) {
  float ahead[kLanes];
  float inside[kLanes];
  float outside[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    ahead[lane] = -run;
    inside[lane] = outside[lane] = 0.0F;
  }
  for (std::size_t cell = 0; cell < count; ++cell) {
    const float size = cell + 1 == count ? last : 1.0F;
    const float gain = value[cell];
    const float added = size * measure.size + gain * measure.value;
    for (int lane = 0; lane < kLanes; ++lane) {
      const float from = ahead[lane];
      const float begun = outside[lane] + measure.run;
      const float left = from > 0.0F ? inside[lane] : outside[lane];
      inside[lane] = (from > -run ? inside[lane] : begun) + added;
      outside[lane] = left;
      const float kept = from > -run ? from : -run;
      ahead[lane] = (kept < 0.0F ? kept : 0.0F) + (gain * worth[lane] - size);
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    measured[lane] = ahead[lane] > 0.0F ? inside[lane] : outside[lane];
  }
}

// The same for two neighbouring prices, remembering which way each state came; then backwards to
// the cells taken.
struct Selections {
  std::vector<std::uint8_t> ways;
  std::vector<std::uint8_t> rich;  // at price `index`
  std::vector<std::uint8_t> lean;  // at the next dearer one
};

void trace(const Cells& cells, int index, Selections& found) {
  const std::size_t count = cells.count();
  found.ways.resize(count);
  found.rich.resize(count);
  found.lean.resize(count);
  const std::array<float, 2> worth = {1.0F / price_of(index), 1.0F / price_of(index - 1)};
  std::array<float, 2> ahead = {-cells.run, -cells.run};
  for (std::size_t cell = 0; cell < count; ++cell) {
    const float size = cell + 1 == count ? cells.last : 1.0F;
    unsigned way = 0;
    for (unsigned side = 0; side < 2; ++side) {
      const float from = ahead[side];
      const unsigned stays = from > -cells.run ? 1U : 0U;
      const unsigned leaves = from > 0.0F ? 2U : 0U;
      way |= (stays | leaves) << (2 * side);
      const float kept = from > -cells.run ? from : -cells.run;
      ahead[side] = (kept < 0.0F ? kept : 0.0F) + (cells.value[cell] * worth[side] - size);
    }
    found.ways[cell] = static_cast<std::uint8_t>(way);
  }
  unsigned rich = ahead[0] > 0.0F ? 1 : 0;
  unsigned lean = ahead[1] > 0.0F ? 1 : 0;
  for (std::size_t cell = count; cell-- > 0;) {
    found.rich[cell] = static_cast<std::uint8_t>(rich);
    found.lean[cell] = static_cast<std::uint8_t>(lean);
    const unsigned way = found.ways[cell];
    rich = way >> (1 - rich) & 1U;
    lean = way >> (3 - lean) & 1U;
  }
  if (index >= kEverything) std::fill(found.rich.begin(), found.rich.end(), std::uint8_t{1});
  if (index - 1 <= 0) std::fill(found.lean.begin(), found.lean.end(), std::uint8_t{0});
}

// The dearest price whose selection measures at least, or more than, `goal`.
int first_beyond(const Cells& cells, Measure measure, float goal, bool at_least, int hint) {
  int low = 0;             // not beyond
  int high = kEverything;  // beyond
  bool first = hint > 0 && hint < kEverything;
  while (high - low > 1) {
    std::array<int, kLanes> tried;
    for (int lane = 0; lane < kLanes; ++lane) {
      int index = low + static_cast<int>((static_cast<std::int64_t>(high - low) * (lane + 1)) /
                                         (kLanes + 1));
      if (first) {
        // Densely around where it was last time, sparsely further off.
        constexpr std::array<int, kLanes> kAround = {-256, -96, -40, -16, -7, -3, -1,  0,
                                                     1,    2,   4,   8,   20, 48, 112, 288};
        index = hint + kAround[lane];
      }
      tried[lane] = std::clamp(index, low + 1, high - 1);
    }
    first = false;
    Lanes worth;
    Lanes measured;
    for (int lane = 0; lane < kLanes; ++lane) worth[lane] = 1.0F / price_of(tried[lane]);
    measure_lanes(cells.value.data(), cells.count(), cells.last, cells.run, worth.data(), measure,
                  measured.data());
    for (int lane = 0; lane < kLanes; ++lane) {
      const bool beyond = at_least ? measured[lane] >= goal : measured[lane] > goal;
      if (beyond) {
        high = std::min(high, tried[lane]);
        break;
      }
      low = std::max(low, tried[lane]);
    }
  }
  return high;
}

struct Splice {
  std::size_t cell;  // the richer selection before it, the leaner one from it on
  double cost;       // in cells of row cost
  double kept;
  double rows;
};

// Every way to go from the richer to the leaner selection, handed to `use`.
template <typename Use>
void splices(const Cells& cells, const Selections& found, Use use) {
  const std::size_t count = cells.count();
  const std::vector<std::uint8_t>& rich = found.rich;
  const std::vector<std::uint8_t>& lean = found.lean;
  Splice all{0, 0.0, 0.0, 0.0};
  for (std::size_t cell = 0; cell < count; ++cell) {
    if (lean[cell] == 0) continue;
    const bool begins = cell == 0 || lean[cell - 1] == 0;
    all.cost += cells.size(cell) + (begins ? cells.run : 0.0F);
    all.rows += cells.size(cell);
    all.kept += cells.importance(cell);
  }
  use(all);
  const auto differ = [&](std::size_t at) { return at < count && rich[at] != lean[at]; };
  bool differed = false;
  for (std::size_t cell = 0; cell < count; ++cell) {
    // Cell by cell from the lean to the rich side. Where they agree all around there is nothing
    // to choose between; elsewhere the runs' beginnings are counted anew around the seam.
    const bool differs = differ(cell);
    const bool matters = differed || differs || differ(cell + 1);
    differed = differs;
    if (!matters) continue;
    const auto begins = [&](std::size_t at, bool left, bool right) {
      return at < count && right && !left ? static_cast<double>(cells.run) : 0.0;
    };
    const bool before = cell > 0 && rich[cell - 1] != 0;
    const bool after = cell + 1 < count && lean[cell + 1] != 0;
    all.cost -= begins(cell, before, lean[cell] != 0) + begins(cell + 1, lean[cell] != 0, after);
    all.cost += begins(cell, before, rich[cell] != 0) + begins(cell + 1, rich[cell] != 0, after);
    const double change = static_cast<double>(rich[cell]) - static_cast<double>(lean[cell]);
    all.cost += change * cells.size(cell);
    all.rows += change * cells.size(cell);
    all.kept += change * cells.importance(cell);
    all.cell = cell + 1;
    use(all);
  }
}

std::vector<Interval> intervals(const Cells& cells, const Selections& both, std::size_t seam) {
  std::vector<Interval> found;
  for (std::size_t cell = 0; cell < cells.count(); ++cell) {
    if ((cell < seam ? both.rich[cell] : both.lean[cell]) == 0) continue;
    const auto first = static_cast<std::int64_t>(cell * cells.cell_rows);
    const auto stop =
        static_cast<std::int64_t>(std::min((cell + 1) * cells.cell_rows, cells.rows));
    if (!found.empty() && found.back().first + found.back().rows == first) {
      found.back().rows = stop - found.back().first;
    } else {
      found.push_back({first, stop - first});
    }
  }
  return found;
}

struct Scratch {
  Cells cells;
  Selections both;
};

// Nothing is allocated per call. Not inlined: the compiler would look the thread's own up again in
// every loop.
[[gnu::noinline]] Scratch& my_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

void check(std::size_t count, const RunCosts& costs) {
  if (costs.cell_rows <= 0) throw std::invalid_argument("cell_rows must be positive");
  if (!(costs.run_cost >= 0.0) || !std::isfinite(costs.run_cost)) {
    throw std::invalid_argument("run_cost must be finite and not negative");
  }
  if (!(costs.row_cost > 0.0) || !std::isfinite(costs.row_cost)) {
    throw std::invalid_argument("row_cost must be positive and finite");
  }
  if (count > std::numeric_limits<std::int32_t>::max()) {
    throw std::invalid_argument("more than 2^31 rows");
  }
}

}  // namespace

OptimalSelection select_optimal(const float* importance, std::size_t count, const RunCosts& costs,
                                Target target, double value, int price) {
  check(count, costs);
  if (std::isnan(value)) throw std::invalid_argument("the budget is not a number");
  if (count == 0 || value <= 0.0) return {{}, price};
  Scratch& scratch = my_scratch();
  Cells& cells = scratch.cells;
  Selections& both = scratch.both;
  fill(cells, importance, count, costs);

  const std::vector<Interval> whole = {{0, static_cast<std::int64_t>(count)}};
  const auto number = static_cast<double>(cells.count());
  const double cell_cost = costs.row_cost * static_cast<double>(cells.cell_rows);
  const double total = cells.sums.back();
  double goal = 0.0;  // in cells, or in the largest cell's importance
  Measure measure{0.0F, 1.0F, 0.0F};
  switch (target) {
    case Target::kRows:
      if (value >= static_cast<double>(count)) return {whole, price};
      goal = value / static_cast<double>(cells.cell_rows);
      break;
    case Target::kCost:
      goal = value / cell_cost;
      if (goal >= static_cast<double>(cells.run) + number - 1.0 + cells.last) {
        return {whole, price};
      }
      measure = {cells.run, 1.0F, 0.0F};
      break;
    case Target::kKept:
      if (value >= total) return {whole, price};
      goal = value / cells.largest;
      measure = {0.0F, 0.0F, 1.0F};
      break;
  }
  const bool keep = target == Target::kKept;
  const int found = first_beyond(cells, measure, static_cast<float>(goal), keep, price);
  trace(cells, found, both);

  // The best splice within the budget. Sums are compared with a hair's width of tolerance: they
  // are added up in another order than the caller's.
  Splice best{0, std::numeric_limits<double>::infinity(), -1.0, 0.0};
  const double hair = 1e-9;
  splices(cells, both, [&](const Splice& splice) {
    if (keep) {
      if (splice.kept >= value * (1.0 - hair) && splice.cost < best.cost) best = splice;
      return;
    }
    const double spent = target == Target::kRows ? splice.rows : splice.cost;
    if (spent > goal * (1.0 + hair)) return;
    if (splice.kept > best.kept || (splice.kept == best.kept && splice.cost < best.cost)) {
      best = splice;
    }
  });
  // Rounding in the search may leave both neighbours on one side.
  if (best.kept < 0.0) return {keep ? whole : std::vector<Interval>{}, found};
  return {intervals(cells, both, best.cell), found};
}

std::vector<FrontierPoint> frontier(const float* importance, std::size_t count,
                                    const RunCosts& costs, std::size_t points) {
  check(count, costs);
  if (points == 0 || points > kLanes + 1) throw std::invalid_argument("points must be 1 to 17");
  if (count == 0) return {};
  Cells& cells = my_scratch().cells;
  fill(cells, importance, count, costs);
  const double cell_cost = costs.row_cost * static_cast<double>(cells.cell_rows);
  const auto measured = [&](int from, int to, Measure measure) {
    Lanes worth;
    Lanes result;
    for (int lane = 0; lane < kLanes; ++lane) {
      worth[lane] = 1.0F / price_of(from + (to - from) * lane / (kLanes - 1));
    }
    measure_lanes(cells.value.data(), cells.count(), cells.last, cells.run, worth.data(), measure,
                  result.data());
    return result;
  };
  // Where it happens: between the prices at which next to nothing and nearly all is kept.
  const Measure keeps{0.0F, 0.0F, 1.0F};
  const auto all_kept = static_cast<float>(cells.sums.back() / std::max(cells.largest, 1e-300));
  const Lanes coarse = measured(kPerOctave, kLanes * kPerOctave, keeps);
  int dear = kPerOctave;
  int cheap = kLanes * kPerOctave;
  for (int lane = kLanes - 1; lane > 0; --lane) {
    if (coarse[lane] > 0.99F * all_kept) cheap = (lane + 1) * kPerOctave;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    if (coarse[lane] < 0.02F * all_kept) dear = std::min((lane + 1) * kPerOctave, cheap - 1);
  }
  const Lanes cost = measured(dear, cheap, {cells.run, 1.0F, 0.0F});
  const Lanes kept = measured(dear, cheap, keeps);
  std::vector<FrontierPoint> found;
  for (std::size_t lane = 0; lane + 1 < points; ++lane) {
    found.push_back({cost[lane] * cell_cost, kept[lane] * cells.largest});
  }
  const double all = static_cast<double>(cells.run) + static_cast<double>(cells.count()) - 1.0 +
                     static_cast<double>(cells.last);
  found.push_back({all * cell_cost, cells.sums.back()});
  return found;
}

}  // namespace neuron_chunk
