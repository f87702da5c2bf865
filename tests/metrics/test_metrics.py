import inspect
import itertools
import json
import multiprocessing
import re

import evaluate
import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

import trl_real
from trl_real import LabelError, PreferenceDiversity, PreferenceMargin, WinRate, real_select
from trl_real.embedding.embed import embed_responses


MODULES = (WinRate, PreferenceMargin, LabelError, PreferenceDiversity)
LABELS = ("a", "b", "tie", None)
SIDES = ("chosen", "rejected")
LOGPS = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
few = settings(max_examples=25)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Where the modules keep rows until they compute, empty."""
    patch = pytest.MonkeyPatch()
    patch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path_factory.mktemp("metrics")))
    yield
    patch.undo()


def in_memory(module, **options):
    return module(keep_in_memory=True, **options)


def scores(counts):
    """Scores of two systems with so many wins, ties and losses."""
    wins, ties, losses = counts
    return {"predictions": [1] * wins + [0] * (ties + losses), "references": [0] * (wins + ties) + [1] * losses}


def logps(rng, n):
    return {name: -rng.gamma(5, 20, n) for name in LOGPS}


def texts(rng, n):
    return {side: [" ".join(rng.choice(list("abcdefg"), rng.integers(1, 9))) for _ in range(n)] for side in SIDES}


# WinRate


@few
@given(st.tuples(*[st.integers(0, 30)] * 3).filter(sum))
def test_win_rate_counts_ties_half_and_lies_in_its_interval(counts):
    results = in_memory(WinRate).compute(**scores(counts))
    wins, ties, _ = counts
    assert (results["wins"], results["ties"], results["losses"]) == counts
    assert results["win_rate"] == pytest.approx((wins + ties / 2) / sum(counts))
    assert 0 <= results["win_rate_low"] <= results["win_rate"] + 1e-9
    assert results["win_rate"] - 1e-9 <= results["win_rate_high"] <= 1
    turned = in_memory(WinRate).compute(**scores(counts[::-1]))
    assert turned["win_rate"] == pytest.approx(1 - results["win_rate"])


@pytest.mark.parametrize(("counts", "rate"), [((1, 0, 0), 1), ((50, 0, 0), 1), ((0, 3, 0), 0.5), ((0, 0, 1), 0)])
def test_win_rate_of_rows_that_are_all_alike(counts, rate):
    results = in_memory(WinRate).compute(**scores(counts))
    assert results["win_rate"] == results["win_rate_low"] == results["win_rate_high"] == rate


def test_win_rate_interval_is_that_of_resampled_rows(rng):
    counts = (60, 30, 35)
    outcomes = np.repeat([1.0, 0.5, 0.0], counts)
    means = rng.choice(outcomes, (20_000, len(outcomes))).mean(1)
    results = in_memory(WinRate).compute(**scores(counts))
    found = results["win_rate_low"], results["win_rate_high"]
    assert found == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.005)


def test_win_rate_interval_holds_the_true_rate_95_times_of_100(rng):
    chances = np.array([0.4, 0.3, 0.3])
    held = []
    for counts in rng.multinomial(150, chances, 300).tolist():
        results = in_memory(WinRate)._compute(**scores(counts))
        held.append(results["win_rate_low"] <= 0.55 <= results["win_rate_high"])
    assert 0.915 <= np.mean(held) <= 0.985


def test_win_rate_is_the_same_again_and_depends_on_the_seed():
    first, again, other = (in_memory(WinRate, **o).compute(**scores((60, 10, 41))) for o in ({}, {}, {"seed": 1}))
    assert first == again
    assert first["win_rate_low"] != other["win_rate_low"] or first["win_rate_high"] != other["win_rate_high"]


def test_win_rate_of_scores_that_are_far_apart():
    assert WinRate().compute(predictions=[1.7e308, -1.7e308], references=[-1.7e308, 1.7e308])["win_rate"] == 0.5


def test_win_rate_of_verdicts():
    verdicts = ["a", "b", "tie", "a"]
    results = WinRate().compute(predictions=[v == "a" for v in verdicts], references=[v == "b" for v in verdicts])
    assert (results["wins"], results["ties"], results["losses"]) == (2, 1, 1)


# PreferenceMargin


@few
@given(st.integers(0, 2**32), st.integers(1, 40), st.floats(0.01, 5))
def test_margin_is_that_of_dpo(seed, n, beta):
    columns = logps(np.random.default_rng(seed), n)
    results = in_memory(PreferenceMargin, beta=beta).compute(**columns)
    # What `DPOTrainer` does with its batch.
    logratios = [torch.tensor(columns[f"{side}_logps"]) - torch.tensor(columns[f"ref_{side}_logps"]) for side in SIDES]
    chosen, rejected = (beta * ratio for ratio in logratios)
    assert results["margin"] == pytest.approx((chosen - rejected).mean().item())
    assert results["accuracy"] == pytest.approx((chosen > rejected).float().mean().item())
    assert results["margin_low"] <= results["margin"] <= results["margin_high"]
    assert results["accuracy_low"] <= results["accuracy"] + 1e-12
    assert all(np.isfinite(list(results.values())))


def test_margin_and_accuracy_are_what_trl_logs(rng, tiny_lm, tmp_path):
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    policy, reference = (AutoModelForCausalLM.from_pretrained(tiny_lm) for _ in range(2))
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in policy.parameters():
            weights += 0.1 * torch.randn_like(weights)
    trainer = DPOTrainer(
        policy,
        reference,
        DPOConfig(
            str(tmp_path), beta=0.3, per_device_eval_batch_size=8, report_to="none", bf16=False, disable_dropout=True
        ),
        train_dataset=Dataset.from_dict({"prompt": ["Why? "] * 8, **texts(rng, 8)}),
        eval_dataset=Dataset.from_dict({"prompt": ["Why? "] * 8, **texts(rng, 8)}),
    )
    logged = trainer.evaluate()

    @torch.no_grad()
    def logp(model, prompt, response):
        ids = torch.tensor([prompt + response])
        chances = model.eval()(ids).logits[0, :-1].double().log_softmax(-1)
        return chances.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum().item()

    module = PreferenceMargin(beta=0.3)
    for row in trainer.eval_dataset:
        logps_of_row = {
            f"{start}{side}_logps": logp(model, row["prompt_ids"], row[f"{side}_ids"])
            for start, model in (("", policy), ("ref_", reference))
            for side in SIDES
        }
        module.add(**logps_of_row)
    results = module.compute()
    assert results["margin"] == pytest.approx(logged["eval_rewards/margins"], abs=1e-3)
    assert results["accuracy"] == logged["eval_rewards/accuracies"]
    assert 0 < results["accuracy"] < 1


def test_equal_rewards_are_not_accurate():
    results = PreferenceMargin().compute(**{name: [-3.0, -2.0] for name in LOGPS})
    assert results["accuracy"] == results["margin"] == results["margin_low"] == 0


def test_margin_interval_holds_the_true_margin_95_times_of_100(rng):
    held = []
    for _ in range(300):
        zeros = dict.fromkeys(LOGPS, np.zeros(12))
        results = in_memory(PreferenceMargin, beta=1.0)._compute(**{**zeros, "chosen_logps": rng.normal(-4, 2, 12)})
        held.append(results["margin_low"] <= -4 <= results["margin_high"])
    assert 0.915 <= np.mean(held) <= 0.985


def test_tensors_as_they_come_from_a_model():
    columns = {name: torch.tensor([-1.5, -2.0], dtype=torch.bfloat16, requires_grad=True) for name in LOGPS}
    columns["chosen_logps"] = torch.tensor([-1.0, -1.0], dtype=torch.float64)
    assert PreferenceMargin(beta=1).compute(**columns)["margin"] == 0.75


# LabelError


@few
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1))
def test_label_error_counts_each_row_once(rows):
    labels, gold = map(list, zip(*rows, strict=True))
    sides = [row for row in rows if set(row) <= {"a", "b"}]
    if not sides:
        with pytest.raises(ValueError, match=r"None of the \d+ rows has a side, 'a' or 'b', in both"):
            in_memory(LabelError).compute(labels=labels, gold_labels=gold)
        return
    results = in_memory(LabelError).compute(labels=labels, gold_labels=gold)
    wrong = sum(label != truth for label, truth in sides)
    wilson = binomtest(wrong, len(sides)).proportion_ci(method="wilson")
    assert results == {
        "label_error": wrong / len(sides),
        "label_error_low": pytest.approx(wilson.low),
        "label_error_high": pytest.approx(wilson.high),
        "right": len(sides) - wrong,
        "wrong": wrong,
        "tied": sum(None not in row and "tie" in row for row in rows),
        "missing": sum(None in row for row in rows),
    }


def test_a_module_can_be_used_again_after_an_error():
    module = LabelError()
    with pytest.raises(ValueError, match=re.escape("Found: {'tied': 1, 'missing': 1}.")):
        module.compute(labels=[None, "tie"], gold_labels=["a", "b"])
    with pytest.raises(ValueError, match="the column `labels` must be"):
        module.add_batch(labels=["c"], gold_labels=["a"])
    assert module.compute(labels=["a"], gold_labels=["a"])["label_error"] == 0


# PreferenceDiversity


@few
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 8))
def test_distances_are_the_mean_over_all_pairs(seed, n, dim):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, 2, dim))
    results = in_memory(PreferenceDiversity, embedder=None).compute(**texts(rng, n), embeddings=vectors)

    def distance(x, y):
        return 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    everything = [distance(x, y) for x, y in itertools.combinations(vectors.reshape(-1, dim), 2)]
    assert results["cosine_distance"] == pytest.approx(np.mean(everything), abs=1e-5)
    assert results["pair_cosine_distance"] == pytest.approx(np.mean([distance(*pair) for pair in vectors]), abs=1e-5)


@few
@given(st.lists(st.lists(st.sampled_from(["Red", "red", "blue", "!", "né"]), max_size=5), min_size=2, max_size=12))
def test_distinct_n_counts_n_grams_within_texts(sentences):
    sentences = sentences[: len(sentences) // 2 * 2]
    n = len(sentences) // 2
    joined = [" ".join(words) for words in sentences]
    results = in_memory(PreferenceDiversity, embedder=None).compute(
        chosen=joined[:n], rejected=joined[n:], embeddings=np.ones((n, 2, 3))
    )
    for size in (1, 2, 3):
        grams = [
            tuple(word.lower() for word in words[i : i + size])
            for words in sentences
            for i in range(len(words) - size + 1)
        ]
        assert results[f"distinct_{size}"] == pytest.approx(len(set(grams)) / max(len(grams), 1))


def test_responses_that_are_all_the_same_or_opposite_or_empty():
    columns = {"chosen": ["yes", "yes"], "rejected": ["yes", "yes"]}
    same = PreferenceDiversity(embedder=None).compute(**columns, embeddings=np.ones((2, 2, 3)))
    assert same["cosine_distance"] == same["pair_cosine_distance"] == 0
    opposite = np.array([[[1.0, 0.0], [-1.0, 0.0]]] * 2)
    assert PreferenceDiversity(embedder=None).compute(**columns, embeddings=opposite)["pair_cosine_distance"] == 2
    assert PreferenceDiversity(embedder=None).compute(**columns, embeddings=0 * opposite)["cosine_distance"] == 1


def test_what_is_embedded_by_the_module_or_before_is_the_same(rng, embedder):
    pairs = Dataset.from_dict({"prompt": ["Why?"] * 6, **texts(rng, 6)})
    embedded = pairs.map(embed_responses, batched=True, fn_kwargs={"embedder": embedder})
    sides = {side: pairs[side] for side in SIDES}
    by_itself = PreferenceDiversity(embedder=embedder).compute(**sides)
    assert by_itself == pytest.approx(
        PreferenceDiversity(embedder=None).compute(**sides, embeddings=embedded["embeddings"])
    )


def test_pairs_as_they_are_selected_and_messages_as_text(rng, embedder):
    rows = {"prompt": ["p", "q"], "responses": [["a b", "c d", "e"], ["f g", "h"]], "scores": [[1, 2, 3], [2, 1]]}
    pairs = Dataset.from_dict(rows).map(real_select, batched=True, fn_kwargs={"embedder": embedder})
    module = PreferenceDiversity(embedder=embedder)
    plain = module.compute(chosen=pairs["chosen"], rejected=pairs["rejected"])
    assert plain["pair_cosine_distance"] == pytest.approx(1 - np.mean(pairs["similarity"]), abs=1e-5)
    messages = {side: [[{"role": "assistant", "content": text}] for text in pairs[side]] for side in SIDES}
    assert module.compute(**messages) == plain


# What all of them share


def everything(rng, n):
    return {
        **scores((n - 2, 1, 1)),
        **logps(rng, n),
        **texts(rng, n),
        "labels": [*rng.choice(["a", "b", "tie"], n - 1).tolist(), None],
        "gold_labels": ["a"] * n,
        "embeddings": rng.standard_normal((n, 2, 4)),
    }


def modules():
    return [WinRate(), PreferenceMargin(), LabelError(), PreferenceDiversity(embedder=None)]


def test_all_combine_and_batches_are_the_same_as_everything_at_once(rng):
    columns = everything(rng, 10)
    alone = [module.compute(**{name: columns[name] for name in module.features}) for module in modules()]
    expected = {name: pytest.approx(value) for results in alone for name, value in results.items()}
    assert len(expected) == sum(map(len, alone))  # no two results have the same name
    combined = evaluate.combine(modules())
    assert combined.compute(**columns) == expected
    for rows in (slice(4), slice(4, 10)):
        combined.add_batch(**{name: column[rows] for name, column in columns.items()})
    assert combined.compute() == expected
    for row in range(10):
        combined.add(**{name: column[row] for name, column in columns.items()})
    assert combined.compute() == expected
    json.dumps(combined.compute(**columns))


def test_one_row_at_a_time():
    module = WinRate()
    for prediction, reference in [(1, 0), (torch.tensor(2.0), 2), (np.float32(0), 1)]:
        module.add(prediction=prediction, reference=reference)
    results = module.compute()
    assert (results["wins"], results["ties"], results["losses"]) == (1, 1, 1)


def test_the_same_module_twice_is_told_apart_by_name():
    combined = evaluate.combine({"long": WinRate(), "short": WinRate()})
    combined.add_batch(predictions=[1], references=[0])
    results = combined.compute()
    assert results["long_win_rate"] == results["short_win_rate"] == 1


def test_modules_at_work_at_the_same_time_do_not_mix_their_rows():
    first, second = WinRate(), WinRate()
    first.add_batch(predictions=[1, 1], references=[0, 0])
    second.add_batch(predictions=[0], references=[1])
    first.add_batch(predictions=[1], references=[0])
    assert (second.compute()["losses"], first.compute()["wins"]) == (1, 3)


def count_in_a_process(process_id, cache_dir, results):
    module = WinRate(num_process=2, process_id=process_id, cache_dir=cache_dir, experiment_id="two")
    module.add_batch(predictions=[1] * (process_id + 1), references=[0] * (process_id + 1))
    results.put(module.compute())


def test_several_processes(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=count_in_a_process, args=(i, str(tmp_path), results)) for i in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert [result["wins"] for result in found if result] == [3]


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_says_of_itself(module):
    made = module()
    assert made.description in inspect.getdoc(module)
    assert made.inputs_description in made.compute.__doc__
    assert all(f"{name}" in inspect.getdoc(module) for name in made.features)
    assert made.citation
    assert made.info.reference_urls[0].startswith("https://")
    assert module.__name__ in trl_real.__all__


GOOD = {"predictions": [1.0, 2.0], "references": [2.0, 1.0]}


@pytest.mark.parametrize(
    ("module", "columns", "error", "message"),
    [
        (WinRate, {}, ValueError, "`WinRate` has no rows: it takes the columns ['predictions', 'references']"),
        (WinRate, {"labels": ["a"]}, ValueError, "Found: ['labels']."),
        (
            WinRate,
            {"predictions": [1.0]},
            ValueError,
            "`WinRate` takes the columns ['predictions', 'references']. Found: ['predictions'].",
        ),
        (
            WinRate,
            GOOD | {"predictions": [1.0]},
            ValueError,
            "needs columns of equal length, with at least one row. Found: {'predictions': 1, 'references': 2}.",
        ),
        (WinRate, {"predictions": [], "references": []}, ValueError, "Found: {'predictions': 0, 'references': 0}."),
        (
            WinRate,
            GOOD | {"references": [0.0, np.nan]},
            ValueError,
            "Column `references`, row 1: found nan, expected a finite number. Remove such rows from all columns.",
        ),
        (WinRate, GOOD | {"references": [np.inf, 0]}, ValueError, "Column `references`, row 0: found inf"),
        (
            WinRate,
            GOOD | {"predictions": ["1", "2"]},
            TypeError,
            "list of numbers, one per row, found an item that is str",
        ),
        (WinRate, GOOD | {"predictions": [1, None]}, TypeError, "found an item that is NoneType (None)."),
        (WinRate, GOOD | {"predictions": [[1], [2]]}, TypeError, "found an array of shape (2, 1)."),
        (
            WinRate,
            GOOD | {"predictions": [[1], [2, 3]]},
            TypeError,
            "list of numbers, one per row, found something else",
        ),
        (
            WinRate,
            GOOD | {"predictions": "ab"},
            TypeError,
            "Column `predictions`: expected a list with one value per row",
        ),
        (WinRate, GOOD | {"predictions": iter([1, 2])}, TypeError, "expected a list with one value per row, found"),
        (
            WinRate,
            GOOD | {"seed": 3},
            TypeError,
            "found `seed=3`. Pass options to the constructor: `WinRate(seed=...)`.",
        ),
        (
            PreferenceMargin,
            {name: [-1.0, 40.0] for name in LOGPS},
            ValueError,
            "Column `chosen_logps`, row 1: found 40, expected a log-prob, which is at most 0. Losses are negative log-probs",
        ),
        (
            LabelError,
            {"labels": ["a", "A"], "gold_labels": ["a", "b"]},
            ValueError,
            "The label in row 1 of the column `labels` must be 'a', 'b', 'tie' or None, found str ('A').",
        ),
        (LabelError, {"labels": ["a"], "gold_labels": [0]}, ValueError, "of the column `gold_labels` must be"),
        (
            PreferenceDiversity,
            {"chosen": ["a", None], "rejected": ["b", "c"]},
            TypeError,
            "Column `chosen`, row 1: expected text or messages, found NoneType (None). Remove such pairs.",
        ),
        (
            PreferenceDiversity,
            {"chosen": ["a"], "rejected": ["b"], "embeddings": np.ones((1, 2, 3))},
            ValueError,
            "was given `embeddings`, but it computes its own. Use yours with `PreferenceDiversity(embedder=None)`",
        ),
    ],
)
def test_wrong_columns(module, columns, error, message):
    with pytest.raises(error, match=re.escape(message)):
        module().compute(**columns)


@pytest.mark.parametrize(
    "wrong", [np.ones((1, 3, 2)), np.ones((1, 2)), [[[1.0], [1.0, 2.0]]], np.full((1, 2, 2), np.nan)]
)
def test_wrong_embeddings(wrong):
    with pytest.raises(ValueError, match=r"Column `embeddings`: expected finite numbers of the shape \(n, 2, dim\)"):
        PreferenceDiversity(embedder=None).compute(chosen=["a"], rejected=["b"], embeddings=wrong)


def test_embeddings_of_two_embedders():
    module = PreferenceDiversity(embedder=None)
    for dim in (2, 3):
        module.add_batch(chosen=["a"], rejected=["b"], embeddings=np.ones((1, 2, dim)))
    with pytest.raises(ValueError, match="Column `embeddings`: expected finite numbers"):
        module.compute()


@pytest.mark.parametrize(
    ("module", "options", "error", "message"),
    [
        (WinRate, {"seed": -1}, ValueError, "`seed` must be a whole number of at least 0, got -1."),
        (WinRate, {"sead": 1}, TypeError, "`WinRate` has no option ['sead']. Its options are ['seed']"),
        (PreferenceMargin, {"beta": 0}, ValueError, "`beta` must be a number above 0, got 0."),
        (PreferenceMargin, {"beta": "1"}, ValueError, "`beta` must be a number above 0, got '1'."),
        (PreferenceDiversity, {"embedder": 3}, TypeError, "`embedder` must be a model id"),
        (PreferenceDiversity, {"embedder_batch_size": 0}, ValueError, "`embedder_batch_size` must be a whole number"),
    ],
)
def test_wrong_options(module, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        module(**options)
