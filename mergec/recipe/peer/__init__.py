"""Recipes of mergekit: what that tool reads in them, and how they are said here."""
