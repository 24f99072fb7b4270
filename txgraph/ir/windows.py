"""Windows: masks by which each query sees keys side by side, read from their formulas.

A sliding window, a band, chunks and a causal mask are one notion: query ``i`` sees the keys from ``first(i)`` on,
before ``end(i)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy
import torch

from txgraph.ir.formulas import Expression
from txgraph.ir.index_expressions import axis_symbol

QUERY, KEY = axis_symbol(1), axis_symbol(0)

Size = int | torch.SymInt
_Bound = tuple[str, Expression]


@dataclass(frozen=True)
class Window:
    """The keys that a query sees: from the largest ``first`` on, before the smallest ``end``.

    Attributes:
        first, end: formulas in the query's index and in sizes, in no order; none: no bound on that side.
    """

    first: frozenset[Expression] = frozenset()
    end: frozenset[Expression] = frozenset()

    @staticmethod
    def of(visible: Expression) -> Window | None:
        """What a mask shows, if that is a window.

        Args:
            visible: a truth value, as a formula in the indices of query and key.
        """
        bounds: list[_Bound] = []
        for condition in sympy.And.make_args(sympy.to_nnf(visible, simplify=False)):
            found = [] if condition == sympy.true else _bounds(condition)
            if found is None:
                return None
            bounds += found
        first, end = (frozenset(bound for side, bound in bounds if side == which) for which in ("first", "end"))
        return Window(first, end)

    def within(self, queries: Size, keys: Size) -> Window:
        """Without the bounds that hide none of so many keys from any of so many queries."""
        last, count = _expression(queries) - 1, _expression(keys)
        first = (bound for bound in self.first if not _never_negative(-bound, last))
        end = (bound for bound in self.end if not _never_negative(bound - count, last))
        return Window(frozenset(first), frozenset(end))


EVERYTHING = Window()
CAUSAL = Window(end=frozenset((QUERY + 1,)))


def _expression(size: Size) -> Expression:
    return sympy.Integer(size) if isinstance(size, int) else size.node.expr


def _bounds(condition: Expression) -> list[_Bound] | None:
    """The bounds on the key that a comparison is; ``None`` if it is none."""
    if isinstance(condition, sympy.Eq):
        both = [_bounds_of_slack(sign * (condition.lhs - condition.rhs)) for sign in (1, -1)]
        return None if both[0] is None or both[1] is None else both[0] + both[1]
    if isinstance(condition, sympy.Ge | sympy.Gt | sympy.Le | sympy.Lt):
        slack = sympy.expand(condition.gts - condition.lts)
        whole = sympy.ilcm(1, *(factor.q for factor in slack.as_coefficients_dict().values() if factor.is_Rational))
        return _bounds_of_slack(whole * slack - int(isinstance(condition, sympy.Gt | sympy.Lt)))
    return None


def _bounds_of_slack(slack: Expression) -> list[_Bound] | None:
    """The bounds on the key that "``slack`` is not negative" is; ``None`` if it is none.

    Of the slack one term has the key: a multiple of it, of ``floor((key + n) / d)``, or of ``-|key + n|``.
    """
    slack = sympy.expand(slack)
    if not slack.is_integer or slack.free_symbols & {axis_symbol(at) for at in range(2, 8)}:
        return None
    rest, with_key = slack.as_independent(KEY, as_Add=True)
    factor, term = with_key.as_coeff_Mul()
    if not factor.is_Integer or factor == 0:
        return None
    limit = _floor(rest / abs(factor))  # term >= -limit where the factor is positive, else term <= limit
    if term == KEY:
        return [("first", -limit)] if factor > 0 else [("end", limit + 1)]
    if isinstance(term, sympy.floor):
        return _bounds_of_quotient(term.args[0], "first" if factor > 0 else "end", -limit if factor > 0 else limit)
    if isinstance(term, sympy.Abs) and factor < 0:
        below, above = _bounds_of_slack(limit - term.args[0]), _bounds_of_slack(limit + term.args[0])
        return None if below is None or above is None else below + above
    return None


def _bounds_of_quotient(quotient: Expression, side: str, limit: Expression) -> list[_Bound] | None:
    """The bound on the key that "the quotient, rounded down, is at least (first), or at most (end), the limit" is."""
    offset, with_key = sympy.expand(quotient).as_independent(KEY, as_Add=True)
    share, key = with_key.as_coeff_Mul()
    if key != KEY or not share.is_Rational or share.p != 1 or not (offset * share.q).is_integer:
        return None
    return [(side, sympy.expand(share.q * (limit + int(side == "end") - offset)))]


def _floor(value: Expression) -> Expression:
    return sympy.expand(sympy.floor(value))


def _never_negative(formula: Expression, last: Expression) -> bool:
    """Whether a formula in the query's index is proven not to be negative, from index 0 to ``last``."""
    ends = [sympy.expand(formula.subs(QUERY, at)) for at in (0, last)]
    return _is_monotone(formula) and all(end.is_nonnegative for end in ends)


def _is_monotone(formula: Expression) -> bool:
    """Whether it only grows, or only shrinks, with the query's index."""
    signs = set()
    for term in sympy.Add.make_args(sympy.expand(formula)):
        if not term.has(QUERY):
            continue
        factor, body = term.as_coeff_Mul()
        slope = sympy.diff(body.args[0] if isinstance(body, sympy.floor) else body, QUERY)
        if not slope.is_number or slope == 0:
            return False
        signs.add(bool(factor * slope > 0))
    return len(signs) <= 1
