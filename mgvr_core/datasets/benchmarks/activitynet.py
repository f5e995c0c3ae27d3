"""ActivityNet Captions (Krishna et al., ICCV 2017), paragraph to video: all sentences of a video are one query."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mgvr_core.datasets.benchmarks.assembling import SINGLE, assemble, paragraph, queries_of, some
from mgvr_core.datasets.benchmarks.benchmark import Benchmark, Protocol
from mgvr_core.datasets.benchmarks.files import Annotations, captions, field, read_json, refuse
from mgvr_core.errors import MgvrError

_TEST = "val_1.json"

PROTOCOLS = (
    Protocol(
        *("activitynet", "ActivityNet Captions, val_1", "all joined into one query", 64, 64, 4917, SINGLE),
        note="the test server's captions are not public, so val_1 is the test split and there is no validation split",
    ),
)


def read(protocol: Protocol, source: Annotations) -> Benchmark:
    """The benchmark from val_1.json and, where they are, train.json and the lists of ids; else MgvrError.

    The pool is in the order of val_ids.json where that is there, as the field's scripts walk it, and else in that of
    val_1.json. Ids that a list has and the captions lack are named in the notes; the other way round is refused.
    Of another file, which is given by its path, the protocol's title and note say its name.
    """
    file = source.test(_TEST)
    if file.name != _TEST:
        note = f"{file.name} was given as the test split, and published figures are over {_TEST}"
        protocol = replace(protocol, title=f"ActivityNet Captions, {file.stem}", note=note)
    test, notes = _in_order(_paragraphs(file), file, source.find("val_ids.json"))
    trained = source.find("train.json")
    train: dict[str, list[str]] = {}
    training_notes: list[str] = []
    if trained:
        train, training_notes = _in_order(_paragraphs(trained), trained, source.find("train_ids.json"))
    return assemble(protocol, source, queries_of(test), list(test), train, notes=notes, training_notes=training_notes)


def _paragraphs(file: Path) -> dict[str, list[str]]:
    document = read_json(file)
    if not isinstance(document, dict) or not document:
        raise MgvrError(f"{file} must hold {{timestamps, sentences}} by video: is it another file of the set?")
    return {
        video: [paragraph(captions(field(value, "sentences", file, repr(video)), file, repr(video)))]
        for video, value in document.items()
    }


def _in_order(texts: dict[str, list[str]], file: Path, listed: Path | None) -> tuple[dict[str, list[str]], list[str]]:
    if listed is None:
        return texts, []
    ids = read_json(listed)
    if not isinstance(ids, list) or not all(isinstance(video, str) for video in ids):
        refuse(listed, "top level", "must be a list of ids: is it another file of the set?")
    order = dict.fromkeys(ids)
    bare = [video for video in order if video not in texts]
    unlisted = [video for video in texts if video not in order]
    notes = [f"{listed.name}: left out, without sentences in {file.name}: {some(bare)}"] if bare else []
    if unlisted:
        refuse(file, repr(unlisted[0]), f"{listed.name} does not list this video ({len(unlisted):,} such): wrong list?")
    return {video: texts[video] for video in order if video in texts}, notes
