"""Where models come from: a word such as "zoo:vgg19" becomes a module, or a saved folder does.

zoo:vgg19   torchvision:resnet18   timm:vit_tiny_patch16_224   hf:<config folder>
ultralytics:yolo11n.yaml   path/to/file.py:factory   a folder that secateur saved
"""

from secateur.sources.open import Opened, build, open_model, split_word
from secateur.sources.registry import Built, sources

__all__ = ["Built", "Opened", "build", "open_model", "sources", "split_word"]
