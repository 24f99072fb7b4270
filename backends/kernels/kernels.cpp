// All kernels in one library: compiling them together takes half as long as one by one.

#include "attention.cpp"
#include "linear.cpp"
