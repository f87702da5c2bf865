import pytest
from datasets import Dataset

from trl_real import RealDPOConfig, RealDPOTrainer, SelectionConfig, select_preferences
from trl_real.candidates.conversion import convert
from trl_real.training.data import given_pairs


def pair(chosen, rejected, score_chosen, score_rejected):
    scores = {"score_chosen": score_chosen, "score_rejected": score_rejected}
    return {"prompt": "Which?", "chosen": chosen, "rejected": rejected, **scores}


ROWS = [
    pair("a cat", "a dog", 3.0, 1.0),
    pair("same", "same ", 3.0, 1.0),
    pair(" ", "a cat", 3.0, 1.0),
    pair("a cat", "a bird", 2.0, 2.0),
    pair("a cat", "a fish", 1.0, 1.25),
]
SKIPPED = {"duplicate_responses": 1, "too_few_responses": 1, "tied_scores": 1}


def test_given_pairs_that_nobody_could_learn_from_are_counted(caplog):
    pairs, report = given_pairs(convert(Dataset.from_list(ROWS), on_skip="keep"), SelectionConfig())
    assert pairs.to_list() == [ROWS[0], ROWS[4]]
    assert (report.rows, report.pairs, report.skipped) == (5, 2, SKIPPED)
    assert report.policies == {"reversed_scores": 1}
    assert "3 of 5 given pairs are no valid pairs" in caplog.text
    assert "1 have a higher `score_rejected` than `score_chosen`" in caplog.text
    pairs, report = given_pairs(convert(Dataset.from_list(ROWS), on_skip="keep"), SelectionConfig(min_score_gap=0.5))
    assert (pairs.to_list(), report.skipped["tied_scores"]) == ([ROWS[0]], 2)


def test_of_a_stream_the_same_pairs_are_left():
    stream = convert(Dataset.from_list(ROWS).to_iterable_dataset())
    pairs, report = given_pairs(stream, SelectionConfig())
    assert [row["rejected"] for row in pairs] == ["a dog", "a fish"]
    assert report is None


def test_options_that_cannot_be_kept_are_errors():
    with pytest.raises(ValueError, match=r"3 of 5 given pairs are no valid pairs.* Mend them"):
        given_pairs(convert(Dataset.from_list(ROWS), on_skip="error"), SelectionConfig(on_skip="error"))
    with pytest.raises(ValueError, match="None of the 2 rows has a valid pair"):
        given_pairs(convert(Dataset.from_list(ROWS[1:3])), SelectionConfig())
    bare = Dataset.from_list(ROWS).remove_columns(["score_chosen", "score_rejected"])
    with pytest.raises(
        ValueError, match=r"`min_score_gap=1\.0` needs the columns `score_chosen` and `score_rejected`"
    ):
        given_pairs(convert(bare), SelectionConfig(min_score_gap=1.0))


@pytest.mark.parametrize("budget", [None, 1])
def test_a_label_is_never_spent_on_an_equal_pair(budget, tiny_lm, tiny_encoder, tmp_path):
    args = RealDPOConfig(
        output_dir=str(tmp_path), strategy="hard", embedder=tiny_encoder, budget=budget, report_to="none", use_cpu=True
    )
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=Dataset.from_list(ROWS))
    assert {*trainer.selected_dataset["rejected"]} <= {"a dog", "a fish"}
    assert trainer.selection_report.skipped == SKIPPED
    # A gap that is meant for the training data is none for pairs without scores that are evaluated on.
    bare = Dataset.from_list(ROWS[:1]).remove_columns(["score_chosen", "score_rejected"])
    args.min_score_gap = 0.1
    RealDPOTrainer(tiny_lm, args=args, train_dataset=Dataset.from_list(ROWS), eval_dataset=bare)


def said(role, content):
    return [{"role": role, "content": content}]


HI = "\n\nHuman: Hi\n\nAssistant:"
SIDES = {"chosen": "a cat", "rejected": "a dog"}
WHOLE = {side: said("user", "Which?") + said("assistant", text) for side, text in SIDES.items()}
READ = [
    # The prompt in a column of another name, a text prompt beside whole conversations, and answers that begin alike.
    ({"question": "Which?", **SIDES}, {"prompt": "Which?", **SIDES}),
    ({"instruction": "Which?", **SIDES}, {"prompt": "Which?", **SIDES}),
    (
        {"prompt": "Which?", **WHOLE},
        {"prompt": said("user", "Which?")} | {s: said("assistant", t) for s, t in SIDES.items()},
    ),
    (
        {s: f"{HI} The same {t}" for s, t in SIDES.items()},
        {"prompt": HI} | {s: f" The same {t}" for s, t in SIDES.items()},
    ),
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("row", "expected"), READ)
def test_the_trainer_reads_given_pairs_as_all_others_do(row, expected, streaming, tiny_lm, tmp_path):
    rows = Dataset.from_list([row] * 2)
    dataset = rows.to_iterable_dataset() if streaming else rows
    args = RealDPOConfig(output_dir=str(tmp_path), max_steps=1, report_to="none", use_cpu=True)
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=dataset, eval_dataset={"rows": dataset})
    for pairs in (trainer.selected_dataset, select_preferences(rows, SelectionConfig(strategy="random"))[0]):
        assert [{name: pair[name] for name in expected} for pair in pairs] == [expected] * 2
    assert all(pair["prompt_ids"] for pair in trainer.eval_dataset["rows"])
    assert "eval_loss" in trainer.evaluate(dataset)
