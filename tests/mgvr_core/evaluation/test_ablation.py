"""The table of a sweep: means over seeds, intervals over videos, gains on the same queries."""

from __future__ import annotations

import numpy as np
import pytest

from mgvr_core.evaluation.ablation import markdown, tabulate

VIDEOS = [f"v{number // 3}" for number in range(300)]


def ranks(*shares: float, seed: int = 0) -> dict[str, np.ndarray]:
    """The right video first for a share of the queries, else 20th: of `video`, then of `fused`."""
    random = np.random.default_rng(seed)
    return {
        name: np.where(random.random(len(VIDEOS)) < share, 1.0, 20.0)
        for name, share in zip(("video", "fused"), shares, strict=True)
    }


def test_figures_are_means_over_seeds_and_intervals_hold_them() -> None:
    seeds = [ranks(0.2, 0.4, seed=seed) for seed in range(3)]
    (line,) = tabulate({"row": seeds}, VIDEOS, {})
    assert line.by_seed == pytest.approx([np.mean(each["fused"] == 1) for each in seeds])
    figure = line.figures["R@1 fused"]
    assert figure.value == pytest.approx(np.mean(line.by_seed))
    assert figure.low < figure.value < figure.high
    assert line.figures["R@10 fused"].value == figure.value  # nothing stands between 1 and 20
    assert line.figures["R@1 video"].value == pytest.approx(np.mean([each["video"] == 1 for each in seeds]))
    assert (line.gain, line.against, line.seeds) == (None, "", 3)


def test_the_gain_is_paired() -> None:
    """Two rows that agree on nearly every query: their difference is known far better than either figure."""
    base = ranks(0.3, 0.3)
    better = {**base, "fused": base["fused"].copy()}
    better["fused"][np.flatnonzero(base["fused"] > 1)[:12]] = 1.0
    lines = tabulate({"base": [base], "better": [better]}, VIDEOS, {"better": "base"})
    gain = lines[1].gain
    assert gain is not None
    assert gain.value == pytest.approx(12 / 300)
    assert gain.excludes_zero
    assert gain.high - gain.low < lines[1].figures["R@1 fused"].high - lines[1].figures["R@1 fused"].low
    assert lines[1].against == "base"


def test_the_table_shows_what_was_measured_and_a_dash_for_what_was_not() -> None:
    lines = tabulate(
        {"base": [ranks(0.3, 0.3), ranks(0.3, 0.2, seed=1)], "same": [ranks(0.3, 0.3)]}, VIDEOS, {"same": "base"}
    )
    table = markdown(lines, ("video", "tib_frame")).splitlines()
    assert len(table) == 4
    assert all(row.count("|") == table[0].count("|") for row in table)
    assert "R@1 tib_frame" in table[0]
    cells = [cell.strip() for cell in table[2].strip("|").split("|")]
    assert cells[0] == "base"
    assert cells[2] == "–"
    assert f"({100 * lines[0].by_seed[0]:.1f}, {100 * lines[0].by_seed[1]:.1f})" in cells[3]
    assert table[3].rstrip(" |").endswith("over base")
