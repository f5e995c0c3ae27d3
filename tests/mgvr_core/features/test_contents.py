"""What a run makes of a set, as laws: nothing listed is lost, whatever other runs land in between."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mgvr_core.errors import JobError, MgvrError
from mgvr_core.features import contents
from mgvr_core.features.contents import Change, Contents, Failure, Key, Place, ShardInfo, Source, fold

KEYS = [Key(corpus, f"{letter}.mp4") for corpus in ("day", "night") for letter in "abcd"]
VIDEOS = range(6)
"""Contents that files may have."""

Look = tuple[int, int]
"""Which content a file has, and which time it was touched."""


def digest(video: int) -> str:
    return f"{video:064x}"


def failure(source: Source, kind: str = "broken") -> Failure:
    return Failure(source.key, source.id, "decode", kind, "no frame", 1, "pyav", "2026-01-01T00:00:00+00:00")


@dataclass(frozen=True)
class Listing:
    """What one run finds: the files of one corpus, and which contents it can't decode."""

    corpus: str
    files: dict[Key, Look]
    broken: frozenset[int]


@st.composite
def listings(draw: st.DrawFn, keys: list[Key] = KEYS, videos: range = VIDEOS) -> Listing:
    corpus = draw(st.sampled_from(["day", "night"]))
    mine = [key for key in keys if key.corpus == corpus]
    looks = st.tuples(st.sampled_from(videos), st.integers(0, 1))
    files = draw(st.dictionaries(st.sampled_from(mine), looks)) if mine else {}
    return Listing(corpus, files, draw(st.frozensets(st.sampled_from(videos), max_size=2)))


def run(seen: Contents, listing: Listing, shard: str) -> Change:
    """The change of a run that has looked at `seen`, in the plainest words: encode what it does not have."""
    known = {source.content_hash: source for source in seen.sources.values() if source.place}
    sources: list[Source] = []
    encoded: dict[str, Place] = {}
    for key, (video, touched) in sorted(listing.files.items()):
        found = Source(key, f"id-{video}", digest(video), 1000 + video, f"mtime:{touched}")
        before = seen.sources.get(key)
        if before is not None and replace(before, place=None) == found:
            continue
        if found.content_hash in known:
            found = replace(found, place=known[found.content_hash].place)
        elif video not in listing.broken:
            place = encoded.setdefault(digest(video), Place(shard, len(encoded)))
            found = replace(found, place=place)
        sources.append(found)
    gone = [s for key, s in seen.sources.items() if key.corpus == listing.corpus and key not in listing.files]
    made = [ShardInfo(shard, len(encoded), 100, "0" * 64)] if encoded else []
    failures = [failure(source) for source in sources if source.place is None]
    return Change(sources, gone, failures, [*seen.shards, *made])


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Contents], list[Change]]:
    """Runs that land one after the other, each of which has looked at the set some time before."""
    versions, changes = [Contents()], []
    for number in range(draw(st.integers(1, 6))):
        seen = draw(st.sampled_from(versions))
        changes.append(run(seen, draw(listings()), f"shards/{number}.parquet"))
        versions.append(fold(versions[-1], changes[-1]))
    return versions, changes


def live(head: Contents) -> Counter[Place]:
    return Counter(
        Place(shard.path, row) for shard in head.shards for row in range(shard.rows) if row not in shard.removed
    )


@given(histories())
@settings(deadline=None)
def test_rows_and_sources_belong_together_whatever_lands_in_between(history: tuple[list[Contents], object]) -> None:
    for head in history[0]:
        named = {source.place for source in head.sources.values() if source.place}
        assert set(live(head)) == named
        assert max(live(head).values(), default=1) == 1
        assert all(shard.live for shard in head.shards)
        for key, source in head.sources.items():
            assert source.key == key
            assert (source.place is None) == (key in head.failures)
        assert head.failures.keys() <= head.sources.keys()
        contents.require_known(head)


@given(histories())
@settings(deadline=None)
def test_an_id_has_one_place_and_a_place_one_id(history: tuple[list[Contents], object]) -> None:
    for head in history[0]:
        pairs = {(source.id, source.content_hash, source.place) for source in head.sources.values() if source.place}
        assert len({name for name, *_ in pairs}) == len({place for *_, place in pairs}) == len(pairs)


@given(histories())
@settings(deadline=None)
def test_a_change_that_has_landed_changes_nothing_more(history: tuple[list[Contents], list[Change]]) -> None:
    versions, changes = history
    for after, change in zip(versions[1:], changes, strict=True):
        assert fold(after, change) == after


@given(histories())
@settings(deadline=None)
def test_a_run_takes_nothing_but_what_it_saw_and_lists_no_more(history: tuple[list[Contents], list[Change]]) -> None:
    versions, changes = history
    for before, after, change in zip(versions, versions[1:], changes, strict=False):
        seen = {source.key: source for source in change.gone}
        for key in before.sources.keys() - after.sources.keys():
            assert replace(before.sources[key], place=None) == replace(seen[key], place=None)
        assert {source.key for source in change.sources} <= after.sources.keys()


@given(histories())
@settings(deadline=None)
def test_content_that_is_in_the_set_stays_where_it_is(history: tuple[list[Contents], object]) -> None:
    """Else two runs of one corpus would shift every row between their shards, for nothing."""
    for before, after in zip(history[0], history[0][1:], strict=False):
        places = {source.content_hash: source.place for source in before.sources.values() if source.place}
        for source in after.sources.values():
            if source.place and source.content_hash in places:
                assert source.place == places[source.content_hash]


@given(histories(), listings(KEYS[::2], VIDEOS[:3]), listings(KEYS[1::2], VIDEOS[3:]))
@settings(deadline=None)
def test_changes_of_other_videos_commute(history: tuple[list[Contents], object], one: Listing, other: Listing) -> None:
    head = history[0][-1]
    first, second = run(head, one, "shards/one.parquet"), run(head, other, "shards/other.parquet")
    assume(not {s.key for s in (*first.gone, *first.sources)} & {s.key for s in (*second.gone, *second.sources)})
    assert fold(fold(head, first), second) == fold(fold(head, second), first)


def test_of_two_runs_that_encode_the_same_the_first_to_land_stays() -> None:
    listing = Listing("day", {KEYS[0]: (1, 0), KEYS[1]: (2, 0)}, frozenset())
    first, second = (run(Contents(), listing, f"shards/{name}.parquet") for name in ("first", "second"))
    landed = fold(Contents(), first)
    assert fold(landed, second) == landed


def test_duplicates_share_one_row() -> None:
    listing = Listing("day", {KEYS[0]: (1, 0), KEYS[1]: (1, 0)}, frozenset())
    head = fold(Contents(), run(Contents(), listing, "shards/a.parquet"))
    assert {source.place for source in head.sources.values()} == {Place("shards/a.parquet", 0)}
    without = fold(head, Change(gone=[head.sources[KEYS[0]]]))
    assert (list(without.sources), without.shards) == ([KEYS[1]], head.shards)
    assert fold(without, Change(gone=[head.sources[KEYS[1]]])) == Contents()


ONE = Listing("day", {KEYS[0]: (1, 0)}, frozenset())


def test_a_video_goes_although_another_run_has_moved_its_features() -> None:
    """A commit rewrites shards of which little is left: that is no change of the video."""
    seen = fold(Contents(), run(Contents(), ONE, "shards/a.parquet"))
    moved = Source(*(getattr(seen.sources[KEYS[0]], name) for name in ("key", "id", "content_hash", "size", "version")))
    moved = replace(moved, place=Place("shards/b.parquet", 0))
    head = Contents({KEYS[0]: moved}, {}, (ShardInfo("shards/b.parquet", 1, 9, "1"),))
    assert fold(head, Change(gone=list(seen.sources.values()))) == Contents()


def test_features_that_have_moved_are_found_where_they_are_now() -> None:
    seen = fold(Contents(), run(Contents(), ONE, "shards/a.parquet"))
    now = replace(seen.sources[KEYS[0]], place=Place("shards/b.parquet", 0))
    head = Contents({KEYS[0]: now}, {}, (ShardInfo("shards/b.parquet", 1, 9, "1"),))
    renamed = replace(seen.sources[KEYS[0]], key=KEYS[1])
    after = fold(head, Change([renamed], list(seen.sources.values()), shards=seen.shards))
    assert after == Contents({KEYS[1]: replace(now, key=KEYS[1])}, {}, head.shards)


def test_a_video_that_another_run_has_replaced_does_not_go() -> None:
    seen = fold(Contents(), run(Contents(), ONE, "shards/a.parquet"))
    other = run(seen, Listing("day", {KEYS[0]: (2, 0)}, frozenset()), "shards/b.parquet")
    head = fold(seen, other)
    assert fold(head, Change(gone=list(seen.sources.values()))) == head


def test_a_video_that_another_run_has_encoded_does_not_go_with_its_failure() -> None:
    failed = Source(KEYS[0], "id-1", digest(1), 1001, "mtime:0")
    head = fold(Contents(), run(Contents(), ONE, "shards/a.parquet"))
    assert fold(head, Change(gone=[failed])) == head


def test_two_places_for_one_content_become_one() -> None:
    """Two runs that were killed may both have left the same video encoded."""
    shards = [ShardInfo(f"shards/{name}.parquet", 1, 9, name) for name in "ab"]
    sources = [
        Source(key, "id-1", digest(1), 1, "mtime:1", Place(shard.path, 0))
        for key, shard in zip(KEYS, shards, strict=False)
    ]
    head = fold(Contents(), Change(sources, shards=shards))
    assert {source.place for source in head.sources.values()} == {Place("shards/a.parquet", 0)}
    assert head.shards == (shards[0],)


FAILED = Source(KEYS[0], "id-1", digest(1), 1001, "mtime:0")


@pytest.mark.parametrize(
    "found",
    [
        FAILED,
        replace(FAILED, version="mtime:7"),
        replace(FAILED, content_hash=None),
        replace(FAILED, id=None, content_hash=None),
        replace(FAILED, id=None, content_hash=None, size=None, version=None),
    ],
    ids=["the same content", "touched meanwhile", "unreadable", "unreadable, without an id", "out of reach"],
)
def test_features_outlive_a_failure_of_the_same_file(found: Source) -> None:
    """Another run has landed them while this one tried."""
    head = fold(Contents(), run(Contents(), ONE, "shards/a.parquet"))
    assert fold(head, Change([found], failures=[failure(found)])) == head


@pytest.mark.parametrize(
    "found",
    [
        replace(FAILED, content_hash=digest(2)),
        replace(FAILED, id="mine"),
        replace(FAILED, content_hash=None, version="mtime:7"),
        replace(FAILED, id="mine", content_hash=None),
    ],
    ids=["other content", "another id", "unreadable since it changed", "unreadable, another id"],
)
def test_features_of_a_file_that_is_another_now_go_with_its_failure(found: Source) -> None:
    head = fold(Contents(), run(Contents(), ONE, "shards/a.parquet"))
    assert fold(head, Change([found], failures=[failure(found)])) == Contents(
        {KEYS[0]: found}, {KEYS[0]: failure(found)}
    )


def test_one_id_for_two_contents_is_refused() -> None:
    head = fold(Contents(), run(Contents(), ONE, "shards/a.parquet"))
    clash = Source(KEYS[5], "id-1", digest(2), 1, "mtime:1", Place("shards/b.parquet", 0))
    change = Change([clash], shards=[ShardInfo("shards/b.parquet", 1, 9, "1")])
    with pytest.raises(JobError, match=r"the id 'id-1' of b\.mp4 is taken by a\.mp4 \(day\), which has other content"):
        fold(head, change)


def test_an_id_may_go_over_to_other_content_with_its_file() -> None:
    head = fold(Contents(), run(Contents(), ONE, "shards/a.parquet"))
    edited = Source(KEYS[0], "id-1", digest(2), 1, "mtime:1", Place("shards/b.parquet", 0))
    after = fold(head, Change([edited], shards=[ShardInfo("shards/b.parquet", 1, 9, "1")]))
    assert (after.sources, [shard.path for shard in after.shards]) == ({KEYS[0]: edited}, ["shards/b.parquet"])


TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
TIMES = st.none() | st.floats(0, 1e6)
ANY_KEYS = st.builds(Key, TEXT, TEXT, TIMES, TIMES)
PLACES = st.none() | st.builds(Place, TEXT, st.integers(0, 2**31 - 1))
MAYBE = st.none() | TEXT
SOURCES = st.builds(Source, ANY_KEYS, MAYBE, MAYBE, st.none() | st.integers(0, 2**63 - 1), MAYBE, PLACES)
FAILURES = st.builds(Failure, ANY_KEYS, MAYBE, TEXT, TEXT, TEXT, st.integers(1, 9), TEXT, TEXT)


@given(st.dictionaries(ANY_KEYS, SOURCES), st.dictionaries(ANY_KEYS, FAILURES))
@settings(deadline=None)
def test_tables_keep_sources_and_failures_exactly(sources: dict[Key, Source], failures: dict[Key, Failure]) -> None:
    sources = {key: replace(source, key=key) for key, source in sources.items()}
    failures = {key: replace(failure, key=key) for key, failure in failures.items()}
    assert contents.read_sources(contents.source_table(sources.values())) == sources
    assert contents.read_failures(contents.failure_table(failures.values())) == failures


def test_the_order_of_a_table_does_not_depend_on_the_order_of_the_run() -> None:
    sources = [Source(key, None, None, None, None) for key in (KEYS[0]._replace(start=2.0), KEYS[1], KEYS[0])]
    assert contents.source_table(sources).equals(contents.source_table(sources[::-1]))


@given(st.builds(ShardInfo, TEXT, st.integers(0, 9), st.integers(0), TEXT, st.lists(st.integers(0)).map(tuple)))
def test_a_shard_s_entry_survives_json(shard: ShardInfo) -> None:
    assert ShardInfo.from_json(shard.to_json()) == shard


def test_attempts_of_one_video_add_up() -> None:
    again, before = failure(FAILED), replace(failure(FAILED), attempts=3)
    assert again.after(before).attempts == 4
    assert again.after(None) == again
    assert again.after(replace(before, id="id-2")) == again


def test_a_video_without_features_or_failure_is_no_version_of_a_set() -> None:
    with pytest.raises(MgvrError, match=r"a\.mp4 is neither encoded nor among the failures"):
        contents.require_known(Contents({KEYS[0]: FAILED}))


@pytest.mark.parametrize("place", [Place("shards/a.parquet", 1), Place("shards/a.parquet", -1), Place("shards/b", 0)])
def test_a_source_that_points_nowhere_is_no_version_of_a_set(place: Place) -> None:
    head = fold(Contents(), run(Contents(), ONE, "shards/a.parquet"))
    wrong = replace(head.sources[KEYS[0]], place=place)
    with pytest.raises(MgvrError, match=f"a.mp4 points at row {place.row} of {place.shard}, which is not"):
        contents.require_known(replace(head, sources={KEYS[0]: wrong}))


@pytest.mark.parametrize(
    ("read", "whole"),
    [(contents.read_sources, contents.source_table([])), (contents.read_failures, contents.failure_table([]))],
)
def test_a_table_whose_column_was_damaged_is_named(read, whole: pa.Table) -> None:
    """A flipped bit may fall into the name of a column: the file reads, and is not what was written."""
    for place, name in enumerate(whole.schema.names):
        damaged = whole.rename_columns([*whole.schema.names[:place], "x" + name[1:], *whole.schema.names[place + 1 :]])
        with pytest.raises(MgvrError, match=f"has no column {name} "):
            read(damaged)
