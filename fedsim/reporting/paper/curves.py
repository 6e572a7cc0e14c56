"""The attacks' loss curves of a run as one curve for each attack: the median over its victims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl

Losses = Mapping[str, Mapping[int, list[tuple[int, float]]]]
"""By a job's key each client's curve: (iteration, loss) in rising order, thinned. A job that kept none is left out."""

Quartiles = tuple[np.ndarray, np.ndarray]
"""Iterations (n,), and the losses (3, n): lower quartile, median, upper quartile over the victims."""


def of_rows(rows: pl.DataFrame, losses: Losses) -> Quartiles | None:
    """The curves of the victims in these rows as one; None where no curve was kept.

    Attacks stop at different iterations; a curve that ended counts with its last value from there on.
    """
    victims = rows.filter(pl.col("job").is_not_null()).select("job", "client").unique(maintain_order=True)
    return _together(losses.get(job, {}).get(client, []) for job, client in victims.iter_rows())


def _together(curves: Iterable[list[tuple[int, float]]]) -> Quartiles | None:
    finite = [np.array([point for point in curve if np.isfinite(point[1])], float).reshape(-1, 2) for curve in curves]
    kept = [curve for curve in finite if len(curve) > 1]
    if not kept:
        return None
    iterations = np.unique(np.concatenate([curve[:, 0] for curve in kept]))
    values = np.stack([np.interp(iterations, curve[:, 0], curve[:, 1]) for curve in kept])
    return iterations, np.quantile(values, [0.25, 0.5, 0.75], axis=0)
