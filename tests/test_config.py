import dataclasses
import inspect
import json
import math
import re

import numpy as np
import pytest
import yaml
from conftest import candidate_rows
from datasets import Dataset
from transformers import HfArgumentParser

from trl_real import (
    PreferenceDiversity,
    RealDPOConfig,
    SelectionConfig,
    embed_responses,
    label_reliability,
    real_select,
    select_budget,
)
from trl_real.selection.preferences import pick_stage
from trl_real.strategies import STRATEGIES


def test_every_field_has_help_and_a_documented_default():
    for field in dataclasses.fields(SelectionConfig):
        assert field.metadata["help"].endswith((".", "'.")), field.name
        assert f"        {field.name} (" in SelectionConfig.__doc__, field.name


def test_flags_are_parsed():
    (config,) = HfArgumentParser(SelectionConfig).parse_args_into_dataclasses(
        [
            "--strategy",
            "hard",
            "--budget",
            "500",
            "--embedder_max_length",
            "128",
            "--pairs_per_prompt",
            "2",
            "--min_score_gap",
            "0.5",
        ]
    )
    assert config.strategy == "hard"
    assert config.budget == 500
    assert isinstance(config.budget, int)
    assert (config.embedder_max_length, config.pairs_per_prompt, config.min_score_gap) == (128, 2, 0.5)


@pytest.mark.parametrize(("given", "kept"), [(None, None), (0.35, 0.35), (500.0, 500), (1, 1), (np.int64(3), 3)])
def test_budget_is_a_share_or_a_count(given, kept):
    budget = SelectionConfig(budget=given).budget
    assert budget == kept
    assert type(budget) is type(kept)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strategy": "eazy"}, ValueError, f"`strategy` must be one of {list(STRATEGIES)}, got 'eazy'"),
        ({"strategy_kwargs": {"tau": 1}}, ValueError, "`strategy_kwargs` for strategy 'easy' may hold nothing, got ['tau']"),
        ({"strategy_kwargs": "{tau"}, ValueError, "`strategy_kwargs` must be JSON, got '{tau'"),
        ({"strategy_kwargs": "[1]"}, TypeError, "`strategy_kwargs` must be a dict, got [1]"),
        ({"embedder": 3}, TypeError, "`embedder` must be a model id, a local path or an object with a method `encode"),
        ({"embedder_dtype": "int8"}, ValueError, "`embedder_dtype` must be one of ['auto', 'float32'"),
        ({"embedder_max_length": 0}, ValueError, "`embedder_max_length` must be a whole number of at least 1, got 0"),
        ({"pairs_per_prompt": 1.5}, ValueError, "`pairs_per_prompt` must be a whole number of at least 1, got 1.5"),
        ({"max_pairs_per_response": 0}, ValueError, "`max_pairs_per_response` must be a whole number of at least 1, got 0"),
        ({"min_score_gap": -1.0}, ValueError, "`min_score_gap` must be a number of at least 0, got -1.0"),
        ({"min_score_gap": math.nan}, ValueError, "`min_score_gap` must be a number of at least 0, got nan"),
        ({"min_score_gap": "0.1"}, ValueError, "`min_score_gap` must be a number of at least 0, got '0.1'"),
        ({"strategy": ["easy"]}, ValueError, "`strategy` must be one of"),
        ({"selection_seed": -1}, ValueError, "`selection_seed` must be a whole number of at least 0, got -1"),
        ({"selection_seed": None}, ValueError, "`selection_seed` must be a whole number of at least 0, got None"),
        ({"on_skip": "warn"}, ValueError, "`on_skip` must be one of ['drop', 'keep', 'error'], got 'warn'"),
        ({"budget": 1.0}, ValueError, "`budget=1.0` could mean one pair or all of them"),
        ({"budget": 0}, ValueError, "`budget` must be a share between 0 and 1 or a whole number, got 0"),
        ({"budget": 2.5}, ValueError, "`budget` must be a share between 0 and 1 or a whole number, got 2.5"),
        ({"budget": math.nan}, ValueError, "`budget` must be a share between 0 and 1"),
        ({"budget": math.inf}, ValueError, "`budget` must be a share between 0 and 1"),
        ({"budget": "half"}, TypeError, "`budget` must be a share (float below 1) or a count (int), got 'half'"),
        ({"budget": 5, "on_skip": "keep"}, ValueError, "A budget cannot be combined with `on_skip='keep'`"),
        (
            {"budget_strategy": "random"},
            ValueError,
            "`budget_strategy='random'` ranks pairs for a `budget`, but no budget is set. Set both.",
        ),
        ({"budget_strategy": "best", "budget": 5}, ValueError, "`budget_strategy` must be one of ['easy', "),
        ({"budget_cost": "tokens"}, ValueError, "`budget_cost='tokens'` is the unit of a `budget`, but no budget is set."),
        ({"budget_cost": 3, "budget": 5}, TypeError, "`budget_cost` must be a str, got 3."),
        ({"budget_min_distance": "far"}, ValueError, "`budget_min_distance` must be a number from 0 to 2, got 'far'."),
    ],
)  # fmt: skip
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        SelectionConfig(**options)


def keyword_defaults(function):
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def test_functions_take_knobs_under_the_names_and_with_the_defaults_of_the_config():
    """Each option of the selection is declared once, and written once more in the signature of the function that uses it."""
    declared = {field.name: field.default for field in dataclasses.fields(SelectionConfig)}
    used = keyword_defaults(real_select) | keyword_defaults(embed_responses) | {"rank": None}
    own = {"embeddings_dtype", "rank"}
    assert {name: default for name, default in used.items() if name not in own} == {
        name: default for name, default in declared.items() if not name.startswith("budget")
    }
    budget = {
        "budget": "budget",
        "budget_strategy": "strategy",
        "budget_cost": "cost",
        "budget_min_distance": "min_distance",
    }
    assert {name for name in declared if name.startswith("budget")} == set(budget)
    assert set(budget.values()) <= set(inspect.signature(select_budget).parameters)
    for function in (label_reliability, PreferenceDiversity.__init__):
        taken = {name: d for name, d in keyword_defaults(function).items() if name.startswith("embedder")}
        assert taken == {name: d for name, d in declared.items() if name.startswith("embedder")}


CHANGED = {
    "strategy": "aepo",
    "embedder": "all-MiniLM-L6-v2",
    "embedder_max_length": 7,
    "embedder_batch_size": 3,
    "embedder_dtype": "bfloat16",
    "strategy_kwargs": {"lambda_": 2.0},
    "pairs_per_prompt": 2,
    "max_pairs_per_response": 1,
    "min_score_gap": 0.5,
    "budget": 3,
    "budget_strategy": "random",
    "budget_cost": "characters",
    "budget_min_distance": 0.1,
    "on_skip": "error",
    "selection_seed": 5,
}


def test_every_knob_reaches_the_command_line_recipes_and_cards(tmp_path):
    from trl_real.cli.arguments import SelectArguments, parse
    from trl_real.hub.card_parts import options_yaml

    assert set(CHANGED) == {field.name for field in dataclasses.fields(SelectionConfig)}
    expected = SelectionConfig(**CHANGED)
    flags = [text for name, value in CHANGED.items() for text in (f"--{name}", json.dumps(value).strip('"'))]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(CHANGED))
    for arguments in (flags, ["--config", str(tmp_path / "recipe.yaml")]):
        _, config = parse("select", (SelectArguments, SelectionConfig), arguments)
        assert config == expected
    assert yaml.safe_load(options_yaml(expected)) == {**CHANGED, "embedder": "all-MiniLM-L6-v2"}
    assert (
        RealDPOConfig(**CHANGED, output_dir=str(tmp_path), use_cpu=True, bf16=False).to_dict().items()
        >= CHANGED.items()
    )


@pytest.mark.parametrize(
    "knob",
    ["strategy", "strategy_kwargs", "pairs_per_prompt", "max_pairs_per_response", "min_score_gap", "selection_seed"],
)
def test_every_knob_of_the_picks_enters_the_fingerprint(knob, rng, tmp_path):
    """Those of the embedder are in its identity, and those of the budget are applied anew."""
    Dataset.from_list(candidate_rows(rng, 8, (4, 4), dim=4)).save_to_disk(tmp_path)
    data = Dataset.load_from_disk(tmp_path)
    base = {"strategy": "aepo"}
    before, again, other = (
        pick_stage(data, SelectionConfig(**options))[0]._fingerprint
        for options in (base, base, {**base, knob: CHANGED[knob] if knob != "strategy" else "easy"})
    )
    assert before == again != other
