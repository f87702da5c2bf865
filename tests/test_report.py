import json

import numpy as np
import pytest

from trl_real.report import BINS, Distribution, SelectionReport


@pytest.fixture
def report():
    return SelectionReport(
        strategy="easy",
        embedder="some/model",
        budget=0.5,
        layout="candidates",
        given_pairs=False,
        labelled=True,
        rows=10,
        skipped={"tied_scores": 2},
        policies={"grouped_rows": 3, "equal_responses": 1},
        dropped={"over_budget": 4},
        pairs=4,
        responses=50,
        responses_cut=7,
        eligible=Distribution.of(np.linspace(-0.2, 1, 80)),
        picked=Distribution.of([-0.2, 0.0, 0.1, 0.1]),
    )


def test_distribution():
    values = np.random.default_rng(0).uniform(-1, 1, 1000)
    distribution = Distribution.of(np.append(values, np.nan))
    assert distribution.count == 1001
    assert list(distribution.quantiles.values()) == pytest.approx(
        np.quantile(values, [0, 0.25, 0.5, 0.75, 1]), abs=1e-6
    )
    assert len(distribution.histogram) == BINS
    assert sum(distribution.histogram) == 1000
    assert Distribution.of([np.nan]) == Distribution(count=1)
    assert sum(Distribution.of([1.0, 1.0000001, -1.0]).histogram) == 3


def test_prints_what_went_in_and_where_it_went(report):
    text = str(report)
    for line in (
        "prompts in             7 with 50 responses",
        "rows grouped           3: they share the prompt of an earlier row",
        "responses merged       1: equal to another one (Unicode NFC, stripped)",
        "responses cut          7 were longer than the embedder's limit",
        "prompts skipped        2: no two scores differ by more than `min_score_gap`",
        "pairs dropped          4: picked, but not within the budget",
        "pairs out              4 labelled, of 80 that could be labelled",
        "similarity, pairs out  median 0.05, half in -0.05 to 0.10",
    ):
        assert line in text, text


def test_is_json(report):
    assert json.loads(json.dumps(report.to_dict()))["picked"]["quantiles"]["min"] == -0.2


def test_plot(report, tmp_path):
    figure = report.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["all 80 pairs that could be labelled", "4 pairs picked by 'easy'"]


def test_plot_of_what_was_not_embedded():
    figure = SelectionReport.of_given_pairs(3).plot()
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing was embedded"]
