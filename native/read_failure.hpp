// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// What went wrong with a file, in the form the Python side shows it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace neuron_chunk {

// `what()` is one line naming the path and the reason; `offset` is -1 where none applies.
class ReadFailure : public std::runtime_error {
 public:
  ReadFailure(int error, std::string path, std::int64_t offset, const std::string& message)
      : std::runtime_error(message), error(error), path(std::move(path)), offset(offset) {}

  int error;
  std::string path;
  std::int64_t offset;
};

// Thread-safe, unlike strerror.
inline std::string errno_text(int error) {
  return std::generic_category().message(error);
}

}  // namespace neuron_chunk
