"""Normalised text: what is stored is readable, and the word index holds other spellings of its words, too (`mmsearch.plain_text`).

The words of what is there are indexed again from the stored text. The model is not needed: vectors stay as they are.

Revision ID: 0005
"""

import os
from pathlib import Path

from alembic import op
from sqlalchemy import text

from mmsearch.indexing import lexical_name
from mmsearch.plain_text import normalised

revision = "0005"
down_revision = "0004"

BLOCK = 500

# As in revision 0001, with one more column in `words`.
TOKENIZERS = {"words": "porter unicode61 remove_diacritics 2", "trigrams": "trigram"}
COLUMNS = {"words": ("text", "name", "spellings"), "trigrams": ("text", "name")}
EVENTS = {
    "items_added": ("AFTER INSERT ON items WHEN new.visible", "add"),
    "items_shown": ("AFTER UPDATE OF visible ON items WHEN new.visible AND NOT old.visible", "add"),
    "items_hidden": ("AFTER UPDATE OF visible ON items WHEN old.visible AND NOT new.visible", "drop"),
    "items_renamed": ("AFTER UPDATE OF name, text, spellings ON items WHEN old.visible AND new.visible", "drop add"),
    "items_deleted": ("AFTER DELETE ON items WHEN old.visible", "drop"),
}


def upgrade() -> None:
    for name in EVENTS:
        op.execute(f"DROP TRIGGER IF EXISTS {name}")
    for table in COLUMNS:
        op.execute(f"DROP TABLE {table}")
    op.execute("ALTER TABLE items ADD COLUMN spellings TEXT NOT NULL DEFAULT ''")
    _normalise()
    for table, columns in COLUMNS.items():
        names = ", ".join(columns)
        op.execute(
            f"CREATE VIRTUAL TABLE {table} USING fts5("
            f"{names}, content='items', content_rowid='id', tokenize='{TOKENIZERS[table]}')"
        )
        op.execute(f"INSERT INTO {table}(rowid, {names}) SELECT id, {names} FROM items WHERE visible = 1")
    for name, (event, body) in EVENTS.items():
        done = " ".join(_statement(table, what) for table in COLUMNS for what in body.split())
        op.execute(f"CREATE TRIGGER {name} {event} BEGIN {done} END")


def _normalise() -> None:
    connection = op.get_bind()
    roots = [Path(os.fsdecode(path)) for path in connection.execute(text("SELECT path FROM roots")).scalars()]
    after_id = 0
    while True:
        rows = connection.execute(
            text(
                "SELECT i.id, i.text, i.name, s.path FROM items i JOIN sources s ON s.id = i.source_id WHERE i.id > :after"
                " ORDER BY i.id LIMIT :count"
            ),
            {"after": after_id, "count": BLOCK},
        ).all()
        if not rows:
            break
        after_id = rows[-1].id
        changed = []
        for row in rows:
            new, name = normalised(row.text), lexical_name(Path(os.fsdecode(row.path)), roots)
            if (*new, name) != (row.text, "", row.name):
                changed.append({"id": row.id, "text": new.text, "spellings": new.spellings, "name": name})
        if changed:
            connection.execute(
                text("UPDATE items SET text = :text, spellings = :spellings, name = :name WHERE id = :id"), changed
            )


def _statement(table: str, what: str) -> str:
    names = COLUMNS[table]
    row = "new" if what == "add" else "old"
    columns, values = ", ".join(names), ", ".join(f"{row}.{name}" for name in names)
    if what == "add":
        return f"INSERT INTO {table}(rowid, {columns}) VALUES (new.id, {values});"
    return f"INSERT INTO {table}({table}, rowid, {columns}) VALUES ('delete', old.id, {values});"
