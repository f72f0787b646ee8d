// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "optimal_selection.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "price_lanes.hpp"

namespace neuron_chunk {
namespace {

// Price k is 2^(-k / kPerOctave) of the largest cell's importance per cell of row cost. At price 0
// nothing is worth its cost; at kEverything and beyond all is taken.
constexpr int kPerOctave = 64;
constexpr int kEverything = 32 * kPerOctave;

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
  Program program() const { return {value.data(), count(), last, run}; }
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
  cells.cell_rows = static_cast<std::size_t>(costs.cell_rows);
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
  // Beyond that, one run costs more than any number of cells.
  cells.run = static_cast<float>(
      std::min(costs.run_cost / (costs.row_cost * static_cast<double>(cells.cell_rows)), 1e30));
}

// The program of price_lanes.hpp for two neighbouring prices, remembering which way each state
// came; then backwards to the cells taken.
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
template <typename Number>
int first_beyond(const Cells& cells, const Measure<Number>& measure, Number goal, bool at_least,
                 int hint) {
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
    std::array<Number, kLanes> measured;
    for (int lane = 0; lane < kLanes; ++lane) worth[lane] = 1.0F / price_of(tried[lane]);
    measure_lanes(cells.program(), worth.data(), measure, measured.data());
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
  std::size_t cell;    // the richer selection before it, the leaner one from it on
  std::int64_t spent;  // by the measure
  double kept;         // importance
};

// Every way to go from the richer to the leaner selection, handed to `use`: first the leaner one
// itself, last the richer one.
template <typename Use>
void splices(const Cells& cells, const Selections& found, const Measure<std::int32_t>& measure,
             Use use) {
  const std::size_t count = cells.count();
  const std::vector<std::uint8_t>& rich = found.rich;
  const std::vector<std::uint8_t>& lean = found.lean;
  const auto size = [&](std::size_t cell) {
    return static_cast<std::int64_t>(cell + 1 == count ? measure.last : measure.cell);
  };
  const auto begins = [&](std::size_t at, bool left, bool right) {
    return at < count && right && !left ? static_cast<std::int64_t>(measure.run) : 0;
  };
  Splice all{0, 0, 0.0};
  for (std::size_t cell = 0; cell < count; ++cell) {
    if (lean[cell] == 0) continue;
    all.spent += size(cell) + begins(cell, cell > 0 && lean[cell - 1] != 0, true);
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
    const bool before = cell > 0 && rich[cell - 1] != 0;
    const bool was = lean[cell] != 0;
    const bool is = rich[cell] != 0;
    const bool after = cell + 1 < count && lean[cell + 1] != 0;
    all.spent += begins(cell, before, is) + begins(cell + 1, is, after) -
                 begins(cell, before, was) - begins(cell + 1, was, after);
    if (is != was) {
      all.spent += is ? size(cell) : -size(cell);
      all.kept += is ? cells.importance(cell) : -cells.importance(cell);
    }
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

// Time in whole units so fine that rounding costs up loses nothing worth mentioning. A sensible
// selection's runs lie at least a run's cost apart: it takes at most twice the cells and one run.
constexpr std::int32_t kMostUnits = std::int32_t{1} << 29;

Measure<std::int32_t> in_units(const Cells& cells) {
  const double most = 2.0 * static_cast<double>(cells.count()) + cells.run + 2.0;
  const double unit = std::exp2(std::max(0.0, std::floor(std::log2(kMostUnits / most))));
  const double run = std::min<double>(std::ceil(cells.run * unit), kMostUnits);
  return {static_cast<std::int32_t>(run), static_cast<std::int32_t>(unit),
          static_cast<std::int32_t>(std::ceil(cells.last * unit)), 0};
}

std::size_t rows_of_last(const Cells& cells) {
  return cells.rows - (cells.count() - 1) * cells.cell_rows;
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

// A cell is no larger than the group.
RunCosts checked(std::size_t count, RunCosts costs) {
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
  const std::int64_t most = std::max<std::int64_t>(1, static_cast<std::int64_t>(count));
  costs.cell_rows = std::min(costs.cell_rows, most);
  if (!std::isfinite(costs.run_cost + costs.row_cost * static_cast<double>(most))) {
    throw std::invalid_argument("run_cost and row_cost of all rows must add up to a number");
  }
  return costs;
}

}  // namespace

OptimalSelection select_optimal(const float* importance, std::size_t count, const RunCosts& given,
                                Target target, double value, int price) {
  const RunCosts costs = checked(count, given);
  if (std::isnan(value)) throw std::invalid_argument("the budget is not a number");
  if (count == 0 || value <= 0.0) return {{}, price};
  Scratch& scratch = my_scratch();
  Cells& cells = scratch.cells;
  Selections& both = scratch.both;
  fill(cells, importance, count, costs);

  const std::vector<Interval> whole = {{0, static_cast<std::int64_t>(count)}};
  const double total = cells.sums.back();
  constexpr double kHair = 1e-9;  // the caller's sums may be added up in another order
  const Measure<std::int32_t> time = in_units(cells);
  const Measure<std::int32_t> rows{0, static_cast<std::int32_t>(cells.cell_rows),
                                   static_cast<std::int32_t>(rows_of_last(cells)), 0};
  const Measure<std::int32_t>& measure = target == Target::kRows ? rows : time;
  if (target == Target::kKept) {
    if (value >= total * (1.0 - kHair)) return {whole, price};
    const double enough = value * (1.0 - kHair);
    const Measure<float> keeps{0.0F, 0.0F, 0.0F, 1.0F};
    int found = first_beyond(cells, keeps, static_cast<float>(value / cells.largest), true, price);
    Splice best{};
    for (;; ++found) {  // rounding may have stopped the search too early
      trace(cells, found, both);
      best = {0, std::numeric_limits<std::int64_t>::max(), 0.0};
      splices(cells, both, measure, [&](const Splice& splice) {
        if (splice.kept >= enough && splice.spent < best.spent) best = splice;
      });
      if (best.kept >= enough) break;
      if (found >= kEverything) return {whole, found};
    }
    return {intervals(cells, both, best.cell), found};
  }

  const double cell_cost = costs.row_cost * static_cast<double>(cells.cell_rows);
  const double all = target == Target::kRows
                         ? static_cast<double>(count)
                         : costs.run_cost + costs.row_cost * static_cast<double>(count);
  if (value >= all * (1.0 - kHair)) return {whole, price};
  // Budgets are rounded down and costs up: what is chosen never takes longer.
  const double units = target == Target::kRows ? 1.0 : static_cast<double>(time.cell) / cell_cost;
  const auto goal = static_cast<std::int32_t>(
      std::min(value * units * (1.0 + kHair), static_cast<double>(kMostUnits)));
  const int found = first_beyond(cells, measure, goal, false, price);
  trace(cells, found, both);
  Splice best{0, 0, -1.0};
  splices(cells, both, measure, [&](const Splice& splice) {
    if (splice.spent > goal) return;
    if (splice.kept > best.kept || (splice.kept == best.kept && splice.spent < best.spent)) {
      best = splice;
    }
  });
  if (best.kept < 0.0) return {{}, found};
  return {intervals(cells, both, best.cell), found};
}

std::vector<FrontierPoint> frontier(const float* importance, std::size_t count,
                                    const RunCosts& given, std::size_t points) {
  const RunCosts costs = checked(count, given);
  if (points == 0 || points > kLanes + 1) throw std::invalid_argument("points must be 1 to 17");
  if (count == 0) return {};
  Cells& cells = my_scratch().cells;
  fill(cells, importance, count, costs);
  const double cell_cost = costs.row_cost * static_cast<double>(cells.cell_rows);
  const auto measured = [&](int from, int to, const Measure<float>& measure) {
    Lanes worth;
    Lanes result;
    for (int lane = 0; lane < kLanes; ++lane) {
      worth[lane] = 1.0F / price_of(from + (to - from) * lane / (kLanes - 1));
    }
    measure_lanes(cells.program(), worth.data(), measure, result.data());
    return result;
  };
  // Where it happens: between the prices at which next to nothing and nearly all is kept.
  const Measure<float> keeps{0.0F, 0.0F, 0.0F, 1.0F};
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
  const Lanes cost = measured(dear, cheap, {cells.run, 1.0F, cells.last, 0.0F});
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
