// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "importance.hpp"
#include "optimal_selection.hpp"
#include "packed_rows.hpp"
#include "row_products.hpp"
#include "selection.hpp"

namespace neuron_chunk {
namespace {

using FloatArray = py::array_t<float, kPlain | py::array::forcecast>;
using DoubleArray = py::array_t<double, kPlain | py::array::forcecast>;
using Indices = py::array_t<std::int64_t, kPlain>;

py::array_t<std::int64_t> to_array(const std::vector<Interval>& intervals) {
  static_assert(sizeof(Interval) == 2 * sizeof(std::int64_t), "a row of the array");
  py::array_t<std::int64_t> array({static_cast<py::ssize_t>(intervals.size()), py::ssize_t{2}});
  std::copy(intervals.begin(), intervals.end(), reinterpret_cast<Interval*>(array.mutable_data()));
  return array;
}

void expect_vector(const py::array& array, const char* name) {
  if (array.ndim() != 1) throw std::invalid_argument(std::string(name) + " must be 1-D");
}

// select(importance, count) -> std::vector<Interval>, called without the GIL.
template <typename Select>
py::array_t<std::int64_t> chosen_by(const FloatArray& importance, Select select) {
  expect_vector(importance, "importance");
  const float* const data = importance.data();
  const auto count = static_cast<std::size_t>(importance.size());
  std::vector<Interval> chosen;
  {
    py::gil_scoped_release release;
    chosen = select(data, count);
  }
  return to_array(chosen);
}

py::array_t<std::int64_t> topk(const FloatArray& importance, std::int64_t rows) {
  return chosen_by(importance, [=](const float* data, std::size_t count) {
    return select_topk(data, count, rows);
  });
}

py::array_t<std::int64_t> topk_keeping(const FloatArray& importance, double kept) {
  return chosen_by(importance, [=](const float* data, std::size_t count) {
    return select_topk_keeping(data, count, kept);
  });
}

py::array_t<std::int64_t> greedy(const FloatArray& importance, std::int64_t rows,
                                 std::int64_t row_bytes, const DoubleArray& latency,
                                 double min_kib, double max_kib, double step_kib, double jump_kib,
                                 double kept) {
  expect_vector(latency, "latency");
  const GreedyOptions options{row_bytes,
                              min_kib,
                              max_kib,
                              step_kib,
                              jump_kib,
                              latency.data(),
                              static_cast<std::size_t>(latency.size())};
  return chosen_by(importance, [&](const float* data, std::size_t count) {
    return select_greedy(data, count, rows, options, kept);
  });
}

double seconds_of(const ExtentArray& runs, std::int64_t row_bytes, std::int64_t block,
                  double low_request, double low_kib, double high_request, double high_kib,
                  double knee_kib) {
  const ExtentView wanted = view(runs);
  static_assert(sizeof(Interval) == sizeof(Extent), "both are a row of the array");
  return reading_seconds(reinterpret_cast<const Interval*>(wanted.data), wanted.count, row_bytes,
                         block, {low_request, low_kib, high_request, high_kib, knee_kib});
}

Target target_named(const std::string& name) {
  if (name == "rows") return Target::kRows;
  if (name == "cost") return Target::kCost;
  if (name == "kept") return Target::kKept;
  throw std::invalid_argument("target must be 'rows', 'cost' or 'kept', not '" + name + "'");
}

py::tuple optimal(const FloatArray& importance, const std::string& target, double value,
                  std::int64_t cell_rows, double run_cost, double row_cost, int price) {
  expect_vector(importance, "importance");
  const Target wanted = target_named(target);
  const float* const data = importance.data();
  const auto count = static_cast<std::size_t>(importance.size());
  OptimalSelection chosen;
  {
    py::gil_scoped_release release;
    chosen = select_optimal(data, count, {cell_rows, run_cost, row_cost}, wanted, value, price);
  }
  return py::make_tuple(to_array(chosen.intervals), chosen.price);
}

py::array_t<double> optimal_frontier(const FloatArray& importance, std::int64_t cell_rows,
                                     double run_cost, double row_cost, std::size_t points) {
  expect_vector(importance, "importance");
  const float* const data = importance.data();
  const auto count = static_cast<std::size_t>(importance.size());
  std::vector<FrontierPoint> found;
  {
    py::gil_scoped_release release;
    found = frontier(data, count, {cell_rows, run_cost, row_cost}, points);
  }
  static_assert(sizeof(FrontierPoint) == 2 * sizeof(double), "a row of the array");
  py::array_t<double> array({static_cast<py::ssize_t>(found.size()), py::ssize_t{2}});
  std::copy(found.begin(), found.end(), reinterpret_cast<FrontierPoint*>(array.mutable_data()));
  return array;
}

RowType row_type(const std::string& name) {
  if (name == "bfloat16") return RowType::kBfloat16;
  if (name == "float16") return RowType::kFloat16;
  if (name == "float32") return RowType::kFloat32;
  throw std::invalid_argument("dtype must be 'bfloat16', 'float16' or 'float32', not '" + name +
                              "'");
}

// Never converted: what is written must reach the caller.
using Floats = py::array_t<float, py::array::c_style>;

const float* floats_of(const Floats& array, const char* name) {
  const float* const data = array.data();
  if (reinterpret_cast<std::uintptr_t>(data) % alignof(float) != 0) {
    throw std::invalid_argument(std::string(name) + " must lie at a multiple of 4 bytes");
  }
  return data;
}

float* sums_of(Floats& array) {
  floats_of(array, "out");
  return array.mutable_data();  // throws where it may not be written
}

// Of `count` pieces, `stride` bytes apart, no address is beyond what there are addresses of.
void expect_addresses(std::int64_t count, std::int64_t stride, const char* what) {
  constexpr std::int64_t kMost = std::int64_t{1} << 56;
  std::int64_t nbytes = 0;
  if (__builtin_mul_overflow(count, stride, &nbytes) || nbytes > kMost || nbytes < -kMost) {
    throw std::invalid_argument(std::string(what) + " would leave what addresses can reach");
  }
}

void row_products(const Floats& inputs, std::uintptr_t weights, const std::string& dtype,
                  std::int64_t count, std::int64_t columns, Floats& out, int threads) {
  RowProduct product{};
  product.type = row_type(dtype);
  if (inputs.ndim() != 2 || inputs.shape(1) != count || count < 0) {
    throw std::invalid_argument("inputs must be of shape [tokens, count]");
  }
  if (out.ndim() != 2 || out.shape(0) != inputs.shape(0) || out.shape(1) != columns) {
    throw std::invalid_argument("out must be of shape [tokens, columns]");
  }
  if (inputs.shape(0) < 1 || inputs.shape(0) > 64) {
    throw std::invalid_argument("there must be 1 to 64 tokens");
  }
  const std::uintptr_t item = product.type == RowType::kFloat32 ? 4 : 2;
  if (weights == 0 || weights % item != 0) {
    throw std::invalid_argument("weights must be the aligned address of the first row");
  }
  if (threads < 1) throw std::invalid_argument("threads must be at least 1");
  product.inputs = floats_of(inputs, "inputs");
  product.weights = reinterpret_cast<const void*>(weights);
  product.out = sums_of(out);
  product.tokens = inputs.shape(0);
  product.count = count;
  product.columns = columns;
  py::gil_scoped_release release;
  add_row_product(product, threads);
}

Segment segment_of(std::uintptr_t data, std::int64_t stride, std::int64_t rows,
                   std::int64_t columns, int bits, std::int64_t group) {
  if (data == 0 || rows < 0 || columns < 1) {
    throw std::invalid_argument("a segment must have an address, rows and columns");
  }
  if (bits < 2 || bits == 7 || bits > 8) {
    throw std::invalid_argument("bits must be 2 to 6, or 8");
  }
  if (group != 16 && (group < 32 || group % 32 != 0)) {
    throw std::invalid_argument("group must be 16 or a multiple of 32");
  }
  // A kernel looks a few rows ahead.
  expect_addresses(std::max<std::int64_t>(rows, 64), stride, "rows");
  expect_addresses(columns, bits, "a row");
  group = std::min(group, (columns + 31) / 32 * 32);  // one scale, then, for all columns
  const Segment made{
      reinterpret_cast<const std::uint8_t*>(data), stride, rows, columns, group, bits};
  if (stride < made.value_bytes()) throw std::invalid_argument("the stride is shorter than a row");
  return made;
}

std::int64_t scale_bytes(const Segment& segment) {
  return 2 * ((segment.columns + segment.group - 1) / segment.group);
}

void expect_scales(const Segment& segment) {
  if (segment.stride < segment.value_bytes() + scale_bytes(segment)) {
    throw std::invalid_argument("the stride is shorter than a row");
  }
}

// Row numbers, one for each row of a segment. What they are numbers of, the caller answers for.
const std::int64_t* places_of(const std::optional<Indices>& places, std::int64_t rows) {
  if (!places) return nullptr;
  if (places->ndim() != 1 || places->shape(0) != rows) {
    throw std::invalid_argument("there must be one place for each row");
  }
  return places->data();
}

PackedKernel kernel_of(const std::string& name) {
  if (name.empty()) return best_packed_kernel();
  for (const PackedKernel& known : packed_kernels()) {
    if (name == known.name) return known;
  }
  throw std::invalid_argument("no kernel '" + name + "' on this processor");
}

void packed_products(const Floats& inputs, std::uintptr_t data, std::int64_t stride,
                     const std::vector<std::int64_t>& widths, int bits, std::int64_t group,
                     Floats& out, std::int64_t first, int threads, const std::string& kernel,
                     std::uintptr_t scales, std::int64_t scale_stride, int scale_bits,
                     const std::optional<Indices>& scale_rows, float unit,
                     const std::optional<Indices>& places, std::uintptr_t finer,
                     std::int64_t finer_stride, int finer_bits) {
  if (inputs.ndim() != 2 || out.ndim() != 2 || inputs.shape(0) != out.shape(0)) {
    throw std::invalid_argument("inputs must be of shape [tokens, rows], out [tokens, columns]");
  }
  if (inputs.shape(0) < 1 || inputs.shape(0) > 64) {
    throw std::invalid_argument("there must be 1 to 64 tokens");
  }
  if (finer != 0 && (!can_refine(bits, finer_bits) || group != 16)) {
    throw std::invalid_argument("no product with rows and a refinement of these bits");
  }
  if (threads < 1) throw std::invalid_argument("threads must be at least 1");
  if (widths.empty()) throw std::invalid_argument("a row must have a segment");
  const std::int64_t rows = inputs.shape(1);
  const PackedKernel chosen = kernel_of(kernel);
  float* const sums = sums_of(out);
  std::vector<PackedPart> parts;
  // Bytes from the beginning of a row, of its base and of its refinement.
  std::int64_t at = 0, scales_at = 0, finer_at = 0, column = first;
  for (const std::int64_t columns : widths) {
    if (columns < 1) throw std::invalid_argument("a segment must have columns");
    if (column < 0 || columns > out.shape(1) || column > out.shape(1) - columns) {
      throw std::invalid_argument("the segments' columns don't fit out");
    }
    PackedPart part{segment_of(data, stride, rows, columns, bits, group), {}, finer != 0, nullptr};
    part.segment.data += at;
    part.segment.unit = unit;
    part.segment.places = places_of(places, rows);
    at += part.segment.value_bytes();
    if (scales == 0) {
      at += scale_bytes(part.segment);
    } else {
      const Segment base = segment_of(scales, scale_stride, rows, columns, scale_bits, group);
      part.segment.scales = base.data + scales_at + base.value_bytes();
      part.segment.scale_stride = scale_stride;
      part.segment.scale_rows = places_of(scale_rows, rows);
      scales_at += base.value_bytes() + scale_bytes(base);
    }
    if (finer != 0) {
      part.finer = segment_of(finer, finer_stride, rows, columns, finer_bits, group);
      part.finer.data += finer_at;
      part.segment.unit = unit / static_cast<float>(1 << finer_bits);
      finer_at += part.finer.value_bytes();
    }
    part.out = sums + column;
    column += columns;
    parts.push_back(part);
  }
  if (stride < at || (scales != 0 && scale_stride < scales_at) ||
      (finer != 0 && finer_stride < finer_at)) {
    throw std::invalid_argument("the stride is shorter than a row");
  }
  const float* const values = floats_of(inputs, "inputs");
  const std::int64_t tokens = inputs.shape(0), out_stride = out.shape(1);
  py::gil_scoped_release release;
  add_packed_products(parts, values, tokens, out_stride, threads, chosen);
}

void unpack_rows(std::uintptr_t data, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                 int bits, std::int64_t group, std::uintptr_t out, const std::string& dtype,
                 std::int64_t out_stride, int threads, const std::string& kernel,
                 const std::optional<Indices>& places, std::uintptr_t finer,
                 std::int64_t finer_stride, int finer_bits) {
  Segment segment = segment_of(data, stride, rows, columns, bits, group);
  expect_scales(segment);
  segment.places = places_of(places, rows);
  std::optional<Segment> refinement;
  if (finer != 0) {
    refinement = segment_of(finer, finer_stride, rows, columns, finer_bits, group);
  }
  const PackedKernel chosen = kernel_of(kernel);
  const RowType type = row_type(dtype);
  if (type == RowType::kFloat16) throw std::invalid_argument("rows are not unpacked to float16");
  const std::uintptr_t item = type == RowType::kFloat32 ? 4 : 2;
  if (out == 0 || out % item != 0 || out_stride < columns) {
    throw std::invalid_argument("out must be the aligned address of a matrix");
  }
  expect_addresses(rows, out_stride, "out");
  expect_addresses(rows * out_stride, static_cast<std::int64_t>(item), "out");
  if (threads < 1) throw std::invalid_argument("threads must be at least 1");
  py::gil_scoped_release release;
  const bool whole = type == RowType::kFloat32;
  unpack_packed(segment, refinement ? &*refinement : nullptr,
                whole ? reinterpret_cast<float*>(out) : nullptr,
                whole ? nullptr : reinterpret_cast<std::uint16_t*>(out), out_stride, threads,
                chosen);
}

py::tuple round_to_integers(const Floats& values, int bits, std::int64_t group,
                            const DoubleArray& shrinks, int threads) {
  if (values.ndim() != 2) throw std::invalid_argument("values must be of shape [rows, columns]");
  if (bits < 2 || bits > 8) throw std::invalid_argument("bits must be 2 to 8");
  if (group < 1) throw std::invalid_argument("group must be positive");
  if (threads < 1) throw std::invalid_argument("threads must be at least 1");
  expect_vector(shrinks, "shrinks");
  const py::ssize_t rows = values.shape(0), columns = values.shape(1);
  group = std::min<std::int64_t>(group, std::max<py::ssize_t>(columns, 1));
  const py::ssize_t groups = (columns + group - 1) / group;
  py::array_t<std::int8_t> integers({rows, columns});
  py::array_t<float> scales({rows, groups});
  const Rounding rounding{floats_of(values, "values"),
                          rows,
                          columns,
                          group,
                          bits,
                          shrinks.data(),
                          shrinks.size(),
                          integers.mutable_data(),
                          scales.mutable_data()};
  {
    py::gil_scoped_release release;
    round_rows(rounding, threads);
  }
  return py::make_tuple(integers, scales);
}

void magnitudes(std::uintptr_t data, const std::string& dtype, std::int64_t stride,
                const Floats& weights, Floats& out, int threads) {
  if (weights.ndim() != 2 || out.ndim() != 2 || out.shape(0) != weights.shape(0)) {
    throw std::invalid_argument("weights must be of shape [kinds, tokens], out [kinds, rows]");
  }
  const RowType type = row_type(dtype);
  const std::int64_t item = type == RowType::kFloat32 ? 4 : 2;
  const std::int64_t tokens = weights.shape(1);
  const std::int64_t rows = out.shape(1);
  if (data == 0 || data % item != 0 || stride % item != 0 ||
      (tokens > 1 && stride < rows * item)) {
    throw std::invalid_argument("the activations must be the aligned address of a matrix");
  }
  expect_addresses(tokens, stride, "activations");
  if (threads < 1) throw std::invalid_argument("threads must be at least 1");
  float* const sums = sums_of(out);
  const float* const wanted = floats_of(weights, "weights");
  const std::int64_t kinds = weights.shape(0);
  py::gil_scoped_release release;
  sum_magnitudes({reinterpret_cast<const void*>(data), stride, type, tokens, rows}, wanted, kinds,
                 sums, threads);
}

void gather(std::uintptr_t source, std::int64_t source_stride, std::int64_t width,
            std::uintptr_t target, std::int64_t target_stride, std::int64_t room,
            std::int64_t tokens, std::int64_t item, const ExtentArray& rows) {
  const ExtentView wanted = view(rows);
  static_assert(sizeof(Run) == sizeof(Extent), "a run is a row of the array");
  const Run* const runs = reinterpret_cast<const Run*>(wanted.data);
  if (width < 0 || room < 0 || tokens < 0 || item < 1 || source_stride < 0 || target_stride < 0) {
    throw std::invalid_argument("source and target must be matrices");
  }
  expect_addresses(width, item, "a row");
  expect_addresses(room, item, "a row");
  expect_addresses(tokens, std::max(source_stride, target_stride), "rows");
  std::int64_t left = room;
  for (std::size_t i = 0; i < wanted.count; ++i) {
    const Run run = runs[i];
    if (run.count < 0 || run.first < 0 || run.count > width || run.first > width - run.count) {
      throw std::invalid_argument("a run is outside of the inputs");
    }
    if ((left -= run.count) < 0) throw std::invalid_argument("the runs don't fit the room");
  }
  if (tokens == 0 || room == 0) return;
  if (source == 0 || target == 0 || target_stride < room * item) {
    throw std::invalid_argument("source and target must be matrices");
  }
  const Gather copy{reinterpret_cast<const char*>(source),
                    source_stride,
                    reinterpret_cast<char*>(target),
                    target_stride,
                    tokens,
                    item,
                    room};
  py::gil_scoped_release release;
  gather_columns(copy, runs, wanted.count);
}

}  // namespace

void bind_numbers(py::module_& m) {
  best_packed_kernel();  // chosen now: a fork while it is chosen would leave the child waiting
  m.def("row_products", &row_products, py::arg("inputs").noconvert(), py::arg("weights"),
        py::arg("dtype"), py::arg("count"), py::arg("columns"), py::arg("out").noconvert(),
        py::arg("threads"),
        "Add inputs [tokens, count] @ W to out [tokens, columns], all float32. W is `count` rows "
        "of `columns` values of type `dtype` from the address `weights` on.");
  m.def(
      "packed_products", &packed_products, py::arg("inputs").noconvert(), py::arg("rows"),
      py::arg("stride"), py::arg("widths"), py::arg("bits"), py::arg("group"),
      py::arg("out").noconvert(), py::arg("first"), py::arg("threads"), py::arg("kernel") = "",
      py::arg("scales") = 0, py::arg("scale_stride") = 0, py::arg("scale_bits") = 0,
      py::arg("scale_rows") = py::none(), py::arg("unit") = 1.0F, py::arg("places") = py::none(),
      py::arg("finer") = 0, py::arg("finer_stride") = 0, py::arg("finer_bits") = 0,
      "Add inputs [tokens, rows] @ W to the columns of out [tokens, n] from `first` on. W is "
      "packed "
      "rows (storage/packed_rows.py) from an address on, `stride` bytes from row to row: segments "
      "of `widths` integers of `bits` bits, one scale for `group` of them. kernel: one of "
      "packed_kernels(), '' for the best. A refinement has no scales: those of its rows' bases, "
      "rows of `scale_bits` bits, are at the address `scales`, `scale_stride` bytes from row to "
      "row; row i's is number scale_rows[i], int64, and `unit` times as large. places: int64 "
      "[rows], which rows they are; None: all. finer: the address of the rows' refinement, one "
      "after another; only with a base of 4 bits and 4 more, or of 3 and 5, in groups of 16.");
  m.def(
      "packed_kernels",
      [] {
        py::list names;
        for (const PackedKernel& known : packed_kernels()) names.append(known.name);
        return names;
      },
      "The kernels of packed_products that run on this processor, the best one first.");
  m.def("unpack_rows", &unpack_rows, py::arg("segment"), py::arg("stride"), py::arg("rows"),
        py::arg("columns"), py::arg("bits"), py::arg("group"), py::arg("out"), py::arg("dtype"),
        py::arg("out_stride"), py::arg("threads"), py::arg("kernel") = "",
        py::arg("places") = py::none(), py::arg("finer") = 0, py::arg("finer_stride") = 0,
        py::arg("finer_bits") = 0,
        "Write the values of a segment, see packed_products, to an address: float32 or bfloat16, "
        "`out_stride` values from row to row. places: int64 [rows], which rows they are; None: "
        "all. finer: the address of the rows' refinement, of so many bits, one after another.");
  m.def("round_to_integers", &round_to_integers, py::arg("values").noconvert(), py::arg("bits"),
        py::arg("group"), py::arg("shrinks"), py::arg("threads"),
        "float32 [rows, columns], finite -> (int8 [rows, columns], float32 [rows, groups] of "
        "bfloat16's values). Of the scales at which a group's value of largest magnitude becomes "
        "the least integer divided by one of `shrinks`, the one of least squared error.");
  m.def("magnitudes", &magnitudes, py::arg("activations"), py::arg("dtype"), py::arg("stride"),
        py::arg("weights").noconvert(), py::arg("out").noconvert(), py::arg("threads"),
        "Write weights [kinds, tokens] @ |activations| [tokens, rows] to out [kinds, rows]. The "
        "activations are of type `dtype` from an address on, `stride` bytes from token to token.");
  m.def("gather_columns", &gather, py::arg("source"), py::arg("source_stride"), py::arg("width"),
        py::arg("target"), py::arg("target_stride"), py::arg("room"), py::arg("tokens"),
        py::arg("item"), py::arg("rows"),
        "Copy the columns that runs [n, 2] name from a matrix [tokens, width] at one address to "
        "another [tokens, room] at another, one after another; zeros behind them. Strides and "
        "item in bytes. Raises ValueError for runs outside of either.");
  m.def(
      "select_topk", &topk, py::arg("importance"), py::arg("rows"),
      "float32 [N] -> int64 [n, 2] of (first row, rows), ascending, disjoint, not touching. Ties "
      "go to the lower index, NaN counts as -inf.");
  m.def("select_topk_keeping", &topk_keeping, py::arg("importance"), py::arg("kept"),
        "The fewest rows that keep at least `kept` of the summed importance, as select_topk.");
  m.def(
      "select_greedy", &greedy, py::arg("importance"), py::arg("rows"), py::arg("row_bytes"),
      py::arg("latency"), py::arg("min_kib"), py::arg("max_kib"), py::arg("step_kib"),
      py::arg("jump_kib"), py::arg("kept") = std::numeric_limits<double>::infinity(),
      "Algorithm 1 of arXiv 2511.18692: float32 [N], latency float64 [L] in seconds for 1..L KiB "
      "-> int64 [n, 2] of (first row, rows). Equal scores: smaller window first, then lower "
      "row. Ends once `kept` of the summed importance is reached. Raises ValueError.");
  m.def("select_optimal", &optimal, py::arg("importance"), py::arg("target"), py::arg("value"),
        py::arg("cell_rows"), py::arg("run_cost"), py::arg("row_cost"), py::arg("price") = -1,
        "The runs that keep most importance where a run of n rows costs run_cost + n * row_cost: "
        "float32 [N] -> (int64 [n, 2] of (first row, rows), price). target: 'rows' (at most value "
        "rows), 'cost' (at most value) or 'kept' (at least value of the summed importance, as "
        "cheaply as possible). Runs begin and end on multiples of cell_rows. The price of one "
        "call shortens the search of the next. Raises ValueError.");
  m.def("frontier", &optimal_frontier, py::arg("importance"), py::arg("cell_rows"),
        py::arg("run_cost"), py::arg("row_cost"), py::arg("points") = 17,
        "float32 [N] -> float64 [points, 2] of (cost, summed importance kept) of the best "
        "selections from cheap to whole. Raises ValueError.");
  m.def("reading_seconds", &seconds_of, py::arg("runs"), py::arg("row_bytes"), py::arg("block"),
        py::arg("low_request"), py::arg("low_kib"), py::arg("high_request"), py::arg("high_kib"),
        py::arg("knee_kib"),
        "int64 [n, 2] of (first row, rows) -> the seconds a storage profile's two lines give for "
        "reading them, each rounded out to whole blocks. Raises ValueError.");
}

}  // namespace neuron_chunk
