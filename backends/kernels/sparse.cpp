// Kernels for weights that are mostly zeros, compiled when a model has some.

#include "sparse_linear.cpp"
