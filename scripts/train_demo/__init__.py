"""Builds the small text-to-image model that sdforge ships, from public picture sets to one file."""
