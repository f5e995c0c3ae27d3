from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mgvr_core.identity import Fingerprint, hash_arrays, hash_file, hash_json

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
PARTS = st.dictionaries(st.text(min_size=1, max_size=5), JSON, max_size=5)
ARRAYS = npst.arrays(
    st.sampled_from([np.float16, np.float32, np.int64, np.uint8]), npst.array_shapes(min_dims=0, max_dims=3, max_side=4)
)


def test_a_file_is_known_by_its_bytes_alone(tmp_path: Path) -> None:
    content = b"frames" * 300_000
    one, other = tmp_path / "one.mp4", tmp_path / "other.avi"
    one.write_bytes(content)
    other.write_bytes(content)
    assert hash_file(one) == hash_file(other) == hashlib.sha256(content).hexdigest()
    other.write_bytes(content[:-1] + b"t")
    assert hash_file(one) != hash_file(other)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"gone\.mp4"):
        hash_file(tmp_path / "gone.mp4")


@given(PARTS)
def test_the_order_of_keys_does_not_change_a_hash(parts: dict[str, object]) -> None:
    assert hash_json(dict(reversed(parts.items()))) == hash_json(parts)


@given(JSON)
def test_what_json_keeps_the_hash_keeps(value: object) -> None:
    assert hash_json([value]) != hash_json(value)


def test_nan_has_no_hash() -> None:
    with pytest.raises(ValueError, match="JSON"):
        hash_json({"fps": float("nan")})


@given(st.dictionaries(st.text(max_size=5), ARRAYS, min_size=1, max_size=4), st.data())
def test_one_changed_bit_changes_the_hash_of_the_weights(weights: dict[str, np.ndarray], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(weights)))
    assume(weights[name].size)
    bits = np.frombuffer(weights[name].tobytes(), np.uint8).copy()
    bits[data.draw(st.integers(0, len(bits) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed = bits.view(weights[name].dtype).reshape(weights[name].shape)
    assert hash_arrays({**weights, name: changed}.items()) != hash_arrays(weights.items())


@given(st.dictionaries(st.text(max_size=5), ARRAYS, max_size=4), st.randoms())
def test_neither_order_nor_layout_changes_the_hash_of_the_weights(weights: dict[str, np.ndarray], random) -> None:
    shuffled = [(name, np.array(array, order="F")) for name, array in weights.items()]
    random.shuffle(shuffled)
    assert hash_arrays(shuffled) == hash_arrays(weights.items())


@given(ARRAYS)
def test_name_dtype_and_shape_belong_to_the_weights(array: np.ndarray) -> None:
    hashes = {
        hash_arrays([("w", array)]),
        hash_arrays([("v", array)]),
        hash_arrays([("w", array[np.newaxis])]),
        hash_arrays([("w", array.astype(np.complex128))]),
        hash_arrays([("w", array), ("v", array)]),
    }
    assert len(hashes) == 5


@given(PARTS, PARTS)
def test_two_fingerprints_are_equal_exactly_if_no_part_differs(ours: dict, theirs: dict) -> None:
    one, other = Fingerprint(ours), Fingerprint(theirs)
    assert (one.digest == other.digest) == (one.differences(other) == [])


@pytest.mark.parametrize(
    ("theirs", "line"),
    [
        ({"fps": 2.0, "decoder": "pyav 18"}, "fps: 1.0 against 2.0"),
        ({"fps": 1, "decoder": "pyav 18"}, "fps: 1.0 against 1"),
        ({"fps": 1.0, "decoder": None}, 'decoder: "pyav 18" against null'),
        ({"fps": 1.0}, 'decoder: "pyav 18" against absent'),
    ],
)
def test_the_part_that_differs_is_named(theirs: dict, line: str) -> None:
    ours = Fingerprint({"fps": 1.0, "decoder": "pyav 18"})
    assert ours.differences(Fingerprint(theirs)) == [line]
    assert ours.digest != Fingerprint(theirs).digest


def test_only_the_parts_asked_for_are_compared() -> None:
    model = Fingerprint({"weights": "a", "fps": 1.0})
    features = Fingerprint({"weights": "a", "fps": 2.0, "rows": 7})
    assert model.differences(features, names=["weights"]) == []
    assert model.differences(features, names=["weights", "fps"]) == ["fps: 1.0 against 2.0"]


def test_the_short_name_is_stable() -> None:
    """Feature sets on disk carry it: another value here makes every one of them foreign."""
    assert Fingerprint({"weights": "a", "fps": 1.0}).digest == Fingerprint({"fps": 1.0, "weights": "a"}).digest
    assert (
        Fingerprint({"weights": "a", "fps": 1.0}).digest
        == hashlib.sha256(b'{"fps":1.0,"weights":"a"}').hexdigest()[:16]
    )
