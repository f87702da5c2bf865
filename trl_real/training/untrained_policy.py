"""The policy before training as an embedder, for the selection and for evaluations during training."""

from typing import Any

from peft import PeftModel
from trl import DPOConfig, DPOTrainer

from ..embedding.policy import PolicyEmbedder, base_parameters
from .real_dpo_config import selection_of


def policy_of(given: dict[str, Any], config: DPOConfig) -> PolicyEmbedder:
    """The model to be trained as an embedder. It is loaded only when it is used."""
    selection, init_kwargs = selection_of(config), dict(config.model_init_kwargs or {})
    if given.get("quantization_config") is not None:
        init_kwargs["quantization_config"] = given["quantization_config"]
    init_kwargs.setdefault("trust_remote_code", getattr(config, "trust_remote_code", False))
    if config.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        init_kwargs["device_map"] = None
    return PolicyEmbedder(
        given["model"],
        given.get("processing_class"),
        selection.embedder_max_length,
        selection.embedder_batch_size,
        init_kwargs,
    )


def untrained_policy(trainer: DPOTrainer, given: dict[str, Any], policy: PolicyEmbedder) -> PolicyEmbedder | None:
    """The policy before training, for later evaluations; `None` if training changes its weights."""
    if isinstance(trainer.model, PeftModel) and not any(w.requires_grad for _, w in base_parameters(trainer.model)):
        return PolicyEmbedder(trainer.model, *policy.options)
    if isinstance(given["model"], str):
        return policy  # it can be loaded again
    # The reference model that TRL creates may be a copy of the policy before training.
    if given.get("ref_model") is None and trainer.ref_model is not None and not trainer.args.sync_ref_model:
        reference = PolicyEmbedder(trainer.ref_model, *policy.options)
        if selection_of(trainer.args).embedder == "policy" and reference.fingerprint() == policy.fingerprint():
            return reference
    return None
