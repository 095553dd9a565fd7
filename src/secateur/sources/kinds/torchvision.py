"""Models of torchvision without weights: "torchvision:resnet18"."""

from secateur.errors import RequestError
from secateur.sources.registry import Arguments, Built, call_factory, require_package, sources


@sources("torchvision")
def torchvision(name: str, arguments: Arguments) -> Built:
    """Build a model of torchvision; nothing is downloaded."""
    models = require_package("torchvision.models", "torchvision")
    if name not in models.list_models():
        raise RequestError(f"torchvision has no model '{name}'", do="see torchvision.models.list_models()")
    given = {"weights": None, **arguments}
    model = call_factory(lambda **chosen: models.get_model(name, **chosen), f"torchvision:{name}", given)
    size = 299 if name == "inception_v3" else 224
    return Built(model, (1, 3, size, size))
