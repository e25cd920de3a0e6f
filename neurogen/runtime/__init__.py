"""What generated code and kernels stand on: module, functional core, autograd, surrogates."""
