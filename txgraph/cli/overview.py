"""One pass in few lines: how often it rewrote, and what it was rejected for."""

from __future__ import annotations

from collections import Counter

from txgraph.explain import Explanation
from txgraph.rewrite import NearMiss

_REASONS = 3


def has_news(explanation: Explanation) -> bool:
    """Whether the pass rewrote something, or its pattern fitted somewhere and was rejected."""
    return bool(explanation.rewrites or _rejected(explanation))


def overview(explanation: Explanation) -> str:
    """The counts, then the reasons of rejections, the most frequent first, each with one of its places."""
    rejected = _rejected(explanation)
    lines = [f"{explanation.name}: {len(explanation.rewrites)} rewrites, {len(rejected)} rejected"]
    reasons = Counter(miss.reason for miss in rejected).most_common()
    for reason, count in reasons[:_REASONS]:
        first = next(miss for miss in rejected if miss.reason == reason)
        lines.append(f"  {count} x {reason}{_place(first)}")
    if len(reasons) > _REASONS:
        lines.append(f"  and {len(reasons) - _REASONS} more reasons")
    return "\n".join(lines)


def _rejected(explanation: Explanation) -> list[NearMiss]:
    return [miss for miss in explanation.near_misses if miss.complete]


def _place(miss: NearMiss) -> str:
    return f", as in {f'{miss.module} ({miss.location})'.strip()}" if miss.location else ""
