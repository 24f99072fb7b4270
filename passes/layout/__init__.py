"""Passes that move operators to where they cost less."""
