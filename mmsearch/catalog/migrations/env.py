"""What Alembic runs: the history in `versions/`, on the connection that `mmsearch.catalog.dialect.sqlite` hands over."""

from alembic import context

from mmsearch.catalog.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
