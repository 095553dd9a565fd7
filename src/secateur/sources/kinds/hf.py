"""Models of transformers from a folder with a config.json: "hf:path/to/config"."""

from pathlib import Path

from secateur.errors import RequestError
from secateur.sources.registry import Arguments, Built, call_factory, require_package, sources


@sources("hf")
def hf(folder: str, arguments: Arguments) -> Built:
    """Build an architecture from its configuration; weights are not read and nothing is downloaded."""
    package = require_package("transformers", "transformers")
    if not Path(folder, "config.json").is_file():
        raise RequestError(f"{folder} holds no config.json", do="pass a folder with a model's config.json")
    config = package.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return Built(
        call_factory(lambda **given: package.AutoModel.from_config(config, **given), folder, arguments)
    )
