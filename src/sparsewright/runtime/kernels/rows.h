// Linear layers on one sample: every weight is used once, so they go as fast as memory brings the weights.
#pragma once
#include "vectors.h"

void finish_row(const Operation& op, float sum, int64_t row) {
  if (op.residual) sum += op.residual[row];
  op.output[row] = limited(sum + op.bias[row], op.low, op.high);
}

constexpr int64_t kRowsAtOnce = 16;
// So many inputs are numbered with two bytes.
constexpr int64_t kShortPlaces = 65536;

// Memory brings the weights, so their places take as few bytes as they can.
template <typename Place>
void sparse_rows(const Operation& op, const Place* places, int64_t first, int64_t last) {
  constexpr int kChains = 8;
  for (int64_t row = first; row < last; ++row) {
    int64_t k = op.starts[row];
    const int64_t end = op.starts[row + 1];
    float sums[kChains] = {};
    for (; k + kChains <= end; k += kChains)
#pragma GCC unroll 8
      for (int i = 0; i < kChains; ++i) sums[i] += op.values[k + i] * op.input[places[k + i]];
    for (; k < end; ++k) sums[0] += op.values[k] * op.input[places[k]];
    finish_row(op, ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7])), row);
  }
}

void run_sparse_row(const Operation& op, Share share) {
  const int64_t blocks = (op.channels + kRowsAtOnce - 1) / kRowsAtOnce;
  for (int64_t block; share.take(blocks, &block);) {
    const int64_t first = block * kRowsAtOnce, last = std::min(op.channels, first + kRowsAtOnce);
    if (op.inputs <= kShortPlaces)
      sparse_rows(op, reinterpret_cast<const uint16_t*>(op.offsets), first, last);
    else
      sparse_rows(op, op.offsets, first, last);
  }
}

void run_dense_row(const Operation& op, Share share) {
  constexpr int kChains = 4;
  const int64_t blocks = (op.channels + kRowsAtOnce - 1) / kRowsAtOnce;
  for (int64_t block; share.take(blocks, &block);) {
    for (int64_t row = block * kRowsAtOnce; row < std::min(op.channels, (block + 1) * kRowsAtOnce); ++row) {
      const float* const weights = op.values + row * op.inputs;
      Vector sums[kChains] = {};
      int64_t k = 0;
      for (; k + kChains * WIDTH <= op.inputs; k += kChains * WIDTH)
#pragma GCC unroll 4
        for (int c = 0; c < kChains; ++c) sums[c] += load(weights + k + c * WIDTH) * load(op.input + k + c * WIDTH);
      float sum = horizontal((sums[0] + sums[1]) + (sums[2] + sums[3]));
      for (; k < op.inputs; ++k) sum += weights[k] * op.input[k];
      finish_row(op, sum, row);
    }
  }
}
