"""Networks that the Darknet tests share."""

import torch
from torch import nn

from secateur.domains.darknet import parse_cfg


def randomise(model, seed=0):
    """Statistics as a trained network may have them: default ones hide half of a batch norm."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                size = norm.num_features
                norm.weight.copy_(torch.rand(size, generator=generator) + 0.5)
                norm.bias.copy_(torch.randn(size, generator=generator) * 0.3)
                norm.running_mean.copy_(torch.randn(size, generator=generator) * 0.3)
                norm.running_var.copy_(torch.rand(size, generator=generator) + 0.5)
    return model.eval()


def net(*layers, side=32):
    """A cfg of some layers, then a head of one anchor and one class."""
    texts = [f"[net]\nwidth={side}\nheight={side}\nchannels=3\n", *layers]
    texts.append("[convolutional]\nfilters=6\nsize=1\nstride=1\npad=1\nactivation=linear\n")
    texts.append("[yolo]\nmask=0\nanchors=10,10\nnum=1\nclasses=1\n")
    return parse_cfg("".join(texts), "net.cfg")


def conv(filters, size=3, **more):
    options = "".join(f"{key}={value}\n" for key, value in more.items())
    activation = "" if "activation" in more else "activation=leaky\n"
    return f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize={size}\npad=1\n{activation}{options}"
