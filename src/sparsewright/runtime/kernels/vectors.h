// Vectors of WIDTH floats, one register of the instruction set that this is compiled for, and where results go.
//
// WIDTH and REGISTERS (how many vectors the instruction set holds) come from the build, which makes one library for each
// instruction set: functions of the standard library that several objects share could else be linked in a version that
// the machine cannot run.
#pragma once
#include <algorithm>
#include <cstdint>

#include "program.h"
#include "share.h"

typedef float Vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector vector) { *reinterpret_cast<Vector*>(to) = vector; }
inline Vector spread(float value) { return value - Vector{}; }

// Comparisons in this order let NaN through, as torch does.
inline Vector limited(Vector x, float low, float high) {
  x = x < spread(low) ? spread(low) : x;
  return x > spread(high) ? spread(high) : x;
}
inline float limited(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

inline float horizontal(Vector sum) {
  float total = 0.0f;
  for (int i = 0; i < WIDTH; ++i) total += sum[i];
  return total;
}

// What an operation stores at a position: its sum, the residual, the limits; zero in the gaps between pixels.
inline void finish(const Operation& op, Vector sum, int64_t channel, int64_t at) {
  const int64_t place = channel * op.to.plane + op.to.begin + at;
  if (op.residual) sum += load(op.residual + place);
  const Bits valid = *reinterpret_cast<const Bits*>(op.valid + at);
  store(op.output + place, (Vector)((Bits)limited(sum, op.low, op.high) & valid));
}

// Gaps before the first and behind the last position hold zeros, for the padding of whoever reads the plane.
void clear_margins(const Operation& op, int64_t channel, bool first, bool last) {
  float* const plane = op.output + channel * op.to.plane;
  if (first) std::fill(plane, plane + op.to.begin, 0.0f);
  const int64_t end = op.to.begin + (op.positions + WIDTH - 1) / WIDTH * WIDTH;
  if (last && end < op.to.plane) std::fill(plane + end, plane + op.to.plane, 0.0f);
}

// Works on one row, or block of rows, and the vectors of positions from the third argument on.
using Tile = void (*)(const Operation&, int64_t, int64_t);
