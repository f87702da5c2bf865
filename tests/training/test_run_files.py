import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import candidate_rows
from datasets import Dataset
from huggingface_hub import ModelCard
from local_hub import ALICE, ALICE_READS
from peft import LoraConfig

from trl_real import RealDPOConfig, RealDPOTrainer, SelectionReport
from trl_real.cli import main
from trl_real.training import real_dpo_trainer
from trl_real.training.run_files import check_before_work, checkpoint_to_resume


@pytest.fixture
def candidates(rng):
    return Dataset.from_list(candidate_rows(rng, 12))


@pytest.fixture
def options(tmp_path):
    return {
        "output_dir": str(tmp_path / "run"),
        "strategy": "random",
        "max_steps": 2,
        "save_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }


@pytest.fixture
def trainer(options, candidates, tiny_lm):
    return lambda **more: RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options, **more), train_dataset=candidates)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_lm):
    """A folder with two checkpoints."""
    import numpy as np

    folder = tmp_path_factory.mktemp("trained")
    args = RealDPOConfig(
        str(folder), strategy="random", max_steps=2, save_steps=1, report_to="none", use_cpu=True, bf16=False
    )
    rows = Dataset.from_list(candidate_rows(np.random.default_rng(0), 12))
    RealDPOTrainer(tiny_lm, args=args, train_dataset=rows).train()
    return folder


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = {
    "no state": lambda folder: (folder / "trainer_state.json").unlink(),
    "half a state": lambda folder: cut(folder / "trainer_state.json"),
    "empty state": lambda folder: (folder / "trainer_state.json").write_text(""),
    "half the weights": lambda folder: cut(folder / "model.safetensors"),
    "all but the last byte": lambda folder: cut(folder / "model.safetensors", 0.99999),
    "zeros for weights": lambda folder: zero(folder / "model.safetensors"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "half the optimizer": lambda folder: cut(folder / "optimizer.pt"),
    "zeros for the scheduler": lambda folder: zero(folder / "scheduler.pt"),
    "a shard is missing": lambda folder: (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_is_not_complete_is_passed_over(damage, trained, tmp_path, caplog):
    folder = shutil.copytree(trained, tmp_path / "run")
    assert checkpoint_to_resume(True, folder) == str(folder / "checkpoint-2")
    DAMAGES[damage](folder / "checkpoint-2")
    with caplog.at_level(logging.WARNING):
        assert checkpoint_to_resume(True, folder) == str(folder / "checkpoint-1")
    assert f"{folder / 'checkpoint-2'} is not complete and is skipped: " in caplog.text
    with pytest.raises(ValueError, match=r"the checkpoint .*checkpoint-2 is not complete: .* Resume from another one"):
        checkpoint_to_resume(folder / "checkpoint-2", folder)
    shutil.rmtree(folder / "checkpoint-1")
    with pytest.raises(
        ValueError, match=r"there is no checkpoint in .*run\. None of 1 is complete; start again without"
    ):
        checkpoint_to_resume(True, folder)


def test_which_checkpoint_is_the_last(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-10")
    (folder / "checkpoint-99").write_text("no folder")
    (folder / "checkpoint-best").mkdir()
    assert checkpoint_to_resume(True, folder) == str(folder / "checkpoint-10")
    assert checkpoint_to_resume(str(folder / "checkpoint-1"), folder) == str(folder / "checkpoint-1")
    assert [checkpoint_to_resume(nothing, folder) for nothing in (None, False, "")] == [None] * 3
    for missing in (True, str(tmp_path / "nope")):
        with pytest.raises(ValueError, match=r"`resume_from_checkpoint`: there is no checkpoint in .*nope"):
            checkpoint_to_resume(missing, tmp_path / "nope")


def test_training_goes_on_from_the_last_complete_checkpoint(trained, options, tiny_lm, tmp_path, capsys, candidates):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "checkpoint-2" / "trainer_state.json").unlink()
    args = RealDPOConfig(**{**options, "max_steps": 3})
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3
    assert (folder / "checkpoint-2" / "trainer_state.json").is_file()
    (folder / "checkpoint-3" / "trainer_state.json").unlink()
    candidates.to_json(tmp_path / "candidates.jsonl")
    dpo = (
        f"dpo --model_name_or_path {tiny_lm} --data_files {tmp_path}/candidates.jsonl --output_dir {folder} --use_cpu"
    )
    dpo += " --strategy random --bf16 false --report_to none --save_steps 1 --max_steps 3"
    assert main([*dpo.split(), "--resume_from_checkpoint", str(folder / "checkpoint-3")]) == 1
    assert (
        "checkpoint-3 is not complete: trainer_state.json, which is written last, is missing"
        in capsys.readouterr().err
    )
    assert main([*dpo.split(), "--resume_from_checkpoint", "true"]) == 0
    assert json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())["global_step"] == 3


def test_a_report_of_the_users_stays(trainer, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "selection_report.json").write_text("mine")
    monkeypatch.setattr(real_dpo_trainer, "select_on_all_ranks", None)  # before any work
    with pytest.raises(
        FileExistsError, match=r"selection_report\.json is there, but was not written by a run of trl_real"
    ):
        trainer()
    assert (tmp_path / "run" / "selection_report.json").read_text() == "mine"


def test_a_report_of_an_earlier_run_is_replaced(trainer, tmp_path):
    for budget in (5, 3):
        trainer(budget=budget)
        assert SelectionReport.load(tmp_path / "run" / "selection_report.json").pairs == budget
    with open(tmp_path / "run" / "selection_report.json", "a") as file:
        file.write("\n")
    with pytest.raises(FileExistsError, match="was changed after a run of trl_real"):
        trainer(budget=4)


def test_a_card_of_the_users_stays(trainer, tmp_path, caplog):
    path = tmp_path / "run" / "README.md"
    trainer = trainer()
    path.write_text("# Mine\n")
    trainer.create_model_card("name")
    assert path.read_text() == "# Mine\n"
    assert "The model card was not written: FileExistsError: " in caplog.text
    assert "README.md is there, but was not written by a run of trl_real, so it is not replaced" in caplog.text
    path.unlink()
    trainer.create_model_card("name")
    trainer.create_model_card("other")
    assert ModelCard.load(path).data.model_name == "other"
    assert trainer.args.output_dir == str(tmp_path / "run")
    path.write_text(path.read_text() + "\nAnd what I think of it.\n")
    before = path.read_text()
    trainer.train()
    assert path.read_text() == before
    assert Path(trainer.args.output_dir, "checkpoint-2").is_dir()


def test_the_card_that_peft_writes_is_completed_and_that_of_the_user_stays(options, candidates, tiny_lm, tmp_path):
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, fan_in_fan_out=True)
    trainer = RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options), train_dataset=candidates, peft_config=lora)
    path = tmp_path / "run" / "README.md"
    for _ in range(2):
        trainer.save_model()
        trainer.create_model_card("name")
        assert "trl-real" in ModelCard.load(path).data.tags
    trainer.save_model(str(tmp_path / "elsewhere"))
    assert not (tmp_path / "elsewhere" / "_trl_real.json").exists()
    path.write_text("# Mine\n")
    trainer.save_model()
    trainer.create_model_card("name")
    assert path.read_text() == "# Mine\n"


@pytest.mark.parametrize(
    ("names", "token", "message"),
    [
        ({"hub_dataset_id": "bob/pairs"}, ALICE, "Could not push to 'bob/pairs': the token has no write access"),
        ({"hub_dataset_id": "a/b/c"}, ALICE, "`repo_id='a/b/c'` cannot be the name of a repository"),
        ({"hub_model_id": "bob/model"}, ALICE, "Could not push to 'bob/model': the token has no write access"),
        ({}, ALICE_READS, "Could not push to 'run': the token has no write access, because it is read-only"),
    ],
)
def test_a_push_that_would_be_refused_is_named_before_any_work(names, token, message, trainer, hub, monkeypatch):
    monkeypatch.setattr(real_dpo_trainer, "select_on_all_ranks", None)
    with pytest.raises((PermissionError, ValueError), match=message):
        trainer(push_to_hub=True, hub_token=token, **names)
    assert not hub.repos


def test_a_model_is_pushed_whatever_happens_to_its_pairs(trainer, hub, capsys):
    trainer = trainer(hub_model_id="alice/aligned", hub_dataset_id="bob/pairs", hub_token=ALICE)
    with pytest.raises(PermissionError, match="Could not push to 'bob/pairs': the token has no write access") as error:
        trainer.push_to_hub()
    assert error.value.__notes__ == ["The model was pushed to 'alice/aligned' without its pairs."]
    assert set(hub.repos) == {("model", "alice/aligned")}
    files = hub.repos["model", "alice/aligned"].files()
    assert {"model.safetensors", "README.md", "selection_report.json"} <= set(files)
    assert not [name for name in files if "trl_real" in name]
    assert b"bob/pairs" not in files["README.md"]


@pytest.mark.parametrize("path", ["file", "file/out"])
def test_the_folder_of_a_trainer_is_checked_before_any_work(path, tmp_path, tiny_lm, capsys, candidates, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("of a user")
    candidates.to_json("candidates.jsonl")
    dpo = (
        f"dpo --model_name_or_path {tiny_lm} --data_files candidates.jsonl --output_dir {path} --use_cpu --bf16 false"
    )
    monkeypatch.setattr("trl_real.cli.dpo.load_files", None)
    assert main([*dpo.split(), "--report_to", "none"]) == 1
    assert "`output_dir`: file" in (error := capsys.readouterr().err)
    assert "is a file, not a folder. Choose another `output_dir`." in error


RUN = """
import sys
from trl_real.cli import main
sys.exit(main(["dpo", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_two_dpo_in_one_folder_give_one_model_and_one_error(tmp_path, tiny_lm, tiny_encoder, candidates):
    candidates.to_json(tmp_path / "candidates.jsonl")
    dpo = f"--model_name_or_path {tiny_lm} --data_files {tmp_path}/candidates.jsonl --output_dir {tmp_path}/out --use_cpu"
    dpo += f" --bf16 false --report_to none --max_steps 3 --embedder {tiny_encoder}"
    runs = [
        subprocess.Popen([sys.executable, "-c", RUN, *dpo.split()], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [run.communicate(timeout=300)[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 1]
    (error,) = [line for text in errors for line in text.splitlines() if line.startswith("trl-real: error:")]
    assert error.endswith(
        f"Another run is writing to {tmp_path}/out. Wait until it ends, or choose another `output_dir`."
    )
    assert {"model.safetensors", "README.md", "selection_report.json"} <= set(os.listdir(tmp_path / "out"))


@pytest.mark.parametrize(("bf16", "native"), [(True, False), (True, True), (False, False)])
def test_a_precision_that_the_cpu_emulates_is_named(bf16, native, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native}, raising=False)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    check_before_work(RealDPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=bf16, report_to="none"))
    assert ("This CPU has no units for bfloat16" in caplog.text) == (bf16 and not native)
