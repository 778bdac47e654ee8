"""Normalised text: what is stored is readable, and the word index holds other spellings of its words, too (`mmsearch.plain_text`).

The words of what is there are indexed again from the stored text. The model is not needed: vectors stay as they are.

Revision ID: 0005
"""

from alembic import op

from mmsearch.catalog.names import normalise_items

revision = "0005"
down_revision = "0004"

TAKE_AWAY = """
DROP TRIGGER IF EXISTS items_added

DROP TRIGGER IF EXISTS items_shown

DROP TRIGGER IF EXISTS items_hidden

DROP TRIGGER IF EXISTS items_renamed

DROP TRIGGER IF EXISTS items_deleted

DROP TABLE IF EXISTS words

DROP TABLE IF EXISTS trigrams

ALTER TABLE items ADD COLUMN spellings TEXT NOT NULL DEFAULT ''
"""

# As in revision 0001, with one more column in `words`.
BUILD = """
CREATE VIRTUAL TABLE words USING fts5(
    text, name, spellings, content='items', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2'
)

CREATE VIRTUAL TABLE trigrams USING fts5(
    text, name, content='items', content_rowid='id', tokenize='trigram'
)

INSERT INTO words(rowid, text, name, spellings) SELECT id, text, name, spellings FROM items WHERE visible = 1

INSERT INTO trigrams(rowid, text, name) SELECT id, text, name FROM items WHERE visible = 1

CREATE TRIGGER items_added AFTER INSERT ON items WHEN new.visible BEGIN {add} END

CREATE TRIGGER items_shown AFTER UPDATE OF visible ON items WHEN new.visible AND NOT old.visible BEGIN {add} END

CREATE TRIGGER items_hidden AFTER UPDATE OF visible ON items WHEN old.visible AND NOT new.visible BEGIN {drop} END

CREATE TRIGGER items_renamed AFTER UPDATE OF name, text, spellings ON items WHEN old.visible AND new.visible
BEGIN {drop} {add} END

CREATE TRIGGER items_deleted AFTER DELETE ON items WHEN old.visible BEGIN {drop} END
"""
ADD = """INSERT INTO words(rowid, text, name, spellings) VALUES (new.id, new.text, new.name, new.spellings);
INSERT INTO trigrams(rowid, text, name) VALUES (new.id, new.text, new.name);"""
DROP = """INSERT INTO words(words, rowid, text, name, spellings) VALUES ('delete', old.id, old.text, old.name, old.spellings);
INSERT INTO trigrams(trigrams, rowid, text, name) VALUES ('delete', old.id, old.text, old.name);"""


def upgrade() -> None:
    for statement in TAKE_AWAY.split("\n\n"):
        op.execute(statement)
    normalise_items(op.get_bind())
    for statement in BUILD.format(add=ADD, drop=DROP).split("\n\n"):
        op.execute(statement)
