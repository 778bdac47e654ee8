"""What was read of a file, and by which version of the readers (`ingest.readers.READER_VERSION`); Apple's content identifier, which the
photo and the video of a Live Photo share (`mmsearch.catalog.twins`).

NULL in what is there: read by an older mmsearch. The next ingest of the folder reads dates and other facts again.

Revision ID: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS = """
ALTER TABLE sources ADD COLUMN content_identifier TEXT

ALTER TABLE sources ADD COLUMN reader_version INTEGER

CREATE INDEX sources_moment ON sources (content_identifier) WHERE content_identifier IS NOT NULL
"""


def upgrade() -> None:
    for statement in STATEMENTS.split("\n\n"):
        op.execute(statement)
