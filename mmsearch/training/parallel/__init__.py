"""One process or many: rows gathered and gradients averaged between them."""
