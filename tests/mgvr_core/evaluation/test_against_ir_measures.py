"""Our figures against an outside judge: ir-measures (trec_eval's code) on the same lists."""

from itertools import permutations

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Success, nDCG

from mgvr_core.evaluation.metrics import MISSING, ndcg_at, per_query, positions_from_scores, ranks, recall_at
from mgvr_core.evaluation.trec import write_qrels, write_run

KS = (1, 5, 10)
JUDGED = [*(Success @ k for k in KS), RR, nDCG @ 10]
OURS = {**{str(Success @ k): f"R@{k}" for k in KS}, "RR": "MRR", "nDCG@10": "nDCG@10"}
QUERIES, POOL = 40, 30


def outside(qrels, run):
    """measure -> (Q,) values of the outside judge, in the order of the query numbers."""
    found = {str(measure): np.zeros(len(qrels)) for measure in JUDGED}
    for value in ir_measures.iter_calc(JUDGED, qrels, run):
        found[str(value.measure)][int(value.query_id)] = value.value
    return found


def case(seed, levels=None):
    """Scores (Q, N), tied where `levels` is given, and right answers: one to four a query, some of them missing."""
    generator = np.random.default_rng(seed)
    shape = (QUERIES, POOL)
    scores = generator.permuted(np.tile(np.arange(POOL), (QUERIES, 1)), axis=1).astype(float)
    if levels is not None:
        scores = generator.integers(levels, size=shape).astype(float)
    relevant = [
        [
            MISSING if generator.random() < 0.2 else int(item)
            for item in generator.choice(POOL, size=size, replace=False)
        ]
        for size in generator.integers(1, 5, size=QUERIES)
    ]
    relevant[0] = [MISSING]
    return scores, relevant


def qrels_of(relevant):
    return {
        str(query): {(f"gone{place}" if item == MISSING else f"d{item}"): 1 for place, item in enumerate(items)}
        for query, items in enumerate(relevant)
    }


def run_of(scores):
    return {
        str(query): {f"d{item}": float(score) for item, score in enumerate(row)} for query, row in enumerate(scores)
    }


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_the_last_digit_without_ties(seed):
    scores, relevant = case(seed)

    ours = per_query(positions_from_scores(scores, relevant), KS)

    for measure, values in outside(qrels_of(relevant), run_of(scores)).items():
        np.testing.assert_allclose(ours[OURS[measure]].values, values, atol=1e-12, err_msg=measure)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [1, 2, 8])
def test_ties_broken_for_and_against_the_right_answers_are_our_bounds(seed, levels):
    scores, relevant = case(seed, levels)
    nudge = np.zeros_like(scores)
    for query, items in enumerate(relevant):
        nudge[query, [item for item in items if item != MISSING]] = 0.5  # less than the distance of two levels
    rank = ranks(positions_from_scores(scores, relevant))

    for bound, sign, values in (("best", 1, rank.best), ("worst", -1, rank.worst)):
        judged = outside(qrels_of(relevant), run_of(scores + sign * nudge))
        for k in KS:
            np.testing.assert_array_equal(recall_at(rank, k, bound), judged[str(Success @ k)])
        np.testing.assert_allclose(np.where(rank.answerable, 1 / values, 0), judged["RR"], atol=1e-12)


def test_ndcg_of_tied_items_is_the_mean_over_every_order_of_them():
    generator = np.random.default_rng(7)
    for _ in range(12):
        scores = generator.integers(3, size=5)
        relevant = [*generator.choice(5, size=generator.integers(1, 4), replace=False).tolist(), MISSING]
        orders = [sorted(order, key=lambda item: -scores[item]) for order in permutations(range(5))]
        qrels = qrels_of([relevant] * len(orders))
        run = {
            str(i): {f"d{item}": -float(place) for place, item in enumerate(order)} for i, order in enumerate(orders)
        }

        ours = ndcg_at(positions_from_scores(scores[None].astype(float), [relevant]))

        assert ours == pytest.approx([outside(qrels, run)["nDCG@10"].mean()], abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_files_that_we_write_are_judged_as_we_judge_the_lists(tmp_path, seed):
    """A reranked list has no score of its own: the order that we mean must survive the tool's sorting by score."""
    places, relevant = case(seed)
    order = np.argsort(-places, axis=1)
    write_run(
        tmp_path / "run", ((str(q), [f"d{item}" for item in items]) for q, items in enumerate(order)), "two-stage"
    )
    write_qrels(tmp_path / "qrels", ((query, list(documents)) for query, documents in qrels_of(relevant).items()))

    qrels = {str(query): {} for query in range(QUERIES)}
    for row in ir_measures.read_trec_qrels(str(tmp_path / "qrels")):
        qrels[row.query_id][row.doc_id] = row.relevance
    judged = outside(qrels, list(ir_measures.read_trec_run(str(tmp_path / "run"))))

    ours = per_query(positions_from_scores(places, relevant), KS)
    for measure, values in judged.items():
        np.testing.assert_allclose(ours[OURS[measure]].values, values, atol=1e-12, err_msg=measure)
