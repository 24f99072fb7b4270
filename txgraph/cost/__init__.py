"""Predicted time on a target: FLOPs, bytes and the roofline of described or measured hardware."""
