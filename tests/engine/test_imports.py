import subprocess
import sys


def test_importing_the_engine_loads_neither_torch_nor_web_frameworks() -> None:
    code = (
        "import sys, sdforge.engine; "
        "print([name for name in ('torch', 'diffusers', 'gradio', 'fastapi') "
        "if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stdout.strip() == "[]"
