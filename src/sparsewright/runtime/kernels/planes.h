// What is done plane by plane: other layouts, pools, averages, scales.
#pragma once
#include <cstring>
#include <vector>

#include "vectors.h"

// Rows of pixels of all images, behind each other, and where they lie in a plane.
struct Rows {
  const Planes& at;
  int64_t images, height;

  int64_t count() const { return images * height; }
  int64_t place(int64_t row) const { return at.begin + row / height * at.image + row % height * at.row; }

  // Calls `each(row)` for the rows of a band; gaps from the band's first row to the next band's are cleared before.
  template <typename Each>
  void for_each(float* plane, int64_t band, int64_t bands, bool gaps, Each each) const {
    const int64_t first = band * count() / bands, last = (band + 1) * count() / bands;
    if (gaps) std::fill(plane + (band ? place(first) : 0), plane + (band + 1 < bands ? place(last) : at.plane), 0.0f);
    for (int64_t row = first; row < last; ++row) each(row);
  }
};

// Calls `each(channel, row of output pixels, image, y)` for every row of every channel's plane.
template <typename Each>
void for_rows(const Operation& op, Share share, Each each) {
  const Rows rows{op.to, op.images, op.height};
  share.for_bands(op.channels, rows.count(), [&](int64_t channel, int64_t band, int64_t bands) {
    float* const plane = op.output + channel * op.to.plane;
    rows.for_each(plane, band, bands, op.positions != 0,
                  [&](int64_t row) { each(channel, plane + rows.place(row), row / op.height, row % op.height); });
  });
}

// Every stride-th pixel of a row; the two loops that matter are spelt out for the compiler.
inline void take(float* __restrict to, const float* __restrict from, int64_t count, int64_t stride) {
  if (stride == 1) {
    std::memcpy(to, from, count * sizeof(float));
  } else if (stride == 2) {
    for (int64_t x = 0; x < count; ++x) to[x] = from[2 * x];
  } else {
    for (int64_t x = 0; x < count; ++x) to[x] = from[stride * x];
  }
}

void run_copy(const Operation& op, Share share) {
  for_rows(op, share, [&](int64_t channel, float* to, int64_t image, int64_t y) {
    const float* const from =
        op.input + channel * op.from.plane + op.from.begin + image * op.from.image + y * op.from.row;
    if (op.to.column == 1) {
      take(to, from, op.width, op.from.column);
    } else {
      for (int64_t x = 0; x < op.width; ++x) to[x * op.to.column] = from[x * op.from.column];
    }
  });
}

// All phases of a channel while its plane is in the nearest cache.
void run_phases(const Operation& op, Share share) {
  const int64_t most_rows = op.images * ((op.input_height + op.stride_height - 1) / op.stride_height);
  share.for_bands(op.channels, most_rows, [&](int64_t channel, int64_t band, int64_t bands) {
    const float* const plane = op.input + channel * op.from.plane + op.from.begin;
    for (int64_t phase = 0; phase < op.inputs; ++phase) {
      const int64_t top = op.offsets[2 * phase], left = op.offsets[2 * phase + 1];
      float* const target = op.output + (phase * op.channels + channel) * op.to.plane;
      const int64_t columns = (op.input_width - left + op.stride_width - 1) / op.stride_width;
      const int64_t height = (op.input_height - top + op.stride_height - 1) / op.stride_height;
      const Rows rows{op.to, op.images, height};
      rows.for_each(target, band, bands, true, [&](int64_t row) {
        const int64_t y = top + row % height * op.stride_height;
        const float* const from = plane + row / height * op.from.image + y * op.from.row + left;
        take(target + rows.place(row), from, columns, op.stride_width);
      });
    }
  });
}

template <typename Merge, typename Finish>
void run_pool(const Operation& op, Share share, float start, Merge merge, Finish finish_value) {
  // One row of merged columns, with what the window reads beside the image.
  const int64_t reach = (op.width - 1) * op.stride_width + op.kernel_width;
  std::vector<float> columns(std::max(reach, op.padding_width + op.input_width), start);
  float* const inside = columns.data() + op.padding_width;
  for_rows(op, share, [&](int64_t channel, float* to, int64_t image, int64_t y) {
    const float* const picture = op.input + channel * op.from.plane + op.from.begin + image * op.from.image;
    const int64_t top = y * op.stride_height - op.padding_height;
    const int64_t first = std::max<int64_t>(0, top), last = std::min(op.input_height, top + op.kernel_height);
    std::fill(inside, inside + op.input_width, start);
    for (int64_t row = first; row < last; ++row) {
      const float* const from = picture + row * op.from.row;
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

void run_global_average(const Operation& op, Share share) {
  // The gaps between rows are zeros, so that they can be summed as well.
  const int64_t count = (op.input_height - 1) * op.from.row + op.input_width;
  const float pixels = float(op.input_height * op.input_width);
  share.for_bands(op.channels, 1, [&](int64_t channel, int64_t, int64_t) {
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
  const int64_t vectors = op.positions / WIDTH;
  share.for_bands(op.channels, vectors, [&](int64_t channel, int64_t band, int64_t bands) {
    const float* const from = op.input + channel * op.from.plane + op.from.begin;
    float* const plane = op.output + channel * op.to.plane;
    float* const to = plane + op.to.begin;
    const float scale = op.values[channel], shift = op.bias[channel];
    for (int64_t vector = band * vectors / bands; vector < (band + 1) * vectors / bands; ++vector)
      finish(op, load(from + vector * WIDTH) * spread(scale) + spread(shift), channel, vector * WIDTH);
    if (band == 0) std::fill(plane, to, 0.0f);
    if (band + 1 < bands) return;
    for (int64_t at = vectors * WIDTH; at < op.positions; ++at) {
      float sum = from[at] * scale + shift;
      if (op.residual) sum += op.residual[channel * op.to.plane + op.to.begin + at];
      to[at] = op.valid[at] ? limited(sum, op.low, op.high) : 0.0f;
    }
    std::fill(std::min(to + op.positions, plane + op.to.plane), plane + op.to.plane, 0.0f);
  });
}
