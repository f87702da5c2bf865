import copy
import pickle
import re

import pytest
from conftest import HashEmbedder
from transformers import HfArgumentParser
from trl import DPOConfig, TrlParser

from trl_real import RealDPOConfig, SelectionConfig


def test_one_flat_set_of_flags(tmp_path):
    flags = f"--output_dir {tmp_path} --strategy centroid --budget 0.35 --beta 0.2 --loss_type ipo --report_to none --use_cpu"
    for parser in (HfArgumentParser(RealDPOConfig), TrlParser(RealDPOConfig)):
        (config,) = parser.parse_args_into_dataclasses(flags.split())
        assert (config.strategy, config.budget, config.beta, config.loss_type) == ("centroid", 0.35, 0.2, ["ipo"])


def test_yaml(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        f"output_dir: {tmp_path}\nstrategy: hard\nbudget: 500\nbeta: 0.5\nuse_cpu: true\n"
    )
    (config,) = TrlParser(RealDPOConfig).parse_args_and_config(["--config", str(tmp_path / "recipe.yaml")])
    assert (config.strategy, config.budget, config.beta) == ("hard", 500, 0.5)


def test_has_all_of_both_parents_and_their_checks(tmp_path):
    config = RealDPOConfig(str(tmp_path), loss_type="ipo", use_cpu=True)
    assert config.loss_type == ["ipo"]  # what DPOConfig makes of it
    assert isinstance(config, DPOConfig)
    assert isinstance(config, SelectionConfig)
    assert RealDPOConfig.__dataclass_fields__.keys() >= {
        *DPOConfig.__dataclass_fields__,
        *SelectionConfig.__dataclass_fields__,
    }
    for options, message in (
        ({"strategy": "best"}, "`strategy` must be one of"),
        ({"eval_selection_strategy": "best"}, "`eval_selection_strategy` must be one of"),
        ({"loss_type": ["ipo", "sigmoid"], "loss_weights": [1.0]}, "`loss_weights` must have the same length"),
        (
            {"on_skip": "keep"},
            "`on_skip='keep'` keeps rows without a pair, which cannot be used for training. Use 'drop'.",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            RealDPOConfig(str(tmp_path), use_cpu=True, **options)


def test_an_embedder_object_is_written_by_name(tmp_path):
    embedder = HashEmbedder()
    config = RealDPOConfig(str(tmp_path), embedder=embedder, use_cpu=True)
    assert config.embedder is embedder
    assert config.to_dict()["embedder"] == "HashEmbedder"
    assert '"embedder": "HashEmbedder"' in config.to_json_string()
    assert pickle.loads(pickle.dumps(config)).embedder == "HashEmbedder"
    for twin in (copy.copy(config), copy.deepcopy(config)):
        assert twin.embedder is embedder
        assert twin.to_dict() == config.to_dict()
    assert copy.deepcopy(config).loss_type is not config.loss_type
