// What only the C++ kernels need: blocks of neurons whose state stays in the first-level cache for
// all time steps, and an operand as a block sees it.
#pragma once

#include <new>

#include "neurogen/kernel.h"

namespace neurogen {

constexpr int64_t LANES = 256;  // neurons of a block; fixed, so that no sum depends on the threads

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
