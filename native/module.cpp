// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// The Python face of the native code: `neuron_chunk_ros._native`.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "aligned_buffer.hpp"
#include "importance.hpp"
#include "optimal_selection.hpp"
#include "packed_rows.hpp"
#include "read_failure.hpp"
#include "reader.hpp"
#include "row_products.hpp"
#include "selection.hpp"

namespace py = pybind11;
using namespace neuron_chunk;

namespace {

// How long a wait goes on before it looks for Ctrl-C.
constexpr std::chrono::milliseconds kPatience{50};

using ExtentArray = py::array_t<std::int64_t, py::array::c_style>;
using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;
using DoubleArray = py::array_t<double, py::array::c_style | py::array::forcecast>;

struct ExtentView {
  const Extent* data;
  std::size_t count;
};

ExtentView view(const ExtentArray& extents) {
  static_assert(sizeof(Extent) == 2 * sizeof(std::int64_t), "an extent is a row of the array");
  if (extents.size() == 0) return {nullptr, 0};
  if (extents.ndim() != 2 || extents.shape(1) != 2) {
    throw std::invalid_argument("extents must be an array of shape [n, 2]: offset, length");
  }
  return {reinterpret_cast<const Extent*>(extents.data()),
          static_cast<std::size_t>(extents.shape(0))};
}

// Deleted without the GIL: taking a batch back may have to wait for the device.
struct DeleteWithoutGil {
  template <typename T>
  void operator()(T* object) const {
    py::gil_scoped_release release;
    delete object;
  }
};
using BatchHolder = std::unique_ptr<Batch, DeleteWithoutGil>;

BatchHolder submit(Reader& reader, std::int64_t file, const ExtentArray& extents,
                   std::shared_ptr<AlignedBuffer> buffer, std::int64_t at) {
  const ExtentView wanted = view(extents);
  py::gil_scoped_release release;
  return BatchHolder(
      reader.submit(file, wanted.data, wanted.count, std::move(buffer), at).release());
}

// Nothing where the batch is not complete after `timeout` seconds; without one, waits for good.
std::int64_t wait_bytes(Batch& batch, std::int64_t bytes, double timeout) {
  const double most = std::chrono::duration<double>(kPatience).count();
  const double seconds = timeout > 0 ? std::min(timeout, most) : 0.0;
  std::int64_t there = 0;
  {
    py::gil_scoped_release release;
    there = batch.wait_bytes(bytes, std::chrono::ceil<std::chrono::milliseconds>(
                                        std::chrono::duration<double>(seconds)));
  }
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  return there;
}

std::optional<ReadStats> wait(Batch& batch, std::optional<double> timeout) {
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;
  const Clock::time_point begun = Clock::now();
  for (;;) {
    std::chrono::milliseconds patience = kPatience;
    bool last = false;
    if (timeout) {
      const double left = *timeout - Seconds(Clock::now() - begun).count();
      // Also where the timeout is not a number.
      last = !(left > Seconds(kPatience).count());
      if (last) {
        patience = left > 0 ? std::chrono::ceil<std::chrono::milliseconds>(Seconds(left))
                            : std::chrono::milliseconds{0};
      }
    }
    {
      py::gil_scoped_release release;
      if (batch.wait_for(patience)) break;
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (last) return std::nullopt;
  }
  return batch.result();
}

BackendChoice backend_choice(const std::string& name) {
  if (name == "auto") return BackendChoice::kAuto;
  if (name == "io_uring") return BackendChoice::kIoUring;
  if (name == "threads") return BackendChoice::kThreads;
  throw std::invalid_argument("backend must be 'auto', 'io_uring' or 'threads', not '" + name +
                              "'");
}

DirectMode direct_mode(const std::string& name) {
  if (name == "auto") return DirectMode::kAuto;
  if (name == "on") return DirectMode::kOn;
  if (name == "off") return DirectMode::kOff;
  throw std::invalid_argument("direct must be 'auto', 'on' or 'off', not '" + name + "'");
}

std::shared_ptr<Reader> open_reader(const std::vector<std::string>& paths,
                                    const std::string& backend, const std::string& direct,
                                    int threads, int queue_depth, std::int64_t max_request) {
  ReaderOptions options;
  options.backend = backend_choice(backend);
  options.direct = direct_mode(direct);
  options.threads = threads;
  options.queue_depth = queue_depth;
  options.max_request = max_request;
  py::gil_scoped_release release;
  return Reader::open(paths, options);
}

py::array_t<std::int64_t> to_array(const std::vector<Interval>& intervals) {
  static_assert(sizeof(Interval) == 2 * sizeof(std::int64_t), "a row of the array");
  py::array_t<std::int64_t> array({static_cast<py::ssize_t>(intervals.size()), py::ssize_t{2}});
  std::copy(intervals.begin(), intervals.end(), reinterpret_cast<Interval*>(array.mutable_data()));
  return array;
}

void expect_vector(const py::array& array, const char* name) {
  if (array.ndim() != 1) throw std::invalid_argument(std::string(name) + " must be 1-D");
}

py::array_t<std::int64_t> topk(const FloatArray& importance, std::int64_t rows) {
  expect_vector(importance, "importance");
  const float* const data = importance.data();
  const auto count = static_cast<std::size_t>(importance.size());
  std::vector<Interval> chosen;
  {
    py::gil_scoped_release release;
    chosen = select_topk(data, count, rows);
  }
  return to_array(chosen);
}

py::array_t<std::int64_t> topk_keeping(const FloatArray& importance, double kept) {
  expect_vector(importance, "importance");
  const float* const data = importance.data();
  const auto count = static_cast<std::size_t>(importance.size());
  std::vector<Interval> chosen;
  {
    py::gil_scoped_release release;
    chosen = select_topk_keeping(data, count, kept);
  }
  return to_array(chosen);
}

py::array_t<std::int64_t> greedy(const FloatArray& importance, std::int64_t rows,
                                 std::int64_t row_bytes, const DoubleArray& latency,
                                 double min_kib, double max_kib, double step_kib, double jump_kib,
                                 double kept) {
  expect_vector(importance, "importance");
  expect_vector(latency, "latency");
  const GreedyOptions options{row_bytes,
                              min_kib,
                              max_kib,
                              step_kib,
                              jump_kib,
                              latency.data(),
                              static_cast<std::size_t>(latency.size())};
  const float* const data = importance.data();
  const auto count = static_cast<std::size_t>(importance.size());
  std::vector<Interval> chosen;
  {
    py::gil_scoped_release release;
    chosen = select_greedy(data, count, rows, options, kept);
  }
  return to_array(chosen);
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

// A subclass of OSError with errno, strerror (one whole line), filename and offset.
void raise_read_error(PyObject* type, const ReadFailure& failure) {
  py::object error =
      py::reinterpret_borrow<py::object>(type)(failure.error, failure.what(), failure.path);
  error.attr("offset") =
      failure.offset < 0 ? py::object(py::none()) : py::object(py::int_(failure.offset));
  PyErr_SetObject(type, error.ptr());
}

RowType row_type(const std::string& name) {
  if (name == "bfloat16") return RowType::kBfloat16;
  if (name == "float16") return RowType::kFloat16;
  if (name == "float32") return RowType::kFloat32;
  throw std::invalid_argument("dtype must be 'bfloat16', 'float16' or 'float32', not '" + name +
                              "'");
}

using Floats = py::array_t<float, py::array::c_style>;

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
  product.inputs = inputs.data();
  product.weights = reinterpret_cast<const void*>(weights);
  product.out = out.mutable_data();  // throws where it may not be written
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
  if (bits != 4 && bits != 8) throw std::invalid_argument("bits must be 4 or 8");
  if (group < 32 || group % 32 != 0) throw std::invalid_argument("group must be a multiple of 32");
  const std::int64_t nbytes =
      (columns + 31) / 32 * 32 * bits / 8 + 2 * ((columns + group - 1) / group);
  if (stride < nbytes) throw std::invalid_argument("the stride is shorter than a row");
  return {reinterpret_cast<const std::uint8_t*>(data), stride, rows, columns, group, bits};
}

void packed_products(const Floats& inputs, std::uintptr_t data, std::int64_t stride,
                     std::int64_t columns, int bits, std::int64_t group, Floats& out,
                     std::int64_t first, int threads) {
  if (inputs.ndim() != 2 || out.ndim() != 2 || inputs.shape(0) != out.shape(0)) {
    throw std::invalid_argument("inputs must be of shape [tokens, rows], out [tokens, columns]");
  }
  if (inputs.shape(0) < 1 || inputs.shape(0) > 64) {
    throw std::invalid_argument("there must be 1 to 64 tokens");
  }
  const Segment segment = segment_of(data, stride, inputs.shape(1), columns, bits, group);
  if (first < 0 || first > out.shape(1) - columns) {
    throw std::invalid_argument("the segment's columns don't fit out");
  }
  if (threads < 1) throw std::invalid_argument("threads must be at least 1");
  float* const sums = out.mutable_data() + first;  // throws where it may not be written
  const float* const values = inputs.data();
  const std::int64_t tokens = inputs.shape(0), out_stride = out.shape(1);
  py::gil_scoped_release release;
  add_packed_product(segment, values, tokens, sums, out_stride, threads);
}

void unpack_rows(std::uintptr_t data, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                 int bits, std::int64_t group, std::uintptr_t out, const std::string& dtype,
                 std::int64_t out_stride, int threads) {
  const Segment segment = segment_of(data, stride, rows, columns, bits, group);
  const RowType type = row_type(dtype);
  if (type == RowType::kFloat16) throw std::invalid_argument("rows are not unpacked to float16");
  const std::uintptr_t item = type == RowType::kFloat32 ? 4 : 2;
  if (out == 0 || out % item != 0 || out_stride < columns) {
    throw std::invalid_argument("out must be the aligned address of a matrix");
  }
  if (threads < 1) throw std::invalid_argument("threads must be at least 1");
  py::gil_scoped_release release;
  if (type == RowType::kFloat32) {
    unpack_float32(segment, reinterpret_cast<float*>(out), out_stride, threads);
  } else {
    unpack_bfloat16(segment, reinterpret_cast<std::uint16_t*>(out), out_stride, threads);
  }
}

py::tuple round_to_integers(const Floats& values, int bits, std::int64_t group,
                            const DoubleArray& shrinks, int threads) {
  if (values.ndim() != 2) throw std::invalid_argument("values must be of shape [rows, columns]");
  if (bits != 4 && bits != 8) throw std::invalid_argument("bits must be 4 or 8");
  if (group < 1) throw std::invalid_argument("group must be positive");
  if (threads < 1) throw std::invalid_argument("threads must be at least 1");
  expect_vector(shrinks, "shrinks");
  const py::ssize_t rows = values.shape(0), columns = values.shape(1);
  const py::ssize_t groups = (columns + group - 1) / group;
  py::array_t<std::int8_t> integers({rows, columns});
  py::array_t<float> scales({rows, groups});
  const Rounding rounding{values.data(),
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
  if (threads < 1) throw std::invalid_argument("threads must be at least 1");
  float* const sums = out.mutable_data();  // throws where it may not be written
  const float* const wanted = weights.data();
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
  std::int64_t left = room;
  for (std::size_t i = 0; i < wanted.count; ++i) {
    const Run run = runs[i];
    if (run.count < 0 || run.first < 0 || run.count > width || run.first > width - run.count) {
      throw std::invalid_argument("a run is outside of the inputs");
    }
    if ((left -= run.count) < 0) throw std::invalid_argument("the runs don't fit the room");
  }
  if (tokens == 0 || room == 0) return;
  if (source == 0 || target == 0 || tokens < 0 || item < 1 || source_stride < 0 ||
      target_stride < room * item) {
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

PYBIND11_MODULE(_native, m) {
  m.doc() = "Aligned buffers, flash readers and row selection.";

  static PyObject* read_error =
      PyErr_NewExceptionWithDoc("neuron_chunk_ros._native.ReadError",
                                "A file can't be opened or read: errno, strerror, filename and "
                                "offset (None where no offset applies).",
                                PyExc_OSError, nullptr);
  if (read_error == nullptr) throw py::error_already_set();
  m.attr("ReadError") = py::reinterpret_borrow<py::object>(read_error);
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ReadFailure& failure) {
      raise_read_error(read_error, failure);
    }
  });

  py::class_<AlignedBuffer, std::shared_ptr<AlignedBuffer>>(
      m, "Buffer", py::buffer_protocol(),
      "Page-aligned (2 MiB) reusable memory in huge pages, touched once; numpy.frombuffer(buffer, "
      "'uint8') is a writable view. Raises ValueError and MemoryError.")
      .def(py::init<std::ptrdiff_t, bool>(), py::arg("nbytes"), py::arg("huge_pages") = true)
      .def_property_readonly("nbytes", &AlignedBuffer::nbytes)
      .def_buffer([](AlignedBuffer& buffer) {
        return py::buffer_info(reinterpret_cast<std::uint8_t*>(buffer.data()), buffer.nbytes());
      });

  py::class_<ReadStats>(m, "ReadStats", "What a batch moved.")
      .def_readonly("bytes_wanted", &ReadStats::bytes_wanted, "Sum of the extents' lengths.")
      .def_readonly("bytes_read", &ReadStats::bytes_read, "Moved from the device, slack included.")
      .def_readonly("requests", &ReadStats::requests, "Reads the device was asked for.")
      .def_readonly("seconds", &ReadStats::seconds, "From submission to the last byte in place.")
      .def("__repr__", [](const ReadStats& stats) {
        return "ReadStats(bytes_wanted=" + std::to_string(stats.bytes_wanted) +
               ", bytes_read=" + std::to_string(stats.bytes_read) +
               ", requests=" + std::to_string(stats.requests) +
               ", seconds=" + std::to_string(stats.seconds) + ")";
      });

  py::class_<Batch, BatchHolder>(
      m, "Batch", "Extents on their way into a buffer; dropping it takes the rest back.")
      .def("wait", &wait, py::arg("timeout") = py::none(),
           "Returns ReadStats once the extents lie packed in the buffer, or None after `timeout` "
           "seconds. Raises ReadError.")
      .def("wait_bytes", &wait_bytes, py::arg("bytes"), py::arg("timeout"),
           "Returns how many bytes are in place, in the extents' order, after at most `timeout` "
           "(and 0.05) seconds or once there are `bytes`. Fewer where `ready`: wait() says why.")
      .def_property_readonly("ready", &Batch::ready, "Whether wait() would return at once.");

  py::class_<Reader, std::shared_ptr<Reader>>(m, "Reader")
      .def(py::init(&open_reader), py::arg("paths"), py::arg("backend") = "auto",
           py::arg("direct") = "auto", py::arg("threads") = 6, py::arg("queue_depth") = 128,
           py::arg("max_request") = std::int64_t{1} << 20)
      .def_property_readonly("backend", &Reader::backend)
      .def_property_readonly("direct", &Reader::direct)
      .def_property_readonly("block_size", &Reader::block_size)
      .def_property_readonly("notes", &Reader::notes)
      .def(
          "capacity",
          [](Reader& reader, std::int64_t file, const ExtentArray& extents) {
            const ExtentView wanted = view(extents);
            return reader.capacity(file, wanted.data, wanted.count);
          },
          py::arg("file"), py::arg("extents"))
      .def("submit", &submit, py::arg("file"), py::arg("extents"), py::arg("buffer"),
           py::arg("at") = 0)
      .def(
          "read",
          [](Reader& reader, std::int64_t file, const ExtentArray& extents,
             std::shared_ptr<AlignedBuffer> buffer, std::int64_t at) {
            const BatchHolder batch = submit(reader, file, extents, std::move(buffer), at);
            return *wait(*batch, std::nullopt);
          },
          py::arg("file"), py::arg("extents"), py::arg("buffer"), py::arg("at") = 0)
      .def("close", &Reader::close, py::call_guard<py::gil_scoped_release>())
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](Reader& reader, const py::args&) {
        py::gil_scoped_release release;
        reader.close();
      });

  m.def("row_products", &row_products, py::arg("inputs").noconvert(), py::arg("weights"),
        py::arg("dtype"), py::arg("count"), py::arg("columns"), py::arg("out").noconvert(),
        py::arg("threads"),
        "Add inputs [tokens, count] @ W to out [tokens, columns], all float32. W is `count` rows "
        "of `columns` values of type `dtype` from the address `weights` on.");
  m.def(
      "packed_products", &packed_products, py::arg("inputs").noconvert(), py::arg("segment"),
      py::arg("stride"), py::arg("columns"), py::arg("bits"), py::arg("group"),
      py::arg("out").noconvert(), py::arg("first"), py::arg("threads"),
      "Add inputs [tokens, rows] @ W to the columns of out [tokens, n] from `first` on. W is a "
      "segment of packed rows (storage/packed_rows.py) that begins at an address, `stride` bytes "
      "from row to row, of `columns` integers of `bits` bits, one scale for `group` of them.");
  m.def("unpack_rows", &unpack_rows, py::arg("segment"), py::arg("stride"), py::arg("rows"),
        py::arg("columns"), py::arg("bits"), py::arg("group"), py::arg("out"), py::arg("dtype"),
        py::arg("out_stride"), py::arg("threads"),
        "Write the values of a segment, see packed_products, to an address: float32 or bfloat16, "
        "`out_stride` values from row to row.");
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
  m.def("io_uring_available", &io_uring_available,
        "Whether this build, kernel and container let a reader use io_uring.");
}
