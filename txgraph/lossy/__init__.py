"""Lossy rewrites under a budget: how far a model may move, on which data, and what became of it."""

from txgraph.lossy.budget import Budget
from txgraph.lossy.calibration import Calibration
from txgraph.lossy.distance import Distance
from txgraph.lossy.spending import Point, Spending, Spent

__all__ = ["Budget", "Calibration", "Distance", "Point", "Spending", "Spent"]
