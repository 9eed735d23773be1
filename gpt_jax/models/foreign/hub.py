"""Models on the Hugging Face hub, downloaded once into its own cache."""

from collections.abc import Sequence
from pathlib import Path

from gpt_jax.errors import UserError

# Weights, configurations and whatever a tokenizer is made of; never a pickle.
WANTED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]
# Other forms of the same weights, and Mistral's second copy of them.
UNWANTED = ["*/*", "consolidated*"]


def download(name: str, wanted: Sequence[str] = WANTED, unwanted: Sequence[str] = UNWANTED) -> Path:
    """The folder of a model, from the cache where it is there.

    Args:
      name: `ORG/NAME`, or `ORG/NAME@REVISION` for a branch, tag or commit.
      wanted: patterns of its files.
      unwanted: patterns of those that are left out all the same.

    Raises:
      UserError: if the package is missing, or there is no such model, or no way to it.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            "hf: models come by the huggingface_hub package; pip install 'gpt_jax[pretrained]'"
        ) from error
    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"hf:{name} names no model; write hf:ORG/NAME or hf:ORG/NAME@REVISION")
    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=list(wanted),
            ignore_patterns=list(unwanted),
        )
    # Its own errors, those of HTTP and of sockets are many kinds; all are about this download.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"hf:{name} could not be downloaded ({reason[:200]}); see that the name is right and "
            "that you may read it, or give the folder of a model that you have"
        ) from error
    return Path(folder)
