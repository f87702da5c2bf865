"""The study: what it computes with, and that the documents say what it found."""

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import candidate_rows
from datasets import Dataset


ROOT = Path(__file__).parent.parent
STUDY = ROOT / "benchmarks" / "study"


@pytest.fixture
def load(monkeypatch):
    """A script of the study as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.syspath_prepend(STUDY)

    def module(name):
        spec = importlib.util.spec_from_file_location(f"study_{name}", STUDY / f"{name}.py")
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return module


@pytest.mark.parametrize(
    ("page", "block", "write"),
    [
        ("README.md", "study", "summary"),
        ("docs/study.md", "study", "tables"),
        ("docs/study.md", "annotators", "annotators"),
        ("docs/study.md", "pretrained", "pretrained"),
        ("docs/does-real-work.md", "answer", "answer"),
        ("docs/reliability.md", "reliability", "printed"),
        ("docs/embedder.md", "static", "static_table"),
    ],
)
def test_documents_say_what_was_found(page, block, write, load):
    run = load("run")
    shown = (ROOT / page).read_text(encoding="utf-8").split(f"<!-- {block} -->\n")[1].split(f"<!-- /{block} -->\n")[0]
    assert shown.strip("\n") == getattr(run, write)(run.read()).strip("\n")
    for figure in re.findall(r"!\[.*?\]\((.*?)\)", shown):
        assert ((ROOT / page).parent / figure).is_file()


def test_a_prompt_is_on_one_side_of_a_split(load, rng):
    data = load("data")
    rows = Dataset.from_list(candidate_rows(rng, 200, (2, 3)) * 2)
    sides = []
    for seed in range(2):
        train, held_out = data.split(rows, seed)
        assert len(train) + len(held_out) == len(rows)
        assert not set(train["prompt"]) & set(held_out["prompt"])
        assert len(held_out) == pytest.approx(data.HELD_OUT * len(rows), abs=4)
        sides.append(set(held_out["prompt"]))
    assert sides[0] != sides[1]


def test_annotators_err_as_often_as_they_should(load, rng):
    data = load("data")
    gold = [list(rng.normal(scale=3, size=2)) for _ in range(4000)]
    rows = Dataset.from_dict({"prompt": [str(i) for i in range(4000)], "scores": gold})
    noise = data.temperature(rows)
    seen = np.array(data.annotate(rows, "by gap", noise, seed=0)["scores"][:])
    gap, seen_gap = np.subtract(*np.transpose(gold)), np.subtract(*seen.T)
    wrong = np.sign(gap) != np.sign(seen_gap)
    assert wrong.mean() == pytest.approx(data.ERROR, abs=0.02)
    near, far = np.abs(gap) < 1, np.abs(gap) > 4
    for part in (near, far):
        assert wrong[part].mean() == pytest.approx((1 / (1 + np.exp(np.abs(gap[part]) / noise))).mean(), abs=0.04)
    assert data.annotate(rows, "exact", noise, seed=0) is rows


def test_intervals_over_splits_that_share_their_rows_are_wider(load):
    estimate = load("intervals").over_seeds([0.4, 0.6, 0.5, 0.5], 0.25)
    spread = np.std([0.4, 0.6, 0.5, 0.5], ddof=1)
    assert estimate["mean"] == 0.5
    assert estimate["high"] - 0.5 == pytest.approx(3.182 * spread * np.sqrt(1 / 4 + 1 / 3), abs=1e-3)
    assert estimate["low"] + estimate["high"] == pytest.approx(1.0)


def test_intervals_over_prompts_count_a_prompt_once(load):
    over_prompts = load("intervals").over_prompts
    totals, counts = np.array([0.0, 5.0, 0.0, 0.0]), np.array([1, 5, 1, 1])
    estimate = over_prompts(totals, counts)
    assert estimate["mean"] == 5 / 8
    assert (estimate["low"], estimate["high"]) == (
        0.0,
        pytest.approx(15 / 16),
    )  # the second prompt never, or three times


def test_figures_are_drawn_from_the_results(load, tmp_path):
    figures, results = load("figures"), load("run").read()
    figures.plot_curves(results["annotation_curve"]["curves"], tmp_path / "curves.png")
    figures.plot_reliability(results["reliability"]["reports"], tmp_path / "reliability.png")
    figures.plot_summary(results, tmp_path / "summary.png")
    assert min(path.stat().st_size for path in tmp_path.iterdir()) > 10_000


def run_on_the_sample(folder, *command):
    result = subprocess.run(
        [sys.executable, STUDY / command[0], *command[1:]], capture_output=True, text=True, timeout=300, cwd=folder
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


@pytest.mark.slow
def test_annotation_curve(tmp_path):
    curve = run_on_the_sample(tmp_path, "annotation_curve.py", "--seeds", "2")["curves"]["sample, by gap"]
    for strategy in ("easy", "max_min"):  # a budget of all has no order
        assert curve["less_drawn"][f"{strategy}, in its order"]["1.0"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    with_all, at_random = curve["accuracy"]["easy"]["1.0"], curve["accuracy"]["random"]["1.0"]
    difference = curve["less_random"]["easy"]["1.0"]["mean"]
    assert difference == pytest.approx(with_all["mean"] - at_random["mean"], abs=2e-4)
    assert 0 < curve["longer_is_better"]["mean"] < 1


def test_stops_are_summed_up(load):
    rounds = load("rounds")

    def played(*accuracies, stop):
        return [
            rounds.SimulatedRound(100 * (i + 1), accuracy, 0.01 / (i + 1), i == stop)
            for i, accuracy in enumerate(accuracies)
        ]

    seeds = [played(0.6, 0.69, 0.7, stop=1), played(0.7, 0.65, 0.72, stop=0), played(0.6, 0.66, 0.7, stop=None)]
    found = rounds.judge(seeds)
    assert found["rule"]["share"]["mean"] == pytest.approx((2 / 3 + 1 / 3 + 1) / 3, abs=1e-4)
    assert found["rule"]["loss"]["mean"] == pytest.approx((0.01 + 0.02 + 0) / 3, abs=1e-4)
    assert (found["rule"]["within_one"], found["rule"]["within_two"]) == (pytest.approx(2 / 3, abs=1e-4), 1.0)
    assert found["fixed"]["loss"]["mean"] == pytest.approx((0.01 + 0.07 + 0.04) / 3, abs=1e-4)
    assert found["hindsight"]["share"]["mean"] == pytest.approx((2 / 3 + 1 + 1) / 3, abs=1e-4)
    # The gains are 0.01, 0.005 and 0.0033.
    assert [rounds.stop_by(seeds[0], threshold).labels for threshold in (0.02, 0.007, 0.004, 0.001)] == [
        100,
        200,
        300,
        300,
    ]


@pytest.mark.slow
def test_rounds(tmp_path):
    found = run_on_the_sample(tmp_path, "rounds.py", "candidates", "--seeds", "2", "--round", "20")
    assert (found["chosen_on"], found["judged_on"]) == (10, 2)
    assert set(found["less_random"]) == {"easy", "d_optimal", "bald"}
    # So few labels never stop.
    assert found["rule"]["share"] == found["thresholds"]["0.01"]["share"] == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_knn_shapley_values_are_those_of_all_orders(load, rng, monkeypatch):
    """The value is the mean gain of a pair over all orders in which pairs are added; both copies of a pair together."""
    annotators = load("annotators")
    monkeypatch.setattr(annotators, "NEIGHBORS", 2)
    difference = rng.standard_normal((3, 4))
    expected = np.zeros(3)
    for target in range(3):
        copies = [(n, sign) for n in range(3) if n != target for sign in (1, -1)]

        def agreement(subset, target=target):
            nearest = sorted(subset, key=lambda c: ((c[1] * difference[c[0]] - difference[target]) ** 2).sum())[:2]
            return sum(sign == 1 for _, sign in nearest) / 2

        orders = list(itertools.permutations(copies))
        for order in orders:
            for at, copy in enumerate(order):
                expected[copy[0]] += (agreement(order[: at + 1]) - agreement(order[:at])) / len(orders)
    np.testing.assert_allclose(annotators.knn_shapley(difference), expected, atol=1e-12)


def test_a_majority_is_asked_until_it_is_decided(load, rng):
    answers = load("annotators").Answers(400, rng)
    asked, wrong = [], []
    for said, order, right in zip(answers.said, answers.order, answers.right, strict=True):
        votes = said[order[:3]]
        asked.append(2 if votes[0] == votes[1] else 3)
        wrong.append((votes.sum() >= 2) != right)
    assert answers.majority(3) == (np.mean(wrong), np.mean(asked))


@pytest.mark.slow
def test_annotators(tmp_path):
    found = run_on_the_sample(tmp_path, "annotators.py", "--seeds", "2")
    wrong = [found["combine"][k]["majority"]["mean"] for k in ("1", "3", "5")]
    assert wrong == sorted(wrong, reverse=True)
    assert found["combine"]["1"]["dawid_skene"] == found["combine"]["1"]["majority"]
    assert set(found["suspects"]) == {"sample"}
    assert found["second_or_new"]["0.0"]["less_new"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.slow
def test_reliability(tmp_path):
    found = run_on_the_sample(tmp_path, "reliability.py", "--seeds", "2")
    strategies, report = found["strategies"]["sample"], found["reports"]["sample"]
    assert strategies["easy"]["wrong"]["mean"] < strategies["hard"]["wrong"]["mean"]
    assert 0 <= report["covered"] <= report["annotators"] == 2
    assert report["truth"]["mean"] == pytest.approx(found["error_of_random_pairs"], abs=0.05)
    assert sum(row["pairs"] for row in report["bins"]) == report["pairs"]


@pytest.mark.slow
def test_dpo(tmp_path):
    arms = run_on_the_sample(tmp_path, "dpo.py", "candidates", "--seeds", "2", "--sft_steps", "1")["arms"]
    assert arms["all"]["labels"] > 2 * arms["random"]["labels"] == 2 * arms["easy"]["labels"]
    assert arms["random"]["accuracy_less_random"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert arms["easy"]["judged_on"] == arms["hard"]["judged_on"] > 0


@pytest.fixture(scope="module")
def small_llama(tmp_path_factory):
    """Folder of a Llama of four layers with random weights, whose padding token also ends a text."""
    from trl_real import load_sample

    sys.path.insert(0, str(ROOT / "examples"))
    from quickstart import build_tiny_model

    return build_tiny_model(load_sample(), tmp_path_factory.mktemp("llama"))


@pytest.mark.slow
def test_embedders(tmp_path, load, small_llama):
    found = run_on_the_sample(
        tmp_path, "embedders.py", "candidates", "--model", str(small_llama), "--seeds", "2", "--rows", "40"
    )
    default, policy = "MiniLM, response", f"{small_llama.name}, response"
    assert [*found["embedders"]] == [
        default,
        policy,
        "MiniLM, prompt and response",
        f"{small_llama.name}, prompt and response",
    ]
    nothing = {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert [found["embedders"][name]["wrong_less_default"]["random"] for name in found["embedders"]] == [nothing] * 4
    assert found["embedders"][policy]["wrong"]["easy"] != found["embedders"][default]["wrong"]["easy"]
    assert load("report_pretrained").embedders_table(found).count("\n| MiniLM") == 2


def test_frozen_layers_say_what_the_whole_model_says(load, small_llama):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    frozen = load("frozen")
    ids = torch.tensor([[5, 6, 7, 1, 1, 1], [8, 9, 10, 11, 12, 1], [5, 6, 1, 1, 1, 1]])  # 1 ends a text and pads
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    whole = AutoModelForCausalLM.from_pretrained(small_llama, dtype=torch.float32).eval()
    model = frozen.load_with_frozen_layers(small_llama, 3, pad_token_id=1).eval()
    lower, calls = model.base_model.embed_tokens.lower, []
    lower.register_forward_hook(lambda *_: calls.append(1))
    for order in ([0, 1, 2], [2, 0, 1]):  # then from memory, with another padding
        part, attention = ids[order], mask[order]
        with torch.no_grad():
            expected = whole(input_ids=part, attention_mask=attention).logits
            found = model(input_ids=part, attention_mask=attention).logits
        torch.testing.assert_close(found[attention.bool()], expected[attention.bool()])
    assert len(calls) == 1
    assert len(model.base_model.layers) == 1


def test_differences_are_within_seeds_and_within_settings(load):
    report = load("report_pretrained")

    def run(arm, seed, accuracy, labels=9):
        settings = {"labels": labels, "pool": 30, "held_out": 10}
        return {"kind": "pairs", "arm": arm, "seed": seed, "accuracy": accuracy, "settings": settings}

    runs = [run("random", 0, 0.1, labels=5), run("random", 1, 0.5), run("random", 2, 0.7), run("easy", 2, 0.8)]
    runs.append(run("easy", 3, 0.9))
    arms = report.of_kind(runs, "pairs")
    assert {arm: sorted(found) for arm, found in arms.items()} == {"random": [1, 2], "easy": [2, 3]}
    assert report.less_random(arms, "easy") == pytest.approx([0.1])
    assert report.estimate([0.1], runs[0]["settings"]) is None


@pytest.mark.parametrize(
    ("accuracies", "chosen"), [([0.5, 0.7, 0.9], 1), ([0.45, 0.55, 0.5], 1), ([0.61, 0.9, 0.9], 0)]
)
def test_a_pilot_takes_the_first_rate_above_chance_or_the_best(load, tmp_path, accuracies, chosen):
    pretrained = load("pretrained")
    done = []

    class Study:
        def run(self, arm, seed, settings):
            done.append(settings["learning_rate"])
            accuracy = accuracies[pretrained.RATES.index(settings["learning_rate"])]
            what = {"kind": "pairs", "arm": arm, "seed": seed, "settings": settings}
            return {**what, "accuracy": accuracy, "judged_on": 80, "minutes": 1.0}

    def choose(minutes=None):
        runs = pretrained.Runs(Study, "pairs", minutes)
        return runs.choose_rate(tmp_path / "pilot.jsonl", {"labels": 5})

    assert choose(minutes=0) is None
    assert choose() == choose(minutes=0) == pretrained.RATES[chosen]  # the second time from the file
    assert len(done) == len(set(done)) == (3 if max(accuracies) < 0.6 else chosen + 1)


@pytest.mark.slow
def test_a_finished_run_is_never_repeated(tmp_path, small_llama):
    path = tmp_path / "runs.jsonl"
    flags = ["--labels", "4", "--pool", "12", "--held_out", "4", "--frozen_layers", "2", "--prompt_length", "60"]
    command = ["candidates", "--model", small_llama, "--results", path, "--learning_rate", "1e-3", *flags]

    def runs(*more):
        result = subprocess.run(
            [sys.executable, STUDY / "pretrained.py", *command, *more], capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr[-2000:]
        return [json.loads(line) for line in path.read_text().splitlines()]

    first = runs("--seeds", "1", "--arms", "random", "easy")
    assert [(run["arm"], run["seed"], run["labels"]) for run in first] == [("random", 0, 4), ("easy", 0, 4)]
    both = runs("--seeds", "2", "--arms", "random")
    assert both[:2] == first
    assert [(run["arm"], run["seed"]) for run in both[2:]] == [("random", 1)]
    assert runs("--seeds", "2", "--arms", "easy", "--minutes", "0") == both  # no time for another one


@pytest.mark.slow
def test_the_benchmarks_of_a_gpu(tmp_path):
    flags = [
        "--hidden_size",
        "64",
        "--layers",
        "2",
        "--max_length",
        "64",
        "--sft_steps",
        "1",
        "--seeds",
        "3",
        "--minutes",
        "0",
    ]
    result = subprocess.run(
        [sys.executable, STUDY / "gpu.py", *flags, "--results", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        env={name: value for name, value in os.environ.items() if name != "TRL_REAL_DATA"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads((tmp_path / "dpo_candidates.json").read_text())
    assert found["settings"]["seeds"] == 2  # the least that has an interval
    assert found["arms"]["all"]["judged_on"] > 0
