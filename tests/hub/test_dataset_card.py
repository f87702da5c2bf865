import dataclasses
import itertools
import json
import re

import numpy as np
import pytest
import yaml
from conftest import HashEmbedder, candidate_rows
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt
from test_markdown import HOSTILE

from trl_real import SelectionConfig, SelectionReport, create_dataset_card, select_preferences
from trl_real.hub import card_parts
from trl_real.hub.card_metadata import find_source


CONFIG = SelectionConfig(strategy="easy", budget=0.5, embedder=HashEmbedder())


@pytest.fixture
def selected(rng):
    return select_preferences(Dataset.from_list(candidate_rows(rng, 20)), CONFIG)


def test_says_how_the_budget_was_spent(rng):
    config = dataclasses.replace(CONFIG, budget=5, budget_strategy="random")
    pairs, report = select_preferences(Dataset.from_list(candidate_rows(rng, 20)), config)
    card = create_dataset_card(pairs, report, config, repo_id="alice/pairs")
    assert "| budget | 5 pairs, ranked by the strategy `random` |" in card.text
    assert 'budget=5, budget_strategy="random")' in card.text
    again = SelectionReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert create_dataset_card(pairs, again, config, repo_id="alice/pairs").text == card.text


def headings(card):
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(card.text)
    return [(t.tag, after.content) for t, after in itertools.pairwise(tokens) if t.type == "heading_open"]


SECTION = [("h2", "Selection"), ("h3", "Load"), ("h3", "Columns"), ("h3", "Examples")]


def test_says_what_was_selected_how_and_how_to_do_it_again(selected):
    pairs, report = selected
    card = create_dataset_card(
        pairs,
        report,
        CONFIG,
        repo_id="alice/pairs",
        source="bob/candidates",
        source_revision="a" * 40,
        license="apache-2.0",
        model_id="alice/model",
        plots={"train": "figures/data-train.png"},
    )
    text = card.text
    for fact in (
        "| source | [bob/candidates](",
        f", revision `{'a' * 40}` |",
        "| license | `apache-2.0` |",
        "| model trained on it | [alice/model](",
        "| strategy | `easy`: The least similar pair (REAL, arXiv 2409.17169) |",
        "| embedder | `HashEmbedder` |",
        "| budget | 50% of the pairs |",
        "| seed | 0 |",
        "| prompts in | 20 with ",
        "| pairs dropped | ",
        f"| pairs out | {report.pairs} labeled |",
        "![Similarity, score gap and length difference of all pairs and of the selected pairs](figures/data-train.png)",
        'load_dataset("alice/pairs", split="train")',
        'candidates = load_dataset("bob/candidates", revision="' + "a" * 40 + '", split="train")',
        'SelectionConfig(embedder="HashEmbedder", budget=0.5)',
        "a Python object of the class `HashEmbedder`",
        "@article{zhang2024real",
        "@software{trl_real",
    ):
        assert fact in text, fact
    for name, fact in report.facts():
        assert f"| {name} | {fact} |" in text
    for row in report.figures():
        assert f"| {' | '.join(row)} |" in text
    for name in pairs.column_names:
        assert f"| `{name}` |" in text
    recipe = yaml.safe_load(re.search("```yaml\n(.*?)```", text, re.S)[1])
    assert recipe == {**vars(CONFIG), "embedder": "HashEmbedder"}
    shown = re.findall("^#### (.*)$", text, re.M)
    assert [title.split(":")[0] for title in shown] == ["1", "2", "3", "4", "5"]
    assert "SelectionConfig()" in create_dataset_card(pairs, report, SelectionConfig()).text


def test_metadata_is_what_the_viewer_and_the_search_read(selected):
    pairs, report = selected
    data = create_dataset_card(
        pairs, report, CONFIG, repo_id="alice/pairs", source="bob/candidates", license="mit"
    ).data
    assert (data.license, data.pretty_name, data.size_categories) == ("mit", "pairs", ["n<1K"])
    assert data.task_categories == ["text-generation"]
    assert data.source_datasets == ["bob/candidates"]
    assert data["tags"] == ["trl", "dpo", "preference", "trl-real"]
    assert data["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]
    info = data["dataset_info"]
    assert [feature["name"] for feature in info["features"]] == pairs.column_names
    assert info["splits"] == [{"name": "train", "num_bytes": pairs._estimate_nbytes(), "num_examples": len(pairs)}]


@pytest.mark.parametrize(("n", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (10_000, "10K<n<100K")])
def test_sizes(n, size):
    pairs = Dataset.from_dict({"prompt": ["p"] * n, "chosen": ["a"] * n, "rejected": ["b"] * n})
    assert create_dataset_card(pairs).data.size_categories == [size]


def test_an_unknown_license_is_asked_for(selected):
    pairs, report = selected
    card = create_dataset_card(pairs, report, CONFIG)
    assert card.data.license is None
    assert "| license | **unknown**: before you use or publish this dataset, look up the license" in card.text


def test_unlabeled_pairs_say_how_to_label_them(rng):
    rows = Dataset.from_list(candidate_rows(rng, 6, scores=False, dim=4))
    pairs, report = select_preferences(rows)
    text = create_dataset_card(pairs, report).text
    assert "`trl_real.to_label_tasks` creates tasks for annotators" in text
    assert "**Response a**" in text
    assert "| pairs out | 6 to label |" in text
    assert "The options were not recorded" in text


def test_splits_and_configs_have_a_section_each(selected):
    pairs, report = selected
    splits = DatasetDict({"train": pairs, "test": pairs.select(range(3))})
    first = create_dataset_card(splits, {"train": report, "test": report}, CONFIG)
    assert headings(first)[1:4] == [("h2", "Selection"), ("h3", "Split `train`"), ("h3", "Split `test`")]
    other = create_dataset_card(pairs, report, CONFIG, config_name="hard", previous=first, license="mit")
    assert [title for tag, title in headings(other) if tag == "h2"] == ["Selection", "Selection `hard`", "Citation"]
    assert [config["config_name"] for config in other.data["configs"]] == ["default", "hard"]
    assert [info["config_name"] for info in other.data["dataset_info"]] == ["default", "hard"]
    again = create_dataset_card(pairs, report, CONFIG, previous=DatasetCard(str(other)))
    assert [title for tag, title in headings(again) if tag == "h2"] == ["Selection", "Selection `hard`", "Citation"]
    assert "Split `test`" not in again.text
    assert again.data.license == "mit"
    hard = re.compile(r"## Selection `hard`.*?end of the selection 'hard'", re.S)
    assert hard.search(again.text)[0] == hard.search(other.text)[0]


def test_what_people_wrote_stays(selected):
    pairs, report = selected
    mine = DatasetCard("---\nlicense: mit\ntags: [mine]\nannotations_creators: [found]\n---\n# Title\n\nMy words.\n")
    card = create_dataset_card(pairs, report, CONFIG, previous=mine)
    assert card.text.lstrip().startswith("# Title\n\nMy words.\n\n<!-- trl-real: begin of the selection 'default' -->")
    assert card.data["tags"] == ["mine", "trl", "dpo", "preference", "trl-real"]
    assert card.data.annotations_creators == ["found"]
    assert create_dataset_card(pairs, report, CONFIG, previous=card).text.strip() == card.text.strip()


@pytest.mark.parametrize("kind", ["text", "messages"])
def test_hostile_rows_do_not_break_a_card(kind):
    texts = [*HOSTILE, "long " * 20_000, "hf_" + "a" * 34]
    rows = []
    for i, text in enumerate(texts):
        prompt, sides = text, [f"{text} {i}", f"{text} {text} {i}"]
        if kind == "messages":
            prompt = [{"role": text[:50] or "user", "content": prompt}]
            sides = [[{"role": "assistant", "content": side}] for side in sides]
        rows.append({"prompt": prompt, "responses": sides, "scores": [1.0, 2.0], "| `x` |\n# y": text})
    rows = Dataset.from_list(rows).add_column("embeddings", np.eye(len(rows) * 2).reshape(len(rows), 2, -1).tolist())
    for start in range(0, len(rows), 5):
        config = SelectionConfig(budget_cost="---\n```\n# z", budget=3)
        pairs, report = select_preferences(rows.select(range(start, min(start + 5, len(rows)))))
        hostile = texts[start]
        card = create_dataset_card(
            pairs,
            report,
            config,
            repo_id=hostile[:80],
            source=hostile,
            source_revision=hostile[:40],
            pretty_name=hostile[:200],
            model_id=hostile[:80],
        )
        found = headings(card)
        title, *rest = found
        assert title[0] == "h1"
        assert [pair for pair in rest if pair[0] != "h4"] == [*SECTION, ("h3", "Reproduce"), ("h2", "Citation")]
        assert len([pair for pair in rest if pair[0] == "h4"]) == len(pairs)
        again = DatasetCard(str(card))
        assert again.data.to_dict() == card.data.to_dict()
        assert set(card.data.to_dict()) <= {
            *(
                "pretty_name",
                "size_categories",
                "task_categories",
                "tags",
                "dataset_info",
                "configs",
                "source_datasets",
            )
        }
        assert len(str(card)) < 40_000
        assert "aaaaaaaa" not in str(card)
        html = MarkdownIt("gfm-like", {"linkify": False}).render(card.text)
        assert "<script" not in html
        links = re.findall('(?:href|src)="([^"]*)"', html)
        assert links == ["https://huggingface.co/papers/2409.17169"]
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", str(card))


def test_text_that_is_in_no_layout_is_shown_as_json(rng):
    rows = {"prompt": [{"a": 1}, {"a": 2}], "chosen": ["x", None], "rejected": ["y", None], "similarity": ["s", "t"]}
    text = create_dataset_card(Dataset.from_dict(rows)).text
    assert '    {"a": 1}' in text
    assert re.findall("^#### .*$", text, re.M) == ["#### 1"]  # a row that was kept without a pair is no example


def test_tool_calls_and_roles_are_shown():
    call = {"type": "function", "function": {"name": "rain", "arguments": "{}"}}
    rows = {
        "prompt": [[{"role": "user\n# x", "content": "Will it rain?"}]],
        "chosen": [[{"role": "assistant", "content": None, "tool_calls": [call]}]],
        "rejected": [[{"role": "assistant", "content": "No.", "tool_calls": None}]],
    }
    text = create_dataset_card(Dataset.from_dict(rows)).text
    assert "    user # x: Will it rain?" in text
    assert '"name": "rain"' in text


def test_the_policy_and_given_pairs_are_not_what_they_are_not(selected):
    pairs, report = selected
    text = create_dataset_card(pairs, report, SelectionConfig(embedder="policy")).text
    assert "The embedder was the policy before training" in text
    given = create_dataset_card(pairs, SelectionReport.of_given_pairs(3), SelectionConfig()).text
    assert "Nothing was selected: all given pairs were kept." in given


def test_the_license_of_another_source_does_not_stay(selected):
    pairs, report = selected
    first = create_dataset_card(pairs, report, CONFIG, source="bob/a", license="mit")
    assert create_dataset_card(pairs, report, CONFIG, source="bob/a", previous=first).data.license == "mit"
    other = create_dataset_card(pairs, report, CONFIG, source="carol/b", previous=first)
    assert other.data.license is None
    assert other.data.source_datasets == ["carol/b"]
    assert "| license | **unknown**" in other.text
    both = create_dataset_card(
        pairs, report, CONFIG, source="carol/b", license="cc0-1.0", config_name="b", previous=first
    )
    assert both.data.license == ["mit", "cc0-1.0"]
    assert both.data.source_datasets == ["bob/a", "carol/b"]
    assert both.text.count("| license | `mit` |") == both.text.count("| license | `cc0-1.0` |") == 1


@pytest.mark.parametrize("damage", ["no end", "no begin", "begin twice", "crlf", "trailing space"])
def test_damaged_marks_lose_nothing_that_people_wrote(damage, selected):
    pairs, report = selected
    card = str(create_dataset_card(pairs, report, CONFIG, license="mit"))
    begin, end = (f"<!-- trl-real: {word} of the selection 'default' -->" for word in ("begin", "end"))
    card = card.replace(end, f"{end}\n\nMINE\n")
    card = {
        "no end": card.replace(end, ""),
        "no begin": card.replace(begin, ""),
        "begin twice": card.replace(
            "# Selected preference pairs", f"# Selected preference pairs\n\n{begin}\n\nMINE TOO"
        ),
        "crlf": card.replace("\n", "\r\n"),
        "trailing space": card.replace("-->", "-->  "),
    }[damage]
    for _ in range(3):
        card = str(create_dataset_card(pairs, report, CONFIG, previous=DatasetCard(card)))
        assert "MINE" in card
        assert ("MINE TOO" in card) == (damage == "begin twice")
        assert "@software{trl_real" in card
        assert "\r" not in card
    assert card.count("## Selection") == (2 if damage in ("no end", "no begin") else 1)


def test_what_else_a_configuration_says_of_itself_stays(selected):
    pairs, report = selected
    card = create_dataset_card(pairs, report, CONFIG, config_name="b")
    card.data["configs"][0]["default"] = True
    again = create_dataset_card(pairs, report, CONFIG, config_name="b", previous=card)
    assert again.data["configs"][0]["default"] is True
    assert again.data["configs"][0]["data_files"] == [{"split": "train", "path": "b/train-*"}]


def test_a_column_may_be_named_like_a_token(selected):
    name = "hf_" + "x" * 34
    card = create_dataset_card(selected[0].rename_column("prompt", name), selected[1], CONFIG)
    assert name in [feature["name"] for feature in card.data["dataset_info"]["features"]]


def test_a_password_of_the_hub_is_not_in_links(selected, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://user:secret@hub.example")
    text = create_dataset_card(*selected, CONFIG, model_id="alice/model").text
    assert "(https://hub.example/alice/model)" in text


def test_local_paths_stay_at_home(selected, tiny_encoder):
    pairs, report = selected
    report.embedder = tiny_encoder
    text = create_dataset_card(pairs, report, SelectionConfig(embedder=tiny_encoder)).text
    assert tiny_encoder not in text
    assert "| embedder | `model`" in text
    assert 'SelectionConfig(embedder="model")' in text


def test_the_source_is_that_which_was_loaded(hub, tmp_path, rng):
    from local_hub import ALICE

    rows = Dataset.from_list(candidate_rows(rng, 6, dim=4))
    commit = rows.push_to_hub("alice/candidates", token=ALICE)
    loaded = load_dataset("alice/candidates", split="train", cache_dir=str(tmp_path))
    pairs, report = select_preferences(loaded)
    assert find_source(pairs) == ("alice/candidates", commit.oid, None)
    card = create_dataset_card(pairs, report)
    assert f'load_dataset("alice/candidates", revision="{commit.oid}", split="train")' in card.text
    commit = rows.push_to_hub("alice/candidates", "en", split="test", token=ALICE)
    loaded = load_dataset("alice/candidates", "en", split="test[:50%]", cache_dir=str(tmp_path))
    card = create_dataset_card(*select_preferences(loaded))
    assert f'load_dataset("alice/candidates", "en", revision="{commit.oid}", split="test[:50%]")' in card.text
    assert "](" in card.text
    assert ", configuration `en`, revision `" in card.text
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(candidate_rows(rng, 1)[0]))
    assert find_source(Dataset.from_json(str(path))) == (None, None, None)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dataset": [1]}, TypeError, "`dataset` must be a `datasets.Dataset` or a `DatasetDict`"),
        ({"dataset": DatasetDict()}, TypeError, "with at least one split, got DatasetDict"),
        ({"report": {"pairs": 3}}, TypeError, "`report` must be a `SelectionReport`, or a dict with one per split"),
        ({"report": "nope"}, TypeError, "`report` must be a `SelectionReport`"),
        ({"config_name": "data"}, ValueError, "`config_name` must be letters, digits"),
        ({"config_name": "a'-->"}, ValueError, "`config_name` must be letters, digits"),
        ({"config": {"strategy": "easy"}}, TypeError, "`config` must be a `SelectionConfig`, got dict"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    pairs = Dataset.from_dict({"prompt": ["p"], "chosen": ["a"], "rejected": ["b"]})
    with pytest.raises(error, match=re.escape(message)):
        create_dataset_card(**{"dataset": pairs, **arguments})


def test_reports_of_unknown_splits(selected):
    pairs, report = selected
    with pytest.raises(ValueError, match=re.escape("splits that `dataset` does not have: ['test']. Found: ['train']")):
        create_dataset_card(pairs, {"test": report})
    with pytest.raises(
        ValueError, match="The name of a split must be words separated by dots, and not 'all', found 'a b'"
    ):
        create_dataset_card(DatasetDict({"a b": pairs}), {"a b": report})
    with pytest.raises(ValueError, match="and not 'all', found 'all'"):
        create_dataset_card(DatasetDict({"all": pairs}))
    with pytest.raises(ValueError, match=re.escape("`dataset` has several splits: ['a', 'b']. Pass a dict")):
        create_dataset_card(DatasetDict({"a": pairs, "b": pairs}), report)


@pytest.mark.parametrize(
    ("model", "named", "shown"),
    [
        ("a/b", "static:a/b", "static, distilled from [a/b]"),
        ("/home/me/secret/model", "static:model", "static, distilled from `model`"),
    ],
)
def test_a_static_embedder_is_named_without_the_path_of_its_model(model, named, shown):
    assert card_parts.options(SelectionConfig(embedder=f"static:{model}"))["embedder"] == named
    report = dataclasses.replace(SelectionReport.of_given_pairs(1), embedder=f"static:{model}")
    assert card_parts._embedder(report).startswith(shown)
