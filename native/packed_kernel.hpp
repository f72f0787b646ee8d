// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// Products of few tokens with packed rows, and what the rows stand for. Compiled once for each
// generation of processors, by the packed_kernel_*.cpp, with what that one's vectors are; so
// everything here is of its file alone.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "packed_rows.hpp"

namespace neuron_chunk {
namespace {

constexpr std::int64_t kBlock = 32;    // columns; the unit in which integers are laid out
constexpr std::int64_t kRows = 16;     // added in one go: their sum is loaded and stored once
constexpr std::int64_t kFactors = 16;  // prepared together, one for each unit of columns
// Tokens whose sums fit the registers: what rows stand for is then made once for them.
#if defined(__AVX512F__)
constexpr int kTokensAtOnce = 8;
constexpr int kLanes = 16;
constexpr std::int64_t kSumsHeld = 16;
#elif defined(__AVX2__)
constexpr int kTokensAtOnce = 4;
constexpr int kLanes = 8;
constexpr std::int64_t kSumsHeld = 8;
#else
constexpr int kTokensAtOnce = 4;
constexpr int kLanes = 4;
constexpr std::int64_t kSumsHeld = 16;
#endif
constexpr int kParts = kBlock / kLanes;  // vectors in a block
#if defined(NEURON_CHUNK_FEW_KERNELS)
// For sanitizers, which would take minutes to compile them all: two blocks at a time or one.
constexpr int kMostTokens = 2;
constexpr std::int64_t kRegisters = 2 * kParts;
#else
constexpr int kMostTokens = kTokensAtOnce;
constexpr std::int64_t kRegisters = kSumsHeld;  // for sums
#endif

using Floats [[gnu::vector_size(kLanes * sizeof(float))]] = float;

struct Wide {
  Floats part[kParts];
};

struct Sums {
  Floats of[8];
};

// A loop that is no loop from the start: GCC keeps arrays in registers only where every index is a
// number before loops are unrolled.
template <typename Body, int... kNumbers>
[[gnu::always_inline]] inline void each_of(Body body, std::integer_sequence<int, kNumbers...>) {
  (body(std::integral_constant<int, kNumbers>{}), ...);
}

template <int kCount, typename Body>
[[gnu::always_inline]] inline void each(Body body) {
  each_of(body, std::make_integer_sequence<int, kCount>{});
}

template <typename Vector, typename Value>
[[gnu::always_inline]] inline Vector load(const Value* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

[[gnu::always_inline]] inline float widened(std::uint16_t bits) {
  const std::uint32_t whole = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &whole, sizeof value);
  return value;
}

// The integers of a block of 32 columns. Compilers widen signed bytes one by one where they aren't
// told.
template <int kBits>
[[gnu::always_inline]] inline Wide usual_integers_of(const std::uint8_t* block) {
  Wide wide;
#if defined(__AVX512F__)
  if constexpr (kBits == 8) {
    for (int i = 0; i < kParts; ++i) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block) + i);
      wide.part[i] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    }
  } else {
    // By table: only the lowest four bits of an index count.
    const __m512 table = _mm512_set_ps(7, 6, 5, 4, 3, 2, 1, 0, -1, -2, -3, -4, -5, -6, -7, -8);
    const __m512i both =
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block)));
    wide.part[0] = _mm512_permutexvar_ps(both, table);
    wide.part[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(both, 4), table);
  }
#elif defined(__AVX2__)
  if constexpr (kBits == 8) {
    for (int i = 0; i < kParts; ++i) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block + i * kLanes));
      wide.part[i] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    }
  } else {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block));
    const __m128i nibble = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
    const __m128i low = _mm_sub_epi8(_mm_and_si128(bytes, nibble), eight);
    const __m128i high = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(bytes, 4), nibble), eight);
    wide.part[0] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low));
    wide.part[1] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(low, 8)));
    wide.part[2] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high));
    wide.part[3] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(high, 8)));
  }
#else
  using Bytes [[gnu::vector_size(kLanes)]] = std::int8_t;
  using Integers [[gnu::vector_size(kLanes * sizeof(std::int32_t))]] = std::int32_t;
  for (int i = 0; i < kParts; ++i) {
    if constexpr (kBits == 8) {
      wide.part[i] = __builtin_convertvector(
          __builtin_convertvector(load<Bytes>(block + i * kLanes), Integers), Floats);
    } else {
      // The lower halves of 16 bytes first, then the higher ones.
      const auto bytes = load<Bytes>(block + i % (kParts / 2) * kLanes);
      const Integers both = __builtin_convertvector(bytes, Integers);
      const Integers one = (i < kParts / 2 ? both : both >> 4) & 15;
      wide.part[i] = __builtin_convertvector(one - 8, Floats);
    }
  }
#endif
  return wide;
}

using Signed [[gnu::vector_size(kLanes * sizeof(std::int32_t))]] = std::int32_t;

// Integers of any number of bits are planes of 4, 2 and 1 bits, the highest first: byte k of a
// block's plane of w bits has those of the channels k, k + 4 w, k + 8 w ... . Bytes of one plane,
// from the first on, as often as they are needed.
template <int kWidth>
[[gnu::always_inline]] inline Signed bytes_of(const std::uint8_t* from) {
#if defined(__AVX512F__)
  if constexpr (kWidth == 4) {
    return reinterpret_cast<Signed>(
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  } else if constexpr (kWidth == 2) {
    return reinterpret_cast<Signed>(
        _mm512_cvtepu8_epi32(_mm_set1_epi64x(load<std::int64_t>(from))));
  } else {
    return reinterpret_cast<Signed>(
        _mm512_cvtepu8_epi32(_mm_set1_epi32(load<std::int32_t>(from))));
  }
#elif defined(__AVX2__)
  if constexpr (kWidth == 1) {
    return reinterpret_cast<Signed>(
        _mm256_cvtepu8_epi32(_mm_set1_epi32(load<std::int32_t>(from))));
  } else {
    return reinterpret_cast<Signed>(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  }
#else
  using Bytes [[gnu::vector_size(kLanes)]] = std::uint8_t;
  return __builtin_convertvector(load<Bytes>(from), Signed);
#endif
}

// Part kPart of a block's plane.
template <int kWidth, int kPart>
[[gnu::always_inline]] inline Signed plane_of(const std::uint8_t* plane) {
  constexpr int kBytes = 4 * kWidth, kFirst = kPart * kLanes;
  Signed shift;
  for (int l = 0; l < kLanes; ++l) shift[l] = kWidth * ((kFirst + l) / kBytes);
  const Signed bytes = bytes_of<kWidth>(plane + (kLanes < kBytes ? kFirst % kBytes : 0));
  return (bytes >> shift) & ((1 << kWidth) - 1);
}

template <int kBits>
[[gnu::always_inline]] inline Wide integers_of(const std::uint8_t* block) {
  if constexpr (kBits == 4 || kBits == 8) return usual_integers_of<kBits>(block);
  Wide wide;
  each<kParts>([&](auto number) __attribute__((always_inline)) {
    constexpr int i = number;
    Signed code = {};
    const std::uint8_t* plane = block;
    if constexpr ((kBits & 4) != 0) {
      code = plane_of<4, i>(plane);
      plane += 16;
    }
    if constexpr ((kBits & 2) != 0) {
      code = (code << 2) | plane_of<2, i>(plane);
      plane += 8;
    }
    if constexpr ((kBits & 1) != 0) code = (code << 1) | plane_of<1, i>(plane);
    wide.part[i] = __builtin_convertvector(code - (1 << (kBits - 1)), Floats);
  });
  return wide;
}

// Which columns of which segment, for which tokens.
struct Part {
  const Segment& segment;
  const Segment* finer;  // the rows' refinement, where they are multiplied with it
  const float* inputs;   // of the first token; the next one's are `rows` further
  float* out;
  std::int64_t out_stride;
};

// Some rows at a time, so that each is read from front to back and drives and caches see it
// coming.
struct Rows {
  const std::uint8_t* row[kRows];
  const std::uint8_t* low[kRows];  // of their refinement
  // What each unit's integers are worth, for one token times its input; [row][unit].
  alignas(64) float factor[kRows][kFactors];
};

#if !defined(__AVX512F__)
// Copies `count` numbers; without a call where there are as many as there mostly are.
[[gnu::always_inline]] inline void copy_scales(std::uint16_t* to, const std::uint8_t* from,
                                               std::int64_t count) {
  switch (count) {
    case 1:
      std::memcpy(to, from, 2);
      break;
    case 2:
      std::memcpy(to, from, 4);
      break;
    case 4:
      std::memcpy(to, from, 8);
      break;
    case 8:
      std::memcpy(to, from, 16);
      break;
    case 16:
      std::memcpy(to, from, 32);
      break;
    default:
      std::memcpy(to, from, static_cast<std::size_t>(2 * count));
      break;
  }
}
#endif

// The factors of the units of kUnit columns [unit, unit + count) of rows from `first` on; behind
// the last row that row again, times nothing. kOwn: times the one token's input.
template <int kUnit, bool kOwn>
[[gnu::always_inline]] inline void prepare(const Part& part, std::int64_t first, std::int64_t unit,
                                           std::int64_t count, Rows& rows) {
  const Segment& segment = part.segment;
  const std::int64_t group = segment.group / kUnit;  // in units
  const std::int64_t begin = unit / group;           // the first scale
  // The last unit may lie behind the columns, where there is no scale.
  const std::int64_t last = (segment.columns - 1) / segment.group;
  const std::int64_t scales =
      ((unit + count - 1) / group < last ? (unit + count - 1) / group : last) - begin + 1;
  alignas(64) std::int32_t place[kFactors];  // of each unit's scale among these
  for (int u = 0; u < kFactors; ++u) {
    const std::int64_t at = (unit + u) / group - begin;
    place[u] = static_cast<std::int32_t>(at < scales ? at : 0);
  }
#if defined(__AVX512F__)
  const std::uint32_t lanes = (1U << scales) - 1;
#endif
  for (std::int64_t r = 0; r < kRows; ++r) {
    const bool there = first + r < segment.rows;
    const std::int64_t at = there ? first + r : segment.rows - 1;
    rows.row[r] = segment.row(at);
    if (part.finer != nullptr) rows.low[r] = part.finer->row(at);
    const float x = segment.unit * (!there ? 0.0F : kOwn ? part.inputs[at] : 1.0F);
    const std::uint8_t* const from = segment.scales_of(at) + 2 * begin;
    float* const factor = rows.factor[r];
#if defined(__AVX512F__)
    const __m256i narrow = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(lanes), from);
    const __m512 wide = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
    const __m512 times = _mm512_mul_ps(wide, _mm512_set1_ps(x));
    _mm512_store_ps(factor,
                    group == 1 ? times : _mm512_permutexvar_ps(_mm512_load_si512(place), times));
#else
    alignas(32) std::uint16_t bits[kFactors] = {};
    copy_scales(bits, from, scales);
    if (group == 1) {
      for (int u = 0; u < kFactors; ++u) factor[u] = x * widened(bits[u]);
    } else {
      for (int u = 0; u < kFactors; ++u) factor[u] = x * widened(bits[place[u]]);
    }
#endif
  }
}

// kBlocks blocks of kRows rows, for kTokens tokens; `at` is the number of their first factor.
// kFine: bits of the rows' refinement, 0 for none.
template <int kBits, int kFine, int kTokens, int kBlocks, int kUnit, bool kOwn>
[[gnu::always_inline]] inline void add_tile(const Part& part, const Rows& rows, std::int64_t first,
                                            std::int64_t block, std::int64_t at) {
  constexpr std::int64_t kBytes = kBlock * kBits / 8, kLow = kBlock * kFine / 8;
  const std::int64_t columns = part.segment.columns;
  const std::int64_t width = columns - block * kBlock;  // of the tile, if it is the last one
  const std::int64_t more = part.segment.rows - first;
  Floats sum[kTokens * kBlocks * kParts];  // by token, block, part
  // What follows is told to be inlined: its indices are numbers then.
#define NEURON_CHUNK_INLINED [&](auto number) __attribute__((always_inline))
  each<kTokens * kBlocks * kParts>(NEURON_CHUNK_INLINED { sum[number] = Floats{}; });
  for (std::int64_t r = 0; r < kRows; ++r) {
    const std::uint8_t* const row = rows.row[r] + block * kBytes;
    // The next rows', into the second cache: no processor sees by itself what comes next of many.
    const std::uint8_t* const next = row + kRows * part.segment.stride;
    for (std::int64_t line = 0; line < kBlocks * kBytes; line += 64) {
      __builtin_prefetch(next + line, 0, 2);
    }
    const std::uint8_t* low_row = nullptr;
    if constexpr (kFine != 0) {
      low_row = rows.low[r] + block * kLow;
      __builtin_prefetch(low_row + kRows * part.finer->stride, 0, 2);
    }
    each<kBlocks>(NEURON_CHUNK_INLINED {
      constexpr int b = number;
      const float* const scales = rows.factor[r] + at + b * kBlock / kUnit;
      const float low = scales[0], high = scales[kBlock / kUnit - 1];  // of a block's halves
      Wide wide = integers_of<kBits>(row + b * kBytes);
      if constexpr (kFine != 0) {
        const Wide fine = integers_of<kFine>(low_row + b * kLow);
        each<kParts>(NEURON_CHUNK_INLINED {
          wide.part[number] =
              wide.part[number] * static_cast<float>(1 << kFine) + fine.part[number];
        });
      }
      each<kParts>(NEURON_CHUNK_INLINED {
        constexpr int i = number;
        const float scale = i * kLanes < kBlock / 2 ? low : high;
        if constexpr (kOwn) {
          sum[b * kParts + i] += scale * wide.part[i];
        } else {
          const Floats scaled = scale * wide.part[i];
          each<kTokens>(NEURON_CHUNK_INLINED {
            constexpr int t = number;
            const float x = r < more ? part.inputs[t * part.segment.rows + first + r] : 0.0F;
            sum[(t * kBlocks + b) * kParts + i] += x * scaled;
          });
        }
      });
    });
  }
  each<kTokens * kBlocks>(NEURON_CHUNK_INLINED {
    constexpr int t = number / kBlocks, b = number % kBlocks;
    float* const out = part.out + t * part.out_stride + (block + b) * kBlock;
    if (width >= (b + 1) * kBlock) {
      each<kParts>(NEURON_CHUNK_INLINED {
        const Floats whole =
            load<Floats>(out + number * kLanes) + sum[(t * kBlocks + b) * kParts + number];
        std::memcpy(out + number * kLanes, &whole, sizeof whole);
      });
    } else {
      float rest[kBlock];
      each<kParts>(NEURON_CHUNK_INLINED {
        const Floats one = sum[(t * kBlocks + b) * kParts + number];
        std::memcpy(rest + number * kLanes, &one, sizeof one);
      });
      for (std::int64_t c = 0; c < width - b * kBlock; ++c) out[c] += rest[c];
    }
  });
#undef NEURON_CHUNK_INLINED
}

#if !defined(__AVX512F__)
// Four bits a time: as many blocks as fill a vector with whole words of eight integers. A word's
// integer j is channel 4 * (the word's number in its block) + j / 2, of the block's second half
// where j is odd. They are added up as they lie, at a cost of three operations a vector, and find
// their places at the end.
constexpr std::int64_t kSpan = kLanes / 4;  // blocks
using Words [[gnu::vector_size(kLanes * sizeof(std::uint32_t))]] = std::uint32_t;

// Each block's factor for the words of that block.
template <int kUnit>
[[gnu::always_inline]] inline Floats spread(const float* factors) {
  if constexpr (kSpan == 1) return factors[0] - Floats{};
#if defined(__AVX2__)
  return _mm256_set_m128(_mm_broadcast_ss(factors + kBlock / kUnit), _mm_broadcast_ss(factors));
#endif
}

// kRows rows of one span of blocks, for one token.
template <int kUnit>
[[gnu::always_inline]] inline void add_span(const Part& part, const Rows& rows, std::int64_t block,
                                            std::int64_t at, Sums& sums) {
  constexpr int kHalves = kBlock / kUnit;  // of a block, where these have scales of their own
  Floats sum[8];
#define NEURON_CHUNK_INLINED [&](auto number) __attribute__((always_inline))
  each<8>(NEURON_CHUNK_INLINED { sum[number] = Floats{}; });
  for (std::int64_t r = 0; r < kRows; ++r) {
    const std::uint8_t* const row = rows.row[r] + block * (kBlock / 2);
    __builtin_prefetch(row + kRows * part.segment.stride, 0, 2);
    const Words words = load<Words>(row);
    Floats scale[kHalves];
    each<kHalves>(
        NEURON_CHUNK_INLINED { scale[number] = spread<kUnit>(rows.factor[r] + at + number); });
    each<8>(NEURON_CHUNK_INLINED {
      // Odd ones stay sixteen times too large: no integer has to be moved for them.
      constexpr int j = number;
      const Words one = (words >> (j / 2 * 8)) & (j % 2 ? 0xf0U : 0x0fU);
      const Floats wide = __builtin_convertvector(reinterpret_cast<Signed>(one), Floats);
      sum[j] += scale[j % kHalves] * (wide - (j % 2 ? 128.0F : 8.0F));
    });
  }
  each<8>(
      NEURON_CHUNK_INLINED { sums.of[number] += (number % 2 ? 0.0625F : 1.0F) * sum[number]; });
#undef NEURON_CHUNK_INLINED
}

// Adds what was summed up of the blocks from `block` on to the outputs.
inline void settle(const Part& part, std::int64_t block, const std::vector<Sums>& sums) {
  for (std::size_t span = 0; span < sums.size(); ++span) {
    float values[8][kLanes];
    std::memcpy(values, sums[span].of, sizeof values);
    const std::int64_t begin = (block + static_cast<std::int64_t>(span) * kSpan) * kBlock;
    const std::int64_t left = part.segment.columns - begin;
    for (std::int64_t c = 0; c < kSpan * kBlock && c < left; ++c) {
      part.out[begin + c] += values[c % 4 * 2 + c % kBlock / 16][c / kBlock * 4 + c % 16 / 4];
    }
  }
}

template <int kUnit>
void add_nibbles(const Part& part, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kUnits = kBlock / kUnit, kStretch = kFactors / kUnits;  // blocks
  Rows rows;
  std::vector<Sums> sums(static_cast<std::size_t>((end - begin) / kSpan));
  for (std::int64_t first = 0; first < part.segment.rows; first += kRows) {
    for (std::int64_t from = begin; from < end; from += kStretch) {
      const std::int64_t count = end - from < kStretch ? end - from : kStretch;
      prepare<kUnit, true>(part, first, from * kUnits, count * kUnits, rows);
      std::int64_t at = 0;
      for (; at + kSpan <= count; at += kSpan) {
        add_span<kUnit>(part, rows, from + at, at * kUnits,
                        sums[static_cast<std::size_t>((from + at - begin) / kSpan)]);
      }
      for (; at < count; ++at) {
        add_tile<4, 0, 1, 1, kUnit, true>(part, rows, first, from + at, at * kUnits);
      }
    }
  }
  settle(part, begin, sums);
}
#endif

template <int kBits, int kFine, int kTokens, int kUnit>
[[gnu::always_inline]] inline void add_blocks(const Part& part, std::int64_t begin,
                                              std::int64_t end) {
#if !defined(__AVX512F__)
  if constexpr (kBits == 4 && kFine == 0 && kTokens == 1) {
    add_nibbles<kUnit>(part, begin, end);
    return;
  }
#endif
  // A product less, and a sixth of the time; but one token's sum is then not quite the same as
  // among others, which rows in two parts rely on (drafts and their pass).
  constexpr bool kOwn = kTokens == 1 && kFine == 0;
  // As many as have their sums in registers.
  constexpr int kHeld = kTokens > 4 ? 8 : kTokens == 3 ? 4 : kTokens;
  constexpr std::int64_t kFit = kRegisters / kHeld / kParts;
  constexpr int kBlocks = kFit >= 8 ? 8 : kFit >= 4 ? 4 : kFit >= 2 ? 2 : 1;
  constexpr std::int64_t kUnits = kBlock / kUnit, kStretch = kFactors / kUnits;  // blocks
  Rows rows;
  for (std::int64_t first = 0; first < part.segment.rows; first += kRows) {
    for (std::int64_t from = begin; from < end; from += kStretch) {
      const std::int64_t count = end - from < kStretch ? end - from : kStretch;
      prepare<kUnit, kOwn>(part, first, from * kUnits, count * kUnits, rows);
      std::int64_t at = 0;
      for (; at + kBlocks <= count; at += kBlocks) {
        add_tile<kBits, kFine, kTokens, kBlocks, kUnit, kOwn>(part, rows, first, from + at,
                                                              at * kUnits);
      }
      for (; at < count; ++at) {
        add_tile<kBits, kFine, kTokens, 1, kUnit, kOwn>(part, rows, first, from + at, at * kUnits);
      }
    }
  }
}

template <int kBits, int kFine, int kUnit>
void add_some(const Segment& segment, const Segment* finer, const float* inputs,
              std::int64_t tokens, float* out, std::int64_t out_stride, std::int64_t begin,
              std::int64_t end) {
  // Rare ones are spared their kernels for more.
  constexpr int kMost =
      kBits == 4 || kBits == 8 || kFine != 0 || kMostTokens < 4 ? kMostTokens : 4;
  for (std::int64_t token = 0; token < tokens; token += kMost) {
    const Part part{segment, finer, inputs + token * segment.rows, out + token * out_stride,
                    out_stride};
    const std::int64_t count = tokens - token < kMost ? tokens - token : kMost;
    each<kMost>([&](auto number) {
      if (count == number + 1) add_blocks<kBits, kFine, number + 1, kUnit>(part, begin, end);
    });
  }
}

template <int kBits, int kUnit>
void add_bits(const Segment& segment, const Segment* /*finer*/, const float* inputs,
              std::int64_t tokens, float* out, std::int64_t out_stride, std::int64_t begin,
              std::int64_t end) {
  add_some<kBits, 0, kUnit>(segment, nullptr, inputs, tokens, out, out_stride, begin, end);
}

void add_packed(const Segment& segment, const Segment* finer, const float* inputs,
                std::int64_t tokens, float* out, std::int64_t out_stride, std::int64_t begin,
                std::int64_t end) {
  const auto add = [&](auto product) {
    product(segment, finer, inputs, tokens, out, out_stride, begin, end);
  };
  const bool whole = segment.group % kBlock == 0;
  if (finer != nullptr) {
    if (segment.bits == 4 && finer->bits == 4) {
      add(add_some<4, 4, 16>);
    } else if (segment.bits == 3 && finer->bits == 5) {
      add(add_some<3, 5, 16>);
    }
    return;  // others: see can_refine
  }
  switch (segment.bits) {
    case 8:
      add(whole ? add_bits<8, 32> : add_bits<8, 16>);
      break;
    case 4:
      add(whole ? add_bits<4, 32> : add_bits<4, 16>);
      break;
    case 2:
      add(add_bits<2, 16>);
      break;
    case 3:
      add(add_bits<3, 16>);
      break;
    case 5:
      add(add_bits<5, 16>);
      break;
    case 6:
      add(add_bits<6, 16>);
      break;
    default:
      break;  // refused where segments are made
  }
}

// Integers of some blocks as floats, next to each other.
template <int kBits>
[[gnu::always_inline]] inline void expand(const std::uint8_t* blocks, std::int64_t count,
                                          float* out) {
  for (std::int64_t b = 0; b < count; ++b) {
    const Wide wide = integers_of<kBits>(blocks + b * (kBlock * kBits / 8));
    std::memcpy(out + b * kBlock, &wide, sizeof wide);
  }
}

inline void expand(int bits, const std::uint8_t* row, std::int64_t block, std::int64_t count,
                   float* out) {
  const std::uint8_t* const blocks = row + block * 4 * bits;
  switch (bits) {
    case 8:
      return expand<8>(blocks, count, out);
    case 4:
      return expand<4>(blocks, count, out);
    case 2:
      return expand<2>(blocks, count, out);
    case 3:
      return expand<3>(blocks, count, out);
    case 5:
      return expand<5>(blocks, count, out);
    case 6:
      return expand<6>(blocks, count, out);
    default:
      return;
  }
}

void unpack_rows(const Segment& segment, const Segment* finer, float* floats,
                 std::uint16_t* halves, std::int64_t stride, std::int64_t begin,
                 std::int64_t end) {
  constexpr std::int64_t kTile = 512;  // columns widened at a time: a loop that is long enough
  alignas(64) float values[kTile], refinement[kTile];
  alignas(64) std::uint32_t bits[kTile];  // of values
  const float times = finer == nullptr ? 1.0F : static_cast<float>(1 << finer->bits);
  const float unit = segment.unit / times;
  for (std::int64_t r = begin; r < end; ++r) {
    const std::uint8_t* const row = segment.row(r);
    const std::uint8_t* const scales = segment.scales_of(r);
    for (std::int64_t from = 0; from < segment.columns; from += kTile) {
      const std::int64_t left = segment.columns - from;
      const std::int64_t width = left < kTile ? left : kTile;
      const std::int64_t blocks = (width + kBlock - 1) / kBlock;
      expand(segment.bits, row, from / kBlock, blocks, values);
      if (finer != nullptr) {
        expand(finer->bits, finer->row(r), from / kBlock, blocks, refinement);
        for (std::int64_t c = 0; c < blocks * kBlock; ++c) {
          values[c] = values[c] * times + refinement[c];
        }
      }
      // A scale for each half of a block at least.
      for (std::int64_t c = 0; c < width; c += kBlock / 2) {
        const float scale =
            unit * widened(load<std::uint16_t>(scales + 2 * ((from + c) / segment.group)));
        for (std::int64_t i = 0; i < kBlock / 2; ++i) values[c + i] *= scale;
      }
      if (floats != nullptr) {
        std::memcpy(floats + r * stride + from, values, static_cast<std::size_t>(4 * width));
        continue;
      }
      std::memcpy(bits, values, sizeof bits);
      // To the nearest, ties to even; all are finite, being scales times small integers.
      std::uint16_t* __restrict const out = halves + r * stride + from;
      for (std::int64_t c = 0; c < width; ++c) {
        out[c] = static_cast<std::uint16_t>((bits[c] + 0x7fffU + (bits[c] >> 16 & 1U)) >> 16);
      }
    }
  }
}

}  // namespace
}  // namespace neuron_chunk
