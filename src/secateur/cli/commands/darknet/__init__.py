"""YOLO and Darknet: train, prune, sweep, detect; .cfg and .weights."""
