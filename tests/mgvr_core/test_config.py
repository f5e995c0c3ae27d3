from __future__ import annotations

import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from mgvr_core.config import Section, keys, load, parse, suggest
from mgvr_core.errors import MgvrError


class Sampling(Section):
    fps: float = Field(1.0, gt=0)
    frames: int = 12


class Model(Section):
    name: str = "ViT-B-32-quickgelu"
    weights: Path | None = None


class Job(Section):
    videos: Path
    sampling: Sampling = Sampling()
    model: Model = Model()
    seeds: tuple[int, ...] = (0,)

    @model_validator(mode="after")
    def _enough_frames(self) -> Job:
        if self.sampling.frames < len(self.seeds):
            raise ValueError("sampling.frames must not be below the number of seeds")
        return self


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text("videos: clips\nsampling:\n  fps: 2\n  frames: 8\n", encoding="utf-8")
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_command_line_goes_before_the_file_and_the_file_before_the_defaults(file: Path) -> None:
    job = load(Job, file, {"sampling.fps": "4"})
    assert (job.sampling.fps, job.sampling.frames, job.model.name) == (4.0, 8, "ViT-B-32-quickgelu")
    assert load(Job, file, {}).sampling.fps == 2.0


def test_the_command_line_alone_is_enough() -> None:
    job = load(Job, None, {"videos": "clips", "model.weights": "null", "seeds": "[1, 2]"})
    assert (job.videos, job.model.weights, job.seeds) == (Path("clips"), None, (1, 2))


def test_a_group_whose_keys_are_all_commented_out_can_be_set(file: Path) -> None:
    write(file, "videos: clips\nsampling:\n  # fps: 2\n")
    assert load(Job, file, {"sampling.fps": "3"}).sampling.fps == 3.0


@pytest.mark.parametrize(
    ("text", "unknown", "nearest"),
    [
        ("videos: a\nsampling: {fsp: 2}", "sampling.fsp", "sampling.fps"),
        ("videos: a\nvideo: b", "video", "videos"),
        ("videos: a\nframes: 3", "frames", "sampling.frames"),
        ("videos: a\nmodels: {name: x}", "models", "model"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    file: Path, text: str, unknown: str, nearest: str
) -> None:
    with pytest.raises(MgvrError) as error:
        load(Job, write(file, text), {})
    assert f"{unknown}: unknown key; did you mean {nearest}?" in str(error.value)
    assert str(file) in str(error.value)


def test_an_unknown_key_unlike_all_others_gets_no_guess() -> None:
    with pytest.raises(MgvrError, match=r"zzz: unknown key$"):
        load(Job, None, {"videos": "a", "zzz": "1"})


def test_an_unknown_override_is_refused_too(file: Path) -> None:
    with pytest.raises(MgvrError, match=r"sampling\.fpss: unknown key; did you mean sampling\.fps\?"):
        load(Job, file, {"sampling.fpss": "2"})


def test_every_fault_is_told_at_once(file: Path) -> None:
    with pytest.raises(MgvrError) as error:
        load(Job, write(file, "sampling: {fps: 0, frames: many}\nsede: 1"), {})
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    assert "  videos: required, but not given" in lines
    assert "  sampling.fps: Input should be greater than 0 (given: 0)" in lines
    assert any(line.startswith("  sampling.frames: ") and line.endswith("(given: 'many')") for line in lines)
    assert any(line.startswith("  sede: unknown key") for line in lines)


def test_a_rule_between_two_keys_is_told_in_its_own_words() -> None:
    with pytest.raises(MgvrError, match=r"as a whole: sampling\.frames must not be below the number of seeds$"):
        parse(Job, {"videos": "a", "sampling": {"frames": 1}, "seeds": [1, 2]}, source="a test")


def test_a_plain_value_is_not_a_group(file: Path) -> None:
    with pytest.raises(MgvrError, match=r"--videos\.folder: videos is a plain value in the file"):
        load(Job, file, {"videos.folder": "x"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("videos: [a", "is not a YAML file"),
        ("- videos", "must hold keys and values at its top level, not a list"),
        ("videos: !!python/object/apply:os.getcwd []", "is not a YAML file"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(file: Path, text: str, message: str) -> None:
    with pytest.raises(MgvrError, match=message) as error:
        load(Job, write(file, text), {})
    assert str(file) in str(error.value)


def test_bytes_that_are_no_text_are_refused(file: Path) -> None:
    file.write_bytes(b"videos: \xff\xfe")
    with pytest.raises(MgvrError, match=r"job\.yaml is not a YAML file"):
        load(Job, file, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MgvrError, match=r"cannot read the configuration file .*absent\.yaml: No such file"):
        load(Job, tmp_path / "absent.yaml", {})


def test_an_empty_file_is_the_defaults(file: Path) -> None:
    assert load(Job, write(file, "# nothing yet\n"), {"videos": "clips"}) == Job(videos=Path("clips"))


def test_a_configuration_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Job(videos=Path("clips")).sampling.fps = 3.0


def test_a_default_is_checked_like_a_given_value() -> None:
    class Wrong(Section):
        fps: float = Field(0.0, gt=0)

    with pytest.raises(MgvrError, match="fps: Input should be greater than 0"):
        parse(Wrong, {}, source="a test")


def test_keys_lists_every_setting_in_the_order_of_definition() -> None:
    assert [name for name, _ in keys(Job)] == [
        "videos",
        "sampling.fps",
        "sampling.frames",
        "model.name",
        "model.weights",
        "seeds",
    ]


@given(
    fps=st.floats(min_value=1e-3, max_value=1e3),
    frames=st.integers(1, 1000),
    name=st.text(string.printable, min_size=1),
)
def test_an_override_means_what_it_means_in_the_file(fps: float, frames: int, name: str) -> None:
    values = {"videos": "clips", "sampling": {"fps": fps, "frames": frames}, "model": {"name": name}}
    overrides = {
        "videos": "clips",
        "sampling.fps": yaml.safe_dump(fps),
        "sampling.frames": str(frames),
        "model.name": name,
    }
    assert load(Job, None, overrides) == parse(Job, values, source="a test")


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_order_of_overrides_does_not_matter(fps: int, frames: int) -> None:
    pairs = [("videos", "a"), ("sampling.fps", str(fps + 1)), ("sampling.frames", str(frames + 1))]
    assert load(Job, None, dict(pairs)) == load(Job, None, dict(reversed(pairs)))


@given(st.sampled_from([name for name, _ in keys(Job)]), st.data())
def test_one_wrong_letter_still_finds_the_key(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, len(name) - 1))
    typo = name[:at] + "x" + name[at:]
    assert suggest(typo, [known for known, _ in keys(Job)]) == f"; did you mean {name}?"


def test_environment_variables_stand_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "job.yaml", "videos: ${DATA}/clips\nmodel:\n  name: ${NAME:-B-32}\n")
    job = load(Job, path, {}, {"DATA": "/mnt/bucket"})
    assert (job.videos, job.model.name) == (Path("/mnt/bucket/clips"), "B-32")


def test_a_text_on_the_command_line_is_taken_as_it_is(file: Path) -> None:
    for text in ("clip #1.mp4", "Run 3: test", "2024", "[a", "true"):
        assert load(Job, file, {"model.name": text}).model.name == text


def test_a_variable_that_is_not_set_is_named_with_its_key(tmp_path: Path) -> None:
    path = write(tmp_path / "job.yaml", "videos: ${DATA}/clips\n")
    with pytest.raises(MgvrError, match="videos: the environment variable DATA is not set"):
        load(Job, path, {})
