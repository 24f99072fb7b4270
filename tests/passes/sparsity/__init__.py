"""Tests of passes/sparsity/."""
