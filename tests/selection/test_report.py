import json

import numpy as np
import pytest

from trl_real.selection.report import BINS, Distribution, SelectionReport
from trl_real.selection.value_counts import ValueCounts


@pytest.fixture
def report():
    report = SelectionReport(
        strategy="easy",
        embedder="some/model",
        budget=0.5,
        budget_cost=None,
        layout="candidates",
        given_pairs=False,
        labeled=True,
        rows=10,
        skipped={"tied_scores": 2},
        policies={"grouped_rows": 3, "equal_responses": 1},
        dropped={"over_budget": 4},
        pairs=4,
        responses=50,
        responses_cut=7,
        tokens_cut=1234,
        seconds={"reading": 0.04, "embedding": 61.3},
    )
    report.compare(
        {
            "similarity": ValueCounts(np.linspace(-0.2, 1, 80)),
            "score_gap": ValueCounts(np.linspace(0, 8, 80)),
            "response_length": ValueCounts(np.arange(100, 260)),
            "length_difference": ValueCounts(np.arange(-40, 40)),
        },
        {
            "similarity": ValueCounts(np.array([-0.2, 0.0, 0.1, 0.1])),
            "score_gap": ValueCounts(np.array([1.0, 2.0, 3.0, 4.0])),
            "response_length": ValueCounts(np.arange(1000, 1008)),
            "length_difference": ValueCounts(np.array([0, 5, 5, -2000])),
        },
    )
    return report


def test_distribution():
    values = np.random.default_rng(0).uniform(-1, 1, 1000)
    distribution = Distribution.of(ValueCounts(np.append(values, np.nan)))
    assert distribution.count == 1001
    assert list(distribution.quantiles.values()) == pytest.approx(
        np.quantile(values, [0, 0.25, 0.5, 0.75, 1]), abs=1e-6
    )
    assert len(distribution.histogram) == BINS
    assert sum(distribution.histogram) == 1000
    assert Distribution.of(ValueCounts(np.array([np.nan]))) == Distribution(count=1)
    assert sum(Distribution.of(ValueCounts(np.array([1.0, 1.0000001, -1.0]))).histogram) == 3


def test_comparison_is_on_one_scale_and_counts_what_lies_beyond_it(report):
    comparison = report.length_difference
    assert (comparison.low, comparison.high) == pytest.approx((-39.21, 38.21))
    assert sum(comparison.eligible.histogram) == 80
    assert (comparison.picked.histogram[0], sum(comparison.picked.histogram)) == (1, 4)
    assert (report.similarity.low, report.similarity.high) == (-1, 1)
    assert report.chosen_longer == {
        "eligible": pytest.approx(39 / 79, abs=1e-6),
        "picked": pytest.approx(2 / 3, abs=1e-6),
    }


def test_prints_what_went_in_and_where_it_went(report):
    assert (
        str(report)
        == """\
strategy              easy
embedder              some/model
prompts in            7 with 50 responses
rows grouped          3: they share the prompt of an earlier row
responses merged      1: equal to another one (Unicode NFC, stripped)
responses cut         7: longer than the embedder's limit, 1,234 tokens in total
prompts skipped       2: no two scores differ by more than `min_score_gap`
pairs dropped         4: picked, but not within the limits of the budget
pairs out             4 labeled
labels needed         4 instead of 80: 5.0% of all pairs
time                  reading 0.0 s, embedding 61.3 s
median (middle half)  all pairs            pairs out
similarity            0.40 (0.10 to 0.70)  0.05 (-0.05 to 0.10)
score gap             4.00 (2.00 to 6.00)  2.50 (1.75 to 3.25)
response length       180 (140 to 219)     1,004 (1,002 to 1,005)
chosen - rejected     0 (-20 to 19)        2 (-500 to 5)
chosen is longer      49%                  67%"""
    )


def test_a_report_of_nothing_but_counts():
    assert (
        str(SelectionReport.of_given_pairs(3))
        == """\
strategy   none
embedder   none
pairs in   3 with 6 responses
pairs out  3 labeled"""
    )


def test_is_json_and_comes_back(report, tmp_path):
    assert json.loads(json.dumps(report.to_dict()))["similarity"]["picked"]["quantiles"]["min"] == -0.2
    for each in (report, SelectionReport.of_given_pairs(3)):
        each.save(tmp_path / "report.json")
        back = SelectionReport.load(tmp_path / "report.json")
        assert (back, back.seconds) == (each, each.seconds)


def test_plot(report, tmp_path):
    figure = report.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["all 80 pairs that could be labeled", "4 pairs picked by 'easy'"]
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "cosine similarity",
        "score gap",
        "chosen - rejected, characters",
    ]


def test_plot_of_what_was_not_embedded():
    figure = SelectionReport.of_given_pairs(3).plot()
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing to compare"]


def test_a_report_of_the_first_version_is_read(report):
    values = report.to_dict()
    values["labelled"] = values.pop("labeled")
    assert SelectionReport.from_dict(values) == report
    assert report.labelled is report.labeled is True
