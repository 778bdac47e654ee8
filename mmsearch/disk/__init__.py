"""The file system below a library: what a disk refuses, who writes, what is still there, and files that are replaced as a whole."""
