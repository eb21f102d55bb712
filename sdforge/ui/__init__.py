"""The page in the browser, built with Gradio.

It knows the engine and nothing above or beside it: what a job does is followed by the page's own
scripts over the REST API. Reading order: `app.py` (the page as an ASGI app), `quicksettings.py`,
`tabs/txt2img.py` (what is where), `fields.py` (widgets from the table of parameters), `form.py`
(form values ↔ requests), `bindings.py` (what happens on a click), `theme.py`, `assets/`.
"""
