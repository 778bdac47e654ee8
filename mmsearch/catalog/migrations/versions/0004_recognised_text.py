"""Recognised print: a source of text of its own, kept by content, and where each item's text comes from.

What is there already has its text from a text layer or from subtitles. `has_print` stays NULL: the next ingest looks which pages and
pictures show print that was never read.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = """
ALTER TABLE items ADD COLUMN text_source TEXT;
ALTER TABLE items ADD COLUMN has_print INTEGER;
UPDATE items SET text_source = CASE kind WHEN 'clip' THEN 'subtitle' ELSE 'layer' END WHERE text != '';
CREATE TABLE recognised (
    id INTEGER NOT NULL PRIMARY KEY,
    sha256 TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    engine TEXT NOT NULL,
    version TEXT NOT NULL,
    languages TEXT NOT NULL,
    preferred TEXT NOT NULL,
    text TEXT NOT NULL,
    lines BLOB NOT NULL,
    error_type TEXT,
    error_reason TEXT,
    read_at FLOAT NOT NULL
);
CREATE UNIQUE INDEX recognised_once ON recognised (sha256, ordinal, engine, version, languages);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";"):
        if statement.strip():
            op.execute(statement)
