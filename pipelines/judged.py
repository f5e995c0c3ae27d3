"""What an evaluation is judged by: the queries, the pool and the right answers, from whichever files say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mgvr_core.config import Section
from mgvr_core.datasets.benchmarks.catalogue import read_benchmark
from mgvr_core.datasets.benchmarks.check import evaluation_rows, list_warnings
from mgvr_core.datasets.queries import QueriesConfig, read_queries
from mgvr_core.datasets.tables import SUFFIXES, read_rows
from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.trec import read_qrels, read_run
from mgvr_core.evaluation.truth import Truth
from mgvr_core.uris import to_local

Lists = Mapping[str, Sequence[tuple[str, float]]]
"""Query id -> (video id, score), best first."""

_NAMED = 3


@dataclass(frozen=True)
class Judged:
    """The truth, and what a reader of the figures must know of it.

    truth: of the queries that have right answers. rows: theirs in a matrix that has `total` of them. source: the files
    that say so, in words; files: themselves. protocol: name -> value, as shown.
    """

    truth: Truth
    source: str
    total: int
    rows: tuple[int, ...]
    protocol: Mapping[str, str]
    title: str
    files: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


def by_benchmark(name: str, annotations: Path) -> Judged:
    """By a benchmark's annotation files; raises MgvrError as their reader does."""
    found = read_benchmark(name, annotations)
    queries = found.queries
    truth = Truth(tuple(query.id for query in queries), found.videos, tuple(query.relevant for query in queries))
    warnings = (*list_warnings(found), *found.notes)
    rows = tuple(range(len(queries)))
    title = found.protocol.title
    return _checked(
        Judged(truth, str(annotations), len(rows), rows, evaluation_rows(found), title, found.files, warnings)
    )


def with_lists(judged: Judged, run: Path, lists: Lists) -> Judged:
    """The same for the lists of a run, which a benchmark judges.

    Raises MgvrError where the run has a query or a video that the benchmark has not, or a list a video twice.
    """
    truth = judged.truth
    asked, pool = set(truth.queries), set(truth.videos)
    foreign = [query for query in lists if query not in asked]
    if foreign:
        raise MgvrError(
            f"{run}: {_some(foreign, len(lists), 'queries')} are none of {judged.source}, which asks "
            f"{_few(truth.queries)}. The ids of a run's queries must be those of the annotation files, as mgvr dataset "
            "writes them; other queries are judged by qrels"
        )
    named = _listed(run, lists)
    strange = [video for video in named if video not in pool]
    if strange:
        raise MgvrError(
            f"{run}: {_some(strange, len(named), 'videos')} are not in the pool of {judged.source}, which has "
            f"{_few(truth.videos)}. A run over another pool is judged by qrels and videos"
        )
    warnings = [*judged.warnings, *_missed(lists, truth, "the benchmark")]
    if lost := len(pool) - len(named):
        warnings.append(
            f"{lost:,} of the pool's {len(pool):,} videos are in no list of the run. If they were not searched, its "
            "pool is smaller, and its figures can't be compared with those of the whole one."
        )
    return replace(judged, warnings=tuple(warnings))


def by_queries(queries: QueriesConfig, videos: Path) -> Judged:
    """By a file of queries that names their right videos, and the list of the pool."""
    table = read_queries(queries).to_pydict()
    rows = tuple(row for row, right in enumerate(table["relevant"]) if right)
    truth = Truth(
        tuple(table["id"][row] for row in rows),
        read_videos(videos),
        tuple(tuple(table["relevant"][row]) for row in rows),
    )
    total, left = len(table["id"]), len(table["id"]) - len(rows)
    warnings = (f"{left:,} of {total:,} queries name no right video: they are not measured.",) if left else ()
    source = f"{queries.uri} and {videos}"
    file = Path(to_local(queries.uri))
    return _checked(Judged(truth, source, total, rows, {}, file.stem, (file, videos), warnings))


def by_qrels(qrels: Path, run: Path, lists: Lists, videos: Path | None) -> Judged:
    """By a TREC qrels file, for the lists of a run.

    Without a list of the pool it is what the run and the qrels name: a run's lists may be shorter than the pool is.
    Raises MgvrError where a list has a video twice, or one that is not in the pool.
    """
    with _reading(qrels):
        right = {query: tuple(found) for query, found in read_qrels(qrels).items() if found}
    named = _listed(run, lists)
    pool = tuple(sorted(set(named).union(*right.values()))) if videos is None else read_videos(videos)
    known = set(pool)
    for query, hits in lists.items():
        for video, _ in hits:
            if video not in known:
                raise MgvrError(f"{run}: query {query!r} lists the video {video!r}, which {videos} does not have")
    warnings = []
    if unjudged := len(lists.keys() - right.keys()):
        warnings.append(f"{unjudged:,} queries of the run have no right video in the qrels: they are not measured.")
    truth = Truth(tuple(right), pool, tuple(right.values()))
    warnings += _missed(lists, truth, "the qrels")
    protocol = {"pool taken from": "what the run and the qrels name" if videos is None else videos.name}
    everything = tuple(range(len(right)))
    files = (qrels,) if videos is None else (qrels, videos)
    return _checked(Judged(truth, str(qrels), len(right), everything, protocol, run.stem, files, tuple(warnings)))


def _listed(run: Path, lists: Lists) -> dict[str, None]:
    """The videos that a run names, in its order; raises MgvrError where a list has one twice."""
    found: dict[str, None] = {}
    for query, hits in lists.items():
        listed: set[str] = set()
        for video, _ in hits:
            if video in listed:
                raise MgvrError(f"{run}: the list of query {query!r} has the video {video!r} twice: remove one")
            listed.add(video)
            found[video] = None
    return found


def _missed(lists: Lists, truth: Truth, source: str) -> Iterator[str]:
    """What a reader must know of queries without a list, and of lists without a right video."""
    right = dict(zip(truth.queries, truth.relevant, strict=True))
    if silent := len(right.keys() - lists.keys()):
        yield f"{silent:,} queries of {source} have no list in the run: they count as misses."
    found = sum(any(video in right[query] for video, _ in lists.get(query, ())) for query in right)
    if found < len(right):
        yield (
            f"{len(right) - found:,} of {len(right):,} queries have no right video in their list: they count as misses "
            "and, in MdR and MnR, as one place behind the pool's last. Those two are no figures of the whole pool."
        )


def _some(ids: Sequence[str], total: int, what: str) -> str:
    return f"{len(ids):,} of {total:,} {what} ({_few(ids)})"


def _few(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return f"{', '.join(map(repr, ids[:_NAMED]))}{more}"


def read_lists(run: Path) -> Lists:
    """The lists of a TREC run; raises MgvrError where it can't be read, or has none."""
    with _reading(run):
        lists = read_run(run)
    if not lists:
        raise MgvrError(f"{run} has no lists: is it whole? Every query would count as a miss")
    return lists


def _checked(found: Judged) -> Judged:
    """Raises MgvrError where nothing can be measured."""
    truth = found.truth
    if not truth.queries:
        raise MgvrError(f"{found.source}: no query names a right video, so there is nothing to measure")
    if not len(truth.asking):
        raise MgvrError(
            f"{found.source}: no right video is in the pool: {truth.relevant[0][0]!r} is right for query "
            f"{truth.queries[0]!r}, and the pool begins with {truth.videos[0]!r}. Are these ids of the same kind?"
        )
    return found


class _VideoColumns(Section):
    id: str = "id"


def read_videos(path: Path) -> tuple[str, ...]:
    """The ids of a pool in their order: a table with the column id (rows of one id are one video), or an id a line.

    Raises MgvrError for what can't be read, a row without an id, and in a list of lines an id that comes twice.
    """
    if path.suffix.lower() in SUFFIXES:
        rows = read_rows(path, _VideoColumns(), required=("id",))
        ids = rows.texts("id")
        if None in ids:
            raise rows.error(
                ids.index(None), "the id is empty: the order of a matrix's columns needs one of every video"
            )
        found = dict.fromkeys(str(name) for name in ids)
    else:
        found = {}
        with _reading(path):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        for number, line in enumerate(lines, start=1):
            if (name := line.strip()) in found:
                raise MgvrError(f"{path}, line {number}: the video {name!r} comes twice: remove one of them")
            if name:
                found[name] = None
    if not found:
        raise MgvrError(f"{path} names no videos")
    return tuple(found)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Names the file where it can't be read as text."""
    try:
        yield
    except OSError as error:
        raise MgvrError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise MgvrError(f"{path} is not UTF-8 text: save it as UTF-8") from None
