"""Sweep: how sensitive a network is to what is taken from it, by masks, before anything is cut."""

from secateur.sweep.blocks import BlockRow, BlockSweep, block_sweep
from secateur.sweep.channels import ChannelSweep, SweepRow, channel_sweep
from secateur.sweep.cluster import RayEngine
from secateur.sweep.curves import Curves, Point, sensitivity
from secateur.sweep.engine import Engine, Job, LocalEngine
from secateur.sweep.forks import Counts, Forks
from secateur.sweep.maps import FeatureMaps, feature_maps

__all__ = [
    "BlockRow",
    "BlockSweep",
    "ChannelSweep",
    "Counts",
    "Curves",
    "Engine",
    "FeatureMaps",
    "Forks",
    "Job",
    "LocalEngine",
    "Point",
    "RayEngine",
    "SweepRow",
    "block_sweep",
    "channel_sweep",
    "feature_maps",
    "sensitivity",
]
