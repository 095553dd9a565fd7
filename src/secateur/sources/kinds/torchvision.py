"""Models of torchvision without weights: "torchvision:resnet18"."""

import difflib
import inspect

from secateur.errors import RequestError
from secateur.sources.registry import Arguments, Built, call_factory, require_package, sources


@sources("torchvision")
def torchvision(name: str, arguments: Arguments) -> Built:
    """Build a model of torchvision; nothing is downloaded."""
    models = require_package("torchvision.models", "torchvision")
    known = models.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        do = f"did you mean '{near[0]}'?" if near else "see torchvision.models.list_models()"
        raise RequestError(f"torchvision has no model '{name}'", do=do)
    own = inspect.signature(models.get_model_builder(name)).parameters
    values = {one: None for one in ("weights", "weights_backbone") if one in own}
    given = {**values, **arguments}
    model = call_factory(lambda **chosen: models.get_model(name, **chosen), f"torchvision:{name}", given)
    size = 299 if name == "inception_v3" else 224
    return Built(model, (1, 3, size, size))
