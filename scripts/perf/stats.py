"""Medians, spreads and the honest verdict: faster only where the spreads do not overlap."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """All rounds of one figure on one side. Smaller is better."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def show(self, unit: str) -> str:
        digits = 2 if self.median < 100 else 0
        return (
            f"{self.median:.{digits}f} {unit} "
            f"({min(self.values):.{digits}f}-{max(self.values):.{digits}f})"
        )


def verdict(ours: Series, peer: Series) -> str:
    """What may be said of ours against the peer's."""
    if max(ours.values) < min(peer.values):
        return "better"
    if min(ours.values) > max(peer.values):
        return "worse"
    return "overlap"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
