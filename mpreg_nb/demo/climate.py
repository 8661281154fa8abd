"""Weekly carbon dioxide at Mauna Loa, 1958 to 2001: from the file to an answer.

The series was measured by C. D. Keeling and T. P. Whorf (Scripps Institution of
Oceanography) and comes inside the package statsmodels. Some weeks are missing.
Each function is one step of a workflow; none knows of a cluster.
"""

import itertools
import statistics
from datetime import date, timedelta
from typing import Any

from mpreg_nb.demo.datasets import measured

Week = tuple[date, float]

MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def ingest(series: str) -> list[tuple[str, str]]:
    """Return the rows of a measured series as they stand in the file."""
    rows = measured(series)
    print(f"read {len(rows)} weeks of {series}")
    return [(week, value) for week, value in rows]


def validate(rows: list[tuple[str, str]], longest_gap: int = 8) -> dict[str, Any]:
    """Check dates and values; fill gaps of up to `longest_gap` weeks by a line.

    Returns `weeks` (date, ppm), and how many were `missing` and `filled`.
    """
    measured: dict[date, float] = {}
    missing = 0
    for day, value in rows:
        week = date(int(day[:4]), int(day[4:6]), int(day[6:]))
        try:
            ppm = float(value)
        except ValueError:
            missing += 1
            continue
        if not 250 < ppm < 500:
            raise ValueError(f"{ppm} ppm in the week of {week} cannot be right")
        measured[week] = ppm
    filled: list[Week] = []
    known = sorted(measured)
    for before, after in itertools.pairwise(known):
        gap = (after - before).days // 7
        if 1 < gap <= longest_gap + 1:
            step = (measured[after] - measured[before]) / gap
            for number in range(1, gap):
                week = before + timedelta(weeks=number)
                filled.append((week, measured[before] + step * number))
    weeks = sorted([*measured.items(), *filled])
    print(f"{missing} weeks missing, {len(filled)} of them filled")
    return {"weeks": weeks, "missing": missing, "filled": len(filled)}


def trend(weeks: list[Week]) -> dict[str, float]:
    """Return the slope of a line through each decade, in ppm a year."""
    slopes: dict[str, float] = {}
    for decade in range(1960, 2000, 10):
        part = [(week, ppm) for week, ppm in weeks if decade <= week.year < decade + 10]
        years = [week.toordinal() / 365.2425 for week, _ in part]
        fit = statistics.linear_regression(years, [ppm for _, ppm in part])
        slopes[f"{decade}s"] = round(fit.slope, 2)
    return slopes


def season(weeks: list[Week]) -> dict[str, float]:
    """Return by how many ppm each month stands above or below its year."""
    values = [ppm for _, ppm in weeks]
    apart: dict[int, list[float]] = {month: [] for month in range(1, 13)}
    for place in range(26, len(weeks) - 26):
        year_around = statistics.fmean(values[place - 26 : place + 27])
        apart[weeks[place][0].month].append(values[place] - year_around)
    return {
        MONTHS[month - 1]: round(statistics.fmean(differences), 2)
        for month, differences in apart.items()
    }


def noise(weeks: list[Week]) -> float:
    """Return how much one week differs from its neighbours, in ppm (median)."""
    values = [ppm for _, ppm in weeks]
    jumps = [
        abs(values[place] - (values[place - 1] + values[place + 1]) / 2)
        for place in range(1, len(values) - 1)
    ]
    return round(statistics.median(jumps), 2)


def report(
    clean: dict[str, Any],
    slopes: dict[str, float],
    months: dict[str, float],
    weekly_noise: float,
) -> str:
    """Return what a person wants to know from all of it."""
    weeks = clean["weeks"]
    first, last = weeks[0], weeks[-1]
    high = max(months, key=lambda month: months[month])
    low = min(months, key=lambda month: months[month])
    growth = ", ".join(f"{decade} {slope:+.2f}" for decade, slope in slopes.items())
    decades = list(slopes)
    faster = slopes[decades[-1]] / slopes[decades[0]]
    return "\n".join(
        [
            f"Carbon dioxide at Mauna Loa, {first[0]} to {last[0]}",
            f"  rose from {first[1]:.1f} to {last[1]:.1f} ppm;",
            f"  growth in ppm a year: {growth},",
            f"  {faster:.1f} times as fast in the {decades[-1]} as in the "
            f"{decades[0]};",
            f"  each year swings by {months[high] - months[low]:.1f} ppm, "
            f"highest in {high}, lowest in {low};",
            f"  a single week is uncertain by about {weekly_noise} ppm.",
            f"  {len(weeks)} weeks; {clean['missing']} were missing, "
            f"{clean['filled']} of those filled.",
        ]
    )
