import dataclasses
import re

import numpy as np
import pytest
from conftest import HashEmbedder, candidate_rows, read_data
from datasets import Dataset, concatenate_datasets
from test_select import mixed_rows

from trl_real import SelectionConfig, embed_responses, load_sample, real_select, select_budget, select_preferences
from trl_real.config import EmbedderOptions


@pytest.mark.parametrize("strategy", ["easy", "hard", "centroid", "random"])
@pytest.mark.parametrize("labeled", [True, False])
def test_is_the_stages_run_by_hand(strategy, labeled, tiny_encoder, rng):
    data = Dataset.from_list(candidate_rows(rng, 40, scores=labeled))
    config = SelectionConfig(strategy=strategy, embedder=tiny_encoder, budget=0.4, pairs_per_prompt=2, min_score_gap=1)
    pairs, report = select_preferences(data, config)

    by_hand = data
    if strategy != "random":
        by_hand = data.map(embed_responses, batched=True, batch_size=128, fn_kwargs={"embedder": tiny_encoder})
    used = [
        name
        for name in ("responses", "scores", "embeddings", "responses_cut", "tokens_cut")
        if name in by_hand.column_names
    ]
    options = {"strategy": strategy, "pairs_per_prompt": 2, "min_score_gap": 1}
    by_hand = by_hand.map(real_select, batched=True, remove_columns=used, fn_kwargs=options)
    n_picked = len(by_hand)
    by_hand = select_budget(by_hand, 0.4, strategy)
    assert list(map(str, pairs)) == list(map(str, by_hand))
    assert pairs.column_names == by_hand.column_names
    assert report.pairs == len(pairs)
    assert report.dropped == {"over_budget": n_picked - len(pairs)}
    assert report.labeled == labeled


def test_every_row_is_accounted_for(rng):
    data = Dataset.from_list(mixed_rows(rng, 200))
    pairs, report = select_preferences(data)
    assert report.rows == 200 == report.pairs + sum(report.skipped.values())
    assert report.pairs == len(pairs) == report.similarity.picked.count
    assert set(report.skipped) == {"too_few_responses", "duplicate_responses", "missing_scores", "tied_scores"}
    assert report.responses == sum(len(row) for row in data["responses"])
    assert report.embedder == "column `embeddings`"
    kept, again = select_preferences(data, SelectionConfig(on_skip="keep"))
    assert len(kept) == 200
    assert sum(reason is not None for reason in kept["skip_reason"]) == sum(report.skipped.values())
    assert again == report
    with pytest.raises(ValueError, match="has no valid pair"):
        select_preferences(data, SelectionConfig(on_skip="error"))


def test_eligible_pairs_are_all_that_could_be_labeled(embedder):
    rows = [
        {"prompt": "p", "responses": ["a", "b", "c", "a "], "scores": [1, 2, 2, 1]},  # a-b, a-c
        {"prompt": "q", "responses": ["d", "e"], "scores": [1, 1]},  # none
        {"prompt": "r", "responses": ["f", "g"], "scores": [1, 2]},  # one
    ]
    _, report = select_preferences(Dataset.from_list(rows), SelectionConfig(embedder=embedder))
    assert (report.similarity.eligible.count, report.similarity.picked.count) == (3, 2)
    assert report.embedder == "HashEmbedder"


def test_cut_responses_are_counted(tiny_encoder):
    rows = [{"prompt": "p", "responses": ["the cat", "fish " * 90], "scores": [1, 2]}] * 2
    _, report = select_preferences(Dataset.from_list(rows), SelectionConfig(embedder=tiny_encoder))
    assert report.responses_cut == 2
    config = SelectionConfig(embedder=tiny_encoder, embedder_max_length=3)
    assert select_preferences(Dataset.from_list(rows), config)[1].responses_cut == 2


def test_given_pairs_are_budgeted_by_similarity(embedder, rng):
    rows = [{"prompt": f"{i}", "chosen": f"a {i}", "rejected": "a" if i % 2 else f"b {i} c"} for i in range(20)]
    pairs, report = select_preferences(Dataset.from_list(rows), SelectionConfig(embedder=embedder, budget=0.5))
    similarity = {row["prompt"]: row["similarity"] for row in Dataset.from_list(rows).map(
        real_select, batched=True, fn_kwargs={"embedder": embedder}, new_fingerprint="x")}  # fmt: skip
    kept = set(pairs["prompt"])
    assert len(kept) == 10
    assert max(similarity[p] for p in kept) <= min(similarity[p] for p in similarity if p not in kept)
    assert report.given_pairs
    assert report.rows == 20
    assert report.responses == 40
    assert set(pairs.column_names) == {"prompt", "chosen", "rejected", "similarity"}


def test_an_embedder_object_is_neither_hashed_nor_pickled(embedder, rng):
    class Guarded(HashEmbedder):
        def __reduce__(self):
            raise AssertionError("pickled")

    guarded = Guarded()
    data = Dataset.from_list(candidate_rows(rng, 5, (3, 3)))
    pairs, _ = select_preferences(data, SelectionConfig(embedder=guarded))
    assert pairs["chosen"][:] == select_preferences(data, SelectionConfig(embedder=embedder))[0]["chosen"][:]


@pytest.mark.parametrize("name", ["standard", "conversational"])
def test_first_rows_without_a_pair_do_not_spoil_the_types(name):
    data = load_sample(name)
    tied = data.select([0]).map(lambda row: {"scores": [1.0] * len(row["scores"])})
    data = concatenate_datasets([tied] * 3 + [data])
    expected, _ = select_preferences(load_sample(name))
    pairs, report = select_preferences(data)
    assert pairs.features == expected.features
    assert pairs["chosen"][:] == expected["chosen"][:]
    assert report.skipped == {"tied_scores": 3}


@pytest.mark.parametrize("wrap", ["prompt", "responses"])
def test_text_beside_messages(wrap, embedder):
    user, reply = [{"role": "user", "content": "Hi"}], lambda text: [{"role": "assistant", "content": text}]
    row = {"prompt": user if wrap == "prompt" else "Hi", "scores": [1, 2]}
    row["responses"] = ["a", "b"] if wrap == "prompt" else [reply("a"), reply("b")]
    pairs, _ = select_preferences(Dataset.from_list([row]), SelectionConfig(embedder=embedder))
    assert pairs[0]["prompt"] == user
    assert pairs[0]["chosen"] == reply("b")


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], ValueError, "The dataset is empty: there is nothing to select from."),
        ([{"prompt": "p", "responses": ["a"], "scores": [1.0]}, {"prompt": "p", "responses": ["a", "b"], "scores": [1.0, 1]}],
         ValueError, "None of the 2 rows has a valid pair: 1 because fewer than two responses are not empty "
         "(too_few_responses); 1 because no two scores differ by more than `min_score_gap` (tied_scores)."),
        ([{"text": "a"}], ValueError, "The columns fit no known layout. Found: ['text']. Expected: "),
    ],
)  # fmt: skip
def test_wrong_input_is_named(rows, error, message, embedder):
    data = Dataset.from_list(rows) if rows else Dataset.from_dict({"prompt": [], "responses": []})
    with pytest.raises(error, match=re.escape(message)):
        select_preferences(data, SelectionConfig(embedder=embedder))


def test_only_a_dataset_can_be_counted():
    with pytest.raises(TypeError, match=re.escape("got IterableDataset. Call it on each split of a `DatasetDict`")):
        select_preferences(load_sample().to_iterable_dataset())


@pytest.mark.slow
def test_every_row_of_real_files_is_accounted_for(embedder):
    for name in ("alpaca_eval_candidates.jsonl.gz", "hh_rlhf_harmless.jsonl.gz"):
        rows = read_data(name)
        keep = [column for column in ("prompt", "responses", "scores", "chosen", "rejected") if column in rows[0]]
        data = Dataset.from_list([{column: row[column] for column in keep} for row in rows])
        pairs, report = select_preferences(data, SelectionConfig(embedder=embedder))
        assert report.rows == len(rows) == len(pairs) + sum(report.skipped.values())
        assert np.isfinite(pairs["similarity"]).all()


@pytest.mark.parametrize("responses", [["abc"], [{"a": 1}], [None], [[]], [3], [[3]]])
def test_columns_of_another_type_are_one_error(responses, embedder):
    data = Dataset.from_dict({"prompt": ["p"], "responses": responses})
    with pytest.raises((TypeError, ValueError), match=r"Column `responses`|None of the 1 rows has a valid pair"):
        select_preferences(data, SelectionConfig(embedder=embedder))


def test_a_format_does_not_matter(embedder, rng):
    data = Dataset.from_list(mixed_rows(rng, 20))
    expected, _ = select_preferences(data)
    for kind in ("numpy", "torch", "pandas", "arrow"):
        assert list(map(str, select_preferences(data.with_format(kind))[0])) == list(map(str, expected))


def test_pairs_that_still_carry_their_candidates_can_be_budgeted(embedder, rng):
    pairs = Dataset.from_list(candidate_rows(rng, 8, (3, 3), dim=4)).map(real_select, batched=True)
    kept, report = select_preferences(pairs, SelectionConfig(embedder=embedder, budget=3))
    assert len(kept) == 3
    assert report.embedder == "HashEmbedder"
    assert set(kept.column_names) == {"prompt", "chosen", "rejected", "score_chosen", "score_rejected", "similarity"}


def test_a_column_of_the_users_own_named_responses_cut(rng):
    data = Dataset.from_list([{**row, "responses_cut": "yes"} for row in candidate_rows(rng, 4)])
    assert select_preferences(data, SelectionConfig(strategy="random"))[1].responses_cut is None


def test_the_config_is_a_config(rng):
    with pytest.raises(TypeError, match="`config` must be a `SelectionConfig`, got dict"):
        select_preferences(Dataset.from_list(candidate_rows(rng, 4)), {"strategy": "easy"})


def test_rows_that_share_a_prompt_are_accounted_for():
    votes = [
        ("p", "a", 1.0),
        ("p", "b", 2.0),
        ("q", "c", 1.0),
        ("p", "a ", 3.0),
        (None, "d", 1.0),
        ("r", "", 1.0),
        ("r", "e", 2.0),
    ]
    rows = [{"prompt": prompt, "completion": text, "score": score} for prompt, text, score in votes]
    # The scores of "a" are 1 and 3, and their mean ties with that of "b".
    pairs, report = select_preferences(
        Dataset.from_list([*rows, {"prompt": "p", "completion": "f", "score": 0.0}]),
        SelectionConfig(strategy="random"),
    )
    assert report.layout == "unpaired"
    assert report.rows == 8
    assert report.skipped == {"too_few_responses": 2, "missing_prompt": 1}
    assert report.policies == {
        "grouped_rows": 4,
        "empty_responses": 1,
        "equal_responses": 1,
        "averaged_scores": 1,
        "tied_pairs": 1,
    }
    assert report.rows - report.policies["grouped_rows"] == sum(report.skipped.values()) + len(pairs)
    assert report.responses == 8
    assert pairs["rejected"][:] == ["f"]


def test_tokens_that_are_cut_are_counted(tiny_encoder):
    from trl_real.embedding.embedder import load_embedder

    rows = [
        {"prompt": "p", "responses": ["the cat", "the " * 90, "fish " * 200]},
        {"prompt": "q", "responses": ["a", "b"]},
        {"prompt": "r", "responses": ["a", None, "rain " * 70]},
    ]
    _, report = select_preferences(Dataset.from_list(rows), SelectionConfig(embedder=tiny_encoder))
    tokenizer = load_embedder(EmbedderOptions(tiny_encoder, None, dtype="auto")).tokenizer
    lengths = [len(tokenizer(text)["input_ids"]) for row in rows for text in row["responses"] if text]
    assert report.responses_cut == sum(length > 64 for length in lengths) == 3
    assert report.tokens_cut == sum(max(length - 64, 0) for length in lengths)


def test_longer_wins_is_said(rng, caplog):
    rows = candidate_rows(rng, 30, (2, 2), dim=4)
    for row in rows:
        row["responses"][0] += " and on and on"
        row["scores"] = [2.0, 1.0]
    select_preferences(Dataset.from_list(rows))
    assert (
        "The longer response is chosen in 100% of the selected pairs that differ in length, and in 100% of all such pairs."
        in caplog.text
    )
    caplog.clear()
    for row in rows[:15]:
        row["scores"] = [1.0, 2.0]
    _, report = select_preferences(Dataset.from_list(rows))
    assert report.chosen_longer["picked"] == 0.5
    assert not caplog.text


def test_every_limit_of_a_budget_is_that_of_select_budget(rng):
    data = Dataset.from_list(candidate_rows(rng, 40, dim=4))
    config = SelectionConfig(budget=1000, budget_cost="characters", budget_min_distance=0.2, strategy="hard")
    pairs, report = select_preferences(data, config)
    by_hand = data.map(real_select, batched=True, fn_kwargs={"strategy": "hard"})
    by_hand = select_budget(by_hand, 1000, "hard", cost="characters", min_distance=0.2)
    assert pairs["prompt"][:] == by_hand["prompt"][:]
    assert (report.pairs, report.dropped) == (
        len(pairs),
        {"over_budget": 40 - len(pairs) - sum(report.skipped.values())},
    )
    assert len(select_preferences(data, SelectionConfig(budget_min_distance=0.2))[0]) < 40


def test_pairs_are_embedded_to_be_kept_apart_whatever_picks_them(rng, embedder):
    data = Dataset.from_list(candidate_rows(rng, 20))
    config = SelectionConfig(strategy="random", embedder=embedder, budget_min_distance=0.5)
    pairs, report = select_preferences(data, config)
    by_hand = data.map(embed_responses, batched=True, fn_kwargs={"embedder": embedder})
    by_hand = by_hand.map(real_select, batched=True, fn_kwargs={"strategy": "random"})
    assert pairs["prompt"][:] == select_budget(by_hand, None, "random", min_distance=0.5)["prompt"][:]
    assert report.embedder == "HashEmbedder"


@pytest.mark.parametrize(("strategy", "spent_by"), [("easy", "random"), ("random", "easy"), ("max_min", "hard")])
def test_one_strategy_picks_and_another_spends(strategy, spent_by, rng, embedder):
    data = Dataset.from_list(candidate_rows(rng, 40))
    config = SelectionConfig(strategy=strategy, embedder=embedder, budget=0.35, budget_strategy=spent_by)
    pairs, report = select_preferences(data, config)
    by_hand = data.map(embed_responses, batched=True, fn_kwargs={"embedder": embedder})
    by_hand = by_hand.map(real_select, batched=True, fn_kwargs={"strategy": strategy})
    by_hand = select_budget(by_hand, 0.35, spent_by)
    columns = ["prompt", "chosen", "rejected"]
    assert pairs.select_columns(columns).to_list() == by_hand.select_columns(columns).to_list()
    assert (report.strategy, report.budget_strategy) == (strategy, spent_by)
    assert f"{strategy}, budget spent by {spent_by}\n" in str(report)


@pytest.mark.parametrize("spent_by", ["random", "hard", "max_min"])
def test_given_pairs_are_spent_by_one_strategy_and_picked_by_none(spent_by, rng, embedder):
    rows = [
        {"prompt": f"{i}", "chosen": f"a {i}", "rejected": f"b {i} c", "score_chosen": i % 7, "score_rejected": 0}
        for i in range(20)
    ]
    data = Dataset.from_list(rows)
    # The options of a strategy that has nothing to pick do nothing.
    config = SelectionConfig(
        strategy="aepo", strategy_kwargs={"lambda_": 2}, embedder=embedder, budget=6, budget_strategy=spent_by
    )
    pairs, report = select_preferences(data, config)
    assert bool(embedder.calls) == (spent_by == "hard")
    same, alone = select_preferences(data, SelectionConfig(strategy=spent_by, embedder=embedder, budget=6))
    assert pairs["prompt"][:] == same["prompt"][:]
    assert report == alone
    assert report.strategy == report.budget_strategy == spent_by


@pytest.mark.parametrize("given_pairs", [False, True])
def test_the_strategy_that_spends_is_checked_before_anything_is_embedded(given_pairs, rng, embedder):
    data = Dataset.from_list(candidate_rows(rng, 5)).remove_columns("scores")
    if given_pairs:
        data = Dataset.from_list([{"prompt": "p", "chosen": "a", "rejected": "b"}] * 3)
    with pytest.raises(ValueError, match="A budget that is spent by 'max_min' needs scores: a column `scores`, or"):
        select_preferences(data, SelectionConfig(embedder=embedder, budget=2, budget_strategy="max_min"))
    assert not embedder.calls


def test_options_of_a_strategy_that_only_spends_need_no_scores(rng, embedder):
    data = Dataset.from_list(candidate_rows(rng, 20)).remove_columns("scores")
    config = SelectionConfig(embedder=embedder, budget=5)
    by_similarity, _ = select_preferences(data, config)
    pairs, _ = select_preferences(data, dataclasses.replace(config, budget_strategy="divpo"))
    assert pairs["pair_id"][:] == by_similarity["pair_id"][:]


def test_a_unit_that_is_not_known_is_refused_before_anything_is_embedded(rng, embedder):
    config = SelectionConfig(embedder=embedder, budget=10, budget_cost="minutes")
    with pytest.raises(
        ValueError, match=r"`budget_cost` must be one of \['characters', 'tokens'\] or a column of numbers"
    ):
        select_preferences(Dataset.from_list(candidate_rows(rng, 5)), config)
    assert not embedder.calls
