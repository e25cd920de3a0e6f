// Runs CUDA text on a CPU, thread after thread: what a kernel sees of the grid. Enough for kernels
// without barriers, shuffles, shared memory and atomics, which are the only kind that neurogen emits.
#pragma once

#include <cstdint>

#define __global__
#define __device__
#define __forceinline__ inline

namespace {
struct Index {
  unsigned int x = 0, y = 0, z = 0;
};
thread_local Index blockIdx, threadIdx, blockDim, gridDim;

template <typename Arguments>
void emulate(void (*kernel)(Arguments), const Arguments& arguments, unsigned grid, unsigned block) {
  gridDim.x = grid;
  blockDim.x = block;
  for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x) kernel(arguments);
}
}  // namespace
