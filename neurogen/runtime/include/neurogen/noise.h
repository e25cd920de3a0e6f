// Random numbers that are a function of where they stand, so that they need not be stored: Philox
// 4x32-10 (Salmon, Moraes, Dror & Shaw 2011, Parallel random numbers: as easy as 1, 2, 3) of the
// counter (neuron low, neuron high, step, stream) under a 64-bit key, the seed. The same bits as
// C++ and as CUDA text, and those of runtime/noise.py.
#pragma once

#include "neurogen/kernel.h"
#if !(defined(__CUDACC__) || defined(__CUDACC_RTC__))
#include "neurogen/cpu.h"
#endif

namespace neurogen {

struct Words {
  unsigned int a, b, c, d;
};

// Ten rounds; between them the key goes on by the golden ratio and the square root of 3, less 1.
NEUROGEN_FN Words philox(Words w, unsigned int k0, unsigned int k1) {
  for (int round = 0; round < 10; ++round) {
    const unsigned long long p = 0xD2511F53ull * w.a, q = 0xCD9E8D57ull * w.c;
    w = {static_cast<unsigned int>(q >> 32) ^ w.b ^ k0, static_cast<unsigned int>(q),
         static_cast<unsigned int>(p >> 32) ^ w.d ^ k1, static_cast<unsigned int>(p)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return w;
}

// The middle of one of 2^23 equal parts of (0, 1): exact in float, never 0 nor 1.
NEUROGEN_FN float uniform(unsigned int word) {
  return (static_cast<float>(static_cast<int>(word >> 9)) + 0.5f) * 1.1920929e-7f;
}

// Standard normal (Box & Muller 1958), of magnitude 5.8 at most. In float whatever the compute
// type, so that a run in double sees the noise of the run in float.
NEUROGEN_FN float normal(unsigned int first, unsigned int second) {
  return sqrt(-2 * log(uniform(first))) * cos(6.2831855f * uniform(second));
}

// The noise of a call.
struct Noise {
  int64_t seed;
  int64_t first;         // time steps drawn before this call
  int64_t on;            // bit k: stream k is drawn; else it is 0
  const int64_t* place;  // index of each neuron in a contiguous time step; null where that is its own

  NEUROGEN_MEMBER bool draws(unsigned int stream) const { return on >> stream & 1; }

  NEUROGEN_MEMBER Words words(unsigned int low, unsigned int high, int64_t step,
                              unsigned int stream) const {
    return philox({low, high, static_cast<unsigned int>(first + step), stream},
                  static_cast<unsigned int>(seed), static_cast<unsigned int>(seed >> 32));
  }

  NEUROGEN_MEMBER float at(int64_t neuron, int64_t step, unsigned int stream) const {
    if (!draws(stream)) return 0;
    const int64_t index = place ? place[neuron] : neuron;
    const Words w = words(static_cast<unsigned int>(index), static_cast<unsigned int>(index >> 32),
                          step, stream);
    return normal(w.a, w.b);
  }
};

#if !(defined(__CUDACC__) || defined(__CUDACC_RTC__))
// One step of a stream for the neurons of a block; words and numbers in loops that vectorise.
template <typename real>
__attribute__((noinline)) void draw(real* to, const Noise& noise, int64_t step, unsigned int stream, int64_t first,
                 int64_t lanes) {
  if (!noise.draws(stream)) return read_block(to, static_cast<const real*>(nullptr), lanes);
  alignas(64) unsigned int low[LANES], high[LANES];
  for (int64_t i = 0; i < lanes; ++i) {
    const int64_t index = noise.place ? noise.place[first + i] : first + i;
    low[i] = static_cast<unsigned int>(index);
    high[i] = static_cast<unsigned int>(index >> 32);
  }
#pragma omp simd
  for (int64_t i = 0; i < lanes; ++i) {
    const Words w = noise.words(low[i], high[i], step, stream);
    low[i] = w.a;
    high[i] = w.b;
  }
#pragma omp simd
  for (int64_t i = 0; i < lanes; ++i) to[i] = normal(low[i], high[i]);
}
#endif

}  // namespace neurogen
