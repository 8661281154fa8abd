"""A strict reader of the text format of Prometheus, for answers of `/metrics`.

It refuses what a scraper would misread: samples outside of their family, a family or
sample that comes twice, histograms that do not add up.
"""

import math
import re
from dataclasses import dataclass, field

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(
    rf"(?P<name>{NAME})(?:\{{(?P<labels>{LABEL}(?:,{LABEL})*)\}})? (?P<value>\S+)"
)
NUMBER = re.compile(r"[+-]?(?:Inf|NaN|\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


@dataclass
class Family:
    """One metric with its samples, by name and labels as they are written."""

    name: str
    kind: str
    samples: dict[str, float] = field(default_factory=dict)


def families(text: str) -> dict[str, Family]:
    """Return the families of an answer by their names.

    Raises:
        ValueError: it breaks the format; with the line.
    """
    if not text.endswith("\n"):
        raise ValueError("the last line does not end")
    found: dict[str, Family] = {}
    described = ""
    family: Family | None = None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            described = line.split(" ", 3)[2]
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if name != described or name in found:
                raise ValueError(line)
            family = found[name] = Family(name, kind)
        else:
            _add(family, line)
    for each in found.values():
        _check(each)
    return found


def _add(family: Family | None, line: str) -> None:
    sample = SAMPLE.fullmatch(line)
    if family is None or sample is None or not NUMBER.fullmatch(sample["value"]):
        raise ValueError(line)
    suffixes = SUFFIXES.get(family.kind, ("",))
    if sample["name"] not in {family.name + suffix for suffix in suffixes}:
        raise ValueError(line)
    key = line.rpartition(" ")[0]
    if key in family.samples:
        raise ValueError(line)
    family.samples[key] = float(sample["value"])


def _check(family: Family) -> None:
    if family.kind == "counter" and not family.name.endswith("_total"):
        raise ValueError(f"counter {family.name}")
    if family.kind == "counter" and any(v < 0 for v in family.samples.values()):
        raise ValueError(f"{family.name} is below 0")
    if family.kind == "histogram":
        bounds = {
            float(key.partition('le="')[2].rstrip('"}')): count
            for key, count in family.samples.items()
            if "_bucket" in key
        }
        counts = list(bounds.values())
        if list(bounds) != sorted(bounds) or counts != sorted(counts):
            raise ValueError(f"the buckets of {family.name}")
        if bounds.get(math.inf) != family.samples[f"{family.name}_count"]:
            raise ValueError(f"the count of {family.name}")
