"""MSR-VTT (Xu et al., CVPR 2016): the 1k-A test of JSFusion with its two training lists, and the full split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mgvr_core.config import Section
from mgvr_core.datasets.benchmarks.assembling import (
    GROUPS,
    SINGLE,
    Captions,
    as_far_as_captioned,
    assemble,
    of_listed,
    queries_of,
    some,
)
from mgvr_core.datasets.benchmarks.benchmark import Benchmark, Protocol, Query
from mgvr_core.datasets.benchmarks.files import Annotations, caption, field, name, read_json, read_table, refuse, stem
from mgvr_core.errors import MgvrError

_PAIRED = (
    "JSFusion's pairs; no validation split: hold some training videos out; published figures often choose on the test "
    "split"
)

PROTOCOLS = (
    Protocol("msrvtt-1ka", "MSR-VTT 1k-A", "one", 32, 12, 1000, SINGLE, _PAIRED, "9k"),
    Protocol("msrvtt-1ka-7k", "MSR-VTT 1k-A", "one", 32, 12, 1000, SINGLE, _PAIRED, "7k"),
    Protocol("msrvtt-full", "MSR-VTT, full split", "20, each a query", 32, 12, 2990, GROUPS),
)

_TRAINING = {
    "msrvtt-1ka": "MSRVTT_train.9k.csv",
    "msrvtt-1ka-7k": "MSRVTT_train.7k.csv",
    "msrvtt-full": "MSRVTT_train.full.csv",
}
_WHOLE, _PARTS = "MSRVTT_data.json", ("train_val_videodatainfo.json", "test_videodatainfo.json")
_EACH = 20


class _Pairs(Section):
    key: str = "key"
    video: str = "video_id"
    text: str = "sentence"


class _Ids(Section):
    video: str = "video_id"


def read(protocol: Protocol, source: Annotations) -> Benchmark:
    """The benchmark from the field's CSV and JSON files (docs/benchmarks.md has their names); else MgvrError.

    1k-A: a query is a row of MSRVTT_JSFUSION_test.csv, its id the `key`, or an entry of msrvtt_ret_test.json, its id
    the video's. Full split: 20 queries a video, from MSRVTT_data.json. Training captions are from the latter.
    """
    if protocol.name != "msrvtt-full":
        return _one_k_a(protocol, source)
    listed = source.test("MSRVTT_test.full.csv")
    videos = read_ids(listed)
    captioned, captions = _captions(source)
    captioned = captioned or source.need(_WHOLE)
    test = of_listed(videos, captions, listed, captioned)
    train, training_notes = _training(protocol, source, captioned, captions)
    rest = {video: texts for video, texts in captions.items() if video not in test and video not in train}
    uneven = [video for video, texts in test.items() if len(texts) != _EACH]
    notes = [f"{captioned.name}: not {_EACH} captions each: {some(uneven)} of the test split"] if uneven else []
    if train and rest:
        training_notes.append(f"validation: the {len(rest):,} videos of {captioned.name} that neither list names")
    return assemble(
        *(protocol, source, queries_of(test), videos, train, rest if train else None, notes),
        training_notes=training_notes,
    )


def _one_k_a(protocol: Protocol, source: Annotations) -> Benchmark:
    file = source.test("MSRVTT_JSFUSION_test.csv", "msrvtt_ret_test.json")
    queries = _listed_pairs(file) if file.suffix.lower() == ".json" else _pairs(file)
    captioned, captions = _captions(source)
    train, notes = _training(protocol, source, captioned, captions)
    videos = [query.relevant[0] for query in queries]
    return assemble(protocol, source, queries, videos, train, training_notes=notes)


def read_ids(file: Path) -> list[str]:
    """The ids of a CSV file with the column `video_id`, in its order."""
    rows = read_table(file, _Ids())
    ids: dict[str, int] = {}
    for row, video in enumerate(rows.texts("video")):
        if video is None:
            raise rows.error(row, "the video_id is empty: fill it in, or remove the row")
        if ids.setdefault(video, row) != row:
            raise rows.error(row, f"the video {video!r} is in {rows.place(ids[video])} already: remove one")
    if not ids:
        raise MgvrError(f"{file} lists no videos")
    return list(ids)


def _pairs(file: Path) -> list[Query]:
    rows = read_table(file, _Pairs())
    queries = []
    cells = zip(rows.texts("key"), rows.texts("video"), rows.texts("text"), strict=True)
    for row, (key, video, text) in enumerate(cells):
        if key is None or video is None:
            raise rows.error(row, "a caption without its key or its video_id: fill it in, or remove the row")
        queries.append(Query(key, caption(text or "", file, rows.place(row)), (video,)))
    if not queries:
        raise MgvrError(f"{file} holds no rows")
    return queries


def _listed_pairs(file: Path) -> list[Query]:
    entries = read_json(file)
    if not isinstance(entries, list) or not entries:
        raise MgvrError(f"{file} must hold a list of {{video, caption}}: is it another file of the set?")
    queries = []
    for number, entry in enumerate(entries):
        place = f"entry {number}"
        video = stem(name(field(entry, "video", file, place), file, place))
        queries.append(Query(video, caption(field(entry, "caption", file, place), file, place), (video,)))
    return queries


def _captions(source: Annotations) -> tuple[Path | None, Captions]:
    """The file (of several the first) and the captions of every video in it, in the order of its sentences."""
    whole = source.find(_WHOLE)
    files = [whole] if whole else [file for part in _PARTS if (file := source.find(part))]
    found: dict[str, list[str]] = {}
    for file in files:
        document = read_json(file)
        videos = {
            name(field(video, "video_id", file, "videos"), file, "videos") for video in _of(document, "videos", file)
        }
        found.update({video: [] for video in sorted(videos, key=_number)})
        for number, sentence in enumerate(_of(document, "sentences", file)):
            place = f"sentence {number}"
            video = field(sentence, "video_id", file, place)
            if video not in videos:
                refuse(file, place, f"a caption without a video: {video!r} is not under `videos`. Is the file whole?")
            found[video].append(caption(field(sentence, "caption", file, place), file, place))
    return (files[0] if files else None), found


def _of(document: object, key: str, file: Path) -> list[object]:
    values = field(document, key, file, "top level")
    if not isinstance(values, list):
        refuse(file, key, "must be a list")
    return list(values)


def _number(video: str) -> tuple[int, str]:
    """video2 before video10."""
    digits = video.removeprefix("video")
    return (int(digits) if digits.isdecimal() else -1), video


def _training(
    protocol: Protocol, source: Annotations, captioned: Path | None, captions: Captions
) -> tuple[dict[str, Sequence[str]], list[str]]:
    listed = source.find(_TRAINING[protocol.name])
    if listed is None:
        return {}, []
    videos = read_ids(listed)
    if captioned is None:
        return {}, [f"no {_WHOLE}: the {len(videos):,} training videos of {listed.name} have no captions"]
    return as_far_as_captioned(videos, captions, listed, captioned)
