"""A job's command line: file, then options, and a refusal that says what to type instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import yaml
from pydantic import Field

from mgvr_core.config import Section, keys, section_of
from mgvr_core.errors import MgvrError
from pipelines import corpus, demo, encode, retrieve, train
from pipelines.options import help_text, read_options

JOBS = {
    "encode": (encode, encode.EncodeConfig),
    "train": (train, train.TrainConfig),
    "retrieve": (retrieve, retrieve.RetrieveConfig),
    "demo": (demo, demo.DemoConfig),
}
COMMANDS = {
    "plan": corpus.PlanConfig,
    "status": corpus.StatusConfig,
    "failures": corpus.FailuresConfig,
    "retry": corpus.RetryConfig,
    "verify": corpus.VerifyConfig,
    "gc": corpus.GcConfig,
    "drop": corpus.DropConfig,
}
ROOT = Path(__file__).resolve().parents[2]


class Inner(Section):
    rate: float = Field(1.0, description="frames a second")
    mode: Literal["slow", "fast"] = Field("slow", description="how")


class Outer(Section):
    out: str = Field(description="folder")
    inner: Inner = Field(Inner(), description="what is not set is as the model has it")
    names: tuple[str, ...] = Field((), description="some names")
    depth_limit: int | None = Field(None, description="how deep")
    loud: bool = Field(False, description="tell more")
    json_: bool = Field(False, alias="json", description="for programs")


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return str(path)

    return write


def read(*argv: str) -> Outer:
    return read_options(Outer, "mgvr test", "A guide.", argv)


def test_the_command_line_goes_over_the_file_and_the_file_over_the_defaults(file) -> None:
    given = read(file("out: a\ninner: {rate: 2}\n"), "--inner.mode", "fast", "--out=b")
    assert given == Outer(out="b", inner=Inner(rate=2, mode="fast"))


@pytest.mark.parametrize("argv", [["--depth_limit", "3"], ["--depth-limit", "3"], ["--depth-limit=3"]])
def test_an_option_can_be_written_in_every_usual_way(argv: list[str]) -> None:
    assert read("--out", "a", *argv).depth_limit == 3


@pytest.mark.parametrize(
    ("argv", "loud"),
    [
        ([], False),
        (["--loud"], True),
        (["--loud", "--depth-limit", "3"], True),
        (["--loud", "true"], True),
        (["--loud", "no"], False),
        (["--loud=false"], False),
        (["--loud", "--loud=off"], False),
    ],
)
def test_a_switch_needs_no_value_and_takes_one(argv: list[str], loud: bool) -> None:
    assert read("--out", "a", *argv).loud is loud


def test_what_follows_a_switch_is_not_swallowed_by_it(file) -> None:
    assert read("--loud", file("out: a\n")) == Outer(out="a", loud=True)


def test_an_option_goes_by_the_name_that_users_know() -> None:
    """The word may be taken in Python."""
    assert read("--out", "a", "--json").json_
    assert not read("--out", "a").json_
    with pytest.raises(MgvrError, match="unknown option --json_; did you mean json"):
        read("--out", "a", "--json_")
    assert "--json for programs [default False]" in " ".join(help_text(Outer, "mgvr test", None).split())


@pytest.mark.parametrize(
    ("text", "names"),
    [("x", ("x",)), ("x,y", ("x", "y")), ("x, y z", ("x", "y z")), ("[x, y]", ("x", "y")), ("[]", ()), ("*", ("*",))],
)
def test_a_list_can_be_written_as_words_between_commas(text: str, names: tuple[str, ...]) -> None:
    assert read("--out", "a", "--names", text).names == names


@pytest.mark.parametrize("text", ["2024", "no", "clip #1", "a: b", "[x]", "-x", "1e3"])
def test_a_text_is_taken_as_it_is_typed(text: str) -> None:
    assert read("--out", text).out == text


def test_values_mean_what_they_mean_in_the_file() -> None:
    assert read("--out", "a=b", "--names", "[x, y]").names == ("x", "y")
    assert read("--out", "a=b").out == "a=b"
    assert read("--out=a=b", "--depth_limit", "null").depth_limit is None
    assert read("--out", "a", "--inner.rate", "5e-1").inner.rate == 0.5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--oot", "a"], "unknown option --oot; did you mean out?"),
        (["--out", "a", "--inner.mod", "fast"], "did you mean inner.mode?"),
        (["--out", "a", "--rate", "2"], "did you mean inner.rate?"),
        (["--out"], "--out needs a value"),
        (["--out", "--depth_limit", "3"], "--out needs a value; one that begins with -- is given as --out=VALUE"),
        (["a.yaml", "b.yaml"], "takes one configuration file, but got a.yaml and b.yaml"),
        (["--inner.rate", "2"], "out: required, but not given"),
        (["--out", "a", "--inner.rate", "many"], "inner.rate: Input should be a valid number"),
        (["--out", "a", "--inner.mode", "quick"], "'slow' or 'fast'"),
        (["nowhere.yaml"], "cannot read the configuration file nowhere.yaml"),
    ],
)
def test_what_is_wrong_is_refused_with_what_would_be_right(argv: list[str], message: str) -> None:
    with pytest.raises(MgvrError, match=re.escape(message)):
        read(*argv)


def test_a_folder_in_the_place_of_the_file_is_told_where_it_goes(tmp_path: Path) -> None:
    with pytest.raises(MgvrError, match=f"{tmp_path} is a folder, and only a configuration file goes without"):
        read(str(tmp_path))


def test_an_unknown_key_of_the_file_is_refused_with_the_nearest(file) -> None:
    with pytest.raises(MgvrError, match=r"inner\.modus: unknown key; did you mean inner\.mode\?"):
        read(file("out: a\ninner: {modus: fast}\n"))


def test_all_wrong_values_are_told_at_once(file) -> None:
    with pytest.raises(MgvrError) as refused:
        read(file("inner: {rate: many}\n"), "--depth_limit", "x")
    assert all(key in str(refused.value) for key in ("out:", "inner.rate:", "depth_limit:"))


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_is_printed_and_ends_the_program(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read("--out", "a", word)
    assert ended.value.code == 0
    assert "A guide." in capsys.readouterr().out


def test_help_tells_default_meaning_and_choices_of_every_key() -> None:
    text = " ".join(help_text(Outer, "mgvr test", "A guide.").split())
    assert "--out folder [required]" in text
    assert "--inner.rate frames a second [default 1.0]" in text
    assert "--inner.mode how [slow | fast; default slow]" in text
    assert "--depth_limit how deep [default none]" in text


def test_help_keeps_what_is_said_of_a_group() -> None:
    assert "what is not set is as the model has it" in help_text(Outer, "mgvr test", None)


@pytest.mark.parametrize("kind", [*(kind for _, kind in JOBS.values()), *COMMANDS.values()])
def test_every_key_of_every_job_is_described(kind: type[Section]) -> None:
    assert not [name for name, field in keys(kind) if not field.description]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_a_command_are_read_by_its_own_parser(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MGVR_DATA", "runs")
    with pytest.raises(SystemExit):
        corpus.run([command, "--help"])
    examples = re.findall(rf"^ +mgvr corpus {command} (.*)$", capsys.readouterr().out, flags=re.MULTILINE)
    assert examples
    for example in examples:
        read_options(COMMANDS[command], f"mgvr corpus {command}", None, example.split())


@pytest.mark.parametrize("job", JOBS)
def test_help_of_a_job_lists_every_key_below_its_guide(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, kind = JOBS[job]
    with pytest.raises(SystemExit):
        module.run(["--help"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: mgvr {job} [CONFIG.yaml]")
    assert module.__doc__.splitlines()[0] in printed
    for name, field in keys(kind):
        assert f"\n  --{name}\n" in printed
        assert field.description.split()[0] in printed


@pytest.mark.parametrize("job", JOBS)
def test_what_the_guide_of_a_job_shows_is_accepted(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of a guide, read by the very parser that it is meant for."""
    module, kind = JOBS[job]
    monkeypatch.chdir(ROOT)
    examples = re.findall(rf"^  mgvr {job}(.*)$", module.__doc__, flags=re.MULTILINE)
    assert examples
    for example in examples:
        read_options(kind, f"mgvr {job}", None, example.split())


@pytest.mark.parametrize("job", ["encode", "train", "retrieve"])
def test_the_job_files_are_valid(job: str) -> None:
    _, kind = JOBS[job]
    path = ROOT / "jobs" / f"{job}.yaml"
    read_options(kind, f"mgvr {job}", None, [str(path)])
    assert all(
        section_of(kind.model_fields[key].annotation) or value
        for key, value in yaml.safe_load(path.read_text()).items()
    )


def wrong_calls(job: str) -> list[list[str]]:
    return {
        "encode": [["--corpus.uri", "nowhere", "--model.name", "ViT-B-32", "--model.weights", "random", "--out", "x"]],
        "train": [["--corpus.uri", "nowhere", "--model.name", "ViT-B-32", "--model.weights", "random", "--out", "x"]],
        "retrieve": [
            ["--features", "nowhere", "--queries.uri", "nowhere.csv", "--model.checkpoint", "x", "--out", "x"]
        ],
        "demo": [["--corpus.train", "0"]],
    }[job]


@pytest.mark.parametrize("job", JOBS)
def test_a_refused_call_is_one_message_exit_code_2_and_no_ray(
    job: str, no_ray: None, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: ModuleType = JOBS[job][0]
    monkeypatch.chdir(tmp_path)
    for argv in [["--nonsense", "1"], ["missing.yaml"], ["--ray.cpus", "none of them"], *wrong_calls(job)]:
        assert module.run(argv) == 2
        told = capsys.readouterr()
        assert told.err.startswith(f"mgvr {job}: ")
        assert "Traceback" not in told.err
    assert not list(tmp_path.iterdir())
