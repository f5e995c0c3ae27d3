"""mgvr encode: every file is answered for, and the set holds what the model says of the frames."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from encode_job import config, root
from feature_sets import uris_of

from mgvr_core.errors import JobError
from mgvr_core.features.schema import SCHEMA_VERSION, fingerprint_of, tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import hash_file
from mgvr_core.model import checkpoint
from mgvr_core.model.load import ModelConfig
from mgvr_core.storage import filesystem
from mgvr_core.video import decoders
from mgvr_core.video.preprocess import PreprocessConfig
from mgvr_core.video.sampling import SamplingConfig
from pipelines import encode as job
from pipelines import identifying
from pipelines.encode import encode

F, P, D = 4, 4, 64
SHORT = {"test-00003", "test-00007", "test-00008"}


def rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    """All rows by id; tensors as flat lists."""
    found = [row for table in snapshot.tables() for row in table.to_pylist()]
    return sorted(found, key=lambda row: row["id"])


def test_the_features_are_what_the_model_says_of_the_frames(features: Snapshot, corpus, model: ModelConfig) -> None:
    """One video at a time, decoded in this process by the reference of all decoders' tests."""
    loaded = checkpoint.load(Path(model.checkpoint)).model
    sampling = SamplingConfig(strategy="fps", fps=2, frames=F)
    seen = 0
    for table in features.tables():
        for row, (name, uri) in enumerate(zip(table["id"].to_pylist(), table["uri"].to_pylist(), strict=True)):
            clip = decoders.decode("pyav", decoders.Request(uri, sampling, 32))
            pixels = PreprocessConfig(size=32).normalise(torch.from_numpy(clip.frames.copy()))[None]  # (1, n, 3, H, W)
            n = len(clip.frames)
            with torch.inference_mode():
                alone = loaded.encode_videos(pixels, torch.ones(1, n, dtype=torch.bool), patches=True)
            assert n == (2 if name in SHORT else F)
            stored = {key: tensor_column(table, key)[row] for key in ("video", "frames", "temporal", "patches", "mask")}
            assert stored["mask"].tolist() == [1] * n + [0] * (F - n)
            for key, shape in (("video", (D,)), ("frames", (F, D)), ("temporal", (F, D)), ("patches", (F, P, D))):
                assert stored[key].shape == shape
                assert stored[key].dtype == np.float16
                made = getattr(alone, key)[0].numpy()
                valid = stored[key] if key == "video" else stored[key][:n]
                # Unit vectors in half precision, and sums whose order depends on the batch.
                np.testing.assert_allclose(valid, made, rtol=0, atol=1e-3)
                assert key == "video" or not stored[key][n:].any()
            with torch.inference_mode():
                plain, _ = loaded.encode_frames(pixels, torch.ones(1, n, dtype=torch.bool), patches=False)  # (1, n, D)
            norms = tensor_column(table, "frame_norms")[row]
            assert norms.dtype == np.float32
            np.testing.assert_allclose(norms[:n], plain[0].norm(dim=-1).numpy(), rtol=1e-4)
            assert not norms[n:].any()
            assert abs(norms[:n] - 1).min() > 1e-3  # else unit vectors would pass for these
            times = tensor_column(table, "timestamps")[row]
            np.testing.assert_allclose(times[:n], clip.timestamps, atol=1e-6)
            assert np.isnan(times[n:]).all()
            assert table["duration"][row].as_py() == pytest.approx(1.0 if name in SHORT else 2.0)
            assert table["fps"][row].as_py() == pytest.approx(8)
            assert table["content_hash"][row].as_py() == hash_file(Path(uri))
            assert table["thumbnail"][row].as_py().startswith(b"\xff\xd8")  # a JPEG
            seen += 1
    assert seen == 12


def test_shards_are_small_and_named_by_their_content(features: Snapshot) -> None:
    assert len(features.shards) >= 3
    for shard in features.shards:
        assert shard.rows <= 5
        assert hash_file(root(features) / shard.path) == shard.sha256


def test_others_read_the_shards_with_shapes_and_types(features: Snapshot) -> None:
    """pyarrow, DuckDB and pandas, without Ray and without this package."""
    files = [str(root(features) / shard.path) for shard in features.shards]
    schema = pq.read_schema(files[0])
    assert schema.field("patches").type == pa.fixed_shape_tensor(pa.float16(), [F, P, D])
    assert schema.field("mask").type == pa.fixed_shape_tensor(pa.uint8(), [F])
    table = pa.concat_tables(pq.read_table(file) for file in files)
    assert table["frames"].combine_chunks().to_numpy_ndarray().shape == (12, F, D)
    lengths = "count(*), count(DISTINCT id), min(len(video)), max(len(frames)), max(len(patches))"
    assert duckdb.sql(f"SELECT {lengths} FROM read_parquet({files})").fetchall() == [(12, 12, D, F * D, F * P * D)]
    norm = duckdb.sql(f"SELECT list_sum([x * x for x in video::FLOAT[]]) FROM read_parquet({files})").fetchall()
    assert all(value == pytest.approx(1, abs=5e-3) for (value,) in norm)
    frame = table.to_pandas()
    assert frame["id"].is_unique
    assert np.stack(frame["temporal"].to_list()).reshape(12, F, D).dtype == np.float16


def test_the_fingerprint_is_in_every_shard_and_names_what_made_it(features: Snapshot) -> None:
    for shard in features.shards:
        found = fingerprint_of(pq.read_schema(root(features) / shard.path), shard.path)
        assert found == features.fingerprint
    parts = features.fingerprint.parts
    assert parts["sampling"] == {"strategy": "fps", "fps": 2.0, "frames": F}  # as the checkpoint has it
    assert str(parts["decoder"]).startswith("pyav ")
    assert (parts["activation"], parts["dtype"], parts["patches"]) == ("quickgelu", "float16", P)
    assert parts["schema"] == SCHEMA_VERSION


@pytest.fixture(scope="module")
def messy(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What people's folders hold."""
    folder = tmp_path_factory.mktemp("messy")
    names = ["plain.mp4", "with space.mp4", "žluťoučký 鳥.mp4", "-leading dash.mp4", "ends.in.MP4", "deep/er/video.mp4"]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(corpus.folder / "train" / f"train-{number:05d}.mp4", folder / name)
    shutil.copy(folder / "plain.mp4", folder / "zz copy.mp4")
    (folder / "empty.mp4").touch()
    (folder / "page.mp4").write_text("<!doctype html><title>404</title><p>gone</p>")
    whole = (corpus.folder / "train" / "train-00006.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(folder / "pipe.mp4")
    (folder / "nowhere.mp4").symlink_to(folder / "gone.mp4")
    (folder / "notes.txt").write_text("not a video, and not listed as one")
    return folder


def names_below(folder: Path, uris: Iterable[str]) -> set[str]:
    return {Path(uri).relative_to(folder).as_posix() for uri in uris}


def test_every_file_of_a_messy_folder_is_answered_for(
    ray_cluster: None, messy: Path, model: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    settings = {"corpus": {"uri": str(messy)}, "max_failure_rate": 1}
    snapshot = encode(config(out, model, **settings))
    failed = {Path(row["uri"]).relative_to(messy).as_posix(): row for row in snapshot.failed().to_pylist()}
    found = names_below(messy, (uri for uris in uris_of(snapshot).values() for uri in uris))
    listed = {path.relative_to(messy).as_posix() for path in messy.rglob("*") if path.suffix.lower() == ".mp4"}
    assert found | failed.keys() == listed
    assert not found & failed.keys()
    assert {name: (row["stage"], row["kind"], row["attempts"]) for name, row in failed.items()} == {
        "empty.mp4": ("read", "empty", 1),
        "page.mp4": ("decode", "not_a_video", 1),
        "cut.mp4": ("decode", "truncated", 1),
        "pipe.mp4": ("read", "not_a_video", 1),
        "nowhere.mp4": ("read", "missing", 1),
    }
    assert all(row["message"] and row["at"] for row in failed.values())
    # One content is one video, listed wherever it lies.
    encoded = rows(snapshot)
    assert len({row["id"] for row in encoded}) == len(encoded) == snapshot.rows == 6
    assert all(row["id"] == hash_file(Path(row["uri"]))[:32] and row["decoder"] == "pyav" for row in encoded)
    twice = uris_of(snapshot)[hash_file(messy / "plain.mp4")[:32]]
    assert names_below(messy, twice) == {"plain.mp4", "zz copy.mp4"}
    printed = capsys.readouterr().out
    assert "12 listed, 6 encoded, 5 failed, 0 unchanged, 0 moved, 1 duplicates, 0 deleted" in printed
    assert "not_a_video 2" in printed

    # The same again: nothing is new, so nothing is written.
    before = sorted(path for path in out.rglob("*") if path.is_file())
    again = encode(config(out, model, **settings))
    assert again.number == snapshot.number == FeatureStore(out).latest()
    assert sorted(path for path in out.rglob("*") if path.is_file()) == before
    assert "0 encoded, 0 failed, 7 unchanged" in capsys.readouterr().out


def test_too_many_failures_fail_the_job_after_the_good_work_is_committed(
    ray_cluster: None, messy: Path, model: ModelConfig, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=r"5 of 12 videos failed, more than max_failure_rate \(5%\).*snapshot 1"):
        encode(config(tmp_path / "out", model, corpus={"uri": str(messy)}))
    assert FeatureStore(tmp_path / "out").snapshot().rows == 6


def test_what_changes_is_encoded_and_what_does_not_is_left_alone(
    ray_cluster: None, corpus, model: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    films = [corpus.folder / "train" / f"train-{number:05d}.mp4" for number in range(8)]
    for name, film in zip("abcdef", films, strict=False):
        shutil.copy(film, folder / f"{name}.mp4")
    settings = {"corpus": {"uri": str(folder)}, "features": {"rows_per_shard": 2}}
    first = encode(config(out, model, **settings))
    stored = {row["id"]: row for row in rows(first)}

    (folder / "b.mp4").rename(folder / "moved.mp4")
    shutil.copy(films[6], folder / "c.mp4")  # changed
    (folder / "d.mp4").unlink()
    (folder / "e.mp4").touch()
    shutil.copy(films[7], folder / "new.mp4")
    capsys.readouterr()
    second = encode(config(out, model, **settings))
    printed = capsys.readouterr().out
    assert "6 listed, 2 encoded, 0 failed, 3 unchanged, 1 moved, 0 duplicates, 1 deleted" in printed
    assert {name for uris in uris_of(second).values() for name in names_below(folder, uris)} == {
        path.name for path in folder.iterdir()
    }
    for row in rows(second):
        before = stored.get(row["id"])
        assert before is None or repr(before) == repr(row)  # NaN pads the times, and equals nothing
    assert len(rows(second)) == 6
    # The version before is as it was.
    assert repr(rows(FeatureStore(out).snapshot(first.number))) == repr(list(stored.values()))
    assert second.number == first.number + 1


def test_what_a_killed_run_has_read_is_not_read_again(
    ray_cluster: None, corpus, model: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a corpus that takes days to read."""
    settings = config(tmp_path / "out", model, corpus=corpus.manifest("validation"))
    monkeypatch.setattr(identifying, "_KEEP_EVERY_S", 0)

    def killed(*values: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(job, "decide", killed)
        with pytest.raises(KeyboardInterrupt):
            encode(settings)
    assert FeatureStore(settings.out).latest() == 0
    asked: list[str] = []
    read = job.read_contents
    monkeypatch.setattr(job, "read_contents", lambda uris, *rest, **more: (asked.extend(uris), read([], *rest))[1])
    assert encode(settings).rows == 4
    assert asked == []
    assert not list((tmp_path / "out" / "hashed").iterdir())


def test_another_model_takes_a_set_of_its_own_by_its_fingerprint(
    ray_cluster: None, corpus, model: ModelConfig, make_checkpoint, tmp_path: Path
) -> None:
    out = tmp_path / "sets" / "{fingerprint}"
    small = {"corpus": {"uri": str(corpus.folder / "train" / "train-00000.mp4")}}
    one = encode(config(out, model, **small))
    other = encode(config(out, make_checkpoint(seed=1), **small))
    assert {Path(one.url).name, Path(other.url).name} == {one.fingerprint.digest, other.fingerprint.digest}
    assert one.url != other.url
    assert (one.number, other.number) == (1, 1)


def test_a_set_in_an_object_store_is_the_set_of_a_folder(
    ray_cluster: None, s3: str, corpus, model: ModelConfig, features: Snapshot
) -> None:
    """Videos from one bucket, features into it, and a rerun that finds nothing new."""
    prefix = f"{s3}/videos"
    files = filesystem("s3")
    for path in sorted((corpus.folder / "test").iterdir()):
        files.put_file(str(path), f"{prefix}/{path.name}")
    settings = {"corpus": {"uri": prefix, "ids": "path"}, "features": {"rows_per_shard": 5}}
    snapshot = encode(config(f"{s3}/features", model, **settings))
    assert snapshot.url == f"{s3}/features"
    there = {row["id"].removesuffix(".mp4"): row for row in rows(snapshot)}
    here = {row["id"]: row for row in rows(features)}
    assert there.keys() == here.keys()
    for name, row in there.items():
        assert row["uri"] == f"{prefix}/{name}.mp4"
        for column in ("content_hash", "duration", "fps", "mask"):
            assert row[column] == here[name][column]
        for column in ("video", "frames", "temporal", "patches"):
            np.testing.assert_allclose(row[column], here[name][column], atol=1e-3)
    assert encode(config(f"{s3}/features", model, **settings)).number == snapshot.number == 1


def test_a_manifest_brings_ids_and_segments(ray_cluster: None, corpus, model: ModelConfig, tmp_path: Path) -> None:
    """And without patches the set is the smaller by them."""
    manifest = tmp_path / "cuts.csv"
    video = corpus.folder / "train" / "train-00000.mp4"
    manifest.write_text(
        "id,uri,start,end\n"
        f"first half,{video},0,1\n"
        f"second half,{video},1,\n"
        f"whole,{video},,\n"
        f",{video},0.5,1.5\n"
        f"beyond,{video},7,8\n"
    )
    out = tmp_path / "out"
    settings = {
        "corpus": {"uri": str(manifest)},
        "sampling": {"fps": 4},
        "features": {"patches": False, "thumbnail": 0},
    }
    snapshot = encode(config(out, model, max_failure_rate=1, **settings))
    found = {row["id"]: row for row in rows(snapshot)}
    content = hash_file(video)
    assert set(found) == {"first half", "second half", "whole", f"{content[:32]}#t=0.5,1.5"}
    assert {row["content_hash"] for row in found.values()} == {content}
    assert [(found[name]["start"], found[name]["end"]) for name in ("first half", "second half", "whole")] == [
        (0.0, 1.0),
        (1.0, None),
        (None, None),
    ]
    # Times are those of the file, whichever part of it is looked at.
    assert found["first half"]["timestamps"] == [0.0, 0.25, 0.5, 0.75]
    assert found["second half"]["timestamps"] == [1.0, 1.25, 1.5, 1.75]
    assert found["first half"]["video"] != found["second half"]["video"]
    (lost,) = snapshot.failed().to_pylist()
    assert (lost["id"], lost["kind"], lost["start"], lost["end"]) == ("beyond", "no_frames", 7.0, 8.0)
    assert "patches" not in snapshot.schema().names
    assert {row["thumbnail"] for row in found.values()} == {None}


def test_a_corpus_of_broken_files_is_an_empty_set_and_its_failures(
    ray_cluster: None, model: ModelConfig, tmp_path: Path
) -> None:
    """Unreadable files are refused before the pipeline, unplayable ones within it: the second run meets both."""
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "nowhere.mp4").symlink_to(folder / "gone.mp4")
    settings = {"corpus": {"uri": str(folder)}, "max_failure_rate": 1}
    snapshot = encode(config(tmp_path / "unreadable", model, **settings))
    assert (snapshot.rows, snapshot.shards, snapshot.failed().num_rows) == (0, (), 1)
    (folder / "page.mp4").write_text("<html>")
    snapshot = encode(config(tmp_path / "unplayable", model, **settings))
    assert (snapshot.rows, snapshot.shards, snapshot.failed().num_rows) == (0, (), 2)
