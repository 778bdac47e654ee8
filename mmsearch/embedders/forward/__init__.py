"""Forward passes: the models' own code, and how inputs become what they read, packed and in batches."""
