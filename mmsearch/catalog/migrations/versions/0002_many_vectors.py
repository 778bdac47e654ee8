"""Models whose items have a vector per token (late interaction): `vectors.data` then holds [tokens, dim].

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE models ADD COLUMN is_multi_vector INTEGER NOT NULL DEFAULT 0")
