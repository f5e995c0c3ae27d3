from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from mgvr_core.datasets.manifest import CorpusConfig, list_videos
from mgvr_core.datasets.procedural import write_manifests, write_video, write_videos
from mgvr_core.datasets.queries import QueriesConfig, read_queries
from mgvr_core.datasets.render import render
from mgvr_core.datasets.scenes import ProceduralConfig, make_scene

CONFIG = ProceduralConfig(train=4, validation=2, test=3)
SPLITS = {"train": 4, "validation": 2, "test": 3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_manifests(folder, CONFIG)
    for split, count in SPLITS.items():
        write_videos(folder, CONFIG, split, range(count))
    return folder


def decode(path: Path) -> tuple[np.ndarray, list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [float(frame.time) for frame in frames]


@pytest.mark.parametrize("split", SPLITS)
def test_the_manifest_lists_the_videos_that_were_written(corpus, split):
    rows = list_videos(CorpusConfig(uri=str(corpus / f"{split}.jsonl"))).to_pylist()
    assert [row["id"] for row in rows] == [f"{split}-{index:05d}" for index in range(SPLITS[split])]
    assert {Path(row["uri"]) for row in rows} == set((corpus / split).iterdir())
    assert [tuple(row["captions"]) for row in rows] == [
        make_scene(CONFIG, split, index).captions for index in range(SPLITS[split])
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_every_caption_is_a_query_with_its_video_as_the_answer(corpus, split):
    queries = read_queries(QueriesConfig(uri=str(corpus / f"{split}-queries.jsonl"))).to_pylist()
    captions = {row["id"]: row["captions"] for row in map(json.loads, (corpus / f"{split}.jsonl").open())}
    assert len({query["id"] for query in queries}) == SPLITS[split] * CONFIG.captions_per_video
    assert all(query["text"] in captions[query["relevant"][0]] for query in queries)


def test_a_video_decodes_to_its_frames_at_its_instants(corpus):
    frames = render(make_scene(CONFIG, "test", 2))
    decoded, times = decode(corpus / "test/test-00002.mp4")
    assert decoded.shape == frames.shape == (24, 64, 64, 3)
    assert times == [index / 8 for index in range(24)]
    assert np.abs(decoded.astype(int) - frames).mean() < 8


def test_the_container_is_what_every_player_reads(corpus):
    with av.open(str(corpus / "test/test-00002.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 8)
        assert container.duration == 3_000_000


def test_chunks_give_the_same_bytes_as_the_whole(corpus, tmp_path):
    for chunk in ([2], [0, 1]):
        write_videos(tmp_path, CONFIG, "test", chunk)
    write_manifests(tmp_path, CONFIG)
    names = ["test.jsonl", "test-queries.jsonl", *(f"test/test-{index:05d}.mp4" for index in range(3))]
    assert all((tmp_path / name).read_bytes() == (corpus / name).read_bytes() for name in names)


def test_nothing_but_whole_files_is_left(corpus, tmp_path):
    assert sorted(path.name for path in corpus.iterdir()) == sorted(
        [*SPLITS, *(f"{split}.jsonl" for split in SPLITS), *(f"{split}-queries.jsonl" for split in SPLITS)]
    )
    with pytest.raises(ValueError, match="shape"):
        write_video(tmp_path / "bad.mp4", np.zeros((2, 64, 64, 5), np.uint8), 8)
    assert not (tmp_path / "bad.mp4").exists()
