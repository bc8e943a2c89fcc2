// Which thread does which part of an operation.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

// Counters lie apart, so that a thread which is ahead does not disturb the others.
struct alignas(64) Counter {
  std::atomic<int64_t> next{0};
};

// One thread's view of the items of an operation. It takes those of its own part first, then those that others have not
// come to. Operations number their items by position, so that a thread reads mostly what it wrote itself: values of
// other threads may lie in a far cache.
class Share {
 public:
  Share(Counter* counters, int64_t thread, int64_t threads) : counters_(counters), thread_(thread), threads_(threads) {}

  int64_t threads() const { return threads_; }

  // The next of `count` items, which must be the same number in each call.
  bool take(int64_t count, int64_t* item) {
    for (; helped_ < threads_; ++helped_) {
      const int64_t part = (thread_ + helped_) % threads_;
      *item = part * count / threads_ + counters_[part].next.fetch_add(1, std::memory_order_relaxed);
      if (*item < (part + 1) * count / threads_) return true;
    }
    return false;
  }

  // Calls `each(channel, band, bands)` for every channel and band of a plane's `rows`: one band for each thread.
  template <typename Each>
  void for_bands(int64_t channels, int64_t rows, Each each) {
    const int64_t bands = std::clamp<int64_t>(rows / kFewestRows, 1, threads_);
    const int64_t blocks = (channels + kAtOnce - 1) / kAtOnce;
    for (int64_t item; take(bands * blocks, &item);) {
      const int64_t band = item / blocks, first = item % blocks * kAtOnce;
      for (int64_t channel = first; channel < std::min(channels, first + kAtOnce); ++channel) each(channel, band, bands);
    }
  }

 private:
  static constexpr int64_t kFewestRows = 8, kAtOnce = 4;
  Counter* const counters_;
  const int64_t thread_, threads_;
  int64_t helped_ = 0;
};
