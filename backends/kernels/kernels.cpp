// All kernels in one library: compiling them together takes three quarters of the time of one by one.

#include "attention.cpp"
#include "linear.cpp"
