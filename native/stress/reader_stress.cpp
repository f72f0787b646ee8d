// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// Threads that read, drop, fail and close at random, compared with what the file holds. For
// sanitizers: cmake -DNEURON_CHUNK_STRESS=ON -DNEURON_CHUNK_SANITIZE=thread (address,undefined).
// (Not valgrind with io_uring: it holds its one lock while the ring waits. Its threads are fine.)
// Usage: reader_stress FOLDER SECONDS
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "read_failure.hpp"
#include "reader.hpp"

using namespace neuron_chunk;
using Clock = std::chrono::steady_clock;
using Random = std::mt19937_64;

namespace {

constexpr std::int64_t kSize = 3000123;

std::int64_t below(Random& random, std::int64_t bound) {
  return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(bound));
}

std::vector<Extent> some_extents(Random& random) {
  std::vector<Extent> extents(static_cast<std::size_t>(below(random, 40)));
  for (Extent& extent : extents) {
    extent.length = below(random, 40000);
    extent.offset = below(random, kSize - extent.length + 1);
  }
  if (random() % 2 != 0) {
    std::sort(extents.begin(), extents.end(),
              [](const Extent& a, const Extent& b) { return a.offset < b.offset; });
  }
  return extents;
}

bool same(const std::vector<Extent>& extents, const std::vector<unsigned char>& content,
          const std::byte* packed) {
  for (const Extent& extent : extents) {
    const auto length = static_cast<std::size_t>(extent.length);
    if (std::memcmp(packed, content.data() + extent.offset, length) != 0) return false;
    packed += length;
  }
  return true;
}

// In one go, or looking on while it comes: what is said to be in place is.
bool finish(Random& random, Batch& batch, const std::vector<Extent>& extents,
            const std::vector<unsigned char>& content, const std::byte* packed) {
  std::int64_t all = 0;
  for (const Extent& extent : extents) all += extent.length;
  while (random() % 2 != 0 && !batch.ready()) {
    std::int64_t there =
        batch.wait_bytes(1 + below(random, all + 1), std::chrono::milliseconds(5));
    std::vector<Extent> arrived;
    for (Extent extent : extents) {
      extent.length = std::min(extent.length, there);
      there -= extent.length;
      arrived.push_back(extent);
    }
    if (!same(arrived, content, packed)) return false;
  }
  while (!batch.wait_for(std::chrono::milliseconds(50))) {
  }
  batch.result();
  return same(extents, content, packed);
}

// Several batches at a time on one reader; now and then a dropped one and a refused one.
void read_for_a_while(const std::shared_ptr<Reader>& reader, std::uint64_t seed,
                      const std::vector<unsigned char>& content, std::atomic<int>& wrong,
                      std::atomic<long>& reads) {
  Random random(seed);
  constexpr std::int64_t kPart = 4 << 20;
  const auto buffer = std::make_shared<AlignedBuffer>(4 * kPart);
  try {
    for (int turn = 0; turn < 20; ++turn) {
      std::vector<std::vector<Extent>> wanted;
      std::vector<std::unique_ptr<Batch>> batches;
      for (int part = 0; part < 4; ++part) {
        wanted.push_back(some_extents(random));
        batches.push_back(
            reader->submit(0, wanted.back().data(), wanted.back().size(), buffer, part * kPart));
      }
      for (std::size_t part = 0; part < batches.size(); ++part) {
        if (random() % 4 == 0) {
          batches[part].reset();
          continue;
        }
        wrong += !finish(random, *batches[part], wanted[part], content,
                         buffer->data() + static_cast<std::int64_t>(part) * kPart);
        ++reads;
      }
      const std::int64_t needed = reader->capacity(0, wanted[0].data(), wanted[0].size());
      wrong += needed < 0 || needed > kPart;
      const Extent outside{kSize, 1};
      try {
        reader->submit(0, &outside, 1, buffer, 0);
        ++wrong;
      } catch (const ReadFailure&) {
      }
    }
  } catch (const ReadFailure& failure) {
    wrong += std::string(failure.what()).find("closed") == std::string::npos;
  } catch (const std::invalid_argument& refusal) {
    wrong += std::string(refusal.what()).find("closed") == std::string::npos;
  }
}

void round_of(const std::string& path, BackendChoice backend, DirectMode direct, Random& random,
              const std::vector<unsigned char>& content, std::atomic<int>& wrong,
              std::atomic<long>& reads) {
  ReaderOptions options;
  options.backend = backend;
  options.direct = direct;
  options.threads = 3;
  options.queue_depth = 7;
  options.max_request = 1 << (13 + random() % 6);
  auto reader = std::make_shared<Reader>(std::vector<std::string>{path}, options);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back(
        [&, seed = random()] { read_for_a_while(reader, seed, content, wrong, reads); });
  }
  if (random() % 3 == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 30));
    threads.emplace_back([&] { reader->close(); });
    reader->close();
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: reader_stress FOLDER SECONDS\n");
    return 2;
  }
  const std::string path = std::string(argv[1]) + "/reader_stress.bin";
  Random random(1);
  std::vector<unsigned char> content(kSize);
  for (unsigned char& byte : content) byte = static_cast<unsigned char>(random());
  std::FILE* const file = std::fopen(path.c_str(), "wb");
  if (file == nullptr || std::fwrite(content.data(), 1, content.size(), file) != content.size() ||
      std::fclose(file) != 0) {
    std::perror(path.c_str());
    return 2;
  }

  std::atomic<int> wrong{0};
  std::atomic<long> reads{0};
  const auto stop = Clock::now() + std::chrono::seconds(std::atoi(argv[2]));
  while (Clock::now() < stop) {
    for (const BackendChoice backend : {BackendChoice::kAuto, BackendChoice::kThreads}) {
      for (const DirectMode direct : {DirectMode::kAuto, DirectMode::kOff}) {
        round_of(path, backend, direct, random, content, wrong, reads);
      }
    }
  }
  std::remove(path.c_str());
  std::printf("reader_stress: %ld batches compared, %d wrong\n", reads.load(), wrong.load());
  return wrong.load() == 0 ? 0 : 1;
}
