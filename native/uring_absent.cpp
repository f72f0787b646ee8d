// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// Stands in for uring_backend.cpp where the build found no liburing.
#include <cerrno>

#include "backend.hpp"

namespace neuron_chunk {

std::unique_ptr<Backend> make_uring_backend(JobQueue&, const BackendOptions&) {
  throw BackendUnavailable(ENOSYS, "built without liburing");
}

}  // namespace neuron_chunk
