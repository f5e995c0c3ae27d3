"""What planning costs where nothing is new: against asking the file system about the same files, and no more."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from mgvr_core.corpus.files import look
from mgvr_core.corpus.plan import Plan, decide
from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.features.contents import Change, Key, Place, Source
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint
from pipelines.decoding import DecodingConfig
from pipelines.planning import compare_corpus, read_here

COUNT, SAME = 100_000, 20_000
"""Videos, and how many of them are links to one file: file systems bound that."""


def links(folder: Path) -> list[str]:
    uris = []
    for number in range(COUNT):
        place = folder / f"{number // 1000:03d}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        if number % SAME == 0:
            (place / "first").write_text("x")
            first = place / "first"
        uris.append(f"{place}/{number:06d}.mp4")
        os.link(first, uris[-1])
    return uris


def digest(number: int) -> str:
    return f"{number:032x}" * 2


@pytest.mark.parametrize("listing", ["folder", "manifest"])
def test_a_plan_against_asking_for_the_size_of_the_same_files(listing: str, tmp_path: Path, race) -> None:
    uris = links(tmp_path / "videos")
    name = str(tmp_path / "videos")
    if listing == "manifest":
        name = str(tmp_path / "videos.csv")
        Path(name).write_text("uri\n" + "".join(f"{uri}\n" for uri in uris))
    corpus, store, decoding = CorpusConfig(uri=name), FeatureStore(tmp_path / "set"), DecodingConfig()
    shard = store.write_shard(pa.table({"row": range(COUNT)}))
    looks = look(uris)
    sources = [
        Source(Key(name, uri), digest(row)[:32], digest(row), *looks[uri], Place(shard.path, row))
        for row, uri in enumerate(uris)
    ]
    store.commit(Fingerprint({"weights": "abc"}), Change(sources, shards=[shard]), {})

    def plan() -> Plan:
        compared = compare_corpus(corpus, store, lambda failure: False, decoding)
        return decide(compared, read_here(compared, store, decoding), "")

    assert plan().empty
    ratio = race(plan, lambda: [os.stat(uri) for uri in uris])  # noqa: PTH116
    print(f"\n{COUNT} unchanged videos of a {listing}: a plan takes {ratio:.1f} times as long as os.stat of each")
