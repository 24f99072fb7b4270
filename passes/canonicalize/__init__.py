"""Passes that canonicalize."""
