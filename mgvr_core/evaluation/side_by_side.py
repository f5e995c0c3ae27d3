"""Two runs side by side: paired differences on the queries that both have answered, and all that tells them apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.bootstrap import LEVEL, SAMPLES, Gain, paired_gains
from mgvr_core.evaluation.metrics import Measure
from mgvr_core.evaluation.pages import to_json
from mgvr_core.evaluation.report import Manifest
from mgvr_core.evaluation.systems import System

SCHEMA = 1
_CUTS = (1, 5, 10)

Key = tuple[str, str]
"""Direction and system."""


@dataclass(frozen=True)
class Placed:
    """Where a system has put the best right answer of each query.

    rank: query -> rank from 1, infinite where it is in none of the first `depth` places; depth: as far as the lists
    are known. whole: they are known to the pool's end.
    """

    rank: Mapping[str, float]
    depth: int
    whole: bool


@dataclass(frozen=True)
class Side:
    """One of the two runs, as its files have it.

    placed: of the systems whose lists are there. right: query -> ids of its right videos, where known. clustered: the
    run's own intervals draw whole videos. seconds: of the whole run.
    """

    name: str
    source: str
    title: str
    created: str
    systems: tuple[System, ...]
    manifest: Manifest
    protocol: Mapping[str, str] = field(default_factory=dict)
    placed: Mapping[Key, Placed] = field(default_factory=dict)
    right: Mapping[str, frozenset[str]] = field(default_factory=dict)
    clustered: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class Pair:
    """A system of A beside one of B. gain: B minus A on the `shared` queries, on which a and b are their figures.

    shared is 0, and nothing is paired, where the lists of one are not there.
    """

    direction: Literal["text_to_video", "video_to_text"]
    a: System
    b: System
    shared: int = 0
    shared_a: Mapping[str, float] = field(default_factory=dict)
    shared_b: Mapping[str, float] = field(default_factory=dict)
    gain: Mapping[str, Gain] = field(default_factory=dict)
    interval_unit: Literal["query", "group"] = "query"


@dataclass(frozen=True)
class Difference:
    """Something in which the two runs differ; None where one has no such key."""

    kind: str
    key: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class About:
    """A run in a line."""

    source: str
    title: str
    created: str
    command: str
    seconds: float | None


@dataclass(frozen=True)
class Comparison:
    """What `compare.json` holds. alone: systems that the other run has not, as (direction, name)."""

    a: About
    b: About
    created: str
    pairs: tuple[Pair, ...]
    alone_a: tuple[Key, ...] = ()
    alone_b: tuple[Key, ...] = ()
    differences: tuple[Difference, ...] = ()
    warnings: tuple[str, ...] = ()
    level: float = LEVEL
    resamples: int = SAMPLES
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The document as JSON text. Raises MgvrError where a number is NaN or infinite, naming its key."""
        return to_json(asdict(self), "comparison")


def side_by_side(a: Side, b: Side, created: str, *, samples: int = SAMPLES, seed: int = 0) -> Comparison:
    """Put two runs side by side.

    Systems of one name and direction are paired; where no name is common, the only system of a side with every one of
    the other. Raises MgvrError where nothing can be paired, or the two have no query in common.
    """
    partners = list(_partners(a, b))
    if not partners:
        raise MgvrError(
            f"no system of {a.source} ({_names(a)}) has the name of one of {b.source} ({_names(b)}), so nothing can be "
            "paired: compare runs of the same systems, or one that has a single system"
        )
    pairs = tuple(_pair(a, b, one, other, samples, seed) for one, other in partners)
    listed = [pair for pair in pairs if _key(pair.a) in a.placed and _key(pair.b) in b.placed]
    if listed and not any(pair.shared for pair in listed):
        mine, theirs = (
            next(iter(side.placed[_key(system)].rank), "none") for side, system in ((a, listed[0].a), (b, listed[0].b))
        )
        raise MgvrError(
            f"{a.source} and {b.source} have no query in common: the first one's ids begin with {mine!r}, the "
            f"other's with {theirs!r}. Compare runs of the same queries, with the same ids"
        )
    seen_a, seen_b = {_key(pair.a) for pair in pairs}, {_key(pair.b) for pair in pairs}
    return Comparison(
        a=_about(a),
        b=_about(b),
        created=created,
        pairs=pairs,
        alone_a=tuple(key for key in map(_key, a.systems) if key not in seen_a),
        alone_b=tuple(key for key in map(_key, b.systems) if key not in seen_b),
        differences=tuple(_differences(a, b)),
        warnings=tuple(dict.fromkeys(_warnings(a, b, pairs))),
        resamples=samples,
    )


def _key(system: System) -> Key:
    return system.direction, system.name


def _names(side: Side) -> str:
    names = list(dict.fromkeys(system.name for system in side.systems))
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def _partners(a: Side, b: Side) -> Iterator[tuple[System, System]]:
    theirs = {_key(system): system for system in b.systems}
    common = [(system, theirs[_key(system)]) for system in a.systems if _key(system) in theirs]
    if common:
        yield from common
        return
    for direction in ("text_to_video", "video_to_text"):
        first, second = (_able(side, direction) for side in (a, b))
        if 1 in (len(first), len(second)):
            yield from ((one, other) for one in first for other in second)


def _able(side: Side, direction: str) -> list[System]:
    """The systems of a direction whose lists are there, or all where none has any."""
    systems = [system for system in side.systems if system.direction == direction]
    return [system for system in systems if _key(system) in side.placed] or systems


def _pair(a: Side, b: Side, one: System, other: System, samples: int, seed: int) -> Pair:
    first, second = a.placed.get(_key(one)), b.placed.get(_key(other))
    if first is None or second is None:
        return Pair(one.direction, one, other)
    shared = [query for query in first.rank if query in second.rank]
    if not shared:
        return Pair(one.direction, one, other)
    ours, others = _measures(first, second, shared), _measures(second, first, shared)
    groups = _groups(a, b, shared) if one.direction == "text_to_video" else None
    return Pair(
        one.direction,
        one,
        other,
        len(shared),
        {name: measure.value for name, measure in ours.items()},
        {name: measure.value for name, measure in others.items()},
        paired_gains(others, ours, samples=samples, seed=seed, groups=groups),
        "query" if groups is None else "group",
    )


def _measures(mine: Placed, beside: Placed, queries: Sequence[str]) -> dict[str, Measure]:
    """What both lists are long enough for."""
    rank = np.array([mine.rank[query] for query in queries])
    depth = min(mine.depth, beside.depth)
    both_whole = mine.whole and beside.whole
    found = {f"R@{cut}": Measure((rank <= cut).astype(float)) for cut in _CUTS if cut <= depth or both_whole}
    return {**found, **({"MRR": Measure(1 / rank)} if both_whole else {})}  # 1 / infinity is 0


def _groups(a: Side, b: Side, queries: Sequence[str]) -> list[str] | None:
    """The right videos of each query, where some have the same: such queries are drawn together."""
    for side in (a, b):
        named = ["\0".join(sorted(side.right.get(query, ()))) for query in queries]
        if all(named):
            return named if len(set(named)) < len(named) else None
    return None


def _warnings(a: Side, b: Side, pairs: Sequence[Pair]) -> Iterator[str]:
    for pair in pairs:
        if pair.a.pool != pair.b.pool:
            yield (
                f"The pools differ ({pair.direction.replace('_', ' ')}: {pair.a.pool:,} items in A, {pair.b.pool:,} in "
                "B): the smaller one is the easier, so that these figures can't be compared."
            )
        if pair.a.transductive != pair.b.transductive:
            yield f"{_title(pair)}: only {'A' if pair.a.transductive else 'B'} has read the other test queries."
        grouped = a.clustered or b.clustered
        if pair.shared and grouped and pair.interval_unit == "query" and pair.direction == "text_to_video":
            yield (
                "Several queries describe one video, but no file says which: the intervals draw single queries and are "
                "too narrow."
            )
        if 0 < pair.shared < max(pair.a.queries, pair.b.queries):
            yield (
                f"{_title(pair)}: {pair.shared:,} queries are shared, of {pair.a.queries:,} in A and "
                f"{pair.b.queries:,} in B; the differences are of those alone."
            )
    both = a.right.keys() & b.right.keys()
    if other := sum(a.right[query] != b.right[query] for query in both):
        yield f"{other:,} of the {len(both):,} shared queries have other right answers in A than in B."


def _title(pair: Pair) -> str:
    name = pair.a.name if pair.a.name == pair.b.name else f"{pair.a.name} and {pair.b.name}"
    return f"{pair.direction.replace('_', ' ')}, {name}"


def _about(side: Side) -> About:
    return About(side.source, side.title, side.created, side.manifest.command, side.seconds)


def _differences(a: Side, b: Side) -> Iterator[Difference]:
    kinds = {
        "protocol": (a.protocol, b.protocol),
        "configuration": (_flat(a.manifest.configuration), _flat(b.manifest.configuration)),
        "fingerprint": (a.manifest.fingerprints, b.manifest.fingerprints),
        "version": (a.manifest.versions, b.manifest.versions),
        "hardware": (a.manifest.hardware, b.manifest.hardware),
        "seed": ({"seed": str(a.manifest.seed)}, {"seed": str(b.manifest.seed)}),
    }
    for kind, (one, other) in kinds.items():
        for key in dict.fromkeys([*one, *other]):
            if one.get(key) != other.get(key):
                yield Difference(kind, key, one.get(key), other.get(key))


def _flat(configuration: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Dotted keys -> values as JSON text."""
    found: dict[str, str] = {}
    for key, value in configuration.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = json.dumps(value, ensure_ascii=False, default=str)
    return found
