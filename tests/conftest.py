"""What all tests share."""

from __future__ import annotations

import os

# A second pass over every drawn page would slow down each test that ingests; tests/integration/test_print.py turns it on.
os.environ.setdefault("MMSEARCH_OCR", "false")
