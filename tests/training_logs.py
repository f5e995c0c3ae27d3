"""The records that a training run logs, made up, and the report of a run that logged them."""

import dataclasses

import pytest

from mgvr_core.evaluation.bootstrap import Interval
from mgvr_core.evaluation.training_page import Selection
from mgvr_core.evaluation.training_report import Fusion, Setup, TrainingLog, TrainingReport

SCORES = ("video", "frame_weak", "tib_frame", "fused", "released")
RESUME = {"step": 4, "at": "2026-11-25T12:00:00+00:00", "workers": 2}


def step(number, per_epoch=5):
    return {
        "step": number,
        "epoch": (number - 1) // per_epoch + 1,
        "loss": 4 / number,
        "loss_weak": 3.5 / number,
        "loss_strong": 3 / number,
        "loss_pearson": 40.0,
        "lr": 1e-3,
        "lr_clip": 1e-6,
        "logit_scale": 20.0,
        "grad_norm": 1.3,
        "pairs": 64,
        "seconds": 0.25,
        "wait_seconds": 0.01 * (number % 2),
    }


def epoch(number, per_epoch=5):
    last = step(number * per_epoch, per_epoch)
    recalls = {f"R@1_{name}": 0.01 * number + 0.1234 * place for place, name in enumerate(SCORES)}
    measured = {"seconds": 1.5, "wait_seconds": 0.06, "pairs": 320, **recalls, "fusion": {"video": 0.2}}
    return {
        **{key: value for key, value in last.items() if not key.startswith("l")},
        **measured,
        "loss": 7.125 / number,
    }


def log_of(steps, epochs=0, per_epoch=5):
    return TrainingLog(
        tuple(step(number, per_epoch) for number in range(1, steps + 1)),
        tuple(epoch(number, per_epoch) for number in range(1, epochs + 1)),
    )


@pytest.fixture
def report():
    return TrainingReport(
        title="A run",
        created="2026-11-25T10:12:00+00:00",
        command="mgvr train --out run",
        configuration={"out": "run", "optimiser": {"lr": 1e-4}},
        versions={"mgvr": "0.1.0"},
        hardware={"cpu": "2 cores"},
        fingerprint={"model": "0123456789abcdef"},
        setup=Setup(2600, 1300, 64, 5, 2, 2, 1_234_567, 5_000_000),
        log=dataclasses.replace(log_of(10, 2), resumes=(RESUME,)),
        selection=Selection("R@1_fused", epoch=2, step=10, value=0.3902),
        fusion=Fusion({"video": 0.2, "tib_frame": 1.1}, "fitted"),
        test={"R@1 video": Interval(0.0612, 0.05, 0.0789), "recall@50": 0.7771},
        failures=({"uri": "a.mp4", "stage": "decode", "kind": "corrupt", "message": "cut short"},),
        warnings=("This run was selected on its test split.",),
    )
