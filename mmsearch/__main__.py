"""`python -m mmsearch` is the `mmsearch` command."""

from mmsearch.cli import main

main()
