"""The model: features and text in, a completion out (MODEL.md).

Import the parts by name (`model.modeling`, `model.processing`, ...): this package itself loads
nothing, so that the command line starts quickly.
"""
