"""A checksum of each item's stored vectors, by which a flipped bit is noticed that leaves them finite and of unit length.

What is there is taken for sound: nothing tells how it was.

Revision ID: 0008
"""

from sqlite3 import Connection
from zlib import crc32

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("ALTER TABLE vectors ADD COLUMN checksum INTEGER")
    raw = op.get_bind().connection.dbapi_connection  # the driver's own: `_migrate` has detached it
    assert isinstance(raw, Connection)
    raw.create_function("mmsearch_crc32", 1, lambda data: crc32(data) if isinstance(data, bytes) else None)
    op.execute("UPDATE vectors SET checksum = mmsearch_crc32(data)")
