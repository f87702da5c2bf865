"""`trl-real generate`: candidates from prompts."""

from dataclasses import dataclass, field

from ..core.output_folder import OutputFolder
from ..sampling.generate import BACKENDS, sample_candidates
from ..sampling.options import SamplingOptions
from .arguments import DATA_FILES, parse, paths_in
from .data_files import load_files
from .errors import users_mistakes
from .pairs_file import write_pairs


LOG = "generate_log.jsonl"
# Of these one is written: JSON does not hold every column.
CANDIDATES = ("candidates.jsonl", "candidates.parquet")


@dataclass
class GenerateArguments:
    """
    Arguments of `trl-real generate`: those of [`generate_responses`], and where prompts come from and candidates go.

    Parameters:
        model (`list[str]`):
            The models, by Hub id or path; with `base_url` their names there.
        dataset_name (`str`, *optional*):
            Dataset to load, as an id of the Hub or a folder.
        data_files (`list[str]`, *optional*):
            Local files instead: JSON, JSONL, CSV, Parquet or Arrow, perhaps compressed.
        dataset_config (`str`, *optional*):
            Configuration of the dataset.
        dataset_train_split (`str`, *optional*, defaults to `"train"`):
            The split with the prompts.
        prompt_column (`str`, *optional*, defaults to `"prompt"`):
            The column of the prompts.
        output_dir (`str`, *optional*, defaults to `"sampled"`):
            The folder that `candidates.jsonl` is written to, and the log that a killed run goes on from.
        n, backend, base_url, api_key_env, temperature, top_p, max_new_tokens, system_prompt, seed, batch_size, dtype, concurrency:
            See [`generate_responses`].
    """

    model: list[str] | None = field(
        default=None,
        metadata={
            "help": "Models to sample from, as Hub ids or paths; with --base_url their names there.",
            "aliases": ["--model_name_or_path"],  # as TRL has it
        },
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Dataset to load, as an id of the Hub or a folder."}
    )
    data_files: list[str] | None = field(default=None, metadata={"help": DATA_FILES})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split with the prompts."})
    prompt_column: str = field(default="prompt", metadata={"help": "Column of the prompts."})
    output_dir: str = field(default="sampled", metadata={"help": "Folder for candidates.jsonl and the log."})
    n: int = field(default=4, metadata={"help": "Responses to sample to each prompt, from each model."})
    backend: str = field(
        default="transformers", metadata={"help": "What runs a model on this machine.", "choices": list(BACKENDS)}
    )
    base_url: str | None = field(
        default=None, metadata={"help": "URL of an OpenAI-compatible server, such as http://localhost:8000/v1."}
    )
    api_key_env: str = field(
        default="OPENAI_API_KEY", metadata={"help": "Environment variable with the key for --base_url."}
    )
    temperature: float = field(default=1.0, metadata={"help": "What logits are divided by."})
    top_p: float = field(default=1.0, metadata={"help": "Probability of the tokens to sample among."})
    max_new_tokens: int = field(default=256, metadata={"help": "The most tokens that a response may have."})
    system_prompt: str | None = field(default=None, metadata={"help": "What the model is told first."})
    seed: int = field(default=0, metadata={"help": "Seed of the samples."})
    batch_size: int = field(default=16, metadata={"help": "Responses that Transformers samples at once."})
    dtype: str = field(
        default="auto",
        metadata={"help": "Precision; 'auto' is bfloat16 where the hardware has it, float32 elsewhere."},
    )
    concurrency: int = field(default=8, metadata={"help": "Requests to --base_url that are under way at a time."})


def generate(argv: list[str]) -> None:
    """Sample responses to prompts and write the candidates to a folder."""
    (arguments,) = parse("generate", (GenerateArguments,), argv)
    folder = OutputFolder(arguments.output_dir)
    with users_mistakes(), folder.locked():
        folder.check(CANDIDATES, paths_in(arguments.data_files, arguments.dataset_name))
        if not arguments.model:
            raise ValueError("`--model` is required: the model to sample from.")
        options = SamplingOptions(
            *(getattr(arguments, name) for name in ("temperature", "top_p", "max_new_tokens", "system_prompt", "seed"))
        )
        files = {arguments.dataset_train_split: arguments.data_files}
        dataset = load_files(arguments.dataset_name, arguments.dataset_config, files, streaming=False)
        prompts = dataset[arguments.dataset_train_split]
        if arguments.prompt_column != "prompt":
            if arguments.prompt_column not in prompts.column_names:
                raise ValueError(
                    f"`--prompt_column {arguments.prompt_column}`: there is no such column. Found: {prompts.column_names}."
                )
            prompts = prompts.rename_column(arguments.prompt_column, "prompt")
        how = ("backend", "base_url", "api_key_env", "batch_size", "dtype", "concurrency")
        candidates, counts = sample_candidates(
            prompts,
            arguments.model,
            arguments.n,
            options,
            folder.path / LOG,
            **{name: getattr(arguments, name) for name in how},
        )
        with folder.replacing(CANDIDATES) as stage:
            note = write_pairs(candidates, stage, "candidates")
            written = ", ".join(path.name for path in stage.iterdir())
    print(counts, *counts.warnings(), *([note] if note else []), sep="\n")
    print(f"Written to {folder.path}: {written}.")
