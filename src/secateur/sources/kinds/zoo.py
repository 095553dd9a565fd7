"""Models of secateur's own zoo: "zoo:vgg11"."""

from secateur.sources.registry import Arguments, Built, call_factory, sources
from secateur.zoo import models


@sources("zoo")
def zoo(name: str, arguments: Arguments) -> Built:
    """Build a model of the zoo; its input follows `in_channels` and `image_size`."""
    model = call_factory(models[name], f"zoo:{name}", arguments)
    size = int(arguments.get("image_size", 32))
    return Built(model, (1, int(arguments.get("in_channels", 3)), size, size))
