"""VATEX (Wang et al., ICCV 2019), its English captions: 10 a video, every one a query."""

from __future__ import annotations

from pathlib import Path

from mgvr_core.datasets.benchmarks.assembling import (
    GROUPS,
    as_far_as_captioned,
    assemble,
    of_listed,
    queries_of,
    some,
)
from mgvr_core.datasets.benchmarks.benchmark import Benchmark, Protocol
from mgvr_core.datasets.benchmarks.files import Annotations, captions, field, name, read_json, read_list
from mgvr_core.errors import MgvrError

PROTOCOLS = (
    Protocol(
        *("vatex", "VATEX, English", "10, each a query", 32, 12, 1500, GROUPS),
        note="two test lists of 1,500 are in use, HGR's test_list.txt and CLIP2Video's test1k5_sec_list.txt: "
        "figures over one say nothing about the other",
    ),
)

_LISTS = ("test_list.txt", "test1k5_sec_list.txt")
_PARTS = "vatex_*v1*.json"


def read(protocol: Protocol, source: Annotations) -> Benchmark:
    """The benchmark from the test list given, or the one that the folder holds; else MgvrError.

    Captions: vatex_data.json (id -> {enCap}), ref_captions.json (id -> captions), or all releases that are there,
    vatex_training_v1.0.json, vatex_validation_v1.0.json and so on (lists of {videoID, enCap}). Validation videos that
    the test list names are left out of validation.
    """
    if source.path == source.folder and all((source.folder / each).is_file() for each in _LISTS):
        raise MgvrError(
            f"{source.folder} holds both test lists that are in use, {' and '.join(_LISTS)}, and their figures "
            f"can't be compared: give the file instead of the folder, such as {source.folder / _LISTS[0]}"
        )
    listed = source.test(*_LISTS)
    videos = read_list(listed)
    captioned, found = _captions(source)
    test = of_listed(videos, found, listed, captioned)
    notes = [f"the test list is {listed.name}; another one, which shares about half of its videos, is in use too"]
    splits, training_notes = [], []
    for file in (source.find("train_list.txt"), source.find("val_list.txt")):
        ids = read_list(file) if file else []
        tested = [video for video in ids if video in test]
        if file and tested and file.name == "val_list.txt":
            training_notes.append(f"left out of validation, because {listed.name} names them: {some(tested)}")
            ids = [video for video in ids if video not in test]
        split, noted = as_far_as_captioned(ids, found, file, captioned) if file else ({}, [])
        splits.append(split)
        training_notes += noted
    train, validation = splits
    return assemble(
        *(protocol, source, queries_of(test), videos, train, validation), notes=notes, training_notes=training_notes
    )


def _captions(source: Annotations) -> tuple[Path, dict[str, list[str]]]:
    """The file (of several the first) and the captions of every video."""
    single = source.find("vatex_data.json", "ref_captions.json")
    files = [single] if single else sorted(source.folder.glob(_PARTS))
    if not files:
        raise MgvrError(
            f"{source.folder} has no captions, neither vatex_data.json nor ref_captions.json nor the releases' "
            f"{_PARTS}: put them beside the lists (docs/benchmarks.md)"
        )
    found: dict[str, list[str]] = {}
    for file in files:
        if file != single:
            source.read.append(file)
        document = read_json(file)
        if isinstance(document, dict):
            for video, value in document.items():
                texts = value if isinstance(value, list) else field(value, "enCap", file, repr(video))
                found[video] = captions(texts, file, repr(video))
        elif isinstance(document, list):
            for number, entry in enumerate(document):
                video = name(field(entry, "videoID", file, f"entry {number}"), file, f"entry {number}")
                found[video] = captions(field(entry, "enCap", file, repr(video)), file, repr(video))
        else:
            raise MgvrError(f"{file} must hold captions by video: is it another file of the set?")
    return files[0], found
