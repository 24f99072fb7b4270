"""Passes that fuse."""
