"""Coded features: what they keep of the vectors, what they promise, and that they are read as they were written."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from drawn import near_features
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.errors import MgvrError
from mgvr_core.features.codec import Codec, grouped, load, train
from mgvr_core.features.contents import Change
from mgvr_core.features.layout import CodecConfig, columns_of, stored_tensors
from mgvr_core.features.reach import reach
from mgvr_core.features.schema import FeatureShape, build_table, feature_schema
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint
from mgvr_core.retrieval.fine import fine_columns, fine_shard

V, F, P, D = 40, 4, 9, 32
PLAIN = Fingerprint({"weights": "abc", "schema": 3})
CONFIGS = [
    CodecConfig(values="fp16"),
    CodecConfig(values="fp16", tokens=3),
    CodecConfig(values="int8"),
    CodecConfig(values="int8", tokens=3),
    CodecConfig(values="pq", subvectors=16),
    CodecConfig(values="pq", tokens=3, subvectors=8, rotate=False),
]
NAMES = ["-".join(map(str, (config.values, config.tokens))) for config in CONFIGS]
LEAST_COSINE = {"fp16": 0.9999, "int8": 0.9999, "pq": 0.9}


pytestmark = pytest.mark.usefixtures("one_thread")


def features(seed: int = 0, videos: int = V) -> dict[str, Tensor]:
    return near_features(seed, videos, (F, P, D), 1.0, (0.6, 0.6, 0.6, 0.6))


@cache
def codec_of(config: CodecConfig, patches: bool = True) -> Codec:
    if config.values != "pq":
        return Codec(config)
    some = features(1, 100)
    del some["video"]
    groups = grouped(config, **(some if patches else some | {"patches": None}))
    return train(config, {part: group.vectors[group.valid][:300] for part, group in groups.items()}, PLAIN.digest)


@pytest.fixture(scope="module", params=CONFIGS, ids=NAMES)
def codec(request: pytest.FixtureRequest) -> Codec:
    return codec_of(request.param)


def test_decoded_vectors_lie_near_those_that_were_coded(codec: Codec) -> None:
    given = features()
    columns = codec.columns(**given)
    del given["video"]
    for part, group in grouped(codec.config, **given).items():
        cosine = torch.cosine_similarity(codec.decode(part, columns).float(), group.vectors, dim=-1)
        assert cosine[group.valid].mean() > LEAST_COSINE[codec.config.values]


def test_the_columns_are_those_of_the_layout(codec: Codec) -> None:
    columns = codec.columns(**features())
    layout = stored_tensors(codec.config.part(D, codec.digest), F, D, codec.config.tokens or P)
    assert {name: (str(values.dtype), values.shape[1:]) for name, values in columns.items()} == layout
    assert {len(values) for values in columns.values()} == {V}


def test_the_reach_bounds_every_decoded_token(codec: Codec) -> None:
    given = features()
    columns = codec.columns(**given)
    axis = normalize(torch.from_numpy(columns["video"]).double(), dim=-1)
    valid = {"frames": given["mask"], "temporal": given["mask"]}
    if codec.config.tokens:
        valid["patches"] = torch.from_numpy(columns["patch_counts"].astype(int)).flatten(1) > 0
    else:
        valid["patches"] = given["mask"].repeat_interleave(P, dim=1)
    for number, part in enumerate(("frames", "temporal", "patches")):
        tokens = codec.decode(part, columns)
        along = torch.einsum("vnd,vd->vn", tokens, axis)
        across = (tokens - along.unsqueeze(-1) * axis[:, None]).norm(dim=-1)
        least, most, aside = torch.from_numpy(columns["reach"]).double()[:, number].unsqueeze(1).unbind(-1)
        there = valid[part]
        assert ((along >= least) & (along <= most) & (across <= aside))[there].all()
        # Bounds that are met, or nearly: any larger number would be a bound too.
        nearest = torch.where(there, along, torch.inf).amin(dim=1) - least[:, 0]
        farthest = aside[:, 0] - torch.where(there, across, 0).amax(dim=1)
        assert max(nearest.max(), farthest.max()) < 1e-6


def test_what_a_padded_frame_holds_changes_nothing(codec: Codec) -> None:
    given, other = features(), features()
    for name in ("frames", "temporal", "patches"):
        other[name][~other["mask"]] = 0.3
    one, two = codec.columns(**given), codec.columns(**other)
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


def test_videos_are_coded_the_same_alone_and_among_others(codec: Codec) -> None:
    given = features()
    whole = codec.columns(**given)
    alone = codec.columns(**{name: values[20:21] for name, values in given.items()})
    for name, values in alone.items():
        np.testing.assert_allclose(values[0].astype(float), whole[name][20].astype(float), atol=1e-6)


def test_features_in_fp32_are_coded_as_the_fp16_that_a_plain_set_keeps(codec: Codec) -> None:
    given = features()
    stored = {name: values if name == "mask" else values.half() for name, values in given.items()}
    one, two = codec.columns(**given), codec.columns(**stored)
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


def test_without_patches_there_is_no_column_and_no_reach_of_them() -> None:
    for config in (CodecConfig(values="int8"), CodecConfig(values="pq", subvectors=8)):
        codec = codec_of(config, patches=False)
        columns = codec.columns(**(features() | {"patches": None}))
        assert not [name for name in columns if name.startswith("patch")]
        assert np.isnan(columns["reach"][:, 2]).all()
        assert np.isfinite(columns["reach"][:, :2]).all()


def test_product_quantisation_keeps_the_gram_matrix_of_the_frames_as_they_are_decoded() -> None:
    codec = codec_of(CodecConfig(values="pq", subvectors=8))
    given = features()
    columns = codec.columns(**given)
    decoded = codec.decode("temporal", columns) * given["mask"].unsqueeze(-1)
    row, column = np.triu_indices(F)
    expected = (decoded @ decoded.transpose(1, 2)).numpy()[:, row, column]
    np.testing.assert_allclose(columns["temporal_gram"], expected, atol=1e-6)


def test_more_bytes_a_vector_and_a_rotation_bring_it_nearer() -> None:
    skewed = torch.randn(600, D, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -3, D)

    def error(**settings: object) -> float:
        config = CodecConfig(values="pq", **settings)  # type: ignore[arg-type]
        book = train(config, {"frames": skewed}, "").books["frames"]
        return float((book.decode(book.encode(skewed)) - skewed).norm())

    coarse, fine, turned = error(subvectors=4, rotate=False), error(subvectors=8, rotate=False), error(subvectors=4)
    assert fine < coarse
    assert turned < 0.9 * coarse


def test_a_rotation_turns_and_nothing_else() -> None:
    rotation = codec_of(CodecConfig(values="pq", subvectors=8)).rotation("temporal")
    assert rotation is not None
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(D), atol=1e-5, rtol=0)


def test_codebooks_for_fewer_vectors_than_pieces_keep_each_of_them() -> None:
    few = features(2, 3)["frames"][:, 0]
    book = train(CodecConfig(values="pq", subvectors=8, rotate=False), {"frames": few}, "").books["frames"]
    torch.testing.assert_close(book.decode(book.encode(few)).float(), few)


def test_the_same_sample_and_seed_train_the_same_codebooks() -> None:
    config = CodecConfig(values="pq", subvectors=8)
    assert codec_of.__wrapped__(config).file == codec_of(config).file
    assert codec_of(config).file != codec_of(config.model_copy(update={"seed": 1})).file


def test_codebooks_are_read_as_they_were_written() -> None:
    made = codec_of(CodecConfig(values="pq", tokens=3, subvectors=8))
    read = load(made.file, "the test")
    assert (read.config, read.trained_on, read.digest) == (made.config, PLAIN.digest, made.digest)
    one, two = made.columns(**features()), read.columns(**features())
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


@pytest.mark.parametrize("data", [b"", b"no codebooks", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_file_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(MgvrError, match=r"set/codebooks/x\.safetensors holds no codebooks of mgvr"):
        load(data, "set/codebooks/x.safetensors")


@pytest.mark.parametrize("name", ["subvectors", "rotate", "seed", "train_videos"])
def test_what_a_code_would_not_use_is_refused(name: str) -> None:
    value = {"subvectors": 8, "rotate": False, "seed": 1, "train_videos": 10}[name]
    assert getattr(CodecConfig(values="pq", **{name: value}), name) == value  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=f"{name} does nothing with values int8"):
        CodecConfig(values="int8", **{name: value})  # type: ignore[arg-type]


def test_a_configuration_that_was_written_down_is_read_again() -> None:
    for config in CONFIGS:
        assert CodecConfig(**config.model_dump(mode="json")) == config


def test_an_eighth_of_the_dimensions_is_the_size_of_a_code_where_none_is_asked_for() -> None:
    assert [CodecConfig(values="pq").pieces(dim) for dim in (512, 64, 4)] == [64, 8, 1]


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MgvrError, match="32 dimensions can't be cut into 5 pieces"):
        train(CodecConfig(values="pq", subvectors=5), {"frames": torch.zeros(3, D)}, "")
    with pytest.raises(MgvrError, match="a frame has 9 patches; set it lower"):
        CodecConfig(values="fp16", tokens=9).tokens_of(P)
    with pytest.raises(MgvrError, match="there are no patches to merge"):
        CodecConfig(values="fp16", tokens=2).tokens_of(0)


def test_a_coded_fingerprint_names_its_code_and_no_other_part_changes() -> None:
    codec = codec_of(CodecConfig(values="pq", tokens=3, subvectors=8))
    coded = codec.fingerprint(PLAIN, D)
    assert {name: value for name, value in coded.parts.items() if name != "codec"} == PLAIN.parts
    assert coded.parts["codec"] == {
        **{"values": "pq", "tokens": 3, "subvectors": 8, "rotate": True},
        **{"codebooks": codec.digest, "version": 1},
    }
    other = codec_of(CodecConfig(values="pq", tokens=3, subvectors=8, seed=1))
    assert coded.differences(other.fingerprint(PLAIN, D))


def test_stage_two_reads_what_was_written(codec: Codec, tmp_path: Path) -> None:
    """Through Parquet, by the columns that a rerank asks for."""
    given = features()
    columns = codec.columns(**given)
    fingerprint = codec.fingerprint(PLAIN, D)
    whole = feature_schema(FeatureShape(F, D, codec.config.tokens or P), fingerprint)
    schema = whole.empty_table().select(["mask", *columns]).schema
    pq.write_table(build_table({**columns, "mask": given["mask"]}, schema), tmp_path / "shard.parquet")
    table = pq.read_table(tmp_path / "shard.parquet", columns=fine_columns(True, codec))
    shard = fine_shard(table, codec)
    for part in ("frames", "temporal", "patches"):
        vectors = getattr(shard, part).vectors(torch.arange(V))
        torch.testing.assert_close(vectors, codec.decode(part, columns).float(), atol=1e-5, rtol=0)
    assert torch.equal(shard.video, given["video"].half())
    assert (shard.stored_gram is not None) == (codec.config.values == "pq")
    if codec.config.tokens:
        assert shard.patch_counts is not None
        assert int(shard.patch_counts.sum()) == P * int(given["mask"].sum())


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 10), tokens=st.integers(1, 5))
def test_reach_is_a_bound_whatever_the_lengths(seed: int, scale: float, tokens: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(3, 6, generator=generator).half()
    values = scale * torch.randn(3, tokens, 6, generator=generator)
    valid = torch.rand(3, tokens, generator=generator) < 0.7
    valid[:, 0] = True
    least, most, aside = reach(video, values, valid).double().unsqueeze(1).unbind(-1)
    axis = normalize(video.double(), dim=-1)
    along = (values.double() * axis[:, None]).sum(dim=-1)
    across = (values.double().square().sum(dim=-1) - along.square()).clamp_min(0).sqrt()
    assert ((along >= least) & (along <= most))[valid].all()
    assert (across <= aside + 1e-12)[valid].all()  # the difference of squares errs itself
    alone = reach(video, values[:, :1], valid[:, :1]).double()
    assert (alone[:, 0] >= least[:, 0]).all()
    assert (alone[:, 1:] <= torch.cat([most, aside], dim=1)).all()


def test_a_set_finds_its_codec_by_its_fingerprint(tmp_path: Path) -> None:
    made = codec_of(CodecConfig(values="pq", tokens=3, subvectors=8))
    store = FeatureStore(tmp_path / "set")
    store.write_codebooks(made)
    snapshot = store.commit(made.fingerprint(PLAIN, D), Change(), {})
    found = snapshot.codec()
    assert found is not None
    assert (found.config, found.digest) == (made.config, made.digest)
    assert [codec.digest for codec in store.codebooks()] == [made.digest]
    assert replace(snapshot, fingerprint=PLAIN).codec() is None
    int8 = Codec(CodecConfig(values="int8", tokens=2))
    other = replace(snapshot, fingerprint=int8.fingerprint(PLAIN, D)).codec()
    assert other is not None
    assert (other.config, other.digest) == (int8.config, None)


def test_codebooks_that_are_gone_or_changed_are_named(tmp_path: Path) -> None:
    made = codec_of(CodecConfig(values="pq", subvectors=8))
    store = FeatureStore(tmp_path / "set")
    snapshot = store.commit(made.fingerprint(PLAIN, D), Change(), {})
    with pytest.raises(MgvrError, match=r"codebooks/[0-9a-f]{24}\.safetensors of snapshot 1 can't be read"):
        snapshot.codec()
    assert made.digest
    other = codec_of(CodecConfig(values="pq", subvectors=16))
    store.storage.put(f"codebooks/{made.digest[:24]}.safetensors", other.file)
    with pytest.raises(MgvrError, match="has been changed"):
        snapshot.codec()


def test_gc_leaves_codebooks_alone_even_before_the_first_version_counts_on_them(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "set")
    made, early = (codec_of(CodecConfig(values="pq", subvectors=size)) for size in (8, 16))
    for codec in (made, early):
        store.write_codebooks(codec)
    snapshot = store.commit(made.fingerprint(PLAIN, D), Change(), {})
    store.remove(store.rubbish(keep=1, older_than_s=0))
    assert {codec.digest for codec in store.codebooks()} == {made.digest, early.digest}
    assert snapshot.codec() is not None


def test_every_column_of_a_part_is_asked_for() -> None:
    assert columns_of("temporal", "pq", 3) == ["temporal", "temporal_gram"]
    assert columns_of("patches", "int8", 3) == ["patches", "patches_scale", "patch_counts"]
    assert columns_of("frames", "fp16", 3) == ["frames"]
