// What only the C++ kernels need: blocks of neurons whose state stays in the first-level cache for
// all time steps, and an operand as a block sees it.
#pragma once

#include <cstring>
#include <new>

#include "neurogen/kernel.h"

namespace neurogen {

constexpr int64_t LANES = 1024;  // neurons of a block; fixed, so that no sum depends on the threads
constexpr int64_t PART = 256;    // lanes computed at a time, while the next row's are on their way

// One operand over the neurons of a block: one value for all, or a value for each lane.
template <typename real, bool uniform>
struct Lanes;

template <typename real>
struct Lanes<real, true> {
  real value;
  Lanes(const Operand<real>& operand, int64_t, int64_t) : value(operand.data[0]) {}
  real operator[](int64_t) const { return value; }
};

template <typename real>
struct Lanes<real, false> {
  alignas(64) real values[LANES];
  Lanes(const Operand<real>& operand, int64_t first, int64_t lanes) {
    for (int64_t i = 0; i < lanes; ++i) values[i] = operand.at(first + i);
  }
  real operator[](int64_t i) const { return values[i]; }
};

template <typename real>
inline void read_state(real* state, const Operand<real>& operand, int64_t first, int64_t lanes) {
  for (int64_t i = 0; i < lanes; ++i) state[i] = operand.at(first + i);
}

// Copies a block; a null pointer reads as zeros and is never written.
template <typename real>
inline void read_block(real* block, const real* from, int64_t lanes) {
  for (int64_t i = 0; i < lanes; ++i) block[i] = from ? from[i] : real(0);
}
template <typename real>
inline void write_block(real* to, const real* block, int64_t lanes) {
  if (to)
    for (int64_t i = 0; i < lanes; ++i) to[i] = block[i];
}
template <typename real>
inline void add_block(real* block, const real* from, int64_t lanes) {
  if (from)
    for (int64_t i = 0; i < lanes; ++i) block[i] += from[i];
}
// nullptr stays nullptr.
template <typename T>
inline T* offset(T* pointer, int64_t distance) {
  return pointer ? pointer + distance : nullptr;
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Ask for a part of a row before it is needed: rows are far apart in memory, and no hardware follows
// that. What lies beyond the end may be asked for, too; it is not read.
template <typename Io>
inline void prefetch(const Io* part) {
  for (int64_t i = 0; i < PART; i += 64 / int64_t(sizeof(Io))) __builtin_prefetch(part + i);
}

// 32 bytes, aligned, written past the caches. (By builtins: <immintrin.h> takes longer to parse than
// a kernel to compile.)
inline void stream(char* to, const char* from) {
  using Bytes = long long __attribute__((vector_size(32), may_alias));
  auto* const place = reinterpret_cast<Bytes*>(to);
  Bytes value;
  std::memcpy(&value, from, sizeof value);
#if __has_builtin(__builtin_nontemporal_store)  // clang
  __builtin_nontemporal_store(value, place);
#elif defined(__AVX__)
  __builtin_ia32_movntdq256(place, value);
#else
  *place = value;
#endif
}

// A row of results on its way to memory. Where the results exceed the cache (`streamed`) its parts
// are collected in the first-level cache and written past the caches, which saves reading what is
// overwritten; else lanes are written in place, for a consumer that follows.
template <typename Io>
struct Row {
  alignas(64) Io collected[LANES];
  Io* to;
  bool streamed;

  Io* begin(Io* place, bool stream) {
    to = place;
    streamed = stream && reinterpret_cast<unsigned long long>(place) % 32 == 0;
    return streamed ? collected : place;
  }
  void write(int64_t begin, int64_t end) {
    if (!streamed) return;
    const int64_t bytes = end * int64_t(sizeof(Io));
    char* const out = reinterpret_cast<char*>(to);
    const char* const in = reinterpret_cast<const char*>(collected);
    int64_t k = begin * int64_t(sizeof(Io));
    for (; k + 64 <= bytes; k += 64) {
      stream(out + k, in + k);
      stream(out + k + 32, in + k + 32);
    }
    if (k + 32 <= bytes) stream(out + k, in + k), k += 32;
    std::memcpy(out + k, in + k, std::size_t(bytes - k));
  }
};

// Makes streamed rows visible to whoever reads them next.
inline void finish_rows() {
#if defined(__SSE2__)
  __builtin_ia32_sfence();
#endif
}

// A block's share in the gradient of a constant: one number where all neurons read the same
// element (`shares[block]`, in float64), else one per neuron (`shares[neuron]`).
template <typename real>
inline void write_share(void* shares, const Operand<real>& operand, const real* sums,
                        int64_t first, int64_t lanes) {
  if (operand.count != 1) return write_block(static_cast<real*>(shares) + first, sums, lanes);
  double sum = 0;
  for (int64_t i = 0; i < lanes; ++i) sum += double(sums[i]);
  static_cast<double*>(shares)[first / LANES] = sum;
}

// The same of one time step, where the constant has a value for each: `shares[step][block or neuron]`.
template <typename real>
inline void write_share_of_step(void* shares, const Steps<real>& operand, const real* sums,
                                int64_t step, int64_t neurons, int64_t first, int64_t lanes) {
  const bool shared = operand.count == 1;
  const int64_t row = step * (shared ? (neurons + LANES - 1) / LANES : neurons);
  void* const place = shared ? static_cast<void*>(static_cast<double*>(shares) + row)
                             : static_cast<void*>(static_cast<real*>(shares) + row);
  write_share(place, operand.at(0), sums, first, lanes);
}

// Memory of one thread, aligned to cache lines.
template <typename real>
struct Scratch {
  real* data;
  explicit Scratch(int64_t count)
      : data(static_cast<real*>(::operator new(sizeof(real) * count, std::align_val_t(64)))) {}
  ~Scratch() { ::operator delete(data, std::align_val_t(64)); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

}  // namespace neurogen
