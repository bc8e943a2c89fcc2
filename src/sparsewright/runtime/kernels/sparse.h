// Rows of kept weights: a tile of positions stays in registers while the weights of a row pass by.
#pragma once
#include <array>
#include <utility>

#include "vectors.h"

// All registers but one for a weight and one to spare.
constexpr int64_t kMostVectors = REGISTERS - 2;

// Sums in so many chains that a multiply-add need not wait for the one before it.
constexpr int chains(int vectors) { return vectors >= 8 ? 1 : vectors >= 4 ? std::min(2, int(kMostVectors) / vectors) : 4; }

// Sums of one output channel over `kVectors` vectors of positions from `at` on.
template <int kVectors>
void sparse_tile(const Operation& op, int64_t row, int64_t at) {
  constexpr int kChains = chains(kVectors);
  const float* input = op.input + at;
  const int64_t channel = op.rows[row];
  Vector sums[kChains][kVectors];
  for (int c = 0; c < kChains; ++c)
    for (int v = 0; v < kVectors; ++v) sums[c][v] = spread(c ? 0.0f : op.bias[channel]);
  const float* value = op.values + op.starts[row];
  const float* const end = op.values + op.starts[row + 1];
  const int32_t* offset = op.offsets + op.starts[row];
  for (; end - value >= kChains; value += kChains, offset += kChains) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
      const Vector weight = spread(value[c]);
      const float* const from = input + offset[c];
#pragma GCC unroll 32
      for (int v = 0; v < kVectors; ++v) sums[c][v] += weight * load(from + v * WIDTH);
    }
  }
  for (; value < end; ++value, ++offset) {
    const Vector weight = spread(*value);
    const float* const from = input + *offset;
#pragma GCC unroll 32
    for (int v = 0; v < kVectors; ++v) sums[0][v] += weight * load(from + v * WIDTH);
  }
#pragma GCC unroll 32
  for (int v = 0; v < kVectors; ++v) {
    Vector sum = sums[0][v];
    for (int c = 1; c < kChains; ++c) sum += sums[c][v];
    finish(op, sum, channel, at + v * WIDTH);
  }
}

template <int... kVectors>
constexpr std::array<Tile, sizeof...(kVectors)> tiles_of(std::integer_sequence<int, kVectors...>) {
  return {sparse_tile<kVectors + 1>...};
}
constexpr auto kTiles = tiles_of(std::make_integer_sequence<int, kMostVectors>());

void run_sparse(const Operation& op, Share share) {
  const int64_t threads = share.threads();
  const int64_t vectors = (op.positions + WIDTH - 1) / WIDTH, most = std::min(op.tile, kMostVectors);
  const int64_t tiles = (vectors + most - 1) / most;
  const int64_t groups = (tiles + op.passes - 1) / op.passes;
  // A block of rows reads the same inputs again, from a near cache; few groups need more blocks to keep all busy.
  const int64_t wanted = threads == 1 ? 1 : std::max<int64_t>(1, (8 * threads + groups - 1) / groups);
  const int64_t per_block = std::max<int64_t>(1, (op.channels + wanted - 1) / wanted);
  const int64_t blocks = (op.channels + per_block - 1) / per_block;
  for (int64_t item; share.take(groups * blocks, &item);) {
    const int64_t group = item / blocks, block = item % blocks;
    for (int64_t row = block * per_block; row < std::min(op.channels, (block + 1) * per_block); ++row) {
      for (int64_t tile = group * tiles / groups; tile < (group + 1) * tiles / groups; ++tile) {
        const int64_t first = tile * vectors / tiles, last = (tile + 1) * vectors / tiles;
        kTiles[last - first - 1](op, row, first * WIDTH);
      }
      clear_margins(op, op.rows[row], group == 0, group == groups - 1);
    }
  }
}
