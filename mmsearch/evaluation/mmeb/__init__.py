"""MMEB-V2: 78 tasks over images, videos and documents, as data; their loaders, encoding, scoring and reports."""
