"""Looking after a library: is it sound (`doctor`), a copy to keep (`backup`), what takes space for nothing (`Library.compact`)."""
