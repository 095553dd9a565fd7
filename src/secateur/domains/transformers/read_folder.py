"""Opens a folder with transformers, as a user without secateur does, and lets it generate."""

import os
import tempfile
from typing import Any

_PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def load(path: str, kind: str, is_remote: bool = False, generated: Any = ()) -> tuple[str, Any]:
    """Open the folder; every tensor must be in it, and none more.

    Args:
        path: The folder.
        kind: The class of transformers that opens it.
        is_remote: Run the code in it.
        generated: Calls of `generate`, as tokens and options, each with the tokens that must come out.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    copies = tempfile.TemporaryDirectory()  # where code of folders is copied to
    os.environ["HF_MODULES_CACHE"] = copies.name
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    opener = getattr(transformers, kind)
    model, told = opener.from_pretrained(path, trust_remote_code=is_remote, output_loading_info=True)
    problems = [f"{name}: {told[name]}" for name in _PROBLEMS if told.get(name)]
    if problems:
        raise SystemExit(f"transformers does not load all of it: {'; '.join(problems)}")
    model = model.eval()
    for tokens, options, expected in generated:
        found = generate(model, tokens, options)
        if found != expected:
            raise SystemExit(f"generate({options}) gives {found}, the model {expected}")
    copies.cleanup()
    return f"transformers {transformers.__version__}", model


def generate(model: Any, tokens: Any, options: Any) -> Any:
    """What a model generates from tokens, as lists of them."""
    import torch

    ids = torch.tensor(tokens)
    with torch.no_grad():
        return model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **options).tolist()
