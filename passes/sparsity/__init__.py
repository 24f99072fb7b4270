"""Passes that take units out of a model: hidden channels and attention heads."""
