"""M-BEIR: 16 instructed retrieval tasks, each over its own pool and over the union of all; run as MMEB-V2 is."""
