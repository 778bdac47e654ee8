"""A file's change time (ctime), which nobody can set back: an edit that keeps size and modification time is seen by it.

NULL in what is there: not known yet. Such a file is trusted as before, and the next scan that meets it fills the column in without
opening it; to read a whole archive again because mmsearch is newer would take hours.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("ALTER TABLE sources ADD COLUMN ctime_ns INTEGER")
