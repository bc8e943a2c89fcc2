#include "program.h"

#include <limits>
#include <memory>
#include <string_view>

#include "dense.h"
#include "planes.h"
#include "rows.h"
#include "sparse.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

// One thread's share of an operation.
void run(const Operation& op, const Share& share) {
  switch (op.kind) {
    case kSparse: return run_sparse(op, share);
    case kDense: return run_dense(op, share);
    case kSparseRow: return run_sparse_row(op, share);
    case kDenseRow: return run_dense_row(op, share);
    case kCopy: return run_copy(op, share);
    case kMaxPool:
      return run_pool(op, share, -std::numeric_limits<float>::infinity(),
                      [](float a, float b) { return b < a || a != a ? a : b; }, [](float value, int64_t) { return value; });
    case kAveragePool:
      return run_pool(op, share, 0.0f, [](float a, float b) { return a + b; },
                      [&](float value, int64_t area) { return value / float(op.divisor ? op.divisor : area); });
    case kGlobalAverage: return run_global_average(op, share);
    case kAffine: return run_affine(op, share);
    case kPhases: return run_phases(op, share);
  }
}

int64_t this_thread() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

int64_t running_threads() {
#ifdef _OPENMP
  return omp_get_num_threads();
#else
  return 1;
#endif
}

}  // namespace

extern "C" {

int64_t sparsewright_version() { return 1; }

int sparsewright_runs(const char* instructions) {
#if defined(__x86_64__)
  const std::string_view name(instructions);
  if (name == "avx512") return __builtin_cpu_supports("avx512f") != 0;
  if (name == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return std::string_view(instructions) == "portable";
}

int64_t sparsewright_width() { return WIDTH; }

int64_t sparsewright_dense_rows() { return kDenseRows; }

int64_t sparsewright_most_vectors() { return kMostVectors; }

void sparsewright_run(const Operation* operations, int64_t count, int64_t threads) {
  const std::unique_ptr<Counter[]> counters(new Counter[count * threads]);
#pragma omp parallel num_threads(int(threads))
  for (int64_t i = 0; i < count; ++i) {
    run(operations[i], Share(counters.get() + i * threads, this_thread(), running_threads()));
#pragma omp barrier
  }
}
}
