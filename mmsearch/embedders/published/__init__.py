"""Published models: the table of those that mmsearch knows by name, and what a model's card says of it."""
