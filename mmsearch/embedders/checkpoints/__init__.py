"""Checkpoints: finding a model's folder, reading its files, opening it on a device, naming its vectors, writing it."""
