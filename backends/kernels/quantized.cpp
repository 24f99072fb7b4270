// Kernels for quantized weights, compiled when a model has some.

#include "int8_linear.cpp"
#include "weight_only.cpp"
