"""Files: trajectory stores, analyses, statistics."""
