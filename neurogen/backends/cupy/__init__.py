"""CUDA through CuPy, fused over time."""
