"""Image classification: data sets by name or of the user's own, in three parts, as batches; and the task.

`load("fashion-mnist")` reads the data set, splits its training data into training and validation by a seed,
and normalises with the statistics of the training part; so does `load("./mydata")` with a folder of images.
"""

from secateur.domains.classification.by_name import load
from secateur.domains.classification.images import DataSpec, Images, Splits
from secateur.domains.classification.known import datasets
from secateur.domains.classification.task import Classification, ConfusionMeter

__all__ = ["Classification", "ConfusionMeter", "DataSpec", "Images", "Splits", "datasets", "load"]
