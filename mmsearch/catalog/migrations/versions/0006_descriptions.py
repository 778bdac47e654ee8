"""What metadata say of an item: kept apart from its own text, so that either can change; and the sidecar files that were read.

Of what is there no metadata were read: the next ingest does, see `ingest.sidecars`.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("ALTER TABLE items ADD COLUMN description TEXT NOT NULL DEFAULT ''")
    op.execute("ALTER TABLE sources ADD COLUMN sidecars TEXT")
