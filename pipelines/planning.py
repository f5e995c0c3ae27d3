"""What a run would do: the corpus against the feature set, and what that would cost."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from typing import Any

from mgvr_core.corpus import readings
from mgvr_core.corpus.files import Look, Trouble, hash_video, look, persist
from mgvr_core.corpus.plan import Comparison, Content, Listed, Plan, compare, failed_before
from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.errors import MgvrError
from mgvr_core.features.contents import Failure, Key
from mgvr_core.features.store import FeatureStore
from mgvr_core.uris import absolute, is_url, to_local
from mgvr_core.video.decoders import TRANSIENT
from pipelines.decoding import DecodingConfig
from pipelines.identifying import list_corpus
from pipelines.runtime import available_cores

_ALWAYS_SHOWN = ("new", "changed", "deleted", "unchanged", "moved")


def corpus_name(config: CorpusConfig) -> str:
    """What a corpus is called in a feature set: its address. A set can hold several; a run touches its own alone."""
    name = to_local(config.uri)
    return name.rstrip("/") if is_url(name) else str(absolute(name))


def compare_corpus(
    config: CorpusConfig,
    store: FeatureStore,
    retry: Callable[[Failure], bool],
    decoding: DecodingConfig,
    only_retries: bool = False,
) -> Comparison:
    """The corpus as it is listed now against the feature set as it is now. Looks at every file and reads none.

    `only_retries` takes for the corpus what the set has of it without features, and lists nothing.
    """
    name = corpus_name(config)
    with _no_search_for_cycles():
        head = store.contents()
        if only_retries:
            videos = failed_before(head, name)
        else:
            table = list_corpus(config)
            ids, uris, starts, ends = (table[column].to_pylist() for column in ("id", "uri", "start", "end"))
            videos = list(zip(map(Key, repeat(name), uris, starts, ends), ids, strict=True))
        looks = look([key.uri for key, _ in videos], decoding.attempts, decoding.backoff_s)
        listed = [Listed(key, own, seen, _tries(seen, decoding)) for key, own in videos for seen in (looks[key.uri],)]
        compared = compare(listed, head, name, retry)
    return replace(compared, gone=()) if only_retries else compared


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Millions of small tuples are made and kept, and none lies in a cycle: looking for those takes half the time."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


def _tries(seen: Look | Trouble, decoding: DecodingConfig) -> int:
    return decoding.attempts if isinstance(seen, Trouble) and seen.kind in TRANSIENT else 1


def read_here(compared: Comparison, store: FeatureStore, decoding: DecodingConfig) -> dict[str, Content]:
    """The contents of files, read by threads of this process and without a cluster."""
    contents = readings.known(store.storage, readings.names(store.storage), compared)
    uris = [uri for uri in compared.uris_to_read if uri not in contents]
    with ThreadPoolExecutor(2 * available_cores()) as pool:
        tried = pool.map(lambda uri: persist(lambda: hash_video(uri), decoding.attempts, decoding.backoff_s), uris)
        return contents | {uri: Content(*outcome) for uri, outcome in zip(uris, tried, strict=True)}


def too_many_deleted(plan: Plan, rate: float) -> str | None:
    """Why a run would do nothing: it would drop a large part of its corpus, as if a disk were not mounted."""
    deleted = plan.counts["deleted"]
    if deleted <= rate * plan.known:
        return None
    return (
        f"{deleted} of the {plan.known} videos that the set has of {plan.corpus} are listed no more, over "
        f"max_deleted_rate ({rate:.0%}); nothing was done. If they are meant to go: --max_deleted_rate 1"
    )


def require_few_deleted(plan: Plan, rate: float) -> None:
    """Raise MgvrError where `too_many_deleted`."""
    if reason := too_many_deleted(plan, rate):
        raise MgvrError(reason)


def describe(plan: Plan, store: FeatureStore, left: int, price_per_hour: float | None) -> dict[str, str]:
    """The plan as lines for a reader; `left` videos of it are not done yet."""
    shown = {name: str(count) for name, count in plan.counts.items() if count or name in _ALWAYS_SHOWN}
    done = len(plan.encode) - left
    found = f"; {done} of them are done, by a run that did not end" if done else ""
    return {
        "corpus": plan.corpus,
        "feature set": f"{store.url}, snapshot {store.latest() or 'none yet'}",
        **shown,
        "to encode": f"{len(plan.encode)} videos, {plan.bytes / 2**20:.1f} MiB to read{found}",
        "estimate": _estimate_text(estimate(left, store), price_per_hour),
        **({"other corpora": f"{', '.join(plan.others)} (left as they are)"} if plan.others else {}),
    }


def estimate(videos: int, store: FeatureStore) -> dict[str, float] | None:
    """Seconds and bytes of features that so many videos will take, by the last run's record; None before the first.

    A run takes a while to start, however few its videos, and then as long as its slowest stage.
    """
    run = _last_run(store)
    if run is None:
        return None
    rates = [run.get(f"{stage}_videos_per_second") for stage in ("decode", "encode", "write")]
    per_video = 1 / min(filter(None, rates)) if any(rates) else run["seconds_per_video"]
    start = max(0.0, run["seconds"] - run["tried"] * per_video) if videos else 0.0
    return {"seconds": start + videos * per_video, "bytes": videos * run["bytes_per_video"]}


def plan_json(plan: Plan, store: FeatureStore, left: int, price_per_hour: float | None) -> dict[str, Any]:
    """The plan for a program."""
    expected = estimate(left, store)
    cost = None if expected is None or price_per_hour is None else _cost(expected, price_per_hour)
    return {
        "corpus": plan.corpus,
        "features": store.url,
        "snapshot": store.latest(),
        "counts": dict(plan.counts),
        "encode": [source.key.uri for source in plan.encode],
        "done": len(plan.encode) - left,
        "bytes_to_read": plan.bytes,
        "estimate": None if expected is None else {**expected, "cost": cost},
    }


def _estimate_text(expected: dict[str, float] | None, price_per_hour: float | None) -> str:
    if expected is None:
        return "unknown: it comes from the rates of an earlier run"
    text = f"{expected['seconds']:.0f} s and {expected['bytes'] / 2**20:.1f} MiB of features, at the last run's rates"
    return text if price_per_hour is None else f"{text}; cost {_cost(expected, price_per_hour):.2f}"


def _cost(expected: dict[str, float], price_per_hour: float) -> float:
    return expected["seconds"] / 3600 * price_per_hour


def _last_run(store: FeatureStore) -> dict[str, Any] | None:
    """The record of the latest run that encoded something."""
    for number in reversed(store.numbers()):
        run = store.snapshot(number).about.get("run")
        if run and run.get("seconds_per_video") and run["encoded"] and run["bytes_per_video"]:
            return dict(run)
    return None
