// What every generated kernel needs around its equations, as C++ and as CUDA text:
// the types of the arguments, storage formats, broadcasting, and the ordered sum of gradients.
// ABI 5: change runtime/abi.py with it.
#pragma once

#include "neurogen/math.h"

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define NEUROGEN_MEMBER __device__ __forceinline__
#else
#define NEUROGEN_MEMBER inline
#endif
#if defined(__CUDACC_RTC__)
using int64_t = long long;
#else
#include <cstdint>
#endif

namespace neurogen {

// Storage formats. Arithmetic is always in float or double; half formats are only stored.
struct half {
  unsigned short bits;
};
struct bfloat16 {
  unsigned short bits;
};

template <typename Io>
struct compute {
  using type = float;
};
template <>
struct compute<double> {
  using type = double;
};

NEUROGEN_FN float load(float value) { return value; }
NEUROGEN_FN double load(double value) { return value; }
NEUROGEN_FN float load(bfloat16 value) {
  return from_bits(static_cast<unsigned int>(value.bits) << 16);
}
NEUROGEN_FN float load(half value) {
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  return static_cast<float>(__builtin_bit_cast(_Float16, value.bits));
#endif
}

NEUROGEN_FN void store(float& place, float value) { place = value; }
NEUROGEN_FN void store(double& place, double value) { place = value; }
NEUROGEN_FN void store(bfloat16& place, float value) {
  const unsigned int exact = bits(value);
  const unsigned int rounded = (exact + 0x7fffu + ((exact >> 16) & 1u)) >> 16;  // ties to even
  place.bits = static_cast<unsigned short>(value != value ? 0x7fc0u : rounded);
}
NEUROGEN_FN void store(half& place, float value) {
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(place.bits) : "f"(value));
#else
  place.bits = __builtin_bit_cast(unsigned short, static_cast<_Float16>(value));
#endif
}

// x * x * … from left to right.
template <int count, typename real>
NEUROGEN_FN real power(real base) {
  real product = base;
  for (int factor = 1; factor < count; ++factor) product = product * base;
  return product;
}

// A value per neuron that may be broadcast: neuron n reads data[n / inner % count].
template <typename real>
struct Operand {
  const real* data;
  int64_t inner, count;
  NEUROGEN_MEMBER real at(int64_t neuron) const {
    return count == 1 ? data[0] : data[neuron / inner % count];
  }
};

// The same where the value may change from step to step; then `stride` is `count`, else 0.
template <typename real>
struct Steps {
  const real* data;
  int64_t inner, count, stride;
  NEUROGEN_MEMBER Operand<real> at(int64_t step) const {
    return {data + step * stride, inner, count};
  }
};

// The gradient of an operand sums, for each element, the shares of the neurons that read it, in a
// fixed order: chunk c of `chunks` takes members c, c + chunks, …, then the chunks are added in turn.
// Of a value per step there are `steps` times `count` elements, and the shares of each step.
template <typename Share, typename Total>
struct Sum {
  const Share* shares;  // one per neuron (or per block of neurons)
  int64_t steps, members, inner, count, chunks;
  double* partial;  // [steps, count, chunks]
  Total* total;     // [steps, count]
};

template <typename Share, typename Total>
NEUROGEN_FN double sum_chunk(const Sum<Share, Total>& a, int64_t element, int64_t chunk) {
  const Share* const shares = a.shares + element / a.count * a.members * a.count;
  const int64_t place = element % a.count * a.inner;
  double sum = 0;
  for (int64_t m = chunk; m < a.members; m += a.chunks)
    sum += double(shares[m / a.inner * a.inner * a.count + place + m % a.inner]);
  return sum;
}

template <typename Share, typename Total>
NEUROGEN_FN Total sum_partials(const Sum<Share, Total>& a, int64_t element) {
  double sum = 0;
  for (int64_t c = 0; c < a.chunks; ++c) sum += a.partial[element * a.chunks + c];
  return Total(sum);
}

}  // namespace neurogen
