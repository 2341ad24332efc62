"""decoder_lab: attention and decoder models in JAX/Flax, driven by configs. Importing this package imports nothing heavy."""

__version__ = "0.1.0"
