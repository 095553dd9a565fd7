"""Network slimming from end to end, for any task: train dense and sparse, prune, recover, fine-tune."""

from secateur.slimming.run import SlimConfig, Slimmed, Stage, outlook, slim

__all__ = ["SlimConfig", "Slimmed", "Stage", "outlook", "slim"]
