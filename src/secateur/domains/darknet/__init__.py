"""Darknet: its files in, an ordinary network, the general engine, its files out (docs/decisions/0008)."""

from secateur.extras import extra, find

with extra("darknet", "detectors"):
    find("PIL", "torchvision")  # modules of this package use parts of both

from secateur.domains.darknet.cfg import CfgSection, Config, bundled_cfgs, parse_cfg, read_cfg, write_cfg
from secateur.domains.darknet.decoding import Decoded, decode
from secateur.domains.darknet.edit import remove_layers, remove_sections
from secateur.domains.darknet.exporting import export, save_darknet
from secateur.domains.darknet.header import Header
from secateur.domains.darknet.heads import Head
from secateur.domains.darknet.names import DataFile, read_data, read_names, write_data, write_names
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.prune import DarknetPruned, prunable_scales, prune_darknet
from secateur.domains.darknet.report import of_detector as of_detector
from secateur.domains.darknet.task import Detection
from secateur.domains.darknet.weights import load_darknet, load_weights, read_header, save_weights

__all__ = [
    "CfgSection",
    "Config",
    "Darknet",
    "DarknetPruned",
    "DataFile",
    "Decoded",
    "Detection",
    "Head",
    "Header",
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
