"""Differential fuzzing: random small models, optimized and judged against eager and float64."""

from txgraph.fuzz.judge import Finding, judge, judge_pair
from txgraph.fuzz.models import Recipe, random_recipe
from txgraph.fuzz.run import Outcome, fuzz, run
from txgraph.fuzz.shrink import shrink

__all__ = ["Finding", "Outcome", "Recipe", "fuzz", "judge", "judge_pair", "random_recipe", "run", "shrink"]
