// Blocks of rows with all their weights: each input that is loaded serves every row of the block.
#pragma once
#include <array>
#include <utility>

#include "vectors.h"

// Rows and vectors of the dense kernel: their product of sums, the vectors and one weight fill the registers.
constexpr int64_t kDenseRows = REGISTERS == 32 ? 6 : 4;
constexpr int64_t kDenseVectors = REGISTERS == 32 ? 4 : 3;

template <int kVectors>
void dense_tile(const Operation& op, int64_t block, int64_t at) {
  Vector sums[kDenseRows][kVectors];
  const int64_t rows = std::min(kDenseRows, op.channels - block * kDenseRows);
  for (int r = 0; r < kDenseRows; ++r)
    for (int v = 0; v < kVectors; ++v) sums[r][v] = spread(r < rows ? op.bias[block * kDenseRows + r] : 0.0f);
  const float* value = op.values + block * op.inputs * kDenseRows;
  for (int64_t tap = 0; tap < op.inputs; ++tap, value += kDenseRows) {
    const float* const from = op.input + at + op.offsets[tap];
    Vector input[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) input[v] = load(from + v * WIDTH);
#pragma GCC unroll 8
    for (int r = 0; r < kDenseRows; ++r) {
      const Vector weight = spread(value[r]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] += weight * input[v];
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < kVectors; ++v) finish(op, sums[r][v], block * kDenseRows + r, at + v * WIDTH);
}

template <int... kVectors>
constexpr std::array<Tile, sizeof...(kVectors)> dense_tiles_of(std::integer_sequence<int, kVectors...>) {
  return {dense_tile<kVectors + 1>...};
}
constexpr auto kDenseTiles = dense_tiles_of(std::make_integer_sequence<int, kDenseVectors>());

void run_dense(const Operation& op, Share share) {
  const int64_t vectors = (op.positions + WIDTH - 1) / WIDTH;
  const int64_t tiles = (vectors + kDenseVectors - 1) / kDenseVectors;
  const int64_t blocks = (op.channels + kDenseRows - 1) / kDenseRows;
  // Several tiles in a row use a block's weights again while they are in the nearest cache.
  const int64_t per_item = std::min<int64_t>(tiles, 8), groups = (tiles + per_item - 1) / per_item;
  // Each thread has either positions of its own or weights of its own, whichever are more.
  const bool by_position = op.positions > op.inputs;
  for (int64_t item; share.take(groups * blocks, &item);) {
    const int64_t block = by_position ? item % blocks : item / groups;
    const int64_t group = by_position ? item / blocks : item % groups;
    for (int64_t tile = group * per_item; tile < std::min(tiles, (group + 1) * per_item); ++tile) {
      const int64_t first = tile * vectors / tiles, last = (tile + 1) * vectors / tiles;
      kDenseTiles[last - first - 1](op, block, first * WIDTH);
      for (int64_t row = block * kDenseRows; row < std::min(op.channels, (block + 1) * kDenseRows); ++row)
        clear_margins(op, row, tile == 0, tile == tiles - 1);
    }
  }
}
