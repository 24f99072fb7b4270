"""A competitor whose package is not installed."""

import no_such_package  # type: ignore[import-not-found]

Competitor = no_such_package.Competitor
