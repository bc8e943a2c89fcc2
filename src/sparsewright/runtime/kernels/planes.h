// What is done plane by plane: other layouts, pools, averages, scales.
#pragma once
#include <cstring>
#include <vector>

#include "vectors.h"

// Calls `each(row of output pixels, image, y)` for every row of a channel's plane, whose gaps are cleared before.
template <typename Each>
void for_rows(const Operation& op, int64_t channel, Each each) {
  float* const plane = op.output + channel * op.to.plane;
  const bool gaps = op.positions != 0;
  if (gaps) std::fill(plane, plane + op.to.plane, 0.0f);
  for (int64_t image = 0; image < op.images; ++image)
    for (int64_t y = 0; y < op.height; ++y) each(plane + op.to.begin + image * op.to.image + y * op.to.row, image, y);
}

// Every stride-th pixel of a row; the two loops that matter are spelt out for the compiler.
inline void take(float* to, const float* from, int64_t count, int64_t stride) {
  if (stride == 1) {
    std::memcpy(to, from, count * sizeof(float));
  } else if (stride == 2) {
    for (int64_t x = 0; x < count; ++x) to[x] = from[2 * x];
  } else {
    for (int64_t x = 0; x < count; ++x) to[x] = from[stride * x];
  }
}

void run_copy(const Operation& op, Share share) {
  for (int64_t channel; share.take(op.channels, &channel);) {
    const float* const plane = op.input + channel * op.from.plane + op.from.begin;
    for_rows(op, channel, [&](float* to, int64_t image, int64_t y) {
      const float* const from = plane + image * op.from.image + y * op.from.row;
      if (op.to.column == 1) {
        take(to, from, op.width, op.from.column);
      } else {
        for (int64_t x = 0; x < op.width; ++x) to[x * op.to.column] = from[x * op.from.column];
      }
    });
  }
}

// All phases of a channel while its plane is in the nearest cache.
void run_phases(const Operation& op, Share share) {
  for (int64_t channel; share.take(op.channels, &channel);) {
    const float* const plane = op.input + channel * op.from.plane + op.from.begin;
    for (int64_t phase = 0; phase < op.inputs; ++phase) {
      const int64_t top = op.offsets[2 * phase], left = op.offsets[2 * phase + 1];
      float* const target = op.output + (phase * op.channels + channel) * op.to.plane;
      const int64_t columns = (op.input_width - left + op.stride_width - 1) / op.stride_width;
      std::fill(target, target + op.to.plane, 0.0f);
      for (int64_t image = 0; image < op.images; ++image) {
        float* to = target + op.to.begin + image * op.to.image;
        const float* const from = plane + image * op.from.image + left;
        for (int64_t row = top; row < op.input_height; row += op.stride_height, to += op.to.row)
          take(to, from + row * op.from.row, columns, op.stride_width);
      }
    }
  }
}

template <typename Merge, typename Finish>
void run_pool(const Operation& op, Share share, float start, Merge merge, Finish finish_value) {
  // One row of merged columns, with what the window reads beside the image.
  const int64_t reach = (op.width - 1) * op.stride_width + op.kernel_width;
  std::vector<float> columns(std::max(reach, op.padding_width + op.input_width), start);
  float* const inside = columns.data() + op.padding_width;
  for (int64_t channel; share.take(op.channels, &channel);) {
    const float* const plane = op.input + channel * op.from.plane + op.from.begin;
    for_rows(op, channel, [&](float* to, int64_t image, int64_t y) {
      const int64_t top = y * op.stride_height - op.padding_height;
      const int64_t first = std::max<int64_t>(0, top), last = std::min(op.input_height, top + op.kernel_height);
      std::fill(inside, inside + op.input_width, start);
      for (int64_t row = first; row < last; ++row) {
        const float* const from = plane + image * op.from.image + row * op.from.row;
        for (int64_t x = 0; x < op.input_width; ++x) inside[x] = merge(inside[x], from[x]);
      }
      std::fill(to, to + op.width, start);
      for (int64_t k = 0; k < op.kernel_width; ++k) {
        const float* const from = columns.data() + k;
        if (op.stride_width == 1) {
          for (int64_t x = 0; x < op.width; ++x) to[x] = merge(to[x], from[x]);
        } else if (op.stride_width == 2) {
          for (int64_t x = 0; x < op.width; ++x) to[x] = merge(to[x], from[2 * x]);
        } else {
          for (int64_t x = 0; x < op.width; ++x) to[x] = merge(to[x], from[op.stride_width * x]);
        }
      }
      for (int64_t x = 0; x < op.width; ++x) {
        const int64_t left = x * op.stride_width - op.padding_width;
        const int64_t right = std::min(op.input_width, left + op.kernel_width);
        to[x] = limited(finish_value(to[x], (last - first) * (right - std::max<int64_t>(0, left))), op.low, op.high);
      }
    });
  }
}

void run_global_average(const Operation& op, Share share) {
  // The gaps between rows are zeros, so that they can be summed as well.
  const int64_t count = (op.input_height - 1) * op.from.row + op.input_width;
  const float pixels = float(op.input_height * op.input_width);
  share.for_channels(op.channels, [&](int64_t channel) {
    std::fill(op.output + channel * op.to.plane, op.output + (channel + 1) * op.to.plane, 0.0f);
    for (int64_t image = 0; image < op.images; ++image) {
      const float* const from = op.input + channel * op.from.plane + op.from.begin + image * op.from.image;
      Vector sums = {};
      int64_t x = 0;
      for (; x + WIDTH <= count; x += WIDTH) sums += load(from + x);
      float sum = horizontal(sums);
      for (; x < count; ++x) sum += from[x];
      op.output[channel * op.to.plane + op.to.begin + image * op.to.image] = limited(sum / pixels, op.low, op.high);
    }
  });
}

// The last positions one by one: of a single sample, a plane may end where the memory does.
void run_affine(const Operation& op, Share share) {
  const int64_t whole = op.positions / WIDTH * WIDTH;
  share.for_channels(op.channels, [&](int64_t channel) {
    const float* const from = op.input + channel * op.from.plane + op.from.begin;
    float* const plane = op.output + channel * op.to.plane;
    float* const to = plane + op.to.begin;
    const float scale = op.values[channel], shift = op.bias[channel];
    for (int64_t at = 0; at < whole; at += WIDTH)
      finish(op, load(from + at) * spread(scale) + spread(shift), channel, at);
    for (int64_t at = whole; at < op.positions; ++at) {
      float sum = from[at] * scale + shift;
      if (op.residual) sum += op.residual[channel * op.to.plane + op.to.begin + at];
      to[at] = op.valid[at] ? limited(sum, op.low, op.high) : 0.0f;
    }
    std::fill(plane, to, 0.0f);
    std::fill(std::min(to + op.positions, plane + op.to.plane), plane + op.to.plane, 0.0f);
  });
}
