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
from mgvr_core.evaluation.report import DirectionKey, Manifest
from mgvr_core.evaluation.systems import System

SCHEMA = 1
_CUTS = (1, 5, 10)
_OF_ALL_JOBS = ("version", "hardware")

Key = tuple[str, str]
"""Direction and system."""


@dataclass(frozen=True)
class Placed:
    """Where a system has put the best right answer of each query.

    rank: query -> rank from 1, infinite where it is in none of the first `depth` places; depth: as far as the lists
    are known. whole: they are known to the pool's end. cut_short: they end before it, and an infinite rank says no more
    than that.
    """

    rank: Mapping[str, float]
    depth: int
    whole: bool
    cut_short: bool = False


@dataclass(frozen=True)
class Side:
    """One of the two runs, as its files have it.

    job: the command that made it. placed: of the systems whose lists are there. right: query -> ids of its right
    videos, where known. clustered: the run's own intervals draw whole videos. seconds: of the whole run. cut_short: its
    MdR and MnR have what a list lacks as one place behind the pool's last.
    """

    name: str
    source: str
    title: str
    created: str
    job: Literal["retrieve", "evaluate", "sweep"]
    systems: tuple[System, ...]
    manifest: Manifest
    protocol: Mapping[str, str] = field(default_factory=dict)
    placed: Mapping[Key, Placed] = field(default_factory=dict)
    right: Mapping[str, frozenset[str]] = field(default_factory=dict)
    clustered: bool = False
    seconds: float | None = None
    cut_short: bool = False

    def asking(self, system: System) -> set[str]:
        """Ids of what asks a system, as far as the files say: its own, else those of its direction."""
        if found := self.placed.get(_key(system)):
            return set(found.rank)
        others = [set(each.rank) for (direction, _), each in self.placed.items() if direction == system.direction]
        return set().union(*others, self.right if system.direction == "text_to_video" else ())


@dataclass(frozen=True)
class Pair:
    """A system of A beside one of B.

    shared: queries that both have, by their ids; None where a side's are not known. gain: B minus A on these, on which
    shared_a and shared_b are their figures; empty, and nothing is paired, where the lists of one are not there.
    cut_short: of A and of B, see `Side`.
    """

    direction: DirectionKey
    a: System
    b: System
    shared: int | None = None
    shared_a: Mapping[str, float] = field(default_factory=dict)
    shared_b: Mapping[str, float] = field(default_factory=dict)
    gain: Mapping[str, Gain] = field(default_factory=dict)
    interval_unit: Literal["query", "group"] = "query"
    cut_short: tuple[bool, bool] = (False, False)


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
    job: str


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


def side_by_side(
    a: Side,
    b: Side,
    created: str,
    *,
    named: Sequence[tuple[str, str]] = (),
    samples: int = SAMPLES,
    seed: int = 0,
) -> Comparison:
    """Put two runs side by side.

    named: names in A and in B to pair, in each direction that has both. Of the other systems, those of one name and
    direction are paired; where there is no pair at all, the only system of a side with every one of the other. Raises
    MgvrError where nothing can be paired, or the two have no query in common.
    """
    partners = list(_partners(a, b, named))
    if not partners:
        raise MgvrError(
            f"no system of {a.source} ({_names(a)}) has the name of one of {b.source} ({_names(b)}), so nothing can be "
            "paired: compare runs of the same systems, or one that has a single system, or pair them by name (--pair)"
        )
    pairs = tuple(_pair(a, b, one, other, samples, seed) for one, other in partners)
    known = [pair for pair in pairs if pair.shared is not None]
    if known and not any(pair.shared for pair in known):
        mine, theirs = (min(side.asking(system)) for side, system in ((a, known[0].a), (b, known[0].b)))
        raise MgvrError(
            f"{a.source} and {b.source} have no query in common: the first one has {mine!r}, for instance, "
            f"and the other {theirs!r}. Compare runs of the same queries, with the same ids"
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


def _partners(a: Side, b: Side, named: Sequence[tuple[str, str]]) -> Iterator[tuple[System, System]]:
    mine, theirs = ({_key(system): system for system in side.systems} for side in (a, b))
    chosen = [
        (one, theirs[one.direction, second])
        for first, second in dict.fromkeys(named)
        for one in a.systems
        if one.name == first and (one.direction, second) in theirs
    ]
    taken_a, taken_b = {_key(one) for one, _ in chosen}, {_key(other) for _, other in chosen}
    common = [(mine[key], theirs[key]) for key in mine if key in theirs and key not in taken_a | taken_b]
    if chosen or common:
        yield from (*chosen, *common)
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
    cut_short = a.cut_short, b.cut_short
    if first is None or second is None:
        known = (asking_a := a.asking(one)) and (asking_b := b.asking(other))
        return Pair(one.direction, one, other, len(asking_a & asking_b) if known else None, cut_short=cut_short)
    shared = [query for query in first.rank if query in second.rank]
    if not shared:
        return Pair(one.direction, one, other, 0, cut_short=cut_short)
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
        cut_short,
    )


def _measures(mine: Placed, beside: Placed, queries: Sequence[str]) -> dict[str, Measure]:
    """What both lists are long enough for; nDCG takes more than the rank of the best right answer."""
    rank = np.array([mine.rank[query] for query in queries])
    depth = min(mine.depth, beside.depth)
    both_whole = mine.whole and beside.whole
    found = {f"R@{cut}": Measure((rank <= cut).astype(float)) for cut in _CUTS if cut <= depth or both_whole}
    if both_whole and not (mine.cut_short or beside.cut_short):
        found["MnR"] = Measure(np.where(np.isinf(rank), mine.depth + 1, rank))  # a miss: behind the pool's last
    if both_whole:
        found["MRR"] = Measure(1 / rank)  # 1 / infinity is 0
    return found


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
        if pair.gain and grouped and pair.interval_unit == "query" and pair.direction == "text_to_video":
            yield (
                "Several queries describe one video, but no file says which: the intervals draw single queries and are "
                "too narrow."
            )
        if pair.gain and (shared := pair.shared or 0) < max(pair.a.queries, pair.b.queries):
            yield (
                f"{_title(pair)}: {shared:,} queries are shared, of {pair.a.queries:,} in A and "
                f"{pair.b.queries:,} in B; the differences are of those alone."
            )
    for side in (a, b):
        if side.cut_short:
            yield (
                f"{side.name} was measured from lists that are shorter than the pool: in its MdR and MnR what a list "
                "lacks stands one place behind the pool's last. They can't be compared with those of whole lists."
            )
    both = a.right.keys() & b.right.keys()
    if other := sum(a.right[query] != b.right[query] for query in both):
        yield f"{other:,} of the {len(both):,} shared queries have other right answers in A than in B."


def _title(pair: Pair) -> str:
    name = pair.a.name if pair.a.name == pair.b.name else f"{pair.a.name} and {pair.b.name}"
    return f"{pair.direction.replace('_', ' ')}, {name}"


def _about(side: Side) -> About:
    return About(side.source, side.title, side.created, side.manifest.command, side.seconds, side.job)


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
        # A key that one kind of job has and the other has not is no difference between two runs.
        alike = a.job == b.job
        shown = one.keys() | other.keys() if alike or kind in _OF_ALL_JOBS else one.keys() & other.keys()
        for key in dict.fromkeys([*one, *other]):
            first, second = one.get(key), other.get(key)
            if kind == "fingerprint" and not alike:  # a sweep names the snapshot beside it, a retrieve run apart
                first, second = (value and value.partition(", snapshot ")[0] for value in (first, second))
            if key in shown and first != second:
                yield Difference(kind, key, first, second)


def _flat(configuration: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Dotted keys -> values as JSON text."""
    found: dict[str, str] = {}
    for key, value in configuration.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = json.dumps(value, ensure_ascii=False, default=str)
    return found
