"""Darknet: its files in, an ordinary network, the general engine, its files out (docs/decisions/0008)."""

from secateur.domains.darknet.cfg import Config, Section, bundled_cfgs, parse_cfg, read_cfg, write_cfg
from secateur.domains.darknet.decoding import Decoded, decode
from secateur.domains.darknet.edit import remove_layers, remove_sections
from secateur.domains.darknet.exporting import export, save_darknet
from secateur.domains.darknet.header import Header
from secateur.domains.darknet.heads import Head
from secateur.domains.darknet.names import DataFile, read_data, read_names, write_data, write_names
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.prune import DarknetPruned, prunable_scales, prune_darknet
from secateur.domains.darknet.weights import load_darknet, load_weights, read_header, save_weights

__all__ = [
    "Config",
    "Darknet",
    "DarknetPruned",
    "DataFile",
    "Decoded",
    "Head",
    "Header",
    "Section",
    "bundled_cfgs",
    "decode",
    "export",
    "load_darknet",
    "load_weights",
    "parse_cfg",
    "prunable_scales",
    "prune_darknet",
    "read_cfg",
    "read_data",
    "read_header",
    "read_names",
    "remove_layers",
    "remove_sections",
    "save_darknet",
    "save_weights",
    "write_cfg",
    "write_data",
    "write_names",
]
