"""The catalog's tables. `migrations/` holds the frozen history that builds them (and what SQLAlchemy cannot describe: the full-text
tables and their triggers); a test compares the two."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text, text

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""`id`: random, tells catalogs apart; `generation`: counts the commits that altered visible items; `compacted`: the generation of
the last compaction; `active_model`: the id of the model that answers queries."""

models = Table(
    "models",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("dim", Integer, nullable=False),
    Column("name", Text),  # what the user called it ("mini", a folder): lets a query load the right model by itself
    Column("is_multi_vector", Integer, nullable=False, server_default=text("0")),  # 1: an item has a vector per token
)

roots = Table(
    "roots",
    metadata,
    Column("path", LargeBinary, primary_key=True),
    Column("scanned_at", Float, nullable=False),
)

sources = Table(
    "sources",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("path", LargeBinary, nullable=False),  # os.fsencode: any name a file system allows
    Column("name", Text, nullable=False),  # for people: undecodable bytes replaced
    Column("sha256", Text, nullable=False),  # "" where the file could not be read
    Column("size_bytes", Integer, nullable=False),
    Column("modified_ns", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("replaces", Integer),  # pending only: the source whose items this one supersedes when it is finished
    Column("error_type", Text),
    Column("error_reason", Text),
    Column("item_count", Integer, nullable=False, default=0),
    Column("model_key", Text),  # the model of the latest run that worked on it
    Column("changed_at", Float, nullable=False),  # seconds since the epoch: when `state` was last set
    Column("ctime_ns", Integer),  # NULL: not known; see `items.Source`
    Column("content_identifier", Text),  # Apple's name of a moment, see `twins`; NULL without one
    Column("reader_version", Integer),  # see `ingest.readers`; NULL: some item was read by an older mmsearch
    Column("sidecars", Text),  # the stamp of the XMP files that were read beside it; NULL: no metadata were read yet
    # A path has at most one source that holds its items, and at most one attempt beside it.
    Index("sources_holder", "path", unique=True, sqlite_where=text("state IN ('indexed', 'offline')")),
    Index("sources_attempt", "path", unique=True, sqlite_where=text("state IN ('pending', 'failed')")),
    Index("sources_content", "sha256"),
    Index("sources_state", "state"),
    Index("sources_moment", "content_identifier", sqlite_where=text("content_identifier IS NOT NULL")),
    sqlite_autoincrement=True,
)

embedded = Table(
    "embedded",
    metadata,
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), primary_key=True),
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    sqlite_with_rowid=False,
)
"""Which sources are completely embedded by which model."""

items = Table(
    "items",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("visible", Integer, nullable=False),  # 1: searchable. 0: not finished yet, offline, or a tombstone
    Column("deleted_at", Float),  # a tombstone since then
    Column("generation", Integer, nullable=False),  # when `visible` last changed
    Column("ordinal", Integer, nullable=False),
    Column("page_number", Integer),
    Column("start_s", Float),
    Column("end_s", Float),
    Column(
        "date_s", Float, nullable=False
    ),  # captured_at by the clock of its place, else the file's time; see `filters`
    Column("preview", Text),  # relative to the library's folder
    Column("meta", Text, nullable=False),  # JSON
    Column("name", Text, nullable=False),  # for the lexical search, see `indexing.lexical_name`
    Column("text", Text, nullable=False),
    Column("text_source", Text),  # see `items.TextSource`; NULL without text
    Column("has_print", Integer),  # 1: shows print that `text` lacks until it is read. 0: does not. NULL: nobody looked
    Column("spellings", Text, nullable=False, server_default=text("''")),  # for the lexical search, see `plain_text`
    Column("description", Text, nullable=False, server_default=text("''")),  # what metadata say; `text` holds it too
    Index("items_place", "source_id", "ordinal", unique=True, sqlite_where=text("deleted_at IS NULL")),
    Index("items_source", "source_id"),
    Index("items_visible", "kind", "visible", "id"),
    Index("items_generation", "generation"),
    sqlite_autoincrement=True,
)

recognised = Table(
    "recognised",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sha256", Text, nullable=False),  # of the file: a copy, and a file that moved, are not read again
    Column("ordinal", Integer, nullable=False),
    Column("engine", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("languages", Text, nullable=False),
    Column("preferred", Text, nullable=False),  # the engine that suits the picture, installed or not
    Column("text", Text, nullable=False),  # "" where no print was found
    Column("lines", LargeBinary, nullable=False),  # see `mmsearch.print_rows`
    Column("error_type", Text),  # it could not be read
    Column("error_reason", Text),
    Column("read_at", Float, nullable=False),  # seconds since the epoch
    Index("recognised_once", "sha256", "ordinal", "engine", "version", "languages", unique=True),
)
"""What was read in pages and pictures, by content."""

vectors = Table(
    "vectors",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),  # little-endian float16 [dim], or [tokens, dim]
    Column("checksum", Integer),  # of `data`, see `stored_vectors.checksum`; NULL: not known
    Index("vectors_item", "model_id", "item_id", unique=True),
    Index("vectors_by_item", "item_id"),
    Index("vectors_generation", "model_id", "generation"),
)

calibrations = Table(
    "calibrations",
    metadata,
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("version", Text, nullable=False),  # of the list of generic queries
    Column("data", LargeBinary, nullable=False),  # the generic queries, encoded: `to_blob`, `many_to_blob`
)
