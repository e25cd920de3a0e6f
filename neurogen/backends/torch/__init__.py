"""Plain torch, one step at a time: any device, the fallback, an oracle for the kernels."""
