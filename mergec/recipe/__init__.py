"""The recipe language: schema, loading with a place for every value, settings with one owner of precedence."""
