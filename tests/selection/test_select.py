import itertools
import math
import re
import unicodedata

import numpy as np
import pytest
from conftest import candidate_rows, read_data
from datasets import Array2D, Dataset, LargeList, List, Value, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from test_strategies import brute_force_2means

from trl_real import SelectionConfig, embed_responses, load_sample, real_select, select_preferences
from trl_real.selection.select import pair_id
from trl_real.strategies import STRATEGIES


PICK = ["chosen", "rejected", "score_chosen", "score_rejected", "similarity"]


def select(rows, **options):
    """Select from rows as `datasets` would in one batch, and give rows back."""
    batch = {name: [row[name] for row in rows] for name in rows[0]}
    out = real_select(batch, **options)
    return [dict(zip(out, values, strict=True)) for values in zip(*out.values(), strict=True)]


def oracle(row, strategy="easy", gap=0.0):
    """The pair of a row by the definition of the strategy, or None, by brute force over pairs in float64."""
    merged = {}
    for text, score, vector in zip(row["responses"], row["scores"], row["embeddings"], strict=True):
        key = unicodedata.normalize("NFC", (text or "").strip())
        if key and score is not None and not math.isnan(score):
            merged.setdefault(key, []).append((text, score, vector))
    responses = []
    for group in merged.values():
        text, _, vector = min(group, key=lambda item: item[0])
        vector = np.asarray(vector, dtype=np.float64)
        responses.append((text, np.mean([score for _, score, _ in group]), vector / np.linalg.norm(vector)))
    pairs = [pair for pair in itertools.combinations(responses, 2) if abs(pair[0][1] - pair[1][1]) > gap]
    if not pairs:
        return None
    if strategy == "centroid":
        vectors = np.array([vector for _, _, vector in responses])
        _, split = brute_force_2means(vectors)
        side = {text: bool(s) for (text, _, _), s in zip(responses, split, strict=True)}
        mean = {s: vectors[split == s].mean(0) for s in (False, True)}
        pairs = [(a, b) for a, b in pairs if side[a[0]] != side[b[0]]]
        if not pairs:
            return None
        cost = [sum(((v - mean[side[t]]) ** 2).sum() for t, _, v in pair) for pair in pairs]
        pairs = [pair for pair, c in zip(pairs, cost, strict=True) if c <= min(cost) + 1e-6]
    cosines = [a[2] @ b[2] for a, b in pairs]
    best = int(np.argmax(cosines) if strategy == "hard" else np.argmin(cosines))
    (text_a, score_a, _), (text_b, score_b, _) = pairs[best]
    chosen, rejected = (text_a, text_b) if score_a > score_b else (text_b, text_a)
    return chosen, rejected, max(score_a, score_b), min(score_a, score_b), cosines[best]


def assert_same_pick(row, expected):
    assert (row["chosen"], row["rejected"]) == expected[:2]
    assert (row["score_chosen"], row["score_rejected"]) == pytest.approx(expected[2:4])
    assert row["similarity"] == pytest.approx(expected[4], abs=1e-6)


@pytest.mark.parametrize("k", range(2, 17))
def test_picks_are_those_of_the_definition_on_random_embeddings(k):
    rng = np.random.default_rng(k)
    rows = candidate_rows(rng, 150, (k, k), dim=8)
    for strategy in ("easy", "hard", "centroid"):
        found = {row["prompt"]: row for row in select(rows, strategy=strategy, min_score_gap=1.0)}
        for row in rows:
            expected = oracle(row, strategy, gap=1.0)
            assert (expected is None) == (row["prompt"] not in found)
            if expected is not None:
                assert_same_pick(found[row["prompt"]], expected)


@pytest.fixture(scope="module")
def embedded_sample():
    return load_sample().map(embed_responses, batched=True, fn_kwargs={"embedder_dtype": "float32"})


@pytest.mark.parametrize("strategy", ["easy", "hard", "centroid"])
def test_picks_are_those_of_the_definition_on_real_embeddings(strategy, embedded_sample):
    found = embedded_sample.map(real_select, batched=True, fn_kwargs={"strategy": strategy})
    for row, expected in zip(found, (oracle(row, strategy) for row in embedded_sample), strict=True):
        assert_same_pick(row, expected)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["easy", "hard"])
def test_picks_are_those_of_the_definition_on_alpaca_eval(strategy, tmp_path):
    rows = read_data("alpaca_eval_candidates.jsonl.gz")[:60]
    data = Dataset.from_list([{name: row[name] for name in ("prompt", "responses", "scores")} for row in rows])
    data = data.map(embed_responses, batched=True, fn_kwargs={"embedder_max_length": 64})
    found = {row["prompt"]: row for row in data.map(real_select, batched=True, fn_kwargs={"strategy": strategy})}
    for row in data:
        assert_same_pick(found[row["prompt"]], oracle(row, strategy))


def mixed_rows(rng, n=60):
    """Rows with everything that can go wrong in real data: ties, duplicates, empties, missing scores, too few."""
    rows = candidate_rows(rng, n, (1, 6), dim=8)
    for i, row in enumerate(rows):
        if i % 5 == 1:
            row["responses"][0] = row["responses"][-1] + " "
            row["embeddings"][0] = row["embeddings"][-1]
        if i % 5 == 2:
            row["responses"][0] = ["", None, "  "][i % 3]
        if i % 5 == 3:
            row["scores"][0] = [None, math.nan][i % 2]
        if i % 11 == 4:
            row["scores"] = [3.0] * len(row["scores"])
    return rows


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_picks_do_not_depend_on_batch_size_row_order_processes_or_streaming(strategy, rng):
    data = Dataset.from_list(mixed_rows(rng))
    options = {"batched": True, "fn_kwargs": {"strategy": strategy, "pairs_per_prompt": 2}}
    expected = sorted(map(str, data.map(real_select, **options)))
    for other in (
        data.map(real_select, batch_size=1, **options),
        data.map(real_select, batch_size=7, **options),
        data.map(real_select, num_proc=2, **options),
        data.shuffle(seed=1).map(real_select, **options),
        data.to_iterable_dataset(num_shards=3).map(real_select, batch_size=9, **options),
    ):
        assert sorted(map(str, other)) == expected


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_picks_do_not_depend_on_the_prompt_or_the_order_of_the_responses(strategy, rng):
    rows = mixed_rows(rng)
    shuffled = []
    for row in rows:
        order = rng.permutation(len(row["responses"]))
        parts = {name: [row[name][i] for i in order] for name in ("responses", "scores", "embeddings")}
        shuffled.append({"prompt": "another " + row["prompt"], **parts})
    before, after = select(rows, strategy=strategy), select(shuffled, strategy=strategy)
    assert len(before) > 30
    assert [[row[name] for name in PICK] for row in before] == [[row[name] for name in PICK] for row in after]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_picked_is_valid(strategy, rng):
    rows = mixed_rows(rng, 200)
    by_prompt = {row["prompt"]: row for row in rows}
    for row in select(rows, strategy=strategy, pairs_per_prompt=3, min_score_gap=1.0):
        source = by_prompt[row["prompt"]]
        assert row["chosen"] in source["responses"]
        assert row["rejected"] in source["responses"]
        assert row["chosen"].strip() != row["rejected"].strip() != ""
        assert row["score_chosen"] > row["score_rejected"] + 1.0


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "b ", "c", "\u00e9", "e\u0301", "", "  ", None, "d"]),
            st.one_of(st.none(), st.just(math.nan), st.integers(0, 3).map(float)),
            st.sampled_from([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5], [0.0, 0.0]]),
        ),
        max_size=7,
    ),
    st.sampled_from(list(STRATEGIES)),
    st.randoms(),
)
def test_generated_rows_keep_the_laws(responses, strategy, random):
    row = {
        "prompt": "p",
        "responses": [text for text, _, _ in responses],
        "scores": [score for _, score, _ in responses],
        "embeddings": [vector for _, _, vector in responses],
    }
    (pick,) = select([row], strategy=strategy, on_skip="keep")
    if pick["skip_reason"] is not None:
        assert pick["chosen"] is pick["rejected"] is pick["score_chosen"] is pick["similarity"] is None
        assert select([row], strategy=strategy) == []
    else:
        assert pick["chosen"].strip() != pick["rejected"].strip()
        assert pick["score_chosen"] > pick["score_rejected"]
    # Texts decide, not positions: in another order the same pair comes out, whatever the ties. Which of two equal
    # texts with different embeddings stands for both is open, so those are left out here.
    texts = [unicodedata.normalize("NFC", (text or "").strip()) for text, _, _ in responses]
    if len(set(texts)) == len(texts):
        shuffled = random.sample(range(len(texts)), len(texts))
        other = {name: [row[name][i] for i in shuffled] for name in ("responses", "scores", "embeddings")}
        (again,) = select([{"prompt": "q", **other}], strategy=strategy, on_skip="keep")
        assert [pick[name] for name in (*PICK, "skip_reason")] == [again[name] for name in (*PICK, "skip_reason")]


@pytest.mark.parametrize("strategy", ["max_min", "divpo", "dissimilar_gap", "chain"])
def test_a_strategy_that_needs_scores_says_so_before_anything_is_embedded(strategy, rng, embedder):
    rows = candidate_rows(rng, 3, scores=False)
    message = (
        f"The strategy '{strategy}' needs the column `scores`, one number per response. Found: ['prompt', 'responses']"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        select(rows, strategy=strategy, embedder=embedder)
    with pytest.raises(ValueError, match=re.escape(message)):
        select_preferences(Dataset.from_list(rows), SelectionConfig(strategy=strategy, embedder=embedder))
    assert not embedder.calls


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_given_pair_is_the_pair_whatever_the_strategy(strategy, rng):
    vectors = rng.standard_normal((5, 2, 4))
    rows = {"prompt": ["p"] * 5, "chosen": list("abcde"), "rejected": list("fghij"), "embeddings": vectors}
    pairs = Dataset.from_dict(rows).map(real_select, batched=True, fn_kwargs={"strategy": strategy})
    assert (pairs["chosen"][:], pairs["rejected"][:]) == (rows["chosen"], rows["rejected"])
    cosines = (vectors[:, 0] * vectors[:, 1]).sum(1) / np.linalg.norm(vectors, axis=2).prod(1)
    np.testing.assert_allclose(pairs["similarity"][:], cosines, atol=1e-6)
    if strategy in ("random", "max_min", "chain"):  # which embed nothing
        bare = Dataset.from_dict(rows).remove_columns("embeddings")
        assert np.isnan(bare.map(real_select, batched=True, fn_kwargs={"strategy": strategy})["similarity"][:]).all()


def test_prompts_without_responses_have_no_vectors_in_any_format():
    data = Dataset.from_dict(
        {"prompt": ["p", "q"], "responses": [["a", "b"], []], "embeddings": [[[1.0, 2.0], [2.0, 1.0]], []]}
    )
    for kind in (None, "numpy", "pandas", "arrow", "torch"):
        for size in (1, 2):
            pairs = data.with_format(kind).map(real_select, batched=True, batch_size=size)
            assert len(pairs) == 1
    empty = Dataset.from_dict({"prompt": ["p"], "responses": [[]], "embeddings": [[]]})
    assert len(empty.map(real_select, batched=True)) == 0


def test_max_min_is_the_best_against_the_worst_and_embeds_nothing(rng, embedder):
    rows = candidate_rows(rng, 30)
    for pair in select(rows, strategy="max_min", embedder=embedder):
        assert (pair["score_chosen"], pair["score_rejected"]) == (max(pair["scores"]), min(pair["scores"]))
        assert math.isnan(pair["similarity"])
    assert not embedder.calls


def test_skipped_rows_are_dropped_kept_or_an_error(rng):
    data = Dataset.from_list(mixed_rows(rng))
    dropped = data.map(real_select, batched=True, batch_size=10)
    kept = data.map(real_select, batched=True, batch_size=10, fn_kwargs={"on_skip": "keep"})
    assert "skip_reason" not in dropped.column_names
    assert len(dropped) < len(kept) == len(data)
    assert {"too_few_responses", "tied_scores"} <= set(kept["skip_reason"]) - {None}
    picked = [str(row) for row in kept if row["skip_reason"] is None]
    assert picked == [str({**row, "skip_reason": None}) for row in dropped]
    for row in kept:
        assert all((row[name] is None) == (row["skip_reason"] is not None) for name in PICK)
    with pytest.raises(ValueError, match=r"Row \d of the batch has no valid pair: .* Correct the row, or drop"):
        data.map(real_select, batched=True, fn_kwargs={"on_skip": "error"})


@pytest.mark.parametrize("first", ["bad", "good"])
def test_a_batch_of_nothing_but_skipped_rows(first):
    good = {"prompt": "p", "responses": ["a", "b"], "scores": [1.0, 2.0], "embeddings": [[1.0, 0.0], [0.0, 1.0]]}
    bad = {**good, "scores": [1.0, 1.0]}
    data = Dataset.from_list([bad, bad, good, good] if first == "bad" else [good, good, bad, bad])
    kept = data.map(real_select, batched=True, batch_size=2, fn_kwargs={"on_skip": "keep"})
    assert sorted(kept["chosen"], key=str) == [None, None, "b", "b"]
    assert sorted(kept["skip_reason"], key=str) == [None, None, "tied_scores", "tied_scores"]
    assert kept.features["similarity"].dtype == "float32"
    assert data.map(real_select, batched=True, batch_size=2)["chosen"][:] == ["b", "b"]
    assert len(Dataset.from_list([bad, bad]).map(real_select, batched=True)) == 0


def test_remove_columns_really_removes_and_other_columns_ride_along(rng):
    rows = mixed_rows(rng)
    for i, row in enumerate(rows):
        row["number"], row["nested"] = i, {"x": [i, i]}
    data = Dataset.from_list(rows)
    by_prompt = {row["prompt"]: row for row in rows}
    used = ["responses", "scores", "embeddings"]
    for options in ({}, {"fn_kwargs": {"pairs_per_prompt": 3}}):
        for pairs in (
            data.map(real_select, batched=True, remove_columns=used, **options),
            data.to_iterable_dataset().map(real_select, batched=True, remove_columns=used, **options),
        ):
            pairs = list(pairs)
            assert set(pairs[0]) == {"prompt", "number", "nested", *PICK}
            for row in pairs:
                assert (row["number"], row["nested"]) == tuple(
                    by_prompt[row["prompt"]][n] for n in ("number", "nested")
                )
    with_all = data.map(real_select, batched=True, fn_kwargs={"pairs_per_prompt": 3})
    assert set(with_all.column_names) == {"prompt", "number", "nested", *used, *PICK}
    assert with_all.features["embeddings"] == data.features["embeddings"]
    for row in with_all:
        np.testing.assert_allclose(row["embeddings"], by_prompt[row["prompt"]]["embeddings"], rtol=1e-6)


def test_unlabeled_pairs_have_ids_and_sides_shuffled_by_seed(rng):
    rows = candidate_rows(rng, 300, (2, 4), scores=False, dim=8)
    pairs = select(rows)
    assert set(pairs[0]) == {"prompt", "responses", "embeddings", "response_a", "response_b", "similarity", "pair_id"}
    assert len({row["pair_id"] for row in pairs}) == 300
    first = [row["response_a"] < row["response_b"] for row in pairs]
    assert 100 < sum(first) < 200
    other = select(rows, selection_seed=1)
    assert [row["pair_id"] for row in other] == [row["pair_id"] for row in pairs]
    assert [{row["response_a"], row["response_b"]} for row in other] == [
        {row["response_a"], row["response_b"]} for row in pairs
    ]
    assert 100 < sum(a["response_a"] != b["response_a"] for a, b in zip(pairs, other, strict=True)) < 200


def test_pair_id_is_of_the_content():
    identity = pair_id("p", "a", "b")
    assert re.fullmatch("[0-9a-f]{32}", identity)
    assert identity == pair_id("p", "b", "a")
    assert len({identity, pair_id("q", "a", "b"), pair_id("p", "a", "c"), pair_id("a", "p", "b")}) == 4
    message = {"role": "assistant", "content": "a"}
    # Arrow gives every message the keys of all messages.
    assert pair_id("p", [message], []) == pair_id("p", [{**message, "tool_calls": None}], [])


@pytest.mark.parametrize("labeled", [True, False])
def test_conversational_in_conversational_out(labeled):
    data = load_sample("conversational")
    data = data if labeled else data.remove_columns("scores")
    pairs = data.map(real_select, batched=True)
    for name in ("chosen", "rejected") if labeled else ("response_a", "response_b"):
        for row in pairs:
            assert row[name] in row["responses"]
            assert row[name][0]["role"] == "assistant"
    assert pairs["prompt"][:] == data["prompt"][:]


def test_text_responses_to_a_conversational_prompt_become_messages(embedder):
    user = [{"role": "user", "content": "Hi"}]
    (row,) = select([{"prompt": user, "responses": ["a", "b"], "scores": [1, 2]}], embedder=embedder)
    assert row["chosen"] == [{"role": "assistant", "content": "b"}]
    assert row["prompt"] == user
    replies = [[{"role": "assistant", "content": text}] for text in "ab"]
    (row,) = select([{"prompt": "Hi", "responses": replies, "scores": [1, 2]}], embedder=embedder)
    assert (row["prompt"], row["chosen"]) == (user, replies[1])


def test_given_pairs_get_a_similarity_and_an_explicit_prompt(embedder):
    explicit = {"prompt": "p", "chosen": "a", "rejected": "b", "responses": ["x", "y"], "scores": [1, 2]}
    (row,) = select([explicit], embedder=embedder)
    a, b = embedder.vector("a"), embedder.vector("b")
    assert row == {**explicit, "similarity": pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)}
    (row,) = select([{"chosen": "say a", "rejected": "say b"}], embedder=embedder)
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("say", " a", " b")
    rows = [{"prompt": "p", "chosen": "a", "rejected": None}, {"prompt": None, "chosen": "a", "rejected": "b"}]
    reasons = [row["skip_reason"] for row in select(rows, embedder=embedder, on_skip="keep")]
    assert reasons == ["missing_response", "missing_prompt"]


def given_pair(chosen, rejected, score_chosen, score_rejected):
    return {
        "prompt": "p",
        "chosen": chosen,
        "rejected": rejected,
        "score_chosen": score_chosen,
        "score_rejected": score_rejected,
    }


# Of each kind one, in the order of `JUDGED`; the last one contradicts its scores.
GIVEN = [
    given_pair("a cat", "a dog", 3, 1),
    given_pair("same", "same ", 3, 1),
    given_pair("  ", "a cat", 3, 1),
    given_pair("a cat", "a bird", 2, 2),
    given_pair("a cat", "a fish", 1, 3),
]
JUDGED = [None, "duplicate_responses", "too_few_responses", "tied_scores", None]


@pytest.mark.parametrize("strategy", ["easy", "hard", "random"])
def test_given_pairs_that_are_equal_empty_or_tied_are_no_pairs(strategy, embedder):
    kept = select(GIVEN, strategy=strategy, embedder=embedder, on_skip="keep")
    assert [row["skip_reason"] for row in kept] == JUDGED
    assert [{name: row[name] for name in GIVEN[0]} for row in kept] == GIVEN
    assert [row["rejected"] for row in select(GIVEN, strategy=strategy, embedder=embedder)] == ["a dog", "a fish"]
    with pytest.raises(ValueError, match="fewer than two responses differ"):
        select(GIVEN, strategy=strategy, embedder=embedder, on_skip="error")


def test_the_gap_of_given_pairs(embedder):
    rows = [given_pair("a", "b", high, 1) for high in (1.25, 1.5, 2, None)]
    kept = select(rows, strategy="random", min_score_gap=0.5, on_skip="keep")
    assert [row["skip_reason"] for row in kept] == ["tied_scores", "tied_scores", None, "missing_scores"]
    with pytest.raises(
        ValueError, match=re.escape("`min_score_gap=0.5` needs the columns `score_chosen` and `score_rejected`")
    ):
        select([{"prompt": "p", "chosen": "a", "rejected": "b"}], strategy="random", min_score_gap=0.5)


def test_random_loads_no_embedder():
    class Fails:
        def encode(self, sentences):
            raise AssertionError("embedded")

    rows = candidate_rows(np.random.default_rng(0), 50)
    found = select(rows, strategy="random", embedder=Fails())
    assert all(math.isnan(row["similarity"]) for row in found)
    other = select(rows, strategy="random", embedder=Fails(), selection_seed=1)
    assert 5 < sum(a["chosen"] == b["chosen"] for a, b in zip(found, other, strict=True)) < 45


def test_only_what_may_be_labeled_is_embedded(embedder):
    rows = [
        {"prompt": "p", "responses": ["a", "b", "a ", ""], "scores": [1, 2, 1, 3]},
        {"prompt": "q", "responses": ["c", "d"], "scores": [1, 1]},
    ]
    select(rows, embedder=embedder)
    assert embedder.calls == [["a", "b"]]


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        ([[1.0, 0.0]], "Column `embeddings`, row 0 of the batch: found 1 vectors for 2 responses"),
        (None, "Column `embeddings`, row 0 of the batch: found 0 vectors for 2 responses"),
        ([[1.0, 0.0], [math.nan, 1.0]], "Column `embeddings`: found NaN, infinity"),
        ([[1.0, 0.0], [1e39, 1.0]], "or a number too large for float32"),
        ([1.0, 2.0], "Column `embeddings`: expected (n_responses, dim) numbers per row with one dim"),
    ],
)
def test_embeddings_that_do_not_fit(embeddings, message):
    row = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 2], "embeddings": embeddings}
    with pytest.raises(ValueError, match=re.escape(message)):
        select([row])
    if embeddings != [1.0, 2.0]:
        with pytest.raises(ValueError, match=re.escape(message)):
            Dataset.from_list([row, {**row, "embeddings": [[1.0, 0.0], [0.0, 1.0]]}]).map(real_select, batched=True)


def test_embeddings_of_different_dim():
    rows = [{"prompt": "p", "responses": ["a", "b"], "embeddings": [[1.0] * d, [2.0] * d]} for d in (2, 3)]
    with pytest.raises(ValueError, match=re.escape("found vectors of the dims [2, 3] and 0 nulls")):
        Dataset.from_list(rows).map(real_select, batched=True)


def test_zero_vectors_are_unlike_everything():
    row = {"prompt": "p", "responses": ["a", "b", "c"], "embeddings": [[0.0, 0.0], [1.0, 0.0], [1.0, 0.1]]}
    assert select([row])[0]["similarity"] == 0


def test_an_unknown_layout_raises_before_a_model_is_loaded():
    with pytest.raises(ValueError, match=re.escape("Found: ['text']")):
        real_select({"text": ["a"]}, embedder="no/such-model")
    with pytest.raises(ValueError, match="`strategy` must be one of"):
        real_select({"text": ["a"]}, strategy="best")


def test_plain_files_work_as_the_readme_says(tmp_path, tiny_encoder, rng):
    Dataset.from_list(candidate_rows(rng, 5)).to_json(tmp_path / "rows.jsonl")
    data = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path))
    assert {"chosen", "rejected"} <= set(
        data.map(real_select, batched=True, fn_kwargs={"strategy": "centroid", "embedder": tiny_encoder}).column_names
    )


def user(text):
    return [{"role": "user", "content": text}]


def reply(text, **keys):
    return [{"role": "assistant", "content": text, **keys}]


@pytest.mark.parametrize("batch_size", [1, 2, 1000])
@pytest.mark.parametrize("layout", ["labeled", "unlabeled", "implicit", "mixed"])
def test_batches_of_skipped_messages(layout, batch_size, tiny_encoder):
    if layout == "implicit":
        good = {"chosen": user("q") + reply("a"), "rejected": user("q") + reply("b")}
        bad = {"chosen": user("q") + reply("a"), "rejected": None}
    else:
        good = {"prompt": user("q"), "responses": [reply("a"), reply("b")], "scores": [1.0, 2.0]}
        bad = {**good, "responses": [reply("a"), reply("a")]}
    if layout == "mixed":
        good, bad = {**good, "responses": ["a", "b"]}, {**bad, "responses": ["a", "a "]}
    rows = [bad, bad, good, bad, good]
    if layout == "unlabeled":
        rows = [{"prompt": row["prompt"], "responses": row["responses"]} for row in rows]
    data = Dataset.from_list(rows)
    options = {"on_skip": "keep", "embedder": tiny_encoder}
    kept = data.map(real_select, batched=True, batch_size=batch_size, fn_kwargs=options)
    first, second = ("response_a", "response_b") if layout == "unlabeled" else ("chosen", "rejected")
    assert [row["skip_reason"] is None for row in kept] == [False, False, True, False, True]
    for row in kept:
        if row["skip_reason"] is None:
            assert {row[first][0]["content"], row[second][0]["content"]} == {"a", "b"}
            assert row["prompt"] == user("q")


def test_messages_whose_keys_differ_from_batch_to_batch():
    good = {"prompt": user("q"), "responses": [reply("a b"), reply("c")], "scores": [1.0, 2.0]}
    call = {"function": {"name": "f"}}
    other = {**good, "responses": [reply(None, tool_calls=[call]), reply("c")], "scores": [2.0, 1.0]}
    data = Dataset.from_list([good] * 3 + [other])
    for options in ({"batch_size": 2}, {"num_proc": 2}):
        pairs = data.map(real_select, batched=True, fn_kwargs={"strategy": "random"}, **options)
        assert pairs[3]["chosen"] == [{"role": "assistant", "content": None, "tool_calls": [call]}]


@pytest.mark.parametrize("strategy", ["easy", "random"])
def test_picks_on_tool_calls_do_not_depend_on_the_keys_of_other_rows(strategy, embedder):
    def row(i, **arguments):
        calls = [reply(None, tool_calls=[{"name": "f", "arguments": {**arguments, "n": str(j)}}]) for j in range(4)]
        return {"prompt": user(f"q {i}"), "responses": calls, "scores": [1.0, 2.0, 3.0, 4.0]}

    rows = [row(0, x="1"), row(1, y="2"), row(2)]
    together = select([dict(row) for row in Dataset.from_list(rows)], strategy=strategy, embedder=embedder)
    alone = [select([row], strategy=strategy, embedder=embedder)[0] for row in rows]
    for name in ("score_chosen", "score_rejected", "similarity"):
        np.testing.assert_array_equal([row[name] for row in together], [row[name] for row in alone])


def test_given_text_sides_of_a_conversational_prompt(embedder, tiny_encoder):
    row = {"prompt": user("q"), "chosen": "a", "rejected": "b"}
    expected = (user("q"), reply("a"), reply("b"))
    (out,) = select([row], embedder=embedder)
    assert (out["prompt"], out["chosen"], out["rejected"]) == expected
    (out,) = Dataset.from_list([row]).map(real_select, batched=True, fn_kwargs={"embedder": tiny_encoder})
    assert (out["prompt"], out["chosen"], out["rejected"]) == expected


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["numpy", "torch", "arrow", "pandas"])
def test_formats_do_not_change_picks(kind, streaming, rng):
    rows = mixed_rows(rng, 20)
    for i, row in enumerate(rows):
        # Scores in tenths, as float32 cannot hold them; nullable and nested columns ride along.
        row["scores"] = [None if score is None else score / 10 for score in row["scores"]]
        row |= {"number": i if i % 3 else None, "nested": [{"a": None, "b": [float(i)]}]}
    data = Dataset.from_list(rows)
    options = {
        "batched": True,
        "batch_size": 7,
        "remove_columns": ["responses", "scores", "embeddings"],
        "fn_kwargs": {"min_score_gap": 0.2},
    }
    expected = data.map(real_select, **options)
    if streaming:
        data = data.to_iterable_dataset()
    found = data.with_format(kind).map(real_select, **options)
    if not streaming:
        assert found.features == expected.features
    assert list(found.with_format(None)) == expected.to_list()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["numpy", "torch", "arrow", "pandas"])
def test_formats_do_not_change_embeddings(kind, streaming, embedder):
    data = Dataset.from_list([{"prompt": "p", "responses": ["a cat", "the sea"], "other": [1, None]}] * 3)
    if streaming:
        data = data.to_iterable_dataset()
    options = {"batched": True, "remove_columns": ["other"], "fn_kwargs": {"embedder": embedder}}
    for row in data.with_format(kind).map(embed_responses, **options).with_format(None):
        assert set(row) == {"prompt", "responses", "embeddings", "responses_cut", "tokens_cut"}
        assert np.array_equal(row["embeddings"], embedder.encode(row["responses"]))


def test_embeddings_of_responses_do_not_stand_for_given_pairs(embedder, rng):
    rows = candidate_rows(rng, 3, (3, 3), dim=embedder.dim)
    pairs = select(rows)
    again = select([{name: v for name, v in row.items() if name != "similarity"} for row in pairs], embedder=embedder)
    assert [row["chosen"] for row in again] == [row["chosen"] for row in pairs]
    assert embedder.calls


@pytest.mark.parametrize(
    "value", [[1.0, 2.0], None, 3.0, [["a"], ["b"]], [[], []], [[[1.0]], [[2.0]]], [[1.0], [2.0, 3.0]]]
)
@pytest.mark.parametrize("in_arrow", [True, False])
def test_malformed_embeddings_are_one_error(value, in_arrow):
    rows = [{"prompt": "p", "responses": ["a", "b"], "scores": [1.0, 2.0], "embeddings": value}] * 2
    with pytest.raises(ValueError, match=r"Column `embeddings`.*Make the column with `embed_responses`"):
        Dataset.from_list(rows).map(real_select, batched=True) if in_arrow else select(rows)


@pytest.mark.parametrize("kind", ["float64", "fixed", "large", "array2d"])
def test_embeddings_of_any_list_type(kind, rng):
    rows = candidate_rows(rng, 20, (3, 3), dim=4)
    data = Dataset.from_list(rows)
    number = Value("float64" if kind == "float64" else "float32")
    feature = {
        "float64": List(List(number)),
        "fixed": List(List(number, length=4), length=3),
        "large": LargeList(LargeList(number)),
        "array2d": Array2D((3, 4), "float32"),
    }[kind]
    cast = data.cast_column("embeddings", feature)
    options = {"batched": True, "fn_kwargs": {"pairs_per_prompt": 2}}
    assert cast.map(real_select, **options)["chosen"][:] == data.map(real_select, **options)["chosen"][:]


def test_many_and_large_responses(rng):
    big = "a word \x00 " * 120_000  # about a megabyte
    responses = [*(f"response {i}" for i in range(498)), big, big + "more"]
    row = {"prompt": "p", "responses": responses, "embeddings": rng.standard_normal((500, 4)).tolist()}
    (pair,) = Dataset.from_list([row]).map(real_select, batched=True, remove_columns=["responses", "embeddings"])
    vectors = np.array(row["embeddings"])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    i, j = np.unravel_index((vectors @ vectors.T).argmin(), (500, 500))
    assert {pair["response_a"], pair["response_b"]} == {responses[i], responses[j]}
