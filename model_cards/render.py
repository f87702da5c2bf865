"""
Render the example cards of this folder, from a fixed run on the package's sample: `make cards`.

    python model_cards/render.py [folder]
"""

import shutil
import sys
import tempfile
from pathlib import Path

import transformers

from trl_real import RealDPOConfig, RealDPOTrainer, create_dataset_card, load_sample


HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "examples"))
from quickstart import TINY_DEFAULTS, build_tiny_model  # noqa: E402


DATASET, MODEL = "your-name/selected-pairs", "your-name/aligned-model"


def main(folder: Path) -> None:
    transformers.logging.set_verbosity_error()
    sample = load_sample()
    parts = sample.train_test_split(0.2, seed=0)
    with tempfile.TemporaryDirectory() as temporary:
        config = RealDPOConfig(
            **TINY_DEFAULTS | {"num_train_epochs": 2},
            output_dir=temporary,
            strategy="easy",
            budget=0.5,
            embedder_dtype="float32",
            eval_strategy="epoch",
            logging_steps=1,
            hub_model_id=MODEL,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        model = str(build_tiny_model(sample, Path(temporary, "tiny-llama")))
        trainer = RealDPOTrainer(model, args=config, train_dataset=parts["train"], eval_dataset=parts["test"])
        trainer.train()
        trainer._pushed_dataset, trainer.hub_model_id = DATASET, MODEL  # as after `push_to_hub`
        trainer.create_model_card(model_name="aligned-model")
        shutil.copy(Path(temporary, "README.md"), folder / "model_card.md")
    report = trainer.selection_report
    (folder / "figures").mkdir(exist_ok=True)
    report.plot(folder / "figures" / "data-train.png")
    card = create_dataset_card(
        trainer.selected_dataset,
        report,
        config,
        repo_id=DATASET,
        source="the sample of trl-real, a random 80% of its 44 prompts",
        license="apache-2.0",
        pretty_name="Example: the most dissimilar pairs of the trl-real sample",
        model_id=MODEL,
        plots={"train": "figures/data-train.png"},
    )
    card.save(folder / "dataset_card.md")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
