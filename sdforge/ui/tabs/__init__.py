"""The tabs of the page: each module lays out one tab and returns its widgets by name."""
