// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// The files a reader reads: opened once, with direct I/O where the file system has it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace neuron_chunk {

enum class DirectMode { kAuto, kOn, kOff };

// A regular file, open for reading until this is destroyed.
class SourceFile {
 public:
  // `direct` asks for O_DIRECT; direct() tells whether the file system took it. Throws
  // ReadFailure.
  SourceFile(const std::string& path, bool direct);
  ~SourceFile();
  SourceFile(SourceFile&& other) noexcept;
  SourceFile& operator=(SourceFile&&) = delete;

  const std::string& path() const { return path_; }
  int fd() const { return fd_; }
  // Bytes when it was opened.
  std::int64_t size() const { return size_; }
  bool direct() const { return direct_; }
  void close();

 private:
  std::string path_;
  int fd_ = -1;
  std::int64_t size_ = 0;
  bool direct_ = false;
};

struct FileSet {
  std::vector<SourceFile> files;
  bool direct = false;
  // What offsets, lengths and addresses of a request must be multiples of; 1 when buffered.
  std::int64_t block = 1;
  // Why direct I/O is not used although it was wished for; empty otherwise.
  std::string note;
};

// All of the files directly, or all buffered: one block size and one statement for the reader.
// Throws ReadFailure when a file can't be opened, or mode is kOn and one refuses direct I/O.
FileSet open_files(const std::vector<std::string>& paths, DirectMode mode);

}  // namespace neuron_chunk
