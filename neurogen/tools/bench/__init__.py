"""`neurogen bench`: speed, measured beside contenders, and what can be said of CUDA without a GPU.

* `ptx` counts the bytes that a kernel moves, by executing its PTX for one thread.
* `static` compiles kernels with NVRTC: registers, spills, occupancy, bytes, the time these take.
* `contenders` makes what is measured, `measure` measures it, `report` shows either.
"""
