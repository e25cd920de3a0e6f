// Random numbers that are a function of where they stand, so that they need not be stored: Philox
// 4x32-10 (Salmon, Moraes, Dror & Shaw 2011, Parallel random numbers: as easy as 1, 2, 3) of the
// counter (neuron low, neuron high, step, stream) under a 64-bit key, the seed. The same bits as
// C++ and as CUDA text, and those of runtime/noise.py.
#pragma once

#include "neurogen/kernel.h"

namespace neurogen {

struct Words {
  unsigned int w[4];
};

// Ten rounds; between them the key goes on by the golden ratio and the square root of 3, less 1.
NEUROGEN_FN Words philox(Words c, unsigned int k0, unsigned int k1) {
  for (int round = 0; round < 10; ++round) {
    const unsigned long long p0 = 0xD2511F53ull * c.w[0], p1 = 0xCD9E8D57ull * c.w[2];
    const unsigned int high0 = static_cast<unsigned int>(p0 >> 32);
    const unsigned int high1 = static_cast<unsigned int>(p1 >> 32);
    c = {{high1 ^ c.w[1] ^ k0, static_cast<unsigned int>(p1), high0 ^ c.w[3] ^ k1,
          static_cast<unsigned int>(p0)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
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

// Where the noise of a call begins.
struct Noise {
  int64_t seed;
  int64_t first;         // time steps drawn before this call
  int64_t on;            // bit k: stream k is drawn; else it is 0
  const int64_t* place;  // index of each neuron in a contiguous time step; null where that is its own

  NEUROGEN_MEMBER float at(int64_t neuron, int64_t step, unsigned int stream) const {
    const unsigned long long index = place ? place[neuron] : neuron, key = seed;
    const Words words = philox({{static_cast<unsigned int>(index),
                                 static_cast<unsigned int>(index >> 32),
                                 static_cast<unsigned int>(first + step), stream}},
                               static_cast<unsigned int>(key),
                               static_cast<unsigned int>(key >> 32));
    return on >> stream & 1 ? normal(words.w[0], words.w[1]) : 0.0f;
  }
};

// One step of a stream, for the neurons of a block.
#if !(defined(__CUDACC__) || defined(__CUDACC_RTC__))
template <typename real>
inline void draw(real* to, const Noise noise, int64_t step, unsigned int stream, int64_t first,
                 int64_t lanes) {
#pragma omp simd
  for (int64_t i = 0; i < lanes; ++i) to[i] = noise.at(first + i, step, stream);
}
#endif

}  // namespace neurogen
