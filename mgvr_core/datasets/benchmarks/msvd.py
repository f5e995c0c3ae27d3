"""MSVD (Chen and Dolan, ACL 2011): short YouTube clips, some 40 captions each, every one a query."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from mgvr_core.datasets.benchmarks.assembling import (
    GROUPS,
    as_far_as_captioned,
    assemble,
    of_listed,
    queries_of,
    some,
)
from mgvr_core.datasets.benchmarks.benchmark import Benchmark, Protocol
from mgvr_core.datasets.benchmarks.files import Annotations, captions, read_json, read_list, refuse
from mgvr_core.errors import MgvrError

PROTOCOLS = (Protocol("msvd", "MSVD", "about 41, each a query", 32, 12, 670, GROUPS),)


def read(protocol: Protocol, source: Annotations) -> Benchmark:
    """The benchmark from test_list.txt and, where they are, train_list.txt and val_list.txt; else MgvrError.

    Captions: captions_msvd.json (id -> captions), or raw-captions.pkl (id -> captions as lists of words). Clips of it
    that none of the three lists names are left out, and are noted where all three are there.
    """
    listed = source.test("test_list.txt")
    videos = read_list(listed)
    captioned = source.need("captions_msvd.json", "raw-captions.pkl")
    found = _captions(captioned)
    test = of_listed(videos, found, listed, captioned)
    lists = (source.find("train_list.txt"), source.find("val_list.txt"))
    splits, notes = [], []
    for file in lists:
        split, noted = as_far_as_captioned(read_list(file), found, file, captioned) if file else ({}, [])
        splits.append(split)
        notes += noted
    train, validation = splits
    unlisted = [video for video in found if video not in test and video not in train and video not in validation]
    if unlisted and all(lists):
        notes.append(f"{captioned.name}: left out, because none of the three lists names them: {some(unlisted)}")
    return assemble(protocol, source, queries_of(test), videos, train, validation, training_notes=notes)


def _captions(file: Path) -> dict[str, list[str]]:
    document = read_json(file) if file.suffix.lower() == ".json" else _words(file)
    if not isinstance(document, dict):
        raise MgvrError(f"{file} must hold captions by video: is it another file of the set?")
    return {video: captions(texts, file, repr(video)) for video, texts in document.items()}


def _words(file: Path) -> dict[str, Any]:
    """The captions of a pickle, read as data: one that names a class or a function is refused."""
    try:
        with file.open("rb") as content:
            document = _Unpickler(content).load()
    except OSError as error:
        raise MgvrError(f"cannot read {file}: {error.strerror or error}") from None
    except Exception as error:  # a pickle that was damaged or made to harm raises a dozen kinds
        raise MgvrError(f"{file} is not a pickle of plain captions: {error}. Use captions_msvd.json") from None
    if not isinstance(document, dict):
        raise MgvrError(f"{file} must hold captions by video: is it another file of the set?")
    return {video: _sentences(texts, file, repr(video)) for video, texts in document.items()}


def _sentences(texts: object, file: Path, place: str) -> list[str]:
    if not isinstance(texts, list) or not all(isinstance(words, list) for words in texts):
        refuse(file, place, "must hold a list of captions, each a list of words")
    return [" ".join(map(str, words)) for words in texts]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Lists, dictionaries and texts name nothing."""
        raise pickle.UnpicklingError(f"it names {module}.{name}")
