"""Extensions (A1111's "scripts"): those that ship, and those of the user's folder.

Each file of `builtin` is one extension, written with the hooks of `core.extension` only. What they
compute is in `sampling.guidance_rules` and `models.edits`, which they import when they run: this
package is read at start and loads no torch.
"""
