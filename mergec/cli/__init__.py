"""The command line: click commands of a few lines over public functions."""
