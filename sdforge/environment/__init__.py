"""The virtual environment beside launch.py: made, filled from a lock file, and found up to date.

Standard library only, because it runs before anything is installed. `launch.py` and the scripts
call it; nothing of the server does. `steps.py` says what is to be installed, `venv.py` installs
what is not there yet, `pip.py` runs pip and puts its failures into one sentence, `process.py` has
the environment variables that must be set before Python starts.
"""
