"""Plain torch, one step at a time: any device, the fallback, and an oracle for the fused kernels."""
