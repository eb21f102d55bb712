"""Live mode: a picture that follows every keystroke, drawn between the jobs.

Words: a **session** is one client's connection; a **wish** is what the client wants to see now, a
newer one **supersedes** one that waits; a **frame** is a drawn wish; a client **shows** a frame and
says so; **keeping** a frame makes it an ordinary job. Frames are no jobs: they are not stored, not
queued, and jobs go before them (`engine/between.py`).

Above is the API's WebSocket; below is the engine. Reading order: `wish.py` (what is asked for),
`line.py` (who is next, and what is superseded), `choice.py` (what a checkpoint allows), `budget.py`
(how good a frame may be in the time there is), `pace.py` (frames a second), `session.py` (one
client), `live.py` (the facade). All but the last two are pure. Importing this package loads no
torch.
"""
