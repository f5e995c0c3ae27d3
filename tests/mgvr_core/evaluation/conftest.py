"""A small, complete report with every part filled in."""

import dataclasses

import numpy as np
import pytest

from mgvr_core.evaluation.comparison import compare
from mgvr_core.evaluation.metrics import MISSING, positions_from_scores
from mgvr_core.evaluation.report import (
    Captions,
    Directions,
    Example,
    Hit,
    HubVideo,
    Macs,
    Manifest,
    Report,
    StageTime,
)
from mgvr_core.evaluation.thumbnails import data_uri


@pytest.fixture(scope="session")
def positions():
    """Coarse and two-stage positions of 120 queries over 40 videos; the second puts 30 more right answers first."""
    scores = np.random.default_rng(0).normal(size=(120, 40))
    better = scores.copy()
    better[np.arange(30), np.arange(30) % 40] = 9
    relevant = [[query % 40] for query in range(119)] + [[MISSING]]
    return positions_from_scores(scores, relevant), positions_from_scores(better, relevant)


@pytest.fixture(scope="session")
def report(positions):
    coarse, two_stage = positions
    direction = compare(coarse, two_stage, k=10, scores={"video": coarse, "TIB_frame": two_stage}, samples=200)
    hits = (Hit("v1", 1, 4, True, "clip <1>"), Hit("v2", 2, 1, False))
    return Report(
        title="A run",
        created="2025-11-21T10:12:00+00:00",
        queries=120,
        pool=40,
        captions=Captions(total=120, text_length=32, too_long=3, words=900, unknown_words=9),
        manifest=Manifest(
            command="mgvr retrieve --k 10",
            configuration={"k": 10, "weights": {"video": 0.5}},
            fingerprints={"features": "0123456789abcdef"},
            versions={"mgvr": "0.1.0"},
            hardware={"cpu": "2 cores"},
            seed=7,
        ),
        summary="Two stages against one.",
        metrics=Directions(direction, dataclasses.replace(direction, note="Captions are ranked one by one.")),
        stages=(StageTime("stage 1", 0.02), StageTime("stage 2", 75.0)),
        macs_per_query=Macs(coarse=20_480, two_stage=16_320_000, exhaustive=816_000_000),
        warnings=("3 captions are too long.",),
        files={"run.trec": "the final lists"},
        examples=(Example("win", "q1", "a red circle", hits, 4, 1),),
        protocol={"Right videos a query": "1"},
        hubs=(HubVideo("v1", 31, 2, "clip <1>"),),
        thumbnails={"v1": data_uri(b"\xff\xd8\xff\xd9")},
    )
