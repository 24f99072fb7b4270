"""Padding removal: what is computed for positions that are no tokens is not computed."""
