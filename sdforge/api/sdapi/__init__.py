"""A1111's routes under /sdapi/v1, one file per group; `docs/api.md` lists where we differ."""
