"""Kernels of our own, behind ``txgraph::`` operators, where nothing in torch serves as well."""
