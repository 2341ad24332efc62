"""Weights in the format that the rest of the world runs: directories of `config.json` and `safetensors`, read and written without torch.

A family (`family/<model_type>.py`) says how one architecture is written in the lab's terms, as data that is read in both directions.
"""
