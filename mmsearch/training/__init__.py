"""How models are trained. `train` is the loop's beginning: a recipe in, a checkpoint out.

Each wing imports those behind it only: `assembly` (how the shipped checkpoint is put together), `run` (model, steps, states, numbers), `data` (what
a step is given), `datasets` (where pairs come from) and `objective` (what is minimised), `parallel` (processes) and `recipe` (what decides a run).
"""
