"""Judged queries of one's own library: which items answer them, how well the application finds those, and whether a change helped.

`queries` and `places` read the file, `adding` grows it, `run` asks the library, `scores` says how good that was, `comparison` puts two
runs side by side.
"""
