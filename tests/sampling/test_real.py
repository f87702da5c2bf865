"""The pretrained model of `make offline-lm`: `make test-real` runs these, in about the time that their comments say."""

import os

import pytest
from datasets import Dataset

from trl_real import generate_responses


@pytest.fixture
def real_lm():
    folder = os.environ.get("TRL_REAL_LM")
    if not folder:
        pytest.skip("needs the folder of the pretrained model in TRL_REAL_LM: run `make test-real`")
    return folder


@pytest.mark.real
@pytest.mark.slow
def test_it_answers_and_other_batches_answer_the_same(real_lm, tmp_path):
    prompts = Dataset.from_dict({"prompt": ["What is the capital of France?", "Say hello.", "What is 2 + 3?"]})
    options = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 24, "dtype": "float32"}
    candidates, one_by_one = (
        generate_responses(prompts, real_lm, n=2, batch_size=size, resume_from=tmp_path / f"{size}.jsonl", **options)
        for size in (6, 1)
    )
    assert candidates["responses"][:] == one_by_one["responses"][:]
    assert any("Paris" in response for response in candidates["responses"][0])
