"""The data of a recorded network: axes, equations, nodes. Imports no torch."""
