"""What a training step is given: pairs mixed from their data sets, groups of teacher vectors, and pictures made for them."""
