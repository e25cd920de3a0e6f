"""C++ for the CPU, fused over time."""
