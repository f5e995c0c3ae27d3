"""What holds of plans whatever two corpora have been through, run after run."""

from __future__ import annotations

from corpus_worlds import File, Set, World, digest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgvr_core.corpus.plan import CATEGORIES
from mgvr_core.features.contents import Key

TROUBLES = st.sampled_from(["missing", "network", "not_a_video"])
FILES = st.builds(
    File,
    text=st.sampled_from(["a", "b", "c", "bad", "bad too"]),
    mtime=st.integers(1, 2),
    look=st.just("") | TROUBLES,
    read=st.just("") | TROUBLES,
    start=st.none() | st.just(1.5),
)


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, World]:
    """A listing of one of two corpora; with ids of the user's for all of it, or without."""
    corpus, own = draw(st.sampled_from("AB")), draw(st.booleans())
    world = draw(st.dictionaries(st.sampled_from("123456"), FILES, max_size=6))
    return corpus, {uri: file._replace(id=f"{corpus}{uri}" if own else None) for uri, file in world.items()}


HISTORIES = st.lists(steps(), min_size=1, max_size=5)


@settings(deadline=None)
@given(HISTORIES)
def test_every_video_is_counted_once(history: list[tuple[str, World]]) -> None:
    files = Set()
    for corpus, world in history:
        had = {key for key in files.head.sources if key.corpus == corpus}
        plan = files.run(world, corpus)
        assert set(plan.counts) == set(CATEGORIES)
        assert sum(plan.counts.values()) - plan.counts["deleted"] == len(world)
        now = {Key(corpus, uri, file.start, file.end) for uri, file in world.items()}
        assert plan.counts["deleted"] + plan.counts["moved"] == len(had - now)
        assert plan.known == len(had)
        assert plan.bytes == sum(source.size for source in plan.encode)


@settings(deadline=None)
@given(HISTORIES)
def test_what_the_set_has_is_never_encoded_again(history: list[tuple[str, World]]) -> None:
    files = Set()
    for corpus, world in history:
        has = {(source.id, source.content_hash) for source in files.head.sources.values() if source.place}
        planned = [(source.id, source.content_hash) for source in files.run(world, corpus).encode]
        assert len(planned) == len(set(planned))
        assert not has & set(planned)


@settings(deadline=None)
@given(HISTORIES)
def test_when_a_plan_is_done_the_same_listing_asks_for_nothing(history: list[tuple[str, World]]) -> None:
    files = Set()
    for corpus, world in history:
        files.run(world, corpus)
        before = files.head
        compared = files.compare(world, corpus)
        # Only a file that looks new and could not be read while its features stay is read again.
        assert all(world[uri].read and files.source(uri, corpus).place for uri in compared.uris_to_read)
        again = files.run(world, corpus)
        assert again.empty
        assert files.head == before


@settings(deadline=None)
@given(HISTORIES)
def test_when_a_plan_is_done_every_video_has_its_own_features_or_a_reason(history: list[tuple[str, World]]) -> None:
    files = Set()
    for corpus, world in history:
        before = files.head.sources
        others = {key: source for key, source in before.items() if key.corpus != corpus}
        plan = files.run(world, corpus)
        listed = {Key(corpus, uri, file.start, file.end): file for uri, file in world.items()}
        mine = {key: source for key, source in files.head.sources.items() if key.corpus == corpus}
        assert mine.keys() == listed.keys()
        assert files.head.failures.keys() == {key for key, source in files.head.sources.items() if not source.place}
        assert {key: source for key, source in files.head.sources.items() if key.corpus != corpus} == others
        for source in files.head.sources.values():
            assert source.place is None or files.rows[source.place] == (source.id, source.content_hash)
        by_content = {(source.id, source.content_hash): source.place for source in mine.values() if source.place}
        assert len(set(by_content.values())) == len(by_content)
        if not plan.counts["unreachable"]:
            for key, file in listed.items():
                assert mine[key].place is None or mine[key].content_hash == digest(file.text)
                if mine[key] != before.get(key):  # what looks as it did is not read, whatever would come of it
                    readable = not (file.look or file.read)
                    assert (mine[key].place is not None) == (readable and not file.text.startswith("bad"))
