import numpy as np
import pytest
from conftest import HashEmbedder, candidate_rows
from datasets import Dataset

from trl_real import apply_labels, real_select, suspect_labels
from trl_real.labeling.preference_model import chance, fit


@pytest.fixture
def labeled(rng):
    """Pairs of which a direction in the embeddings says the better side, and every tenth label is wrong."""
    n, dim = 300, 8
    direction = rng.standard_normal(dim)
    vectors = rng.standard_normal((n, 2, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    better = ((vectors[:, 0] - vectors[:, 1]) @ direction > 0).astype(int)
    wrong = np.arange(n) % 10 == 0
    chosen = np.where(wrong, better, 1 - better)
    rows = np.arange(n)
    return Dataset.from_dict(
        {
            "prompt": [f"question {i // 2}" for i in range(n)],
            "chosen": [f"chosen {i}" for i in range(n)],
            "rejected": [f"rejected {i}" for i in range(n)],
            "embeddings": np.stack([vectors[rows, chosen], vectors[rows, 1 - chosen]], axis=1).tolist(),
            "wrong": wrong,
        }
    )


def test_wrong_labels_come_first(labeled):
    ranked = suspect_labels(labeled)
    assert sum(ranked["wrong"][:30]) >= 22  # 3 by chance
    suspicion = np.array(ranked["suspicion"])
    assert ((suspicion >= 0) & (suspicion <= 1)).all()
    assert (np.diff(suspicion) <= 0).all()
    assert ranked.remove_columns("suspicion").sort("chosen").to_list() == labeled.sort("chosen").to_list()
    again = suspect_labels(ranked)
    assert again["chosen"][:] == ranked["chosen"][:]


def test_suspicion_is_that_of_a_model_without_the_prompt(labeled):
    """Fitted anew without the labels of each prompt, which one Newton step stands for."""
    found = {row["chosen"]: row["suspicion"] for row in suspect_labels(labeled)}
    vectors = np.array(labeled["embeddings"])
    difference = vectors[:, 0] - vectors[:, 1]
    prompts = np.array(labeled["prompt"])
    for i in range(0, 60, 7):
        others = prompts != prompts[i]
        model = fit(difference[others], np.ones(others.sum()), np.ones(others.sum()))
        own = difference[[i]]
        alone = 1 - chance(model.logits(own), model.variances(own))[0]
        assert found[f"chosen {i}"] == pytest.approx(alone, abs=0.05)


def test_labels_of_several_annotators_count_by_their_agreement(rng):
    rows = Dataset.from_list(candidate_rows(rng, 30, scores=False))
    pairs = rows.map(real_select, batched=True, fn_kwargs={"strategy": "random"}, remove_columns=["responses"])
    labels = [
        {"pair_id": pair, "label": str(rng.choice(["a", "b"])), "annotator": name}
        for pair in pairs["pair_id"]
        for name in ("anna", "ben", "carl")
    ]
    labeled = apply_labels(pairs, labels)
    embedder = HashEmbedder()
    ranked = suspect_labels(labeled, embedder=embedder)
    assert set(ranked["pair_id"]) == set(labeled["pair_id"])
    as_one = suspect_labels(labeled.remove_columns(["label_agreement", "n_labels"]), embedder=embedder)
    assert ranked["suspicion"][:] != as_one["suspicion"][:]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([{"chosen": "a"}], TypeError, "`suspect_labels` needs a `datasets.Dataset`, got list"),
        (
            Dataset.from_list([{"prompt": "p", "responses": ["a", "b"], "scores": [0, 1]}]),
            ValueError,
            r"`suspect_labels` needs labeled pairs, with the columns `chosen` and `rejected`. Found: \['prompt'",
        ),
    ],
)
def test_what_has_no_labels_is_named(data, error, message):
    with pytest.raises(error, match=message):
        suspect_labels(data)
