"""Hubness corrections: scores set right for videos that are close to every query, on candidate lists of any size.

A list holds the k best videos of each query: index (Q, k), rows of the pool, each once a query, and score (Q, k). With
k = N every function equals its textbook definition on the (Q, N) matrix. New scores are float64, since their logarithms
would tie in float32, and comparable within a query only, which is all that a ranking needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mgvr_core.config import Section
from mgvr_core.errors import MgvrError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Bank = tuple[IntArray, NDArray[np.float32]]
"""The lists of B training captions over the same pool: index (B, k), score (B, k)."""


class CorrectionConfig(Section):
    """A hubness correction."""

    kind: Literal["qb_norm", "dual_softmax", "sinkhorn"] = Field(
        "qb_norm", description="qb_norm (reads training captions), dual_softmax or sinkhorn (read the test queries)"
    )
    beta: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="inverse temperature; none: 20 for qb_norm, else 100 (for cosines)"
    )
    activation: int = Field(1, gt=0, description="qb_norm: best videos of a training caption that count as hubs")
    iterations: int = Field(4, gt=0, description="sinkhorn: rounds of row and column normalisation")

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> Self:
        for name, kind in (("activation", "qb_norm"), ("iterations", "sinkhorn")):
            if self.kind != kind and name in self.model_fields_set:
                raise ValueError(f"{name} does nothing with {self.kind}: leave it out")
        return self

    @property
    def parameters(self) -> str:
        """For a table: two corrections of one kind differ in these."""
        more = {"qb_norm": f", activation {self.activation}", "sinkhorn": f", {self.iterations} rounds"}
        return f"beta {self.inverse_temperature:g}{more.get(self.kind, '')}"

    @property
    def inverse_temperature(self) -> float:
        """`beta`, or what its kind takes by default."""
        return self.beta if self.beta is not None else 20.0 if self.kind == "qb_norm" else 100.0


_BANK, _TEST = "bank of training captions", "transductive: reads the other test queries"
QB_NORM = f"QB-Norm ({_BANK})"
DUAL_SOFTMAX = f"dual softmax ({_TEST})"
SINKHORN = f"Sinkhorn ({_TEST})"
SINKHORN_BANK = f"Sinkhorn ({_BANK})"
"""How a table names corrected figures: where a query's result depends on the other test queries, it says so."""


@dataclass(frozen=True)
class Normalised:
    """What QB-Norm makes of Q lists."""

    score: FloatArray
    """(Q, k): log of the normalised score where activated, else the raw score."""
    activated: NDArray[np.bool_]
    """(Q,)"""


def qb_norm(
    index: IntArray,
    score: NDArray[np.float32],
    bank_index: IntArray,
    bank_score: NDArray[np.float32],
    beta: float = 20.0,
    activation: int = 1,
) -> Normalised:
    """Dynamic inverted softmax (Bogolin et al., CVPR 2022, "Cross Modal Retrieval with Querybank Normalisation").

    A query whose best video is among the `activation` best of some bank query gets the scores exp(beta s_qv) / Z_v with
    Z_v = sum_b exp(beta s_bv), as their logarithm beta s_qv - log Z_v; the others keep theirs. Among equal scores the
    lower index is the better one.

    A pair outside a bank's list counts with the list's last score, which it can't exceed: log Z_v is then an upper
    bound, the same for all videos that no bank query recalled, and less than that of any other. Were it nothing, a
    video that hardly any bank query recalled would be divided by almost nothing and come first: the background of many
    small terms makes up most of Z_v at this temperature. Short lists so correct less, not wrongly.

    index, bank_index (Q, k), (B, kb) int64; score, bank_score as large, float32. Raises MgvrError for a score that is
    not finite.
    """
    raw, _ = _checked(score, "query"), _checked(bank_score, "bank query")
    best = _first(index, raw, 1)[:, 0]  # (Q,)
    activated = np.isin(best, _first(bank_index, bank_score, activation))
    bank = _Sums.of(bank_index, bank_score, beta, also=index, completed=True)
    corrected = beta * raw - bank.columns(np.zeros(len(bank_index)))[bank.place(index)]
    return Normalised(np.where(activated[:, None], corrected, raw), activated)


def dual_softmax(index: IntArray, score: NDArray[np.float32], beta: float = 100.0) -> FloatArray:
    """s_qv exp(beta s_qv) / sum_q' exp(beta s_q'v), the sum over all test queries whose list has v -> (Q, k) float64.

    Cheng et al. 2021, "Improving Video-Text Retrieval by Multi-Stream Corpus Alignment and Dual Softmax Loss", applied
    to the result. Transductive: it reads the other test queries. Pairs outside the lists add nothing to the sums; at
    this temperature they hardly would. index (Q, k) int64, score (Q, k) float32.
    Raises MgvrError for a score that is not finite.
    """
    raw = _checked(score, "query")
    lists = _Sums.of(index, raw, beta)
    share = np.exp(beta * raw - lists.columns(np.zeros(len(index)))[lists.place(index)])
    return np.asarray(raw * share, np.float64)


def sinkhorn(
    index: IntArray, score: NDArray[np.float32], beta: float = 100.0, iterations: int = 4, bank: Bank | None = None
) -> FloatArray:
    """beta s_qv + log b_v, with b the column factors that Sinkhorn-Knopp finds -> (Q, k) float64.

    With K = exp(beta s), b = 1 / (1 K) at first and then, `iterations` times, a = 1 / (K b) and b = 1 / (a K) (Sinkhorn
    and Knopp 1967; applied to retrieval by UCoFiA, Wang et al., ICCV 2023). K is that of the test queries, which is
    transductive, or that of a bank of training captions, as UCoFiA has it. A query's own row factor is left out: it
    changes no ranking.

    Pairs outside the test queries' lists add nothing to the sums. Those outside a bank's count as in `qb_norm`, over
    the videos that are in any list. index (Q, k) int64, score (Q, k) float32.
    Raises MgvrError for a score that is not finite.
    """
    raw = _checked(score, "query")
    if bank is None:
        sums = _Sums.of(index, raw, beta)
    else:
        _checked(bank[1], "bank query")
        sums = _Sums.of(*bank, beta, also=index, completed=True)
    b = -sums.columns(np.zeros(len(sums.floor)))  # log b (V,)
    for _ in range(iterations):
        b = -sums.columns(-sums.rows(b))
    return np.asarray(beta * raw + b[sums.place(index)], np.float64)


def correct(
    config: CorrectionConfig, index: IntArray, score: NDArray[np.float32], bank: Bank | None = None
) -> tuple[FloatArray, str]:
    """The scores (Q, k) that a configuration asks for, and how a table names them.

    Raises MgvrError for a score that is not finite, and for qb_norm without a bank.
    """
    beta = config.inverse_temperature
    if config.kind == "dual_softmax":
        return dual_softmax(index, score, beta), DUAL_SOFTMAX
    if config.kind == "sinkhorn":
        return sinkhorn(index, score, beta, config.iterations, bank), SINKHORN if bank is None else SINKHORN_BANK
    if bank is None:
        raise MgvrError("kind: qb_norm reads a bank of training captions, and none was given; give one, or choose")
    return qb_norm(index, score, *bank, beta, config.activation).score, QB_NORM


@dataclass(frozen=True)
class _Sums:
    """Logarithms of sums over the rows and columns of K = exp(beta s), which has B rows and V columns.

    Every pair has its row's floor; those in the lists have something more.
    """

    column: IntArray
    """(V,) the videos that occur, ascending."""
    at: IntArray
    """(B, k) their places in it."""
    excess: FloatArray
    """(B, k) log of what a pair has above its row's floor."""
    floor: FloatArray
    """(B,) log of the floor; -inf where what is outside a list counts for nothing."""

    @classmethod
    def of(
        cls,
        index: IntArray,
        score: NDArray[np.float32] | FloatArray,
        beta: float,
        also: IntArray | None = None,
        completed: bool = False,
    ) -> _Sums:
        column = np.unique(index if also is None else np.concatenate([index.ravel(), also.ravel()]))
        log = beta * score.astype(np.float64)  # (B, k)
        floor = log.min(axis=1) if completed else np.full(len(log), -np.inf)
        with np.errstate(divide="ignore"):  # the last of a list has nothing above the floor
            excess = log + np.log(-np.expm1(floor[:, None] - log))
        return cls(column, np.searchsorted(column, index), excess, floor)

    def place(self, index: IntArray) -> IntArray:
        """Where videos stand in `column`."""
        return np.searchsorted(self.column, index)

    def columns(self, a: FloatArray) -> FloatArray:
        """log sum_b a_b K_bv: log a (B,) -> (V,)."""
        terms = a[:, None] + self.excess  # (B, k)
        top = np.full(len(self.column), -np.inf)
        np.maximum.at(top, self.at.ravel(), terms.ravel())
        top[np.isneginf(top)] = 0.0
        total = np.bincount(self.at.ravel(), np.exp(terms - top[self.at]).ravel(), minlength=len(top))
        with np.errstate(divide="ignore"):
            sums: FloatArray = np.logaddexp(top + np.log(total), np.logaddexp.reduce(a + self.floor))
        return sums

    def rows(self, b: FloatArray) -> FloatArray:
        """log sum_v K_bv b_v: log b (V,) -> (B,)."""
        listed = np.logaddexp.reduce(self.excess + b[self.at], axis=1)
        sums: FloatArray = np.logaddexp(listed, self.floor + np.logaddexp.reduce(b))
        return sums


def _first(index: IntArray, score: NDArray[np.float32] | FloatArray, n: int) -> IntArray:
    """The n best videos of every list, (Q, n); equal scores by index."""
    return np.take_along_axis(index, np.lexsort((index, -score))[:, :n], axis=1)


def _checked(score: NDArray[np.float32], what: str) -> FloatArray:
    bad = ~np.isfinite(score).all(axis=1)
    if bad.any():
        raise MgvrError(
            f"a score of {what} {int(bad.argmax())} (counted from 0) is NaN or infinite ({int(bad.sum())} such rows): "
            "nothing can be corrected. Check the features with mgvr corpus verify, and the model that made them"
        )
    return score.astype(np.float64)
