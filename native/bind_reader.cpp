// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "aligned_buffer.hpp"
#include "bindings.hpp"
#include "read_failure.hpp"
#include "reader.hpp"

namespace neuron_chunk {
namespace {

// How long a wait goes on before it looks for Ctrl-C.
constexpr std::chrono::milliseconds kPatience{50};

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

// A method that pybind11 calls with an object, never with None: a reference can't be that.
template <typename Answer, typename Object>
auto asked(Answer (Object::*method)() const) {
  return [method](const Object& object) { return (object.*method)(); };
}

// What may hold a file's name, and so any bytes.
py::str text(const std::string& bytes) {
  PyObject* const made =
      PyUnicode_DecodeFSDefaultAndSize(bytes.data(), static_cast<py::ssize_t>(bytes.size()));
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(made);
}

// The bytes of a file's name: of a str, bytes or os.PathLike. Throws what Python's open would.
std::string file_name(const py::object& path) {
  PyObject* bytes = nullptr;
  if (PyUnicode_FSConverter(path.ptr(), &bytes) == 0) {
    if (PyErr_ExceptionMatches(PyExc_ValueError) == 0) throw py::error_already_set();
    PyErr_Clear();
    throw std::invalid_argument("no file can have the name " + py::repr(path).cast<std::string>());
  }
  return py::reinterpret_steal<py::bytes>(bytes);
}

std::shared_ptr<Reader> open_reader(const std::vector<py::object>& given,
                                    const std::string& backend, const std::string& direct,
                                    int threads, int queue_depth, std::int64_t max_request) {
  std::vector<std::string> paths;
  for (const py::object& path : given) paths.push_back(file_name(path));
  ReaderOptions options;
  options.backend = backend_choice(backend);
  options.direct = direct_mode(direct);
  options.threads = threads;
  options.queue_depth = queue_depth;
  options.max_request = max_request;
  py::gil_scoped_release release;
  return Reader::open(paths, options);
}

// A subclass of OSError with errno, strerror (one whole line), filename and offset.
void raise_read_error(PyObject* type, const ReadFailure& failure) {
  py::object error = py::reinterpret_borrow<py::object>(type)(failure.error, text(failure.what()),
                                                              text(failure.path));
  error.attr("offset") =
      failure.offset < 0 ? py::object(py::none()) : py::object(py::int_(failure.offset));
  PyErr_SetObject(type, error.ptr());
}

}  // namespace

void bind_reader(py::module_& m) {
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
    } catch (const std::invalid_argument& misuse) {
      PyErr_SetObject(PyExc_ValueError, text(misuse.what()).ptr());
    }
  });

  py::class_<AlignedBuffer, std::shared_ptr<AlignedBuffer>>(
      m, "Buffer", py::buffer_protocol(),
      "Page-aligned (2 MiB) reusable memory in huge pages, touched once; numpy.frombuffer(buffer, "
      "'uint8') is a writable view. Raises ValueError and MemoryError.")
      .def(py::init<std::ptrdiff_t, bool>(), py::arg("nbytes"), py::arg("huge_pages") = true)
      .def_property_readonly("nbytes", asked(&AlignedBuffer::nbytes))
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
      .def_property_readonly("ready", asked(&Batch::ready),
                             "Whether wait() would return at once.");

  py::class_<Reader, std::shared_ptr<Reader>>(m, "Reader")
      .def(py::init(&open_reader), py::arg("paths"), py::arg("backend") = "auto",
           py::arg("direct") = "auto", py::arg("threads") = 6, py::arg("queue_depth") = 128,
           py::arg("max_request") = std::int64_t{1} << 20)
      .def_property_readonly("backend", asked(&Reader::backend))
      .def_property_readonly("direct", asked(&Reader::direct))
      .def_property_readonly("block_size", asked(&Reader::block_size))
      .def_property_readonly("notes",
                             [](const Reader& reader) {
                               py::list notes;
                               for (const std::string& note : reader.notes())
                                 notes.append(text(note));
                               return notes;
                             })
      .def(
          "capacity",
          [](Reader& reader, std::int64_t file, const ExtentArray& extents) {
            const ExtentView wanted = view(extents);
            return reader.capacity(file, wanted.data, wanted.count);
          },
          py::arg("file"), py::arg("extents"))
      .def("submit", &submit, py::arg("file"), py::arg("extents"), py::arg("buffer").none(false),
           py::arg("at") = 0)
      .def(
          "read",
          [](Reader& reader, std::int64_t file, const ExtentArray& extents,
             std::shared_ptr<AlignedBuffer> buffer, std::int64_t at) {
            const BatchHolder batch = submit(reader, file, extents, std::move(buffer), at);
            return *wait(*batch, std::nullopt);
          },
          py::arg("file"), py::arg("extents"), py::arg("buffer").none(false), py::arg("at") = 0)
      .def("close",
           [](Reader& reader) {
             py::gil_scoped_release release;
             reader.close();
           })
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](Reader& reader, const py::args&) {
        py::gil_scoped_release release;
        reader.close();
      });

  m.def("io_uring_available", &io_uring_available,
        "Whether this build, kernel and container let a reader use io_uring.");
}

}  // namespace neuron_chunk
