"""DiDeMo (Hendricks et al., ICCV 2017), paragraph to video: the descriptions of all its moments are one query."""

from __future__ import annotations

from pathlib import Path

from mgvr_core.datasets.benchmarks.assembling import SINGLE, assemble, paragraph, queries_of
from mgvr_core.datasets.benchmarks.benchmark import Benchmark, Protocol
from mgvr_core.datasets.benchmarks.files import Annotations, caption, field, name, read_json, refuse, stem
from mgvr_core.errors import MgvrError

PROTOCOLS = (
    Protocol(
        *("didemo", "DiDeMo", "all joined into one query", 64, 64, 1004, SINGLE),
        note="the first 31 seconds of each video, as CLIP4Clip reads them: annotators saw 30",
    ),
)

_SECONDS = 31.0
_MOMENT = "description"
_KEYS = (_MOMENT, "caption")
"""What an entry's text is under: a moment's in the one file, a video's in the other; no file has both."""


def read(protocol: Protocol, source: Annotations) -> Benchmark:
    """The benchmark from test_data.json or didemo_ret_test.json, and the other splits that are there; else MgvrError.

    test_data.json is a list of moments {video, description}; didemo_ret_test.json a list of {video, caption}, a caption
    being a list. Both name files; the same video stands under several endings, so the id is the name without it.
    """
    file = source.test("test_data.json", "didemo_ret_test.json")
    test, renamed = _paragraphs(file)
    notes = [
        f"{file.name}: descriptions are joined in its order, and another file of the set may have another order",
        *([f"{file.name}: {renamed:,} of the {len(test):,} videos stand under several endings"] if renamed else []),
    ]
    splits = []
    for other in (
        source.find("train_data.json", "didemo_ret_train.json"),
        source.find("val_data.json", "didemo_ret_val.json"),
    ):
        splits.append(_paragraphs(other)[0] if other else {})
    train, validation = splits
    spans = {video: (0.0, _SECONDS) for split in (test, train, validation) for video in split}
    return assemble(protocol, source, queries_of(test), list(test), train, validation, notes=notes, spans=spans)


def _paragraphs(file: Path) -> tuple[dict[str, list[str]], int]:
    """Id -> its one text; and how many videos are named with more than one ending."""
    entries = read_json(file)
    if not isinstance(entries, list) or not entries:
        raise MgvrError(f"{file} must hold a list of moments or of {{video, caption}}: is it another file of the set?")
    keys = [key for key in _KEYS if any(isinstance(entry, dict) and key in entry for entry in entries)]
    texts: dict[str, list[str]] = {}
    names: dict[str, set[str]] = {}
    for number, entry in enumerate(entries):
        place = f"entry {number}"
        named = name(field(entry, "video", file, place), file, place)
        video = stem(named)
        names.setdefault(video, set()).add(named)
        if not keys:
            neither = " nor ".join(map(repr, _KEYS))
            refuse(file, place, f"has neither {neither}, but {', '.join(entry)}: is it another file of the set?")
        found = field(entry, keys[0], file, place)
        if keys[0] == _MOMENT:
            texts.setdefault(video, []).append(caption(found, file, place))
            continue
        if video in texts:
            refuse(file, place, f"the video {video!r} is there already: join its captions in one entry")
        texts[video] = [caption(one, file, place) for one in (found if isinstance(found, list) else [found])]
        if not texts[video]:
            refuse(file, place, f"the video {video!r} has no caption: add one, or remove the entry")
    joined = {video: [paragraph(found)] for video, found in texts.items()}
    return joined, sum(len(named) > 1 for named in names.values())
