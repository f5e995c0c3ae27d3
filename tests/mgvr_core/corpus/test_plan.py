"""What a run will do: every video in one category, nothing encoded twice, and nothing to do once it is done."""

from __future__ import annotations

from dataclasses import replace

import pytest
from corpus_worlds import NOW, File, Set, counted, digest, made, trouble, uris

from mgvr_core.corpus.plan import CATEGORIES, Listed, compare, content_id, decide, failed_before, placed
from mgvr_core.errors import MgvrError
from mgvr_core.features.contents import Contents, Failure, Key, Place


def test_every_category_is_counted_even_where_nothing_is_in_it() -> None:
    assert dict(Set().plan({}).counts) == dict.fromkeys(CATEGORIES, 0)


def test_into_an_empty_set_everything_is_new() -> None:
    plan = Set().plan({"1": File("a"), "2": File("b")})
    assert counted(plan) == {"new": 2}
    assert uris(plan.encode) == ["1", "2"]
    assert (plan.bytes, plan.known) == (2, 0)


def test_what_is_as_it_was_is_unchanged_and_not_read() -> None:
    files = made({"1": File(), "2": File("b")})
    compared = files.compare({"1": File(), "2": File("b")})
    assert compared.uris_to_read == []
    plan = decide(compared, {}, NOW)
    assert counted(plan) == {"unchanged": 2}
    assert plan.empty


def test_a_file_that_was_only_touched_is_read_once_more_and_never_again() -> None:
    files = made({"1": File(mtime=1)})
    place = files.source("1").place
    plan = files.run({"1": File(mtime=2)})
    assert counted(plan) == {"unchanged": 1}
    assert plan.encode == ()
    assert files.source("1").place == place
    assert files.compare({"1": File(mtime=2)}).uris_to_read == []


def test_other_content_under_the_same_name_is_changed() -> None:
    files = made({"1": File("a")})
    plan = files.run({"1": File("b", mtime=2)})
    assert counted(plan) == {"changed": 1}
    assert files.rows[files.source("1").place] == (content_id(digest("b"), Key("A", "1")), digest("b"))
    assert not any(shard.path == "shards/1" for shard in files.head.shards)  # the old features are not kept


def test_the_same_content_under_another_name_has_moved() -> None:
    files = made({"1": File("a")})
    place = files.source("1").place
    plan = files.run({"2": File("a", mtime=9)})
    assert counted(plan) == {"moved": 1}
    assert plan.encode == ()
    assert [key.uri for key in files.head.sources] == ["2"]
    assert files.source("2").place == place


def test_what_is_listed_no_more_is_deleted() -> None:
    files = made({"1": File("a"), "2": File("b")})
    plan = files.run({"2": File("b")})
    assert counted(plan) == {"deleted": 1, "unchanged": 1}
    assert [key.uri for key in files.head.sources] == ["2"]


def test_of_two_copies_that_go_and_one_that_comes_one_has_moved() -> None:
    files = made({"1": File("a"), "2": File("a"), "3": File("b")})
    assert counted(files.plan({"4": File("a"), "3": File("b")})) == {"moved": 1, "deleted": 1, "unchanged": 1}


def test_of_one_that_goes_and_two_copies_that_come_one_has_moved() -> None:
    assert counted(made({"1": File("a")}).plan({"2": File("a"), "3": File("a")})) == {"moved": 1, "duplicate": 1}


def test_exact_duplicates_are_encoded_once_and_listed_under_all_their_names() -> None:
    files = Set()
    plan = files.run({"1": File("a"), "2": File("a", mtime=7), "3": File("a", mtime=8)})
    assert counted(plan) == {"new": 1, "duplicate": 2}
    assert uris(plan.encode) == ["1"]
    assert len(files.rows) == 1
    assert len({files.source(uri).place for uri in "123"}) == 1


def test_a_copy_of_what_the_set_has_is_not_encoded() -> None:
    files = made({"1": File("a")})
    plan = files.run({"1": File("a"), "2": File("a", mtime=5)})
    assert counted(plan) == {"unchanged": 1, "duplicate": 1}
    assert plan.encode == ()
    assert files.source("2").place == files.source("1").place


def test_one_of_two_copies_may_go() -> None:
    files = made({"1": File("a"), "2": File("a")})
    files.run({"2": File("a")})
    assert files.rows[files.source("2").place][1] == digest("a")


def test_a_video_of_another_corpus_is_not_encoded_again_and_its_corpus_left_alone() -> None:
    files = made({"1": File("a")})
    plan = files.run({"1": File("a"), "2": File("b")}, corpus="B")
    assert counted(plan) == {"duplicate": 1, "new": 1}
    assert (plan.known, plan.others) == (0, ("A",))
    assert files.source("1", "A").place == files.source("1", "B").place
    assert counted(files.plan({"1": File("a")}, corpus="A")) == {"unchanged": 1}


def test_two_files_that_swap_their_names_keep_their_features() -> None:
    files = made({"1": File("a"), "2": File("b")})
    plan = files.run({"1": File("b", mtime=2), "2": File("a", mtime=2)})
    assert plan.encode == ()
    assert [files.rows[files.source(uri).place][1] for uri in "12"] == [digest("b"), digest("a")]


def test_parts_of_a_file_are_videos_of_their_own() -> None:
    world = {"1": File("a", start=0.0, end=5.0), "2": File("a", start=0.0, end=7.5), "3": File("a", end=5.0)}
    files = Set()
    plan = files.run(world)
    assert counted(plan) == {"new": 2, "duplicate": 1}
    assert sorted(str(source.id)[32:] for source in plan.encode) == ["#t=0,5", "#t=0,7.5"]
    assert files.plan(world).empty


def test_what_cannot_be_decoded_is_failed_and_not_tried_again() -> None:
    files = made({"1": File("bad")})
    compared = files.compare({"1": File("bad")})
    assert (compared.uris_to_read, compared.failed) == ([], 1)
    assert decide(compared, {}, NOW).empty


def test_a_kind_of_failure_that_is_asked_for_is_retried() -> None:
    files = made({"1": File("bad"), "2": File("bad 2")})
    plan = files.plan({"1": File("bad"), "2": File("bad 2")}, retry=["corrupt"])
    assert counted(plan) == {"retried": 2}
    assert counted(files.plan({"1": File("bad"), "2": File("bad 2")}, retry=["timeout"])) == {"failed": 2}


def test_a_failed_file_that_has_been_repaired_is_changed() -> None:
    files = made({"1": File("bad")})
    assert counted(files.run({"1": File("good", mtime=2)})) == {"changed": 1}
    assert not files.head.failures


def test_a_failed_file_that_was_only_touched_is_tried_again() -> None:
    files = made({"1": File("bad", mtime=1)})
    assert counted(files.plan({"1": File("bad", mtime=2)})) == {"retried": 1}


@pytest.mark.parametrize("where", ["look", "read"])
@pytest.mark.parametrize("kind", ["missing", "network", "unreadable", "not_a_video", "empty"])
def test_what_was_never_read_is_unreadable_and_then_failed(where: str, kind: str) -> None:
    files = Set()
    world = {"1": File(**{where: kind})}
    assert counted(files.run(world)) == {"unreadable": 1}
    assert files.head.failures[Key("A", "1")] == Failure(Key("A", "1"), None, "read", kind, f"1: {kind}", 1, "", NOW)
    assert counted(files.plan(world)) == {"failed": 1}
    assert files.plan(world).empty


def test_another_trouble_than_before_is_written_down() -> None:
    files = made({"1": File(look="missing")})
    assert counted(files.run({"1": File(look="unreadable")})) == {"unreadable": 1}
    assert files.head.failures[Key("A", "1")].kind == "unreadable"


def test_attempts_add_up_over_runs() -> None:
    files = made({"1": File(look="network")})
    files.run({"1": File(look="network")}, retry=["network"])
    assert files.head.failures[Key("A", "1")].attempts == 2


def test_attempts_to_look_at_a_file_are_counted() -> None:
    listed = [Listed(Key("A", "1"), None, trouble("network", "1"), attempts=3)]
    plan = decide(compare(listed, Contents(), "A", lambda _: False), {}, NOW)
    assert plan.unreadable[0][1].attempts == 3


def test_what_could_not_be_read_and_now_can_is_retried() -> None:
    files = made({"1": File(look="missing")})
    assert counted(files.run({"1": File()})) == {"retried": 1}
    assert files.source("1").place


@pytest.mark.parametrize(
    "file",
    [File(look="network"), File(look="missing"), File(look="not_a_video"), File("b", mtime=2, read="unreadable")],
)
def test_features_stay_while_their_file_cannot_be_had(file: File) -> None:
    files = made({"1": File()})
    before = files.head
    plan = files.run({"1": file})
    assert counted(plan) == {"unreachable": 1}
    assert plan.empty
    assert files.head == before
    assert counted(files.plan({"1": File("b", mtime=2)})) == {"changed": 1}  # seen when it is there again


@pytest.mark.parametrize("kind", ["empty", "not_a_video"])
def test_features_go_where_the_file_is_no_video_any_more(kind: str) -> None:
    files = made({"1": File()})
    assert counted(files.run({"1": File("", mtime=2, read=kind)})) == {"unreadable": 1}
    assert files.source("1").place is None


def test_the_users_ids_are_kept() -> None:
    files = made({"1": File("a", id="x"), "2": File("b", id="y")})
    assert [files.source(uri).id for uri in "12"] == ["x", "y"]
    assert files.plan({"1": File("a", id="x"), "2": File("b", id="y")}).empty


@pytest.mark.parametrize("ids", [("x", "z"), (None, "x"), ("x", None)])
def test_another_id_is_another_video(ids: tuple[str | None, str | None]) -> None:
    """Also where the ids begin to come from the content, or end to."""
    files = made({"1": File("a", id=ids[0])})
    assert counted(files.run({"1": File("a", id=ids[1])})) == {"changed": 1}
    assert files.source("1").id == (ids[1] or digest("a")[:32])
    assert files.plan({"1": File("a", id=ids[1])}).empty


def test_a_file_may_change_under_its_id() -> None:
    files = made({"1": File("a", id="x")})
    assert counted(files.run({"1": File("b", mtime=2, id="x")})) == {"changed": 1}
    assert files.rows[files.source("1").place] == ("x", digest("b"))


def test_an_id_may_go_to_another_file_when_its_own_is_gone() -> None:
    files = made({"1": File("a", id="x")})
    assert counted(files.run({"2": File("b", id="x")})) == {"new": 1, "deleted": 1}
    assert files.rows[files.source("2").place] == ("x", digest("b"))


def test_an_id_of_two_contents_is_refused_by_both_names() -> None:
    files = made({"old.mp4": File("a", id="x")})
    with pytest.raises(MgvrError, match=r"the id 'x' of new\.mp4 is taken by old\.mp4 \(A\)") as refused:
        files.plan({"old.mp4": File("a", id="x"), "new.mp4": File("b", id="x")})
    assert "--out" in str(refused.value)
    with pytest.raises(MgvrError, match=r"the id 'x' of 2\.mp4 is taken by 1\.mp4"):
        Set().plan({"1.mp4": File("a", id="x"), "2.mp4": File("b", id="x")})


def test_an_id_that_another_corpus_holds_is_refused_before_any_work() -> None:
    """Also where the id's first file, of this corpus, is the one that has changed."""
    files = made({"1": File("a", id="x")})
    files.run({"2": File("a", id="x")}, corpus="B")
    with pytest.raises(MgvrError, match=r"the id 'x' of 1 is taken by 2 \(B\)"):
        files.plan({"1": File("b", mtime=2, id="x")})


def test_an_id_whose_file_cannot_be_read_now_is_not_given_away() -> None:
    files = made({"1": File("a", id="x")})
    with pytest.raises(MgvrError, match="the id 'x' of 2 is taken by 1"):
        files.plan({"1": File("a", id="x", look="network"), "2": File("b", id="x")})


def test_the_videos_of_a_set_without_names_of_corpora_become_this_corpus() -> None:
    """As sets of format 1 are read: without sizes and times of change."""
    files = made({"1": File("a"), "2": File("b"), "3": File("c"), "4": File("d")})
    files.head = replace(
        files.head,
        sources={
            source.key._replace(corpus=""): replace(source, key=source.key._replace(corpus=""), size=None, version=None)
            for source in files.head.sources.values()
        },
    )
    rows = dict(files.rows)
    world = {"1": File("a"), "3": File("c", look="network"), "4": File("other")}
    plan = files.run(world)
    assert counted(plan) == {"changed": 1, "unchanged": 1, "unreachable": 1, "deleted": 1}
    assert (plan.known, plan.others) == (4, ())
    assert {key.corpus for key in files.head.sources} == {"A"}
    assert [files.rows[files.source(uri).place][1] for uri in "134"] == [digest("a"), digest("c"), digest("other")]
    assert len(files.rows) == len(rows) + 1
    assert files.plan(world).empty


def test_a_video_that_came_out_neither_encoded_nor_failed_is_a_loud_error() -> None:
    plan = Set().plan({"1": File("a"), "2": File("b")})
    with pytest.raises(MgvrError, match="1 videos came out neither encoded nor failed, the first 2"):
        placed(plan, {(str(plan.encode[0].id), digest("a")): Place("s", 0)}, {})


def test_what_failed_before_is_told_with_the_users_ids_alone() -> None:
    files = made({"1": File("a"), "2": File("bad"), "3": File("bad 3", id="x"), "4": File(look="missing", id="y")})
    files.run({"5": File("bad 5")}, corpus="B")
    found = {key.uri: own for key, own in failed_before(files.head, "A")}
    assert found == {"2": None, "3": "x", "4": "y"}
    assert [key.uri for key, _ in failed_before(files.head, "B")] == ["5"]
