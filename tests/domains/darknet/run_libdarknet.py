"""Run a network in Debian's libdarknet, which ends its process on any error: hence a process of its own.

    python run_libdarknet.py net.cfg net.weights images.npy out.npz layer [layer ...]

Writes what the named layers put out, as (batch, channels, rows, columns). With a photo instead of images.npy,
the photo is read and letterboxed by Darknet, and is in the output as "images".
"""

import ctypes
import sys
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_void_p

import numpy as np

LIBRARY = "/usr/lib/darknet/libdarknet.so"


class Image(Structure):
    _fields_ = (("w", c_int), ("h", c_int), ("c", c_int), ("data", POINTER(c_float)))


def opened() -> ctypes.CDLL:
    library = ctypes.CDLL(LIBRARY)
    library.load_network.restype = c_void_p
    library.load_network.argtypes = (c_char_p, c_char_p, c_int)
    library.set_batch_network.argtypes = (c_void_p, c_int)
    library.network_predict.argtypes = (c_void_p, POINTER(c_float))
    library.network_predict.restype = POINTER(c_float)
    library.network_width.argtypes = library.network_height.argtypes = (c_void_p,)
    library.get_network_image_layer.argtypes = (c_void_p, c_int)
    library.load_image_color.argtypes = (c_char_p, c_int, c_int)
    library.letterbox_image.argtypes = (Image, c_int, c_int)
    library.save_weights.argtypes = (c_void_p, c_char_p)
    for name in ("get_network_image_layer", "load_image_color", "letterbox_image"):
        getattr(library, name).restype = Image
    return library


def values(image: Image) -> np.ndarray:
    shape = (image.c, image.h, image.w)
    return np.ctypeslib.as_array(image.data, (int(np.prod(shape)),)).reshape(shape).copy()


def main(cfg: str, weights: str, images: str, out: str, *layers: str) -> None:
    library = opened()
    network = library.load_network(cfg.encode(), weights.encode(), 0)
    library.set_batch_network(network, 1)
    size = library.network_width(network), library.network_height(network)
    if images.endswith(".npy"):
        batch = np.load(images)
    else:
        batch = values(library.letterbox_image(library.load_image_color(images.encode(), 0, 0), *size))[None]
    assert batch.shape[2:] == size[::-1], (batch.shape, size)
    found: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}
    for image in np.ascontiguousarray(batch, np.float32):
        library.network_predict(network, image.ctypes.data_as(POINTER(c_float)))
        for layer in layers:
            found[layer].append(values(library.get_network_image_layer(network, int(layer))))
    np.savez(out, images=batch, **{layer: np.stack(maps) for layer, maps in found.items()})
    library.save_weights(network, f"{out}.weights".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
