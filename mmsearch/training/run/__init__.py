"""A training run: its model, its steps, its saved states, its numbers, and the checkpoint that comes out."""
