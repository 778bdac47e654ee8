"""The first schema: sources, items, vectors, and the lexical index kept in step by triggers.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE models (
    id INTEGER NOT NULL PRIMARY KEY, "key" TEXT NOT NULL UNIQUE, dim INTEGER NOT NULL, name TEXT
);
CREATE TABLE roots (path BLOB NOT NULL PRIMARY KEY, scanned_at FLOAT NOT NULL);
CREATE TABLE sources (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    path BLOB NOT NULL,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    state TEXT NOT NULL,
    replaces INTEGER,
    error_type TEXT,
    error_reason TEXT,
    item_count INTEGER NOT NULL,
    model_key TEXT,
    changed_at FLOAT NOT NULL
);
CREATE UNIQUE INDEX sources_holder ON sources (path) WHERE state IN ('indexed', 'offline');
CREATE UNIQUE INDEX sources_attempt ON sources (path) WHERE state IN ('pending', 'failed');
CREATE INDEX sources_content ON sources (sha256);
CREATE INDEX sources_state ON sources (state);
CREATE TABLE embedded (
    source_id INTEGER NOT NULL REFERENCES sources (id) ON DELETE CASCADE,
    model_id INTEGER NOT NULL REFERENCES models (id) ON DELETE CASCADE,
    PRIMARY KEY (source_id, model_id)
) WITHOUT ROWID;
CREATE TABLE items (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    source_id INTEGER NOT NULL REFERENCES sources (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    visible INTEGER NOT NULL,
    deleted_at FLOAT,
    generation INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    page_number INTEGER,
    start_s FLOAT,
    end_s FLOAT,
    date_s FLOAT NOT NULL,
    preview TEXT,
    meta TEXT NOT NULL,
    name TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE UNIQUE INDEX items_place ON items (source_id, ordinal) WHERE deleted_at IS NULL;
CREATE INDEX items_source ON items (source_id);
CREATE INDEX items_visible ON items (kind, visible, id);
CREATE INDEX items_generation ON items (generation);
CREATE TABLE vectors (
    id INTEGER NOT NULL PRIMARY KEY,
    model_id INTEGER NOT NULL REFERENCES models (id) ON DELETE CASCADE,
    item_id INTEGER NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    generation INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX vectors_item ON vectors (model_id, item_id);
CREATE INDEX vectors_by_item ON vectors (item_id);
CREATE INDEX vectors_generation ON vectors (model_id, generation);
CREATE TABLE calibrations (
    model_id INTEGER NOT NULL REFERENCES models (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    version TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (model_id, kind)
);
INSERT INTO meta VALUES ('generation', '0'), ('id', lower(hex(randomblob(8))));
CREATE VIRTUAL TABLE words USING fts5(
    text, name, content='items', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2'
);
CREATE VIRTUAL TABLE trigrams USING fts5(
    text, name, content='items', content_rowid='id', tokenize='trigram'
);
"""

# The lexical tables hold exactly the visible items, whoever changes them: counts and BM25 stay right, and an item's text
# appears in the same transaction as the item.
ADD = "INSERT INTO {table}(rowid, text, name) VALUES (new.id, new.text, new.name);"
DROP = "INSERT INTO {table}({table}, rowid, text, name) VALUES ('delete', old.id, old.text, old.name);"
TRIGGERS = {
    "items_added": ("AFTER INSERT ON items WHEN new.visible", ADD),
    "items_shown": ("AFTER UPDATE OF visible ON items WHEN new.visible AND NOT old.visible", ADD),
    "items_hidden": ("AFTER UPDATE OF visible ON items WHEN old.visible AND NOT new.visible", DROP),
    "items_renamed": ("AFTER UPDATE OF name, text ON items WHEN old.visible AND new.visible", DROP + ADD),
    "items_deleted": ("AFTER DELETE ON items WHEN old.visible", DROP),
}


def upgrade() -> None:
    for statement in TABLES.split(";"):
        if statement.strip():
            op.execute(statement)
    for name, (event, body) in TRIGGERS.items():
        both = " ".join(body.format(table=table) for table in ("words", "trigrams"))
        op.execute(f"CREATE TRIGGER {name} {event} BEGIN {both} END")
